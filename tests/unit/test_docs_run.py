"""The code in the docs runs: page by page, its Python blocks one after the other as one program, as a reader would.

A block followed by a `text` block prints what stands there; `…` stands for anything. What a page takes for granted (a
data set of the reader's, arguments) is made by its entry in `TAKEN_FOR_GRANTED`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    str(page.relative_to(ROOT)): page
    for page in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "benchmarks" / "README.md"])
    if "```python" in page.read_text(encoding="utf-8")
}
TAKEN_FOR_GRANTED = {
    "docs/how-to/load-data.md": (
        "import itertools; import numpy as np; read = None; from cordee.trainer import data; "
        "dataset = data.TensorDataset(np.zeros((200, 3), np.float32), np.zeros(200, np.int64))"
    ),
    "docs/how-to/exchange-with-other-libraries.md": (
        f"import shutil; shutil.copy({str(ROOT / 'tests' / 'golden' / 'torch' / 'everything.pt')!r}, 'training.pt')"
    ),
    "docs/reference/checkpoint-format.md": (
        "import numpy as np; from safetensors.numpy import save_file; "
        "save_file({'w': np.zeros(1)}, 'model.safetensors')"
    ),
}
_MARK = "-- block at line {} --"
_FENCE = re.compile(r"^ *```(\w*)")


@dataclass(frozen=True)
class Block:
    """A Python block: the number of its opening line, and what it is said to print (None: nothing is said)."""

    line: int
    printed: str | None


def program(text: str) -> tuple[str, list[Block]]:
    """A page as a program whose lines have the page's numbers, and its blocks."""
    code: list[str] = []
    blocks: list[Block] = []
    language: str | None = None
    told: list[str] | None = None
    indent, just_ended = 0, False
    for number, line in enumerate(text.splitlines(), 1):
        fence = _FENCE.match(line)
        out = ""
        if fence and language is None:
            language, indent = fence[1], len(line) - len(line.lstrip())
            if language == "python":
                blocks.append(Block(number, None))
                out = f"print({_MARK.format(number)!r})"
            told = [] if language == "text" and just_ended else None
        elif fence:
            just_ended = language == "python"
            if told is not None:
                blocks[-1] = Block(blocks[-1].line, "\n".join(told))
            language, told = None, None
        elif language == "python":
            out = line[indent:] if line.strip() else ""
        elif told is not None:
            told.append(line[indent:])
        elif language is None and line.strip():
            just_ended = False
        code.append(out)
    return "\n".join(code) + "\n", blocks


def agrees(printed: str, told: str) -> bool:
    """Whether what was printed is what the page tells, where `…` stands for anything."""
    pattern = ".*?".join(re.escape(part) for part in told.rstrip().split("…"))
    return re.fullmatch(pattern, printed.rstrip(), re.DOTALL) is not None


@pytest.mark.parametrize("name", PAGES)
def test_the_code_of_every_page_runs_and_prints_what_the_page_says(name: str, tmp_path: Path) -> None:
    code, blocks = program(PAGES[name].read_text(encoding="utf-8"))
    script = tmp_path / (PAGES[name].stem + ".py")
    before = f"exec({TAKEN_FOR_GRANTED.get(name, '')!r})"  # on the first line, which is the page's heading
    script.write_text(before + code[code.index("\n") :], encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CORDEE_")}
    ended = subprocess.run(
        [sys.executable, "-W", "error", script.name],
        env=environment | {"XDG_DATA_HOME": str(tmp_path / "data"), "CORDEE_DEVICE": os.environ["CORDEE_DEVICE"]},
        cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    rest = ended.stdout
    found: list[str] = []
    for block in reversed(blocks):
        rest, mark, printed = rest.rpartition(_MARK.format(block.line) + "\n")
        assert mark, f"the block at line {block.line} was not reached"
        found.append(printed)
    for block, printed in zip(blocks, reversed(found), strict=True):
        if block.printed is not None:
            assert agrees(printed, block.printed), f"{name}:{block.line} printed\n{printed}"


def test_what_is_taken_for_granted_is_of_pages_that_exist() -> None:
    assert TAKEN_FOR_GRANTED.keys() <= PAGES.keys()


def test_a_page_becomes_a_program_line_by_line() -> None:
    page = "# Title\n\n1. So:\n\n   ```python\n   print(\n       1)\n   ```\n\n   ```text\n   1\n   ```\n\n"
    page += "And\n\n```text\n2\n```\n"
    code, blocks = program(page)
    assert code.splitlines()[4:8] == ["print('-- block at line 5 --')", "print(", "    1)", ""]
    assert blocks == [Block(5, "1")]


@pytest.mark.parametrize(
    ("printed", "told", "same"),
    [
        ("a 1.25 b\n", "a 1.25 b", True),
        ("a 1.25 b\n", "a … b", True),
        ("a 1.25 c\n", "a … b", False),
        ("x\ny\nz\n", "x\n…\nz", True),
    ],
)
def test_a_wrong_output_is_seen(printed: str, told: str, same: bool) -> None:
    assert agrees(printed, told) is same
