"""Makes `ported.npz`: the losses that PyTorch reaches in the ported scripts (needs PyTorch).

The scripts are those of `tests/unit/trainer/ported_*.py`, functions of the library's names.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np

TARGET = Path(__file__).with_name("ported.npz")
HERE = Path(__file__).resolve().parents[1] / "unit" / "trainer"
NUM_STEPS = 20
FAMILIES = ("ported_vision", "ported_language", "ported_generative", "ported_autograd")
GAMES = frozenset(("dcgan", "wgan_gp", "reinforce", "actor_critic"))
"""Scripts whose loss need not fall: two players, or a loss that is no measure of success."""

sys.path.insert(0, str(HERE))
try:
    support = importlib.import_module("ported_support")
    _families = [importlib.import_module(name) for name in FAMILIES]
finally:
    sys.path.remove(str(HERE))


def scripts() -> dict[str, Any]:
    """Every script by name."""
    return {script.__name__: script for family in _families for script in family.SCRIPTS}


def main() -> None:
    names = support.torch_names()
    found: dict[str, Any] = {}
    for name, script in scripts().items():
        names.torch.manual_seed(0)
        found[name] = np.array(script(names, NUM_STEPS))
    np.savez(TARGET, **found)


if __name__ == "__main__":
    main()
