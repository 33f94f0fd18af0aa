//! The operands of a pass as tensors of TMA: which box of a tensor in device memory one copy takes.
//!
//! The gathered operand is copied in im2col mode: consecutive pixels of the grid of rows, at the place that one tap gives
//! them. Per axis, with the names of `cuda/conv3d/problem.cuh`, pixel q and tap j are at q · mul + offset + j · step. The
//! lowest of these places for q = 0 is the lower corner; a copy names the distance of its tap from there.

use super::super::{Conv3d, Operator};
use super::halo::{self, Halo};
use super::problem::gcd;
use crate::driver::{TensorMap, TensorWindow};

/// Channels of a copy: 128 bytes, the width of the swizzle.
const CHANNELS: u32 = 64;

/// Residue classes of dgrad, each of which is a launch. Strides with more are left to other kernels.
const MOST_CLASSES: usize = 8;

/// The gathered windows along one axis.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Axis {
    /// The least place of a pixel with coordinate 0.
    lowest: i64,
    /// The distance from there to the tap that is furthest.
    reach: i64,
    /// Places of the pixels, counted as if `mul` were 1: the extent of the bounding box.
    places: i64,
}

/// fprop and wgrad: windows of `x`.
fn forward(p: &Conv3d, a: usize) -> Axis {
    let w = &p.geometry.window;
    let (pad, reach) = (w.pad[a] as i64, ((p.kernel[a] - 1) * w.dilation[a]) as i64);
    Axis { lowest: -pad, reach, places: p.input[a] as i64 + 2 * pad - reach }
}

/// dgrad: windows of `dy` for the inputs of residue `r` modulo the stride. `None` if there are none, or no tap reaches them:
/// TMA has no empty boxes.
fn backward(p: &Conv3d, a: usize, r: usize) -> Option<Axis> {
    if r >= p.input[a] {
        return None;
    }
    let w = &p.geometry.window;
    let (s, d, pad) = (w.stride[a], w.dilation[a], w.pad[a] as i64);
    let common = gcd(s, d);
    let (every, moves) = (s / common, (d / common) as i64);
    let place = |tap: usize| r as i64 + pad - (tap * d) as i64;
    let first = (0..every.min(p.kernel[a])).find(|tap| place(*tap) % s as i64 == 0)?;
    let taps = (p.kernel[a] - first).div_ceil(every) as i64;
    let reach = (taps - 1) * moves;
    let places = (p.input[a] + s - 1 - r) / s;
    Some(Axis { lowest: place(first) / s as i64 - reach, reach, places: places as i64 })
}

/// The residues of class `z`, as in `gather_map_dgrad`.
fn residues(p: &Conv3d, z: usize) -> [usize; 3] {
    let [_, h, w] = p.geometry.window.stride;
    [z / (h * w), z / w % h, z % w]
}

/// The windows of `t h w` that `pass` gathers, for residue class `z`; `None` if no tap reaches the class.
fn axes(p: &Conv3d, pass: Operator, z: usize) -> Option<[Axis; 3]> {
    let axis = |a: usize| match pass {
        Operator::Dgrad => backward(p, a, residues(p, z)[a]),
        _ => Some(forward(p, a)),
    };
    Some([axis(0)?, axis(1)?, axis(2)?])
}

/// Whether TMA can gather the operand of a pass: for tensors of rank 5, corners have five bits with a sign, distances of
/// taps five bits, and strides are at most 8 ([`TensorMap::check`] has the driver's limits).
pub(super) fn fit(p: &Conv3d, pass: Operator) -> bool {
    let (grid, strides, classes) = gathered(p, pass);
    let fits = |z: usize| {
        axes(p, pass, z).is_none_or(|axes| {
            axes.iter().zip(grid).all(|(axis, extent)| {
                let upper = axis.lowest + axis.places - extent as i64;
                let corner = -16..=15;
                corner.contains(&axis.lowest) && corner.contains(&upper) && axis.reach < 32
            })
        })
    };
    strides.iter().all(|s| *s <= 8) && classes <= MOST_CLASSES && (0..classes).all(fits)
}

