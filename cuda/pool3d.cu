// Max and average pools over t h w, channels innermost: `n t h w c`. Grid: blocks of 256 threads over the result; a
// thread has 16 bytes of channels (`wide`) or one channel (`single`) of one position. Launched by `ops::pool3d::cuda`.
//
// Backward passes gather: each position of the input finds the windows that contain it. Nothing is written twice, and
// the order of additions is fixed.
#include "common/elements.cuh"

// The extents of a pool, axes t h w; the same struct as `ops::pool3d::cuda::Extents`.
struct Pool {
    u32 n, c;
    u32 input[3], out[3], kernel[3], stride[3], pad[3], dilation[3];
};

// The item of a thread: W channels from `channel` on, at position `t h w` of sample `n`.
struct Place {
    u32 channel, n, at[3];

    // Place number `i` of all channels of all places of extents `extent`, W channels at a time.
    __device__ __forceinline__ Place(u32 i, u32 groups, const u32 (&extent)[3], int width) {
        channel = i % groups * width, i /= groups;
        at[2] = i % extent[2], i /= extent[2];
        at[1] = i % extent[1], i /= extent[1];
        at[0] = i % extent[0], n = i / extent[0];
    }
};

// The index of position `t h w` within a sample.
__device__ __forceinline__ u32 number(const u32 (&extent)[3], u32 t, u32 h, u32 w) {
    return (t * extent[1] + h) * extent[2] + w;
}

// Calls `f.tap(position, tap)` with their indices for the taps of an output's window that are inside the input, in
// order.
template <class F>
__device__ __forceinline__ void for_taps(const Pool& p, const Place& o, F& f) {
    for (u32 a = 0; a < p.kernel[0]; ++a) {
        u32 t = o.at[0] * p.stride[0] + a * p.dilation[0] - p.pad[0];
        if (t >= p.input[0]) {  // or below 0, which wraps
            continue;
        }
        for (u32 b = 0; b < p.kernel[1]; ++b) {
            u32 h = o.at[1] * p.stride[1] + b * p.dilation[1] - p.pad[1];
            if (h >= p.input[1]) {
                continue;
            }
            for (u32 d = 0; d < p.kernel[2]; ++d) {
                u32 w = o.at[2] * p.stride[2] + d * p.dilation[2] - p.pad[2];
                if (w < p.input[2]) {
                    f.tap(number(p.input, t, h, w), number(p.kernel, a, b, d));
                }
            }
        }
    }
}

// Along one axis, the outputs `first .. end` whose windows may contain an input coordinate.
struct Over {
    u32 at, first, end, stride, dilation;

    __device__ __forceinline__ Over(const Pool& p, const Place& i, int axis) {
        stride = p.stride[axis], dilation = p.dilation[axis], at = i.at[axis] + p.pad[axis];
        u32 reach = dilation * (p.kernel[axis] - 1);
        first = at > reach ? (at - reach + stride - 1) / stride : 0;
        end = min(at / stride + 1, p.out[axis]);
    }

    __device__ __forceinline__ bool touches(u32 o) const { return dilation == 1 || (at - o * stride) % dilation == 0; }

    // The tap of output o that is at the coordinate, for an output that touches it.
    __device__ __forceinline__ u32 tap(u32 o) const {
        return dilation == 1 ? at - o * stride : (at - o * stride) / dilation;
    }
};

// Calls `f.tap(output, tap)` with their indices for the outputs whose windows contain a position of the input, in
// order.
template <class F>
__device__ __forceinline__ void for_windows(const Pool& p, const Place& i, F& f) {
    Over t(p, i, 0), h(p, i, 1), w(p, i, 2);
    for (u32 a = t.first; a < t.end; ++a) {
        for (u32 b = h.first; b < h.end && t.touches(a); ++b) {
            for (u32 d = w.first; d < w.end && h.touches(b); ++d) {
                if (w.touches(d)) {
                    f.tap(number(p.out, a, b, d), number(p.kernel, t.tap(a), h.tap(b), w.tap(d)));
                }
            }
        }
    }
}

// The first W channels of sample n of a tensor whose samples have `places` places.
template <class T>
__device__ __forceinline__ T* sample(T* of, const Pool& p, const u32 (&extent)[3], const Place& at) {
    return of + (u64)at.n * extent[0] * extent[1] * extent[2] * p.c + at.channel;
}

// The stored index of a tap: two bytes, the size of a bf16.
typedef u16 Tap;

