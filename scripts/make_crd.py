"""Writes the custom resource definition for the chart, its status on its page, and the JSON Schemas for editors.

python scripts/make_crd.py            # rewrites the files
python scripts/make_crd.py --check    # changes nothing; exit code 1 when a file is not up to date
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from cordee.coordinator.config import config_schema
from cordee.coordinator.spec import job_schema
from cordee.k8s.crd import trainingjob_crd

ROOT = Path(__file__).resolve().parent.parent
CRD = ROOT / "helm" / "cordee" / "files" / "crds" / "trainingjobs.yaml"
PAGE = ROOT / "docs" / "reference" / "training-job.md"
SCHEMAS = ROOT / "docs" / "reference" / "schemas"

_HEAD = "# The custom resource TrainingJob. Written by scripts/make_crd.py from the job file's schema: do not edit.\n"


_BEGIN = "<!-- begin: written by scripts/make_crd.py -->"
_END = "<!-- end -->"


class _Plain(yaml.SafeDumper):
    """No aliases for what occurs twice."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
        return True


def tables(crd: dict[str, Any]) -> str:
    """The status and the columns, as the page has them."""
    version = crd["spec"]["versions"][0]
    status = version["schema"]["openAPIV3Schema"]["properties"]["status"]

    def rows(schema: dict[str, Any], path: str) -> Iterator[str]:
        for name, part in schema["properties"].items():
            here = f"{path}.{name}"
            yield f"| `{here}` | {part['description'].rstrip('.')} |"
            if part["type"] == "object":
                yield from rows(part, here)
            elif part["type"] == "array":
                yield from rows(part["items"], f"{here}[]")

    columns = [
        f"| {column['name']} | {column['description']} | {'' if column.get('priority') else 'yes'} |"
        for column in version["additionalPrinterColumns"]
    ]
    lines = ["## Status", "", "| field | what it is |", "|---|---|", *rows(status, "status"), ""]
    lines += ["| column | what it shows | without `-o wide` |", "|---|---|---|", *columns]
    return "\n".join(lines)


def page(crd: dict[str, Any]) -> str:
    """The reference page, with what is generated in its place."""
    head, begin, rest = PAGE.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, tail = rest.partition(_END)
    assert begin, f"{PAGE} has no {_BEGIN}"
    assert end, f"{PAGE} has no {_END}"
    return f"{head}{begin}\n\n{tables(crd)}\n\n{end}{tail}"


def files() -> dict[Path, str]:
    """Every file, and what it is to hold."""
    definition = trainingjob_crd()
    crd = yaml.dump(definition, Dumper=_Plain, sort_keys=False, width=120, allow_unicode=True)
    schemas = {"job": job_schema(), "config": config_schema()}
    return {
        CRD: _HEAD + crd,
        PAGE: page(definition),
        **{SCHEMAS / f"{name}.json": json.dumps(schema, indent=2) + "\n" for name, schema in schemas.items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Writes the custom resource definition and the JSON Schemas.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 when not up to date")
    check = parser.parse_args().check
    stale = {
        path: text for path, text in files().items() if not path.exists() or path.read_text(encoding="utf-8") != text
    }
    for path, text in stale.items():
        if check:
            sys.stderr.write(f"{path.relative_to(ROOT)} is not up to date: run python scripts/make_crd.py\n")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
