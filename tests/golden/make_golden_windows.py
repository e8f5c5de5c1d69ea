"""Writes windows.npz: what PyTorch computes for every call and layer in calls_windows.py, in float64.

Of calls: the result and the gradients of the inputs. Of layers: what `observe` below lists. Run with an interpreter
that has PyTorch and Cordee: `python tests/golden/make_golden_windows.py`.
"""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
TABLE = runpy.run_path(str(HERE / "calls_windows.py"))


def observe(name: str, nn: Any, tensor: Callable[[Any], Any], detached: Callable[[Any], Any]) -> dict[str, Any]:
    """A layer in training: result, gradients; of one that remembers, what it does, and its result in evaluation."""
    case = TABLE["LAYERS"][name]
    layer = case.make(nn).double()
    TABLE["fill"](layer, tensor)
    (array,), _ = TABLE["inputs_of"]((case.shape,))
    x = tensor(array)
    x.requires_grad_(True)
    found: dict[str, Any] = {}
    out = layer(x)
    if isinstance(out, tuple):
        out, found["indices"] = out[0], detached(out[1])
    out.backward(tensor(TABLE["output_weights"](tuple(out.shape))))
    found |= {"output": detached(out), "gradient of the input": detached(x.grad)}
    for key, parameter in layer.named_parameters():
        found[f"gradient of {key}"] = detached(parameter.grad)
    for key, value in layer.named_buffers():
        found[f"buffer {key}"] = detached(value)
    if list(layer.named_buffers()):
        found["in evaluation"] = detached(layer.eval()(x))
    return found


def main() -> None:
    import torch

    def detached(tensor: Any) -> Any:
        return tensor.detach().numpy().copy()

    index: dict[str, dict[str, list[int]]] = {}
    values: list[Any] = []
    results: dict[str, dict[str, Any]] = {}
    for name, call in TABLE["CALLS"].items():
        floats, constants = TABLE["inputs_of"](call.shapes, call.constants)
        inputs = [torch.tensor(array, requires_grad=True) for array in floats]
        out = call.call(torch.nn.functional, *inputs, *map(torch.tensor, constants))
        out.backward(torch.tensor(TABLE["output_weights"](tuple(out.shape))))
        results[f"call {name}"] = {"output": detached(out)} | {
            str(i): detached(tensor.grad) for i, tensor in enumerate(inputs)
        }
    for name in TABLE["LAYERS"]:
        results[f"layer {name}"] = observe(name, torch.nn, torch.tensor, detached)
    for name, arrays in results.items():
        index[name] = {key: list(array.shape) for key, array in arrays.items()}
        values += [array.astype(np.float64).reshape(-1) for array in arrays.values()]
    facts = {"torch": torch.__version__.partition("+")[0], "arrays": index}
    np.savez_compressed(HERE / "windows.npz", index=np.array(json.dumps(facts)), values=np.concatenate(values))


if __name__ == "__main__":
    main()
