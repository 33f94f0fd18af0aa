//! Stems with TMA and wgmma against the definition, on the simulator's Hopper.

use super::conv3d::{Kernels, statistics_with, tiles_of_pass};
use super::conv3d_sm90::took_part;
use crate::support::numbers::{bits, noise};
use crate::support::sim::{Sim, on_hopper};
use proptest::prelude::*;
use ptxsim::{Order, Sums};
use tubelet::ops::conv3d::fusion::Epilogue;
use tubelet::ops::conv3d::{self, Conv3d, Geometry, Operator};
use tubelet::ops::{self, Activation, conv_norm};
use tubelet::shape::{Shape, Window};
use tubelet::tape::{self, Tape, Var};
use tubelet::tensor::{DType, Tensor};

/// Tiles of the portable kernels, which come first.
const PORTABLE: usize = 1;

fn problem(x: [usize; 5], k: usize, kernel: [usize; 3], window: Window) -> Option<Conv3d> {
    let w = [k, kernel[0], kernel[1], kernel[2], x[4]];
    Conv3d::new("conv3d", x.into(), w.into(), &Geometry::new(window)).ok()
}

fn strided(x: [usize; 5], k: usize, kernel: [usize; 3], stride: [usize; 3]) -> Conv3d {
    problem(x, k, kernel, Window::same(kernel).strided(stride)).unwrap()
}

/// Tiles of fprop and of wgrad, all of which are held against the definition.
fn tiles(name: &str, p: &Conv3d) -> [usize; 2] {
    [Operator::Fprop, Operator::Wgrad].map(|pass| tiles_of_pass(name, p, pass, Kernels::Hopper, PORTABLE))
}

#[test]
pub fn every_tile_of_stems() {
    for (name, p) in [
        ("maclr", strided([2, 5, 18, 20, 3], 64, [5, 7, 7], [2, 2, 2])),
        ("mcl", strided([1, 6, 11, 12, 3], 64, [4, 7, 7], [4, 2, 2])),
        // Lines of an odd number of pixels, and filters that fill no vector.
        ("odd", strided([1, 3, 13, 23, 3], 45, [1, 7, 7], [1, 2, 2])),
        // Several tiles of a line; the motion network's filters; x is packed as it is.
        ("long", strided([1, 1, 5, 236, 4], 8, [1, 7, 7], [1, 2, 2])),
        // One step of four taps.
        ("small", strided([1, 4, 9, 7, 1], 20, [3, 3, 3], [2, 1, 2])),
        ("even", strided([1, 2, 12, 30, 2], 33, [2, 4, 6], [1, 3, 2])),
    ] {
        assert_eq!(tiles(name, &p), [2, 1], "{name}");
    }
    let window = Window { stride: [1, 3, 2], pad: [3, 2, 9], dilation: [2, 3, 1] };
    assert_eq!(tiles("dilated", &problem([1, 5, 14, 16, 3], 16, [3, 2, 5], window).unwrap()), [2, 1]);
}

/// A smaller one, for mistakes that are made on purpose. The filters leave room for two stages, which are used again.
#[test]
pub fn every_tile_of_a_small_stem() {
    tiles("small", &strided([1, 5, 9, 9, 3], 40, [5, 7, 7], [1, 2, 2]));
}

/// More tiles than the grid has blocks, which each compute several then, with a ring of stages that goes on.
#[test]
fn blocks_compute_several_tiles_of_stems() {
    tiles("many", &strided([3, 90, 7, 3, 1], 5, [1, 3, 3], [2, 1, 2]));
}

/// Other strides, more filters, and longer lines of the filter than the kernels have.
#[test]
fn what_does_not_fit_is_left_to_portable_kernels() {
    for (p, left) in [
        (strided([1, 2, 9, 9, 3], 16, [1, 3, 3], [1, 2, 1]), [0, 0]),
        (strided([1, 2, 9, 9, 3], 65, [1, 3, 3], [1, 2, 2]), [0, 0]),
        (strided([1, 2, 9, 12, 3], 8, [1, 3, 9], [1, 2, 2]), [0, 0]),
        // Nine lines fit fprop alone, and of the filters of seven frames not all fit.
        (strided([1, 2, 12, 9, 3], 8, [1, 9, 3], [1, 2, 2]), [2, 0]),
        (strided([1, 7, 9, 9, 3], 64, [7, 7, 7], [1, 2, 2]), [0, 1]),
    ] {
        assert_eq!(tiles("left", &p), left, "{p:?}");
    }
}

#[test]
pub fn statistics_leave_with_the_result_of_stems() {
    // So many pixels that the plan takes these kernels: of 56 and of 112 outputs of a line.
    statistics_with(Kernels::Hopper, [2, 3, 108, 111, 3], 21, [1, 3, 7], [1, 2, 2]);
    statistics_with(Kernels::Hopper, [2, 4, 42, 220, 2], 16, [1, 3, 7], [1, 2, 2]);
    took_part(&["conv3d_fprop_stem_sm90_56x64", "conv3d_fprop_stem_sm90_112x64"]);
    // More rows of sums than one block adds up.
    statistics_with(Kernels::Hopper, [2, 33, 16, 100, 1], 8, [1, 3, 7], [1, 2, 2]);
}

