"""Who can compute kernels beside NumPy, and what each of them has: the one table.

Nothing is imported before a kernel is first called; what is here are names of modules.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
from dataclasses import dataclass

__all__ = ["GENERATORS", "PROVIDERS", "TABLE", "Provider", "automatic"]


@dataclass(frozen=True)
class Provider:
    """A library that computes kernels.

    Its `module` has two functions: `lack()` says what keeps it from working here ("" if nothing does), `identity()`
    names its version and what of the CPU decides its bits.
    """

    name: str
    doc: str
    package: str
    """What pip installs."""
    module: str
    device: str = "cpu"
    """Whose arrays it computes on: `cpu` (NumPy's) or `cuda` (CuPy's)."""
    extra: str = "fast"
    """Of Cordee, what brings the package."""
    machines: tuple[str, ...] = ("x86_64", "aarch64")
    """For which there are wheels of it."""
    others: tuple[str, ...] = ()
    """Packages that are the same for something else: another CUDA."""

    def lack(self) -> str:
        """What keeps it from working here; "" if nothing does."""
        if not self.installed():
            if platform.machine() not in self.machines:
                return f"{self.package} is not made for {platform.machine()}"
            return f"{self.package} is not installed: pip install 'cordee[{self.extra}]'"
        return importlib.import_module(self.module).lack()  # type: ignore[no-any-return]

    def installed(self) -> bool:
        """Whether its package is there, or another that is the same."""
        return bool(self.version())

    def version(self) -> str:
        """That of the package that is there; "" if none is."""
        for package in (self.package, *self.others):
            try:
                return importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                continue
        return ""

    def identity(self) -> str:
        """Its version, and what of this CPU decides its bits."""
        return importlib.import_module(self.module).identity()  # type: ignore[no-any-return]


_HERE, _LIBRARIES = "cordee.trainer.kernels", "cuda-libraries"
_OTHER_CUPYS = ("cupy-cuda13x", "cupy")
"""CUDA 13's wheels, and CuPy built on the spot or by conda-forge."""
PROVIDERS: dict[str, Provider] = {
    provider.name: provider
    for provider in (
        Provider(
            "nvrtc", "kernels that CuPy compiles", "cupy-cuda12x", f"{_HERE}.cuda", "cuda", "cuda", others=_OTHER_CUPYS
        ),
        Provider("cublaslt", "products with epilogues", "nvmath-python", f"{_HERE}.cuda.products", "cuda", "cuda"),
        Provider(
            "cudnn", "convolutions and attention", "nvidia-cudnn-frontend", f"{_HERE}.cuda.cudnn", "cuda", _LIBRARIES
        ),
        Provider("llvm", "generated loops, compiled by LLVM", "llvmlite", f"{_HERE}.llvm"),
        Provider("onednn", "convolutions and products", "onednn-cpu-gomp", f"{_HERE}.onednn", machines=("x86_64",)),
        Provider("mkl", "products, on Intel's CPUs", "mkl", f"{_HERE}.mkl", extra="mkl", machines=("x86_64",)),
    )
}
"""In order of preference."""


def automatic(device: str = "") -> tuple[str, ...]:
    """Those (of a device) that are taken where nobody has chosen, in order of preference.

    MKL's loops for Intel's CPUs are ahead of oneDNN's, those for others behind: there it stands in where oneDNN is not.
    """
    order = list(PROVIDERS)
    if PROVIDERS["mkl"].installed():
        if importlib.import_module(f"{_HERE}.mkl.library").is_intel():
            order.remove("mkl")
            order.insert(order.index("onednn"), "mkl")
        elif not PROVIDERS["onednn"].lack():
            order.remove("mkl")  # unasked: it is large, and not loaded for nothing
    there = [name for name in order if device in ("", PROVIDERS[name].device)]
    return tuple([name for name in there if not PROVIDERS[name].lack()])


_LLVM, _ONEDNN = f"{_HERE}.llvm", f"{_HERE}.onednn"

