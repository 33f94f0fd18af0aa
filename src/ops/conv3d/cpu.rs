//! The CPU path.

use super::Conv3d;
use rayon::prelude::*;

/// Which instructions the kernels use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// Whatever the compiler makes of plain loops.
    Portable,
}

impl Isa {
    /// The fastest this machine has.
    pub fn best() -> Self {
        Isa::Portable
    }

    /// All that this machine has.
    pub fn available() -> Vec<Self> {
        vec![Isa::Portable]
    }
}

/// Input coordinate of tap `a` at output `o` on one axis, unless it falls into the padding.
fn tap(p: &Conv3d, axis: usize, o: usize, a: usize) -> Option<usize> {
    let win = &p.geometry.window;
    let i = (o * win.stride[axis] + a * win.dilation[axis]).checked_sub(win.pad[axis])?;
    (i < p.input[axis]).then_some(i)
}

/// Calls `f(tap, pixel)` for every tap of output pixel `o` that meets an input pixel.
fn each_tap(p: &Conv3d, o: usize, mut f: impl FnMut(usize, usize)) {
    let [to, ho, wo] = p.out;
    let [kt, kh, kw] = p.kernel;
    let (n, ot, oh, ow) = (o / (to * ho * wo), o / (ho * wo) % to, o / wo % ho, o % wo);
    for a in 0..kt {
        let Some(it) = tap(p, 0, ot, a) else { continue };
        for b in 0..kh {
            let Some(ih) = tap(p, 1, oh, b) else { continue };
            for d in 0..kw {
                let Some(iw) = tap(p, 2, ow, d) else { continue };
                f((a * kh + b) * kw + d, ((n * p.input[0] + it) * p.input[1] + ih) * p.input[2] + iw);
            }
        }
    }
}

/// Filters as `tap c k`.
fn transposed(p: &Conv3d, w: &[f32]) -> Vec<f32> {
    let (taps, cg) = (p.taps(), p.c_group());
    let mut out = vec![0.0; w.len()];
    for k in 0..p.k {
        for i in 0..taps * cg {
            out[i * p.k + k] = w[k * taps * cg + i];
        }
    }
    out
}

pub(super) fn fprop(_: Isa, p: &Conv3d, x: &[f32], w: &[f32], y: &mut [f32]) {
    let (cg, kg, groups) = (p.c_group(), p.k_group(), p.geometry.groups);
    let wt = transposed(p, w);
    y.par_chunks_mut((p.k * p.out[2]).max(1)).enumerate().for_each(|(row, y)| {
        y.fill(0.0);
        for (i, y) in y.chunks_exact_mut(p.k).enumerate() {
            each_tap(p, row * p.out[2] + i, |tap, pixel| {
                for g in 0..groups {
                    let x = &x[pixel * p.c + g * cg..][..cg];
                    let y = &mut y[g * kg..][..kg];
                    for (c, &x) in x.iter().enumerate() {
                        let w = &wt[(tap * cg + c) * p.k + g * kg..][..kg];
                        y.iter_mut().zip(w).for_each(|(y, w)| *y += x * w);
                    }
                }
            });
        }
    });
}

pub(super) fn dgrad(_: Isa, p: &Conv3d, dy: &[f32], w: &[f32], dx: &mut [f32]) {
    let (cg, kg, taps) = (p.c_group(), p.k_group(), p.taps());
    let (ins, outs) = (p.input.iter().product::<usize>(), p.out.iter().product::<usize>());
    dx.par_chunks_mut((ins * p.c).max(1)).enumerate().for_each(|(n, dx)| {
        dx.fill(0.0);
        for o in n * outs..(n + 1) * outs {
            each_tap(p, o, |tap, pixel| {
                for (k, &d) in dy[o * p.k..][..p.k].iter().enumerate() {
                    let w = &w[(k * taps + tap) * cg..][..cg];
                    let dx = &mut dx[(pixel - n * ins) * p.c + k / kg * cg..][..cg];
                    dx.iter_mut().zip(w).for_each(|(dx, w)| *dx += d * w);
                }
            });
        }
    });
}

pub(super) fn wgrad(_: Isa, p: &Conv3d, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    let (cg, kg, taps) = (p.c_group(), p.k_group(), p.taps());
    let pixels = p.n * p.out.iter().product::<usize>();
    dw.par_chunks_mut((taps * cg * kg).max(1)).enumerate().for_each(|(g, dw)| {
        dw.fill(0.0);
        for o in 0..pixels {
            each_tap(p, o, |tap, pixel| {
                let x = &x[pixel * p.c + g * cg..][..cg];
                for (k, &d) in dy[o * p.k + g * kg..][..kg].iter().enumerate() {
                    let dw = &mut dw[(k * taps + tap) * cg..][..cg];
                    dw.iter_mut().zip(x).for_each(|(dw, x)| *dw += d * x);
                }
            });
        }
    });
}
