// SGD with momentum, the moving average of a key network, and bf16 copies of weights: for one tensor, or for all
// tensors of a network in one launch. Blocks of 256 threads. Products and sums are rounded one by one, as on the CPU,
// so that both give the same bits. Launched by `ops::sgd::cuda`.
#include "common/elements.cuh"

// The optimiser's constants: the layout of ops::sgd::cuda::Constants.
struct Constants {
    float momentum, decay, lr, keep, fresh;
    u32 nesterov;
};

__device__ __forceinline__ float multiply_add(float a, float b, float c) {
    return __fadd_rn(__fmul_rn(a, b), c);
}

// `v = momentum·v + g`, `w -= lr·(g + momentum·v)` or `lr·v`, where `g = grad + decay·w`.
__device__ __forceinline__ void descend(const Constants& p, float decay, float lr, float& w, float& v, float g) {
    g = __fadd_rn(g, __fmul_rn(decay, w));
    v = multiply_add(p.momentum, v, g);
    w = __fsub_rn(w, __fmul_rn(lr, p.nesterov != 0 ? multiply_add(p.momentum, v, g) : v));
}

struct Step {
    float* w;
    const float* __restrict__ grad;
    float* v;
    const Constants& p;

    template <int W>
    __device__ __forceinline__ void at(u32 i) const {
        float x[W], g[W], u[W];
        load<W>(w + i, x);
        load<W>(grad + i, g);
        load<W>(v + i, u);
#pragma unroll
        for (int k = 0; k < W; ++k) {
            descend(p, p.decay, p.lr, x[k], u[k], g[k]);
        }
        store<W>(w + i, x);
        store<W>(v + i, u);
    }
};

// One step on n weights in place. Grid: a block for every 256 threads of 16 bytes. Launched by `ops::sgd::step`.
extern "C" __global__ void __launch_bounds__(256)
    sgd_step_f32(float* w, const float* __restrict__ grad, float* v, Constants p, u32 n) {
    for_elements<WIDE<float>>(n, Step{w, grad, v, p});
}

// Most tensors of one launch.
constexpr int MOST = 512;
// Elements that a block works on.
constexpr u32 CHUNK = 16384;

// All tensors: the layout of ops::sgd::cuda::Table. What is absent is null. It travels in the kernel's parameters, so
// that a recorded graph holds it.
struct Table {
    float* w[MOST];           // weights
    const float* grad[MOST];  // their gradients; where null, weights stay
    float* v[MOST];           // velocities, where there are gradients
    float* key[MOST];         // what follows the weights
    bf16* half[MOST];         // the weights rounded
    bf16* key_half[MOST];     // what follows, rounded
    u32 start[MOST];          // the first block of each
    u32 len[MOST];            // elements of each
    u32 decays[MOST / 32];    // bits: whether weight decay applies
    u32 count;
};

// The tensor that a block belongs to: the last that starts at or before it.
__device__ __forceinline__ u32 tensor_of(const Table& t, u32 block) {
    u32 first = 0, end = t.count;
    while (end - first > 1) {
        u32 middle = (first + end) / 2;
        if (t.start[middle] <= block) {
            first = middle;
        } else {
            end = middle;
        }
    }
    return first;
}

// What a block does to its chunk.
struct Update {
    float* w;
    const float* __restrict__ grad;
    float *v, *key;
    bf16 *half, *key_half;
    float decay, lr;
    const Constants& p;

    template <int W>
    __device__ __forceinline__ void at(u32 i) const {
        float x[W];
        load<W>(w + i, x);
        if (grad != nullptr) {
            float g[W], u[W];
            load<W>(grad + i, g);
            load<W>(v + i, u);
#pragma unroll
            for (int k = 0; k < W; ++k) {
                descend(p, decay, lr, x[k], u[k], g[k]);
            }
            store<W>(w + i, x);
            store<W>(v + i, u);
        }
        if (half != nullptr) {
            store<W>(half + i, x);
        }
        if (key != nullptr) {
            float y[W];
            load<W>(key + i, y);
#pragma unroll
            for (int k = 0; k < W; ++k) {
                y[k] = __fadd_rn(__fmul_rn(p.keep, y[k]), __fmul_rn(p.fresh, x[k]));
            }
            store<W>(key + i, y);
            if (key_half != nullptr) {
                store<W>(key_half + i, y);
            }
        }
    }
};

// Whether a number is neither NaN nor infinite.
__device__ __forceinline__ bool finite(float v) {
    return (__float_as_uint(v) & 0x7f800000u) != 0x7f800000u;
}

// A step on all weights with a gradient, then `key = keep·key + fresh·w` and the bf16 copies, each where its pointer is
// not null. The learning rate is `*rate`, or `p.lr` where `rate` is null. No step is taken where `*guard`, a loss, is
// not finite; `guard` may be null. Grid: a block of 256 for every 16384 elements of each tensor.
// Launched by `ops::sgd::step_all` and `ops::ema::update_all`.
extern "C" __global__ void __launch_bounds__(256)
    sgd_step_all_f32(const __grid_constant__ Table t, const float* __restrict__ rate, const float* __restrict__ guard,
                     Constants p) {
    u32 i = tensor_of(t, blockIdx.x), begin = (blockIdx.x - t.start[i]) * CHUNK, end = min(begin + CHUNK, t.len[i]);
    float decay = t.decays[i / 32] >> i % 32 & 1 ? p.decay : 0.0f, lr = rate != nullptr ? *rate : p.lr;
    bool still = guard != nullptr && !finite(*guard);
    Update f = {t.w[i], still ? nullptr : t.grad[i], t.v[i], t.key[i], t.half[i], t.key_half[i], decay, lr, p};
    u32 at = begin + threadIdx.x * WIDE<float>;
#pragma unroll 2
    for (; at + WIDE<float> <= end; at += BLOCK * WIDE<float>) {
        f.at<WIDE<float>>(at);
    }
#pragma unroll 1
    for (; at < end; ++at) {
        f.at<1>(at);  // the thread that meets the end
    }
}
