"""The job file: what a user asks for, checked before anything is started.

A job file is YAML with a versioned schema (`apiVersion`, `kind`), like a Kubernetes object, so that one file serves the
laptop and the cluster. Every mistake is refused here, all of them at once, with one sentence each that names the
field by its path, says what was given and what would be right: a training job that dies of a typing error after an hour
in a queue is the most avoidable fault there is.

The schema is strict: no unknown fields (a mistyped option must not be ignored), no silent conversion (`threads: "2"` is
a mistake, and so is `args: [10]`, which YAML reads as a number and would print differently), no duplicate keys, no YAML
aliases (a few lines of nested ones would unfold into gigabytes). Plain words are read by YAML 1.2's rules: in YAML 1.1,
which PyYAML speaks, `workers: 1:3` is the number 63, sexagesimal, and `DEBUG: no` is false.

In a job file `script` and `source` are relative to the job file's folder. The client packs `source`, rewrites `script`
relative to it and drops `source`: what a coordinator accepts is a *bundled* document (`parse_job(..., bundled=True)`).
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from cordee.coordinator.spec_fields import PLACE_FORMS, SpecModel, check_env, check_path, check_place, check_text, wrong
from cordee.coordinator.spec_pod import PodSpec
from cordee.coordinator.spec_problems import Problem, SpecError, brief, describe, given
from cordee.coordinator.spec_source import ImageSource, SourceFrom
from cordee.coordinator.spec_yaml import MAX_FILE_BYTES, line_of, load_yaml, read_text, refuse

__all__ = [
    "API_VERSION",
    "DEVICES",
    "KIND",
    "LAUNCHERS",
    "MAX_FILE_BYTES",
    "Checkpoint",
    "FailurePolicy",
    "ImageSource",
    "JobDocument",
    "JobSpec",
    "Metadata",
    "Problem",
    "SourceFrom",
    "SpecError",
    "Workers",
    "job_schema",
    "load_job",
    "parse_job",
    "parse_workers",
]

API_VERSION: Final = "cordee.dev/v1alpha1"
KIND: Final = "TrainingJob"
DEVICES: Final = ("cpu", "cuda", "auto")
LAUNCHERS: Final = ("process", "kubernetes")
MAX_WORKERS: Final = 4096
MAX_NAME_LENGTH: Final = 40  # leaves room for the job id's suffix and a worker's `-w<k>` within a DNS label's 63

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_WORKERS = re.compile(r"\s*(\d{1,9})\s*(?::\s*(\d{1,9})\s*)?")
_WORKERS_FORMS = 'a number such as 3, a range such as "1:3", or {min: 1, max: 3}'

_EXAMPLES: Final[dict[tuple[str | int, ...], str]] = {
    ("apiVersion",): f"apiVersion: {API_VERSION}",
    ("kind",): f"kind: {KIND}",
    ("metadata",): "metadata: {name: my-job}",
    ("metadata", "name"): "name: my-job",
    ("spec",): "spec: {script: train.py}",
    ("spec", "script"): "script: train.py",
    ("spec", "workers", "min"): "min: 1",
    ("spec", "workers", "max"): "max: 3",
}


def _check_name(name: str) -> str:
    if len(name) <= MAX_NAME_LENGTH and _NAME.fullmatch(name):
        return name
    guess = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:MAX_NAME_LENGTH].strip("-")
    raise wrong(
        f"is {brief(name)}; a name is 1 to {MAX_NAME_LENGTH} lower-case letters, digits and '-', and begins and "
        f"ends with a letter or digit" + (f", for example {guess!r}" if guess else "")
    )


def _read_workers(value: object) -> object:
    """`3`, `"3"` and `"1:3"` are shorthands for the mapping."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        if isinstance(value, Mapping | Workers):
            return value
        raise wrong(f"is {given(value)}; give {_WORKERS_FORMS}")
    match = _WORKERS.fullmatch(str(value))
    if not match:
        raise wrong(f"is {brief(value)}; give {_WORKERS_FORMS}")
    low = int(match[1])
    return {"min": low, "max": low if match[2] is None else int(match[2])}


class Metadata(SpecModel):
    """What a job is called."""

    name: Annotated[str, AfterValidator(_check_name)] = Field(
        description=f"DNS label of at most {MAX_NAME_LENGTH} characters; the job's id is this and a random suffix",
        json_schema_extra={"pattern": f"^{_NAME.pattern}$", "maxLength": MAX_NAME_LENGTH},
    )


