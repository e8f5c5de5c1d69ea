"""Modes of recording: as statements, blocks and decorators, of generators and coroutines too; per thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from typing import Any

import pytest

import cordee.trainer as ct


def test_set_grad_enabled_is_a_statement_too() -> None:
    def later() -> None:
        ct.set_grad_enabled(False)
        seen.append(ct.is_grad_enabled())
        ct.set_grad_enabled(True)
        seen.append(ct.is_grad_enabled())

    seen: list[bool] = []
    thread = threading.Thread(target=later)  # the statement holds for its thread
    thread.start()
    thread.join()
    assert seen == [False, True]
    assert ct.is_grad_enabled()


def test_set_grad_enabled_restores_at_the_blocks_end_and_may_be_used_again() -> None:
    for outer in (True, False):
        with ct.enable_grad() if outer else ct.no_grad():
            block = ct.set_grad_enabled(not outer)
            for _ in range(2):
                with block:
                    assert ct.is_grad_enabled() is not outer
                assert ct.is_grad_enabled() is outer


def test_a_decorator_does_not_change_the_mode_where_it_is_applied() -> None:
    @ct.set_grad_enabled(False)
    def function() -> bool:
        return ct.is_grad_enabled()

    assert ct.is_grad_enabled()
    assert not function()
    assert ct.is_grad_enabled()


@pytest.mark.parametrize(
    ("mode", "expected"), [(ct.no_grad, False), (ct.enable_grad, True), (ct.inference_mode, False)]
)
def test_decorators_need_no_brackets(mode: Any, expected: bool) -> None:
    def function(x: int) -> tuple[int, bool]:
        """Text."""
        return x, ct.is_grad_enabled()

    bare, called = mode(function), mode()(function)
    assert bare.__name__ == "function"
    assert bare.__doc__ == "Text."
    with ct.set_grad_enabled(not expected):
        assert bare(1) == called(1) == (1, expected)
        assert ct.is_grad_enabled() is not expected


def test_a_decorated_generator_runs_in_the_mode_and_its_caller_does_not() -> None:
    closed: list[str] = []

    @ct.no_grad()
    def turns() -> Generator[bool, str, str]:
        try:
            sent = yield ct.is_grad_enabled()
            try:
                yield sent == "word" and ct.is_grad_enabled()
            except KeyError:
                yield ct.is_grad_enabled()
            return "result"
        finally:
            closed.append(str(ct.is_grad_enabled()))

    running = turns()
    assert next(running) is False
    assert ct.is_grad_enabled()
    assert running.send("word") is False
    assert running.throw(KeyError()) is False
    with pytest.raises(StopIteration) as stop:
        next(running)
    assert stop.value.value == "result"
    other = turns()
    next(other)
    other.close()
    assert ct.is_grad_enabled()
    assert closed == ["False", "False"]


def test_a_decorated_coroutine_runs_in_the_mode_and_the_others_do_not() -> None:
    @ct.no_grad()
    async def quiet() -> list[bool]:
        seen = []
        for _ in range(3):
            seen.append(ct.is_grad_enabled())
            await asyncio.sleep(0)
        return seen

    async def loud() -> list[bool]:
        seen = []
        for _ in range(3):
            seen.append(ct.is_grad_enabled())
            await asyncio.sleep(0)
        return seen

    async def both() -> Any:
        return await asyncio.gather(quiet(), loud())

    assert asyncio.run(both()) == [[False] * 3, [True] * 3]


def test_an_asynchronous_generator_is_refused() -> None:
    async def stream() -> Any:
        yield 1

    with pytest.raises(TypeError, match="asynchronous generator"):
        ct.no_grad()(stream)


def test_the_mode_is_each_threads_own() -> None:
    seen: list[bool] = []
    with ct.no_grad():
        thread = threading.Thread(target=lambda: seen.append(ct.is_grad_enabled()))
        thread.start()
        thread.join()
    assert seen == [True]
