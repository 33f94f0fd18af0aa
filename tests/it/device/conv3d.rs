//! Convolution's device code against the definition, in the simulator or on a GPU: every row of the table, every path,
//! random ragged shapes, and the sums that fused launches leave.

use crate::support::close::{assert_bounded, assert_tensor_cores};
use crate::support::numbers::{drawn, real, seeded, wide};
use crate::support::sim::{Sim, on_gpu, on_hopper, on_tensor_cores};
use proptest::prelude::*;
use ptxsim::Order;
use rand_chacha::ChaCha8Rng;
use tubelet::ops::batch_norm::{Incoming, Norm, ReluMask, Signs};
use tubelet::ops::conv3d::cases::SMALL;
use tubelet::ops::conv3d::fusion::{self, Epilogue, GradEpilogue, Prologue};
use tubelet::ops::conv3d::{Conv3d, Geometry, Operator, dgrad, fprop, on_tile, reference, wgrad};
use tubelet::ops::reference::Bounded;
use tubelet::shape::{Shape, Window};
use tubelet::tensor::{DType, Device, Tensor};

const TYPES: [DType; 2] = [DType::F32, DType::BF16];

/// Numbers in -1..1 that `dtype` holds.
fn reals(r: &mut ChaCha8Rng, shape: impl Into<Shape>, dtype: DType) -> Tensor {
    drawn(r, shape, real).cast(dtype).unwrap()
}

/// The three passes on `device` against the definition; the results' bits.
pub fn check(name: &str, p: &Conv3d, [xt, wt, dyt]: [DType; 3], device: &Device) -> Vec<Vec<u32>> {
    let r = &mut seeded(11);
    let (x, w, dy) = (reals(r, p.x_shape(), xt), reals(r, p.w_shape(), wt), reals(r, p.y_shape(), dyt));
    let (xs, ws, dys) = (wide(&x), wide(&w), wide(&dy));
    let [x, w, dy] = [&x, &w, &dy].map(|t| t.to(device).unwrap());
    let (g, what) = (p.geometry(), |pass: &str| format!("{name} {pass} {xt:?} {wt:?} {dyt:?}"));
    let y = fprop(&x, &w, g).unwrap();
    let dx = dgrad(&dy, &w, p.x_shape(), g).unwrap();
    let dw = wgrad(&x, &dy, p.w_shape(), g).unwrap();
    assert_eq!((y.dtype(), dx.dtype(), dw.dtype()), (xt, dyt, DType::F32));
    let results = [
        ("fprop", y, reference::fprop(p, &xs, &ws)),
        ("dgrad", dx, reference::dgrad(p, &dys, &ws)),
        ("wgrad", dw, reference::wgrad(p, &xs, &dys)),
    ];
    let bf16 = [xt, wt, dyt] == [DType::BF16; 3];
    let hold = if bf16 && g.groups == 1 { assert_tensor_cores } else { assert_bounded };
    let bits = results.map(|(pass, got, want)| {
        let got_values = got.load().unwrap();
        hold(&what(pass), &got_values, &want, got.dtype());
        got_values.iter().map(|v| v.to_bits()).collect()
    });
    bits.into()
}

/// The table in thirds, so that tests share the cores.
fn check_table(third: usize) {
    for c in SMALL.iter().skip(third).step_by(3) {
        for dtype in TYPES {
            let test = |device: &Device| check(c.name, &c.problem(), [dtype; 3], device);
            if dtype == DType::BF16 {
                on_tensor_cores(test)
            } else {
                on_gpu(test)
            };
        }
    }
}

#[test]
pub fn table_first() {
    check_table(0);
}

#[test]
pub fn table_second() {
    check_table(1);
}

#[test]
fn table_third() {
    check_table(2);
}

#[test]
fn two_number_types_meet_in_f32() {
    let p = SMALL.iter().find(|c| c.name == "ragged").unwrap().problem();
    let (f, b) = (DType::F32, DType::BF16);
    on_gpu(|device| (check("mixed", &p, [f, b, b], device), check("mixed", &p, [b, f, f], device)));
}

/// Which kernels a test is for.
#[derive(Clone, Copy, PartialEq)]
pub enum Kernels {
    /// Those of all devices.
    Portable,
    /// Those with TMA and wgmma.
    Hopper,
}