/// Extents of the gathered grid, the strides with which pixels follow each other on it, and the number of classes.
fn gathered(p: &Conv3d, pass: Operator) -> ([usize; 3], [usize; 3], usize) {
    let stride = p.geometry.window.stride;
    match pass {
        Operator::Dgrad => (p.out, [1; 3], stride.iter().product()),
        _ => (p.input, stride, 1),
    }
}

/// The gathered operand at `ptr`, rows of `channels`, in copies of `pixels` pixels.
pub(super) fn windows(p: &Conv3d, pass: Operator, z: usize, ptr: u64, channels: usize, pixels: usize) -> TensorMap {
    let (grid, strides, _) = gathered(p, pass);
    // A class that no tap reaches copies nothing, but its kernel has a parameter to be given.
    let nothing = [0, 1, 2].map(|a| Axis { lowest: 0, reach: 0, places: grid[a] as i64 });
    let axes = axes(p, pass, z).unwrap_or(nothing);
    let inner = |v: [i64; 3]| [v[2], v[1], v[0]].map(|v| v as i32);
    let upper = [0, 1, 2].map(|a| axes[a].lowest + axes[a].places - grid[a] as i64);
    let extents = [channels, grid[2], grid[1], grid[0], p.n].map(|v| v as u64).to_vec();
    TensorMap {
        ptr,
        extents,
        window: TensorWindow::Im2col {
            lower: inner(axes.map(|axis| axis.lowest)),
            upper: inner(upper),
            strides: [strides[2], strides[1], strides[0]].map(|v| v as u32),
            channels: CHANNELS,
            pixels: pixels as u32,
        },
    }
}

/// The gathered operand at `ptr`, rows of `channels`, in copies of the lines of one tile.
pub(super) fn lines(p: &Conv3d, pass: Operator, ptr: u64, channels: usize, halo: &Halo) -> TensorMap {
    let (grid, ..) = gathered(&halo::flat(p), pass);
    let extents = [channels, grid[2], grid[1], grid[0], p.n].map(|v| v as u64).to_vec();
    TensorMap { ptr, extents, window: TensorWindow::Tiled(vec![CHANNELS, halo.pitch, halo.lines, 1, 1]) }
}

/// The filters at `ptr`, `k taps c_row`: one tap, and `filters` filters a copy.
pub(super) fn filters(p: &Conv3d, ptr: u64, c_row: usize, filters: usize) -> TensorMap {
    let extents = [c_row, p.taps(), p.k].map(|v| v as u64).to_vec();
    TensorMap { ptr, extents, window: TensorWindow::Tiled(vec![CHANNELS, 1, filters as u32]) }
}

/// The gradient at `ptr`, `pixels k_row`: 64 of each a copy.
pub(super) fn gradient(p: &Conv3d, ptr: u64, k_row: usize) -> TensorMap {
    let extents = [k_row, p.n * p.out.iter().product::<usize>()].map(|v| v as u64).to_vec();
    TensorMap { ptr, extents, window: TensorWindow::Tiled(vec![CHANNELS, 64]) }
}

/// The same in copies of the lines of one unit of wgrad, of 64 filters.
pub(super) fn gradient_lines(p: &Conv3d, ptr: u64, k_row: usize, halo: &Halo) -> TensorMap {
    let flat = halo::flat(p);
    let [of_dy, ..] = halo.units(p);
    let extents = [k_row, flat.out[2], flat.out[1], flat.out[0], p.n].map(|v| v as u64).to_vec();
    let lines = of_dy as u32 / halo.pitch;
    TensorMap { ptr, extents, window: TensorWindow::Tiled(vec![CHANNELS, halo.pitch, lines, 1, 1]) }
}

#[cfg(test)]
mod tests {
    use super::super::super::Geometry;
    use super::*;
    use crate::rng::{Purpose, stream};
    use crate::shape::Window;
    use rand::RngExt;

