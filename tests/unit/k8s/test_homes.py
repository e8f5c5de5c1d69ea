"""Which namespace it is: its uid where that may be read, its name where not, and patience where nobody answers."""

import logging
from typing import Any

import pytest

from cordee.coordinator.service.launchers.base import Home
from cordee.k8s.errors import ApiError, KubernetesError, UnreachableError
from cordee.k8s.homes import read_home


class Answers:
    """Answers to one question after another; the last one for ever."""

    def __init__(self, *answers: dict[str, Any] | Exception) -> None:
        self._answers = list(answers)
        self.asked: list[tuple[str, str]] = []
        self.slept = 0.0

    async def __call__(self, method: str, path: str) -> dict[str, Any]:
        self.asked.append((method, path))
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def sleep(self, seconds: float) -> None:
        self.slept += seconds


FOUND = {"metadata": {"name": "team", "uid": "u1"}}


async def test_it_is_known_by_its_uid_also_when_the_server_takes_its_time() -> None:
    answers = Answers(UnreachableError("it does not answer"), ApiError(503, "ServiceUnavailable", "later"), FOUND)
    home = await read_home(answers, "team", moved_from="old", sleep=answers.sleep)
    assert home == Home("team", "u1", "old")
    assert answers.asked == [("GET", "/api/v1/namespaces/team")] * 3
    assert answers.slept > 0


async def test_where_it_may_not_be_read_its_name_has_to_do_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    answers = Answers(ApiError(403, "Forbidden", "namespaces is forbidden"))
    with caplog.at_level(logging.WARNING):
        assert await read_home(answers, "team", sleep=answers.sleep) == Home("team")
    assert "by its name only: namespaces is forbidden" in caplog.text


@pytest.mark.parametrize(
    "error", [UnreachableError("away"), ApiError(500, "InternalError", "etcd"), ApiError(400, "", "no")]
)
async def test_a_server_that_does_not_say_it_is_no_reason_to_guess(error: KubernetesError) -> None:
    answers = Answers(error)
    with pytest.raises(type(error)):
        await read_home(answers, "team", sleep=answers.sleep)
