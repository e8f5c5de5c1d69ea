"""The scoreboard: how much of PyTorch's and of the array API's own test material Cordee passes.

`scoreboard.json` holds the counts per operator as the replay found them; `floor.json` holds totals that may only rise;
`docs/reference/conformance.md` shows both to people. Nothing here imports PyTorch, so CI can hold the three together:

    python tests/conformance/scoreboard.py            # rewrites the page
    python tests/conformance/scoreboard.py --check    # exit code 1 when totals fell or the page is not up to date
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

__all__ = ["FLOOR", "PAGE", "SCOREBOARD", "below_floor", "load", "page", "problems", "raise_floor", "save", "totals"]

HERE = Path(__file__).resolve().parent
SCOREBOARD = HERE / "scoreboard.json"
FLOOR = HERE / "floor.json"
PAGE = HERE.parent.parent / "docs" / "reference" / "conformance.md"

STATUSES = ("covered", "missing", "out of scope")
COUNTS = {"samples": "passed", "gradients": "gradients_passed", "errors": "errors_raised", "aliases": "aliases_present"}
"""What was tried, and what of it came out right."""

Board = dict[str, Any]


def load(path: Path = SCOREBOARD) -> Board:
    """The board (or the floor) as it is committed."""
    return json.loads(path.read_text()) if path.exists() else {"torch": "", "ops": {}, "array_api": {}}


def save(board: Board, path: Path = SCOREBOARD) -> None:
    """Write it, one operator a line, so that a diff shows which changed."""
    lines = [
        f'  "torch": {json.dumps(board["torch"])},',
        f'  "array_api": {json.dumps(board["array_api"])},',
        '  "ops": {',
    ]
    rows = [f"    {json.dumps(name)}: {json.dumps(row)}" for name, row in sorted(board["ops"].items())]
    path.write_text("{\n" + "\n".join([*lines, ",\n".join(rows), "  }"]) + "\n}\n")


def totals(board: Board) -> dict[str, int]:
    """The sums over all operators, and the array API's pass count."""
    ops = list(board["ops"].values())
    sums = {status: sum(row["status"] == status for row in ops) for status in STATUSES}
    for tried, right in COUNTS.items():
        sums[tried] = sum(row.get(tried, 0) for row in ops)
        sums[right] = sum(row.get(right, 0) for row in ops)
    for kind in ("method", "in_place"):
        sums[f"{kind}s"] = sum(row.get(kind) is not None for row in ops)
        sums[f"{kind}s_right"] = sum(row.get(kind) is True for row in ops)
    sums["complete"] = sum(_is_complete(row) for row in ops)
    sums["array_api_passed"] = board["array_api"].get("passed", 0)
    return sums


RISING = ("covered", "complete", *COUNTS.values(), "methods_right", "in_places_right", "array_api_passed")


def _is_complete(row: dict[str, Any]) -> bool:
    counts = all(row.get(tried, 0) == row.get(right, 0) for tried, right in COUNTS.items())
    return row["status"] == "covered" and counts and row.get("method") is not False and row.get("in_place") is not False


def below_floor(board: Board, floor: dict[str, int]) -> list[str]:
    """Which totals are lower than they once were."""
    now = totals(board)
    return [f"{name}: {now[name]}, once {floor[name]}" for name in RISING if now[name] < floor.get(name, 0)]


def raise_floor(board: Board) -> None:
    """Let the floor rise to the board's totals, where they are higher."""
    old = json.loads(FLOOR.read_text()) if FLOOR.exists() else {}
    now = totals(board)
    FLOOR.write_text(json.dumps({name: max(now[name], old.get(name, 0)) for name in RISING}, indent=2) + "\n")


def problems(board: Board) -> list[str]:
    """What is wrong with the board itself: its form, and counts that cannot be."""
    found = []
    for name, row in board["ops"].items():
        if row["status"] not in STATUSES:
            found.append(f"{name}: unknown status {row['status']!r}")
        if (row["status"] == "out of scope") != bool(row.get("reason")):
            found.append(f"{name}: a reason is given exactly for what is out of scope")
        found += [
            f"{name}: {right} is {row[right]} of {row.get(tried, 0)} {tried}"
            for tried, right in COUNTS.items()
            if not 0 <= row.get(right, 0) <= row.get(tried, 0)
        ]
    return found


