"""Weights as safetensors: names, shapes and bytes, and nothing that could run.

The format (https://github.com/huggingface/safetensors, 'Format'): eight bytes with the header's length, the header as
JSON (`{name: {"dtype", "shape", "data_offsets"}}`), the bytes of the tensors one after the other. Reading maps the file
into memory, so that a large file costs what is touched of it; the tensors may be written to, the file does not change.

The own reader and writer (instead of the `safetensors` package) are for bfloat16, which that package's NumPy side does
not know, and for one error class with sentences.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from cordee.trainer.array import as_array, to_numpy
from cordee.trainer.files import replace_atomically
from cordee.trainer.tensors import Tensor, wrap

__all__ = [
    "WeightsError",
    "decode_safetensors",
    "encode_safetensors",
    "load_safetensors",
    "read_safetensors",
    "safetensors_metadata",
    "save_safetensors",
]

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
"""A whole file, mapped or read."""

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("bool"),
    "U8": np.dtype("uint8"),
    "I8": np.dtype("int8"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "C64": np.dtype("<c8"),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_MOST_HEADER_BYTES = 100 << 20  # the limit of the format's own library
_LENGTH_BYTES = 8
_METADATA = "__metadata__"


class WeightsError(ValueError):
    """A file of weights is damaged, of another format, or holds what must not be read."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name is there twice")
    return made


def _header(where: str, data: Bytes) -> tuple[dict[str, Any], int]:
    """The header, and where the data begin."""
    length = int.from_bytes(data[:_LENGTH_BYTES].tobytes(), "little")
    if data.size < _LENGTH_BYTES or length > min(_MOST_HEADER_BYTES, data.size - _LENGTH_BYTES):
        raise WeightsError(
            f"{where}: no safetensors file: its header would have {length} bytes, the file has {data.size}"
        )
    try:
        header = json.loads(data[_LENGTH_BYTES : _LENGTH_BYTES + length].tobytes(), object_pairs_hook=_once)
    except ValueError as error:
        raise WeightsError(f"{where}: no safetensors file: its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise WeightsError(f"{where}: no safetensors file: its header is not an object")
    return header, _LENGTH_BYTES + length


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _entry(where: str, name: str, entry: Any) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    """A tensor's dtype, shape, begin and end, checked against each other."""
    try:
        dtype_name, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise WeightsError(f"{where}: {name!r} has no dtype, shape and data_offsets") from error
    if dtype_name not in DTYPES:
        raise WeightsError(f"{where}: {name!r} has the dtype {dtype_name!r}; known are {', '.join(DTYPES)}")
    if not all(map(_is_size, (*shape, begin, end))):
        raise WeightsError(f"{where}: {name!r}: sizes and offsets must be whole numbers of at least 0")
    dtype, num_elements = DTYPES[dtype_name], 1
    for size in shape:
        num_elements *= size
    if end - begin != num_elements * dtype.itemsize:
        raise WeightsError(
            f"{where}: {name!r} of shape {shape} and {dtype_name} needs {num_elements * dtype.itemsize} bytes and has "
            f"{end - begin}"
        )
    return dtype, shape, begin, end


def _entries(where: str, data: Bytes) -> tuple[dict[str, tuple[np.dtype[Any], tuple[int, ...], int]], int]:
    """Every tensor's dtype, shape and begin; they must fill the file without gap or overlap, as the format demands."""
    header, start = _header(where, data)
    header.pop(_METADATA, None)
    entries = {name: _entry(where, name, entry) for name, entry in header.items()}
    position = 0
    for name, (_, _, begin, end) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if begin != position:
            raise WeightsError(f"{where}: {name!r} begins at byte {begin}, where {position} was expected")
        position = end
    if start + position != data.size:
        raise WeightsError(f"{where}: {data.size} bytes, but its tensors end at {start + position}: cut off?")
    return {name: (dtype, shape, begin) for name, (dtype, shape, begin, _) in entries.items()}, start


def load_safetensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """All tensors of a `.safetensors` file, by name, in the file's order.

    On the CPU they lie in the mapped file (private: writing into them does not change it); on CUDA they are copied.
    Raises `WeightsError` (a ValueError) when the file is not what the format demands.
    """
    return {name: wrap(as_array(array)) for name, array in read_safetensors(path).items()}


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray[Any, Any]]:
    """The same as arrays in host memory, where they lie in the mapped file."""
    return decode_safetensors(_mapped(Path(path)), str(path))


def decode_safetensors(data: Bytes, where: str) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays in a file's bytes, as views into them; `where` says in an error's sentence which file that is.

    Raises `WeightsError` (a ValueError) when the bytes are not what the format demands.
    """
    entries, start = _entries(where, data)
    arrays = {}
    for name, (dtype, shape, begin) in entries.items():
        array: np.ndarray[Any, Any] = np.ndarray(shape, dtype, buffer=data, offset=start + begin)
        arrays[name] = array if array.flags.aligned else array.copy()
    return arrays


def _mapped(file: Path) -> Bytes:
    size = file.stat().st_size
    return np.memmap(file, dtype=np.uint8, mode="c") if size else np.empty(0, np.uint8)


def safetensors_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The free text entries of a `.safetensors` file."""
    header, _ = _header(str(path), _mapped(Path(path)))
    return dict(header.get(_METADATA, {}))


def save_safetensors(
    tensors: Mapping[str, Any], path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors (or arrays) by name: a `state_dict()`, for example. The file is whole or absent.

    A tensor that is there under two names is written twice. Raises `TypeError` for values that are no tensors and for
    dtypes the format does not know.
    """
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for name, value in tensors.items():
        if not isinstance(name, str) or name == _METADATA:
            raise TypeError(f"save_safetensors: {name!r} cannot be the name of a tensor")
        if not isinstance(value, (Tensor, np.ndarray)) and not hasattr(value, "get"):
            raise TypeError(f"save_safetensors: {name!r} is a {type(value).__name__}, not a tensor or an array")
        array = to_numpy(value.data if isinstance(value, Tensor) else value)
        arrays[name] = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
    pieces = encode_safetensors(arrays, metadata)
    with replace_atomically(Path(path)) as unfinished, unfinished.open("wb") as file:
        for piece in pieces:
            file.write(piece)


def encode_safetensors(
    arrays: Mapping[str, np.ndarray[Any, Any]], metadata: Mapping[str, str] | None = None
) -> list[memoryview]:
    """A file's bytes, piece by piece: the header, then every array where it lies. The same arrays give the same
    bytes."""
    # wide dtypes first: then every tensor is aligned
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    header: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    position = 0
    for name in order:
        array = arrays[name]
        if array.dtype not in _NAMES:
            raise TypeError(
                f"save_safetensors: {name!r} has the dtype {array.dtype.name}, which the format cannot hold"
            )
        end = position + array.nbytes
        header[name] = {"dtype": _NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)
    data = [np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data for name in order]
    return [memoryview(len(text).to_bytes(_LENGTH_BYTES, "little") + text), *data]
