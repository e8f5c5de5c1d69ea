"""How a script is run on two libraries: the names it imports, the same weights, the same data.

The ported scripts (`ported_*.py`) are functions of a `Names`: PyTorch's own modules, or Cordee's in their place.
Nothing else differs, so what a script needs to be ported is its imports, and the losses of both can be compared.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Names", "cordee_names", "digits", "seeded", "text", "torch_names"]


class Names(NamedTuple):
    """What `import torch`, `from torch import nn, optim` and `import torch.nn.functional as F` give."""

    torch: Any
    nn: Any
    F: Any
    optim: Any
    data: Any  # torch.utils.data
    func: Any
    checkpoint: Any  # torch.utils.checkpoint.checkpoint


def cordee_names() -> Names:
    import cordee.trainer as torch
    import cordee.trainer.nn.functional as F
    from cordee.trainer import data, func, nn, optim
    from cordee.trainer.autograd import checkpoint

    return Names(torch, nn, F, optim, data, func, checkpoint)


def torch_names() -> Names:
    import torch
    import torch.nn.functional as F
    from torch import func, nn, optim
    from torch.utils import data
    from torch.utils.checkpoint import checkpoint

    torch.set_num_threads(1)
    return Names(torch, nn, F, optim, data, func, checkpoint)


def seeded(names: Names, model: Any, seed: int = 0) -> Any:
    """The model with weights that depend on nothing but their names' order and shapes: the same in both libraries."""
    rng = np.random.default_rng(seed)
    with names.torch.no_grad():
        for parameter in model.parameters():
            shape = tuple(parameter.shape)
            constant = bool((parameter == parameter.reshape(-1)[0]).all())
            if len(shape) == 1 and constant and parameter.numel() > 1:
                continue  # gains and shifts of normalisations are not drawn
            bound = (3.0 / max(int(np.prod(shape[1:])), 1)) ** 0.5 if len(shape) > 1 else 0.1
            values = rng.uniform(-bound, bound, shape).astype(np.float32)
            parameter.copy_(names.torch.from_numpy(values))
    return model


def digits(count: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Images of shape (count, 8, 8), from 0 to 1, and what they show."""
    import cordee.trainer.data as data

    images, labels = data.datasets.digits()
    return np.asarray(images)[:count].reshape(-1, 8, 8).astype(np.float32) / 16, np.asarray(labels)[:count].astype(
        np.int64
    )


def text() -> str:
    """A few lines to model; written for this purpose."""
    return (
        "A worker went away at night, and no one saw it go;\n"
        "the others held the sum it left and did not even slow.\n"
        "At dawn it came and asked a friend: what is the state by now?\n"
        "The friend gave all the bits it had; and so they kept the vow.\n"
    ) * 4
