"""The job file: what is valid means what it says, and every mistake gets a sentence with the field and the way out."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from cordee.coordinator.spec import (
    MAX_FILE_BYTES,
    JobDocument,
    Problem,
    SpecError,
    Workers,
    job_schema,
    load_job,
    parse_job,
    parse_workers,
)

HEAD = "apiVersion: cordee.dev/v1alpha1\nkind: TrainingJob\nmetadata: {name: digits}\n"
FULL: dict[str, Any] = {
    "apiVersion": "cordee.dev/v1alpha1",
    "kind": "TrainingJob",
    "metadata": {"name": "digits"},
    "spec": {
        "script": "train.py",
        "args": ["--epochs", "3"],
        "source": "src",
        "workers": {"min": 1, "max": 3},
        "threads": 2,
        "device": "cpu",
        "launcher": "process",
        "env": {"MODE": "fast"},
        "checkpoint": {
            "intervalSeconds": 12.5,
            "intervalSteps": 100,
            "keep": 2,
            "keepSeconds": 3600.0,
            "storage": "s3://bucket/checkpoints",
        },
        "warmStart": "/data/pretrained.safetensors",
        "ledger": True,
        "chaos": True,
        "ttlSecondsAfterFinished": 3600,
        "pod": {
            "image": "registry.example/team/cordee:1.0",
            "imagePullPolicy": "Always",
            "imagePullSecrets": ["registry"],
            "resources": {
                "gpu": 1,
                "cpu": "500m",
                "memory": "8Gi",
                "sharedMemory": "2Gi",
                "ephemeralStorage": "10G",
            },
            "secretEnv": {"PASSWORD": {"name": "database", "key": "password"}},
            "envFrom": [{"secretRef": {"name": "more"}}],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
            "volumeMounts": [{"name": "data", "mountPath": "/data", "readOnly": True}],
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
            "nodeSelector": {"zone": "a"},
            "affinity": {"podAntiAffinity": {}},
            "topologySpreadConstraints": [{"maxSkew": 1}],
            "priorityClassName": "batch",
            "serviceAccountName": "reader",
            "runtimeClassName": "gvisor",
            "schedulerName": "gang",
            "labels": {"team": "vision"},
            "annotations": {"example.com/cost": "42"},
            "terminationGracePeriodSeconds": 60,
            "template": {"spec": {"hostname": "w", "numbers": [1, 2.5, None, True]}},
        },
        "failurePolicy": {
            "restarts": 5,
            "windowSeconds": 60.0,
            "heartbeatTimeoutSeconds": 2.0,
            "stuckSeconds": 12.0,
            "minimumTimeoutSeconds": 600.0,
            "stragglers": "replace",
        },
    },
}


def problems_of(text: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load_job(text)
    return [str(problem) for problem in caught.value.problems]


def test_a_whole_document_round_trips() -> None:
    job = parse_job(FULL)
    assert job.to_document() == FULL
    assert parse_job(job.to_document()) == job
    assert load_job(yaml.safe_dump(FULL)) == job
    assert load_job(json.dumps(FULL)) == job  # JSON is YAML


def test_what_is_left_out_has_the_documented_default() -> None:
    spec = load_job(HEAD + "spec: {script: train.py}").spec
    assert (spec.args, spec.source, str(spec.workers), spec.threads) == ((), None, "1", 1)
    assert (spec.device, spec.launcher, spec.env) == ("auto", None, {})
    assert (spec.checkpoint.interval_seconds, spec.checkpoint.interval_steps, spec.checkpoint.keep) == (30.0, 0, 3)
    assert set(spec.failure_policy.model_dump(exclude={"minimum_timeout_seconds", "stragglers"}).values()) == {None}
    assert (spec.failure_policy.minimum_timeout_seconds, spec.failure_policy.stragglers) == (0.0, "flag")


def test_a_jobs_failure_policy_goes_before_the_coordinators() -> None:
    from cordee.coordinator.core.model import Policy, StragglerPolicy
    from cordee.coordinator.service.policy import job_policy

    base = Policy(restart_budget=7)
    plain = job_policy(base, load_job(HEAD + "spec: {script: train.py}").spec.failure_policy)
    assert plain == replace(base, tick_seconds=base.heartbeat_timeout_seconds / 4)  # ticks tell sleep from silence
    policy = job_policy(base, parse_job(FULL).spec.failure_policy)
    assert (policy.restart_budget, policy.restart_window_seconds, policy.stuck_seconds) == (5, 60.0, 12.0)
    assert (policy.heartbeat_timeout_seconds, policy.heartbeat_seconds) == (2.0, 0.5)
    assert (policy.minimum_timeout_seconds, policy.stragglers) == (600.0, StragglerPolicy.REPLACE)
    assert policy.stuck_alone  # it was asked for
    quick = parse_job({**FULL, "spec": {"script": "a.py", "failurePolicy": {"heartbeatTimeoutSeconds": 0.5}}})
    assert job_policy(base, quick.spec.failure_policy).heartbeat_seconds == 0.125


@pytest.mark.parametrize(
    ("field", "value"),
    [("restarts", -1), ("windowSeconds", 0), ("heartbeatTimeoutSeconds", 0.1), ("stragglers", "shoot"), ("retries", 3)],
)
def test_an_impossible_failure_policy_is_refused_by_its_path(field: str, value: object) -> None:
    with pytest.raises(SpecError, match=f"failurePolicy.{field}"):
        parse_job({**FULL, "spec": {"script": "a.py", "failurePolicy": {field: value}}})


def test_a_document_cannot_be_changed() -> None:
    job = parse_job(FULL)
    with pytest.raises(ValueError, match="frozen"):
        job.spec.threads = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("written", "low", "high"),
    [("3", 3, 3), ("'3'", 3, 3), ("1:3", 1, 3), ("'1:3'", 1, 3), ("{min: 1, max: 3}", 1, 3), ("' 2 : 4 '", 2, 4)],
)
def test_workers_have_three_spellings(written: str, low: int, high: int) -> None:
    # Unquoted 1:3 is the number 63 in YAML 1.1, in which base-60 numbers are written with colons.
    assert load_job(HEAD + f"spec: {{script: a.py, workers: {written}}}").spec.workers == Workers(min=low, max=high)


def test_plain_words_are_read_by_the_rules_of_yaml_1_2() -> None:
    spec = load_job(HEAD + "spec: {script: a.py, env: {A: no, B: 2024-01-01, C: 010}, args: [yes, off, 1:30]}").spec
    assert spec.env == {"A": "no", "B": "2024-01-01", "C": "010"}
    assert spec.args == ("yes", "off", "1:30")


def test_a_job_may_say_which_kernels_compute() -> None:
    spec = load_job(HEAD + "spec: {script: a.py, env: {CORDEE_KERNELS: numpy, CORDEE_KERNEL_CACHE: /cache}}").spec
    assert spec.env == {"CORDEE_KERNELS": "numpy", "CORDEE_KERNEL_CACHE": "/cache"}


MISTAKES = [
    ("spec: {script: a.py, threds: 2}", "spec.threds is not a field of a job file; did you mean spec.threads?"),
    ("spec: {script: a.py}\nworkers: 3", "workers is not a field of a job file; did you mean spec.workers?"),
    (
        "spec: {script: a.py, checkpoint: {interval_seconds: 3}}",
        "spec.checkpoint.interval_seconds is not a field of a job file; did you mean spec.checkpoint.intervalSeconds?",
    ),
    ("spec: {script: a.py, zzz: 2}", "spec.zzz is not a field of a job file; known here: script, args"),
    ("spec: {}", "spec.script is missing; write 'script: train.py'"),
    ("spec: {script: ''}", "spec.script is empty"),
    ("spec: {script: 3}", 'spec.script is 3, a number; it must be text: write it in quotes, "3"'),
    ("spec: {script: a.py, threads: '2'}", "spec.threads is '2', text; it must be a whole number"),
    ("spec: {script: a.py, threads: 1.5}", "spec.threads is 1.5, a number; it must be a whole number"),
    ("spec: {script: a.py, threads: true}", "spec.threads is true; it must be a whole number"),
    ("spec: {script: a.py, threads: 0}", "spec.threads is 0; it must be at least 1"),
    ("spec: {script: a.py, threads: }", "spec.threads is empty; it must be a whole number"),
    ("spec: {script: a.py, device: gpu}", "spec.device is 'gpu'; it must be 'cpu', 'cuda' or 'auto'"),
    ("spec: {script: a.py, launcher: slurm}", "spec.launcher is 'slurm'; it must be 'process' or 'kubernetes'"),
    (
        "spec: {script: a.py, pod: {resources: {cpu: 0.5}}}",
        'spec.pod.resources.cpu is 0.5, a number; write it in quotes, "0.5"',
    ),
    ("spec: {script: a.py, pod: {resources: {memory: 1x}}}", "spec.pod.resources.memory is '1x', which is no quantity"),
    ("spec: {script: a.py, pod: {resources: {memory: 100m}}}", "spec.pod.resources.memory is '100m', a part of a byte"),
    (
        "spec: {script: a.py, pod: {resources: {memory: '0'}}}",
        "spec.pod.resources.memory is '0'; it must be more than 0",
    ),
    ("spec: {script: a.py, pod: {resources: {gpu: -1}}}", "spec.pod.resources.gpu is -1; it must be at least 0"),
    ("spec: {script: a.py, pod: {resources: {memori: 1}}}", "did you mean spec.pod.resources.memory?"),
    (
        "spec: {script: a.py, pod: {labels: {cordee.dev/job: x}}}",
        "spec.pod.labels sets cordee.dev/job, but keys of cordee.dev are Cordee's own",
    ),
    ("spec: {script: a.py, pod: {labels: {a b: x}}}", "spec.pod.labels has the key 'a b'"),
    ("spec: {script: a.py, pod: {secretEnv: {CORDEE_X: {name: a, key: b}}}}", "spec.pod.secretEnv sets CORDEE_X"),
    (
        "spec: {script: a.py, pod: {secretEnv: {A: {name: B, key: b}}}}",
        "spec.pod.secretEnv.A.name is 'B'; a name in Kubernetes",
    ),
    ("spec: {script: a.py, pod: {volumes: [{a: b}]}}", "spec.pod.volumes has an item without a name"),
    ("spec: {script: a.py, pod: {image: 'a b'}}", "spec.pod.image is 'a b'; give an image"),
    ("spec: {script: a.py, workers: 3:1}", "spec.workers has min 3 above max 1; min must be at most max"),
    ("spec: {script: a.py, workers: 0}", "spec.workers.min is 0; it must be at least 1"),
    ("spec: {script: a.py, workers: {min: 1}}", "spec.workers.max is missing"),
    ("spec: {script: a.py, workers: {min: 1, max: 2, mean: 2}}", "spec.workers.mean is not a field"),
    ("spec: {script: a.py, workers: many}", "spec.workers is 'many'; give a number such as 3, a range such as"),
    ("spec: {script: a.py, workers: [1, 3]}", "spec.workers is a list; give a number such as 3"),
    ("spec: {script: a.py, workers: 99999}", "spec.workers.min is 99999; it must be at most 4096"),
    ("spec: {script: a.py, args: --epochs 3}", "spec.args is '--epochs 3', text; it must be a list"),
    (
        "spec: {script: a.py, args: [--epochs, 3]}",
        'spec.args[1] is 3, a number; it must be text: write it in quotes, "3"',
    ),
    ('spec: {script: a.py, args: ["a\\0b"]}', "spec.args[0] holds a NUL character"),
    ("spec: {script: a.py, env: {A: 1}}", 'spec.env.A is 1, a number; it must be text: write it in quotes, "1"'),
    ("spec: {script: a.py, env: {1: a}}", "spec.env has the name 1, a number; write it in quotes"),
    ("spec: {script: a.py, env: {'A-B': a}}", "spec.env has a variable named 'A-B'"),
    ("spec: {script: a.py, env: {CORDEE_JOB: a}}", "spec.env sets CORDEE_JOB, but names that begin with CORDEE_"),
    ("spec: {script: a.py, checkpoint: {intervalSeconds: .inf}}", "spec.checkpoint.intervalSeconds is inf"),
    ("spec: {script: a.py, checkpoint: {intervalSeconds: -1}}", "spec.checkpoint.intervalSeconds is -1"),
    (
        "spec: {script: a.py, checkpoint: {storage: 'ftp://a/b'}}",
        "spec.checkpoint.storage is 'ftp://a/b'; give a path, s3://bucket/prefix",
    ),
    (
        "spec: {script: a.py, warmStart: 's3://key:secret@bucket/x'}",
        "spec.warmStart is a URL with more than a place in it; give a path, s3://bucket/prefix, gs://bucket/prefix or ",
    ),
    ("spec: {script: a.py, checkpoint: {keep: 0}}", "spec.checkpoint.keep is 0; it must be at least 1"),
    ("spec: 3", "spec is 3, a number; it must be a mapping of fields"),
    ("spec: {script: a.py, script: b.py}", "'script' is given twice (first in line 4); keep one of them"),
    ("spec: &all {script: a.py}\nmore: *all", "YAML aliases (*name) are not used in job files"),
    ("spec: {script: a.py", "is not valid YAML: while parsing a flow mapping, expected ',' or '}'"),
    ("spec: {script: !!python/object:os.system a.py}", "is not valid YAML: could not determine a constructor"),
    ("---\nspec: {script: b.py}", "holds several YAML documents; a job file is one"),
    ("? [a]\n: b", "a field's name must be plain text"),
]


@pytest.mark.parametrize(("text", "sentence"), MISTAKES, ids=[text for text, _ in MISTAKES])
def test_a_mistake_is_named_with_its_field_and_what_would_be_right(text: str, sentence: str) -> None:
    problems = problems_of(HEAD + text)
    assert any(sentence in problem for problem in problems), problems
    assert all("\n" not in problem and "pydantic" not in problem for problem in problems)
    assert all(problem.startswith("line ") for problem in problems), problems


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("Digits_1", "digits-1"), ("-a", "a"), ("a-", "a"), ("é", None), ("a" * 41, "a" * 40), ("a.b", "a-b"), ("", None)],
)
def test_a_name_is_a_dns_label(name: str, suggestion: str | None) -> None:
    document = copy.deepcopy(FULL)
    document["metadata"]["name"] = name
    with pytest.raises(SpecError, match=r"metadata\.name is .*lower-case letters, digits") as caught:
        parse_job(document)
    assert ("for example" in str(caught.value)) is (suggestion is not None)
    if suggestion is not None:
        document["metadata"]["name"] = suggestion
        assert parse_job(document).metadata.name == suggestion


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file() -> None:
    problems = problems_of("kind: Job\nspec:\n  script: 1\n  threads: 0\n  colour: red\n")
    fields = [
        problem.split(" ")[0 if problem.startswith("api") else 2] for problem in problems if "missing" not in problem
    ]
    assert fields == ["kind", "spec.script", "spec.threads", "spec.colour"]
    assert any("apiVersion is missing" in problem for problem in problems)


@pytest.mark.parametrize("text", ["", "# only a comment\n", "- a\n- b\n", "just words", "3"])
def test_what_is_no_mapping_is_no_job_file(text: str) -> None:
    (problem,) = problems_of(text)
    assert "the job file is " in problem
    assert "begin it with 'apiVersion: cordee.dev/v1alpha1'" in problem


@pytest.mark.parametrize("text", ["[" * 3000, "{a: " * 3000, "\x00", "a: \x07", "a: " + "1" * 5000, "a: !!binary x"])
def test_hostile_text_is_refused_with_a_sentence(text: str) -> None:
    assert problems_of(text)


def test_a_file_is_read_and_named_in_its_errors(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(HEAD + "spec:\n  script: a.py\n  thread: 2\n")
    with pytest.raises(SpecError) as caught:
        load_job(path)
    assert str(caught.value).startswith(f"{path}: line 6: spec.thread is not a field")
    path.write_text(HEAD + "spec: {script: a.py}")
    assert load_job(path).spec.script == "a.py"


def test_a_file_that_cannot_be_read_is_said_to_be_so(tmp_path: Path) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("kind: é".encode("latin-1"))
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    for path, words in [
        (tmp_path / "none.yaml", "there is no such file"),
        (tmp_path, "is a folder"),
        (latin, "is not UTF-8 text"),
        (large, "is larger than 1 MiB"),
    ]:
        with pytest.raises(SpecError, match=words):
            load_job(path)


@pytest.mark.parametrize("script", ["/etc/train.py", "../train.py", "a/../../b.py", "a\\b.py"])
def test_a_submitted_script_lies_in_its_bundle(script: str) -> None:
    document = copy.deepcopy(FULL)
    document["spec"]["script"] = script
    del document["spec"]["source"]
    parse_job(document)  # a job file may say so: the client resolves it
    with pytest.raises(SpecError, match="must be a path inside the bundle"):
        parse_job(document, bundled=True)


def test_a_submitted_job_names_no_folder_of_the_client() -> None:
    with pytest.raises(SpecError, match=r"spec\.source names a folder of the client's machine"):
        parse_job(FULL, bundled=True)
    sent = parse_job(FULL).bundled("pkg/train.py")
    assert (sent.spec.script, sent.spec.source) == ("pkg/train.py", None)
    assert parse_job(sent.to_document(), bundled=True) == sent


@pytest.mark.parametrize("text", ["", "x", "1:", ":3", "1:2:3", "-1", "1.5", "1;3", "9999999999999"])
def test_a_range_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match=r"workers is .*; give a number such as 3"):
        parse_workers(text)


@given(st.integers(1, 4096), st.integers(1, 4096))
def test_a_range_is_accepted_exactly_when_it_is_ordered(low: int, high: int) -> None:
    if low <= high:
        assert parse_workers(f"{low}:{high}") == Workers(min=low, max=high)
        assert parse_workers(str(parse_workers(f"{low}:{high}"))) == Workers(min=low, max=high)
    else:
        with pytest.raises(SpecError, match=f"has min {low} above max {high}"):
            parse_workers(f"{low}:{high}")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
PATHS = [(key,) for key in FULL] + [("metadata", "name")] + [("spec", key) for key in FULL["spec"]]


@given(st.sampled_from(PATHS), JSON)
def test_whatever_stands_in_a_field_is_accepted_or_refused_with_sentences(path: tuple[str, ...], value: Any) -> None:
    document = copy.deepcopy(FULL)
    holder = document
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    problems = refused(document)
    if problems is None:
        job = parse_job(document)
        assert parse_job(job.to_document()) == job
    else:
        assert problems
        assert all(path[0] in problem.field and 0 < len(str(problem)) < 600 for problem in problems)


def refused(document: object) -> tuple[Problem, ...] | None:
    try:
        parse_job(document)
    except SpecError as error:
        return error.problems
    return None


@given(st.text(max_size=40))
def test_no_text_makes_the_reader_fail_otherwise(text: str) -> None:
    with pytest.raises(SpecError):
        load_job(text)


def test_the_schema_names_every_field_and_refuses_unknown_ones() -> None:
    schema = job_schema()
    json.dumps(schema)
    definitions = schema["$defs"]
    assert set(definitions["JobSpec"]["properties"]) == set(FULL["spec"]) | {"sourceFrom"}
    assert set(definitions["Checkpoint"]["properties"]) == set(FULL["spec"]["checkpoint"])
    assert schema["required"] == ["apiVersion", "kind", "metadata", "spec"]
    ours = [part for name, part in definitions.items() if name != "JsonValue"]  # Kubernetes' own objects are open
    assert all(part["additionalProperties"] is False for part in [schema, *ours])
    assert {kind.get("type") for kind in definitions["JobSpec"]["properties"]["workers"]["anyOf"]} >= {
        "integer",
        "string",
    }
    assert all("description" in field for field in definitions["JobSpec"]["properties"].values())


def test_the_reference_page_names_every_field() -> None:
    page = (Path(__file__).parents[3] / "docs" / "reference" / "job-file.md").read_text(encoding="utf-8")
    assert [path for path in leaves(JobDocument) if f"| `{path}` |" not in page] == []


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, info in model.model_fields.items():
        path = f"{prefix}{info.alias or name}"
        kinds = get_args(info.annotation) or (info.annotation,)
        sections = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        for section in sections:
            yield from leaves(section, f"{path}.")
        if not sections:
            yield path
