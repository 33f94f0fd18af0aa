//! The CPU path: direct convolution, with no array of gathered patches.
//!
//! One kernel ([`kernel::Gather`]) multiplies rows that lie where they lie with filters packed once per call; it serves
//! fprop and, with the filters turned, dgrad. Another ([`kernel::Correlate`]) serves wgrad. [`plan`] says which rows.

mod correlate;
mod gather;
mod kernel;
mod panels;
mod plan;
mod simd;
mod slide;
mod transpose;

use super::Conv3d;
use kernel::Kernels;
use panels::{Panels, Strides};
use plan::Plan;
use std::sync::OnceLock;

/// Which instructions the kernels use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// Whatever the compiler makes of plain loops.
    Portable,
    /// 256-bit vectors with fused multiply-add.
    Avx2,
    /// 512-bit vectors.
    Avx512,
}

impl Isa {
    /// All that this machine has, the fastest last.
    pub fn available() -> Vec<Isa> {
        #[allow(unused_mut, reason = "other machines have one")]
        let mut all = vec![Isa::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                all.push(Isa::Avx2);
            }
            if is_x86_feature_detected!("avx512f") {
                all.push(Isa::Avx512);
            }
        }
        all
    }

    /// The fastest this machine has.
    pub fn best() -> Isa {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| *Isa::available().last().unwrap_or(&Isa::Portable))
    }

    /// Its kernels; those of [`Isa::best`] where the machine lacks its instructions.
    fn kernels(self) -> &'static Kernels {
        let isa = if Isa::available().contains(&self) { self } else { Isa::best() };
        match isa {
            Isa::Portable => &kernel::PLAIN,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => &kernel::AVX2,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => &kernel::AVX512,
            #[cfg(not(target_arch = "x86_64"))]
            _ => &kernel::PLAIN,
        }
    }
}

pub(super) fn fprop(isa: Isa, p: &Conv3d, x: &[f32], w: &[f32], y: &mut [f32]) {
    let k = isa.kernels();
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

pub(super) fn dgrad(isa: Isa, p: &Conv3d, dy: &[f32], w: &[f32], dx: &mut [f32]) {
    let k = isa.kernels();
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

pub(super) fn wgrad(isa: Isa, p: &Conv3d, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    let (plan, x) = Plan::fprop(p, x);
    correlate::run(isa.kernels(), &plan, &x, dy, p.geometry.groups, p.k_group(), dw);
}