template <int W>
__device__ __forceinline__ void load_taps(const Tap* __restrict__ from, u32 (&v)[W]) {
    if constexpr (W == 1) {
        v[0] = *from;
    } else {
        u32 pairs[W / 2];
        if constexpr (W == 4) {
            uint2 q = *reinterpret_cast<const uint2*>(from);
            pairs[0] = q.x, pairs[1] = q.y;
        } else {
            uint4 q = *reinterpret_cast<const uint4*>(from);
            pairs[0] = q.x, pairs[1] = q.y, pairs[2] = q.z, pairs[3] = q.w;
        }
#pragma unroll
        for (int k = 0; k < W; ++k) {
            v[k] = pairs[k / 2] >> k % 2 * 16 & 0xffff;
        }
    }
}

template <int W>
__device__ __forceinline__ void store_taps(Tap* to, const u32 (&v)[W]) {
    if constexpr (W == 1) {
        *to = (Tap)v[0];
    } else if constexpr (W == 4) {
        *reinterpret_cast<uint2*>(to) = make_uint2(v[0] | v[1] << 16, v[2] | v[3] << 16);
    } else {
        *reinterpret_cast<uint4*>(to) =
            make_uint4(v[0] | v[1] << 16, v[2] | v[3] << 16, v[4] | v[5] << 16, v[6] | v[7] << 16);
    }
}

// The maximum so far and its tap. A NaN replaces any number and is not replaced.
template <class T, int W>
struct Largest {
    const T* __restrict__ x;
    u32 c;
    bool first;
    float best[W];
    u32 at[W];

    __device__ __forceinline__ void tap(u32 place, u32 tap) {
        float v[W];
        load<W>(x + (u64)place * c, v);
#pragma unroll
        for (int k = 0; k < W; ++k) {
            bool wins = first || v[k] > best[k] || (v[k] != v[k] && best[k] == best[k]);
            best[k] = wins ? v[k] : best[k];
            at[k] = wins ? tap : at[k];
        }
        first = false;
    }
};

// The sum over the taps or windows.
template <class T, int W>
struct Total {
    const T* __restrict__ x;
    u32 c;
    float sum[W];

    __device__ __forceinline__ void tap(u32 place, u32) {
        float v[W];
        load<W>(x + (u64)place * c, v);
#pragma unroll
        for (int k = 0; k < W; ++k) {
            sum[k] += v[k];
        }
    }
};

// The sum over the windows whose maximum is at this position.
template <class T, int W>
struct Chosen {
    const T* __restrict__ dy;
    const Tap* __restrict__ at;
    u32 c;
    float sum[W];

    __device__ __forceinline__ void tap(u32 o, u32 tap) {
        float v[W];
        u32 found[W];
        load<W>(dy + (u64)o * c, v);
        load_taps<W>(at + (u64)o * c, found);
#pragma unroll
        for (int k = 0; k < W; ++k) {
            sum[k] += found[k] == tap ? v[k] : 0.0f;
        }
    }
};

template <class T, int W>
__device__ __forceinline__ void largest(const T* __restrict__ x, T* __restrict__ y, Tap* __restrict__ at, const Pool& p,
                                        u32 n) {
    u32 i = blockIdx.x * BLOCK + threadIdx.x;
    if (i < n) {
        Place o(i, p.c / W, p.out, W);
        Largest<T, W> f = {sample(x, p, p.input, o), p.c, true, {}, {}};
        for_taps(p, o, f);
        store<W>(y + (u64)i * W, f.best);
        store_taps<W>(at + (u64)i * W, f.at);
    }
}

template <class T, int W>
__device__ __forceinline__ void unpool(const T* __restrict__ dy, const Tap* __restrict__ at, T* __restrict__ dx,
                                       const Pool& p, u32 n) {
    u32 i = blockIdx.x * BLOCK + threadIdx.x;
    if (i < n) {
        Place o(i, p.c / W, p.input, W);
        Chosen<T, W> f = {sample(dy, p, p.out, o), sample(at, p, p.out, o), p.c, {}};
        for_windows(p, o, f);
        store<W>(dx + (u64)i * W, f.sum);
    }
}

