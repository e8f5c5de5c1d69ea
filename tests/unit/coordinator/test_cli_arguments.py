"""Whose option it is, and what the words of a command line become: the job document, or one sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from cordee.coordinator.cli import app
from cordee.coordinator.cli.errors import ExitCode, UsageError, exit_code_of_state
from cordee.coordinator.cli.prepare import Wish, job_name, prepare
from cordee.coordinator.cli.script_command import split_arguments
from cordee.coordinator.errors import CoordinatorError, NotFoundError
from cordee.coordinator.spec import SpecError, parse_job

OPTIONS = {"--workers": True, "-w": True, "--dry-run": False, "--output": True, "-o": True, "--env": True}


@pytest.mark.parametrize(
    ("line", "options", "script"),
    [
        ("train.py", "", "train.py"),
        ("--workers 1:3 train.py", "--workers 1:3", "train.py"),
        ("train.py --workers 1:3", "--workers 1:3", "train.py"),
        ("train.py --workers=1:3 --lr 0.1", "--workers=1:3", "train.py --lr 0.1"),
        ("train.py --lr 0.1 -o json data.csv", "-o json", "train.py --lr 0.1 data.csv"),
        ("train.py -vo out", "", "train.py -vo out"),
        ("train.py -ojson", "", "train.py -ojson"),
        ("train.py -o=json", "", "train.py -o=json"),
        ("-ojson train.py", "-ojson", "train.py"),
        ("train.py -- --workers 5", "", "train.py --workers 5"),
        ("train.py --dry-run -- a -- b", "--dry-run", "train.py a -- b"),
        ("-- train.py --workers 5", "", "train.py --workers 5"),
        ("--workers 2 -- train.py a", "--workers 2", "train.py a"),
        ("--wrkers 2 train.py", "--wrkers", "2 train.py"),
        ("--dry-run train.py x --dry-run", "--dry-run --dry-run", "train.py x"),
        ("train.py --env -- x", "--env --", "train.py x"),
        ("", "", ""),
    ],
)
def test_an_option_is_cordee_s_by_its_name_and_place(line: str, options: str, script: str) -> None:
    split = split_arguments(line.split(), OPTIONS)
    assert (list(split.options), list(split.script)) == (options.split(), script.split())


WORDS = st.sampled_from(
    ["--workers", "-w", "--dry-run", "-o", "--lr", "-x", "--", "1", "a.py", "--workers=2", "--x=y", "-"]
)


@given(st.lists(WORDS, max_size=8))
def test_no_word_is_lost_or_invented(line: list[str]) -> None:
    split = split_arguments(line, OPTIONS)
    sorted_words = sorted([*split.options, *split.script])
    without_mark = list(line)
    if len(sorted_words) < len(line) and not split.incomplete:
        without_mark.remove("--")
    if not split.incomplete:
        assert sorted_words == sorted(without_mark)


@given(st.lists(WORDS, max_size=5), st.lists(WORDS, max_size=5))
def test_after_the_mark_everything_is_the_script_s(before: list[str], after: list[str]) -> None:
    words = [word for word in before if word != "--" and not OPTIONS.get(word)]
    split = split_arguments(["train.py", *words, "--", *after], OPTIONS)
    assert list(split.script)[len(split.script) - len(after) :] == after


def test_a_slip_is_pointed_out_and_a_script_s_own_option_is_not() -> None:
    assert split_arguments(["a.py", "--worker", "3"], OPTIONS).notes == (
        "--worker is no option of cordee's and goes to the script; did you mean --workers?",
    )
    assert split_arguments(["a.py", "--epochs", "3", "--", "--worker"], OPTIONS).notes == ()


def test_an_option_without_its_value_is_incomplete_wherever_it_stands() -> None:
    assert split_arguments(["a.py", "--workers"], OPTIONS).incomplete
    assert split_arguments(["--workers"], OPTIONS).incomplete


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "project" / "Train_MNIST.py"
    path.parent.mkdir()
    path.write_text("print('hello')\n")
    return path


def test_flags_and_a_job_file_give_the_same_job(script: Path, tmp_path: Path) -> None:
    job_file = tmp_path / "job.yaml"
    job_file.write_text(
        "apiVersion: cordee.dev/v1alpha1\nkind: TrainingJob\nmetadata: {name: mnist}\n"
        "spec:\n  script: project/Train_MNIST.py\n  args: [--lr, '0.1']\n  workers: 1:3\n  threads: 2\n  device: cpu\n"
        "  env: {A: b=c, B: ''}\n  checkpoint: {intervalSeconds: 5}\n"
    )
    wish = Wish(
        script=script,
        args=("--lr", "0.1"),
        workers="1:3",
        threads=2,
        device="cpu",
        name="mnist",
        env=("A=b=c", "B="),
        checkpoint_every=5.0,
    )
    from_flags, from_file = prepare(wish), prepare(Wish(script=job_file))
    assert from_flags == from_file
    assert from_flags.document.spec.script == "Train_MNIST.py"
    assert from_flags.bundle.names == ("Train_MNIST.py",)
    assert parse_job(from_flags.document.to_document(), bundled=True) == from_flags.document


def test_flags_go_over_the_job_file(script: Path, tmp_path: Path) -> None:
    job_file = tmp_path / "job.yml"
    job_file.write_text(
        "apiVersion: cordee.dev/v1alpha1\nkind: TrainingJob\nmetadata: {name: mnist}\n"
        "spec: {script: project/Train_MNIST.py, args: [a], workers: 2, env: {A: '1', B: '2'}, checkpoint: {keep: 7}}\n"
    )
    job = prepare(Wish(job_file, ("b",), "1:4", env=("A=3",), checkpoint_every=9.0, source=tmp_path)).document
    assert job.spec.script == "project/Train_MNIST.py"
    assert (job.spec.args, str(job.spec.workers), job.spec.env) == (("b",), "1:4", {"A": "3", "B": "2"})
    assert (job.spec.checkpoint.interval_seconds, job.spec.checkpoint.keep) == (9.0, 7)


def test_places_are_sent_as_all_workers_find_them(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_file = tmp_path / "job.yml"
    job_file.write_text(
        "apiVersion: cordee.dev/v1alpha1\nkind: TrainingJob\nmetadata: {name: mnist}\n"
        "spec: {script: project/Train_MNIST.py, checkpoint: {storage: kept}, warmStart: w.safetensors}\n"
    )
    (tmp_path / "w.safetensors").touch()
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    asked: list[str] = []

    def weights_of_job(ref: str) -> str:
        asked.append(ref)
        if ref == "nobody":
            raise NotFoundError("there is no job 'nobody'")
        return f"/jobs/{ref}/checkpoints"

    spec = prepare(Wish(job_file), weights_of_job=weights_of_job).document.spec
    assert (spec.checkpoint.storage, spec.warm_start) == (str(tmp_path / "kept"), str(tmp_path / "w.safetensors"))
    for wish, storage, warm in (
        (
            Wish(script, checkpoint_storage="mine", warm_start="digits-abc234"),
            str(here / "mine"),
            "/jobs/digits-abc234/checkpoints",
        ),
        (Wish(job_file, checkpoint_storage="s3://b/p", warm_start="gs://b/x"), "s3://b/p", "gs://b/x"),
        (Wish(script, warm_start="/nowhere/on/this/machine"), None, "/nowhere/on/this/machine"),
    ):
        spec = prepare(wish, weights_of_job=weights_of_job).document.spec
        assert (spec.checkpoint.storage, spec.warm_start) == (storage, warm)
    assert asked == ["digits-abc234"]
    with pytest.raises(
        UsageError, match="--warm-start nobody is neither a path that exists nor a job: there is no job"
    ):
        prepare(Wish(script, warm_start="nobody"), weights_of_job=weights_of_job)
    with pytest.raises(SpecError, match="--checkpoint-storage is 'ftp://x'; give a path, s3://bucket/prefix"):
        prepare(Wish(script, checkpoint_storage="ftp://x"), weights_of_job=weights_of_job)


def test_the_source_is_the_script_s_folder_unless_named(script: Path, tmp_path: Path) -> None:
    assert prepare(Wish(script)).document.spec.script == "Train_MNIST.py"
    assert prepare(Wish(script, source=tmp_path)).document.spec.script == "project/Train_MNIST.py"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("digits.py", "digits"),
        ("Train_MNIST.py", "train-mnist"),
        ("_.py", "job"),
        ("é.py", "job"),
        ("a" * 60, "a" * 40),
    ],
)
def test_a_job_is_called_like_its_script(path: str, name: str) -> None:
    assert job_name(Path(path)) == name


@given(st.text(min_size=1, max_size=60).filter(lambda text: "/" not in text and "\0" not in text))
def test_every_script_s_name_gives_a_valid_job_name(text: str) -> None:
    name = job_name(Path(text))
    head = {"apiVersion": "cordee.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": name}}
    assert parse_job({**head, "spec": {"script": "a.py"}}).metadata.name == name


def test_mistakes_name_the_flag_that_was_typed(script: Path) -> None:
    for wish, sentence in [
        (Wish(script, workers="3:1"), "--workers has min 3 above max 1; min must be at most max"),
        (Wish(script, workers="some"), "--workers is 'some'; give a number such as 3"),
        (Wish(script, workers="0"), "--workers is 0; it must be at least 1"),
        (Wish(script, threads=0), "--threads is 0; it must be at least 1"),
        (Wish(script, device="gpu"), "--device is 'gpu'; it must be 'cpu', 'cuda' or 'auto'"),
        (Wish(script, launcher="ssh"), "--launcher is 'ssh'; it must be 'process' or 'kubernetes'"),
        (Wish(script, name="Big Job"), "--name is 'Big Job'; a name is"),
        (Wish(script, env=("A-B=1",)), "--env has a variable named 'A-B'"),
        (Wish(script, checkpoint_every=-1.0), "--checkpoint-every is -1.0; it must be at least 0"),
    ]:
        with pytest.raises(SpecError) as caught:
            prepare(wish)
        assert len(caught.value.problems) == 1
        assert str(caught.value).startswith(sentence)


def test_a_script_that_cannot_travel_is_refused_before_anything_starts(script: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    hidden = tmp_path / ".hidden" / "train.py"
    hidden.parent.mkdir()
    hidden.write_text("")
    for wish, sentence in [
        (Wish(tmp_path / "none.py"), "there is no script "),
        (Wish(tmp_path), "is a folder, not a script"),
        (Wish(script, source=tmp_path / "none"), "none does not exist"),
        (Wish(script, source=script), "is not a folder"),
        (Wish(script, source=tmp_path / "elsewhere"), "is not inside the source folder"),
        (Wish(hidden, source=tmp_path), "is left out of the bundle"),
        (Wish(script, env=("A",)), "--env is 'A'; give KEY=VALUE"),
    ]:
        with pytest.raises(CoordinatorError) as caught:
            prepare(wish)
        assert sentence in caught.value.message
        assert caught.value.hint or isinstance(caught.value, UsageError)


def test_a_link_out_of_the_source_is_noted(script: Path, tmp_path: Path) -> None:
    (script.parent / "data").symlink_to("/")
    assert prepare(Wish(script)).notes == ("left out of the bundle: data (a link that leads out of the folder)",)


def test_a_script_that_is_a_link_is_said_to_be_one_and_how_to_send_it(tmp_path: Path) -> None:
    """A folder as a ConfigMap's volume is: every file a link into a hidden folder, which is replaced at once."""
    volume, data = tmp_path / "scripts", tmp_path / "scripts" / "..2026_01_01"
    data.mkdir(parents=True)
    (data / "train.py").write_text("")
    (volume / "..data").symlink_to(data.name)
    (volume / "train.py").symlink_to("..data/train.py")
    with pytest.raises(UsageError) as caught:
        prepare(Wish(volume / "train.py"))
    message = (
        f"the script {volume}/train.py does not travel with the job: train.py is a link into a folder that is left"
    )
    assert caught.value.message.startswith(message)
    assert caught.value.hint.startswith("copy the folder with what its links lead to, cp -rL ")
    subprocess.run(["cp", "-rL", volume, tmp_path / "copy"], check=True)
    assert prepare(Wish(tmp_path / "copy" / "train.py")).bundle.names == ("train.py",)
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "code").symlink_to(volume)
    with pytest.raises(UsageError, match="code is a link that leads out of the folder"):
        prepare(Wish(tmp_path / "job" / "code" / "train.py", source=tmp_path / "job"))


