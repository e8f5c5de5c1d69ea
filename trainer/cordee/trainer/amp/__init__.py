"""Mixed precision: products in 16 bits, the rest in single precision, parameters in float32.

    scaler = amp.GradScaler("cpu", enabled=dtype == ct.float16)          # bfloat16 has float32's range: it needs none
    with amp.autocast("cpu", dtype=dtype):
        loss = criterion(model(x), y)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()

Which operation runs in which precision stands in its record; see `cordee.trainer.autograd.casting`.
"""

from cordee.trainer.amp.function import custom_bwd, custom_fwd
from cordee.trainer.amp.region import (
    autocast,
    clear_autocast_cache,
    get_autocast_dtype,
    is_autocast_available,
    is_autocast_cache_enabled,
    is_autocast_enabled,
    set_autocast_cache_enabled,
    set_autocast_dtype,
    set_autocast_enabled,
)
from cordee.trainer.amp.scaler import GradScaler

__all__ = [
    "GradScaler",
    "autocast",
    "clear_autocast_cache",
    "custom_bwd",
    "custom_fwd",
    "get_autocast_dtype",
    "is_autocast_available",
    "is_autocast_cache_enabled",
    "is_autocast_enabled",
    "set_autocast_cache_enabled",
    "set_autocast_dtype",
    "set_autocast_enabled",
]
