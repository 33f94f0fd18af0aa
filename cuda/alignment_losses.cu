// The cosine losses of maps against targets with their first and second derivatives. Maps are `[n t area]`: samples,
// frames, positions. One block of 256 a sample. In f64: the maps are small, and so is their number. Launched by
// `ops::alignment::cuda`.
#include "common/elements.cuh"
#include "common/reduce.cuh"

// A vector whose length is below this is divided by this.
constexpr double EPS = 1e-12f;

// A centred vector is flat (its cosine and gradient are 0) if its length is at most this fraction of the length before.
constexpr double FLAT = 1.0 / (1 << 20);

// Extents and options; the same struct as `ops::alignment::cuda::Arguments`.
struct Arguments {
    u32 n, t, area;
    u32 raw, centred;
    float weight[3];  // spatio-temporal, spatial, temporal
};

// Sums over the threads that share a vector: a warp, or a block.
struct Warp {
    __device__ __forceinline__ u32 first() const { return threadIdx.x % 32; }
    __device__ __forceinline__ u32 step() const { return 32; }
    template <int K>
    __device__ __forceinline__ void sum(double (&v)[K]) const {
#pragma unroll
        for (int k = 0; k < K; ++k) {
            v[k] = sum_warp(v[k]);
        }
    }
};

struct Block {
    double* space;  // WARPS of every sum
    __device__ __forceinline__ u32 first() const { return threadIdx.x; }
    __device__ __forceinline__ u32 step() const { return LANES; }
    template <int K>
    __device__ __forceinline__ void sum(double (&v)[K]) const {
        Warp().sum(v);
        __syncthreads();  // who still reads the sums before
        if (threadIdx.x % 32 == 0) {
#pragma unroll
            for (int k = 0; k < K; ++k) {
                space[k * WARPS + threadIdx.x / 32] = v[k];
            }
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < K; ++k) {
            v[k] = 0.0;
#pragma unroll
            for (u32 w = 0; w < WARPS; ++w) {
                v[k] += space[k * WARPS + w];
            }
        }
    }
};

// An element of the map's vector and of the target's.
struct Pair {
    double p, y;
};

// The cosine of a vector with a constant one, and what its derivatives need; src/ops/alignment/cpu/cosines.rs.
struct Cosine {
    Pair shift, scale;
    double cos;
    u32 curved;
};

// What the second derivative needs of the direction as a whole.
struct Along {
    double mean, a, slope;
};

// One over the length of a vector, at most 1/ε; 0 where it is flat.
__device__ __forceinline__ double one_over(double length, double whole, u32 centred) {
    return centred && length <= FLAT * whole ? 0.0 : 1.0 / fmax(length, EPS);
}

// The cosine of the vectors whose elements are `pair(i)`, and their sums. In every thread of the group.
template <class G, class F>
__device__ __forceinline__ Cosine cosine(const G& group, u32 count, u32 centred, const F& pair, Pair& sums) {
    double sum[2] = {};
#pragma unroll 1
    for (u32 i = group.first(); i < count; i += group.step()) {
        Pair v = pair(i);
        sum[0] += v.p, sum[1] += v.y;
    }
    group.sum(sum);
    sums = {sum[0], sum[1]};
    Cosine k;
    k.shift = centred ? Pair{sum[0] / count, sum[1] / count} : Pair{0.0, 0.0};
    double s[5] = {};
#pragma unroll 1
    for (u32 i = group.first(); i < count; i += group.step()) {
        Pair v = pair(i);
        double a = v.p - k.shift.p, b = v.y - k.shift.y;
        s[0] += a * b, s[1] += a * a, s[2] += b * b, s[3] += v.p * v.p, s[4] += v.y * v.y;
    }
    group.sum(s);
    double length = sqrt(s[1]);
    k.scale = {one_over(length, sqrt(s[3]), centred), one_over(sqrt(s[2]), sqrt(s[4]), centred)};
    k.cos = s[0] * k.scale.p * k.scale.y;
    k.curved = length > EPS;
    return k;
}

// The map's element at unit length.
__device__ __forceinline__ double unit(const Cosine& k, const Pair& v) {
    return (v.p - k.shift.p) * k.scale.p;
}

// The slope of the cosine for the map's element.
__device__ __forceinline__ double slope(const Cosine& k, const Pair& v) {
    double bent = k.curved ? k.cos * unit(k, v) : 0.0;
    return ((v.y - k.shift.y) * k.scale.y - bent) * k.scale.p;
}

// Of the direction whose elements are `u(i)`. In every thread of the group; `total` is the sum of the elements.
template <class G, class F, class U>
__device__ __forceinline__ Along along(const G& group, const Cosine& k, u32 count, u32 centred, const F& pair,
                                       const U& u, double& total) {
    double sum[1] = {};
#pragma unroll 1
    for (u32 i = group.first(); i < count; i += group.step()) {
        sum[0] += u(i);
    }
    group.sum(sum);
    total = sum[0];
    Along to;
    to.mean = centred ? total / count : 0.0;
    double s[2] = {};
#pragma unroll 1
    for (u32 i = group.first(); i < count; i += group.step()) {
        Pair v = pair(i);
        double d = u(i) - to.mean;
        s[0] += unit(k, v) * d, s[1] += slope(k, v) * d;
    }
    group.sum(s);
    to.a = s[0], to.slope = s[1];
    return to;
}

