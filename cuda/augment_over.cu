// Puts other pixels over augmented clips `[clips t side side 3]`, in place: those of another clip where a mask says so, and
// patches that move over the frames. Both read what was augmented to f32, so a result in bf16 is rounded once. They are
// launched over the clips that have a background or patches alone. Blocks of 256 threads; the grid is stated at each
// kernel. Launched by `augment::over`.
#include "common/elements.cuh"

// A patch in a frame; the same struct as `augment::synthetic::Patch`.
struct Patch {
    // Where its centre is, y x; pixels of the clip for one of the patch; its rotation.
    double at[2], scale, sin, cos;
    // Half of its side and its centre, in the image that it is cut from.
    double half, from[2];
    // Rows and columns of the frame outside of which it covers nothing: the first, and one past the last.
    u32 rows[2], columns[2];
    u32 image, unused;
};

// The patches of a clip, one after the other; the same struct as `augment::over::PatchesOf`.
struct PatchesOf {
    u32 clip, first, count;
};

// The pixels of clip `places[n]` that `kept [n side side]` does not keep are those of `others [n t side side 3]`. Grid: 256
// numbers of a frame, frames of the others.
template <class T>
__device__ __forceinline__ void background(const float* __restrict__ others, const u8* __restrict__ kept,
                                           const u32* __restrict__ places, T* __restrict__ to, u32 t, u32 side) {
    const u32 i = blockIdx.x * BLOCK + threadIdx.x, pixels = side * side, n = blockIdx.y / t;
    if (i >= pixels * 3 || kept[(u64)n * pixels + i / 3]) {
        return;
    }
    const u64 frame = (u64)places[n] * t + blockIdx.y % t;
    to[frame * pixels * 3 + i] = from_f32<T>(others[(u64)blockIdx.y * pixels * 3 + i]);
}

// The two neighbours of a point on an axis of `side` pixels, whose centres are at halves, and their weights.
struct Pair {
    u32 first, second;
    float of_first, of_second;
};

__device__ __forceinline__ Pair pair(double at, u32 side) {
    double last = (double)(side - 1), within = __dadd_rn(at, -0.5);
    within = within < 0.0 ? 0.0 : within > last ? last : within;
    const u32 first = (u32)within;
    const float weight = (float)(within - (double)first);
    return {first, min(first + 1, side - 1), 1.0f - weight, weight};
}

__device__ __forceinline__ float between(float a, float b, const Pair& p) {
    return __fadd_rn(__fmul_rn(a, p.of_first), __fmul_rn(b, p.of_second));
}

#define TILE_W 32
#define TILE_H 8

// The pixels whose centres are within patches of a clip, `patches [patches t]`, are interpolated from `images [images side
// side 3]`. Of several patches the last one covers the others, so a thread looks for it from the end and interpolates
// once. It computes in f64, in the CPU's order and without fused multiply-adds: the same pixels are covered, and with the
// same images a clip has the same bits. Grid: tiles of 32 x 8 pixels across, down, frames of all clips with patches.
template <class T>
__device__ __forceinline__ void patches(const float* __restrict__ images, const Patch* __restrict__ patches,
                                        const PatchesOf* __restrict__ clips, T* __restrict__ to, u32 t, u32 side) {
    const u32 x = blockIdx.x * TILE_W + threadIdx.x % TILE_W, y = blockIdx.y * TILE_H + threadIdx.x / TILE_W;
    const PatchesOf clip = clips[blockIdx.z / t];
    const u32 frame = blockIdx.z % t, pixels = side * side;
    for (u32 i = clip.count; i-- > 0;) {
        const Patch& p = patches[(u64)(clip.first + i) * t + frame];
        // Those lie within the frame, so a thread beyond its border finds no patch.
        if (y < p.rows[0] || y >= p.rows[1] || x < p.columns[0] || x >= p.columns[1]) {
            continue;
        }
        const double dy = __ddiv_rn(__dsub_rn((double)y + 0.5, p.at[0]), p.scale);
        const double dx = __ddiv_rn(__dsub_rn((double)x + 0.5, p.at[1]), p.scale);
        const double down = __dsub_rn(__dmul_rn(dy, p.cos), __dmul_rn(dx, p.sin));
        const double across = __dadd_rn(__dmul_rn(dx, p.cos), __dmul_rn(dy, p.sin));
        if (!(fabs(down) <= p.half && fabs(across) <= p.half)) {
            continue;
        }
        const Pair row = pair(__dadd_rn(p.from[0], down), side), column = pair(__dadd_rn(p.from[1], across), side);
        const float* image = images + (u64)p.image * pixels * 3;
        const float *above = image + row.first * side * 3, *below = image + row.second * side * 3;
        T* pixel = to + (((u64)clip.clip * t + frame) * pixels + y * side + x) * 3;
#pragma unroll
        for (u32 c = 0; c < 3; ++c) {
            const u32 left = column.first * 3 + c, right = column.second * 3 + c;
            pixel[c] = from_f32<T>(
                between(between(above[left], above[right], column), between(below[left], below[right], column), row));
        }
        return;
    }
}

#define AUGMENT_OVER(NAME, T)                                                                                          \
    extern "C" __global__ void __launch_bounds__(BLOCK)                                                                \
        augment_background_##NAME(const float* __restrict__ others, const u8* __restrict__ kept,                       \
                                  const u32* __restrict__ places, T* __restrict__ to, u32 t, u32 side) {               \
        background<T>(others, kept, places, to, t, side);                                                              \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(BLOCK)                                                                \
        augment_patches_##NAME(const float* __restrict__ images, const Patch* __restrict__ all,                        \
                               const PatchesOf* __restrict__ clips, T* __restrict__ to, u32 t, u32 side) {             \
        patches<T>(images, all, clips, to, t, side);                                                                   \
    }

AUGMENT_OVER(f32, float)
AUGMENT_OVER(bf16, bf16)
