// The convolution problem as the host passes it, and the implicit GEMM that fprop, dgrad and wgrad make of it.
//
// All three passes gather. A row of the implicit GEMM is a pixel of one grid, its dimension K counts (tap, channel),
// and the operand is an affine place of another grid. (wgrad: the rows are K, and K the columns.) Per axis, for the
// row's coordinate q and tap j:
//
//     coordinate = q * mul + offset + j * step          (the operand is 0 where that is outside [0, extent))
//
// fprop: q is an output, mul the stride, offset minus the padding, step the dilation; the gathered grid is the input.
// dgrad: inputs of one residue modulo the stride form a dense grid q of their own. Only every `tap_every`-th tap
// reaches them, and it reaches the outputs at q + offset + j * step with a negative step. Inputs no tap reaches get 0.
//
// "K" is the summed dimension of the GEMM, `k` the filters of the convolution.
#pragma once
#include "common/divisor.cuh"

// The same struct as `ops::conv3d::cuda::problem::Conv` on the host, field for field. All extents and element offsets
// are below 2^31.
struct Conv {
    int n;
    int in[3], out[3], kernel[3], stride[3], pad[3], dilation[3];
    // Channels as stored by the caller, over all groups, and of one group.
    int c, k, c_group, k_group;
    // Channels of the rows that the tensor-core kernels read: as stored, or of a copy padded with zeros.
    int c_row, k_row;
    // dgrad: the distance of the taps that reach one residue class, and the distance of the outputs they reach it from.
    int tap_every[3], tap_move[3];
    // Extents of the grid of rows. fprop, wgrad: the output, twice. dgrad: of residues with one more input, and of the
    // others.
    Divisor grid[3][2];
    // Tiles over the columns of the result (all passes), and over the rows of one group of statistics; the size of such
    // a group, in rows (fprop) or samples (dgrad).
    int column_tiles, group_tiles, group_rows;
    // wgrad: pixels of one split.
    int split;
};

// The affine map above, for the pass and the residue class of this block.
struct GatherMap {
    int rows;                                 // pixels of the grid of rows
    Divisor grid[3];                          // extents of that grid
    int mul[3], offset[3], step[3], taps[3];  // per axis
    int extent[3];                            // of the gathered grid
    int filter_first, filter_step[3];         // taps in the filter: of tap (0,0,0), and per tap of each axis
    int residue[3];                           // dgrad: the first input of the class, per axis
};

__device__ __forceinline__ GatherMap gather_map_fprop(const Conv& p) {
    GatherMap map;
#pragma unroll
    for (int a = 0; a < 3; ++a) {
        map.grid[a] = p.grid[a][0];
        map.mul[a] = p.stride[a];
        map.offset[a] = -p.pad[a];
        map.step[a] = p.dilation[a];
        map.taps[a] = p.kernel[a];
        map.extent[a] = p.in[a];
        map.residue[a] = 0;
    }
    map.rows = p.n * (int)(map.grid[0].by * map.grid[1].by * map.grid[2].by);
    map.filter_first = 0;
    map.filter_step[0] = p.kernel[1] * p.kernel[2];
    map.filter_step[1] = p.kernel[2];
    map.filter_step[2] = 1;
    return map;
}

// dgrad: the map of residue class `z`, which counts the residues of `t h w`, w fastest.
__device__ __forceinline__ GatherMap gather_map_dgrad(const Conv& p, int z) {
    GatherMap map;
    const int residue[3] = {z / (p.stride[1] * p.stride[2]), z / p.stride[2] % p.stride[1], z % p.stride[2]};
    int first[3];
#pragma unroll
    for (int a = 0; a < 3; ++a) {
        const int s = p.stride[a], r = residue[a];
        map.grid[a] = p.grid[a][r < p.in[a] % s ? 0 : 1];
        map.mul[a] = 1;
        map.extent[a] = p.out[a];
        map.residue[a] = r;
        // The first tap with (r + pad - tap * dilation) divisible by the stride, if one of the period has that.
        int tap = 0;
        while (tap < p.tap_every[a] && (r + p.pad[a] - tap * p.dilation[a]) % s != 0) tap++;
        const bool meets = tap < p.tap_every[a] && tap < p.kernel[a];
        map.taps[a] = meets ? (p.kernel[a] - tap + p.tap_every[a] - 1) / p.tap_every[a] : 0;
        map.offset[a] = meets ? (r + p.pad[a] - tap * p.dilation[a]) / s : 0;
        map.step[a] = -p.tap_move[a];
        first[a] = meets ? tap : 0;
    }
    map.rows = p.n * (int)(map.grid[0].by * map.grid[1].by * map.grid[2].by);
    map.filter_first = (first[0] * p.kernel[1] + first[1]) * p.kernel[2] + first[2];
    map.filter_step[0] = p.tap_every[0] * p.kernel[1] * p.kernel[2];
    map.filter_step[1] = p.tap_every[1] * p.kernel[2];
    map.filter_step[2] = p.tap_every[2];
    return map;
}

// The grid coordinates of row `m`: samples, then `t h w`.
struct Pixel {
    int n, t, h, w;
};