class Workers(SpecModel):
    """How many workers a job needs to make progress, and how many it can use."""

    min: int = Field(ge=1, le=MAX_WORKERS, description="below this many the job waits; it never trains with fewer")
    max: int = Field(ge=1, le=MAX_WORKERS, description="at most this many are started")

    @model_validator(mode="after")
    def _ordered(self) -> "Workers":
        if self.min > self.max:
            raise wrong(f"has min {self.min} above max {self.max}; min must be at most max")
        return self

    def __str__(self) -> str:
        return f"{self.min}" if self.min == self.max else f"{self.min}:{self.max}"


class Checkpoint(SpecModel):
    """When the state goes to storage; written beside training, so a short interval costs little."""

    interval_seconds: float = Field(default=30.0, ge=0, description="seconds between checkpoints; 0: not by time")
    interval_steps: int = Field(default=0, ge=0, description="steps between checkpoints; 0: not by steps")
    keep: int = Field(default=3, ge=1, description="how many checkpoints are kept; older ones are removed")
    keep_seconds: float = Field(
        default=0.0, ge=0, description="beyond those, what is younger than this is kept as well; 0: nothing more"
    )
    storage: Annotated[str, AfterValidator(check_place)] | None = Field(
        default=None,
        description=f"where they lie: {PLACE_FORMS}; each job's in a folder of its own (default: the job's folder)",
    )


class FailurePolicy(SpecModel):
    """What is done about faults. What is left out is the coordinator's own: its defaults are named below."""

    restarts: int | None = Field(
        default=None, ge=0, le=100_000, description="how often one worker is started again within the window (20)"
    )
    window_seconds: float | None = Field(
        default=None, gt=0, description="the window that restarts are counted in, in seconds (600)"
    )
    heartbeat_timeout_seconds: float | None = Field(
        default=None, ge=0.5, description="a worker that is silent for so long is lost (3)"
    )
    stuck_seconds: float | None = Field(
        default=None,
        ge=0,
        description="how long a worker that is alive may hold its peers up before it is replaced, or ten times a usual "
        "step, if that is longer (30); 0: for ever. Set, it holds for a worker that trains alone as well, times ten",
    )
    minimum_timeout_seconds: float = Field(
        default=0.0, ge=0, description="how long the job may be below workers.min before it fails; 0: for ever"
    )
    stragglers: Literal["flag", "replace", "off"] = Field(
        default="flag",
        description="a worker that takes more than twice as long as the others: say so, replace it too, or do nothing",
    )


class JobSpec(SpecModel):
    """What is run, and with what."""

    script: Annotated[str, AfterValidator(check_path)] = Field(
        description="the training script; in a job file relative to the file's folder, in a submitted job to the bundle"
    )
    args: Annotated[tuple[Annotated[str, AfterValidator(check_text)], ...], Field(strict=False)] = Field(
        default=(), description="the script's arguments"
    )
    source: Annotated[str, AfterValidator(check_path)] | None = Field(
        default=None,
        description="the folder that travels with the job (default: the script's folder); client-side only",
    )
    source_from: SourceFrom | None = Field(
        default=None, description="where the source comes from, if it does not travel with the job: on Kubernetes"
    )
    workers: Annotated[Workers, BeforeValidator(_read_workers, json_schema_input_type=Workers | int | str)] = Field(
        default=Workers(min=1, max=1), description=_WORKERS_FORMS
    )
    threads: int = Field(default=1, ge=1, le=1024, description="BLAS threads per worker; part of the numbers' identity")
    device: Literal["cpu", "cuda", "auto"] = Field(
        default="auto", description="where the arrays live; auto: CUDA where a device and CuPy are there"
    )
    launcher: Literal["process", "kubernetes"] | None = Field(
        default=None, description="what must start the workers (default: whatever the coordinator has)"
    )
    env: Annotated[dict[str, str], AfterValidator(check_env)] = Field(
        default_factory=dict, description="environment variables of the script"
    )
    checkpoint: Checkpoint = Field(default=Checkpoint(), description="when and where the state goes to storage")
    ledger: bool = Field(
        default=False, description="whether it is noted which samples every step consumed: cordee ledger proves by it"
    )
    failure_policy: FailurePolicy = Field(default=FailurePolicy(), description="what is done about faults")
    warm_start: Annotated[str, AfterValidator(check_place)] | None = Field(
        default=None,
        description="the weights to begin with: a checkpoint's folder, a folder of checkpoints or a .safetensors file; "
        + PLACE_FORMS,
    )
    chaos: bool = Field(default=False, description="faults may be injected into this job: cordee chaos")
    ttl_seconds_after_finished: int | None = Field(
        default=None,
        ge=0,
        le=2**31 - 1,
        description="on Kubernetes: so long after the job has ended its TrainingJob object is removed (default: never)",
    )
    pod: PodSpec = Field(default=PodSpec(), description="on Kubernetes: the workers' pods; elsewhere of no effect")


