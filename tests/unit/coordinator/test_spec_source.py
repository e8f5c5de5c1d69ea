"""Where a job's source comes from, when it does not travel with the submission."""

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from cordee.coordinator.bundle import pack
from cordee.coordinator.cli.errors import UsageError
from cordee.coordinator.cli.prepare import Wish, prepare
from cordee.coordinator.errors import InvalidError
from cordee.coordinator.service.admission import check_source, has_source
from cordee.coordinator.service.folder import StateFolder
from cordee.coordinator.spec import JobDocument, SpecError, load_job, parse_job

SHA = "0" * 64


def document(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "cordee.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": "job"},
        "spec": {"script": "train.py", **spec},
    }


def job(**spec: Any) -> JobDocument:
    return parse_job(document(**spec), bundled=True)


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    (tmp_path / "state" / "bundles").mkdir(parents=True)
    return StateFolder(tmp_path / "state")


def put(folder: StateFolder, sha256: str, *names: str) -> str:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    folder.bundle(sha256).write_bytes(buffer.getvalue())
    return sha256


@pytest.mark.parametrize("source", [{}, {"bundle": SHA, "image": {"path": "/work"}}])
def test_there_is_exactly_one_source(source: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=r"spec\.sourceFrom must have exactly one of configMap, image and bundle"):
        job(sourceFrom=source)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ({"image": {"path": "work"}}, "give an absolute path in the workers' image"),
        ({"image": {"path": "/a/../b"}}, "give an absolute path in the workers' image"),
        ({"bundle": "abc"}, "a bundle is named by its SHA-256"),
        ({"configMap": "No_Name"}, "cannot be the name of a ConfigMap"),
        ({"configMap": "code"}, "is for jobs made by kubectl"),
    ],
)
def test_a_source_that_cannot_be_is_refused_in_a_sentence(source: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence):
        job(sourceFrom=source)


def test_a_document_with_a_source_round_trips_without_what_is_not_there() -> None:
    wanted = job(sourceFrom={"image": {"path": "/workspace"}}, ttlSecondsAfterFinished=60)
    written = wanted.to_document()
    assert written["spec"]["sourceFrom"] == {"image": {"path": "/workspace"}}
    assert written["spec"]["ttlSecondsAfterFinished"] == 60
    assert parse_job(written, bundled=True) == wanted
    assert {"source", "sourceFrom", "ttlSecondsAfterFinished"}.isdisjoint(job().to_document()["spec"])


def test_a_source_in_the_image_needs_no_bundle(folder: StateFolder) -> None:
    there = job(sourceFrom={"image": {"path": "/workspace"}})
    assert check_source(folder, there, None) is None
    assert has_source(folder, there, None)
    with pytest.raises(InvalidError, match=r"has a bundle, and spec\.sourceFrom\.image as well"):
        check_source(folder, there, SHA)


def test_a_bundle_may_be_named_in_the_document(folder: StateFolder) -> None:
    there = job(sourceFrom={"bundle": put(folder, SHA, "train.py")})
    assert check_source(folder, there, None) == SHA
    assert check_source(folder, there, SHA) == SHA
    assert has_source(folder, there, SHA)
    with pytest.raises(InvalidError, match="is another one"):
        check_source(folder, there, "1" * 64)


def test_without_any_source_a_job_is_refused(folder: StateFolder) -> None:
    assert not has_source(folder, job(), None)
    with pytest.raises(InvalidError, match="bundle is missing"):
        check_source(folder, job(), None)
    with pytest.raises(InvalidError, match="there is no bundle"):
        check_source(folder, job(), SHA)


def test_a_job_file_whose_source_lies_elsewhere_is_submitted_without_a_bundle(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(
        "apiVersion: cordee.dev/v1alpha1\nkind: TrainingJob\nmetadata: {name: job}\n"
        "spec: {script: deep/train.py, sourceFrom: {image: {path: /workspace}}}\n"
    )
    prepared = prepare(Wish(script=file), elsewhere=True)
    assert (prepared.bundle.data, prepared.bundle.sha256, prepared.document.spec.script) == (b"", "", "deep/train.py")
    with pytest.raises(UsageError, match="the source lies elsewhere"):
        prepare(Wish(script=file))
    with pytest.raises(UsageError, match="the source lies elsewhere"):
        prepare(Wish(script=file, source=tmp_path), elsewhere=True)


@pytest.mark.parametrize(
    "file", sorted((Path(__file__).parents[3] / "examples").glob("*.yaml")), ids=lambda file: file.name
)
def test_the_examples_job_files_are_good_and_name_their_schema(file: Path) -> None:
    assert load_job(file).metadata.name == "digits"
    assert (file.parent / load_job(file).spec.script).exists()
    first = file.read_text(encoding="utf-8").splitlines()[0]
    assert (file.parent / first.removeprefix("# yaml-language-server: $schema=")).resolve().exists()


def test_what_is_packed_is_found_by_what_is_checked(folder: StateFolder, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "train.py").write_text("print(1)")
    bundle = pack(tmp_path / "source")
    folder.bundle(bundle.sha256).write_bytes(bundle.data)
    assert check_source(folder, job(), bundle.sha256) == bundle.sha256
    with pytest.raises(InvalidError, match="the bundle holds no such file"):
        check_source(folder, job(script="other.py"), bundle.sha256)