__device__ __forceinline__ Pixel pixel_of(int m, const Divisor (&grid)[3]) {
    Pixel q;
    u32 rest = (u32)m, next = quotient(rest, grid[2]);
    q.w = (int)(rest - next * grid[2].by);
    rest = next, next = quotient(rest, grid[1]);
    q.h = (int)(rest - next * grid[1].by);
    rest = next, next = quotient(rest, grid[0]);
    q.t = (int)(rest - next * grid[0].by);
    q.n = (int)next;
    return q;
}

// The window of a row in the gathered grid: the coordinates of tap 0, and the element offset of channel 0 there (which
// may be negative). A row past the end is outside the grid for every tap.
struct Window {
    int t, h, w, at;
};

__device__ __forceinline__ Window window_of(const GatherMap& map, int m, int channels) {
    Window r;
    const Pixel q = pixel_of(m < map.rows ? m : 0, map.grid);
    r.t = q.t * map.mul[0] + map.offset[0];
    r.h = q.h * map.mul[1] + map.offset[1];
    r.w = q.w * map.mul[2] + map.offset[2];
    r.at = (((q.n * map.extent[0] + r.t) * map.extent[1] + r.h) * map.extent[2] + r.w) * channels;
    if (m >= map.rows) r.t = -(1 << 30);
    return r;
}

// An index along K as four digits: tap t h w, and channel within the tap.
struct KIndex {
    int t, h, w, c;
};

__device__ __forceinline__ KIndex k_index_of(int i, const int (&taps)[3], int channels) {
    KIndex d = {0, 0, 0, i};
    // Few iterations: `i` is less than the K of one block.
    while (d.c >= channels) {
        d.c -= channels;
        if (++d.w == taps[2]) {
            d.w = 0;
            if (++d.h == taps[1]) d.h = 0, ++d.t;
        }
    }
    return d;
}

// The same for any `i`, by division.
__device__ __forceinline__ KIndex column_index_of(int i, const int (&taps)[3], int channels) {
    const int tap = i / channels;
    KIndex d;
    d.c = i - tap * channels;
    d.t = tap / (taps[1] * taps[2]);
    d.h = tap / taps[2] % taps[1];
    d.w = tap % taps[2];
    return d;
}

// Adds with carries. K has ended when `t` reaches `taps[0]`.
__device__ __forceinline__ void advance(KIndex& d, const KIndex& by, const int (&taps)[3], int channels) {
    d.c += by.c;
    int carry = d.c >= channels;
    d.c -= carry ? channels : 0;
    d.w += by.w + carry;
    carry = d.w >= taps[2];
    d.w -= carry ? taps[2] : 0;
    d.h += by.h + carry;
    carry = d.h >= taps[1];
    d.h -= carry ? taps[1] : 0;
    d.t += by.t + carry;
}

// Whether all taps of 32 channels follow each other along K. Neighbouring taps read mostly the same pixels, and find
// them in the first-level cache then; in the order (tap, channel) other channels come between.
__device__ __forceinline__ bool taps_first(int channels) {
    return channels % 32 == 0;
}

// Advances by a k-block of 32, which is `step` in the order (tap, channel).
__device__ __forceinline__ void next_k_block(KIndex& d, const KIndex& step, const int (&taps)[3], int channels) {
    if (!taps_first(channels)) {
        advance(d, step, taps, channels);
        return;
    }
    int carry = ++d.w == taps[2];
    d.w = carry ? 0 : d.w;
    d.h += carry;
    carry = d.h == taps[1];
    d.h = carry ? 0 : d.h;
    d.t += carry;
    carry = d.t == taps[0];
    d.t = carry ? 0 : d.t;
    d.c += carry ? 32 : 0;
}

// An index along K as a distance from tap 0 of a window: coordinates, and elements including the channel.
struct Tap {
    int t, h, w, at;
    bool ok;
};

__device__ __forceinline__ Tap tap_of(const GatherMap& map, const KIndex& d, int channels) {
    Tap p;
    p.t = d.t * map.step[0];
    p.h = d.h * map.step[1];
    p.w = d.w * map.step[2];
    p.at = ((p.t * map.extent[1] + p.h) * map.extent[2] + p.w) * channels + d.c;
    p.ok = d.t < map.taps[0];
    return p;
}

__device__ __forceinline__ bool inside(const GatherMap& map, const Window& r, const Tap& p) {
    return p.ok && (u32)(r.t + p.t) < (u32)map.extent[0] && (u32)(r.h + p.h) < (u32)map.extent[1] &&
           (u32)(r.w + p.w) < (u32)map.extent[2];
}

// dgrad: the pixel of the input that is row `m` of a residue class.
__device__ __forceinline__ int input_pixel(const Conv& p, const GatherMap& map, int m) {
    const Pixel q = pixel_of(m, map.grid);
    const int t = q.t * p.stride[0] + map.residue[0], h = q.h * p.stride[1] + map.residue[1];
    return ((q.n * p.in[0] + t) * p.in[1] + h) * p.in[2] + q.w * p.stride[2] + map.residue[2];
}
