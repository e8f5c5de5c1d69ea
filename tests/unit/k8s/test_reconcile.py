"""Objects and jobs come to say the same, whatever happens to either, in whatever order; and then nothing moves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cordee.k8s import reconcile
from cordee.k8s.reconcile import Memory, Refusal, Rest, Thing, WriteStatus, next_step
from cordee.k8s.status import JobFacts, accepted_status, merge_patch

ME = "cordee"
CAPACITY = 8


@dataclass
class World:
    """An API server with one object, and a coordinator with one job; both as small as they can be."""

    thing: Thing | None = None
    job: JobFacts | None = None
    memory: Memory = Memory(ME)  # noqa: RUF009
    now: float = 1000.0
    uids: int = 0
    submitted: int = 0
    source: bool = True

    def step(self) -> reconcile.Step:
        """One step, carried out as the controller does."""
        step = next_step(self.thing, self.job, self.memory, self.now)
        thing, job = self.thing, self.job
        match step:
            case reconcile.Claim():
                assert thing is not None
                self.thing = replace(thing, finalizer=True, coordinator=ME)
            case reconcile.Release():
                assert thing is not None
                self.thing = None if thing.deleting else replace(thing, finalizer=False)
            case reconcile.Submit():
                assert thing is not None
                assert job is None
                if self.source:
                    self.submitted += 1
                    low, high = thing.workers
                    self.job = JobFacts("job-abc", thing.name, uid=thing.uid, minimum=low, maximum=high)
                    self.memory = replace(self.memory, refusal=None)
                else:
                    refusal = Refusal(thing.generation, "SourceMissing", "no source", self.now + 5.0)
                    self.memory = replace(self.memory, refusal=refusal)
            case reconcile.Make():
                assert job is not None
                assert thing is None
                self.uids += 1
                workers = (job.minimum, job.maximum)
                self.thing = Thing(job.id, f"u{self.uids}", 1, False, True, ME, job.id, workers)
            case reconcile.Scale(low, high):
                assert job is not None
                assert thing is not None
                assert not job.ended
                if low > CAPACITY:
                    self.memory = replace(self.memory, unscaled=thing.generation)
                else:
                    self.job = replace(job, minimum=low, maximum=high)
            case reconcile.SetWorkers(low, high):
                assert thing is not None
                self.thing = replace(thing, workers=(low, high), generation=thing.generation + 1)
            case reconcile.Cancel():
                assert job is not None
                assert not job.ended
                self.job = replace(job, state="cancelled", finished_at=self.now)
            case reconcile.WriteStatus(status):
                assert thing is not None
                assert merge_patch(thing.status, status)
                self.thing = replace(thing, status=dict(status))
                self.memory = replace(self.memory, written_at=self.now)
            case reconcile.Delete():
                assert thing is not None
                assert not thing.finalizer
                self.thing = None
                self.memory = Memory(ME, bereft=True)
        return step

    def rest(self) -> list[reconcile.Step]:
        """Steps until nothing is to be done at once; waits are sat out."""
        done: list[reconcile.Step] = []
        for _ in range(40):
            step = self.step()
            if isinstance(step, Rest):
                if step.until is None or (self.memory.refusal is not None and self.job is None):
                    return done
                assert step.until > self.now
                self.now = step.until
            else:
                done.append(step)
        raise AssertionError(f"it does not come to rest: {done}")


def made_by_kubectl(workers: tuple[int, int] = (1, 2)) -> World:
    return World(Thing("job", "uid", workers=workers))


def test_an_object_becomes_a_job_once() -> None:
    world = made_by_kubectl()
    world.rest()
    world.memory = Memory(ME)  # the coordinator was started again
    world.rest()
    assert world.submitted == 1
    assert world.thing is not None
    assert world.thing.finalizer
    assert world.thing.status["jobId"] == "job-abc"


def test_a_job_gets_an_object() -> None:
    world = World(job=JobFacts("job-abc", "job", minimum=2, maximum=3))
    world.rest()
    assert world.thing is not None
    assert (world.thing.name, world.thing.workers) == ("job-abc", (2, 3))
    assert world.thing.status["workers"]["max"] == 3


def test_a_job_that_ended_before_anybody_looked_gets_none() -> None:
    world = World(job=JobFacts("job-abc", "job", state="succeeded", gone=True))
    assert world.rest() == []
    seen_alive = replace(world.memory, wanted=True)
    assert next_step(None, world.job, seen_alive, 0.0) == reconcile.Make()


def test_an_edit_of_the_object_scales_the_job_and_one_of_the_job_the_object() -> None:
    world = made_by_kubectl()
    world.rest()
    assert world.thing is not None
    world.thing = replace(world.thing, workers=(1, 5), generation=2)
    assert [type(step).__name__ for step in world.rest()] == ["Scale", "WriteStatus"]
    assert world.job is not None
    assert world.job.maximum == 5
    world.job = replace(world.job, minimum=2)
    assert [type(step).__name__ for step in world.rest()] == ["SetWorkers", "WriteStatus"]
    assert world.thing.workers == (2, 5)
    assert world.thing.status["observedGeneration"] == world.thing.generation == 3


def test_a_range_that_is_refused_stays_written_and_is_not_tried_again() -> None:
    world = made_by_kubectl()
    world.rest()
    assert world.thing is not None
    world.thing = replace(world.thing, workers=(CAPACITY + 1, CAPACITY + 1), generation=2)
    assert [type(step).__name__ for step in world.rest()] == ["Scale", "WriteStatus"]
    world.memory = Memory(ME)
    assert world.rest() == []
    assert world.thing.workers == (CAPACITY + 1, CAPACITY + 1)
    assert world.job is not None
    world.job = replace(world.job, maximum=4)  # somebody scales the job: the object follows
    world.rest()
    assert world.thing.workers == (1, 4)


def test_deleting_the_object_cancels_and_waits_for_the_pods() -> None:
    world = made_by_kubectl()
    world.rest()
    assert world.thing is not None
    world.thing = replace(world.thing, deleting=True)
    assert isinstance(world.rest()[0], reconcile.Cancel)
    assert world.thing is not None, "its pods have yet to go"
    assert world.job is not None
    world.job = replace(world.job, gone=True)
    assert isinstance(world.rest()[-1], reconcile.Release)
    assert world.thing is None


def test_an_object_whose_finalizer_was_taken_away_by_force_ends_its_job_as_well() -> None:
    world = made_by_kubectl()
    world.rest()
    world.thing = None
    assert world.rest() == [reconcile.Cancel()]
    mine = World(job=JobFacts("job-abc", "job"))
    mine.rest()
    mine.thing, mine.memory = None, Memory(ME, bereft=True)
    assert mine.rest() == [reconcile.Cancel()]


def test_an_ended_jobs_object_can_be_deleted_without_us() -> None:
    world = made_by_kubectl()
    world.rest()
    assert world.job is not None
    world.job = replace(world.job, state="succeeded", finished_at=world.now, gone=True)
    world.rest()
    assert world.thing is not None
    assert not world.thing.finalizer
    assert {c["type"]: c["status"] for c in world.thing.status["conditions"]}["Succeeded"] == "True"


def test_an_ended_jobs_object_goes_when_its_time_is_over() -> None:
    world = made_by_kubectl()
    world.rest()
    assert world.thing is not None
    assert world.job is not None
    world.thing = replace(world.thing, ttl=60)
    ended = world.now
    world.job = replace(world.job, state="failed", finished_at=ended, gone=True)
    world.rest()
    assert world.thing is None
    assert world.now >= ended + 60


def test_an_object_of_a_lost_coordinator_is_not_run_again() -> None:
    world = made_by_kubectl()
    world.rest()
    world.job, world.memory = None, Memory(ME)
    world.rest()
    assert world.submitted == 1
    assert world.thing is not None
    assert world.thing.status["reason"] == "JobUnknown"
    assert not world.thing.finalizer


@pytest.mark.parametrize("ttl", [None, 60])
def test_when_a_job_is_removed_its_own_object_goes_and_one_that_somebody_applied_stays(ttl: int | None) -> None:
    for world, stays in ((made_by_kubectl(), ttl is None), (World(job=JobFacts("job-abc", "job")), False)):
        world.rest()
        assert world.job is not None
        world.job = replace(world.job, state="succeeded", finished_at=world.now, gone=True)
        while not isinstance(step := world.step(), Rest) or step.until is not None:
            world.now += 1.0
        assert world.thing is not None
        ended, world.job, world.memory = world.job.finished_at, None, Memory(ME)
        world.thing = replace(world.thing, ttl=ttl)
        world.rest()
        assert (world.thing is not None) == stays
        assert world.submitted <= 1
        assert stays or not world.submitted or world.now > (ended or 0.0) + 59.0


def test_another_coordinators_object_is_left_alone() -> None:
    thing = Thing("job", "uid", coordinator="other", finalizer=True)
    assert next_step(thing, None, Memory(ME), 0.0) == Rest()
    assert next_step(replace(thing, deleting=True), None, Memory(ME), 0.0) == Rest()


def test_a_missing_source_is_waited_for() -> None:
    world = made_by_kubectl()
    world.source = False
    world.rest()
    assert world.thing is not None
    conditions = {c["type"]: c["status"] for c in world.thing.status["conditions"]}
    assert (conditions["Accepted"], conditions["Stalled"]) == ("False", "False")
    world.source, world.now = True, world.now + 6.0
    world.rest()
    assert world.submitted == 1


def test_a_mistake_is_final_until_the_object_changes() -> None:
    thing = Thing("job", "uid", coordinator=ME, finalizer=True)
    memory = Memory(ME, refusal=Refusal(1, "Invalid", "no"))
    step = next_step(thing, None, memory, 0.0)
    assert isinstance(step, reconcile.WriteStatus)
    conditions = {c["type"]: c["status"] for c in step.status["conditions"]}
    assert (conditions["Accepted"], conditions["Stalled"]) == ("False", "True")
    thing = replace(thing, status=step.status)
    assert next_step(thing, None, memory, 1e9) == reconcile.Release(), "it can be deleted without us"
    thing = replace(thing, finalizer=False)
    assert next_step(thing, None, memory, 1e9) == Rest()
    changed = replace(thing, generation=2)
    assert next_step(changed, None, memory, 0.0) == reconcile.Claim()
    assert next_step(replace(changed, finalizer=True), None, memory, 0.0) == reconcile.Submit()


def test_progress_alone_is_written_less_often_when_many_jobs_run() -> None:
    job = JobFacts("job-abc", "job", uid="uid", state="running", step=1)
    thing = Thing("job", "uid", coordinator=ME, finalizer=True)
    thing = replace(thing, status=accepted_status(job, 1, {}, 0.0))
    memory = Memory(ME, written_at=0.0, progress_seconds=30.0)
    assert next_step(thing, replace(job, step=2), memory, 1.5) == Rest(30.0)
    assert isinstance(next_step(thing, replace(job, state="recovering"), memory, 1.5), reconcile.WriteStatus)
    assert isinstance(next_step(thing, replace(job, state="recovering"), memory, 0.5), Rest)


@given(
    changes=st.lists(
        st.tuples(st.floats(0.0, 2.0), st.sampled_from(["starting", "running", "recovering"]), st.integers(0, 3)),
        max_size=30,
    ),
    end=st.sampled_from([None, "succeeded", "failed", "cancelled"]),
    latenesses=st.lists(st.floats(0.0, 0.3), min_size=1, max_size=5),
)
def test_however_a_job_changes_its_newest_status_is_written_soon_and_few_are(
    changes: list[tuple[float, str, int]], end: str | None, latenesses: list[float]
) -> None:
    """Looked at whenever it was asked for, a little late, as by workers that have more to do."""
    began = now = 100.0
    job = JobFacts("job-abc", "job", uid="uid")
    thing = Thing("job", "uid", coordinator=ME, finalizer=True)
    memory = Memory(ME, settled_at=began + reconcile.SETTLE_SECONDS)
    due: float | None = now
    writes: list[float] = []

    def look(at: float) -> float | None:
        nonlocal thing, memory
        step = next_step(thing, job, memory, at)
        if isinstance(step, reconcile.WriteStatus):
            thing, memory = replace(thing, status=dict(step.status)), replace(memory, written_at=at)
            writes.append(at)
            step = next_step(thing, job, memory, at)
        assert isinstance(step, Rest)
        return step.until

    def until(moment: float) -> None:
        nonlocal due
        while due is not None and due <= moment:
            late = latenesses[len(writes) % len(latenesses)]
            due = look(due + late)

    for wait, state, step in changes:
        until(now := now + wait)
        job = replace(job, state=state, step=job.step + step)
        due = now if due is None else min(due, now)
    until(now := now + 0.01)
    if end is not None:
        job = replace(job, state=end, finished_at=now, gone=False)
        look(now)
        assert thing.status["state"] == end, "an end waits for nothing"
    last = now
    until(now + 60.0)
    assert due is None, "nothing is left to be done"
    assert accepted_status(job, 1, thing.status, now) == thing.status, "the newest is what stands there"
    assert writes[-1] <= last + reconcile.STATUS_SECONDS + reconcile.SETTLE_SECONDS + 2 * max(latenesses)
    assert len(writes) <= (last - began) / reconcile.STATUS_SECONDS + 3


def test_a_job_that_has_just_begun_is_told_of_once_it_has_settled() -> None:
    job = JobFacts("job-abc", "job", uid="uid", state="starting")
    thing = Thing("job", "uid", coordinator=ME, finalizer=True)
    memory = Memory(ME, settled_at=10.5)
    assert next_step(thing, job, memory, 10.0) == Rest(10.5)
    assert isinstance(next_step(thing, replace(job, state="failed", finished_at=10.1), memory, 10.1), WriteStatus)
    assert isinstance(next_step(thing, job, memory, 10.5), WriteStatus)


RANGES = st.tuples(st.integers(1, 4), st.integers(0, 4)).map(lambda pair: (pair[0], pair[0] + pair[1]))


class Lives(RuleBasedStateMachine):
    """People, workers and restarts at random; the controller gets to look now and then, in the middle as well."""

    @initialize(by_kubectl=st.booleans(), workers=RANGES)
    def begin(self, by_kubectl: bool, workers: tuple[int, int]) -> None:
        low, high = workers
        self.world = (
            made_by_kubectl(workers) if by_kubectl else World(job=JobFacts("job-abc", "job", minimum=low, maximum=high))
        )
        self.deleted = False

    @property
    def living(self) -> Thing | None:
        thing = self.world.thing
        return None if thing is None or thing.deleting else thing

    @rule()
    def look_once(self) -> None:
        self.world.step()
        self.world.now += 0.3

    @rule()
    def restart(self) -> None:
        self.world.memory = Memory(ME)

    @precondition(lambda self: self.living is not None)
    @rule(workers=RANGES)
    def edit(self, workers: tuple[int, int]) -> None:
        thing = self.living
        assert thing is not None
        if thing.workers != workers:
            self.world.thing = replace(thing, workers=workers, generation=thing.generation + 1)

    @precondition(lambda self: self.world.job is not None and not self.world.job.ended)
    @rule(workers=RANGES)
    def scale(self, workers: tuple[int, int]) -> None:
        assert self.world.job is not None
        self.world.job = replace(self.world.job, minimum=workers[0], maximum=workers[1])

    @precondition(lambda self: self.world.job is not None and not self.world.job.ended)
    @rule(state=st.sampled_from(["starting", "running", "recovering", "succeeded", "failed", "cancelled"]))
    def work(self, state: str) -> None:
        assert self.world.job is not None
        ended = self.world.now if state in {"succeeded", "failed", "cancelled"} else None
        self.world.job = replace(self.world.job, state=state, step=self.world.job.step + 1, finished_at=ended)

    @precondition(lambda self: self.world.job is not None and self.world.job.ended)
    @rule()
    def pods_go(self) -> None:
        assert self.world.job is not None
        self.world.job = replace(self.world.job, gone=True)

    @precondition(lambda self: self.world.job is not None and self.world.job.gone)
    @rule()
    def remove(self) -> None:
        world = self.world
        assert world.job is not None
        if world.thing is None or world.thing.status.get("state") == world.job.state:  # a removed job tells its end yet
            world.job = None

    @precondition(lambda self: self.living is not None)
    @rule()
    def delete(self) -> None:
        thing = self.living
        assert thing is not None
        self.deleted = True
        if thing.finalizer:
            self.world.thing = replace(thing, deleting=True)
        else:
            self.world.thing = None
            self.world.memory = Memory(ME, bereft=self.world.job is not None)

    @rule()
    def settle(self) -> None:
        world = self.world
        world.rest()
        thing, job = world.thing, world.job
        if thing is not None and job is not None and not thing.deleting:
            assert thing.status["state"] == job.state
            assert thing.status["observedGeneration"] == thing.generation
            if not job.ended:
                assert thing.workers == (job.minimum, job.maximum)
            assert thing.finalizer == (not job.gone)
        if self.deleted and job is not None:
            assert job.ended
            assert thing is None or not job.gone
        now = world.now
        world.memory = Memory(ME)
        if not self.deleted:
            assert world.rest() == [], "a restart of the coordinator changes nothing"
        world.now = now

    @invariant()
    def taken_in_once(self) -> None:
        assert self.world.submitted <= 1


Lives.TestCase.settings = settings(
    max_examples=150, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
test_objects_and_jobs_come_to_say_the_same = Lives.TestCase


TREES: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=3),
    lambda inner: st.dictionaries(st.text(max_size=2), inner, max_size=4),
    max_leaves=12,
)


def without_nulls(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: without_nulls(part) for name, part in tree.items() if part is not None}
    return tree


def applied(target: Any, patch: Any) -> Any:
    """RFC 7386's own pseudocode."""
    if not isinstance(patch, dict):
        return patch
    target = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            target.pop(name, None)
        else:
            target[name] = applied(target.get(name), value)
    return target


