"""A job's source folder as one content-addressed file.

The script's folder travels with the job, so that what ran is exactly what was there at submission, on whatever machine.
The same folder gives the same bytes (sorted names, no times, no owners, two modes), hence the same sha256: it is sent
once, however often it is submitted.

What is left out: folders whose name begins with a dot (`.git`, `.venv`, caches), `__pycache__`, `node_modules`, virtual
environments by any name, Cordee's own state folders (`--state here` beside the script), and what `.cordeeignore` in the
folder's root says, in `.gitignore`'s notation. Links are followed only where they stay inside the folder; a link out of
it is skipped and named in `Bundle.skipped`, because packing `data -> /` by accident would be worse than saying so.
"""

import gzip
import hashlib
import io
import os
import re
import stat
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cordee.coordinator.errors import CoordinatorError

__all__ = ["IGNORE_FILE", "MAX_BUNDLE_BYTES", "Bundle", "BundleError", "pack", "pack_files"]

MAX_BUNDLE_BYTES: Final = 64 << 20
MAX_FILES: Final = 20_000
IGNORE_FILE: Final = ".cordeeignore"

_SKIPPED_FOLDERS: Final = frozenset({"__pycache__", "node_modules"})
_SKIPPED_SUFFIXES: Final = (".pyc", ".pyo")
_MARKS: Final = ("pyvenv.cfg", "coordinator.lock")  # a folder with such a file is a virtual environment, a state folder
_NUM_NAMED: Final = 5


class BundleError(CoordinatorError):
    """The source folder cannot travel with the job."""

    code = "invalid"


@dataclass(frozen=True)
class Bundle:
    """A packed source folder. `names` are the files in it, `skipped` the links that were not followed and why."""

    data: bytes
    sha256: str
    names: tuple[str, ...]
    skipped: tuple[str, ...] = ()

    @property
    def num_files(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class _File:
    name: str
    path: Path
    num_bytes: int
    executable: bool


def pack(source: Path, *, max_bytes: int = MAX_BUNDLE_BYTES) -> Bundle:
    """Pack a folder, or say in one sentence why it cannot be packed."""
    root = source.resolve()
    if not root.is_dir():
        reason = "is not a folder" if root.exists() else "does not exist"
        raise BundleError(f"the source folder {source} {reason}", "give the folder that holds the script: --source DIR")
    skipped: list[str] = []
    files: list[_File] = []
    for file in _Walk(root, _Ignore.read(root), skipped).files(root, "", (root,)):
        files.append(file)
        if len(files) > MAX_FILES:
            raise BundleError(
                f"the source folder {source} holds more than {MAX_FILES:,} files, more than travel with a job",
                _advice(source),
            )
    files.sort(key=lambda file: os.fsencode(file.name))
    if sum(file.num_bytes for file in files) > max_bytes:
        raise _too_large(source, files, max_bytes)
    data = _compress((file.name, file.executable, _read(file)) for file in files)
    if len(data) > max_bytes:
        raise _too_large(source, files, max_bytes)
    return Bundle(data, hashlib.sha256(data).hexdigest(), tuple(file.name for file in files), tuple(sorted(skipped)))


@dataclass(frozen=True)
class _Walk:
    """One pass over a source folder."""

    root: Path
    ignore: "_Ignore"
    skipped: list[str]

    def files(self, folder: Path, prefix: str, ancestors: tuple[Path, ...]) -> Iterator[_File]:
        """The files below `folder` that travel; `ancestors` are the real folders above it, to end circles of links."""
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise BundleError(f"the folder {folder} cannot be read: {error.strerror}", _advice(self.root)) from None
        for entry in entries:
            name = prefix + entry.name
            path = Path(entry.path)
            if self.ignore.matches(name, is_folder=entry.is_dir()):
                continue
            if entry.is_symlink():
                reason = _why_not_followed(path, self.root, ancestors)
                if reason:
                    self.skipped.append(f"{name} ({reason})")
                    continue
            if entry.is_dir():
                if not _is_skipped_folder(path):
                    yield from self.files(path, name + "/", (*ancestors, path.resolve()))
            elif entry.is_file() and not entry.name.endswith(_SKIPPED_SUFFIXES):
                status = entry.stat()
                yield _File(name, path, status.st_size, bool(status.st_mode & stat.S_IXUSR))


def _is_skipped_folder(path: Path) -> bool:
    if path.name.startswith(".") or path.name in _SKIPPED_FOLDERS:
        return True
    return any((path / mark).is_file() for mark in _MARKS)


def _why_not_followed(link: Path, root: Path, ancestors: tuple[Path, ...]) -> str:
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError):
        return "a link that leads nowhere"
    if not target.is_relative_to(root):
        return "a link that leads out of the folder"
    if target in ancestors:
        return "a link to a folder it lies in"
    if any(part.startswith(".") or part in _SKIPPED_FOLDERS for part in target.relative_to(root).parts[:-1]):
        return "a link into a folder that is left out"
    return ""


