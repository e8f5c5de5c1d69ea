"""The text of the kernels of images' channels, in CUDA's C: batch norm and group norm, and their gradients;
and sums of columns of any kind.

Memory without gaps is seen as (outer, channels, inner), in whatever order the image's dimensions lie: with channels
last, `inner` is 1. Statistics of columns are found by chunks of their elements, a block of threads for each, and put
together chunk by chunk: in one order that depends on shapes alone. Nothing is atomic.
"""

from __future__ import annotations

from cordee.trainer.kernels.cuda.fused import PREAMBLE
from cordee.trainer.kernels.cuda.rows_text import KINDS

__all__ = ["KERNELS", "THREADS", "source"]

THREADS = 256
"""Of a block that adds up: the text counts on it."""

_SUMS = """
// Over the threads that share a column, one in every `tile`: the first of them get both sums.
__device__ void add_up(float& a, float& b, int tile) {
    __shared__ float parts[512];
    int t = threadIdx.x;
    parts[t] = a;
    parts[256 + t] = b;
    for (int apart = 128; apart >= tile; apart >>= 1) {
        __syncthreads();
        if (t < apart) {
            parts[t] += parts[t + apart];
            parts[256 + t] += parts[256 + t + apart];
        }
    }
    a = parts[t];
    b = parts[256 + t];
}

// A chunk's elements of a column: this thread's share, (outer index, place in the inner run) one after another.
struct Walk {
    long long p, high, o, j, inner, step, step_o, step_j;
    __device__ Walk(long long low, long long high_, int lane, int lanes, long long inner_) {
        p = low + lane;
        high = high_;
        inner = inner_;
        o = p / inner;
        j = p % inner;
        step = lanes;
        step_o = lanes / inner;
        step_j = lanes % inner;
    }
    __device__ void next() {
        p += step;
        o += step_o;
        j += step_j;
        if (j >= inner) {
            j -= inner;
            ++o;
        }
    }
};

__device__ __forceinline__ long long chunk_start(long long chunk, long long chunks, long long count) {
    return chunk * count / chunks;
}
"""

_MOMENTS = """
// A block per `tile` columns, chunk and sample: means and sums of squared deviations, (samples, chunks, 2, channels).
// They are taken from the chunk's first element, so that a large mean does not swallow them.
extern "C" __global__ void moments(
    const T* input, float* sums, long long outer, long long channels, long long inner, int tile) {
    long long c = (long long)blockIdx.x * tile + threadIdx.x % tile, count = outer * inner;
    long long low = chunk_start(blockIdx.y, gridDim.y, count), high = chunk_start(blockIdx.y + 1, gridDim.y, count);
    input += (long long)blockIdx.z * count * channels;
    sums += ((long long)blockIdx.z * gridDim.y + blockIdx.y) * 2 * channels;
    float first = 0.0f, total = 0.0f, squares = 0.0f;
    if (c < channels) {
        first = load(input, (low / inner * channels + c) * inner + low % inner);
        for (Walk at(low, high, threadIdx.x / tile, blockDim.x / tile, inner); at.p < at.high; at.next()) {
            float apart = load(input, (at.o * channels + c) * inner + at.j) - first;
            total += apart;
            squares += apart * apart;
        }
    }
    add_up(total, squares, tile);
    if (threadIdx.x < tile && c < channels) {
        float shift = total / (high - low);
        sums[c] = first + shift;
        sums[channels + c] = squares - total * shift;
    }
}

// A thread per column of a sample: its chunks' moments put together. var may be null.
extern "C" __global__ void statistics(
    const float* sums, float* mean, float* var, float* inverse, int chunks, long long count, long long channels,
    long long num_columns, float eps) {
    long long column = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= num_columns) return;
    sums += column / channels * chunks * 2 * channels + column % channels;
    float base = sums[0], shift = 0.0f, square = 0.0f;
    for (int k = 0; k < chunks; ++k)
        shift += (sums[2 * k * channels] - base) * (chunk_start(k + 1, chunks, count) - chunk_start(k, chunks, count));
    float middle = base + shift / count;
    for (int k = 0; k < chunks; ++k) {
        float apart = sums[2 * k * channels] - middle;
        square += sums[(2 * k + 1) * channels]
            + apart * apart * (chunk_start(k + 1, chunks, count) - chunk_start(k, chunks, count));
    }
    square /= count;
    mean[column] = middle;
    if (var) var[column] = square;
    inverse[column] = 1.0f / sqrtf(square + eps);
}
"""

_EACH = """
// Which channel an element is of, and where its statistics are: with `per`, those of the sample and group of `width`
// channels, where a sample takes `per` outer indices.
struct Belongs {
    long long channel, statistic;
    __device__ Belongs(
        long long i, long long size, long long channels, long long inner, long long per, long long width) {
        if (size >> 31) {
            channel = i / inner % channels;
            statistic = per ? i / inner / channels / per * (channels / width) + channel / width : channel;
        } else {  // several times faster
            unsigned column = (unsigned)i / (unsigned)inner, c = column % (unsigned)channels;
            channel = c;
            statistic = c;
            if (per)
                statistic = column / (unsigned)channels / (unsigned)per * ((unsigned)channels / (unsigned)width)
                    + c / (unsigned)width;
        }
    }
};

// weight, bias, and mean with inverse may be null: then there is only a factor and an addend per channel.
extern "C" __global__ void normalise(
    const T* input, const float* weight, const float* bias, const float* mean, const float* inverse, T* out,
    long long size, long long channels, long long inner, long long per, long long width) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= size) return;
    Belongs at(i, size, channels, inner, per, width);
    float x = load(input, i), scale = mean ? inverse[at.statistic] : 1.0f;
    if (mean) x -= mean[at.statistic];
    if (weight) scale *= weight[at.channel];
    x *= scale;
    if (bias) x += bias[at.channel];
    store(out, i, x);
}

// The gradient by the input. g_mean and g_var may be null.
extern "C" __global__ void normalise_grad(
    const T* g, const T* input, const float* weight, const float* mean, const float* inverse, const float* along,
    const float* level, const float* g_mean, const float* g_var, T* into, long long size, long long channels,
    long long inner, long long per, long long width, float count) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= size) return;
    Belongs at(i, size, channels, inner, per, width);
    float centred = load(input, i) - mean[at.statistic], factor = inverse[at.statistic];
    float slope = load(g, i) * (weight ? weight[at.channel] : 1.0f);
    slope = (slope - level[at.statistic] - centred * factor * along[at.statistic]) * factor;
    if (g_mean) slope += g_mean[at.channel] / count;
    if (g_var) slope += centred * g_var[at.channel] * 2.0f / count;
    store(into, i, slope);
}
"""

