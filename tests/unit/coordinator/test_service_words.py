"""What a worker's words become, before they are taken for events: nothing a peer sends makes a list without an end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from cordee.coordinator.service import workers
from cordee.rpc.v1 import worker_pb2 as pb


def test_a_worker_can_suspect_no_more_peers_than_a_job_can_have() -> None:
    fed: list[Any] = []
    controller: Any = SimpleNamespace(feed=lambda _job, event: fed.append(event))
    session: Any = SimpleNamespace(job="j", worker="j-w0", incarnation="i")
    message = pb.Arrived(generation=1, suspects=[f"j-w{k}" for k in range(100_000)])
    workers._on_arrived(controller, session, message)
    [event] = fed
    assert len(event.suspects) == 4096
