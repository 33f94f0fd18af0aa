// What every convolution kernel shares: the problem as the host hands it over, and the walk over taps and channels.
//
// fprop, dgrad and wgrad all gather: a row of the product is a pixel of one grid, a column of the depth is (tap,
// channel), and what is multiplied lies at an affine place of another grid. Per axis, for row coordinate q and tap j:
//
//     coordinate = q * mul + offset + j * step          (a product with 0 where that lies outside of [0, extent))
//
// fprop: q is an output, mul the stride, offset the padding, step the dilation, and the gathered grid the input.
// dgrad: inputs of one residue modulo the stride form a dense grid q of their own; only every `tap_every`-th tap meets
// them, and it meets the outputs at q + offset + j * step with a negative step. Residues without taps get 0.
#pragma once
#include "common/types.cuh"

// Division of numbers below 2^31 by a fixed one, as a product. The host finds `mul` and `shift`.
struct Divisor {
    u32 by, mul, shift;
};

__device__ __forceinline__ u32 quotient(u32 n, const Divisor& d) {
    return d.by == 1 ? n : __umulhi(n, d.mul) >> d.shift;
}

// Mirrored by `problem::Conv` on the host, field for field. All extents are below 2^31, and so is every element offset.
struct Conv {
    int n;
    int in[3], out[3], kernel[3], stride[3], pad[3], dilation[3];
    // Channels as stored by the caller, over all groups, and of one group.
    int c, k, c_group, k_group;
    // Channels of the rows that the tensor-core kernels read: as stored, or of a copy padded with zeros.
    int c_row, k_row;
    // dgrad: taps that meet one residue are this far apart, and move the output coordinate by `tap_move`.
    int tap_every[3], tap_move[3];
    // Extents of the grids of rows: fprop and wgrad the output; dgrad the residues with one row more, then the others.
    Divisor grid[3][2];
    // Tiles over the columns of the result (all passes), and over the rows of one group of statistics; the size of such
    // a group, in rows (fprop) or samples (dgrad).
    int column_tiles, group_tiles, group_rows;
    // wgrad: pixels of one split.
    int split;
};

// The affine map above, for the pass and residue of this block.
struct Walk {
    int rows;                                 // pixels of the grid of rows
    Divisor grid[3];                          // extents of that grid
    int mul[3], offset[3], step[3], taps[3];  // per axis
    int extent[3];                            // of the gathered grid
    int filter_first, filter_step[3];         // taps in the filter: of tap (0,0,0), and per tap of each axis
    int residue[3];                           // dgrad: the first input of the class, per axis
};

__device__ __forceinline__ Walk walk_forward(const Conv& p) {
    Walk w;
#pragma unroll
    for (int a = 0; a < 3; ++a) {
        w.grid[a] = p.grid[a][0];
        w.mul[a] = p.stride[a];
        w.offset[a] = -p.pad[a];
        w.step[a] = p.dilation[a];
        w.taps[a] = p.kernel[a];
        w.extent[a] = p.in[a];
        w.residue[a] = 0;
    }
    w.rows = p.n * (int)(w.grid[0].by * w.grid[1].by * w.grid[2].by);
    w.filter_first = 0;
    w.filter_step[0] = p.kernel[1] * p.kernel[2];
    w.filter_step[1] = p.kernel[2];
    w.filter_step[2] = 1;
    return w;
}

