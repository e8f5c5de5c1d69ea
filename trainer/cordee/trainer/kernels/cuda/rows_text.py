"""The text of the kernels of rows, in CUDA's C: a block per row, or a thread per column.

float32, bfloat16 and float16 come and go; what is added up is float32. A row is read once per pass: short ones are
still in the first cache by then. Sums have one fixed order, nothing is atomic. `rows` launches what is here.
"""

from __future__ import annotations

from cordee.trainer.kernels.cuda.fused import PREAMBLE

__all__ = ["KERNELS", "KINDS", "source"]

KINDS = {
    "float32": """
typedef float T;
__device__ __forceinline__ float load(const T* p, long long i) { return p[i]; }
__device__ __forceinline__ void store(T* p, long long i, float x) { p[i] = x; }
""",
    "bfloat16": """
typedef unsigned short T;
__device__ __forceinline__ float load(const T* p, long long i) { return from_bits(p[i]); }
__device__ __forceinline__ void store(T* p, long long i, float x) { p[i] = to_bits(x); }
""",
    "float16": """
typedef unsigned short T;
#ifdef __CUDACC__
__device__ __forceinline__ float from_half(unsigned short x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
}
__device__ __forceinline__ unsigned short to_half(float x) {
    unsigned short y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}
#endif
__device__ __forceinline__ float load(const T* p, long long i) { return from_half(p[i]); }
__device__ __forceinline__ void store(T* p, long long i, float x) { p[i] = to_half(x); }
""",
}
"""By dtype: how an element is read and written."""

_REDUCTIONS = """
// Over all threads of the block, which all get it: within warps first, then over the warps, each time in one order.
__device__ float block_reduce(float value, bool largest) {
    __shared__ float parts[32];
    for (int apart = 16; apart > 0; apart >>= 1) {
        float other = __shfl_xor_sync(0xffffffffu, value, apart);
        value = largest ? fmaxf(value, other) : value + other;
    }
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, num_warps = blockDim.x >> 5;
    __syncthreads();  // the parts of the time before have been read
    if (lane == 0) parts[warp] = value;
    __syncthreads();
    value = lane < num_warps ? parts[lane] : (largest ? -INFINITY : 0.0f);
    for (int apart = 16; apart > 0; apart >>= 1) {
        float other = __shfl_xor_sync(0xffffffffu, value, apart);
        value = largest ? fmaxf(value, other) : value + other;
    }
    return value;
}
__device__ float block_sum(float value) { return block_reduce(value, false); }
__device__ float block_max(float value) { return block_reduce(value, true); }
"""