    /// The places of the gathered grid that pixel `q` of the grid of rows meets, tap by tap, along an axis: from the
    /// convolution's definition, and as copies find them.
    fn places(p: &Conv3d, pass: Operator, a: usize, r: usize, q: usize) -> [Vec<i64>; 2] {
        let w = &p.geometry.window;
        let (s, d, pad) = (w.stride[a] as i64, w.dilation[a] as i64, w.pad[a] as i64);
        let taps = 0..p.kernel[a] as i64;
        if pass != Operator::Dgrad {
            let Axis { lowest, reach, .. } = forward(p, a);
            let copied = (0..=reach).step_by(d as usize).map(|offset| q as i64 * s + lowest + offset);
            return [taps.map(|j| q as i64 * s - pad + j * d).collect(), copied.collect()];
        }
        // The input q·s + r is met by output o with tap j where o·s - pad + j·d is that.
        let x = q as i64 * s + r as i64;
        let exact = taps.filter(|j| (x + pad - j * d) % s == 0).map(|j| (x + pad - j * d) / s).collect();
        let copied = backward(p, a, r).map_or(Vec::new(), |axis| {
            let step = d / (1..=s).rev().find(|n| s % n == 0 && d % n == 0).unwrap();
            (0..=axis.reach).rev().step_by(step as usize).map(|offset| q as i64 + axis.lowest + offset).collect()
        });
        [exact, copied]
    }

    #[test]
    fn copies_find_the_pixels_of_every_tap() {
        let mut rng = stream(7, 0, 0, Purpose::Test);
        for _ in 0..500 {
            let mut three = |most: usize| [0; 3].map(|_| rng.random_range(1..=most));
            let (input, kernel, stride, dilation) = (three(20), three(4), three(3), three(3));
            let window = Window { stride, pad: three(4).map(|n| n - 1), dilation };
            let (x, w) = ([2, input[0], input[1], input[2], 8], [8, kernel[0], kernel[1], kernel[2], 8]);
            let Ok(p) = Conv3d::new("conv3d", x.into(), w.into(), &Geometry::new(window)) else { continue };
            for a in 0..3 {
                // As many pixels as the box has, stepping by the stride.
                let Axis { places: along, .. } = forward(&p, a);
                assert_eq!((along as usize).div_ceil(stride[a]), p.out[a]);
                for q in 0..p.out[a] {
                    let [exact, copied] = places(&p, Operator::Fprop, a, 0, q);
                    assert_eq!(exact, copied, "axis {a} of {p:?}");
                }
                for r in 0..stride[a] {
                    let inputs = (r..input[a]).step_by(stride[a]).count();
                    assert!(backward(&p, a, r).is_none_or(|axis| axis.places == inputs as i64));
                    for q in 0..inputs {
                        let [exact, copied] = places(&p, Operator::Dgrad, a, r, q);
                        assert_eq!(exact, copied, "axis {a}, residue {r} of {p:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_the_encoding_cannot_say_is_refused() {
        let problem = |kernel: usize, window: Window| {
            let (x, w) = ([1, 1, 70, 70, 8].into(), [8, 1, kernel, kernel, 8].into());
            Conv3d::new("conv3d", x, w, &Geometry::new(window)).unwrap()
        };
        let window = |pad: usize, stride: usize, dilation: usize| Window {
            pad: [0, pad, pad],
            stride: [1, stride, stride],
            dilation: [1, dilation, dilation],
        };
        for (kernel, w, forwards, backwards) in [
            (3, window(1, 1, 1), true, true),
            (3, window(16, 1, 8), true, true),
            (3, window(17, 1, 8), false, false),  // the lower corner
            (7, window(0, 1, 5), false, false),   // taps reach 30, the upper corner is -30
            (33, window(16, 1, 1), false, false), // taps reach 32
            (3, window(1, 2, 1), true, true),
            (3, window(1, 3, 1), true, false), // nine classes
            (1, window(0, 9, 1), false, false),
        ] {
            let p = problem(kernel, w);
            let found = [Operator::Fprop, Operator::Wgrad, Operator::Dgrad].map(|pass| fit(&p, pass));
            assert_eq!(found, [forwards, forwards, backwards], "{w:?}");
        }
    }
}
