"""What is told of a process that has ended, and that it survives the way to the next one."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cordee.worker import exit_codes, lifeword
from cordee.worker.postmortem import (
    ENVIRONMENT,
    MAX_STACK_CHARACTERS,
    PostMortem,
    newest_frame,
    tidy_stacks,
)
from cordee.worker.script import name_failure

FAULT = b"""Fatal Python error: Segmentation fault

Thread 0x00007f01 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 327 in wait

Current thread 0x00007f02 (most recent call first):
  File "/job/source/train.py", line 7 in fill
  File "/job/source/train.py", line 9 in <module>

Thread 0x00007f03 (most recent call first):
  File "/usr/lib/python3.11/queue.py", line 180 in get
"""


def test_the_thread_that_faulted_comes_first_then_the_main_one() -> None:
    stack = tidy_stacks(FAULT)
    heads = [line for line in stack.split("\n") if "thread" in line.lower() and line.endswith("first):")]
    assert heads == [
        "Current thread 0x00007f02 (most recent call first):",
        "Thread 0x00007f03 (most recent call first):",
        "Thread 0x00007f01 (most recent call first):",
    ]
    assert stack.startswith("Fatal Python error: Segmentation fault\n\nCurrent thread")
    assert newest_frame(stack) == '"/job/source/train.py", line 7 in fill'


def test_nothing_written_is_nothing() -> None:
    assert tidy_stacks(b"") == ""
    assert newest_frame("") == ""


def test_many_threads_are_cut_and_the_one_that_matters_stays() -> None:
    others = "".join(
        f'Thread 0x{i:08x} (most recent call first):\n  File "queue.py", line {i} in get\n\n' for i in range(500)
    )
    raw = others + 'Current thread 0x7f (most recent call first):\n  File "train.py", line 3 in <module>\n'
    stack = tidy_stacks(raw.encode())
    assert len(stack) <= MAX_STACK_CHARACTERS + 4
    assert newest_frame(stack) == '"train.py", line 3 in <module>'
    assert stack.endswith("\n  …")


@given(st.binary(max_size=2000))
def test_whatever_was_written_can_be_told(raw: bytes) -> None:
    assert len(tidy_stacks(raw)) <= MAX_STACK_CHARACTERS + 4


@given(
    incarnation=st.text(), code=st.integers(-64, 255), words=st.text(), stack=st.text(),
    step=st.integers(0, 2**63), asked=st.booleans(), silent=st.booleans(), patience=st.integers(1, 8),
)  # fmt: skip
def test_it_comes_out_of_the_environment_as_it_went_in(
    incarnation: str, code: int, words: str, stack: str, step: int, asked: bool, silent: bool, patience: int
) -> None:
    told = PostMortem(incarnation, code, words, stack, step, asked, silent, patience, out_of_memory=not silent)
    environment = {ENVIRONMENT: told.encode(), "OTHER": "stays"}
    heard = PostMortem.take(environment)
    assert heard is not None
    assert heard.fields() == told.fields()
    assert environment == {"OTHER": "stays"}


@pytest.mark.parametrize("text", [None, "", "{}", "[]", "7", "nonsense", '{"code": 1}'])
def test_what_cannot_be_read_is_passed_over(text: str | None) -> None:
    environment = {} if text is None else {ENVIRONMENT: text}
    assert PostMortem.take(environment) is None
    assert environment == {}


def test_last_words_are_one_line_with_all_there_is() -> None:
    stack = tidy_stacks(FAULT)
    full = PostMortem("i", -11, "was killed by SIGSEGV", stack, 12, asked=False)
    assert full.last_words() == 'was killed by SIGSEGV after step 12, in "/job/source/train.py", line 7 in fill'
    assert PostMortem("i", -9, "was killed by SIGKILL", "", 0, asked=False).last_words() == "was killed by SIGKILL"


@given(st.sampled_from([lifeword.MEMBER, lifeword.BEAT, lifeword.ENDING]), st.integers(-(2**62), 2**62))
def test_words_on_the_lifeline_are_heard_as_they_were_said(kind: str, number: int) -> None:
    assert lifeword.parse(lifeword.say(kind, number)) == (kind, number)


@given(st.text())
def test_what_a_worker_ends_of_is_one_word_in_ascii(text: str) -> None:
    word = lifeword.say_why(text)
    assert len(word) <= lifeword.WORD_BYTES
    assert lifeword.why(word).isascii()
    assert lifeword.parse(word) == (lifeword.WHY, lifeword.parse(word)[1])
    assert lifeword.why(lifeword.say(lifeword.ENDING, 1)) == ""


def test_two_faults_of_the_machine_are_not_the_same_death() -> None:
    memory, disk = name_failure(MemoryError("17 bytes")), name_failure(OSError(errno.ENOSPC, "no space", "/x"))
    crashed = exit_codes.CRASHED
    assert exit_codes.settle(crashed, crashed, memory) == (crashed, "crashed: MemoryError")
    assert exit_codes.settle(crashed, crashed, disk) == (crashed, "crashed: OSError (ENOSPC)")
    assert exit_codes.settle(crashed, crashed) == (crashed, "crashed")


@given(st.binary(max_size=64))
def test_any_bytes_are_a_word(word: bytes) -> None:
    kind, number = lifeword.parse(word)
    assert len(kind) <= 1
    assert isinstance(number, int)


@pytest.mark.parametrize("code", sorted(exit_codes.FINAL))
def test_a_final_code_that_was_not_announced_is_a_crash(code: int) -> None:
    settled, words = exit_codes.settle(code, None)
    assert (settled, words) == (exit_codes.CRASHED, f"ended with code {code} without finishing")
    assert exit_codes.settle(code, code) == (code, exit_codes.describe(code))


@pytest.mark.parametrize("code", [-9, 1, 3, 120, exit_codes.FENCED])
def test_what_was_announced_counts_whatever_the_interpreters_end_came_to(code: int) -> None:
    assert exit_codes.settle(code, exit_codes.FINISHED) == (exit_codes.FINISHED, "finished")
    assert exit_codes.settle(code, None) == (code, exit_codes.describe(code))
