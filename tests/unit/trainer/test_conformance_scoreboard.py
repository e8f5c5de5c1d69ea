"""The scoreboard is well-formed and never falls, its page shows it; live, the engine does as well as it says."""

from __future__ import annotations

import copy
import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "conformance"
SCOREBOARD: dict[str, Any] = runpy.run_path(str(FOLDER / "scoreboard.py"))


@pytest.fixture
def board() -> Any:
    return SCOREBOARD["load"]()


def floor() -> dict[str, int]:
    return json.loads((FOLDER / "floor.json").read_text())


def test_the_board_is_well_formed(board: Any) -> None:
    assert SCOREBOARD["problems"](board) == []
    assert len(board["ops"]) > 600  # of op_db's about 700
    assert set(floor()) == set(SCOREBOARD["RISING"])


def test_no_total_is_lower_than_it_once_was(board: Any) -> None:
    assert SCOREBOARD["below_floor"](board, floor()) == []


def test_the_page_is_the_boards(board: Any) -> None:
    assert SCOREBOARD["PAGE"].read_text() == SCOREBOARD["page"](board), "run python tests/conformance/scoreboard.py"


def test_a_fall_is_noticed(board: Any) -> None:
    fallen = copy.deepcopy(board)
    fallen["ops"]["add"]["passed"] -= 1
    (line,) = [
        text for text in SCOREBOARD["below_floor"](fallen, SCOREBOARD["totals"](board)) if "complete" not in text
    ]
    assert line.startswith("passed: ")
    fallen["ops"]["add"] = {"status": "missing"}
    assert any(text.startswith("covered: ") for text in SCOREBOARD["below_floor"](fallen, SCOREBOARD["totals"](board)))


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"status": "done"}, "unknown status"),
        ({"status": "out of scope"}, "a reason"),
        ({"status": "missing", "reason": "lazy"}, "a reason"),
        ({"status": "covered", "samples": 2, "passed": 3}, "passed is 3 of 2"),
    ],
)
def test_an_impossible_row_is_noticed(board: Any, row: Any, problem: str) -> None:
    board["ops"] = {"made.up": row}
    assert problem in "".join(SCOREBOARD["problems"](board))


def test_what_is_written_is_read_back(board: Any, tmp_path: Path) -> None:
    SCOREBOARD["save"](board, tmp_path / "board.json")
    assert SCOREBOARD["load"](tmp_path / "board.json") == board


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_operator_does_as_well_as_on_the_board_with_live_pytorch(board: Any) -> None:
    torch = pytest.importorskip("torch")
    if torch.__version__.partition("+")[0] != board["torch"]:
        pytest.skip(f"the board is of PyTorch {board['torch']}, whose samples differ")
    done = subprocess.run(
        [sys.executable, str(FOLDER / "opinfo.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
