//! f32 convolution with vector multiply-adds, on every machine. bf16 is widened, computed in f32 and rounded once.
//!
//! The kernel [`kernel::Gather`] multiplies rows of the input, read in place, with filters packed once per call; it
//! computes fprop and, with the filters transposed, dgrad. [`kernel::Slide`] is a variant for three neighbouring taps.
//! [`kernel::Correlate`] computes wgrad. [`super::nest`] determines which rows are read.

mod correlate;
mod gather;
mod kernel;
mod panels;
mod slide;
mod transpose;
mod winograd;

use super::super::{Conv3d, Operator};
use super::epilogue::Finish;
use super::loop_nest::{LoopNest, residue_classes};
use crate::cpu::Isa;
use crate::cpu::traffic::{self, Work};
use crate::error::Result;
use crate::tensor::Buffer;
use kernel::Kernels;
use panels::{Panels, Strides};

/// The kernels of an instruction set. AMX has no f32 tiles, so with [`Isa::Amx`] these are AVX-512's.
fn kernels(isa: Isa) -> &'static Kernels {
    match isa.or_less() {
        Isa::Portable => &kernel::PLAIN,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => &kernel::AVX2,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Amx => &kernel::AVX512,
        #[cfg(not(target_arch = "x86_64"))]
        _ => &kernel::PLAIN,
    }
}

/// Whether a pass takes fewer products than its definition has ([`winograd`]).
pub(super) fn saves_products(p: &Conv3d, pass: Operator) -> bool {
    winograd::applies(p, pass)
}

/// Computes `y`.
pub(super) fn fprop(isa: Isa, p: &Conv3d, x: &[f32], w: &[f32], y: &mut [f32], finish: &mut Finish<f32>) -> Result<()> {
    if p.is_empty() {
        y.fill(0.0);
        finish.whole(y);
        return Ok(());
    }
    if winograd::applies(p, Operator::Fprop) {
        return winograd::fprop(isa, p, x, w, y, finish);
    }
    let k = kernels(isa);
    let (nest, own) = LoopNest::fprop(p, x)?;
    let x = own.as_ref().map_or(x, Buffer::as_slice);
    let filter = p.taps() * p.c_group();
    let strides = Strides { group: p.k_group() * filter, channel: filter, tap: nest.run, run: 1 };
    let panels = Panels::pack(k, &nest, w, p.geometry.groups, p.k_group(), strides)?;
    products(k, &nest, &panels, x, y, finish);
    Ok(())
}

fn products(k: &Kernels, nest: &LoopNest, panels: &Panels, input: &[f32], out: &mut [f32], finish: &mut Finish<f32>) {
    if nest.slides() {
        slide::run(k, nest, panels, input, out, finish);
    } else {
        gather::run(k, nest, panels, input, out, finish);
    }
}

/// Computes `dx`.
pub(super) fn dgrad(
    isa: Isa,
    p: &Conv3d,
    dy: &[f32],
    w: &[f32],
    dx: &mut [f32],
    finish: &mut Finish<f32>,
) -> Result<()> {
    if p.is_empty() {
        dx.fill(0.0);
        finish.whole(dx);
        return Ok(());
    }
    if winograd::applies(p, Operator::Dgrad) {
        return winograd::dgrad(isa, p, dy, w, dx, finish);
    }
    let k = kernels(isa);
    let classes = residue_classes(p);
    let nests: Vec<LoopNest> = classes.iter().filter_map(|&class| LoopNest::dgrad(p, class)).collect();
    let all = nests.len() == classes.len();
    if !all {
        traffic::more(|| Work::moves(0, size_of_val(dx), 0));
        dx.fill(0.0); // no tap reaches some classes
    }
    let mut none = Finish::none();
    let (finish, after) = if all { (finish, None) } else { (&mut none, Some(finish)) };
    let (cg, filter) = (p.c_group(), p.taps() * p.c_group());
    for nest in &nests {
        let strides = Strides { group: p.k_group() * filter, channel: 1, tap: cg, run: filter };
        let panels = Panels::pack(k, nest, w, p.geometry.groups, cg, strides)?;
        products(k, nest, &panels, dy, dx, finish);
    }
    if let Some(finish) = after {
        finish.whole(dx); // those classes too
    }
    Ok(())
}

/// Computes `dw`.
pub(super) fn wgrad(isa: Isa, p: &Conv3d, x: &[f32], dy: &[f32], dw: &mut [f32]) -> Result<()> {
    if p.is_empty() {
        dw.fill(0.0);
        return Ok(());
    }
    if winograd::applies(p, Operator::Wgrad) {
        return winograd::wgrad(isa, p, x, dy, dw);
    }
    let (nest, own) = LoopNest::wgrad(p, x)?;
    let x = own.as_ref().map_or(x, Buffer::as_slice);
    correlate::run(kernels(isa), &nest, x, dy, p.geometry.groups, p.k_group(), dw)
}
