"""PyTorch's `.pt` and `.pth` files, read without unpickling: no code of the file is run, nothing is imported for it.

Such a file is a zip archive of `data.pkl`, which describes the objects, and `data/0`, `data/1` …, the bytes of the
storages. The description is read by `pickle_reader` with the table below: tensors, parameters, dictionaries, and what
optimiser states hold. Storages must be stored uncompressed and have exactly the size that is described, and no tensor
may reach beyond its storage; so reading never takes more memory than the file is long. Tensors that share a storage
there share it here.
"""

from __future__ import annotations

import os
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from cordee.trainer.array import array_module, as_array
from cordee.trainer.interop.pickle_reader import Call, PickleRefusedError, read_pickle
from cordee.trainer.interop.safetensors import WeightsError
from cordee.trainer.tensors import Tensor, wrap

__all__ = ["is_torch_file", "load_torch"]

_MOST_DESCRIPTION_BYTES = 256 << 20
_ZIP_MAGIC, _PICKLE_MAGIC = b"PK\x03\x04", b"\x80"

_DTYPES: dict[str, np.dtype[Any]] = {
    "bool": np.dtype("bool"),
    "uint8": np.dtype("uint8"),
    "int8": np.dtype("int8"),
    "int16": np.dtype("int16"),
    "int32": np.dtype("int32"),
    "int64": np.dtype("int64"),
    "uint16": np.dtype("uint16"),
    "uint32": np.dtype("uint32"),
    "uint64": np.dtype("uint64"),
    "float16": np.dtype("float16"),
    "float32": np.dtype("float32"),
    "float64": np.dtype("float64"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "complex64": np.dtype("complex64"),
    "complex128": np.dtype("complex128"),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
}
_STORAGES = {
    "FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128", "UntypedStorage": "uint8",
}  # fmt: skip


@dataclass(frozen=True)
class _StorageKind:
    dtype: np.dtype[Any]


# -- what the description may call -------------------------------------------------------------------------------------


def _tensor(storage: Any, offset: Any, size: Any, stride: Any) -> Tensor:
    """A strided view of a storage, within its bounds."""
    if not isinstance(storage, np.ndarray) and not hasattr(storage, "get"):
        raise PickleRefusedError("a tensor has no storage")
    size, stride = tuple(size), tuple(stride)
    if not all(type(n) is int and n >= 0 for n in (offset, *size, *stride)) or len(size) != len(stride):
        raise PickleRefusedError("a tensor's sizes, strides and offset must be whole numbers of at least 0, and fit")
    elements = 0 if 0 in size else 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if offset + elements > storage.size:
        raise PickleRefusedError(f"a tensor needs {offset + elements} elements of a storage of {storage.size}")
    itemsize = storage.dtype.itemsize
    view = array_module(storage).lib.stride_tricks.as_strided
    return wrap(view(storage[offset:], size, tuple(step * itemsize for step in stride)))


def _rebuild(storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any = False, *_: Any) -> Tensor:
    made = _tensor(storage, offset, size, stride)
    if requires_grad is True:
        made.requires_grad = True
    return made


def _rebuild_v3(storage: Any, *arguments: Any) -> Tensor:
    """As `_rebuild`, of an untyped storage: (offset, size, stride, requires_grad, hooks, dtype, …)."""
    dtype = arguments[5]
    if not isinstance(dtype, np.dtype):
        raise PickleRefusedError("a tensor has no dtype")
    return _rebuild(storage.view(dtype), *arguments[:4])


def _parameter(data: Any, requires_grad: Any = True, *_: Any) -> Tensor:
    from cordee.trainer.nn.parameter import Parameter

    if not isinstance(data, Tensor):
        raise PickleRefusedError(f"a parameter holds a {type(data).__name__}")
    return Parameter(data.detach(), requires_grad is True)


def _of_type(*parts: Any) -> Any:
    """A tensor of a subclass, or with attributes, as (function, class, its arguments, attributes): the tensor."""
    function, _, arguments, *_ = parts
    if not isinstance(function, Call) or not isinstance(arguments, tuple):
        raise PickleRefusedError(f"it calls a {type(function).__name__}, which is no function")
    return function.function(*arguments)


def _bytes(source: Any = b"", encoding: str = "latin1") -> bytearray:
    """Of bytes or text only: of a number it would be that many zeros."""
    return bytearray(source if isinstance(source, bytes) else _to_latin(source, encoding))


def _to_latin(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "utf-8", "utf8", "ascii"):
        raise PickleRefusedError("it encodes text in an unusual way")
    return text.encode(encoding)


def _numpy_dtype(code: Any, *_: Any) -> np.dtype[Any]:
    """The dtypes of NumPy's numbers, which training scripts leave in checkpoints."""
    if not isinstance(code, str) or not re.fullmatch(r"[biufc]\d{1,2}", code):
        raise PickleRefusedError("it has a NumPy value that is no number")
    return np.dtype(code)


def _numpy_scalar(dtype: Any, raw: Any) -> Any:
    if not isinstance(dtype, np.dtype) or not isinstance(raw, bytes) or len(raw) != dtype.itemsize:
        raise PickleRefusedError("it has a NumPy number without a value")
    return np.frombuffer(raw, dtype)[0].item()


_CALLS: dict[str, Any] = {
    "torch._utils._rebuild_tensor": _rebuild,
    "torch._utils._rebuild_tensor_v2": _rebuild,
    "torch._utils._rebuild_tensor_v3": _rebuild_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _of_type,
    "torch.Size": tuple,
    "torch.device": lambda kind, *_: str(kind),
    "collections.OrderedDict": dict,
    "collections.Counter": dict,
    "collections.defaultdict": lambda *_: {},
    "_codecs.encode": _to_latin,
    "numpy.dtype": _numpy_dtype,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    **{
        f"{module}.{name}": kind
        for module in ("builtins", "__builtin__")
        for name, kind in (("set", set), ("frozenset", frozenset), ("dict", dict), ("list", list), ("tuple", tuple),
                           ("complex", complex), ("bytearray", _bytes), ("slice", slice))
    },
}  # fmt: skip

_ALLOWED: dict[str, Any] = {
    **{name: Call(name, function) for name, function in _CALLS.items()},
    **{f"torch.{name}": dtype for name, dtype in _DTYPES.items()},
    **{f"torch.{name}": _StorageKind(_DTYPES[dtype]) for name, dtype in _STORAGES.items()},
    **{f"torch.storage.{name}": _StorageKind(_DTYPES[dtype]) for name, dtype in _STORAGES.items()},
    "torch.Tensor": Tensor.__name__,
    "torch._tensor.Tensor": Tensor.__name__,
    "torch.nn.parameter.Parameter": "Parameter",
    "torch.nn.parameter.Buffer": "Buffer",
}


def _build(built: Any, state: Any) -> Any:
    """State of an OrderedDict (`state_dict()._metadata`: versions of PyTorch's modules) and hooks mean nothing here."""
    if isinstance(built, np.dtype) and isinstance(state, tuple) and state[1:2] in (("<",), ("|",), ("=",)):
        return built
    if not isinstance(built, (dict, Tensor)) or not isinstance(state, (dict, tuple)):
        raise PickleRefusedError(f"it sets the inner state of a {type(built).__name__}")
    return built


# -- the archive -------------------------------------------------------------------------------------------------------


class _Archive:
    """The zip file: its description, and its storages, each read once."""

    def __init__(self, file: zipfile.ZipFile, path: Path) -> None:
        self.file, self.path = file, path
        self.entries = {entry.filename: entry for entry in file.infolist()}
        self.root = self._root()
        self.swapped = self._byte_order() == "big"
        self.storages: dict[str, Any] = {}

    def _root(self) -> str:
        found = [name.removesuffix("data.pkl") for name in self.entries if name.rpartition("/")[2] == "data.pkl"]
        if len(found) != 1:
            raise WeightsError(f"{self.path}: a zip archive, but not one of torch.save: it has no data.pkl")
        if any(name.startswith(f"{found[0]}code/") for name in self.entries):
            raise WeightsError(
                f"{self.path}: a TorchScript program, not a file of weights: save its state_dict() with torch.save"
            )
        return found[0]

    def _byte_order(self) -> str:
        name = f"{self.root}byteorder"
        return self.read(name, 16).decode("ascii", "replace").strip() if name in self.entries else "little"

    def read(self, name: str, most: int) -> bytearray:
        """An entry's bytes, which must be stored as they are."""
        entry = self.entries.get(name)
        if entry is None:
            raise WeightsError(f"{self.path}: {name} is missing: damaged?")
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise WeightsError(f"{self.path}: {name} is compressed, which torch.save never does")
        if entry.file_size > min(most, self.path.stat().st_size):
            raise WeightsError(f"{self.path}: {name} has {entry.file_size} bytes, at most {most} are read")
        buffer = bytearray(entry.file_size)
        with self.file.open(entry) as stream:
            if stream.readinto(buffer) != entry.file_size:  # type: ignore[attr-defined]
                raise WeightsError(f"{self.path}: {name} is cut off")
        return buffer

    def storage(self, reference: Any) -> Any:
        """What the description refers to as ("storage", kind, key, where it was, elements)."""
        if not (isinstance(reference, tuple) and len(reference) == 5 and reference[0] == "storage"):
            raise PickleRefusedError("it refers to something that is no storage")
        _, kind, key, _, num_elements = reference
        if not isinstance(kind, _StorageKind) or not isinstance(key, str) or type(num_elements) is not int:
            raise PickleRefusedError("it refers to a storage of no known kind")
        if key not in self.storages:
            needed = num_elements * kind.dtype.itemsize
            raw = self.read(f"{self.root}data/{key}", needed)
            if len(raw) != needed:
                raise WeightsError(f"{self.path}: storage {key} has {len(raw)} bytes, {needed} are described")
            array = np.frombuffer(raw, dtype=kind.dtype)
            self.storages[key] = as_array(array.byteswap() if self.swapped else array)
        array = self.storages[key]
        return array if array.dtype == kind.dtype else array.view(kind.dtype)


def is_torch_file(path: Path) -> bool:
    """Whether a file looks like one of torch.save, in the present or in the old format."""
    with path.open("rb") as file:
        head = file.read(4)
    return head == _ZIP_MAGIC or (head[:1] == _PICKLE_MAGIC and head[1:2] in b"\x02\x03\x04\x05")


def load_torch(path: str | os.PathLike[str]) -> Any:
    """What `torch.save` wrote into a `.pt` or `.pth` file: tensors, dictionaries of them, states of optimisers.

    Dictionaries come as `dict`, parameters as `nn.Parameter`, everything on this process' device. Classes of the
    user's, whole modules and functions are refused: raises `WeightsError` (a ValueError) with the name that the file
    asks for, and also for damaged files and for the format before PyTorch 1.6.
    """
    file = Path(path)
    with file.open("rb") as stream:
        magic = stream.read(4)
    if magic != _ZIP_MAGIC:
        if magic[:1] == _PICKLE_MAGIC:
            raise WeightsError(
                f"{file}: PyTorch's format before 1.6, which cannot be read without running it: where you trust the "
                "file, load it with PyTorch and save it again with torch.save or safetensors"
            )
        raise WeightsError(f"{file}: not a file of torch.save")
    try:
        with zipfile.ZipFile(file) as zipped:
            archive = _Archive(zipped, file)
            description = bytes(archive.read(f"{archive.root}data.pkl", _MOST_DESCRIPTION_BYTES))
            return read_pickle(description, _ALLOWED, archive.storage, _build)
    except PickleRefusedError as error:
        raise WeightsError(f"{file}: not read: {error}") from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise WeightsError(f"{file}: a damaged zip archive: {error}") from error
