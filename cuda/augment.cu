// Augmentation of RGB clips from u8 frames `[clips t h w 3]` to the input of a network `[clips t side side 3]` in one
// pass: crop, resize, flip, colour jitter, greyscale, blur, normalisation. Where contrast is jittered, a first pass
// sums the grey of each frame. Also crop, resize and flip of motion maps. Blocks of 256 threads; the grid is stated at
// each kernel. Launched by `augment::cuda`.
#include "augment.cuh"

// The two neighbours of a sample and the weight of the second.
struct Tap {
    int first, second;
    float weight;
};

// Sample i of `out` over `origin .. origin + extent` of an axis of `source` pixels, as on the CPU: in f64, pixel
// centres at halves, held within the crop's own pixels.
__device__ __forceinline__ Tap tap(int i, int out, double origin, double extent, int source) {
    double within = __dadd_rn(__ddiv_rn(__dmul_rn((double)i + 0.5, extent), (double)out), -0.5);
    double last = extent - 1.0 > 0.0 ? extent - 1.0 : 0.0;
    within = within < 0.0 ? 0.0 : within > last ? last : within;
    double at = __dadd_rn(origin, within);
    at = at > (double)(source - 1) ? (double)(source - 1) : at;
    int first = (int)at;
    return {first, min(first + 1, source - 1), (float)(at - (double)first)};
}

// The taps of samples `x0 + j` (columns, from last to first where flipped) and `y0 + j` (rows), reflected at the
// border.
template <int WIDE, int HIGH>
__device__ __forceinline__ void make_taps(Tap* columns, Tap* rows, const Clip& clip, const Extents& e, int x0, int y0) {
    for (int i = threadIdx.x; i < WIDE + HIGH; i += BLOCK) {
        bool column = i < WIDE;
        int at = column ? x0 + i : y0 + i - WIDE, last = e.side - 1;
        // A sample just outside is the one as far inside; those further out are computed for nothing.
        at = at < 0 ? -at : at > last ? 2 * last - at : at;
        at = min(max(at, 0), last);
        if (column) {
            columns[i] = tap(clip.flags & FLIP ? last - at : at, e.side, clip.crop[1], clip.crop[3], e.w);
        } else {
            rows[i - WIDE] = tap(at, e.side, clip.crop[0], clip.crop[2], e.h);
        }
    }
}

// A pixel of the resized crop, 0 to 1.
__device__ __forceinline__ void sample(const u8* __restrict__ frame, int w, const Tap& row, const Tap& column,
                                       float (&v)[3]) {
    const float gain = 1.0f / 255.0f;
    const u8 *above = frame + row.first * w * 3, *below = frame + row.second * w * 3;
#pragma unroll
    for (int c = 0; c < 3; ++c) {
        float a = above[column.first * 3 + c], b = above[column.second * 3 + c];
        float left = (a + ((float)below[column.first * 3 + c] - a) * row.weight) * gain;
        float right = (b + ((float)below[column.second * 3 + c] - b) * row.weight) * gain;
        v[c] = left + (right - left) * column.weight;
    }
}

__device__ __forceinline__ float grey_of(const float (&v)[3]) {
    return 0.299f * v[0] + 0.587f * v[1] + 0.114f * v[2];
}

__device__ __forceinline__ void blend(float (&v)[3], float factor, float towards) {
    float rest = (1.0f - factor) * towards;
#pragma unroll
    for (int c = 0; c < 3; ++c) {
        v[c] = __saturatef(factor * v[c] + rest);
    }
}

// Turns the hue in the HSV hexagon: the largest and the smallest value stay.
__device__ __forceinline__ void turn_hue(float (&v)[3], float turn) {
    float most = fmaxf(fmaxf(v[0], v[1]), v[2]), least = fminf(fminf(v[0], v[1]), v[2]), chroma = most - least;
    if (!(chroma > 0.0f)) {
        return;
    }
    float sixth = most == v[0]   ? (v[1] - v[2]) / chroma
                  : most == v[1] ? (v[2] - v[0]) / chroma + 2.0f
                                 : (v[0] - v[1]) / chroma + 4.0f;
#pragma unroll
    for (int c = 0; c < 3; ++c) {
        // From -8 to 8: brought to 0 to 6.
        float away = sixth + 6.0f * turn - 2.0f * c;
        away = away < 0.0f ? away + 6.0f : away;
        away = away < 0.0f ? away + 6.0f : away;
        away = away >= 6.0f ? away - 6.0f : away;
        away = fminf(away, 6.0f - away);
        v[c] = most - chroma * __saturatef(away - 1.0f);
    }
}

