"""Runs the array API's own test suite against `cordee.trainer.array_api`, and puts its counts on the scoreboard.

    git clone --recurse-submodules https://github.com/data-apis/array-api-tests
    pip install -r array-api-tests/requirements.txt
    python tests/conformance/array_api.py array-api-tests --show-failures
    python tests/conformance/array_api.py array-api-tests --update
    python tests/conformance/array_api.py array-api-tests -k test_linalg    # arguments for pytest

The suite draws its cases at random; `--update` fixes the seed. Never does a lower count get written than
`floor.json` has.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # the files beside this one

from scoreboard import FLOOR, PAGE, below_floor, load, page, raise_floor, save

STANDARD = "2024.12"

BY_DECISION = {
    "floordiv|floor_divide": "infinities as in NumPy and PyTorch",
    r"test_unary\[(expm1|tanh)\(": "complex infinities as in NumPy",
}
"""What does not pass, and why; it is run and counted as failed like anything else."""


def _reason(name: str) -> str:
    return next((reason for pattern, reason in BY_DECISION.items() if re.search(pattern, name)), "")


def run(checkout: Path, examples: int, rest: list[str]) -> dict[str, Any]:
    """The suite's report."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "array_api_tests",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:randomly",
        ]
        command += ["--json-report", f"--json-report-file={report}", "--json-report-omit", "keywords", "streams"]
        command += ["--max-examples", str(examples), "--derandomize", "--disable-deadline", *rest]
        environment = {
            **os.environ,
            "ARRAY_API_TESTS_MODULE": "cordee.trainer.array_api",
            "ARRAY_API_TESTS_VERSION": STANDARD,
        }
        subprocess.run(command, cwd=checkout, env=environment, check=False, stdout=sys.stderr)
        if not report.exists():
            raise SystemExit(
                f"{checkout}: the suite did not run: is it a checkout with its submodule and requirements?"
            )
        found: dict[str, Any] = json.loads(report.read_text())
        return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkout", type=Path, help="a checkout of array-api-tests, with its submodule")
    parser.add_argument("--examples", type=int, default=40, help="examples per test")
    parser.add_argument("--update", action="store_true", help="write the counts to the scoreboard")
    parser.add_argument("--show-failures", action="store_true")
    options, rest = parser.parse_known_args()
    tests = run(options.checkout, options.examples, rest)["tests"]
    outcomes = Counter(test["outcome"] for test in tests)
    failed = {test["nodeid"]: test for test in tests if test["outcome"] in ("failed", "error")}
    print(f"passed {outcomes['passed']}, failed {len(failed)}, skipped {outcomes['skipped'] + outcomes['xfailed']}")
    for name, test in sorted(failed.items()) if options.show_failures else ():
        short = name.removeprefix("array_api_tests/")
        message = next((test[p]["crash"]["message"] for p in ("call", "setup") if "crash" in test.get(p, {})), "")
        print(f"{short}  {_reason(short)}\n    {' '.join(message.split())[:300]}")
    if options.update:
        counts = {"standard": STANDARD, "passed": outcomes["passed"], "failed": len(failed)}
        board = load()
        board["array_api"] = {**counts, "skipped": outcomes["skipped"] + outcomes["xfailed"]}
        if fallen := below_floor(board, json.loads(FLOOR.read_text()) if FLOOR.exists() else {}):
            print("a total fell, nothing is written:\n" + "\n".join(fallen), file=sys.stderr)
            return 1
        save(board)
        raise_floor(board)
        PAGE.write_text(page(board))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
