"""`python -P -m cordee.trainer.doctor`: all findings as one JSON object, for whoever may not import the trainer.

Exit codes: 0 done, 2 the environment says something that cannot be: the object has `error` alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from cordee.trainer.doctor.findings import examine
from cordee.trainer.doctor.gains import measure
from cordee.trainer.errors import KernelError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the findings."""
    parser = argparse.ArgumentParser(description="Says what computes here, and what it gains.")
    parser.add_argument("--no-measure", action="store_true", help="only look, run nothing")
    given = parser.parse_args(arguments)
    answer: dict[str, Any]
    try:
        answer = examine()
        answer["gains"] = None if given.no_measure else measure()
        code = 0
    except KernelError as error:
        answer, code = {"error": str(error)}, 2
    sys.stdout.write(json.dumps(answer) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
