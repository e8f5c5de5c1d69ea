"""Exchange with other libraries: arrays through DLPack, weights as safetensors and from PyTorch's `.pt` files.

Keys are PyTorch's wherever Cordee has the same module, so that a state dict of a PyTorch model loads into the model of
the same structure here, and the other way round.
"""

from cordee.trainer.interop.dlpack import from_dlpack
from cordee.trainer.interop.files import load, save
from cordee.trainer.interop.safetensors import load_safetensors, safetensors_metadata, save_safetensors
from cordee.trainer.interop.torch_archive import load_torch

__all__ = [
    "from_dlpack",
    "load",
    "load_safetensors",
    "load_torch",
    "safetensors_metadata",
    "save",
    "save_safetensors",
]
