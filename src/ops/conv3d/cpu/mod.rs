//! The CPU path: direct convolution, with no array of gathered patches.
//!
//! One kernel ([`kernel::Gather`]) multiplies rows that lie where they lie with filters packed once per call; it serves
//! fprop and, with the filters turned, dgrad. Another ([`kernel::Correlate`]) serves wgrad. [`plan`] says which rows.

#[cfg(target_arch = "x86_64")]
mod amx;
mod correlate;
mod gather;
mod kernel;
mod panels;
mod plan;
mod slide;
mod transpose;

use super::Conv3d;
use crate::cpu::{Isa, simd};
use crate::tensor::Tensor;
use kernel::Kernels;
use panels::{Panels, Strides};
use plan::Plan;

/// The kernels of an instruction set. Tiles know no f32, so beside them vectors do it.
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

/// `y` in the number type of `x`; bf16 is widened.
pub(super) fn fprop(isa: Isa, p: &Conv3d, x: &Tensor, w: &Tensor) -> Tensor {
    Tensor::build_as(x.dtype(), p.y_shape(), |y| fprop_f32(kernels(isa), p, &x.host(), &w.host(), y))
}

/// `dx` in the number type of `dy`; bf16 is widened.
pub(super) fn dgrad(isa: Isa, p: &Conv3d, dy: &Tensor, w: &Tensor) -> Tensor {
    Tensor::build_as(dy.dtype(), p.x_shape(), |dx| dgrad_f32(kernels(isa), p, &dy.host(), &w.host(), dx))
}

/// `dw`, f32.
pub(super) fn wgrad(isa: Isa, p: &Conv3d, x: &Tensor, dy: &Tensor) -> Tensor {
    #[cfg(target_arch = "x86_64")]
    if isa.or_less() == Isa::Amx
        && let Some([x, dy]) = amx::correlate_operands::operands(p, x, dy)
    {
        // SAFETY: the instructions are there, and the operands were checked to be of `p`.
        return Tensor::build(p.w_shape(), |dw| unsafe { amx::correlate::run(p, x, dy, dw) });
    }
    Tensor::build(p.w_shape(), |dw| wgrad_f32(kernels(isa), p, &x.host(), &dy.host(), dw))
}

fn fprop_f32(k: &Kernels, p: &Conv3d, x: &[f32], w: &[f32], y: &mut [f32]) {
    let (plan, x) = Plan::fprop(p, x);
    let filter = p.taps() * p.c_group();
    let strides = Strides { group: p.k_group() * filter, channel: filter, tap: plan.run, run: 1 };
    let panels = Panels::pack(k, &plan, w, p.geometry.groups, p.k_group(), strides);
    products(k, &plan, &panels, &x, y);
}

fn products(k: &Kernels, plan: &Plan, panels: &Panels, input: &[f32], out: &mut [f32]) {
    if plan.slides() {
        slide::run(k, plan, panels, input, out);
    } else {
        gather::run(k, plan, panels, input, out);
    }
}

fn dgrad_f32(k: &Kernels, p: &Conv3d, dy: &[f32], w: &[f32], dx: &mut [f32]) {
    let [st, sh, sw] = p.geometry.window.stride;
    let [t, h, width] = p.input;
    let mut rests = Vec::new();
    for a in 0..st.min(t) {
        for b in 0..sh.min(h) {
            rests.extend((0..sw.min(width)).map(|d| [a, b, d]));
        }
    }
    let plans: Vec<Plan> = rests.iter().filter_map(|&rest| Plan::dgrad(p, rest)).collect();
    if plans.len() < rests.len() {
        dx.fill(0.0); // no tap reaches some classes
    }
    let (cg, filter) = (p.c_group(), p.taps() * p.c_group());
    for plan in &plans {
        let strides = Strides { group: p.k_group() * filter, channel: 1, tap: cg, run: filter };
        let panels = Panels::pack(k, plan, w, p.geometry.groups, cg, strides);
        products(k, plan, &panels, dy, dx);
    }
}

fn wgrad_f32(k: &Kernels, p: &Conv3d, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    let (plan, x) = Plan::fprop(p, x);
    correlate::run(k, &plan, &x, dy, p.geometry.groups, p.k_group(), dw);
}
