"""The text of the kernels of recurrent layers' steps, in CUDA's C: a thread per sequence and unit.

What is multiplied comes and goes in the layer's dtype; gates, cells and sums are float32.
"""

from __future__ import annotations

from cordee.trainer.kernels.cuda.fused import PREAMBLE
from cordee.trainer.kernels.cuda.rows_text import KINDS

__all__ = ["KERNELS", "source"]

_BEGIN = """
    long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= count) return;
    long long wide = at / units * (GATES * units) + at % units;  // the unit's first gate
"""

_LSTM = """
// From what inputs and the state before contribute to the gates, and the cell before, to the state after.
extern "C" __global__ void lstm_step(
    const T* gates, const float* across, const float* before, float* acts, float* bent, float* cell, T* out,
    long long count, int units) {BEGIN
    float take = sigmoid_of(load(gates, wide) + across[wide]);
    float keep = sigmoid_of(load(gates, wide + units) + across[wide + units]);
    float fresh = tanhf(load(gates, wide + 2 * units) + across[wide + 2 * units]);
    float give = sigmoid_of(load(gates, wide + 3 * units) + across[wide + 3 * units]);
    float state = keep * before[at] + take * fresh, curve = tanhf(state);
    acts[wide] = take;
    acts[wide + units] = keep;
    acts[wide + 2 * units] = fresh;
    acts[wide + 3 * units] = give;
    bent[at] = curve;
    cell[at] = state;
    store(out, at, give * curve);
}

// From the gradients of output (g may be null) and cell after a step to those of the gates and, in place, of the cell
// before.
extern "C" __global__ void lstm_step_grad(
    const float* acts, const float* bent, const float* before, const float* slope, const T* g, float* of_cell, T* into,
    long long count, int units) {BEGIN
    float take = acts[wide], keep = acts[wide + units], fresh = acts[wide + 2 * units], give = acts[wide + 3 * units];
    float curve = bent[at], here = slope[at] + (g ? load(g, at) : 0.0f);
    float state = here * give * (1.0f - curve * curve) + of_cell[at];
    store(into, wide, state * fresh * take * (1.0f - take));
    store(into, wide + units, state * before[at] * keep * (1.0f - keep));
    store(into, wide + 2 * units, state * take * (1.0f - fresh * fresh));
    store(into, wide + 3 * units, here * curve * give * (1.0f - give));
    of_cell[at] = state * keep;
}
""".replace("BEGIN", _BEGIN.replace("GATES", "4"))

_GRU = """
// The state is kept in float32 beside the output; bias may be null.
extern "C" __global__ void gru_step(
    const T* gates, const float* across, const float* bias, const float* before, float* acts, float* fresh,
    float* state, T* out, long long count, int units) {BEGIN
    long long unit = at % units;
    float through[3];
    for (int k = 0; k < 3; ++k) through[k] = across[wide + k * units] + (bias ? bias[unit + k * units] : 0.0f);
    float reset = sigmoid_of(load(gates, wide) + through[0]);
    float keep = sigmoid_of(load(gates, wide + units) + through[1]);
    float made = tanhf(load(gates, wide + 2 * units) + reset * through[2]);
    float after = made + keep * (before[at] - made);
    acts[wide] = reset;
    acts[wide + units] = keep;
    acts[wide + 2 * units] = made;
    fresh[at] = through[2];
    state[at] = after;
    store(out, at, after);
}

// slope holds the gradient of the state after the step, and in the end what of it goes past the gates to the one
// before; g, of the output, may be null. into: of the gates; of_hidden: of what the state contributes to them.
extern "C" __global__ void gru_step_grad(
    const float* acts, const float* fresh, const float* before, const T* g, float* slope, T* into, T* of_hidden,
    long long count, int units) {BEGIN
    float reset = acts[wide], keep = acts[wide + units], made = acts[wide + 2 * units];
    float here = slope[at] + (g ? load(g, at) : 0.0f);
    float of_made = here * (1.0f - keep) * (1.0f - made * made);
    float of_reset = of_made * fresh[at] * reset * (1.0f - reset);
    float of_keep = here * (before[at] - made) * keep * (1.0f - keep);
    store(into, wide, of_reset);
    store(into, wide + units, of_keep);
    store(into, wide + 2 * units, of_made);
    store(of_hidden, wide, of_reset);
    store(of_hidden, wide + units, of_keep);
    store(of_hidden, wide + 2 * units, of_made * reset);
    slope[at] = here * keep;
}
""".replace("BEGIN", _BEGIN.replace("GATES", "3"))

KERNELS = ("lstm_step", "lstm_step_grad", "gru_step", "gru_step_grad")
"""What is in the source."""


def source(kind: str) -> str:
    """The source for a dtype."""
    return PREAMBLE + KINDS[kind] + _LSTM + _GRU
