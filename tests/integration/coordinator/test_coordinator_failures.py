"""What happens when the coordinator's own ground gives way."""

import asyncio
import hashlib
import os
import re
import stat
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from cordee.coordinator.config import Config, Listen
from cordee.coordinator.errors import CoordinatorError
from cordee.coordinator.service.bundles import BundleUpload
from cordee.coordinator.service.folder import StateFolder
from cordee.coordinator.service.server import CoordinatorServer
from cordee.coordinator.service.store import StoreError
from cordee.rpc.v1 import worker_pb2 as pb


async def test_a_coordinator_that_cannot_write_says_no_world_and_stops(coordinator: Any) -> None:
    job = (await coordinator.submit())["id"]
    peers = [await (await coordinator.peer(job, index)).attach() for index in range(2)]
    await peers[0].arrive()
    # What a full disk or a revoked permission looks like to SQLite.
    coordinator.server.controller._store._database.pragma("query_only=ON")
    serving = asyncio.ensure_future(coordinator.server.serve_forever())
    await peers[1].arrive()
    for peer in peers:
        with pytest.raises(grpc.aio.AioRpcError) as broken:
            await peer.expect("world")
        assert broken.value.code() == grpc.StatusCode.UNAVAILABLE  # for a worker: look for the next coordinator
    async with asyncio.timeout(20):
        with pytest.raises(StoreError, match="cannot be used: attempt to write a readonly database"):
            await serving


@pytest.mark.parametrize("word", ["finished", "script_failed"])
async def test_a_last_word_that_cannot_be_stored_is_not_taken_for_heard(coordinator: Any, word: str) -> None:
    """Its stream ends as a broken one does, so that the worker says it again to the next coordinator."""
    job = (await coordinator.submit())["id"]
    peers = await coordinator.train(job, 2)
    coordinator.server.controller._store._database.pragma("query_only=ON")
    last = {
        "finished": pb.Finished(step=9, samples=90, weights_sha256="ab" * 32),
        "script_failed": pb.ScriptFailed(exception="ValueError: no"),
    }
    await peers[0].say(**{word: last[word]})
    await peers[0].call.done_writing()
    with pytest.raises(grpc.aio.AioRpcError) as broken:
        await peers[0].expect_end()
    assert broken.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_a_coordinator_whose_rest_server_fails_does_not_go_on_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object) -> Any:
        raise RuntimeError("no such library")

    monkeypatch.setattr(CoordinatorServer, "_load_rest", load)
    server = CoordinatorServer(tmp_path / "state")
    await server.start()
    async with asyncio.timeout(20):
        with pytest.raises(RuntimeError, match="no such library"):
            await server.serve_forever()
    with StateFolder(tmp_path / "state"):
        pass  # it has let go of everything


async def test_secrets_are_readable_by_their_owner_only(coordinator: Any) -> None:
    await coordinator.submit()
    for name in ("token", "coordinator.db"):
        assert stat.S_IMODE((coordinator.state / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(coordinator.state.stat().st_mode) == 0o700


async def test_a_token_file_that_others_can_read_is_closed_and_kept(tmp_path: Path, start: Any) -> None:
    (tmp_path / "token").write_text("a-token-that-somebody-chose\n")
    (tmp_path / "token").chmod(0o644)
    async with start(tmp_path) as coordinator:
        assert coordinator.server.token == "a-token-that-somebody-chose"
        assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600


@pytest.mark.parametrize("content", ["", "short\n"])
async def test_a_token_file_without_a_usable_token_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content)
    with pytest.raises(CoordinatorError, match="holds no usable token"):
        await CoordinatorServer(tmp_path).start()


async def test_a_folder_that_is_a_file_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(CoordinatorError, match=r"the state folder .*/state cannot be used"):
        await CoordinatorServer(tmp_path / "state").start()


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])  # RFC 5737 and RFC 6761: nobody's
async def test_an_address_that_is_not_this_machines_is_refused_in_one_sentence(tmp_path: Path, host: str) -> None:
    with pytest.raises(CoordinatorError, match=rf"cannot listen on {re.escape(host)}:0 for REST") as refused:
        await CoordinatorServer(tmp_path, host=host, config=Config(listen=Listen(insecure=True))).start()
    assert "--host" in refused.value.hint


async def test_a_bundle_is_on_disk_with_its_name_when_it_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        done.append(f"fsync {'folder' if stat.S_ISDIR(os.fstat(descriptor).st_mode) else 'file'}")
        fsync(descriptor)

    def renamed(draft: Path, target: Path) -> Path:
        done.append("rename")
        return replace(draft, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    with StateFolder(tmp_path) as folder, BundleUpload(folder, hashlib.sha256(b"source").hexdigest()) as upload:
        await upload.write(b"source")
        upload.keep()
    assert done == ["fsync file", "rename", "fsync folder"]


async def test_an_agent_that_cannot_be_started_is_tried_again_and_then_fails_the_job(
    tmp_path: Path, start: Any
) -> None:
    from dataclasses import replace

    from cordee.coordinator.core.model import Policy

    policy = replace(Policy(), restart_budget=2, restart_backoff_seconds=0.01)
    async with start(tmp_path / "state", agent_command=("/no/such/program",), policy=policy) as coordinator:
        job = (await coordinator.submit())["id"]
        view = await coordinator.view_when(job, lambda view: view["state"] == "failed")
        assert "/no/such/program" in view["reason"]


async def test_an_upload_that_a_kill_cut_off_is_not_kept_for_ever(tmp_path: Path, start: Any) -> None:
    async with start(tmp_path / "state") as coordinator:
        upload = BundleUpload(coordinator.server.folder, "0" * 64).__enter__()
        await upload.write(b"half of it")
        upload._file.close()  # and no more: the process is gone
    async with start(tmp_path / "state") as coordinator:
        await coordinator.submit()
        assert [path.suffixes for path in (tmp_path / "state" / "bundles").iterdir()] == [[".tar", ".gz"]]


async def test_what_is_over_costs_the_next_recovery_nothing(tmp_path: Path, start: Any) -> None:
    """Slots are handed out anew after every loss: only jobs that hold some, or want some, are asked."""
    async with start(tmp_path / "state") as coordinator:
        job = (await coordinator.submit())["id"]
        controller = coordinator.server.controller
        assert list(controller._turns.open) == [job]
        assert (await coordinator.http.post(f"/v1/jobs/{job}/cancel")).status_code == 200
        async with asyncio.timeout(20):
            await controller._turns.until_idle()
        assert (await coordinator.view(job))["state"] == "cancelled"
        assert not controller._turns.open
    async with start(tmp_path / "state") as coordinator:
        assert (await coordinator.view(job))["state"] == "cancelled"
        assert not coordinator.server.controller._turns.open
