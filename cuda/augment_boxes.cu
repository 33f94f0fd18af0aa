// Blurs augmented clips `[clips t side side 3]` by boxes, as PIL does: three across and three down, each with the border
// repeated. Blocks of 256 threads; the grid is stated at the kernel. Launched by `augment::cuda`.
#include "augment.cuh"

#define TILE_W 32
#define TILE_H 16
// How far three boxes reach.
#define HALO 6

// `place + by` on an axis, held within `from .. to`.
__device__ __forceinline__ int held(int place, int by, int from, int to) {
    return min(max(place + by, from), to);
}

// A tile of 32 x 16 pixels of the result with what its boxes reach goes to and fro between two buffers, a box each time:
// the outermost pixels that are right move inwards, from the buffers' border to the tile's. Clips that are not blurred
// by boxes are copied. Grid: tiles across, tiles down, frames of all clips.
template <class T>
__device__ __forceinline__ void boxes(const float* __restrict__ from, const Clip* __restrict__ clips,
                                      T* __restrict__ to, const Extents& e) {
    constexpr int WIDE = TILE_W + 2 * HALO, HIGH = TILE_H + 2 * HALO;
    __shared__ float planes[2][3][HIGH][WIDE];
    const Clip& clip = clips[blockIdx.z / e.t];
    const int x0 = blockIdx.x * TILE_W - HALO, y0 = blockIdx.y * TILE_H - HALO, last = e.side - 1, tid = threadIdx.x;
    const int left = max(0, -x0), right = min(WIDE - 1, last - x0);
    const int top = max(0, -y0), bottom = min(HIGH - 1, last - y0);
    const float* frame = from + (u64)blockIdx.z * e.side * e.side * 3;
    for (int i = tid; i < HIGH * WIDE * 3; i += BLOCK) {
        const int c = i % 3, x = i / 3 % WIDE, y = i / (3 * WIDE);
        planes[0][c][y][x] = frame[((y0 + held(y, 0, top, bottom)) * e.side + x0 + held(x, 0, left, right)) * 3 + c];
    }
    __syncthreads();
    const bool wide = clip.flags & TWO;
    const int reach = wide ? 2 : 1;
    for (int box = 0; clip.flags & BOXES && box < 6; ++box) {
        const bool across = box < 3;
        for (int i = tid; i < HIGH * WIDE * 3; i += BLOCK) {
            const int x = i % WIDE, y = i / WIDE % HIGH, c = i / (WIDE * HIGH);
            const float(*p)[WIDE] = planes[box % 2][c];
            auto at = [&](int by) { return across ? p[y][held(x, by, left, right)] : p[held(y, by, top, bottom)][x]; };
            const float within = wide ? at(-1) + at(0) + at(1) : at(0);
            planes[1 - box % 2][c][y][x] = clip.inner * within + clip.outer * (at(-reach) + at(reach));
        }
        __syncthreads();
    }
    const int across = min(TILE_W, e.side - x0 - HALO) * 3, down = min(TILE_H, e.side - y0 - HALO);
    T* out = to + (((u64)blockIdx.z * e.side + y0 + HALO) * e.side + x0 + HALO) * 3;
    for (int y = tid / 32; y < down; y += BLOCK / 32) {
        for (int i = tid % 32; i < across; i += 32) {
            out[(u64)y * e.side * 3 + i] = from_f32<T>(planes[0][i % 3][HALO + y][HALO + i / 3]);
        }
    }
}

#define AUGMENT_BOXES(NAME, T)                                                                                         \
    extern "C" __global__ void __launch_bounds__(BLOCK) augment_boxes_##NAME(                                          \
        const float* __restrict__ from, const Clip* __restrict__ clips, T* __restrict__ to, Extents e) {               \
        boxes<T>(from, clips, to, e);                                                                                  \
    }

AUGMENT_BOXES(f32, float)
AUGMENT_BOXES(bf16, bf16)
