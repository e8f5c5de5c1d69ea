"""The coordinator's machine and the workers' sessions, as they are, under every fault at every moment of a job.

`stage.py` plays them. Here: one fault, at every move of an undisturbed history, each kind, several victims; several
faults at random moments of histories in a random order; and mutants of the real code: the laws can fail.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.model import stage
from tests.model.stage_faults import FAULTS

from cordee.coordinator.core import meeting
from cordee.coordinator.core.roster import Slot
from cordee.worker import session_state as ss

NAMES = sorted(FAULTS)


def inflict(name: str, k: int) -> Callable[[Any], None]:
    def fault(on: Any) -> None:
        on.log.append(f"{on.now:.2f} *** {name} ({k})")
        FAULTS[name](on, k)

    return fault


def play_with(name: str, minimum: int, maximum: int, *, step: int = 1) -> int:
    """One fault of this kind at every `step`-th move; how many histories that made."""
    moves = stage.Stage(minimum, maximum).play({})
    histories = 0
    for at in range(0, moves, step):
        for k in range(3):
            on = stage.Stage(minimum, maximum, saves=k == 1)
            try:
                on.play({at: inflict(name, k)})
            except AssertionError as error:
                raise AssertionError(f"{name} ({k}) before move {at}: {error}\n{on.where()}") from error
            histories += 1
    return histories


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_job_of_two_survives_one_fault_at_any_moment(name: str) -> None:
    assert play_with(name, 1, 2) > 100


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("workers", [(2, 2), (2, 3), (1, 4)], ids=str)
def test_a_job_survives_one_fault_at_any_moment(name: str, workers: tuple[int, int]) -> None:
    assert play_with(name, *workers) > 100


@pytest.mark.long
@pytest.mark.parametrize("second", NAMES)
@pytest.mark.parametrize("first", NAMES)
def test_a_job_of_two_survives_two_faults_at_any_moments(first: str, second: str) -> None:
    moves = stage.Stage(1, 2).play({})
    for at in range(0, moves, 2):
        for later in range(at + 1, moves + 30, 3):
            on = stage.Stage(1, 2, saves=bool(at % 4))
            try:
                on.play({at: inflict(first, at // 2), later: inflict(second, later // 3)})
            except AssertionError as error:
                raise AssertionError(f"{first} before {at}, {second} before {later}: {error}\n{on.where()}") from error


def survive(minimum: int, more: int, saves: bool, seed: int | None, faults: dict[int, tuple[str, int]]) -> None:
    on = stage.Stage(minimum, minimum + more, saves=saves)
    try:
        on.play({at: inflict(name, k) for at, (name, k) in faults.items()}, seed=seed)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{on.where()}") from error


histories = given(
    st.integers(1, 3),
    st.integers(0, 2),
    st.booleans(),
    st.none() | st.integers(0, 2**20),
    st.dictionaries(st.integers(0, 250), st.tuples(st.sampled_from(NAMES), st.integers(0, 7)), max_size=6),
)


@pytest.mark.slow
@settings(max_examples=400)
@histories
def test_a_job_survives_faults_in_any_order_of_things(
    minimum: int, more: int, saves: bool, seed: int | None, faults: dict[int, tuple[str, int]]
) -> None:
    survive(minimum, more, saves, seed, faults)


@pytest.mark.long
@settings(max_examples=20_000)
@histories
def test_a_job_survives_faults_in_very_many_orders_of_things(
    minimum: int, more: int, saves: bool, seed: int | None, faults: dict[int, tuple[str, int]]
) -> None:
    survive(minimum, more, saves, seed, faults)


# ----------------------------------------------------------------------------------------------------------- mutants


def found(name: str, minimum: int, maximum: int, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        play_with(name, minimum, maximum)


def test_a_session_that_takes_silence_for_an_acknowledgement_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = ss.SessionState._tick

    def hasty(self: ss.SessionState, event: ss.Tick, now: float) -> list[ss.Instruction]:
        if self._flush_until is not None and now >= self._flush_until:
            self.handle(ss.Received(ss.pb.CoordinatorMessage(stop=ss.pb.Stop())), now)
            assert self.ended is not None
            stage_of["self"].acknowledged.add(self.identity.incarnation)
            return [self.ended]
        return ended(self, event, now)

    stage_of: dict[str, Any] = {}
    made = stage.Stage.__init__

    def remember(self: Any, *args: Any, **options: Any) -> None:
        stage_of["self"] = self
        made(self, *args, **options)

    monkeypatch.setattr(stage.Stage, "__init__", remember)
    monkeypatch.setitem(ss._HANDLERS, ss.Tick, hasty)
    found("hang", 1, 2, "an acknowledged result is never lost")


def test_a_coordinator_that_does_not_wait_for_its_members_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    muster = meeting._muster
    monkeypatch.setattr(meeting, "_muster", lambda crew: replace(muster(crew), awaited=0))
    found("break link", 1, 2, "holds step|nobody goes back|the job does not end|is well")


def test_a_coordinator_that_sends_before_it_stores_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    handle = stage.JobMachine.handle
    monkeypatch.setattr(stage.JobMachine, "handle", lambda self, event, now: handle(self, event, now)[::-1])
    found("crash in mid-turn", 1, 2, "a world is stored before it is said")


def test_a_coordinator_that_forgets_to_fence_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A member is frozen while all streams break, the others go on without it, and it wakes."""
    monkeypatch.setattr(Slot, "fence", lambda self, incarnation: None)
    with pytest.raises(AssertionError, match="who was lost stays out"):
        for at in range(8, 24, 2):
            for awake in range(60, 100, 3):
                faults = {at: ("freeze", 0), at + 6: ("break all streams", 0), awake: ("thaw", 0)}
                survive(1, 2, False, None, faults)