_SOFTMAX = """
__device__ float row_max(const T* a, long long length) {
    float top = -INFINITY;
    for (long long i = threadIdx.x; i < length; i += blockDim.x) top = fmaxf(top, load(a, i));
    return block_max(top);  // a NaN is not seen here, and makes the sum one
}
__device__ float row_total(const T* a, long long length, float top) {
    float total = 0.0f;
    for (long long i = threadIdx.x; i < length; i += blockDim.x) total += expf(load(a, i) - top);
    return block_sum(total);
}

extern "C" __global__ void softmax(const T* a, T* out, long long length, int logarithm) {
    a += blockIdx.x * length;
    out += blockIdx.x * length;
    float top = row_max(a, length), total = row_total(a, length, top);
    float shift = logf(total);
    for (long long i = threadIdx.x; i < length; i += blockDim.x) {
        float x = load(a, i) - top;
        store(out, i, logarithm ? x - shift : expf(x) / total);
    }
}

extern "C" __global__ void softmax_grad(const T* g, const T* out, T* into, long long length, int logarithm) {
    g += blockIdx.x * length;
    out += blockIdx.x * length;
    into += blockIdx.x * length;
    float total = 0.0f;
    for (long long i = threadIdx.x; i < length; i += blockDim.x)
        total += load(g, i) * (logarithm ? 1.0f : load(out, i));
    total = block_sum(total);
    for (long long i = threadIdx.x; i < length; i += blockDim.x) {
        float slope = load(g, i), value = load(out, i);
        store(into, i, logarithm ? slope - expf(value) * total : (slope - total) * value);
    }
}

extern "C" __global__ void cross_entropy(
    const T* a, const long long* target, float* losses, float* tops, float* totals, long long length) {
    a += blockIdx.x * length;
    float top = row_max(a, length), total = row_total(a, length, top);
    if (threadIdx.x == 0) {
        long long chosen = target[blockIdx.x];
        bool inside = chosen >= 0 && chosen < length;
        losses[blockIdx.x] = inside ? logf(total) - (load(a, chosen) - top) : 0.0f;
        tops[blockIdx.x] = top;
        totals[blockIdx.x] = total;
    }
}

extern "C" __global__ void cross_entropy_grad(
    const T* a, const long long* target, const float* slopes, const float* tops, const float* totals, T* into,
    long long length, int slope_step) {
    a += blockIdx.x * length;
    into += blockIdx.x * length;
    float slope = slopes[blockIdx.x * (long long)slope_step], top = tops[blockIdx.x];
    float factor = slope / totals[blockIdx.x];
    long long chosen = target[blockIdx.x];
    bool inside = chosen >= 0 && chosen < length;
    for (long long i = threadIdx.x; i < length; i += blockDim.x)
        store(into, i, inside ? expf(load(a, i) - top) * factor - (i == chosen ? slope : 0.0f) : 0.0f);
}

// One block: the sum or the mean of the losses of rows that have a class, and how many these are.
extern "C" __global__ void loss_total(
    const float* losses, const long long* target, T* out, float* counted, long long num_rows, long long length,
    int mean, int none) {
    float total = 0.0f, number = 0.0f;
    for (long long r = threadIdx.x; r < num_rows; r += blockDim.x) {
        total += losses[r];
        number += target[r] >= 0 && target[r] < length ? 1.0f : 0.0f;
    }
    total = block_sum(total);
    number = block_sum(number);
    if (threadIdx.x == 0) {
        if (!none) store(out, 0, mean ? total / number : total);
        counted[0] = number;
    }
}
"""

_ATTENTION = """
// In place. Row r is query r % queries; it sees the keys up to number first + r % queries, if there is such a limit.
extern "C" __global__ void attention_weights(
    T* scores, long long length, long long queries, long long first, float scale, int causal) {
    scores += blockIdx.x * length;
    long long seen = causal ? first + blockIdx.x % queries + 1 : length;
    if (seen > length) seen = length;
    float top = -INFINITY, total = 0.0f;
    for (long long i = threadIdx.x; i < seen; i += blockDim.x) top = fmaxf(top, load(scores, i) * scale);
    top = block_max(top);
    for (long long i = threadIdx.x; i < seen; i += blockDim.x) total += expf(load(scores, i) * scale - top);
    total = block_sum(total);
    for (long long i = threadIdx.x; i < length; i += blockDim.x)
        store(scores, i, i < seen ? expf(load(scores, i) * scale - top) / total : 0.0f);
}

extern "C" __global__ void attention_slopes(T* grad, const T* weights, long long length, float scale) {
    grad += blockIdx.x * length;
    weights += blockIdx.x * length;
    float along = 0.0f;
    for (long long i = threadIdx.x; i < length; i += blockDim.x) along += load(grad, i) * load(weights, i);
    along = block_sum(along);
    for (long long i = threadIdx.x; i < length; i += blockDim.x)
        store(grad, i, (load(grad, i) - along) * load(weights, i) * scale);
}
"""

