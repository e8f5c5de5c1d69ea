"""What a GPU finds wrong with indices: told when it gets there, without anybody waiting."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cordee.trainer import devices
from cordee.trainer.kernels.cuda import doubts

sys.path.insert(0, str(Path(__file__).parent))
from cuda_support import cupy_of_tests


class Slow:
    """A stream whose device gets there when it is told to."""

    def __init__(self, capturing: bool = False) -> None:
        self.capturing, self.done = capturing, False

    def is_capturing(self) -> bool:
        return self.capturing

    def record(self) -> Slow:
        return self

    def synchronize(self) -> None:
        self.done = True


@pytest.fixture
def stream(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    if request.config.getoption("--device") == "cuda":
        pytest.skip("a device does not get there when it is told to")
    monkeypatch.setattr(doubts, "_OPEN", doubts._Open())
    monkeypatch.delenv("CUDA_LAUNCH_BLOCKING", raising=False)
    with cupy_of_tests("cpu") as cupy:
        stream = Slow()
        monkeypatch.setattr(cupy.cuda, "get_current_stream", lambda: stream)
        stream.cupy = cupy  # type: ignore[attr-defined]
        yield stream


def ask(stream: Any, wrong: bool, name: str = "wrong") -> None:
    doubts.expect(stream.cupy.asarray(wrong), lambda now: ValueError(f"{name}, {'now' if now else 'later'}"))


def test_it_is_told_by_the_next_question_once_the_device_is_there(stream: Any) -> None:
    ask(stream, True)
    ask(stream, False)
    doubts.look()  # not there yet
    stream.done = True
    with pytest.raises(ValueError, match="wrong, later") as told:
        ask(stream, True, "another")
    assert "CUDA_LAUNCH_BLOCKING" in told.value.__notes__[0]
    doubts.look(wait=True)  # and what came of it is no news


def test_who_waits_for_the_device_hears_of_it(stream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "is_available", lambda: True)
    monkeypatch.setattr(devices, "default_module", lambda: stream.cupy)
    ask(stream, False)
    ask(stream, True)
    with pytest.raises(ValueError, match="later"):
        devices.synchronize()
    assert not doubts._OPEN.doubts


def test_cudas_switch_for_finding_mistakes_has_it_told_at_once(stream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "1")
    ask(stream, False)
    with pytest.raises(ValueError, match="wrong, now"):
        ask(stream, True)


def test_questions_do_not_pile_up(stream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doubts, "_MOST", 3)
    for _ in range(3):
        ask(stream, False)
    assert len(doubts._OPEN.doubts) == 3
    ask(stream, False)
    assert not doubts._OPEN.doubts


def test_nothing_is_asked_while_a_stream_is_recorded(stream: Any) -> None:
    stream.capturing = True
    ask(stream, True)
    assert not doubts._OPEN.doubts
