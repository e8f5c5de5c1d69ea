"""What PyTorch has and this engine has not, under that name: what to use instead, said when it is asked for."""

from __future__ import annotations

__all__ = ["INSTEAD", "refusal"]

_OLD = "is PyTorch's old way to make a tensor: use ct.tensor(values, dtype=…), or ct.empty(2, 3)"
_COMPILED = "there is no compiler yet: leave the line out, the result is the same"

INSTEAD = {
    "Generator": "there are no generators: ct.manual_seed(n) seeds everything, DataLoader(seed=…) the order of samples",
    "GradScaler": "it is ct.amp.GradScaler, as in PyTorch",
    "compile": _COMPILED,
    "jit": _COMPILED,
    "distributed": "ct.elastic trains on several workers: one script, started by `cordee run`",
    "distributions": "there are none yet: draw with ct.randn, ct.multinomial and the like, and write log_prob out",
    "hub": "nothing is downloaded: ct.load reads safetensors and PyTorch's .pt files",
    "multiprocessing": "DataLoader(workers=…) has its own processes; `cordee run` starts workers",
    "mps": "there is NumPy on the CPU and CuPy on CUDA",
    "onnx": "there is no export to ONNX",
    "profiler": "use Python's cProfile: what an operation does is NumPy, one call deep",
    "quantization": "there are no quantised tensors",
    "sparse": "there are no sparse tensors: use indices with ct.scatter_add, or Tensor.index_add",
    "sparse_coo_tensor": "there are no sparse tensors: use indices with ct.scatter_add, or Tensor.index_add",
    "use_deterministic_algorithms": "leave the line out: results are deterministic always",
    "utils": "torch.utils.data is ct.data, torch.utils.checkpoint is ct.autograd.checkpoint, torch.utils.dlpack is "
    "ct.from_dlpack",
    **dict.fromkeys(("FloatTensor", "DoubleTensor", "LongTensor", "IntTensor", "BoolTensor", "ByteTensor"), _OLD),
}


def refusal(name: str) -> str:
    """The text of the AttributeError for a name that this package has not."""
    text = f"module 'cordee.trainer' has no attribute {name!r}"
    return f"{text}: {INSTEAD[name]}" if name in INSTEAD else text