impl Kernels {
    /// Runs a test on such devices.
    pub fn run<T: PartialEq + std::fmt::Debug>(self, test: impl FnMut(&Device) -> T) -> T {
        match self {
            Kernels::Portable => on_tensor_cores(test),
            Kernels::Hopper => on_hopper(test),
        }
    }
}

/// Every tile of every pass, also where the plan would take a smaller one.
#[test]
pub fn every_tile() {
    let window = |kernel, stride| Geometry::new(Window::same(kernel).strided(stride));
    for (name, x, k, kernel, stride) in [
        ("dense", [1, 3, 9, 10, 24], 136, [1, 3, 3], [1, 1, 1]),
        ("strided", [1, 4, 9, 8, 136], 24, [3, 1, 1], [2, 1, 2]),
        ("odd", [2, 2, 7, 7, 19], 67, [1, 1, 1], [1, 1, 1]),
        ("stem", [1, 2, 13, 14, 3], 70, [1, 3, 3], [1, 2, 2]),
    ] {
        let w = [k, kernel[0], kernel[1], kernel[2], x[4]];
        let p = Conv3d::new("conv3d", x.into(), w.into(), &window(kernel, stride)).unwrap();
        for (pass, tiles) in tiles_of(name, &p, Kernels::Portable, 0) {
            assert!(tiles >= if name == "stem" { 1 } else { 3 }, "{name} {pass:?}: {tiles} tiles");
        }
    }
}

/// Holds the tiles of each pass from number `first` on against the definition; returns how many there were.
pub fn tiles_of(name: &str, p: &Conv3d, kernels: Kernels, first: usize) -> [(Operator, usize); 3] {
    [Operator::Fprop, Operator::Dgrad, Operator::Wgrad].map(|pass| (pass, tiles_of_pass(name, p, pass, kernels, first)))
}

/// The same of one pass.
pub fn tiles_of_pass(name: &str, p: &Conv3d, pass: Operator, kernels: Kernels, first: usize) -> usize {
    let r = &mut seeded(12);
    let [x, w, dy] = [p.x_shape(), p.w_shape(), p.y_shape()].map(|s| reals(r, s, DType::BF16));
    let (xs, ws, dys) = (wide(&x), wide(&w), wide(&dy));
    let ([a, b], want) = match pass {
        Operator::Fprop => ([&x, &w], reference::fprop(p, &xs, &ws)),
        Operator::Dgrad => ([&dy, &w], reference::dgrad(p, &dys, &ws)),
        Operator::Wgrad => ([&x, &dy], reference::wgrad(p, &xs, &dys)),
    };
    let tiles = kernels.run(|device| {
        let (a, b) = (a.to(device).unwrap(), b.to(device).unwrap());
        let results = (first..).map_while(|tile| on_tile(p, pass, tile, [&a, &b]).unwrap());
        let each = results.enumerate().map(|(tile, got)| {
            let values = got.load().unwrap();
            assert_tensor_cores(&format!("{name} {pass:?} tile {}", first + tile), &values, &want, got.dtype());
            values.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
        });
        each.collect::<Vec<_>>()
    });
    tiles.len()
}

