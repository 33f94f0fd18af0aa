//! Convolution with vector instructions, on every machine.
//!
//! Operands of f32 are multiplied by multiply-adds. bf16 is multiplied in pairs where the processor has an instruction for
//! them and it pays ([`Isa::Avx512Bf16`]), and widened to f32 elsewhere. Results of bf16 are rounded as they are stored.
//!
//! The kernel [`kernel::Gather`] multiplies rows of the input, read in place, with filters packed once per call; it
//! computes fprop and, with the filters transposed, dgrad. [`kernel::Slide`] is a variant for three neighbouring taps.
//! [`kernel::Correlate`] computes wgrad. [`super::loop_nest`] determines which rows are read.

mod correlate;
#[cfg(target_arch = "x86_64")]
mod correlate_pairs;
mod gather;
mod kernel;
mod operand;
mod pack;
#[cfg(target_arch = "x86_64")]
mod pairs;
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
use crate::tensor::{Buffer, Tensor};
#[cfg(target_arch = "x86_64")]
use half::bf16;
use kernel::Kernels;
pub(super) use operand::Number;
use pack::Packers;
use panels::{Panels, Strides};

/// The f32 kernels of an instruction set. AMX has no f32 tiles, so with [`Isa::Amx`] these are AVX-512's.
fn kernels(isa: Isa) -> (&'static Kernels<f32>, &'static Packers) {
    match isa.or_less() {
        Isa::Portable => (&kernel::PLAIN, &pack::PLAIN),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => (&kernel::AVX2, &pack::AVX2),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => (&kernel::AVX512, &pack::AVX512),
        #[cfg(not(target_arch = "x86_64"))]
        _ => (&kernel::PLAIN, &pack::PLAIN),
    }
}

/// Whether a pass takes fewer products than its definition has ([`winograd`]).
pub(super) fn saves_products(p: &Conv3d, pass: Operator) -> bool {
    winograd::applies(p, pass)
}

/// Operands whose pairs are multiplied, if there are instructions for that.
#[cfg(target_arch = "x86_64")]
fn in_pairs(isa: Isa, [a, b]: [&Tensor; 2]) -> Option<[&[bf16]; 2]> {
    if isa.or_less() == Isa::Avx512Bf16 { Some([a.bf16().ok()?, b.bf16().ok()?]) } else { None }
}

/// Computes `y`.
pub(super) fn fprop<T: Number>(
    isa: Isa,
    p: &Conv3d,
    [x, w]: [&Tensor; 2],
    y: &mut [T],
    finish: &mut Finish<T>,
) -> Result<()> {
    #[cfg(target_arch = "x86_64")]
    if let Some(operands) = in_pairs(isa, [x, w]) {
        return fprop_of(&kernel::PAIRS, p, operands, y, finish);
    }
    let (x, w) = (x.host()?, w.host()?);
    if winograd::applies(p, Operator::Fprop)
        && let Some((y, finish)) = T::f32(y, finish)
    {
        return winograd::fprop(isa, p, &x, &w, y, finish);
    }
    fprop_of(kernels(isa).0, p, [&x, &w], y, finish)
}

fn fprop_of<N: Number, T: Number>(
    k: &Kernels<N>,
    p: &Conv3d,
    [x, w]: [&[N]; 2],
    y: &mut [T],
    finish: &mut Finish<T>,
) -> Result<()> {
    if p.is_empty() {
        y.fill(T::zeroed());
        finish.whole(y);
        return Ok(());
    }
    let (nest, own) = LoopNest::fprop(p, x, N::DEPTH)?;
    let x = own.as_ref().map_or(x, Buffer::as_slice);
    let filter = p.taps() * p.c_group();
    let strides = Strides { group: p.k_group() * filter, channel: filter, tap: nest.run, run: 1 };
    let panels = Panels::pack(k, &nest, w, p.geometry.groups, p.k_group(), strides)?;
    products(k, &nest, &panels, x, y, finish);
    Ok(())
}

fn products<N: Number, T: Number>(
    k: &Kernels<N>,
    nest: &LoopNest,
    panels: &Panels<N>,
    input: &[N],
    out: &mut [T],
    finish: &mut Finish<T>,
) {
    if nest.slides(N::DEPTH) {
        slide::run(k, nest, panels, input, out, finish);
    } else {
        gather::run(k, nest, panels, input, out, finish);
    }
}

/// Computes `dx`.
pub(super) fn dgrad<T: Number>(
    isa: Isa,
    p: &Conv3d,
    [dy, w]: [&Tensor; 2],
    dx: &mut [T],
    finish: &mut Finish<T>,
) -> Result<()> {
    #[cfg(target_arch = "x86_64")]
    if let Some(operands) = in_pairs(isa, [dy, w]) {
        return dgrad_of(&kernel::PAIRS, p, operands, dx, finish);
    }
    let (dy, w) = (dy.host()?, w.host()?);
    if winograd::applies(p, Operator::Dgrad)
        && let Some((dx, finish)) = T::f32(dx, finish)
    {
        return winograd::dgrad(isa, p, &dy, &w, dx, finish);
    }
    dgrad_of(kernels(isa).0, p, [&dy, &w], dx, finish)
}

fn dgrad_of<N: Number, T: Number>(
    k: &Kernels<N>,
    p: &Conv3d,
    [dy, w]: [&[N]; 2],
    dx: &mut [T],
    finish: &mut Finish<T>,
) -> Result<()> {
    if p.is_empty() {
        dx.fill(T::zeroed());
        finish.whole(dx);
        return Ok(());
    }
    let classes = residue_classes(p);
    let nests: Vec<LoopNest> = classes.iter().filter_map(|&class| LoopNest::dgrad(p, class)).collect();
    let all = nests.len() == classes.len();
    if !all {
        traffic::more(|| Work::moves(0, size_of_val(dx), 0));
        dx.fill(T::zeroed()); // no tap reaches some classes
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

/// Channels on both sides together from which wgrad copies pairs, as measured.
#[cfg(target_arch = "x86_64")]
const COPIED: usize = 64;

/// Computes `dw`.
pub(super) fn wgrad(isa: Isa, p: &Conv3d, [x, dy]: [&Tensor; 2], dw: &mut [f32]) -> Result<()> {
    if p.is_empty() {
        dw.fill(0.0);
        return Ok(());
    }
    // With few channels, copying pairs costs more than it gains.
    #[cfg(target_arch = "x86_64")]
    if p.geometry.groups == 1
        && p.c + p.k >= COPIED
        && let Some([x, dy]) = in_pairs(isa, [x, dy])
    {
        let (nest, own) = LoopNest::wgrad(p, x)?;
        let x = own.as_ref().map_or(x, Buffer::as_slice);
        return correlate::run(&kernel::PAIRS, &nest, [x, dy], 1, p.k, dw, |task, part, to| task.run_pairs(part, to));
    }
    if winograd::applies(p, Operator::Wgrad) {
        return winograd::wgrad(isa, p, &x.host()?, &dy.host()?, dw);
    }
    let ((k, packers), x, dy) = (kernels(isa), x.host()?, dy.host()?);
    let (nest, own) = LoopNest::wgrad(p, &x)?;
    let x = own.as_ref().map_or(&*x, Buffer::as_slice);
    correlate::run(k, &nest, [x, &dy], p.geometry.groups, p.k_group(), dw, |task, part, to| task.run(packers, part, to))
}
