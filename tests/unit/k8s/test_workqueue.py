"""Names that wait to be looked at: none is lost, none is looked at twice at once, and none waits for ever."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cordee.k8s.workqueue import PATIENCE_SECONDS, WorkQueue


class _Waits(selectors.DefaultSelector):
    """Lets the time of a loop pass in place of waiting."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.now += timeout or 0.0
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    """A loop with a time of its own: an hour takes no time."""

    def __init__(self) -> None:
        self.waits = _Waits()
        super().__init__(self.waits)

    def time(self) -> float:
        return self.waits.now


def run(main: Coroutine[Any, Any, None]) -> None:
    loop = _Loop()
    try:
        loop.run_until_complete(main)
    finally:
        loop.close()


ASKED = st.lists(
    st.tuples(
        st.floats(0.0, 1.0),  # so long after the one before
        st.sampled_from("abcdef"),
        st.sampled_from([0.0, 0.0, 0.1, 3.0]),  # so late
        st.booleans(),  # whether calmly
    ),
    min_size=1,
    max_size=40,
)


@given(ASKED, st.lists(st.floats(0.0, 0.5), min_size=1, max_size=5), st.integers(1, 3))
def test_whoever_is_asked_for_is_looked_at_after_that_in_time_and_by_one_at_a_time(
    asked: list[tuple[float, str, float, bool]], looks: list[float], num_workers: int
) -> None:
    run(_follow(asked, looks, num_workers))


async def _follow(asked: list[tuple[float, str, float, bool]], looks: list[float], num_workers: int) -> None:
    queue, loop = WorkQueue(), asyncio.get_running_loop()
    owed: dict[str, float] = {}  # by when each name is to be looked at, as far as it was asked for
    busy: set[str] = set()
    waited: list[float] = []

    async def work() -> None:
        while True:
            name = await queue.get()
            assert name not in busy
            busy.add(name)
            waited.append(loop.time() - owed.pop(name, loop.time()))
            await asyncio.sleep(looks[len(waited) % len(looks)])
            busy.discard(name)
            queue.done(name)

    workers = [asyncio.ensure_future(work()) for _ in range(num_workers)]
    for pause, name, delay, calm in asked:
        await asyncio.sleep(pause)
        queue.add(name, delay, calm=calm)
        due = loop.time() + delay
        owed[name] = min(owed.get(name, due), due)
    await asyncio.sleep(60.0)
    for worker in workers:
        assert not worker.done()
        worker.cancel()
    assert not owed, "nobody is forgotten"
    assert not any(name in queue for name in "abcdef")
    # Each of six names may have its turn before a calm one whose patience is over, and a calm one before each of them.
    assert max(waited) <= PATIENCE_SECONDS + 14 * max(looks)


def test_what_is_asked_for_calmly_lets_others_go_first_and_not_for_ever() -> None:
    async def main() -> None:
        queue = WorkQueue()
        queue.add("calm", calm=True)
        order: list[str] = []
        for number in range(40):
            queue.add(f"urgent{number}")
        while "calm" not in order:
            order.append(await queue.get())
            queue.done(order[-1])
            await asyncio.sleep(0.1)
        assert len(order) == round(PATIENCE_SECONDS / 0.1) + 1

    run(main())


def test_what_waits_calmly_is_urgent_once_somebody_says_so() -> None:
    async def main() -> None:
        queue = WorkQueue()
        queue.add("first", calm=True)
        queue.add("second")
        queue.add("first")
        queue.add("first", calm=True)
        assert [await queue.get(), await queue.get()] == ["second", "first"]
        queue.add("first", calm=True)
        queue.add("first")
        queue.add("second", 1.0, calm=True)
        queue.done("first")
        queue.done("second")
        assert [await queue.get(), await queue.get()] == ["first", "second"]

    run(main())