// The clip's colour operations in their order; the first `count` of them. Values are kept within 0 to 1 by each.
__device__ __forceinline__ void jitter(float (&v)[3], const Clip& clip, int count, float mean) {
#pragma unroll 1
    for (int i = 0; i < count; ++i) {
        switch (clip.order >> 4 * i & 15) {
        case BRIGHTNESS: blend(v, clip.brightness, 0.0f); break;
        case CONTRAST: blend(v, clip.contrast, mean); break;
        case SATURATION: blend(v, clip.saturation, grey_of(v)); break;
        default:
            if (clip.hue != 0.0f) {
                turn_hue(v, clip.hue);
            }
        }
    }
}

// The operations before contrast.
__device__ __forceinline__ int before_contrast(const Clip& clip) {
    int i = 0;
    while (i < 3 && (clip.order >> 4 * i & 15) != CONTRAST) {
        i++;
    }
    return i;
}

// The sum of `v` over the block's threads, in a fixed order; every thread gets it.
__device__ __forceinline__ float block_sum(float v) {
    __shared__ float sums[BLOCK / 32];
#pragma unroll
    for (int o = 16; o > 0; o /= 2) {
        v += __shfl_xor_sync(~0u, v, o);
    }
    __syncthreads();
    if (threadIdx.x % 32 == 0) {
        sums[threadIdx.x / 32] = v;
    }
    __syncthreads();
    float sum = 0.0f;
#pragma unroll
    for (u32 i = 0; i < BLOCK / 32; ++i) {
        sum += sums[i];
    }
    return sum;
}

#define MEAN_W 32
#define MEAN_H 32

// The sum of the greys of a tile of 32 x 32 pixels of each frame, after the operations that come before contrast:
// `sums [frames chunks]`. Clips without jitter are passed by. Grid: tiles of a frame, frames of all clips.
extern "C" __global__ void __launch_bounds__(BLOCK)
    augment_mean_u8(const u8* __restrict__ frames, const Clip* __restrict__ clips, float* __restrict__ sums,
                    Extents e) {
    __shared__ Tap columns[MEAN_W], rows[MEAN_H];
    const Clip& clip = clips[blockIdx.y / e.t];
    if (!(clip.flags & JITTER)) {
        return;
    }
    const int across = (e.side + MEAN_W - 1) / MEAN_W, x0 = blockIdx.x % across * MEAN_W,
              y0 = blockIdx.x / across * MEAN_H;
    make_taps<MEAN_W, MEAN_H>(columns, rows, clip, e, x0, y0);
    __syncthreads();
    const u8* frame = frames + (u64)blockIdx.y * e.h * e.w * 3;
    const int count = before_contrast(clip), x = threadIdx.x % 32;
    float sum = 0.0f;
    for (int y = threadIdx.x / 32; y < MEAN_H; y += BLOCK / 32) {
        if (x0 + x < e.side && y0 + y < e.side) {
            float v[3];
            sample(frame, e.w, rows[y], columns[x], v);
            jitter(v, clip, count, 0.0f);
            sum += grey_of(v);
        }
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) {
        sums[blockIdx.y * e.chunks + blockIdx.x] = sum;
    }
}

#define TILE_W 32
#define TILE_H 16

