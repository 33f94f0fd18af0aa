// TV-L1 optical flow for a batch of pairs: pyramid and warps; `tvl1_iterate.cu` has medians and iterations. The grid is
// stated at each kernel. Launched by `ops::tvl1::cuda`.
//
// No launch waits for the host. Each pair has a state in gmem that is passed from launch to launch; kernels return at
// once for a pair whose warp has converged. Rows of the solver's planes have `pitch` elements, a multiple of 8, padded
// with zeros.
//
// Flow and dual variables are double-buffered, since a tile reads pixels of its neighbours: a launch reads one copy and
// writes the other. This also makes early stopping exact. A launch runs several iterations and writes the change of
// each. If the next launch finds that the criterion was met before the last of them, it repeats the iterations up to
// there from the other copy.

#include "tvl1.cuh"

// ---- the pyramid

// The two neighbours of target pixel i on an axis of `from` pixels and the weight of the second; `ratio` source pixels
// per target pixel, between pixel centres. In f64, as on the CPU: the same neighbours.
__device__ __forceinline__ void tap(int i, int from, double ratio, int& low, int& high, float& weight) {
    double at = __dadd_rn(__dmul_rn((double)i + 0.5, ratio), -0.5);
    at = at < 0.0 ? 0.0 : (at > (double)(from - 1) ? (double)(from - 1) : at);
    low = (int)at;
    high = min(low + 1, from - 1);
    weight = (float)(at - (double)low);
}

// Planes of one size resampled to another, times `gain`: the flow of each pair, or images. Grid: pixels of the target's
// rows with their padding (128 a block), rows, planes. With a state, the source is the pair's present copy of the flow.
// Planes from number `e.first` on come from `second`.
extern "C" __global__ void __launch_bounds__(128)
    tvl1_resample_f32(const float* __restrict__ from, const float* __restrict__ second, float* __restrict__ to,
                      const u32* __restrict__ state, Resample e) {
    const int x = blockIdx.x * 128 + threadIdx.x, y = blockIdx.y, plane = blockIdx.z;
    if (x >= e.to_pitch) return;
    float v = 0.0f;
    if (x < e.to_w) {
        const int pair = plane / e.planes;
        const int copy = state ? flow_copy(state[pair]) : 0;
        const int number = (pair * (state ? 2 : 1) + copy) * e.planes + plane % e.planes;
        const float* source = plane < e.first ? from + (size_t)number * e.h * e.pitch
                                              : second + (size_t)(plane - e.first) * e.h * e.pitch;
        int x0, x1, y0, y1;
        float tx, ty;
        tap(x, e.w, e.ratio_x, x0, x1, tx);
        tap(y, e.h, e.ratio_y, y0, y1, ty);
        const float *above = source + y0 * e.pitch, *below = source + y1 * e.pitch;
        const float a0 = above[x0], a1 = above[x1];
        const float left = e.gain * (a0 + (below[x0] - a0) * ty), right = e.gain * (a1 + (below[x1] - a1) * ty);
        v = left + (right - left) * tx;
    }
    to[((size_t)(plane / e.planes) * e.to_step + plane % e.planes) * e.to_h * e.to_pitch + (size_t)y * e.to_pitch + x] =
        v;
}

// ---- warps

// An image with its gradient side by side, (b, db/dx, db/dy, 0) for each pixel: central differences, halved one-sided
// ones at the border. Grid: pixels of a row (128 a block), rows, pairs.
extern "C" __global__ void __launch_bounds__(128)
    tvl1_gradient_f32(const float* __restrict__ image, float4* __restrict__ packed, int h, int w) {
    const int x = blockIdx.x * 128 + threadIdx.x, y = blockIdx.y;
    if (x >= w) return;
    const float* b = image + (size_t)blockIdx.z * h * w;
    const float along = b[y * w + min(x + 1, w - 1)] - b[y * w + max(x - 1, 0)];
    const float down = b[min(y + 1, h - 1) * w + x] - b[max(y - 1, 0) * w + x];
    packed[((size_t)blockIdx.z * h + y) * w + x] = make_float4(b[y * w + x], 0.5f * along, 0.5f * down, 0.0f);
}

