"""Data sets to begin with: one that comes with the package, and what reads common files into arrays.

`digits` is the test part of "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak, 1998, UCI Machine
Learning Repository, https://doi.org/10.24432/C50P49, licence CC BY 4.0), as scikit-learn's `load_digits` has it: 1,797
images of 8 × 8 pixels, grey values from 0 to 16. `tests/golden/make_digits.py` makes the file. Nothing is downloaded
unless `download` is told from where.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cordee.trainer.data.text import CharTokenizer

__all__ = ["CharTokenizer", "csv", "digits", "download", "npz", "text"]

PathLike: TypeAlias = "str | os.PathLike[str]"


def digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Handwritten digits: images of shape `(1797, 8, 8)`, grey values from 0 to 16, and labels of shape `(1797,)`.

    The samples are ordered by writer, so the last part of them tests on people that the first part does not know.
    """
    with (
        resources.files("cordee.trainer.data").joinpath("digits.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as arrays,
    ):
        return arrays["images"].astype(np.float32), arrays["labels"].astype(np.int64)


def text(path: PathLike, tokenizer: CharTokenizer | None = None) -> tuple[NDArray[np.int64], CharTokenizer]:
    """The characters of a text file as numbers of shape `(num_characters,)`, and the tokenizer that knows them.

        ids, tokenizer = data.datasets.text("input.txt")
        train = data.TokenDataset(ids[: len(ids) * 9 // 10], context=64, stride=1)

    Args:
        path: a file in UTF-8. Line ends are taken as they are.
        tokenizer: one that is known already, say that of the training text; else the text's own characters.
    """
    with Path(path).open(encoding="utf-8", newline="") as file:
        content = file.read()
    tokenizer = tokenizer or CharTokenizer(content)
    return tokenizer.encode(content), tokenizer


def npz(path: PathLike, *names: str) -> tuple[NDArray[Any], ...]:
    """The arrays of a `.npz` file: those of these names, or all, in the file's order.

    Raises:
        KeyError: the file has no array of that name.
    """
    with np.load(path, allow_pickle=False) as arrays:
        missing = [name for name in names if name not in arrays.files]
        if missing:
            raise KeyError(f"{path} has no array {missing[0]!r}; it has {', '.join(arrays.files)}")
        return tuple(arrays[name] for name in names or arrays.files)


def csv(
    path: PathLike,
    target: str | int | None = None,
    *,
    delimiter: str = ",",
    header: bool = True,
    dtype: DTypeLike = np.float32,
    target_dtype: DTypeLike = np.int64,
) -> tuple[NDArray[Any], ...]:
    """The columns of numbers of a CSV file: `(features,)` of shape `(num_rows, num_columns)`, or `(features, target)`.

    Args:
        path: the file, in UTF-8.
        target: the column to take out, by name or number (-1 is the last); it comes as a second array `(num_rows,)`.
        delimiter: what is between columns.
        header: whether the first line has names.
        dtype: the type of the features.
        target_dtype: the type of the target.

    Raises:
        ValueError: there is no such column, or a cell holds no number.
    """
    with Path(path).open(encoding="utf-8-sig") as file:
        names = [name.strip().strip('"') for name in file.readline().split(delimiter)] if header else []
        try:
            table = np.loadtxt(file, np.float64, delimiter=delimiter, quotechar='"', ndmin=2)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    if target is None:
        return (table.astype(dtype),)
    if isinstance(target, str) and target not in names:
        raise ValueError(f"{path} has no column {target!r}; it has {', '.join(names) or 'no header'}")
    column = names.index(target) if isinstance(target, str) else target
    if not -table.shape[1] <= column < table.shape[1]:
        raise ValueError(f"{path} has {table.shape[1]} columns, there is none with the number {column}")
    return np.delete(table, column, axis=1).astype(dtype), table[:, column].astype(target_dtype)


def download(url: str, path: PathLike, sha256: str) -> Path:
    """Brings a file here, unless it is here already; checks it, and gives its path.

    Args:
        url: from where: http, https or file.
        path: to where. It appears there only when it is whole and right.
        sha256: what the file is to hash to, in hexadecimal digits.

    Raises:
        ValueError: what is there, or what has come, is another file.
        OSError: it cannot be brought or written.
    """
    import urllib.parse  # here: they bring half of the network code along
    import urllib.request

    target = Path(path)
    if target.exists():
        _check_hash(_hash(target), sha256, f"{target} is there already, and")
        return target
    if urllib.parse.urlsplit(url).scheme not in ("http", "https", "file"):
        raise ValueError(f"url must begin with https:, http: or file:, got {url!r}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
        temporary = Path(file.name)
        try:
            found = hashlib.sha256()
            with urllib.request.urlopen(url, timeout=60) as response:  # noqa: S310 (the scheme is checked above)
                while chunk := response.read(1 << 20):
                    found.update(chunk)
                    file.write(chunk)
            _check_hash(found.hexdigest(), sha256, f"what came from {url}")
            file.flush()
            temporary.replace(target)  # several workers may do so at once: each brings the same
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    return target


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_hash(found: str, expected: str, what: str) -> None:
    if found != expected.lower():
        raise ValueError(f"{what} has the SHA-256 {found}, not {expected.lower()}: it is another file")
