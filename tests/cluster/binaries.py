"""Where the programs are that the cluster tests run: built by `tests/cluster/tools/build`, or the distribution's."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import shutil
from pathlib import Path
from types import ModuleType

__all__ = ["HOW_TO_GET", "binary", "missing", "search_path"]

HOW_TO_GET = (
    "the cluster's programs are missing ({missing}): run tests/cluster/tools/build, which needs Go and takes minutes "
    "the first time (tests/cluster/README.md)"
)


def _load_builder() -> ModuleType:
    """The build script knows where it puts things; it has no `.py`, for it is a command."""
    path = Path(__file__).parent / "tools" / "build"
    loader = importlib.machinery.SourceFileLoader("cluster_tools_build", str(path))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


_builder = _load_builder()


def binary(name: str) -> Path:
    """Where a program is."""
    for module in _builder.MODULES:
        if name in _builder.programs(module):
            return Path(_builder.folder(module) / name)
    if (found := shutil.which(name)) is None:
        raise FileNotFoundError(f"{name} is not on PATH: Debian's package `prometheus` has prometheus and promtool")
    return Path(found)


def missing() -> list[str]:
    """What `tests/cluster/tools/build` would have to build."""
    return [str(entry) for entry in _builder.missing()]


def search_path() -> str:
    """A PATH on which kubectl, helm and the others come first."""
    return os.pathsep.join([*(str(_builder.folder(module)) for module in _builder.MODULES), os.environ["PATH"]])