/// Any convolution that is small enough.
fn any_problem() -> impl Strategy<Value = (Conv3d, DType)> {
    let axis = || (1usize..=9, 1usize..=3, 1usize..=3, 0usize..=3, 1usize..=2);
    let channels = (1usize..=2, 1usize..=3, 1usize..=40, 1usize..=70);
    (channels, axis(), axis(), axis(), prop::bool::ANY).prop_filter_map(
        "the filter fits",
        |((n, groups, cg, kg), t, h, w, half)| {
            let (c, k) = if groups == 1 { (cg, kg) } else { (cg.min(6) * groups, kg.min(6) * groups) };
            let window = Window { stride: [t.2, h.2, w.2], pad: [t.3, h.3, w.3], dilation: [t.4, h.4, w.4] };
            let geometry = Geometry { groups, ..Geometry::new(window) };
            let (x, f) = ([n, t.0, h.0, w.0, c], [k, t.1, h.1, w.1, c / groups]);
            let p = Conv3d::new("conv3d", x.into(), f.into(), &geometry).ok()?;
            Some((p, if half { DType::BF16 } else { DType::F32 }))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn any_shape((p, dtype) in any_problem()) {
        let test = |device: &Device| check("any", &p, [dtype; 3], device);
        if dtype == DType::BF16 { on_tensor_cores(test) } else { on_gpu(test) };
    }
}

/// The shape `[rows 2 channels]` of statistics as sums of terms.
fn statistics(rows: usize, channels: usize, terms: impl Fn(usize, usize) -> Vec<[f64; 2]>) -> Bounded<f64> {
    let mut b = Bounded { value: vec![], magnitude: vec![], terms: 0 };
    for row in 0..rows {
        for which in 0..2 {
            for c in 0..channels {
                let of: Vec<f64> = terms(row, c).iter().map(|t| t[which]).collect();
                b.value.push(of.iter().sum());
                b.magnitude.push(of.iter().map(|v| v.abs()).sum());
                // Beside the sum itself: a difference and a product or two of each term.
                b.terms = of.len() + 4;
            }
        }
    }
    b
}

/// Sums `[parts tiles 2 c]` added up over the tiles.
fn over_tiles(sums: &Tensor, parts: usize) -> Vec<f32> {
    let &[of, tiles, 2, c] = sums.dims() else { panic!("[parts tiles 2 c], not {}", sums.shape()) };
    assert_eq!(of, parts);
    let (all, columns) = (sums.load().unwrap(), 2 * c);
    let total = |i: usize| (0..tiles).map(|t| all[(i / columns * tiles + t) * columns + i % columns]).sum();
    (0..parts * columns).map(total).collect()
}

#[test]
pub fn statistics_leave_with_the_result() {
    statistics_of(
        Kernels::Portable,
        &[
            ([2, 3, 5, 7, 16], 24, [1, 3, 3]),
            ([2, 4, 9, 10, 8], 45, [3, 1, 1]),
            ([4, 1, 9, 9, 3], 16, [1, 3, 3]),
            ([2, 2, 5, 5, 23], 8, [1, 1, 1]),
            // More tiles than one block adds up.
            ([2, 8, 46, 46, 8], 8, [1, 1, 1]),
            // Enough for the plan to take larger tiles.
            ([2, 1, 92, 92, 8], 70, [1, 1, 1]),
        ],
    );
}

/// The sums of y of convolutions: shape of x, filters, their extents.
pub fn statistics_of(kernels: Kernels, cases: &[([usize; 5], usize, [usize; 3])]) {
    for &(x, k, kernel) in cases {
        statistics_with(kernels, x, k, kernel, [1; 3]);
    }
}

/// The same with these strides.
pub fn statistics_with(kernels: Kernels, x: [usize; 5], k: usize, kernel: [usize; 3], stride: [usize; 3]) {
    let g = Geometry::new(Window::same(kernel).strided(stride));
    let p = Conv3d::new("conv3d", x.into(), [k, kernel[0], kernel[1], kernel[2], x[4]].into(), &g).unwrap();
    for parts in [1, 2] {
        kernels.run(|device| {
            let r = &mut seeded(5);
            let (x, w) = (reals(r, p.x_shape(), DType::BF16), reals(r, p.w_shape(), DType::BF16));
            let shift = reals(r, [k], DType::F32);
            let [xd, wd, sd] = [&x, &w, &shift].map(|t| t.to(device).unwrap());
            let epilogue = Epilogue::Moments { parts, near: &sd };
            let (y, moments) = fusion::fprop(&xd, &wd, &g, Prologue::None, epilogue).unwrap();
            let moments = moments.unwrap();
            let (_, sums) = moments.shifted().expect("a GPU takes them in one launch, about `near`");
            assert_tensor_cores("y", &y.load().unwrap(), &reference::fprop(&p, &wide(&x), &wide(&w)), DType::BF16);
            let (y, shift) = (wide(&y), wide(&shift));
            let rows = y.len() / k / parts;
            let want = statistics(parts, k, |part, c| {
                let of = |i: usize| y[(part * rows + i) * k + c] - shift[c];
                (0..rows).map(|i| [of(i), of(i) * of(i)]).collect()
            });
            let got = over_tiles(sums, parts);
            assert_bounded("statistics", &got, &want, DType::F32);
            got.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
        });
    }
}

/// Results of ReLU, many of them zero: of negative numbers, of 0 and of -0. A third of them are kept as -0 or as the least
/// positive bf16, which a mask must tell apart.
fn rectified(before: &Tensor) -> Tensor {
    let special = [0.0, -0.0, f32::from_bits(1 << 16)];
    let before: Vec<f32> =
        wide(before).iter().enumerate().map(|(i, v)| if i % 2 == 0 { special[i / 2 % 3] } else { *v as f32 }).collect();
    let after: Vec<f32> = before.iter().map(|v| if v.to_bits() == 1 << 31 { *v } else { v.max(0.0) }).collect();
    let zeros = after.iter().filter(|v| **v == 0.0).count();
    assert!(zeros > after.len() / 3 && zeros < after.len(), "{zeros} of {}", after.len());
    Tensor::from_f32([after.len()], &after).unwrap().cast(DType::BF16).unwrap()
}

/// Inputs, means and shifts of a batch norm, all in bf16, of which every third result is 0: the input is the mean, and the
/// shift of even channels is 0.
fn silenced(x: &Tensor, mean: &Tensor, beta: &Tensor) -> [Tensor; 3] {
    let (c, parts) = (beta.shape().len(), mean.shape().len() / beta.shape().len());
    let round = |t: &Tensor| wide(&t.cast(DType::BF16).unwrap()).iter().map(|v| *v as f32).collect::<Vec<_>>();
    let (mean, mut beta) = (round(mean), round(beta));
    beta.iter_mut().step_by(2).for_each(|b| *b = 0.0);
    let (mut at, each) = (round(x), x.shape().len() / parts);
    at.iter_mut().enumerate().step_by(3).for_each(|(i, v)| *v = mean[i / each * c + i % c]);
    let tensor = |shape, v: &[f32]| Tensor::from_f32(shape, v).unwrap();
    let normed = tensor(x.shape(), &at).cast(DType::BF16).unwrap();
    [normed, tensor([parts * c].into(), &mean), tensor([c].into(), &beta)]
}

#[test]
pub fn a_chain_of_gradients_in_one_launch() {
    chain_of_gradients(Kernels::Portable, false, CHAINS);
}

#[test]
pub fn a_chain_of_gradients_past_results_that_are_zero() {
    chain_of_gradients(Kernels::Portable, true, CHAINS);
}

/// Shape of x, filters, their extents, strides, parts of the batch.
pub type Chain = ([usize; 5], usize, [usize; 3], [usize; 3], usize);

const CHAINS: &[Chain] = &[
    ([2, 3, 5, 7, 16], 24, [1, 3, 3], [1, 1, 1], 1),
    ([2, 3, 6, 7, 72], 13, [1, 3, 3], [1, 2, 2], 2),
    ([1, 4, 5, 5, 8], 16, [1, 1, 1], [2, 2, 2], 1),
    ([4, 2, 9, 5, 8], 8, [3, 1, 1], [1, 1, 1], 2),
    // More tiles than one block adds up.
    ([1, 8, 46, 46, 8], 8, [1, 1, 1], [1, 1, 1], 1),
    // Enough for the plan to take the larger tiles: 128x64, 128x128, 256x128.
    ([1, 1, 65, 65, 72], 8, [1, 1, 1], [1, 1, 1], 1),
    ([1, 1, 92, 92, 72], 8, [1, 1, 1], [1, 1, 1], 1),
    ([1, 1, 130, 130, 72], 8, [1, 1, 1], [1, 1, 1], 1),
];

pub fn chain_of_gradients(kernels: Kernels, zeros: bool, chains: &[Chain]) {
    for &(x, k, kernel, stride, parts) in chains {
        let (c, g) = (x[4], Geometry::new(Window::same(kernel).strided(stride)));
        let p = Conv3d::new("conv3d", x.into(), [k, kernel[0], kernel[1], kernel[2], c].into(), &g).unwrap();
        kernels.run(|device| {
            let r = &mut seeded(6);
            let [before, normed, add] = [0; 3].map(|_| reals(r, p.x_shape(), DType::BF16));
            let relu = if zeros { rectified(&before).reshape(p.x_shape()).unwrap() } else { before };
            let (w, dy) = (reals(r, p.w_shape(), DType::BF16), reals(r, p.y_shape(), DType::BF16));
            let [mean, inv_std] = [0; 2].map(|_| reals(r, [parts * c], DType::F32));
            let [gamma, beta] = [0; 2].map(|_| reals(r, [c], DType::F32));
            let [normed, mean, beta] = if zeros { silenced(&normed, &mean, &beta) } else { [normed, mean, beta] };
            let [rd, nd, ad, wd, yd] = [&relu, &normed, &add, &w, &dy].map(|t| t.to(device).unwrap());
            let [md, id, gd, bd] = [&mean, &inv_std, &gamma, &beta].map(|t| t.to(device).unwrap());
            let norm = Norm::new(&md, &id, &gd, &bd).unwrap();
            let rows = p.x_shape().len() / c / parts;
            let mut bits = Vec::new();
            for (mask, add) in [(Some(&rd), None), (Some(&rd), Some(&ad)), (None, None), (None, Some(&ad))] {
                let relu = mask.map_or(ReluMask::FromInput, ReluMask::FromResult);
                // Signs that were kept, or those of the result.
                let signs = mask.filter(|_| add.is_some()).map(|y| Signs::of(y).unwrap());
                let epilogue = GradEpilogue::NormRelu { x: &nd, norm: &norm, relu, signs: signs.as_ref(), add };
                let incoming = fusion::dgrad(&yd, &wd, p.x_shape(), &g, epilogue).unwrap();
                let Incoming::PastRelu { dz, sums } = incoming else { panic!("a GPU has this launch") };
                // The bits of separate passes: dgrad, which other tests compare with its definition, an addition, a mask.
                let separate = add.map_or(GradEpilogue::None, GradEpilogue::Add);
                let Incoming::Result(dx) = fusion::dgrad(&yd, &wd, p.x_shape(), &g, separate).unwrap() else {
                    panic!("nothing here masks")
                };
                let on = mask.cloned().unwrap_or_else(|| norm.apply(&nd, None, true).unwrap());
                let mask = |(dx, y): (&f64, &f64)| if *y > 0.0 { *dx } else { 0.0 };
                let (got, want): (Vec<f64>, Vec<f64>) =
                    (wide(&dz), wide(&dx).iter().zip(&wide(&on)).map(mask).collect());
                assert_eq!(
                    got,
                    want,
                    "{x:?}, mask given: {}, add: {}",
                    matches!(relu, ReluMask::FromResult(_)),
                    add.is_some()
                );
                let (dz, normed, mean, inv_std) = (wide(&dz), wide(&normed), wide(&mean), wide(&inv_std));
                let want = statistics(parts, c, |part, c0| {
                    let xhat = |i: usize| (normed[i] - mean[part * c + c0]) * inv_std[part * c + c0];
                    (0..rows).map(|r| (part * rows + r) * c + c0).map(|i| [dz[i], dz[i] * xhat(i)]).collect()
                });
                let got = over_tiles(&sums, parts);
                assert_bounded("sums", &got, &want, DType::F32);
                bits.extend(got.iter().map(|v| v.to_bits()));
            }
            bits
        });
    }
}

/// What a launch of one tile may cost, in the simulator: no bank conflicts, and sectors and instructions as committed
/// here. Whoever makes a kernel leaner lowers its numbers.
struct Cost(&'static str, Operator, usize, &'static str, Limits);

struct Limits {
    /// Warp instructions of PTX for each of the tensor cores'.
    instructions: f64,
    /// Sectors moved against the fewest that hold each request's bytes.
    sectors: f64,
}

/// Hot layers cut small: the same channels and taps, fewer pixels.
fn hot(layer: &str) -> Conv3d {
    let (x, k, kernel, stride) = match layer {
        "r3d-64" => ([1, 3, 14, 14, 64], 64, [3, 3, 3], [1, 1, 1]),
        "r21d-1t" => ([1, 4, 12, 12, 144], 64, [3, 1, 1], [1, 1, 1]),
        "slow-2c" => ([1, 2, 16, 16, 64], 256, [1, 1, 1], [1, 1, 1]),
        "slow-3b-down" => ([1, 2, 16, 16, 128], 128, [1, 3, 3], [1, 2, 2]),
        "slow-stem" => ([1, 2, 32, 32, 3], 64, [1, 7, 7], [1, 2, 2]),
        _ => unreachable!("a layer of this table"),
    };
    let g = Geometry::new(Window::same(kernel).strided(stride));
    Conv3d::new("conv3d", x.into(), [k, kernel[0], kernel[1], kernel[2], x[4]].into(), &g).unwrap()
}

const fn at_most(instructions: f64, sectors: f64) -> Limits {
    Limits { instructions, sectors }
}

/// Layer, pass, tile, its kernel, its limits. A stem's windows begin at any eight bytes, so that they meet one sector more.
const COSTS: &[Cost] = &[
    Cost("r3d-64", Operator::Fprop, 2, "conv3d_fprop_128x64_bf16", at_most(6.25, 1.001)),
    Cost("r3d-64", Operator::Dgrad, 3, "conv3d_dgrad_64x64_bf16", at_most(10.98, 1.001)),
    Cost("r3d-64", Operator::Dgrad, 2, "conv3d_dgrad_128x64_bf16", at_most(6.92, 1.001)),
    Cost("r3d-64", Operator::Wgrad, 1, "conv3d_wgrad_64x256_bf16", at_most(13.0, 1.001)),
    Cost("r3d-64", Operator::Wgrad, 3, "conv3d_wgrad_64x64_bf16", at_most(12.72, 1.001)),
    Cost("r21d-1t", Operator::Fprop, 3, "conv3d_fprop_64x64_bf16", at_most(11.08, 1.001)),
    Cost("r21d-1t", Operator::Wgrad, 3, "conv3d_wgrad_64x64_bf16", at_most(12.96, 1.001)),
    Cost("slow-2c", Operator::Fprop, 0, "conv3d_fprop_256x128_bf16", at_most(11.52, 1.001)),
    Cost("slow-2c", Operator::Fprop, 1, "conv3d_fprop_128x128_bf16", at_most(11.81, 1.001)),
    Cost("slow-3b-down", Operator::Fprop, 0, "conv3d_fprop_256x128_bf16", at_most(3.99, 1.001)),
    Cost("slow-3b-down", Operator::Fprop, 1, "conv3d_fprop_128x128_bf16", at_most(4.33, 1.001)),
    Cost("slow-3b-down", Operator::Dgrad, 0, "conv3d_dgrad_256x128_bf16", at_most(6.06, 1.001)),
    Cost("slow-3b-down", Operator::Dgrad, 1, "conv3d_dgrad_128x128_bf16", at_most(6.87, 1.001)),
    Cost("slow-3b-down", Operator::Wgrad, 0, "conv3d_wgrad_128x256_bf16", at_most(7.35, 1.001)),
    Cost("slow-3b-down", Operator::Wgrad, 2, "conv3d_wgrad_128x128_bf16", at_most(7.83, 1.001)),
    Cost("slow-stem", Operator::Fprop, 0, "conv3d_fprop_stem_bf16", at_most(17.35, 1.27)),
    Cost("slow-stem", Operator::Wgrad, 0, "conv3d_wgrad_stem_bf16", at_most(14.28, 1.15)),
];

#[test]
fn hot_layers_cost_what_is_committed() {
    let mut above = Vec::new();
    for Cost(layer, pass, tile, entry, limits) in COSTS {
        let p = hot(layer);
        let sim = Sim::new(Order::Forward);
        let device = sim.device();
        let r = &mut seeded(13);
        let [a, b] = match pass {
            Operator::Fprop => [p.x_shape(), p.w_shape()],
            Operator::Dgrad => [p.y_shape(), p.w_shape()],
            Operator::Wgrad => [p.x_shape(), p.y_shape()],
        };
        let [a, b] = [a, b].map(|s| reals(r, s, DType::BF16).to(&device).unwrap());
        on_tile(&p, *pass, *tile, [&a, &b]).unwrap().expect("a tile of the table");
        let all = sim.machine.totals();
        let n = all.get(*entry).unwrap_or_else(|| panic!("{layer}: {entry} was not launched"));
        let sectors = (n.global_sectors_loaded + n.global_sectors_stored) as f64 / n.ideal_sectors as f64;
        let instructions = n.warp_instructions as f64 / n.tensor_instructions as f64;
        println!("{layer:13} {entry:28} {instructions:6.2} instructions a product, {sectors:.3} of the sectors");
        let over = n.bank_conflict_cycles > 0 || sectors > limits.sectors || instructions > limits.instructions;
        if over {
            let conflicts = n.bank_conflict_cycles;
            above.push(format!(
                "{layer} {entry}: {instructions:.2} instructions a product, {sectors:.3} of the fewest sectors, \
                 {conflicts} cycles of bank conflicts"
            ));
        }
    }
    assert!(above.is_empty(), "{}", above.join("\n"));
}
