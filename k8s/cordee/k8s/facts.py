"""Between the coordinator's jobs and TrainingJob objects: a job as facts, as an object, and an object as a job."""

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final

from cordee.coordinator.bundle import Bundle, pack_files
from cordee.coordinator.errors import InvalidError
from cordee.coordinator.service.job import Job
from cordee.coordinator.spec import API_VERSION, KIND, JobDocument, SpecError, parse_job
from cordee.k8s.names import labels
from cordee.k8s.reconcile import COORDINATOR_LABEL, FINALIZER
from cordee.k8s.status import MAX_MEMBERS, JobFacts, MemberFacts

__all__ = ["document_of", "facts_of", "key_of", "object_of", "pack_config_map", "source_of", "uid_of"]

_KEY: Final = "trainingjob/"
"""Submissions whose key begins so come from objects; REST clients cannot use it."""


def key_of(uid: str) -> str:
    """What the submission of an object is called: taken in once, however often it is tried."""
    return f"{_KEY}{uid}"


def uid_of(job: Job) -> str:
    """The uid of the object that a job was made from; empty: it was submitted over REST."""
    return job.key.removeprefix(_KEY) if job.key.startswith(_KEY) else ""


def facts_of(job: Job, nodes: Mapping[str, str]) -> JobFacts:
    """A job as it is now. `nodes` says on which node a worker's pod is."""
    record, progress, workers = job.machine.record, job.progress, job.machine.workers()
    result = record.result
    members = () if job.ended else workers  # at its end nobody is a member any more
    return JobFacts(
        id=job.id,
        name=job.name,
        uid=uid_of(job),
        state=record.state.value,
        reason=record.reason,
        minimum=record.minimum,
        maximum=record.maximum,
        wanted=record.wanted,
        running=sum(member.rank is not None for member in members),
        generation=record.generation,
        recoveries=record.recoveries,
        step=job.step(workers),
        steps_total=progress.steps_total,
        loss=progress.loss,
        samples=progress.samples if result is None else result.samples,
        checkpoint_step=progress.checkpoint_step,
        started_at=record.started_at,
        finished_at=record.finished_at,
        weights_sha256="" if result is None else result.weights_sha256,
        members=tuple(
            MemberFacts(member.worker, member.state, member.rank, member.restarts, nodes.get(member.worker, ""))
            for member in members[:MAX_MEMBERS]
        ),
        gone=job.machine.done,
    )


def object_of(job: Job, *, namespace: str, coordinator: str) -> dict[str, Any]:
    """The object of a job that was submitted over REST. It is named as the job's id."""
    spec = job.document.to_document()["spec"]
    if job.bundle is not None:
        spec["sourceFrom"] = {"bundle": job.bundle}
    record = job.machine.record
    spec["workers"] = {"min": record.minimum, "max": record.maximum}
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": job.id,
            "namespace": namespace,
            "labels": {
                **labels(coordinator, job.id),
                "app.kubernetes.io/component": "job",
                COORDINATOR_LABEL: coordinator,
            },
            "annotations": {"cordee.dev/name": job.name, "cordee.dev/submitted-by": "cordee submit"},
            "finalizers": [FINALIZER],
        },
        "spec": _without_nulls(spec),
    }


def document_of(thing: Mapping[str, Any], bundle: str | None) -> JobDocument:
    """The job that an object asks for. Raises InvalidError, with a sentence for every mistake."""
    spec = dict(thing["spec"])
    if bundle is not None:
        spec["sourceFrom"] = {"bundle": bundle}
    document = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": thing["metadata"]["name"]},
        "spec": spec,
    }
    try:
        return parse_job(document, bundled=True)
    except SpecError as error:
        raise InvalidError("; ".join(str(problem) for problem in error.problems)) from None


def source_of(thing: Mapping[str, Any]) -> str:
    """The ConfigMap that an object's source lies in; empty: it lies elsewhere."""
    return str(((thing.get("spec") or {}).get("sourceFrom") or {}).get("configMap") or "")


def pack_config_map(config_map: Mapping[str, Any]) -> Bundle:
    """A ConfigMap's entries as files of a bundle: the same entries give the same bundle."""
    name = config_map["metadata"]["name"]
    files = {key: text.encode() for key, text in (config_map.get("data") or {}).items()}
    try:
        files |= {key: base64.b64decode(data) for key, data in (config_map.get("binaryData") or {}).items()}
    except binascii.Error as error:
        raise InvalidError(f"the ConfigMap {name} holds binary data that cannot be read: {error}") from None
    if not files:
        raise InvalidError(f"the ConfigMap {name} is empty", hint="its keys are the files of the job's source")
    return pack_files(files)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    return value
