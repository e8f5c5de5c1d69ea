"""The words for people stay true: links lead somewhere, code compiles, commands exist, tables match the code."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer.main

from cordee.coordinator.cli import app
from cordee.coordinator.cli.errors import ExitCode
from cordee.worker import exit_codes

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "benchmarks" / "README.md"])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<body>.*?)^(?P=indent)```", re.MULTILINE | re.DOTALL
)
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_LINK = re.compile(r"\[[^\]]*\]\(\s*([^)\s]+)\s*\)|<(?:img|a|source)\b[^>]*?\b(?:src|href|srcset)=\"([^\"]+)\"")
_HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*$", re.MULTILINE)
_SHELLS = {"bash", "console", "sh", "shell"}


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Fenced blocks: language and body, without the fence's own indentation."""
    for match in _FENCE.finditer(text):
        indent = match["indent"]
        yield match["language"], "\n".join(line.removeprefix(indent) for line in match["body"].splitlines()) + "\n"


def prose(text: str) -> str:
    return _FENCE.sub("", text)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    found: set[str] = set()
    for heading in _HEADING.findall(prose(text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    broken = []
    for groups in _LINK.findall(prose(text)):
        target = groups[0] or groups[1]
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or not file.is_relative_to(ROOT):
            broken.append(f"{target}: there is no such file")
        elif anchor and file.suffix == ".md" and anchor not in anchors(file.read_text(encoding="utf-8")):
            broken.append(f"{target}: {file.name} has no such heading")
    assert not broken


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, ahead = set(), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in reached or page.suffix != ".md" or not page.exists():
            continue
        reached.add(page)
        for groups in _LINK.findall(prose(page.read_text(encoding="utf-8"))):
            target = (groups[0] or groups[1]).partition("#")[0]
            if target and ":" not in target:
                ahead.append((page.parent / target).resolve())
    assert set(PAGES) <= reached


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_python_block_compiles(page: Path) -> None:
    for language, body in blocks(page.read_text(encoding="utf-8")):
        if language == "python":
            compile(body, f"{page.name}", "exec")


# -- commands ---------------------------------------------------------------------------------------------------------


def shell_lines(text: str) -> Iterator[str]:
    """What a page tells the reader to type: console lines after a prompt, lines of shell blocks, inline commands."""
    for language, body in blocks(text):
        if language not in _SHELLS:
            continue
        joined = body.replace("\\\n", " ")
        if language == "console":
            yield from (line[2:] for line in joined.splitlines() if line.startswith("$ "))
        else:
            yield from (line for line in joined.splitlines() if line.strip() and not line.startswith("#"))
    yield from (code for code in _INLINE.findall(prose(text)) if code.startswith("cordee "))


def cordee_commands(text: str) -> Iterator[list[str]]:
    """The words after `cordee` of every command in the lines of a page."""
    for line in shell_lines(text):
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        lexer.commenters = "#"
        words = list(lexer)
        for start, word in enumerate(words):
            if word != "cordee" or (
                start and not re.fullmatch(r"[;&|()$]+|.*\$\(?|[A-Z_]+=.*|time|timeout", words[start - 1])
            ):
                continue
            command: list[str] = []
            for part in words[start + 1 :]:
                if re.fullmatch(r"[;&|<>()]+", part):
                    break
                command.append(part)
            yield command


@cache
def scripts_text() -> str:
    """Where the options of a script are looked up: the examples, and the scripts that the pages themselves show."""
    shown = (
        body for page in PAGES for language, body in blocks(page.read_text(encoding="utf-8")) if language == "python"
    )
    return "\n".join([*(path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("examples/*.py"))), *shown])


def problem_of(words: list[str]) -> str:
    """What is wrong with a command; empty: nothing."""
    group = typer.main.get_command(app)
    ours = {option: parameter for parameter in group.params for option in parameter.opts}
    while words and words[0].startswith("-"):
        if words[0] not in ours.keys() | {"-h", "--help"}:
            return f"cordee has no option {words[0]}"
        words = words[1 if getattr(ours.get(words[0]), "is_flag", True) else 2 :]
    if not words or words[0].isupper() or words[0].startswith("…"):
        return ""
    name, *rest = words
    command = group.commands.get(name)  # type: ignore[attr-defined]
    if command is None:
        return f"there is no command {name!r}"
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    takes_script = name in {"run", "submit"}
    for word in rest:
        if word == "--":
            break
        if not re.match(r"--?[A-Za-z]", word):
            continue
        option = word.partition("=")[0]
        if option in known | {"-h", "--help"} or (takes_script and f'"{option}"' in scripts_text()):
            continue
        return f"cordee {name} has no option {option}"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_cordee_command_and_option_exists(page: Path) -> None:
    problems = {
        " ".join(words): problem
        for words in cordee_commands(page.read_text(encoding="utf-8"))
        if (problem := problem_of(words))
    }
    assert not problems


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("`cordee rum x.py`", "there is no command 'rum'"),
        ("```bash\npip install . && cordee run x.py --worker 3\n```\n", "cordee run has no option --worker"),
        ("```console\n$ cordee jobs --wide\nid  name\n```\n", "cordee jobs has no option --wide"),
        ("```console\n$ cordee run x.py -- --worker 3 | cat\n```\n", ""),
        ("```bash\ncordee jobs -o wide > jobs.txt\n```\n", ""),
    ],
)
def test_the_check_of_commands_sees_what_is_wrong(text: str, problem: str) -> None:
    (words,) = cordee_commands(text)
    assert problem_of(words) == problem


# -- what the pages say of the code -----------------------------------------------------------------------------------


def rows(page: Path, columns: int) -> list[list[str]]:
    """The cells of a page's tables that have at least so many columns, without heads."""
    found = []
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("|") and not set(line) <= set("|-: "):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if len(cells) >= columns:
                found.append(cells)
    return found


def test_the_changelog_has_an_entry_for_the_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[{re.escape(version)}\]", text, re.MULTILINE)
    assert "## [Unreleased]" in text


def test_the_readme_has_the_two_install_lines() -> None:
    lines = [line for _, body in blocks((ROOT / "README.md").read_text(encoding="utf-8")) for line in body.splitlines()]
    assert "python -m pip install -e '.[fast]' && cordee run examples/digits.py --workers 1:3" in lines
    assert "python -m pip install -e '.[test]' && pytest" in lines


@pytest.mark.parametrize("script", ["engine_reference", "metrics_reference"])
def test_the_tables_made_from_code_are_up_to_date(script: str) -> None:
    checked = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / f"{script}.py"), "--check"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stderr


def test_the_exit_codes_page_lists_every_code() -> None:
    listed = [int(row[0]) for row in rows(ROOT / "docs/reference/exit-codes.md", 2) if row[0].isdigit()]
    workers = {value for name, value in vars(exit_codes).items() if name.isupper() and isinstance(value, int)}
    assert listed == sorted(ExitCode) + sorted(workers)


def test_the_exit_codes_page_says_which_codes_are_final() -> None:
    answers = {int(row[0]): row[2] for row in rows(ROOT / "docs/reference/exit-codes.md", 3) if row[0].isdigit()}
    assert {code for code, answer in answers.items() if answer == "no"} == exit_codes.FINAL


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_no_page_names_a_place_on_somebodys_machine(page: Path) -> None:
    found = re.findall(r"(?:/home/|/root/|/work/|/Users/)[\w./-]+", page.read_text(encoding="utf-8"))
    assert not found
