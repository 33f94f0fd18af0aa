// Max and average pools over t h w, channels innermost: `n t h w c`. Grid: blocks of 256 threads over the result; a
// thread has 16 bytes of channels (`wide`) or one channel (`single`) of one position. Launched by `ops::pool3d::cuda`.
//
// Backward passes gather: each position of the input finds the windows that contain it. Nothing is written twice, and
// the order of additions is fixed.
#include "common/divisor.cuh"
#include "common/elements.cuh"

// The extents of a pool, axes t h w; the same struct as `ops::pool3d::cuda::Extents`.
struct Pool {
    u32 c;
    Divisor groups;  // of the channels of one thread
    Divisor input[3], out[3], kernel[3], stride[3], dilation[3];
    u32 pad[3];
};

// The item of a thread: W channels from `channel` on, at position `t h w` of sample `n`.
struct Place {
    u32 channel, n, at[3];

    // Place number `i` of all channels of all places of extents `extent`, W channels at a time.
    __device__ __forceinline__ Place(u32 i, const Divisor& groups, const Divisor (&extent)[3], int width) {
        channel = divide(i, groups) * width;
        at[2] = divide(i, extent[2]), at[1] = divide(i, extent[1]), at[0] = divide(i, extent[0]);
        n = i;
    }
};

// The index of position `t h w` within a sample.
__device__ __forceinline__ u32 number(const Divisor (&extent)[3], u32 t, u32 h, u32 w) {
    return (t * extent[1].by + h) * extent[2].by + w;
}

// The coordinate under a tap of an output's window; one below 0 wraps.
__device__ __forceinline__ u32 under(const Pool& p, const Place& o, int axis, u32 tap) {
    return o.at[axis] * p.stride[axis].by + tap * p.dilation[axis].by - p.pad[axis];
}

// Calls `f.tap(position, tap)` with their indices for the taps of an output's window that are inside the input, in
// order.
template <class F>
__device__ __forceinline__ void for_taps(const Pool& p, const Place& o, F& f) {
    for (u32 a = 0; a < p.kernel[0].by; ++a) {
        u32 t = under(p, o, 0, a);
        if (t >= p.input[0].by) {
            continue;
        }
        for (u32 b = 0; b < p.kernel[1].by; ++b) {
            u32 h = under(p, o, 1, b);
            if (h >= p.input[1].by) {
                continue;
            }
            for (u32 d = 0; d < p.kernel[2].by; ++d) {
                u32 w = under(p, o, 2, d);
                if (w < p.input[2].by) {
                    f.tap(number(p.input, t, h, w), number(p.kernel, a, b, d));
                }
            }
        }
    }
}

// Along one axis, the outputs `first .. end` whose windows may contain an input coordinate.
struct Over {
    const Divisor &stride, &dilation;
    u32 at, first, end;

    __device__ __forceinline__ Over(const Pool& p, const Place& i, int axis)
        : stride(p.stride[axis]), dilation(p.dilation[axis]), at(i.at[axis] + p.pad[axis]) {
        u32 reach = dilation.by * (p.kernel[axis].by - 1);
        first = at > reach ? quotient(at - reach + stride.by - 1, stride) : 0;
        end = min(quotient(at, stride) + 1, p.out[axis].by);
    }

    // The tap of output o that is at the coordinate, for an output that touches it.
    __device__ __forceinline__ u32 tap(u32 o) const { return quotient(at - o * stride.by, dilation); }

    __device__ __forceinline__ bool touches(u32 o) const { return tap(o) * dilation.by == at - o * stride.by; }
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
__device__ __forceinline__ T* sample(T* of, const Pool& p, const Divisor (&extent)[3], const Place& at) {
    return of + (u64)at.n * extent[0].by * extent[1].by * extent[2].by * p.c + at.channel;
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
        Place o(i, p.groups, p.out, W);
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
        Place o(i, p.groups, p.input, W);
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
        Place o(i, p.groups, p.out, W);
        const T* from = sample(x, p, p.input, o);
        u32 found[W];
        float v[W];
        load_taps<W>(at + (u64)i * W, found);
#pragma unroll
        for (int k = 0; k < W; ++k) {
            u32 w = under(p, o, 2, divide(found[k], p.kernel[2]));
            u32 h = under(p, o, 1, divide(found[k], p.kernel[1]));
            u32 t = under(p, o, 0, found[k]);
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
        Place o(i, p.groups, PASS == BACKWARD ? p.input : p.out, W);
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
__device__ __forceinline__ void share(const T* __restrict__ dy, T* __restrict__ dx, const Divisor& groups,
                                      const Divisor& places, u32 n) {
    u32 i = blockIdx.x * BLOCK + threadIdx.x;
    if (i < n) {
        u32 rest = i, channel = divide(rest, groups) * W;
        float v[W];
        load<W>(dy + (u64)quotient(rest, places) * groups.by * W + channel, v);
#pragma unroll
        for (int k = 0; k < W; ++k) {
            v[k] = v[k] / (float)places.by;
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
    extern "C" __global__ void __launch_bounds__(256, 1) pool3d_max_forward_##NAME(                                    \
        const T* __restrict__ x, T* __restrict__ y, Tap* __restrict__ at, const Pool p, u32 n) {                       \
        largest<T, W>(x, y, at, p, n);                                                                                 \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256, 1) pool3d_max_backward_##NAME(                                   \
        const T* __restrict__ dy, const Tap* __restrict__ at, T* __restrict__ dx, const Pool p, u32 n) {               \
        unpool<T, W>(dy, at, dx, p, n);                                                                                \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256, 1) pool3d_max_gather_##NAME(                                     \
        const T* __restrict__ x, const Tap* __restrict__ at, T* __restrict__ y, const Pool p, u32 n) {                 \
        gather<T, W>(x, at, y, p, n);                                                                                  \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256, 1)                                                               \
        pool3d_avg_forward_##NAME(const T* __restrict__ x, T* __restrict__ y, const Pool p, float factor, u32 n) {     \
        mean<T, W, FORWARD>(x, y, p, factor, n);                                                                       \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256, 1)                                                               \
        pool3d_avg_backward_##NAME(const T* __restrict__ dy, T* __restrict__ dx, const Pool p, float factor, u32 n) {  \
        mean<T, W, BACKWARD>(dy, dx, p, factor, n);                                                                    \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256, 1) pool3d_global_backward_##NAME(                                \
        const T* __restrict__ dy, T* __restrict__ dx, const Divisor groups, const Divisor places, u32 n) {             \
        share<T, W>(dy, dx, groups, places, n);                                                                        \
    }

POOLS(wide_f32, float, 4)
POOLS(single_f32, float, 1)
POOLS(wide_bf16, bf16, 8)
POOLS(single_bf16, bf16, 1)