// The change of the slope along a direction whose element here is `u`.
__device__ __forceinline__ double curvature(const Cosine& k, const Pair& v, double u, const Along& to) {
    double a = unit(k, v);
    double across = k.cos * (u - to.mean - a * to.a) * k.scale.p;
    double change = -(a * to.slope + slope(k, v) * to.a + across) * k.scale.p;
    return k.curved ? change : 0.0;
}

// `exp(x)` for x <= 0 with an error of 4 ulp of f32, but the range of f64.
__device__ __forceinline__ double power(double x) {
    float k = rintf((float)fmax(x, -700.0) * 1.44269504f);
    float rest = (float)fma((double)k, -0.693147180559945309, fmax(x, -700.0));
    double e = (double)expf(rest) * __longlong_as_double((long long)((int)k + 1023) << 52);
    return x < -700.0 ? 0.0 : e;
}

// A frame, in shared memory.
struct Frame {
    Cosine k;
    Pair sums;
    double weight;  // times the same number for all frames
    Along to;
    double u;  // the sum of the direction
};

// A sample: its map and its target, and its cosines.
struct Sample {
    const Arguments& arguments;
    const float *p, *y;
    Frame* frames;
    Cosine spatial, temporal;
    double share;  // makes weights of `Frame::weight`

    __device__ __forceinline__ Pair at(u32 t, u32 i) const {
        return {(double)p[t * arguments.area + i], (double)y[t * arguments.area + i]};
    }

    // The mean over the frames.
    __device__ __forceinline__ Pair mean(u32 i) const {
        Pair sum = {0.0, 0.0};
#pragma unroll 1
        for (u32 t = 0; t < arguments.t; ++t) {
            Pair v = at(t, i);
            sum.p += v.p, sum.y += v.y;
        }
        return {sum.p / arguments.t, sum.y / arguments.t};
    }

    // Called by all threads of the block. The frames in smem are complete when it returns.
    __device__ __forceinline__ Sample(const Arguments& arguments, const float* p, const float* y, Frame* frames,
                                      double* space)
        : arguments(arguments),
          p(p + (u64)blockIdx.x * arguments.t * arguments.area),
          y(y + (u64)blockIdx.x * arguments.t * arguments.area),
          frames(frames) {
        Block block = {space};
#pragma unroll 1
        for (u32 t = threadIdx.x / 32; t < arguments.t; t += WARPS) {
            Pair sums;
            Cosine k = cosine(Warp(), arguments.area, arguments.centred, [&](u32 i) { return at(t, i); }, sums);
            if (threadIdx.x % 32 == 0) {
                frames[t].k = k, frames[t].sums = sums;
            }
        }
        __syncthreads();
        double top = frames[0].sums.y, all = 0.0;
#pragma unroll 1
        for (u32 t = 0; t < arguments.t; ++t) {
            top = fmax(top, frames[t].sums.y), all += frames[t].sums.y;
        }
        double mean_all = all / ((double)arguments.t * arguments.area);
        double scale = !arguments.raw && mean_all > 0.0 ? 1.0 / mean_all : 1.0;
#pragma unroll 1
        for (u32 t = threadIdx.x; t < arguments.t; t += LANES) {
            frames[t].weight = power((frames[t].sums.y - top) * scale);
        }
        __syncthreads();
        double sum = 0.0;
#pragma unroll 1
        for (u32 t = 0; t < arguments.t; ++t) {
            sum += frames[t].weight;
        }
        share = 1.0 / sum;
        Pair unused;
        spatial = cosine(block, arguments.area, arguments.centred, [&](u32 i) { return mean(i); }, unused);
        temporal = cosine(block, arguments.t, arguments.centred, [&](u32 t) { return this->frames[t].sums; }, unused);
    }
};

#define SHARED                                                                                                         \
    extern __shared__ __align__(16) u8 cosines[];                                                                      \
    __shared__ double space[5 * WARPS];                                                                                \
    Frame* frames = reinterpret_cast<Frame*>(cosines);

// For each sample the weighted loss, `1 - S_st`, `1 - S_s`, `1 - S_t` and the plain cosine: `each[n 5]`. Grid: a block
// of 256 for each of the n samples, with a `Frame` of shared memory for each frame. Launched by
// `ops::alignment::forward`.
// shared: alignment_loss_forward_f32 416
extern "C" __global__ void __launch_bounds__(256, 1)
    alignment_loss_forward_f32(const float* __restrict__ p, const float* __restrict__ y, float* __restrict__ each,
                               Arguments arguments) {
    SHARED
    Sample s(arguments, p, y, frames, space);
    Pair unused;
    Cosine plain = cosine(Block{space}, arguments.t * arguments.area, 0, [&](u32 i) { return s.at(0, i); }, unused);
    if (threadIdx.x == 0) {
        double st = 0.0;
#pragma unroll 1
        for (u32 t = 0; t < arguments.t; ++t) {
            st += frames[t].weight * s.share * frames[t].k.cos;
        }
        double a = 1.0 - st, b = 1.0 - s.spatial.cos, c = 1.0 - s.temporal.cos;
        float* to = each + blockIdx.x * 5;
        to[0] = (float)(arguments.weight[0] * a + arguments.weight[1] * b + arguments.weight[2] * c);
        to[1] = (float)a, to[2] = (float)b, to[3] = (float)c, to[4] = (float)plain.cos;
    }
}