// The dense problem of residue class `z`, which counts residues `t h w`, the last fastest.
__device__ __forceinline__ Walk walk_backward(const Conv& p, int z) {
    Walk w;
    const int residue[3] = {z / (p.stride[1] * p.stride[2]), z / p.stride[2] % p.stride[1], z % p.stride[2]};
    int first[3];
#pragma unroll
    for (int a = 0; a < 3; ++a) {
        const int s = p.stride[a], r = residue[a];
        w.grid[a] = p.grid[a][r < p.in[a] % s ? 0 : 1];
        w.mul[a] = 1;
        w.extent[a] = p.out[a];
        w.residue[a] = r;
        // The first tap with (r + pad - tap * dilation) divisible by the stride, if one of the period has that.
        int tap = 0;
        while (tap < p.tap_every[a] && (r + p.pad[a] - tap * p.dilation[a]) % s != 0) tap++;
        const bool meets = tap < p.tap_every[a] && tap < p.kernel[a];
        w.taps[a] = meets ? (p.kernel[a] - tap + p.tap_every[a] - 1) / p.tap_every[a] : 0;
        w.offset[a] = meets ? (r + p.pad[a] - tap * p.dilation[a]) / s : 0;
        w.step[a] = -p.tap_move[a];
        first[a] = meets ? tap : 0;
    }
    w.rows = p.n * (int)(w.grid[0].by * w.grid[1].by * w.grid[2].by);
    w.filter_first = (first[0] * p.kernel[1] + first[1]) * p.kernel[2] + first[2];
    w.filter_step[0] = p.tap_every[0] * p.kernel[1] * p.kernel[2];
    w.filter_step[1] = p.tap_every[1] * p.kernel[2];
    w.filter_step[2] = p.tap_every[2];
    return w;
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

// Where the window of a row lies in the gathered grid: coordinates under tap 0, and the element offset of its first
// channel there (which may be negative). A row that does not exist lies outside under every tap.
struct Row {
    int t, h, w, at;
};

__device__ __forceinline__ Row row_of(const Walk& w, int m, int channels) {
    Row r;
    const Pixel q = pixel_of(m < w.rows ? m : 0, w.grid);
    r.t = q.t * w.mul[0] + w.offset[0];
    r.h = q.h * w.mul[1] + w.offset[1];
    r.w = q.w * w.mul[2] + w.offset[2];
    r.at = (((q.n * w.extent[0] + r.t) * w.extent[1] + r.h) * w.extent[2] + r.w) * channels;
    if (m >= w.rows) r.t = -(1 << 30);
    return r;
}

// A place in the depth (taps t h w, channels of one tap), written as four digits.
struct Depth {
    int t, h, w, c;
};

__device__ __forceinline__ Depth depth_of(int i, const int (&taps)[3], int channels) {
    Depth d = {0, 0, 0, i};
    // Few steps: `i` is less than one block of the depth.
    while (d.c >= channels) {
        d.c -= channels;
        if (++d.w == taps[2]) {
            d.w = 0;
            if (++d.h == taps[1]) d.h = 0, ++d.t;
        }
    }
    return d;
}

// Adds with carries; the walk is over once `t` reaches its end.
__device__ __forceinline__ void advance(Depth& d, const Depth& by, const int (&taps)[3], int channels) {
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

// A place in the depth as the gather needs it: coordinates and elements away from a row's tap 0, channel included.
struct Tap {
    int t, h, w, at;
    bool ok;
};

__device__ __forceinline__ Tap tap_of(const Walk& w, const Depth& d, int channels) {
    Tap p;
    p.t = d.t * w.step[0];
    p.h = d.h * w.step[1];
    p.w = d.w * w.step[2];
    p.at = ((p.t * w.extent[1] + p.h) * w.extent[2] + p.w) * channels + d.c;
    p.ok = d.t < w.taps[0];
    return p;
}

__device__ __forceinline__ bool inside(const Walk& w, const Row& r, const Tap& p) {
    return p.ok && (u32)(r.t + p.t) < (u32)w.extent[0] && (u32)(r.h + p.h) < (u32)w.extent[1] &&
           (u32)(r.w + p.w) < (u32)w.extent[2];
}

// dgrad: the pixel of the input that row `m` of a residue class stands for.
__device__ __forceinline__ int scattered(const Conv& p, const Walk& w, int m) {
    const Pixel q = pixel_of(m, w.grid);
    const int t = q.t * p.stride[0] + w.residue[0], h = q.h * p.stride[1] + w.residue[1];
    return ((q.n * p.in[0] + t) * p.in[1] + h) * p.in[2] + q.w * p.stride[2] + w.residue[2];
}