def _percent(part: int, whole: int) -> str:
    return f"{part} of {whole} ({100 * part / whole:.1f} %)" if whole else "none"


def _cell(row: dict[str, Any], tried: str) -> str:
    return f"{row.get(COUNTS[tried], 0)}/{row[tried]}" if row.get(tried) else "–"


HEAD = """\
# Conformance

<!-- Written by tests/conformance/scoreboard.py from scoreboard.json: do not edit by hand. -->

How Cordee's engine does on test material that others wrote: the samples and expected errors of PyTorch's operator
database (`op_db`), replayed against the function of the same name, and the test suite of the array API standard. Totals
may only rise: CI compares them with `tests/conformance/floor.json`.

Where PyTorch is installed (with `expecttest`, which its test package needs):

```bash
python tests/conformance/opinfo.py --only 'linalg.*' --show-failures
python tests/conformance/opinfo.py --update
```
"""

HOW = """\
Replayed are float64, float32, int64, bool and bfloat16 where PyTorch's operator has them (for `fft` complex128 too), at
most 30 samples of one dtype; complex inputs elsewhere, sparse and quantised tensors are not. Of what is drawn at random
only shapes and dtypes are compared.
"""


def _results(sums: dict[str, int]) -> list[tuple[str, int, int]]:
    return [
        ("operators found by name", sums["covered"], sums["covered"] + sums["missing"]),
        ("of these without any failure", sums["complete"], sums["covered"]),
        ("samples: structure, shapes, dtypes, values", sums["passed"], sums["samples"]),
        ("first gradients in float64", sums["gradients_passed"], sums["gradients"]),
        ("errors raised where PyTorch raises one", sums["errors_raised"], sums["errors"]),
        ("methods of the tensor", sums["methods_right"], sums["methods"]),
        ("in-place methods", sums["in_places_right"], sums["in_places"]),
        ("second names (`absolute` for `abs`)", sums["aliases_present"], sums["aliases"]),
    ]


def _array_api(counts: dict[str, Any]) -> str:
    if not counts:
        return "Not run yet."
    passed = _percent(counts["passed"], counts["passed"] + counts["failed"])
    return f"{passed} tests of `array-api-tests` pass (standard {counts['standard']}; {counts['skipped']} are skipped)."


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _code(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names)) or "Nothing."


def _row(name: str, row: dict[str, Any]) -> tuple[str, ...]:
    flag = {True: "yes", False: "no", None: "–"}
    counts = [_cell(row, tried) for tried in ("samples", "gradients", "errors")]
    return f"`{name}`", *counts, flag[row.get("method")], flag[row.get("in_place")]


def page(board: Board) -> str:
    """The page for people."""
    ops = board["ops"]
    reasons: dict[str, list[str]] = {}
    for name, row in ops.items():
        if row["status"] == "out of scope":
            reasons.setdefault(row["reason"], []).append(name)
    results = [(what, _percent(right, tried)) for what, right, tried in _results(totals(board))]
    covered = [_row(name, row) for name, row in sorted(ops.items()) if row["status"] == "covered"]
    return "\n".join(
        [
            HEAD,
            f"## PyTorch's operators ({board['torch']})\n",
            _table(("what", "right"), results) + "\n",
            HOW,
            f"## The array API standard\n\n{_array_api(board['array_api'])}\n",
            "## Missing\n",
            _code([name for name, row in ops.items() if row["status"] == "missing"]) + "\n",
            "## Out of scope\n",
            *(f"- {reason} ({len(names)}): {_code(names)}" for reason, names in sorted(reasons.items())),
            "\n## Operator by operator\n",
            _table(("operator", "samples", "gradients", "errors", "method", "in place"), covered) + "\n",
        ]
    )


def main(arguments: list[str]) -> int:
    board = load()
    floor = json.loads(FLOOR.read_text()) if FLOOR.exists() else {}
    if "--check" not in arguments:
        PAGE.write_text(page(board))
        return 0
    found = [*problems(board), *below_floor(board, floor)]
    if not PAGE.exists() or PAGE.read_text() != page(board):
        found.append(f"{PAGE.name} is not up to date: run python tests/conformance/scoreboard.py")
    sys.stderr.write("".join(f"{line}\n" for line in found))
    return bool(found)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