def pack_files(files: Mapping[str, bytes]) -> Bundle:
    """Pack files that lie in no folder: a ConfigMap's. The same as a folder with these files would give."""
    names = sorted(files, key=os.fsencode)
    data = _compress((name, False, files[name]) for name in names)
    return Bundle(data, hashlib.sha256(data).hexdigest(), tuple(names))


def _compress(files: Iterable[tuple[str, bool, bytes]]) -> bytes:
    """An archive of files: each one's name, whether it can be executed, and what is in it."""
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=buffer, compresslevel=6, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, executable, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.mode = 0o755 if executable else 0o644
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _read(file: _File) -> bytes:
    try:
        return file.path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"the file {file.path} cannot be read: {error.strerror}",
            f"make it readable, or name it in {IGNORE_FILE}",
        ) from None


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / (1 << 20):.1f} MiB" if num_bytes >= 1 << 20 else f"{num_bytes / (1 << 10):.1f} KiB"


def _advice(source: Path) -> str:
    return f"name what the script does not need in {source / IGNORE_FILE}, or choose a smaller folder with --source DIR"


def _too_large(source: Path, files: list[_File], max_bytes: int) -> BundleError:
    largest = sorted(files, key=lambda file: file.num_bytes, reverse=True)[:_NUM_NAMED]
    named = ", ".join(f"{file.name} ({_mib(file.num_bytes)})" for file in largest)
    total = _mib(sum(file.num_bytes for file in files))
    return BundleError(
        f"the source folder {source} holds {total} in {len(files):,} files, more than the {_mib(max_bytes)} that "
        f"travel with a job; the largest: {named}",
        f"{_advice(source)}; keep data outside of it and pass its path to the script",
    )


class _Ignore:
    """`.cordeeignore`: a pattern per line, the last match wins, in `.gitignore`'s notation."""

    def __init__(self, lines: list[str]) -> None:
        self._rules = [rule for line in lines if (rule := _rule(line)) is not None]

    @classmethod
    def read(cls, root: Path) -> "_Ignore":
        path = root / IGNORE_FILE
        try:
            return cls(path.read_text(encoding="utf-8").splitlines())
        except FileNotFoundError:
            return cls([])
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError(f"{path} cannot be read: {error}", "make it a text file, a pattern per line") from None

    def matches(self, name: str, *, is_folder: bool) -> bool:
        ignored = False
        for pattern, negated, folders_only in self._rules:
            if (is_folder or not folders_only) and pattern.fullmatch(name):
                ignored = not negated
        return ignored


def _rule(line: str) -> tuple[re.Pattern[str], bool, bool] | None:
    """One line as (pattern on the whole path, negated, folders only)."""
    text = line.rstrip()
    if not text or text.startswith("#"):
        return None
    negated = text.startswith("!")
    text = text.removeprefix("!").removeprefix("\\")
    folders_only = text.endswith("/")
    text = text.rstrip("/")
    anchored = "/" in text
    text = text.lstrip("/")
    if not text:
        return None
    try:
        pattern = re.compile(("" if anchored else "(?:.*/)?") + _translate(text), re.DOTALL)
    except re.error:  # an unclosed or reversed [set]: taken literally, like a shell does
        pattern = re.compile(("" if anchored else "(?:.*/)?") + re.escape(text))
    return pattern, negated, folders_only


_GLOB: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"\*\*/"), r"(?:.*/)?"),
    (re.compile(r"/\*\*$"), r"/.*"),
    (re.compile(r"\*+"), r"[^/]*"),
    (re.compile(r"\?"), r"[^/]"),
)
_SET: Final = re.compile(r"\[(!?)(\]?[^\]/]*)\]")


def _translate(glob: str) -> str:
    """A glob as a regular expression: `*` and `?` stay within a folder, `**` crosses folders."""
    out, at = "", 0
    while at < len(glob):
        if found := _SET.match(glob, at):
            members = found[2].replace("\\", "\\\\").replace("[", "\\[").replace("^", "\\^")
            out, at = out + f"[{'^' if found[1] else ''}{members}]", found.end()
            continue
        for pattern, replacement in _GLOB:
            if found := pattern.match(glob, at):
                out, at = out + replacement, found.end()
                break
        else:
            out, at = out + re.escape(glob[at]), at + 1
    return out