class JobDocument(SpecModel):
    """A whole job file."""

    api_version: Literal["cordee.dev/v1alpha1"] = Field(description="the schema's version")
    kind: Literal["TrainingJob"] = Field(description="what this file describes")
    metadata: Metadata
    spec: JobSpec

    def to_document(self) -> dict[str, Any]:
        """The plain JSON form, every field written out but the pod's; `parse_job` of it gives an equal document."""
        document = self.model_dump(mode="json", by_alias=True)
        spec = document["spec"]
        spec["pod"] = self.spec.pod.to_document()
        for name in ("source", "sourceFrom", "ttlSecondsAfterFinished"):
            if spec[name] is None:
                del spec[name]
        if "sourceFrom" in spec:
            spec["sourceFrom"] = {kind: value for kind, value in spec["sourceFrom"].items() if value is not None}
        return document

    def bundled(self, script: str) -> "JobDocument":
        """This job as it is submitted: its script relative to the bundle, and no source folder of this machine."""
        spec = self.spec.model_copy(update={"script": script, "source": None})
        return parse_job(self.model_copy(update={"spec": spec}).to_document(), bundled=True)


def parse_workers(text: str | int) -> Workers:
    """`3` and `"1:3"` as a range of worker counts."""
    try:
        return Workers.model_validate(_read_workers(text))
    except PydanticCustomError as error:
        raise SpecError((Problem("workers", error.message()),)) from None
    except ValidationError as error:
        raise SpecError(tuple(describe(detail, Workers, ("workers",)) for detail in error.errors())) from None


def parse_job(document: object, *, bundled: bool = False, where: str = "") -> JobDocument:
    """A job from plain data (parsed YAML or JSON).

    `bundled` adds what a coordinator insists on: the script lies inside the bundle, and no folder of the client's
    machine is named.
    """
    return _validate(document, bundled, where, lambda _path: None)


def load_job(source: str | Path) -> JobDocument:
    """A job from a YAML file (`Path`) or from YAML text (`str`)."""
    where = ""
    if isinstance(source, Path):
        where = str(source)
        text = read_text(source)
    else:
        text = source
        if len(text.encode("utf-8", "surrogatepass")) > MAX_FILE_BYTES:
            refuse(where, f"is larger than {MAX_FILE_BYTES >> 20} MiB; a job file is a page of YAML")
    node, document = load_yaml(text, where)
    return _validate(document, False, where, lambda path: line_of(node, path))


def job_schema() -> dict[str, Any]:
    """The job file's JSON Schema, for editors and for other people's tools."""
    schema = JobDocument.model_json_schema(by_alias=True, mode="validation")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"https://{API_VERSION}/{KIND}", **schema}


def _validate(document: object, bundled: bool, where: str, line_of: Any) -> JobDocument:
    if not isinstance(document, Mapping):
        got = "is empty" if document is None else f"is {given(document)}"
        raise SpecError((Problem("the job file", f"{got}; begin it with 'apiVersion: {API_VERSION}'"),), where)
    try:
        job = JobDocument.model_validate(document, by_alias=True, by_name=False)
    except ValidationError as error:
        problems = []
        for detail in error.errors():
            problem = describe(detail, JobDocument, examples=_EXAMPLES)
            problems.append(Problem(problem.field, problem.message, line_of(detail["loc"])))
        raise SpecError(tuple(sorted(problems, key=lambda problem: problem.line or 0)), where) from None
    found = tuple(Problem(f, m, line_of(tuple(f.split(".")))) for f, m in _unbundled(job)) if bundled else ()
    if found:
        raise SpecError(found, where)
    return job


def _unbundled(job: JobDocument) -> Iterator[tuple[str, str]]:
    script = PurePosixPath(job.spec.script)
    if script.is_absolute() or ".." in script.parts or "\\" in job.spec.script:
        yield "spec.script", f"is {job.spec.script!r}; it must be a path inside the bundle, such as 'train.py'"
    for field, place in (
        ("spec.checkpoint.storage", job.spec.checkpoint.storage),
        ("spec.warmStart", job.spec.warm_start),
    ):
        if place is not None and "://" not in place and not PurePosixPath(place).is_absolute():
            yield field, f"is {place!r}; it must be a URL or an absolute path on the workers' machines"
    if job.spec.source_from is not None and job.spec.source_from.config_map is not None:
        what = "is for jobs made by kubectl; leave it out: cordee submit sends the script's folder, REST takes"
        yield "spec.sourceFrom.configMap", f"{what} a bundle's sha256"
    if job.spec.source is not None:
        yield "spec.source", "names a folder of the client's machine; leave it out and send the bundle's sha256"
