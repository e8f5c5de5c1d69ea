"""The small parts around the controller: events that are told, names that wait, owners that are waited for, sources."""

from __future__ import annotations

import asyncio
import base64
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cordee.coordinator.bundle import pack
from cordee.coordinator.errors import InvalidError
from cordee.k8s.facts import document_of, pack_config_map
from cordee.k8s.happenings import Post, Repeat, Teller
from cordee.k8s.owners import Owner, Owners
from cordee.k8s.workqueue import WorkQueue


def teller() -> Teller:
    return Teller(name="job", namespace="here", uid="12345678-1234-1234", instance="cordee")


def test_an_event_has_the_same_name_whenever_it_is_told() -> None:
    first, again = teller().tell(17, "world", "generation 1", 5.25), teller().tell(17, "world", "generation 1", 5.25)
    assert isinstance(first, Post)
    assert first == again
    assert first.body["metadata"]["name"] == "job.123456781234.11"
    assert (first.body["type"], first.body["reason"]) == ("Normal", "World")
    assert first.body["eventTime"] == "1970-01-01T00:00:05.250000Z"
    assert first.body["regarding"]["uid"] == "12345678-1234-1234"


def test_losses_are_warnings_and_stacks_are_not_told() -> None:
    told = teller().tell(1, "agent_exited", "w0 ended", 0.0)
    assert isinstance(told, Post)
    assert (told.body["type"], told.body["reason"]) == ("Warning", "AgentExited")
    lost = teller().tell(1, "node_lost", "the node a is lost", 0.0)
    assert isinstance(lost, Post)
    assert (lost.body["type"], lost.body["reason"]) == ("Warning", "NodeLost")
    assert teller().tell(1, "stack", "a page", 0.0) is None


@pytest.mark.parametrize("kind", ["caught_up", "ignored"])
def test_what_is_no_trouble_is_no_warning(kind: str) -> None:
    told = teller().tell(1, kind, "w0 keeps up again", 0.0)
    assert isinstance(told, Post)
    assert told.body["type"] == "Normal"


def test_a_pod_that_was_taken_is_told_of_once() -> None:
    mine = teller()
    assert isinstance(mine.tell(1, "deleted", "w0's pod was deleted by somebody", 0.0), Post)
    assert mine.tell(2, "taken", "w0's pod was deleted by somebody", 1.0) is None
    assert mine.tell(3, "taken", "w0's pod was deleted", 1.0) is None
    assert isinstance(mine.tell(4, "taken", "w1's pod was deleted", 1.0), Post)
    assert isinstance(mine.tell(5, "taken", "w0's pod was deleted", 1000.0), Post), "another time"


def test_what_repeats_itself_becomes_a_series() -> None:
    mine = teller()
    first = mine.tell(1, "lost", "w0", 0.0)
    second, third = mine.tell(2, "lost", "w0", 1.0), mine.tell(3, "lost", "w0", 2.0)
    assert isinstance(first, Post)
    assert isinstance(second, Repeat)
    assert isinstance(third, Repeat)
    assert second.name == third.name == first.body["metadata"]["name"]
    assert (second.patch["series"]["count"], third.patch["series"]["count"]) == (2, 3)
    assert isinstance(mine.tell(4, "lost", "w1", 2.0), Post)
    assert isinstance(mine.tell(5, "lost", "w0", 2000.0), Post)


def test_what_is_said_in_the_same_breath_is_one_event_and_nothing_is_told_twice() -> None:
    history = [(5, "submitted", "a.py", 1.0), (6, "ignored", "no storage", 1.0), (7, "ignored", "no pods", 1.1)]
    later = [(9, "world", "generation 1", 2.0), (11, "ignored", "alone", 2.0)]
    mine = teller()
    told = [each for each in mine.tell_all([*history, *later], since=0.0) if isinstance(each, Post)]
    assert [each.body["reason"] for each in told] == ["Submitted", "World", "Ignored"]
    assert told[0].body["note"] == "a.py; no storage; no pods"
    assert told[0].body["metadata"]["name"] == "job.123456781234.7"
    assert mine.last == 11
    old = teller()
    assert len(list(old.tell_all([*history, *later], since=1.5))) == 2
    assert old.last == 11