_SLOPES = """
// As moments: the sums of g · normalised input and of g, of which `width` columns share a mean and deviation.
extern "C" __global__ void slopes(
    const T* g, const T* input, const float* mean, const float* inverse, float* sums, long long outer,
    long long channels, long long inner, int tile, long long width) {
    long long c = (long long)blockIdx.x * tile + threadIdx.x % tile, count = outer * inner;
    long long low = chunk_start(blockIdx.y, gridDim.y, count), high = chunk_start(blockIdx.y + 1, gridDim.y, count);
    g += (long long)blockIdx.z * count * channels;
    input += (long long)blockIdx.z * count * channels;
    sums += ((long long)blockIdx.z * gridDim.y + blockIdx.y) * 2 * channels;
    float dots = 0.0f, total = 0.0f;
    if (c < channels) {
        long long statistic = (blockIdx.z * channels + c) / width;
        float middle = mean[statistic], factor = inverse[statistic];
        for (Walk at(low, high, threadIdx.x / tile, blockDim.x / tile, inner); at.p < at.high; at.next()) {
            long long i = (at.o * channels + c) * inner + at.j;
            float slope = load(g, i);
            dots += slope * ((load(input, i) - middle) * factor);
            total += slope;
        }
    }
    add_up(dots, total, tile);
    if (threadIdx.x < tile && c < channels) {
        sums[c] = dots;
        sums[channels + c] = total;
    }
}

extern "C" __global__ void slope_totals(
    const float* sums, float* dots, float* totals, int chunks, long long channels, long long num_columns) {
    long long column = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= num_columns) return;
    sums += column / channels * chunks * 2 * channels + column % channels;
    float dot = 0.0f, total = 0.0f;
    for (int k = 0; k < chunks; ++k) {
        dot += sums[2 * k * channels];
        total += sums[(2 * k + 1) * channels];
    }
    dots[column] = dot;
    totals[column] = total;
}

// A thread per statistic: the means, over what it is of, of the slopes along the normalised input and of the slopes.
extern "C" __global__ void slope_means(
    const float* dots, const float* totals, const float* weight, float* along, float* level, long long num_statistics,
    long long channels, long long width, float count) {
    long long q = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (q >= num_statistics) return;
    float dot = 0.0f, total = 0.0f;
    for (long long k = q * width; k < (q + 1) * width; ++k) {
        float scale = weight ? weight[k % channels] : 1.0f;
        dot += scale * dots[k];
        total += scale * totals[k];
    }
    along[q] = dot / count;
    level[q] = total / count;
}

// A thread per channel: what all samples add up to.
extern "C" __global__ void sample_totals(
    const float* dots, const float* totals, float* of_weight, float* of_bias, long long samples, long long channels) {
    long long c = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= channels) return;
    float dot = 0.0f, total = 0.0f;
    for (long long n = 0; n < samples; ++n) {
        dot += dots[n * channels + c];
        total += totals[n * channels + c];
    }
    of_weight[c] = dot;
    of_bias[c] = total;
}
"""

_TOTALS = """
// As moments: plain sums, (samples, chunks, channels).
extern "C" __global__ void column_sums(
    const T* a, float* sums, long long outer, long long channels, long long inner, int tile) {
    long long c = (long long)blockIdx.x * tile + threadIdx.x % tile, count = outer * inner;
    long long low = chunk_start(blockIdx.y, gridDim.y, count), high = chunk_start(blockIdx.y + 1, gridDim.y, count);
    a += (long long)blockIdx.z * count * channels;
    float total = 0.0f, nothing = 0.0f;
    if (c < channels)
        for (Walk at(low, high, threadIdx.x / tile, blockDim.x / tile, inner); at.p < at.high; at.next())
            total += load(a, (at.o * channels + c) * inner + at.j);
    add_up(total, nothing, tile);
    if (threadIdx.x < tile && c < channels)
        sums[((long long)blockIdx.z * gridDim.y + blockIdx.y) * channels + c] = total;
}

extern "C" __global__ void column_totals(
    const float* sums, T* out, int chunks, long long channels, long long num_columns) {
    long long column = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= num_columns) return;
    sums += column / channels * chunks * channels + column % channels;
    float total = 0.0f;
    for (int k = 0; k < chunks; ++k) total += sums[k * channels];
    store(out, column, total);
}
"""

KERNELS = (
    "column_sums", "column_totals", "moments", "statistics", "normalise", "normalise_grad", "slopes", "slope_totals",
    "slope_means", "sample_totals",
)  # fmt: skip
"""What is in the source."""


def source(kind: str) -> str:
    """The source for a dtype."""
    return PREAMBLE + KINDS[kind] + _SUMS + _MOMENTS + _EACH + _SLOPES + _TOTALS