/// The packed pixels that fprop made serve wgrad: the same bits with one launch less.
#[test]
fn a_stem_packs_its_input_once() {
    for width in [99, 100] {
        let sim = Sim::hopper(Order::Forward, Sums::Nearest);
        let launched = |kernel: &str| -> u64 {
            sim.machine.totals().iter().filter(|(name, _)| name.starts_with(kernel)).map(|(_, c)| c.launches).sum()
        };
        let there = |t: Tensor| t.to(&sim.device()).unwrap();
        let half = |seed, shape: &[usize]| there(noise(seed, shape).cast(DType::BF16).unwrap());
        let (x, w) = (half(1, &[2, 4, 96, width, 3]), half(2, &[64, 1, 5, 7, 3]));
        let (g, near) = (Geometry::new(Window::same([1, 5, 7]).strided([1, 2, 2])), there(noise(3, &[64])));
        let tape = Tape::new();
        let w = tape.leaf(w);
        let epilogue = Epilogue::Moments { parts: 1, near: &near };
        let (y, _) = conv_norm(&tape, &(&Var::constant(x.clone())).into(), &w, &g, epilogue).unwrap();
        let dy = half(4, y.value().dims());
        let loss = ops::mul(&tape, &y, &Var::constant(dy.clone())).unwrap();
        let loss = ops::sum_to(&tape, &loss, Shape::from([1; 5])).unwrap();
        let dw = tape.grad(&loss, &[&w], tape::Mode::Free).unwrap().remove(0).unwrap();
        assert_eq!(launched("conv3d_pack_pixels"), 1, "{width} pixels");
        assert_eq!([launched("conv3d_fprop_stem_sm90"), launched("conv3d_wgrad_stem_sm90")], [1, 1]);
        let apart = conv3d::wgrad(&x, &dy, w.shape(), &g).unwrap();
        assert_eq!(launched("conv3d_pack_pixels"), 2);
        assert_eq!(bits(&dw.value().cast(DType::F32).unwrap()), bits(&apart));
    }
}

/// Clips of f32 are packed without a rounded copy: the same bits as from one, also of the recorded gradient.
#[test]
pub fn clips_are_rounded_as_they_are_packed() {
    let g = Geometry::new(Window::same([1, 5, 7]).strided([1, 2, 2]));
    on_hopper(|device| {
        let there = |t: Tensor| t.to(device).unwrap();
        let (clips, near) = (Var::constant(there(noise(1, &[2, 4, 96, 99, 3]))), there(noise(3, &[64])));
        let filters = there(noise(2, &[64, 1, 5, 7, 3]).cast(DType::BF16).unwrap());
        let run = |x: &dyn Fn(&Tape) -> Activation, mode: tape::Mode| {
            let tape = Tape::new();
            let w = tape.leaf(filters.clone());
            let epilogue = Epilogue::Moments { parts: 2, near: &near };
            let (y, _) = conv_norm(&tape, &x(&tape), &w, &g, epilogue).unwrap();
            let dy = there(noise(4, y.value().dims()).cast(DType::BF16).unwrap());
            let loss = ops::mul(&tape, &y, &Var::constant(dy)).unwrap();
            let loss = ops::sum_to(&tape, &loss, Shape::from([1; 5])).unwrap();
            let dw = tape.grad(&loss, &[&w], mode).unwrap().remove(0).unwrap();
            [&y, &dw].map(|v| bits(&v.value().cast(DType::F32).unwrap()))
        };
        let rounded = |t: &Tape| Activation::rounded(t, &clips, DType::BF16).unwrap();
        let first = |t: &Tape| Activation::from(&ops::cast(t, &clips, DType::BF16).unwrap());
        let want = run(&first, tape::Mode::Free);
        assert_eq!(run(&rounded, tape::Mode::Free), want);
        assert_eq!(run(&rounded, tape::Mode::Keep), want);
        want
    });
    took_part(&["conv3d_pack_pixels_f32_bf16"]);
}

/// Any window with a stride of 2 along lines.
fn any_problem() -> impl Strategy<Value = Conv3d> {
    let axis = |most: usize| (1..=most, 1usize..=7, 1usize..=3, 0usize..=4, 1usize..=2);
    (1usize..=2, 1usize..=4, 1usize..=64, axis(5), axis(20), (1usize..=130, 1usize..=8, 0usize..=8)).prop_filter_map(
        "the filter fits",
        |(n, c, k, t, h, (w, kw, pad))| {
            let window = Window { stride: [t.2, h.2, 2], pad: [t.3, h.3, pad], dilation: [t.4, h.4, 1] };
            problem([n, t.0, h.0, w, c], k, [t.1.min(4), h.1, kw], window)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn any_stem(p in any_problem()) {
        tiles("any", &p);
    }
}