// Everything else: a tile of 32 x 16 pixels of the result, with one more on each side for the blur, is sampled and
// coloured in shared memory, blurred across and down, normalised, and written in whole rows, `[clips t side side 3]`.
// Grid: tiles across, tiles down, frames of all clips.
template <class T>
__device__ __forceinline__ void rgb(const u8* __restrict__ frames, const Clip* __restrict__ clips,
                                    const float* __restrict__ sums, T* __restrict__ to, const Extents& e) {
    constexpr int WIDE = TILE_W + 2, HIGH = TILE_H + 2;
    __shared__ Tap columns[WIDE], rows[HIGH];
    __shared__ float planes[3][HIGH][WIDE], across[3][HIGH][TILE_W], result[TILE_H][TILE_W * 3];
    const Clip& clip = clips[blockIdx.z / e.t];
    const int x0 = blockIdx.x * TILE_W, y0 = blockIdx.y * TILE_H, tid = threadIdx.x;
    const bool blurred = clip.flags & BLUR, jittered = clip.flags & JITTER, greyed = clip.flags & GREY;
    float mean = 0.0f;
    if (jittered) {
        float part = 0.0f;
        for (int i = tid; i < e.chunks; i += BLOCK) {
            part += sums[blockIdx.z * e.chunks + i];
        }
        mean = block_sum(part) / (float)(e.side * e.side);
    }
    make_taps<WIDE, HIGH>(columns, rows, clip, e, x0 - 1, y0 - 1);
    __syncthreads();
    const u8* frame = frames + (u64)blockIdx.z * e.h * e.w * 3;
#pragma unroll 1
    for (int i = tid; i < WIDE * HIGH; i += BLOCK) {
        const int x = i % WIDE, y = i / WIDE;
        if (!blurred && (x == 0 || x == WIDE - 1 || y == 0 || y == HIGH - 1)) {
            continue;
        }
        float v[3];
        sample(frame, e.w, rows[y], columns[x], v);
        if (jittered) {
            jitter(v, clip, 4, mean);
        }
        if (greyed) {
            v[0] = v[1] = v[2] = grey_of(v);
        }
#pragma unroll
        for (int c = 0; c < 3; ++c) {
            planes[c][y][x] = v[c];
        }
    }
    __syncthreads();
    if (blurred) {
        for (int i = tid; i < 3 * HIGH * TILE_W; i += BLOCK) {
            const int x = i % TILE_W, y = i / TILE_W % HIGH, c = i / (TILE_W * HIGH);
            const float* p = &planes[c][y][x];
            across[c][y][x] = clip.inner * p[1] + clip.outer * (p[0] + p[2]);
        }
        __syncthreads();
    }
    for (int i = tid; i < 3 * TILE_H * TILE_W; i += BLOCK) {
        const int x = i % TILE_W, y = i / TILE_W % TILE_H, c = i / (TILE_W * TILE_H);
        float v = planes[c][y + 1][x + 1];
        if (blurred) {
            v = clip.inner * across[c][y + 1][x] + clip.outer * (across[c][y][x] + across[c][y + 2][x]);
        }
        result[y][x * 3 + c] = (v - clip.mean[c]) * clip.inverse_std[c];
    }
    __syncthreads();
    const int wide = min(TILE_W, e.side - x0) * 3, high = min(TILE_H, e.side - y0);
    T* out = to + (((u64)blockIdx.z * e.side + y0) * e.side + x0) * 3;
    for (int y = tid / 32; y < high; y += BLOCK / 32) {
        T* row = out + (u64)y * e.side * 3;
        if (sizeof(T) == 2 && e.side % 2 == 0) {
            for (int i = tid % 32 * 2; i < wide; i += 64) {
                *(u32*)(row + i) = pack_bf16(result[y][i], result[y][i + 1]);
            }
        } else {
            for (int i = tid % 32; i < wide; i += 32) {
                row[i] = from_f32<T>(result[y][i]);
            }
        }
    }
}

// Crop, resize and flip of maps `[clips t h w c]`, times a gain for each channel (for flow in pixels), to `[clips t
// side side c]`. `gains` is `[clips 2]`: of channels 0 and 1; that of others is 1. Grid: 256 numbers of the result's frame,
// frames of all clips.
template <class T>
__device__ __forceinline__ void motion(const float* __restrict__ maps, const Clip* __restrict__ clips,
                                       const float2* __restrict__ gains, T* __restrict__ to, const Extents& e,
                                       int channels) {
    const int i = blockIdx.x * BLOCK + threadIdx.x, c = i % channels, x = i / channels % e.side,
              y = i / channels / e.side;
    if (y >= e.side) {
        return;
    }
    const Clip& clip = clips[blockIdx.y / e.t];
    const Tap row = tap(y, e.side, clip.crop[0], clip.crop[2], e.h);
    const Tap column = tap(clip.flags & FLIP ? e.side - 1 - x : x, e.side, clip.crop[1], clip.crop[3], e.w);
    const float2 both = gains[blockIdx.y / e.t];
    const float gain = c == 0 ? both.x : c == 1 ? both.y : 1.0f;
    const float* map = maps + (u64)blockIdx.y * e.h * e.w * channels + c;
    const float *above = map + row.first * e.w * channels, *below = map + row.second * e.w * channels;
    const float a = above[column.first * channels], b = above[column.second * channels];
    const float left = (a + (below[column.first * channels] - a) * row.weight) * gain;
    const float right = (b + (below[column.second * channels] - b) * row.weight) * gain;
    to[(u64)blockIdx.y * e.side * e.side * channels + i] = from_f32<T>(left + (right - left) * column.weight);
}

#define AUGMENT(NAME, T)                                                                                               \
    extern "C" __global__ void __launch_bounds__(BLOCK)                                                                \
        augment_rgb_##NAME(const u8* __restrict__ frames, const Clip* __restrict__ clips,                              \
                           const float* __restrict__ sums, T* __restrict__ to, Extents e) {                            \
        rgb<T>(frames, clips, sums, to, e);                                                                            \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(BLOCK)                                                                \
        augment_motion_##NAME(const float* __restrict__ maps, const Clip* __restrict__ clips,                          \
                              const float2* __restrict__ gains, T* __restrict__ to, Extents e, int channels) {         \
        motion<T>(maps, clips, gains, to, e, channels);                                                                \
    }

AUGMENT(f32, float)
AUGMENT(bf16, bf16)