// The means over the n samples: `loss[1]` and `stats[4]`. Grid: a block of 32. Launched by `ops::alignment::forward`.
extern "C" __global__ void __launch_bounds__(32)
    alignment_loss_merge_f32(const float* __restrict__ each, float* __restrict__ loss, float* __restrict__ stats,
                             u32 n) {
    u32 i = threadIdx.x;
    if (i < 5) {
        double sum = 0.0;
#pragma unroll 4
        for (u32 s = 0; s < n; ++s) {
            sum += each[s * 5 + i];
        }
        (i == 0 ? loss : stats + (i - 1))[0] = (float)(sum / n);
    }
}

// The gradient of the loss for p, times `*dy`. Grid and shared memory as of the losses. Launched by
// `ops::alignment::backward`.
// shared: alignment_loss_backward_f32 416
extern "C" __global__ void __launch_bounds__(256, 1)
    alignment_loss_backward_f32(const float* __restrict__ p, const float* __restrict__ y, const float* __restrict__ dy,
                                float* __restrict__ dp, Arguments arguments) {
    SHARED
    Sample s(arguments, p, y, frames, space);
    double scale = -(double)*dy / arguments.n;
    float* to = dp + (u64)blockIdx.x * arguments.t * arguments.area;
#pragma unroll 1
    for (u32 i = threadIdx.x; i < arguments.area; i += LANES) {
        double cell = arguments.weight[1] * slope(s.spatial, s.mean(i)) / arguments.t;
#pragma unroll 1
        for (u32 t = 0; t < arguments.t; ++t) {
            double frame = arguments.weight[0] * (frames[t].weight * s.share) * slope(frames[t].k, s.at(t, i));
            double whole = arguments.weight[2] * slope(s.temporal, frames[t].sums);
            to[t * arguments.area + i] = (float)(scale * (frame + cell + whole));
        }
    }
}

// The derivative of the gradient along u, times `*dy`. Grid and shared memory as of the losses. Launched by
// `ops::alignment::backward2`.
// shared: alignment_loss_double_backward_f32 416
extern "C" __global__ void __launch_bounds__(256, 1)
    alignment_loss_double_backward_f32(const float* __restrict__ p, const float* __restrict__ y,
                                       const float* __restrict__ dy, const float* __restrict__ u,
                                       float* __restrict__ out, Arguments arguments) {
    SHARED
    Sample s(arguments, p, y, frames, space);
    u64 first = (u64)blockIdx.x * arguments.t * arguments.area;
    const float* from = u + first;
#pragma unroll 1
    for (u32 t = threadIdx.x / 32; t < arguments.t; t += WARPS) {
        double total;
        auto pair = [&](u32 i) { return s.at(t, i); };
        auto direction = [&](u32 i) { return (double)from[t * arguments.area + i]; };
        Along to = along(Warp(), frames[t].k, arguments.area, arguments.centred, pair, direction, total);
        if (threadIdx.x % 32 == 0) {
            frames[t].to = to, frames[t].u = total;
        }
    }
    __syncthreads();
    auto mean = [&](u32 i) {
        double sum = 0.0;
#pragma unroll 1
        for (u32 t = 0; t < arguments.t; ++t) {
            sum += from[t * arguments.area + i];
        }
        return sum / arguments.t;
    };
    Block block = {space};
    double unused;
    Along cells =
        along(block, s.spatial, arguments.area, arguments.centred, [&](u32 i) { return s.mean(i); }, mean, unused);
    Along sums = along(
        block, s.temporal, arguments.t, arguments.centred, [&](u32 t) { return frames[t].sums; },
        [&](u32 t) { return frames[t].u; }, unused);
    double scale = -(double)*dy / arguments.n;
#pragma unroll 1
    for (u32 i = threadIdx.x; i < arguments.area; i += LANES) {
        double cell = arguments.weight[1] * curvature(s.spatial, s.mean(i), mean(i), cells) / arguments.t;
#pragma unroll 1
        for (u32 t = 0; t < arguments.t; ++t) {
            const Frame& f = frames[t];
            double frame = arguments.weight[0] * (f.weight * s.share) *
                           curvature(f.k, s.at(t, i), from[t * arguments.area + i], f.to);
            double whole = arguments.weight[2] * curvature(s.temporal, f.sums, f.u, sums);
            out[first + t * arguments.area + i] = (float)(scale * (frame + cell + whole));
        }
    }
}