// The four weights at distance t behind the second neighbour: cubic convolution with slope -3/4.
__device__ __forceinline__ void cubic(float t, float (&w)[4]) {
    const float a = -0.75f, s = 1.0f - t, far = 1.0f + t, end = 2.0f - t;
    w[0] = ((a * far - 5.0f * a) * far + 8.0f * a) * far - 4.0f * a;
    w[1] = ((a + 2.0f) * t - (a + 3.0f)) * t * t + 1.0f;
    w[2] = ((a + 2.0f) * s - (a + 3.0f)) * s * s + 1.0f;
    w[3] = ((a * end - 5.0f * a) * end + 8.0f * a) * end - 4.0f * a;
}

// The second image and its gradient at (x + u, y + v), by cubic convolution, zero outside; from them what an iteration
// needs: the gradient, -1/max(|gradient|^2, eps) and b - gradient . (u, v) - a. Starts a warp for each pair: its state
// runs from where the last warp ended. On a fresh level the dual variables are zeroed too, and where there is no
// coarser level the flow. Grid: pixels of a row with its padding (128 a block), rows, pairs.
extern "C" __global__ void __launch_bounds__(128)
    tvl1_warp_f32(const float* __restrict__ a, const float4* __restrict__ packed, float* __restrict__ flow,
                  float* __restrict__ dual, float* __restrict__ fixed, const u32* __restrict__ state,
                  u32* __restrict__ next, Level e, int start) {
    const int x = blockIdx.x * 128 + threadIdx.x, y = blockIdx.y, pair = blockIdx.z;
    if (x >= e.pitch) return;
    const size_t size = (size_t)e.h * e.pitch, at = (size_t)y * e.pitch + x;
    const u32 before = start == GO_ON ? state[pair] : 0;
    if (x == 0 && y == 0) next[pair] = pack_state(RUNNING, flow_copy(before), dual_copy(before), 0, 0);
    float* u = flow + (size_t)(pair * 2 + flow_copy(before)) * 2 * size + at;
    float *gx = fixed + (size_t)pair * 4 * size + at, *gy = gx + size, *slope = gy + size, *rho = slope + size;
    if (start != GO_ON) {
        float* p = dual + (size_t)pair * 8 * size + at;
#pragma unroll
        for (int i = 0; i < 4; ++i) p[i * size] = 0.0f;
    }
    if (start == FROM_REST) u[0] = u[size] = 0.0f;
    if (x >= e.w) {
        *gx = *gy = *slope = *rho = 0.0f;
        return;
    }
    const float du = start == FROM_REST ? 0.0f : u[0], dv = start == FROM_REST ? 0.0f : u[size];
    // Three pixels outside every neighbour is zero already.
    const float px = fminf(fmaxf((float)x + du, -3.0f), (float)e.w + 2.0f),
                py = fminf(fmaxf((float)y + dv, -3.0f), (float)e.h + 2.0f);
    const float fx = floorf(px), fy = floorf(py);
    const int x0 = (int)fx - 1, y0 = (int)fy - 1;
    float wx[4], wy[4], sum[3] = {0.0f, 0.0f, 0.0f};
    cubic(px - fx, wx);
    cubic(py - fy, wy);
    const float4* b = packed + (size_t)pair * e.h * e.w;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        if ((u32)(y0 + j) >= (u32)e.h) continue;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if ((u32)(x0 + i) >= (u32)e.w) continue;
            const float4 v = b[(y0 + j) * e.w + x0 + i];
            const float weight = wx[i] * wy[j];
            sum[0] = fmaf(weight, v.x, sum[0]);
            sum[1] = fmaf(weight, v.y, sum[1]);
            sum[2] = fmaf(weight, v.z, sum[2]);
        }
    }
    *gx = sum[1];
    *gy = sum[2];
    *slope = -1.0f / fmaxf(sum[1] * sum[1] + sum[2] * sum[2], 1.1920929e-7f);
    *rho = sum[0] - sum[1] * du - sum[2] * dv - a[((size_t)pair * e.h + y) * e.w + x];
}
