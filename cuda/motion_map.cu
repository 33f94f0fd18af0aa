// Motion maps of flow fields `[n 2 h w]` or frames `[t h w 3]`, as f32 or bf16. Blocks of 256 threads; the grid is
// stated at each kernel. Launched by `ops::motion_map::cuda`.
#include "common/elements.cuh"

#define TILE_W 64
#define TILE_H 32

// Edges of flow fields [n 2 h w]: the root of the sum of the squares of Sobel's responses of both components, the
// border repeated, at most `clamp`, divided by it. A block makes 64 x 32 pixels, so that little is read twice. Grid:
// tiles across, tiles down, fields.
template <class T>
__device__ __forceinline__ void edges(const float* __restrict__ flow, T* __restrict__ to, int h, int w, float clamp) {
    __shared__ float field[2][TILE_H + 2][TILE_W + 2];
    const int x0 = blockIdx.x * TILE_W, y0 = blockIdx.y * TILE_H, wide = min(TILE_W, w - x0),
              high = min(TILE_H, h - y0);
    const float* from = flow + (u64)blockIdx.z * 2 * h * w;
    for (int k = 0; k < 2; ++k) {
        for (int y = threadIdx.x / 32; y < high + 2; y += BLOCK / 32) {
            const float* row = from + ((u64)k * h + min(max(y0 + y - 1, 0), h - 1)) * w;
            for (int x = threadIdx.x % 32; x < wide + 2; x += 32) {
                field[k][y][x] = row[min(max(x0 + x - 1, 0), w - 1)];
            }
        }
    }
    __syncthreads();
    T* out = to + ((u64)blockIdx.z * h + y0) * w + x0;
    for (int y = threadIdx.x / 32; y < high; y += BLOCK / 32) {
        for (int x = threadIdx.x % 32; x < wide; x += 32) {
            float sum = 0.0f;
#pragma unroll
            for (int k = 0; k < 2; ++k) {
                float smooth[3], step[3];
#pragma unroll
                for (int i = 0; i < 3; ++i) {
                    float up = field[k][y][x + i], here = field[k][y + 1][x + i], down = field[k][y + 2][x + i];
                    smooth[i] = up + 2.0f * here + down;
                    step[i] = down - up;
                }
                float gx = smooth[2] - smooth[0], gy = step[0] + 2.0f * step[1] + step[2];
                sum += gx * gx + gy * gy;
            }
            float edge = sqrtf(sum);
            out[y * w + x] = from_f32<T>((edge > clamp ? clamp : edge) / clamp);
        }
    }
}

// A number kept within `clamp`. Not by minima and maxima, which would turn NaN into a bound.
__device__ __forceinline__ float within(float x, float clamp) {
    x = x > clamp ? clamp : x;
    return x < -clamp ? -clamp : x;
}

// Flow fields [n 2 h w] to pairs [n h w 2], kept within `clamp` and divided by it. Grid: 256 pixels a block, fields.
template <class T>
__device__ __forceinline__ void scaled(const float* __restrict__ flow, T* __restrict__ to, u32 pixels, float clamp) {
    u32 i = blockIdx.x * BLOCK + threadIdx.x;
    if (i >= pixels) {
        return;
    }
    const float* from = flow + (u64)blockIdx.y * 2 * pixels + i;
    T* out = to + ((u64)blockIdx.y * pixels + i) * 2;
    float u = within(from[0], clamp) / clamp, v = within(from[pixels], clamp) / clamp;
    if constexpr (sizeof(T) == 4) {
        *(float2*)out = make_float2(u, v);
    } else {
        *(u32*)out = pack_bf16(u, v);
    }
}

__device__ __forceinline__ int apart(u32 a, u32 b, int byte) {
    return abs((int)(a >> 8 * byte & 255) - (int)(b >> 8 * byte & 255));
}

// Frames that a thread of the difference goes through.
#define FRAMES 8

// The mean difference of each pixel of RGB frames [t h w 3] to the same one a frame on, of 255, [t-1 h w]. A thread
// keeps its pixels while it goes through up to eight frames, so that they are read once; it has PIXELS of them: four,
// as three words, where frames are whole words, else one. Grid: pixels of a frame, runs of frames.
template <class T, int PIXELS>
__device__ __forceinline__ void difference(const u8* __restrict__ frames, T* __restrict__ to, u32 pixels, u32 count) {
    constexpr int PARTS = 3;
    u32 i = (blockIdx.x * BLOCK + threadIdx.x) * PIXELS, first = blockIdx.y * FRAMES;
    if (i >= pixels) {
        return;
    }
    auto fetch = [&](u32 frame, u32(&v)[PARTS]) {
        const u8* from = frames + ((u64)frame * pixels + i) * 3;
#pragma unroll
        for (int k = 0; k < PARTS; ++k) {
            v[k] = PIXELS == 4 ? ((const u32*)from)[k] : from[k];
        }
    };
    u32 now[PARTS], next[PARTS];
    fetch(first, now);
    for (u32 frame = first; frame < min(first + FRAMES, count - 1); ++frame) {
        fetch(frame + 1, next);
        float v[PIXELS];
#pragma unroll
        for (int pixel = 0; pixel < PIXELS; ++pixel) {
            int sum = 0;
#pragma unroll
            for (int c = 0; c < 3; ++c) {
                int byte = pixel * 3 + c;
                sum += PIXELS == 4 ? apart(now[byte / 4], next[byte / 4], byte % 4) : apart(now[c], next[c], 0);
            }
            v[pixel] = (float)sum / 765.0f;
        }
        store<PIXELS>(to + (u64)frame * pixels + i, v);
#pragma unroll
        for (int k = 0; k < PARTS; ++k) {
            now[k] = next[k];
        }
    }
}

#define MAPS(NAME, T)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(BLOCK)                                                                \
        motion_map_edges_##NAME(const float* __restrict__ flow, T* __restrict__ to, int h, int w, float clamp) {       \
        edges<T>(flow, to, h, w, clamp);                                                                               \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(BLOCK)                                                                \
        motion_map_flow_##NAME(const float* __restrict__ flow, T* __restrict__ to, u32 pixels, float clamp) {          \
        scaled<T>(flow, to, pixels, clamp);                                                                            \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(BLOCK)                                                                \
        motion_map_difference_##NAME(const u8* __restrict__ frames, T* __restrict__ to, u32 pixels, u32 count) {       \
        difference<T, 1>(frames, to, pixels, count);                                                                   \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(BLOCK)                                                                \
        motion_map_difference_wide_##NAME(const u8* __restrict__ frames, T* __restrict__ to, u32 pixels, u32 count) {  \
        difference<T, 4>(frames, to, pixels, count);                                                                   \
    }

MAPS(f32, float)
MAPS(bf16, bf16)