_NORMS = """
// Layer norm (centred) or RMS norm. weight, bias and mean may be null.
extern "C" __global__ void norm_rows(
    const T* input, const T* weight, const T* bias, T* out, float* mean, float* inverse, long long length, float eps,
    int centred) {
    input += blockIdx.x * length;
    out += blockIdx.x * length;
    float middle = 0.0f, square = 0.0f;
    if (centred) {
        for (long long i = threadIdx.x; i < length; i += blockDim.x) middle += load(input, i);
        middle = block_sum(middle) / length;
    }
    for (long long i = threadIdx.x; i < length; i += blockDim.x) {
        float x = load(input, i) - middle;
        square += x * x;
    }
    float factor = 1.0f / sqrtf(block_sum(square) / length + eps);
    for (long long i = threadIdx.x; i < length; i += blockDim.x) {
        float x = (load(input, i) - middle) * factor;
        if (weight) x *= load(weight, i);
        if (bias) x += load(bias, i);
        store(out, i, x);
    }
    if (threadIdx.x == 0) {
        if (centred) mean[blockIdx.x] = middle;
        inverse[blockIdx.x] = factor;
    }
}

extern "C" __global__ void norm_grad(
    const T* g, const T* input, const T* weight, const float* mean, const float* inverse, T* into, long long length,
    int centred) {
    g += blockIdx.x * length;
    input += blockIdx.x * length;
    into += blockIdx.x * length;
    float middle = centred ? mean[blockIdx.x] : 0.0f, factor = inverse[blockIdx.x], along = 0.0f, level = 0.0f;
    for (long long i = threadIdx.x; i < length; i += blockDim.x) {
        float slope = load(g, i) * (weight ? load(weight, i) : 1.0f);
        along += slope * ((load(input, i) - middle) * factor);
        level += slope;
    }
    along = block_sum(along) / length;
    level = centred ? block_sum(level) / length : 0.0f;
    for (long long i = threadIdx.x; i < length; i += blockDim.x) {
        float slope = load(g, i) * (weight ? load(weight, i) : 1.0f);
        store(into, i, (slope - level - (load(input, i) - middle) * factor * along) * factor);
    }
}

// A thread per column and chunk of rows: sums (chunks, 2, length), of the weight's gradient and of the bias'.
extern "C" __global__ void norm_sums(
    const T* g, const T* input, const float* mean, const float* inverse, float* sums, long long num_rows,
    long long length, int centred) {
    long long column = (long long)blockIdx.x * blockDim.x + threadIdx.x, chunk = blockIdx.y;
    if (column >= length) return;
    float of_weight = 0.0f, of_bias = 0.0f;
    for (long long r = chunk * num_rows / gridDim.y; r < (chunk + 1) * num_rows / gridDim.y; ++r) {
        float slope = load(g, r * length + column);
        of_weight += slope * ((load(input, r * length + column) - (centred ? mean[r] : 0.0f)) * inverse[r]);
        of_bias += slope;
    }
    sums[2 * chunk * length + column] = of_weight;
    sums[(2 * chunk + 1) * length + column] = of_bias;
}

extern "C" __global__ void norm_totals(const float* sums, T* of_weight, T* of_bias, int chunks, long long length) {
    long long column = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= length) return;
    float weight_total = 0.0f, bias_total = 0.0f;
    for (int chunk = 0; chunk < chunks; ++chunk) {
        weight_total += sums[2 * chunk * length + column];
        bias_total += sums[(2 * chunk + 1) * length + column];
    }
    store(of_weight, column, weight_total);
    store(of_bias, column, bias_total);
}
"""

KERNELS = (
    "softmax", "softmax_grad", "cross_entropy", "cross_entropy_grad", "loss_total", "attention_weights",
    "attention_slopes", "norm_rows", "norm_grad", "norm_sums", "norm_totals",
)  # fmt: skip
"""What is in the source."""


def source(kind: str) -> str:
    """The source for a dtype."""
    return PREAMBLE + KINDS[kind] + _REDUCTIONS + _SOFTMAX + _ATTENTION + _NORMS
