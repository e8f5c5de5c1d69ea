"""What of a pod is worth a word: what changes, and not what a cluster repeats."""

from typing import Any

from cordee.coordinator.core.model import ExitCause
from cordee.k8s.diagnosis import diagnose
from cordee.k8s.pod_state import Pod, end_of, notice_of


def pulling(reason: str, message: str) -> dict[str, Any]:
    waits = {"name": "worker", "image": "i:1", "state": {"waiting": {"reason": reason, "message": message}}}
    labels = {"cordee.dev/job": "j", "cordee.dev/worker": "j-w0"}
    status = {"phase": "Pending", "containerStatuses": [waits]}
    return {"metadata": {"name": "j-w0", "uid": "1", "labels": labels}, "spec": {"containers": []}, "status": status}


def test_why_a_pod_ended_goes_with_the_news_of_its_end() -> None:
    ended = {"name": "worker", "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}
    for status, cause, taken in (
        ({"phase": "Failed", "containerStatuses": [ended]}, ExitCause.OUT_OF_MEMORY, False),
        ({"phase": "Failed", "reason": "Evicted"}, ExitCause.PRESSURE, True),
    ):
        pod = Pod(pulling("", "") | {"status": status})
        told, _ = end_of(pod, diagnose(pod.thing))
        assert (told.cause, told.taken) == (cause, taken)


def test_a_reason_that_comes_a_moment_later_is_told_and_by_turns_is_not() -> None:
    told = Pod(pulling("ImagePullBackOff", 'Back-off pulling image "i:1"'))
    sayings = [
        ("ImagePullBackOff", 'Back-off pulling image "i:1"', 0.0),
        ("ErrImagePull", "not found", 1.0),
        ("ImagePullBackOff", 'Back-off pulling image "i:1"', 2.0),
        ("ImagePullBackOff", 'Back-off pulling image "i:1": ErrImagePull: not found', 3.0),
        ("ErrImagePull", "unauthorized", 4.0),
        ("ErrImagePull", "unauthorized", 70.0),
    ]
    said = [notice_of(told, diagnose(pulling(reason, message)), now) for reason, message, now in sayings]
    assert [None if notice is None else notice.message for notice in said] == [
        "j-w0's pod cannot get its image i:1",
        "j-w0's pod cannot get its image i:1: not found",
        None,
        None,
        None,
        "j-w0's pod cannot get its image i:1: unauthorized",
    ]
