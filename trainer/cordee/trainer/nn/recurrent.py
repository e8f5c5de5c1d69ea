"""Recurrent layers: RNN, LSTM and GRU over whole sequences, and their cells for one step, with PyTorch's names.

Each direction of each layer is one product over all steps (what the inputs contribute) and one op that walks the steps;
see `cordee.trainer.ops.recurrent`.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

from cordee.trainer.array import DTypeLike, array_module, to_numpy
from cordee.trainer.autograd.graph import apply
from cordee.trainer.errors import ShapeError
from cordee.trainer.nn import functional, init
from cordee.trainer.nn.module import Module
from cordee.trainer.nn.parameter import Parameter, empty_parameter
from cordee.trainer.nn.utils.rnn import PackedSequence
from cordee.trainer.ops import cat, linear, stack
from cordee.trainer.ops.recurrent import GRU_LAYER, LSTM_LAYER, RNN_LAYER
from cordee.trainer.tensors import Tensor, wrap

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNBase", "RNNCell", "RNNCellBase"]


class _Recurrent(Module):
    """What layers and cells share: how many gates there are, how the weights start, how one direction is run."""

    gates: ClassVar[int] = 1
    has_cell: ClassVar[bool] = False
    hidden_size: int
    nonlinearity: str = "tanh"

    def reset_parameters(self) -> None:
        bound = 1.0 / math.sqrt(self.hidden_size) if self.hidden_size > 0 else 0.0
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def _run(
        self,
        rows: Tensor,
        state: tuple[Tensor, ...],
        weights: tuple[Any, ...],
        sizes: tuple[int, ...],
        reverse: bool,
    ) -> tuple[Tensor, ...]:
        """Rows `(R, features)` to the outputs `(R, hidden)` and the last states."""
        w_ih, w_hh, b_ih, b_hh, w_hr = weights
        found: tuple[Tensor, ...]
        options: dict[str, Any] = {"sizes": sizes, "reverse": reverse}
        if type(self).gates == 3:  # a GRU's reset gate multiplies what the hidden bias is part of
            found = apply(GRU_LAYER, linear(rows, w_ih, b_ih), *state, w_hh, b_hh, **options)
            return found
        through = linear(rows, w_ih, b_ih if b_hh is None else b_ih + b_hh)
        if type(self).gates == 4:
            found = apply(LSTM_LAYER, through, *state, w_hh, w_hr, **options)
        else:
            found = apply(RNN_LAYER, through, *state, w_hh, nonlinearity=self.nonlinearity, **options)
        return found


class RNNBase(_Recurrent):
    """The base of `RNN`, `LSTM` and `GRU`; see there."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: DTypeLike = None,
    ) -> None:
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout must be a probability, from 0 to 1, got {dropout}")
        if hidden_size < 1 or num_layers < 1:
            raise ValueError(f"hidden_size ({hidden_size}) and num_layers ({num_layers}) must be at least 1")
        if proj_size and (not self.has_cell or not 0 < proj_size < hidden_size):
            raise ValueError(f"proj_size ({proj_size}) is for LSTMs, and smaller than hidden_size ({hidden_size})")
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        out, wide = proj_size or hidden_size, self.gates * hidden_size
        self._weight_names: list[tuple[str, ...]] = []
        for layer in range(num_layers):
            width = input_size if layer == 0 else out * (1 + bidirectional)
            for suffix in ("", "_reverse") if bidirectional else ("",):
                shapes: dict[str, tuple[int, ...]] = {"weight_ih": (wide, width), "weight_hh": (wide, out)}
                if bias:
                    shapes |= {"bias_ih": (wide,), "bias_hh": (wide,)}
                if proj_size:
                    shapes["weight_hr"] = (proj_size, hidden_size)
                for name, shape in shapes.items():
                    setattr(self, f"{name}_l{layer}{suffix}", empty_parameter(shape, dtype, device))
                parts = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
                self._weight_names.append(tuple(f"{name}_l{layer}{suffix}" if name in shapes else "" for name in parts))
        self.reset_parameters()

    @property
    def all_weights(self) -> list[list[Parameter]]:
        """The parameters, a list for each direction of each layer."""
        return [[getattr(self, name) for name in names if name] for names in self._weight_names]

    def flatten_parameters(self) -> None:
        """Nothing: PyTorch's name for a step that is not needed here."""

    def forward(self, input: Any, hx: Any = None) -> tuple[Any, Any]:
        packed = isinstance(input, PackedSequence)
        rows: Tensor
        if packed:
            rows, sizes = input.data, tuple(to_numpy(input.batch_sizes.data).tolist())
            num_steps, batch, batched = len(sizes), max(sizes, default=0), True
        else:
            if input.ndim not in (2, 3):
                raise ShapeError(f"{type(self).__name__}: the input must be of 2 or 3 dimensions, not {input.shape}")
            batched = input.ndim == 3
            steps = input.unsqueeze(1) if not batched else input.transpose(0, 1) if self.batch_first else input
            num_steps, batch = steps.shape[:2]
            sizes = (batch,) * num_steps
            rows = steps.reshape(num_steps * batch, steps.shape[2])
        if rows.shape[-1] != self.input_size:
            raise ShapeError(
                f"{type(self).__name__}: the input has {rows.shape[-1]} features in its last dimension, but this layer "
                f"was made with input_size={self.input_size}"
            )
        order = input.sorted_indices if packed else None
        states = self._states(hx, batch, batched, rows, order)
        directions = 1 + self.bidirectional
        last: list[tuple[Tensor, ...]] = []
        for layer in range(self.num_layers):
            outs = []
            for direction in range(directions):
                index = layer * directions + direction
                weights = tuple(getattr(self, name) if name else None for name in self._weight_names[index])
                state = tuple(each[index] for each in states)
                out, *after = self._run(rows, state, weights, sizes, reverse=direction == 1)
                outs.append(out)
                last.append(tuple(after))
            rows = outs[0] if directions == 1 else cat(outs, 1)
            if self.dropout and layer < self.num_layers - 1:
                rows = functional.dropout(rows, self.dropout, self.training)
        final = tuple(
            stack([each[k] for each in last], 0) if len(last) > 1 else last[0][k].unsqueeze(0)
            for k in range(len(states))
        )
        output: Any
        if packed:
            back = input.unsorted_indices
            output = PackedSequence(rows, *input[1:])
            final = final if back is None else tuple(each[:, back.data] for each in final)
        else:
            output = rows.reshape(num_steps, batch, rows.shape[-1])
            output = output.squeeze(1) if not batched else output.transpose(0, 1) if self.batch_first else output
            final = final if batched else tuple(each.squeeze(1) for each in final)
        return output, final if self.has_cell else final[0]

    def _states(self, hx: Any, batch: int, batched: bool, rows: Tensor, order: Tensor | None) -> tuple[Tensor, ...]:
        """The states to start from, `(layers * directions, N, size)` each: the user's, checked, or zeros."""
        count = self.num_layers * (1 + self.bidirectional)
        widths = (self.proj_size or self.hidden_size, self.hidden_size)[: 1 + self.has_cell]
        if hx is None:
            xp = array_module(rows.data)
            return tuple(wrap(xp.zeros((count, batch, width), rows.dtype)) for width in widths)
        given = tuple(hx) if self.has_cell else (hx,)
        if len(given) != len(widths):
            raise ValueError(f"{type(self).__name__}: hx is a pair of tensors (h_0, c_0), not {len(given)}")
        for name, state, width in zip(("h_0", "c_0"), given, widths, strict=False):
            expected = (count, batch, width) if batched else (count, width)
            if state.shape != expected:
                raise ShapeError(
                    f"{type(self).__name__}: {name} has shape {state.shape}, but must have {expected}: layers times "
                    f"directions{', batch' if batched else ''}, features"
                )
        if not batched:
            return tuple(state.unsqueeze(1) for state in given)
        return given if order is None else tuple(state[:, order.data] for state in given)

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        for name, usual in (
            ("proj_size", 0), ("num_layers", 1), ("bias", True), ("batch_first", False), ("dropout", 0.0),
            ("bidirectional", False),
        ):  # fmt: skip
            if getattr(self, name) != usual:
                text += f", {name}={getattr(self, name)}"
        return text


