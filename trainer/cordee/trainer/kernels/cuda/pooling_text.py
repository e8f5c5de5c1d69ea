"""The text of the kernels of pooling, in CUDA's C: a thread per element of the result.

Gradients are gathered: an element looks at the windows that it is in, in the order of the places in the window, so
nothing is atomic and sums have one order. Images have up to three sizes; those that are not there are 1.
"""

from __future__ import annotations

from cordee.trainer.kernels.cuda.fused import PREAMBLE
from cordee.trainer.kernels.cuda.rows_text import KINDS

__all__ = ["KERNELS", "source"]

_GEOMETRY = """
// Along one dimension: elements, windows, and the window's size, step, padding and dilation.
struct Along {
    int size, windows, kernel, stride, padding, dilation;
    // Where the window's place is in the image; -1: in its border.
    __device__ __forceinline__ int seen(int window, int place) const {
        int at = window * stride + place * dilation - padding;
        return at >= 0 && at < size ? at : -1;
    }
    // The window that has the element at this place; -1: none has.
    __device__ __forceinline__ int window(int element, int place) const {
        int from = element + padding - place * dilation;
        if (from < 0 || from % stride) return -1;
        from /= stride;
        return from < windows ? from : -1;
    }
};

// An index in memory taken apart: with channels last, an image's planes are its samples, and `channels` numbers lie at
// each point; else all channels of all samples are planes, and it is 1.
struct Point {
    long long plane;
    int d, h, w, channel;
    __device__ Point(long long i, int depth, int height, int width, int channels) {
        channel = i % channels;
        i /= channels;
        w = i % width;
        i /= width;
        h = i % height;
        i /= height;
        d = i % depth;
        plane = i / depth;
    }
};
"""

_ALONG = ", ".join(
    f"int {name}_{axis}" for axis in "dhw" for name in ("size", "windows", "kernel", "stride", "padding", "dilation")
)
_MADE = "\n".join(
    f"    Along {x} = {{size_{x}, windows_{x}, kernel_{x}, stride_{x}, padding_{x}, dilation_{x}}};" for x in "dhw"
)
_OVER_PLACES = """    int number = 0;
    for (int k = 0; k < d.kernel; ++k)
        for (int l = 0; l < h.kernel; ++l)
            for (int m = 0; m < w.kernel; ++m, ++number) {"""


def _of_windows(name: str, parameters: str, begin: str, each: str, end: str) -> str:
    """A kernel with a thread per window, which sees elements of the image `a`."""
    return f"""
extern "C" __global__ void {name}(const T* a, {parameters}, long long count, int channels, {_ALONG}) {{
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
{_MADE}
    Point at(i, d.windows, h.windows, w.windows, channels);
{begin}
{_OVER_PLACES}
                int z = d.seen(at.d, k), y = h.seen(at.h, l), x = w.seen(at.w, m);
                if (z < 0 || y < 0 || x < 0) continue;
                float value = load(
                    a, (((at.plane * d.size + z) * h.size + y) * w.size + x) * channels + at.channel);
{each}
            }}
{end}
}}
"""


def _of_elements(name: str, parameters: str, each: str) -> str:
    """A kernel with a thread per element of the image, which is in windows that have numbers `a`."""
    return f"""
extern "C" __global__ void {name}(const T* a, {parameters}T* into, long long count, int channels, {_ALONG}) {{
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
{_MADE}
    Point at(i, d.size, h.size, w.size, channels);
    float total = 0.0f;
{_OVER_PLACES}
                int z = d.window(at.d, k), y = h.window(at.h, l), x = w.window(at.w, m);
                if (z < 0 || y < 0 || x < 0) continue;
                long long from =
                    (((at.plane * d.windows + z) * h.windows + y) * w.windows + x) * channels + at.channel;
{each}
            }}
    store(into, i, total);
}}
"""


def _max_pool(name: str, winner: str) -> str:
    """The first of the largest that is no border; the last NaN."""
    return _of_windows(
        name,
        f"T* best, {winner}* winner",
        "    float largest = -INFINITY;\n    int won = 0;\n    bool found = false;",
        "                if (value > largest || value != value || !found) {\n"
        "                    largest = value;\n                    won = number;\n"
        "                    found = true;\n                }",
        f"    store(best, i, largest);\n    winner[i] = ({winner})won;",
    )


def _unpool(name: str, winner: str) -> str:
    return _of_elements(
        name, f"const {winner}* winner, ", "                if (winner[from] == number) total += load(a, from);"
    )


def _sum_pool() -> str:
    begin, each, end = "    float total = 0.0f;", "                total += value;", "    store(out, i, total);"
    return _of_windows("sum_pool", "T* out", begin, each, end)


KERNELS = ("max_pool_bytes", "max_pool_words", "unpool_bytes", "unpool_words", "sum_pool", "spread_pool")
"""What is in the source."""


def source(kind: str) -> str:
    """The source for a dtype."""
    return (
        PREAMBLE
        + KINDS[kind]
        + _GEOMETRY
        + _max_pool("max_pool_bytes", "unsigned char")
        + _max_pool("max_pool_words", "int")
        + _unpool("unpool_bytes", "unsigned char")
        + _unpool("unpool_words", "int")
        + _sum_pool()
        + _of_elements("spread_pool", "", "                total += load(a, from);")
    )