TABLE: dict[str, dict[str, str]] = {
    "multiply": {"onednn": f"{_ONEDNN}.products:multiply", "mkl": f"{_HERE}.mkl.products:multiply"},
    "multiplier": {"onednn": f"{_ONEDNN}.packed:multiplier"},
    "cast": {"llvm": f"{_LLVM}.bfloat16:cast"},
    "softmax": {"llvm": f"{_LLVM}.softmax:softmax"},
    "softmax_grad": {"llvm": f"{_LLVM}.softmax:softmax_grad"},
    "log_softmax": {"llvm": f"{_LLVM}.softmax:log_softmax"},
    "log_softmax_grad": {"llvm": f"{_LLVM}.softmax:log_softmax_grad"},
    "cross_entropy": {"llvm": f"{_LLVM}.losses:cross_entropy"},
    "cross_entropy_grad": {"llvm": f"{_LLVM}.losses:cross_entropy_grad"},
    "batch_norm": {"llvm": f"{_LLVM}.channels:batch_norm"},
    "channel_affine": {"llvm": f"{_LLVM}.channels:channel_affine"},
    "batch_norm_grad": {"llvm": f"{_LLVM}.channels:batch_norm_grad"},
    "attention_weights": {"llvm": f"{_LLVM}.attention:attention_weights"},
    "attention_slopes": {"llvm": f"{_LLVM}.attention:attention_slopes"},
    "flash_attention": {"onednn": f"{_ONEDNN}.attention:flash_attention"},
    "flash_attention_grad": {"onednn": f"{_ONEDNN}.attention:flash_attention_grad"},
    "add_elements": {"llvm": f"{_LLVM}.places:add_elements"},
    "first_places": {"llvm": f"{_LLVM}.selecting:first_places"},
    "take_from_lines": {"llvm": f"{_LLVM}.places:take_from_lines"},
    "add_to_lines": {"llvm": f"{_LLVM}.places:add_to_lines"},
    "group_norm": {"llvm": f"{_LLVM}.groups:group_norm"},
    "group_norm_grad": {"llvm": f"{_LLVM}.groups:group_norm_grad"},
    "max_pool": {"llvm": f"{_LLVM}.pooling:max_pool"},
    "unpool": {"llvm": f"{_LLVM}.pooling:unpool"},
    "sum_pool": {"llvm": f"{_LLVM}.pooling:sum_pool"},
    "spread_pool": {"llvm": f"{_LLVM}.pooling:spread_pool"},
    "total": {"llvm": f"{_LLVM}.reduction:total"},
    "column_totals": {"llvm": f"{_LLVM}.reduction:column_totals"},
    "square_total": {"llvm": f"{_LLVM}.reduction:square_total"},
    "product": {"llvm": f"{_LLVM}.reduction:product"},
    "extreme": {"llvm": f"{_LLVM}.reduction:extreme"},
    "running": {"llvm": f"{_LLVM}.running:running"},
    "running_place": {"llvm": f"{_LLVM}.running:running_place"},
    "layer_norm": {"llvm": f"{_LLVM}.normalization:layer_norm"},
    "layer_norm_grad": {"llvm": f"{_LLVM}.normalization:layer_norm_grad"},
    "rms_norm": {"llvm": f"{_LLVM}.normalization:rms_norm"},
    "rms_norm_grad": {"llvm": f"{_LLVM}.normalization:rms_norm_grad"},
    "lstm_layer": {"llvm": f"{_LLVM}.recurrent:lstm_layer"},
    "lstm_layer_grad": {"llvm": f"{_LLVM}.recurrent:lstm_layer_grad"},
    "correlate": {"llvm": f"{_LLVM}.depthwise:correlate", "onednn": f"{_ONEDNN}.convolution:correlate"},
    "spread": {"llvm": f"{_LLVM}.depthwise:spread", "onednn": f"{_ONEDNN}.convolution:spread"},
    "weigh": {"llvm": f"{_LLVM}.depthwise:weigh", "onednn": f"{_ONEDNN}.convolution:weigh"},
    "ordered": {"llvm": f"{_LLVM}.depthwise:ordered", "onednn": f"{_ONEDNN}.convolution:ordered"},
}
"""By kernel and provider, where the function is: `module:function`."""

_ON_CUDA = {
    "nvrtc": {
        "philox": "random_words kept_bytes",
        "rows": "softmax softmax_grad log_softmax log_softmax_grad cross_entropy cross_entropy_grad "
        "attention_weights attention_slopes layer_norm layer_norm_grad rms_norm rms_norm_grad",
        "channels": "batch_norm batch_norm_grad channel_affine group_norm group_norm_grad",
        "sums": "total",
        "order": "row_order",
        "pooling": "max_pool unpool sum_pool spread_pool",
        "steps": "lstm_layer lstm_layer_grad gru_layer gru_layer_grad",
    },
    "cublaslt": {"products": "multiply multiplier"},
    "cudnn": {"cudnn": "correlate spread weigh ordered flash_attention flash_attention_grad"},
}
"""By provider and module of `cuda`, the kernels that it has, in functions of the same names."""

for _who, _modules in _ON_CUDA.items():
    for _module, _kernels in _modules.items():
        for _kernel in _kernels.split():
            TABLE.setdefault(_kernel, {})[_who] = f"{_HERE}.cuda.{_module}:{_kernel}"

GENERATORS = {"llvm": f"{_LLVM}.fused:fused", "nvrtc": f"{_HERE}.cuda.fused:fused"}
"""By provider, the function that makes a loop of a formula."""