template <class T, int W>
__device__ __forceinline__ void gather(const T* __restrict__ x, const Tap* __restrict__ at, T* __restrict__ y,
                                       const Pool& p, u32 n) {
    u32 i = blockIdx.x * BLOCK + threadIdx.x;
    if (i < n) {
        Place o(i, p.c / W, p.out, W);
        const T* from = sample(x, p, p.input, o);
        u32 found[W];
        float v[W];
        load_taps<W>(at + (u64)i * W, found);
#pragma unroll
        for (int k = 0; k < W; ++k) {
            u32 a = found[k] / p.kernel[2], d = found[k] % p.kernel[2];
            u32 t = o.at[0] * p.stride[0] + a / p.kernel[1] * p.dilation[0] - p.pad[0];
            u32 h = o.at[1] * p.stride[1] + a % p.kernel[1] * p.dilation[1] - p.pad[1];
            u32 w = o.at[2] * p.stride[2] + d * p.dilation[2] - p.pad[2];
            v[k] = to_f32(from[(u64)number(p.input, t, h, w) * p.c + k]);
        }
        store<W>(y + (u64)i * W, v);
    }
}

enum Pass { FORWARD, BACKWARD };

// The mean over windows, or its adjoint.
template <class T, int W, Pass PASS>
__device__ __forceinline__ void mean(const T* __restrict__ x, T* __restrict__ y, const Pool& p, float factor, u32 n) {
    u32 i = blockIdx.x * BLOCK + threadIdx.x;
    if (i < n) {
        Place o(i, p.c / W, PASS == BACKWARD ? p.input : p.out, W);
        Total<T, W> f = {sample(x, p, PASS == BACKWARD ? p.out : p.input, o), p.c, {}};
        if constexpr (PASS == BACKWARD) {
            for_windows(p, o, f);
        } else {
            for_taps(p, o, f);
        }
#pragma unroll
        for (int k = 0; k < W; ++k) {
            f.sum[k] *= factor;
        }
        store<W>(y + (u64)i * W, f.sum);
    }
}

template <class T, int W>
__device__ __forceinline__ void share(const T* __restrict__ dy, T* __restrict__ dx, u32 places, u32 c, u32 n) {
    u32 i = blockIdx.x * BLOCK + threadIdx.x;
    if (i < n) {
        u32 groups = c / W;
        float v[W];
        load<W>(dy + (u64)(i / groups / places) * c + i % groups * W, v);
#pragma unroll
        for (int k = 0; k < W; ++k) {
            v[k] = v[k] / (float)places;
        }
        store<W>(dx + (u64)i * W, v);
    }
}

// All grids: a block for every 256 of the n threads, each with W channels of a place of the result (wide: c is a
// multiple of 16 bytes). `at` holds, per element of a result, the number of the tap its maximum was under.
//
// max_forward: y and at from x; max_backward: dx from dy and at; max_gather: the elements of x at the chosen places,
// the adjoint of max_backward; avg_forward: means of windows, padding counted as zeros, `factor` being 1 over the
// kernel's size; avg_backward: its adjoint; global_backward: dy[n c] over `places` repeated to them. Launched by
// `ops::pool3d`.
#define POOLS(NAME, T, W)                                                                                              \
    extern "C" __global__ void __launch_bounds__(256, 1)                                                               \
        pool3d_max_forward_##NAME(const T* __restrict__ x, T* __restrict__ y, Tap* __restrict__ at, Pool p, u32 n) {   \
        largest<T, W>(x, y, at, p, n);                                                                                 \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256, 1) pool3d_max_backward_##NAME(                                   \
        const T* __restrict__ dy, const Tap* __restrict__ at, T* __restrict__ dx, Pool p, u32 n) {                     \
        unpool<T, W>(dy, at, dx, p, n);                                                                                \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256, 1) pool3d_max_gather_##NAME(                                     \
        const T* __restrict__ x, const Tap* __restrict__ at, T* __restrict__ y, Pool p, u32 n) {                       \
        gather<T, W>(x, at, y, p, n);                                                                                  \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256, 1)                                                               \
        pool3d_avg_forward_##NAME(const T* __restrict__ x, T* __restrict__ y, Pool p, float factor, u32 n) {           \
        mean<T, W, FORWARD>(x, y, p, factor, n);                                                                       \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256, 1)                                                               \
        pool3d_avg_backward_##NAME(const T* __restrict__ dy, T* __restrict__ dx, Pool p, float factor, u32 n) {        \
        mean<T, W, BACKWARD>(dy, dx, p, factor, n);                                                                    \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256, 1)                                                               \
        pool3d_global_backward_##NAME(const T* __restrict__ dy, T* __restrict__ dx, u32 places, u32 c, u32 n) {        \
        share<T, W>(dy, dx, places, c, n);                                                                             \
    }

POOLS(wide_f32, float, 4)
POOLS(single_f32, float, 1)
POOLS(wide_bf16, bf16, 8)
POOLS(single_bf16, bf16, 1)