@given(
    st.dictionaries(st.text(max_size=2), TREES, max_size=4).map(without_nulls),
    st.dictionaries(st.text(max_size=2), TREES, max_size=4).map(without_nulls),
)
def test_a_merge_patch_makes_the_one_of_the_other(before: dict[str, Any], after: dict[str, Any]) -> None:
    patch = merge_patch(before, after)
    assert applied(before, patch) == after
    assert bool(patch) == (before != after)


@pytest.mark.parametrize("state", ["pending", "starting", "running", "recovering", "succeeded", "failed", "cancelled"])
def test_kstatus_finds_current_in_progress_or_failed(state: str) -> None:
    conditions = {
        c["type"]: c["status"] for c in accepted_status(JobFacts("a", "a", state=state), 1, {}, 0.0)["conditions"]
    }
    found = (
        "Failed" if conditions["Stalled"] == "True" else "Current" if conditions["Ready"] == "True" else "InProgress"
    )
    expected = {"running": "Current", "succeeded": "Current", "failed": "Failed", "cancelled": "Failed"}
    assert found == expected.get(state, "InProgress")


def test_a_condition_keeps_the_time_of_its_last_change() -> None:
    job = JobFacts("a", "a", state="running")
    first = accepted_status(job, 1, {}, 100.0)
    assert accepted_status(job, 1, first, 200.0) == first
    later = accepted_status(replace(job, state="recovering"), 1, first, 200.0)
    times = {c["type"]: c["lastTransitionTime"] for c in later["conditions"]}
    assert times["Accepted"] == "1970-01-01T00:01:40Z"
    assert times["Running"] == "1970-01-01T00:03:20Z"