class RNN(RNNBase):
    """`h = tanh(W_ih x + b_ih + W_hh h + b_hh)` (or relu), step after step, layer after layer.

    `layer(input, h_0=None)` takes `(T, N, input_size)` (or `(N, T, …)` with `batch_first`, `(T, …)` without a batch, or
    a `PackedSequence`) and returns the last layer's `(T, N, hidden_size * directions)` and the last hidden states
    `(num_layers * directions, N, hidden_size)`.

    Args:
        dropout: between layers, in training.
        bidirectional: a second set of weights walks the sequence backwards.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: DTypeLike = None,
    ) -> None:
        self.nonlinearity = _checked_nonlinearity(nonlinearity)
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0, device, dtype
        )


class LSTM(RNNBase):
    """Long short-term memory (Hochreiter and Schmidhuber, 1997), as `RNN` but with states `(h, c)`.

    `proj_size`: the hidden state is brought to so many features by a further weight (arXiv:1402.1128).
    """

    gates, has_cell = 4, True


class GRU(RNNBase):
    """Gated recurrent units (arXiv:1406.1078), as `RNN`."""

    gates = 3

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: DTypeLike = None,
    ) -> None:
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0, device, dtype
        )


class RNNCellBase(_Recurrent):
    """The base of the cells; see there."""

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: DTypeLike = None
    ) -> None:
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        wide = self.gates * hidden_size
        self.weight_ih = empty_parameter((wide, input_size), dtype, device)
        self.weight_hh = empty_parameter((wide, hidden_size), dtype, device)
        self.bias_ih = empty_parameter((wide,), dtype, device) if bias else None
        self.bias_hh = empty_parameter((wide,), dtype, device) if bias else None
        self.reset_parameters()

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        if input.ndim not in (1, 2) or input.shape[-1] != self.input_size:
            raise ShapeError(
                f"{type(self).__name__}: the input must be (N, {self.input_size}) or ({self.input_size},), "
                f"not {input.shape}"
            )
        batched = input.ndim == 2
        rows = input if batched else input.unsqueeze(0)
        expected = (*input.shape[:-1], self.hidden_size)
        if hx is None:
            zeros = array_module(rows.data).zeros((rows.shape[0], self.hidden_size), rows.dtype)
            state: tuple[Tensor, ...] = (wrap(zeros),) * (1 + self.has_cell)
        else:
            given = tuple(hx) if self.has_cell else (hx,)
            for each in given:
                if each.shape != expected:
                    raise ShapeError(f"{type(self).__name__}: a state must have shape {expected}, not {each.shape}")
            state = given if batched else tuple(each.unsqueeze(0) for each in given)
        weights = (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh, None)
        _, *after = self._run(rows, state, weights, (rows.shape[0],), reverse=False)
        result = tuple(each if batched else each.squeeze(0) for each in after)
        return result if self.has_cell else result[0]

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias else ", bias=False")


class RNNCell(RNNCellBase):
    """One step of an `RNN`: `(N, input_size)` and `(N, hidden_size)` to `(N, hidden_size)`, with or without N."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: DTypeLike = None,
    ) -> None:
        self.nonlinearity = _checked_nonlinearity(nonlinearity)
        super().__init__(input_size, hidden_size, bias, device, dtype)


class LSTMCell(RNNCellBase):
    """One step of an `LSTM`: `(N, input_size)` and a pair (h, c) of `(N, hidden_size)` to such a pair."""

    gates, has_cell = 4, True


class GRUCell(RNNCellBase):
    """One step of a `GRU`: `(N, input_size)` and `(N, hidden_size)` to `(N, hidden_size)`."""

    gates = 3


def _checked_nonlinearity(nonlinearity: str) -> str:
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
    return nonlinearity