@given(st.lists(st.tuples(st.floats(0.0, 3600.0), st.text(max_size=3)), max_size=300))
def test_no_job_floods_the_cluster(happened: list[tuple[float, str]]) -> None:
    mine = teller()
    times = sorted(time for time, _ in happened)
    told = [mine.tell(n, "world", word, at) for n, (at, (_, word)) in enumerate(zip(times, happened, strict=True))]
    assert sum(each is not None for each in told) <= 30 + 0.1 * 3600
    assert mine.last == max(len(happened) - 1, 0)


def test_what_was_left_out_is_said_and_a_note_is_never_too_long() -> None:
    mine = teller()
    told = [mine.tell(n, "world", f"{n} " + "x" * 2000, 0.0) for n in range(40)]
    assert sum(each is not None for each in told) == 30
    after = mine.tell(40, "world", "y" * 2000, 100.0)
    assert isinstance(after, Post)
    assert after.body["note"].endswith("(10 events before this one are in the job's history only)")
    assert all(len(each.body["note"]) <= 1024 for each in [*told, after] if isinstance(each, Post))


async def test_a_name_is_looked_at_by_one_worker_at_a_time_and_again_if_asked_meanwhile() -> None:
    queue = WorkQueue()
    queue.add("a")
    queue.add("a")
    assert await queue.get() == "a"
    assert "a" not in queue, "what changes from now on may not be seen"
    queue.add("a")
    queue.add("b")
    assert await queue.get() == "b"
    waiting = asyncio.ensure_future(queue.get())
    await asyncio.sleep(0)
    assert not waiting.done(), "a is being looked at"
    queue.done("a")
    assert await waiting == "a"
    queue.done("a")
    queue.done("b")
    assert "a" not in queue


async def test_a_name_comes_when_it_is_due_first() -> None:
    queue = WorkQueue()
    queue.add("late", 3600.0)
    queue.add("soon", 3600.0)
    queue.add("soon", 0.01)
    queue.add("soon", 3600.0)
    assert "late" in queue
    assert await queue.get() == "soon"
    queue.add("late")
    assert await queue.get() == "late"
    queue.close()


async def test_an_owner_is_waited_for_only_where_there_are_objects() -> None:
    owners = Owners()
    assert await owners.owner("job", 3600.0) is None
    owners.expected = True
    waiting = asyncio.ensure_future(owners.owner("job", 3600.0))
    none = asyncio.ensure_future(owners.owner("bare", 3600.0))
    await asyncio.sleep(0)
    owners.note("job", Owner("job", "uid"))
    owners.note("bare", None)
    assert await waiting == Owner("job", "uid")
    assert await none is None
    assert await owners.owner("other", 0.01) is None
    owners.forget("job")
    assert await owners.owner("job", 0.01) is None
    assert Owner("job", "uid").reference()["uid"] == "uid"


def config_map(**parts: Any) -> dict[str, Any]:
    return {"metadata": {"name": "code"}, **parts}


def test_a_config_map_is_the_same_bundle_as_a_folder_with_its_files(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("print(1)")
    (tmp_path / "data.bin").write_bytes(b"\xff\x00")
    data = {"data.bin": base64.b64encode(b"\xff\x00").decode()}
    packed = pack_config_map(config_map(data={"train.py": "print(1)"}, binaryData=data))
    assert packed == pack(tmp_path)
    with tarfile.open(fileobj=io.BytesIO(packed.data)) as archive:
        assert archive.getnames() == ["data.bin", "train.py"]


def test_a_config_map_without_files_is_refused() -> None:
    with pytest.raises(InvalidError, match="the ConfigMap code is empty"):
        pack_config_map(config_map())


def test_what_slipped_through_the_schema_is_refused_in_sentences() -> None:
    thing = {"metadata": {"name": "a" * 41}, "spec": {"script": "../x.py", "sourceFrom": {"configMap": "code"}}}
    with pytest.raises(InvalidError, match=r"metadata\.name is 'a+.*; a name is 1 to 40"):
        document_of(thing, None)
    thing["metadata"]["name"] = "a"
    with pytest.raises(InvalidError, match=r"spec\.script is '\.\./x\.py'; it must be a path inside the bundle"):
        document_of(thing, "0" * 64)
