"""Laws of data in files: what comes out is what is in them, and only what is looked at is read."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from cordee.trainer.data import DataLoader, MemmapDataset, RandomSampler, TensorDataset, TokenDataset, datasets
from cordee.trainer.data.shared import Packed, pack, unpack

KINDS = [{}, {"num_workers": 2}, pytest.param({"num_workers": 2, "workers": "processes"}, marks=pytest.mark.slow)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """30 samples of two fields, in one file each and in three parts each."""
    x, y = np.arange(60, dtype=np.float32).reshape(30, 2), np.arange(30)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    for name, array in (("x", x), ("y", y)):
        (tmp_path / name).mkdir()
        for part, (start, stop) in enumerate(((0, 7), (7, 8), (8, 30))):
            np.save(tmp_path / name / f"{part:03}.npy", array[start:stop])
    return tmp_path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("names", [("x.npy", "y.npy"), ("x", "y"), ("x", "y.npy")])
def test_files_and_folders_give_the_arrays_in_them(folder: Path, names: tuple[str, ...], kind: dict[str, Any]) -> None:
    dataset = MemmapDataset(*(folder / name for name in names))
    assert len(dataset) == 30
    seen = []
    for x, y in DataLoader(dataset, 8, shuffle=True, **kind):
        assert (x.numpy()[:, 0] == 2 * y.numpy()).all()
        assert (x.dtype, y.dtype) == (np.float32, np.int64)
        seen.extend(y.tolist())
    assert sorted(seen) == list(range(30))
    x, y = dataset[-1]
    assert (x.tolist(), int(y)) == ([58, 59], 29)


def test_a_mapped_file_is_sent_by_name(folder: Path) -> None:
    big = folder / "big.npy"
    np.save(big, np.zeros((1000, 100), order="F"))
    array = np.load(big, mmap_mode="r")
    for value in (TensorDataset(array), MemmapDataset(big)):
        packed = pack(value)
        assert len(packed.head) + packed.space < 2000
        assert np.array_equal(unpack(packed.head, views(packed), copy=False).fetch(np.arange(3))[0], array[:3])
    part = pack(array[10:20])  # a part of one is sent as what it holds
    assert np.array_equal(unpack(part.head, views(part), copy=True), array[10:20])


def views(packed: Packed) -> list[Any]:
    return [np.frombuffer(buffer, np.uint8) for buffer in packed.buffers]


def test_what_is_not_looked_at_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "tokens.bin"
    with path.open("wb") as file:
        file.truncate(8 << 30)  # 8 GB of zeros that take no place
    process = psutil.Process()
    before = process.memory_info().rss
    dataset = TokenDataset(path, context=1024, stride=1)
    assert len(dataset) == (8 << 30) // 2 - 1024
    loader = DataLoader(dataset, 16, sampler=RandomSampler(dataset, num_samples=160))
    assert sum(len(batch) for batch in loader) == 160
    assert process.memory_info().rss - before < 100e6


@pytest.mark.parametrize("suffix", [".bin", ".npy"])
@pytest.mark.parametrize("stride", [None, 1, 3])
def test_windows_are_stretches_and_targets_one_ahead(tmp_path: Path, suffix: str, stride: int | None) -> None:
    tokens = np.arange(100, 131, dtype=np.uint16)
    path = tmp_path / f"tokens{suffix}"
    if suffix == ".bin":
        tokens.tofile(path)
    else:
        np.save(path, tokens)
    for given in (path, tokens, tokens.tolist()):
        dataset = TokenDataset(given, 5, stride=stride)
        starts = range(0, 31 - 5, stride or 5)
        assert len(dataset) == len(starts)
        for index, start in enumerate(starts):
            x, y = dataset[index]
            assert x.tolist() == tokens[start : start + 5].tolist()
            assert y.tolist() == tokens[start + 1 : start + 6].tolist()
            assert x.dtype == y.dtype == np.int64
    (batch,) = DataLoader(dataset, len(dataset))
    assert batch.x.shape == batch.y.shape == (len(dataset), 5)


def test_a_text_is_its_characters(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes("Zwölf Boxkämpfer 🥊\r\njagen\n".encode())
    ids, tokenizer = datasets.text(path)
    assert tokenizer.decode(ids) == "Zwölf Boxkämpfer 🥊\r\njagen\n"
    assert len(tokenizer) == len(set(tokenizer.decode(ids)))
    assert ids.max() == len(tokenizer) - 1
    assert tokenizer.characters == "".join(sorted(tokenizer.characters))
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again.encode("Box").tolist() == tokenizer.encode("Box").tolist()
    assert datasets.text(path, datasets.CharTokenizer(tokenizer.characters + "q"))[0].tolist() != []
    with pytest.raises(ValueError, match="'Q' is not among the"):
        tokenizer.encode("BoxQ")
    with pytest.raises(ValueError, match="at least one character"):
        datasets.CharTokenizer("")


def test_a_table_is_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text('\ufeff"width",height,label\n1.5,2,0\n3,4e1,1\n', encoding="utf-8")
    (table,) = datasets.csv(path)
    assert (table.dtype, table.tolist()) == (np.float32, [[1.5, 2, 0], [3, 40, 1]])
    for target in ("label", 2, -1):
        x, y = datasets.csv(path, target)
        assert (x.tolist(), y.tolist(), y.dtype) == ([[1.5, 2], [3, 40]], [0, 1], np.int64)
    (x,) = DataLoader(TensorDataset(*datasets.csv(path, "width", target_dtype=np.float32)), 2)
    assert x[1].tolist() == [1.5, 3.0]
    path.write_text("1;2\n")
    assert datasets.csv(path, header=False, delimiter=";")[0].tolist() == [[1, 2]]
    with pytest.raises(ValueError, match="no column 'depth'; it has no header"):
        datasets.csv(path, "depth", header=False, delimiter=";")
    with pytest.raises(ValueError, match="2 columns, there is none with the number 2"):
        datasets.csv(path, 2, header=False, delimiter=";")
    path.write_text("a,b\n1,x\n")
    with pytest.raises(ValueError, match=r"table.csv: .*'x'"):
        datasets.csv(path)


def test_an_archive_is_its_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.ones(3), y=np.zeros(3))
    assert [array.tolist() for array in datasets.npz(tmp_path / "a.npz")] == [[1, 1, 1], [0, 0, 0]]
    assert datasets.npz(tmp_path / "a.npz", "y")[0].tolist() == [0, 0, 0]
    with pytest.raises(KeyError, match="no array 'z'; it has x, y"):
        datasets.npz(tmp_path / "a.npz", "x", "z")


def test_a_download_is_the_file_that_was_meant_or_none(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"words" * 1000)
    right = hashlib.sha256(source.read_bytes()).hexdigest()
    target = tmp_path / "deep" / "target"
    with pytest.raises(ValueError, match="it is another file"):
        datasets.download(source.as_uri(), target, "0" * 64)
    assert list(target.parent.iterdir()) == []
    assert datasets.download(source.as_uri(), target, right.upper()) == target
    assert target.read_bytes() == source.read_bytes()
    source.unlink()
    assert datasets.download(source.as_uri(), target, right) == target  # it is here already
    target.write_bytes(b"other")
    with pytest.raises(ValueError, match="is there already, and has the SHA-256"):
        datasets.download(source.as_uri(), target, right)
    with pytest.raises(ValueError, match="url must begin with https:, http: or file:"):
        datasets.download("ftp://host/file", tmp_path / "new", right)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda f: MemmapDataset(), ValueError, "at least one file or folder"),
        (lambda f: MemmapDataset(f / "nothing.npy"), FileNotFoundError, "nothing.npy"),
        (lambda f: (f / "empty").mkdir() or MemmapDataset(f / "empty"), FileNotFoundError, "no .npy file in"),
        (lambda f: np.save(f / "s.npy", np.float32(1)) or MemmapDataset(f / "s.npy"), ValueError, "holds a scalar"),
        (lambda f: np.save(f / "z.npy", np.ones(4)) or MemmapDataset(f / "x.npy", f / "z.npy"), ValueError,
         r"equally many samples: .*x.npy 30, .*z.npy 4"),
        (lambda f: np.save(f / "x" / "zz.npy", np.ones((1, 3))) or MemmapDataset(f / "x"), ValueError,
         r"zz.npy has samples of float64 \(3,\), .* of float32 \(2,\)"),
        (lambda f: MemmapDataset(f / "x")[30], IndexError, "index 30 is out of range for a dataset of 30 samples"),
        (lambda f: TokenDataset([1, 2, 3], 3), ValueError, "3 tokens are not enough for a window of 3"),
        (lambda f: TokenDataset([1.5], 1), ValueError, "whole numbers in one dimension, got float64"),
        (lambda f: (f / "t.bin").write_bytes(b"abc") and TokenDataset(f / "t.bin", 1), ValueError,
         "3 bytes, which is no number of uint16s"),
        (lambda f: TokenDataset(range(10), 2)[4], IndexError, "out of range for a dataset of 4 windows"),
        (lambda f: TokenDataset(range(10), 2, stride=0), ValueError, "stride must be at least 1"),
    ],
)  # fmt: skip
def test_a_mistake_is_a_sentence(folder: Path, make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make(folder)