def invoke(*words: str) -> Result:
    return CliRunner().invoke(app, list(words), prog_name="cordee")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["run", "none.py"], "error: there is no script none.py"),
        (["submit", "none.yaml"], "error: none.yaml: there is no such file"),
        (["run", "{script}", "--workers", "3:1"], "error: --workers has min 3 above max 1; min must be at most max"),
        (["submit", "{script}", "--threads", "0"], "error: --threads is 0; it must be at least 1"),
        (["scale", "job", "3:1"], "error: workers has min 3 above max 1; min must be at most max"),
        (["run", "{script}", "--threads", "many"], "--threads"),
        (["run", "{script}", "--workers"], "--workers"),
        (["run", "--wrkers", "3", "{script}"], "--wrkers"),
        (["run"], "SCRIPT"),
        (["rum"], "rum"),
        (["jobs", "-o", "xml"], "xml"),
        (["logs", "job", "--rank", "-1"], "--rank"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(words: list[str], sentence: str, script: Path) -> None:
    result = invoke(*(word.replace("{script}", str(script)) for word in words))
    assert result.exit_code == ExitCode.USAGE
    assert result.stdout == ""
    assert sentence in result.stderr
    assert "Traceback" not in result.output


def test_a_source_too_large_is_a_sentence_that_names_the_largest_files(script: Path) -> None:
    with (script.parent / "data.bin").open("wb") as file:
        file.truncate(65 << 20)
    result = invoke("run", str(script))
    assert result.exit_code == ExitCode.USAGE
    assert "more than the 64.0 MiB that travel with a job; the largest: data.bin (65.0 MiB)" in result.stderr
    assert ".cordeeignore" in result.stderr


def test_debug_shows_where(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORDEE_DEBUG", "1")
    assert isinstance(invoke("run", str(script), "--workers", "3:1").exception, SpecError)


def test_the_exit_codes_are_the_documented_ones() -> None:
    codes = {code.name: int(code) for code in ExitCode}
    assert codes == {
        "DONE": 0,
        "ERROR": 1,
        "USAGE": 2,
        "FAILED": 100,
        "UNFINISHED": 101,
        "NOT_FOUND": 102,
        "CANCELLED": 103,
    }
    assert [exit_code_of_state(state) for state in ("succeeded", "failed", "cancelled")] == [0, 100, 103]
    assert {exit_code_of_state(state) for state in ("pending", "starting", "running", "recovering", "?")} == {101}


def test_every_command_and_option_has_help() -> None:
    for command in ("run", "submit", "jobs", "status", "logs", "scale", "cancel", "wait", "coordinator", "completion"):
        result = invoke(command, "--help")
        assert result.exit_code == 0
        assert result.stdout.startswith(f"Usage: cordee {command} ")
        assert "\x1b" not in result.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_printed(shell: str) -> None:
    result = invoke("completion", shell)
    assert result.exit_code == 0
    assert "_CORDEE_COMPLETE" in result.stdout


def test_the_schema_is_printed_as_one_document() -> None:
    import json

    assert json.loads(invoke("schema").stdout)["properties"]["kind"]["const"] == "TrainingJob"
    assert json.loads(invoke("schema", "job").stdout) == json.loads(invoke("schema").stdout)
    assert json.loads(invoke("schema", "config").stdout)["properties"]["kind"]["const"] == "CoordinatorConfig"


def test_what_a_command_does_not_need_is_not_loaded() -> None:
    heavy = ["fastapi", "grpc", "sqlalchemy", "rich", "httpx2", "yaml", "numpy", "cordee.coordinator.spec"]
    code = (
        "import sys; from typer.testing import CliRunner; from cordee.coordinator.cli import app; "
        "results = [CliRunner().invoke(app, words) for words in (['--version'], ['--help'], ['run', '--help'])]; "
        f"print([result.exit_code for result in results], [name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[0, 0, 0] []\n"
