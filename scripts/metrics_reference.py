"""Writes the tables of docs/reference/metrics.md from the registry itself, so that they cannot drift.

python scripts/metrics_reference.py            # rewrites what stands between the page's markers
python scripts/metrics_reference.py --check    # changes nothing; exit code 1 when the page is not up to date
"""

import argparse
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from cordee.coordinator.service.metrics import FAMILIES, PROCESS, Family
from cordee.coordinator.service.metrics.families import JOB

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "metrics.md"


def table(families: Iterable[Family]) -> str:
    """Name, kind, labels beside a job's own, words."""
    lines = ["| metric | type | more labels | |", "|---|---|---|---|"]
    for family in families:
        labels = ", ".join(f"`{label}`" for label in family.labels if label not in JOB)
        lines.append(f"| `{family.name}` | {family.kind} | {labels + ' ' if labels else ''}| {family.help} |")
    return "\n".join(lines)


def render(page: str) -> str:
    """The page with its tables as they should be."""
    tables = {
        "coordinator": [family for family in FAMILIES if "job_id" not in family.labels],
        "jobs": [family for family in FAMILIES if "job_id" in family.labels and "worker" not in family.labels],
        "workers": [family for family in FAMILIES if "worker" in family.labels],
        "process": PROCESS,
    }
    for name, families in tables.items():
        begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        if len(pattern.findall(page)) != 1:
            raise SystemExit(f"{PAGE}: it needs the markers {begin} and {end}, once")
        text = f"{begin}\n{table(families)}\n{end}"
        page = pattern.sub(lambda _, text=text: text, page)  # type: ignore[misc]
    return page


def main() -> int:
    """Write, or check."""
    parser = argparse.ArgumentParser(description="Writes the tables of docs/reference/metrics.md.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if it is not up to date")
    old = PAGE.read_text(encoding="utf-8")
    new = render(old)
    if parser.parse_args().check:
        if old != new:
            print(f"{PAGE} is not up to date: python scripts/metrics_reference.py", file=sys.stderr)  # noqa: T201
        return int(old != new)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
