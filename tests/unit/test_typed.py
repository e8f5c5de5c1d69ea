"""Every package that is shipped tells type checkers that it is typed (PEP 561)."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_shipped_package_is_marked_as_typed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    roots = [ROOT / path for path in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]
    packages = [
        folder for root in roots for folder in root.iterdir() if folder.is_dir() and folder.name != "__pycache__"
    ]
    assert len(packages) >= 4
    assert [package.name for package in packages if not (package / "py.typed").exists()] == []
