//! Convolutions on the simulator's Hopper that normalise what they read: the bits of the separate passes, and what the
//! definition makes of the normalised tensor.

use super::conv3d_sm90::took_part;
use crate::support::close::assert_tensor_cores;
use crate::support::numbers::{bits, data, drawn, noise, real, seeded, wide};
use crate::support::sim::{Sim, on_hopper};
use proptest::prelude::*;
use ptxsim::{Order, Sums};
use tubelet::ops::batch_norm::{Norm, Stats};
use tubelet::ops::conv3d::fusion::{self, Epilogue, Prologue};
use tubelet::ops::conv3d::{Conv3d, Geometry, Operator, on_tile, on_tile_normed, reference};
use tubelet::ops::reference::Bounded;
use tubelet::ops::{Activation, conv_norm};
use tubelet::shape::{Shape, Window};
use tubelet::tape::{Mode, Tape, Var};
use tubelet::tensor::{DType, Device, Tensor};

/// Tiles of the portable kernels, which come first, and those with TMA and wgmma behind them.
const PORTABLE: usize = 4;
const TILES: usize = 5;

/// The convolution of one tap of `x` with `k` filters.
pub fn problem(x: [usize; 5], k: usize) -> Conv3d {
    Conv3d::new("conv3d", x.into(), [k, 1, 1, 1, x[4]].into(), &Geometry::new(Window::UNIT)).unwrap()
}

pub fn half(seed: u64, shape: impl Into<Shape>) -> Tensor {
    drawn(&mut seeded(seed), shape, real).cast(DType::BF16).unwrap()
}

/// A norm of `parts` parts of the samples on `device`. Shifts are well above 0, so that what a kernel makes of the zeros
/// behind the last pixel is not 0.
pub fn norm(parts: usize, c: usize, device: &Device) -> Norm {
    let lifted = |seed, len: usize| {
        let v: Vec<f32> = data(&noise(seed, &[len])).iter().map(|v| v.abs() + 0.3).collect();
        Tensor::from_f32([len], &v).unwrap()
    };
    let arrays = [noise(1, &[parts * c]), lifted(2, parts * c), noise(3, &[c]), lifted(4, c)];
    let [mean, inv_std, gamma, beta] = arrays.map(|t| t.to(device).unwrap());
    Norm::new(&mean, &inv_std, &gamma, &beta).unwrap()
}

/// Each tile of fprop and wgrad that normalises, against the same tile on the normalised tensor, to the bit, and against
/// the definition. Returns how many there were.
fn check(p: &Conv3d, parts: usize) -> [usize; 2] {
    let (x, w, dy) = (half(11, p.x_shape()), half(12, p.w_shape()), half(13, p.y_shape()));
    let (ws, dys) = (wide(&w), wide(&dy));
    [(Operator::Fprop, &w), (Operator::Wgrad, &dy)].map(|(pass, other)| {
        let mut definition: Option<(Vec<u32>, Bounded<f64>)> = None;
        let tiles = on_hopper(|device| {
            let norm = norm(parts, p.c(), device);
            let [x, other] = [&x, other].map(|t| t.to(device).unwrap());
            let apart = norm.apply(&x, None, true).unwrap();
            let (of, want) = definition.get_or_insert_with(|| {
                let normed = wide(&apart);
                // What the device made of it is the definition's input, so it has to be something: zeros and others.
                let zeros = normed.iter().filter(|v| **v == 0.0).count();
                assert!(zeros > 0 && zeros < normed.len(), "{zeros} zeros of {}", normed.len());
                let product = match pass {
                    Operator::Fprop => reference::fprop(p, &normed, &ws),
                    _ => reference::wgrad(p, &normed, &dys),
                };
                (bits(&apart), product)
            });
            assert!(*of == bits(&apart), "a pass alone has the same bits everywhere");
            let one = |tile: usize| {
                let got = on_tile_normed(p, pass, tile, [&x, &other], &norm).unwrap()?;
                let plain = on_tile(p, pass, tile, [&apart, &other]).unwrap().expect("a tile that normalises is one");
                let what = format!("{pass:?} of {} in {parts} parts, tile {tile}", p.x_shape());
                assert_tensor_cores(&what, &data(&got), want, got.dtype());
                assert!(bits(&got) == bits(&plain), "{what}: other bits than in two passes");
                Some(bits(&got))
            };
            (0..PORTABLE + TILES + 8).filter_map(one).collect::<Vec<_>>()
        });
        tiles.len()
    })
}

#[test]
pub fn every_tile_normalises_as_a_pass_before_it() {
    // Pixels that fill no tile and no k-block, channels that fill no k-block; parts that end within a tile.
    assert_eq!(check(&problem([2, 3, 7, 6, 72], 40), 1), [TILES; 2]);
    // Parts that wgrad cannot tell apart within a k-block are left to a pass of their own.
    assert_eq!(check(&problem([2, 3, 7, 6, 72], 40), 2), [TILES, 0]);
    // Parts that begin in the middle of a split; several k-blocks of channels, several tiles of columns in both passes.
    assert_eq!(check(&problem([4, 2, 8, 8, 264], 264), 4), [TILES; 2]);
    // Filters that are no multiple of eight, whose gradient is copied.
    assert_eq!(check(&problem([2, 1, 8, 16, 64], 67), 2), [TILES; 2]);
}

/// A smaller one, for mistakes that are made on purpose.
#[test]
pub fn every_tile_normalises_a_small_problem() {
    assert_eq!(check(&problem([2, 1, 8, 8, 392], 72), 2), [TILES; 2]);
}

/// More tiles than the grid has blocks, of several parts: a block meets the numbers of another part.
#[test]
pub fn blocks_normalise_by_several_parts() {
    assert_eq!(check(&problem([4, 1, 72, 72, 8], 8), 4), [TILES; 2]);
}

/// Whether there is such a kernel is a question of the convolution alone.
#[test]
fn other_convolutions_normalise_in_a_pass_of_their_own() {
    let tiles = |x: [usize; 5], k: usize, window: Window, kernel: [usize; 3]| {
        let w = [k, kernel[0], kernel[1], kernel[2], x[4]];
        let p = Conv3d::new("conv3d", x.into(), w.into(), &Geometry::new(window)).unwrap();
        let sim = Sim::hopper(Order::Forward, Sums::Nearest);
        let norm = norm(1, p.c(), &sim.device());
        let [x, w, dy] = [p.x_shape(), p.w_shape(), p.y_shape()].map(|s| half(1, s).to(&sim.device()).unwrap());
        [(Operator::Fprop, [&x, &w]), (Operator::Dgrad, [&dy, &w]), (Operator::Wgrad, [&x, &dy])].map(
            |(pass, inputs)| {
                (0..16).filter(|tile| on_tile_normed(&p, pass, *tile, inputs, &norm).unwrap().is_some()).count()
            },
        )
    };
    let (x, unit) = ([1, 1, 8, 8, 16], Window::UNIT);
    assert_eq!(tiles(x, 8, unit, [1; 3]), [TILES, 0, TILES]);
    assert_eq!(tiles(x, 8, Window::same([1, 3, 3]), [1, 3, 3]), [0; 3]);
    assert_eq!(tiles(x, 8, unit.strided([1, 2, 1]), [1; 3]), [0; 3]);
    assert_eq!(tiles(x, 8, Window { pad: [0, 0, 1], ..unit }, [1; 3]), [0; 3]);
    assert_eq!(tiles([1, 1, 8, 8, 12], 8, unit, [1; 3]), [0; 3]);
    // The numbers of more channels do not fit beside the stages of fprop.
    assert_eq!(tiles([1, 1, 8, 8, 1024], 8, unit, [1; 3]), [TILES, 0, TILES]);
    assert_eq!(tiles([1, 1, 8, 8, 1032], 8, unit, [1; 3]), [0, 0, TILES]);
}

/// The tiles that the plan chooses, with the sums for the next batch norm, which are those of the separate passes too.
#[test]
pub fn moments_leave_with_the_result_of_what_was_normalised() {
    for (x, k) in
        [([2, 1, 92, 92, 64], 64), ([2, 1, 40, 40, 64], 264), ([2, 1, 67, 65, 64], 256), ([4, 2, 24, 24, 136], 128)]
    {
        let p = problem(x, k);
        for (of_norm, parts) in [(1, 1), (1, 2), (2, 2), (2, 1)] {
            on_hopper(|device| {
                let norm = norm(of_norm, p.c(), device);
                let [x, w, near] = [half(5, x), half(6, p.w_shape()), noise(7, &[k])].map(|t| t.to(device).unwrap());
                let epilogue = Epilogue::Moments { parts, near: &near };
                let (y, moments) = fusion::fprop(&x, &w, p.geometry(), Prologue::NormRelu(&norm), epilogue).unwrap();
                let apart = norm.apply(&x, None, true).unwrap();
                let (want, sums) = fusion::fprop(&apart, &w, p.geometry(), Prologue::None, epilogue).unwrap();
                let [moments, sums] = [moments, sums].map(Option::unwrap);
                let [got_sums, want_sums] = [&moments, &sums].map(|m| bits(m.shifted().unwrap().1));
                assert!(bits(&y) == bits(&want) && got_sums == want_sums, "{} to {k}, {of_norm}, {parts}", p.x_shape());
                (bits(&y), got_sums)
            });
        }
    }
    took_part(&["conv3d_fprop_norm_sm90_", "conv3d_fprop_norm_sm90_128x256_pair"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4))]

    #[test]
    fn any_rows(
        n in 1usize..=3, t in 1usize..=3, h in 1usize..=9, w in 1usize..=9, c in 1usize..=20, k in 1usize..=140,
        split in prop::bool::ANY,
    ) {
        let [fprop, _] = check(&problem([n, t, h, w, 8 * c], k), if split { n } else { 1 });
        prop_assert_eq!(fprop, TILES);
    }
}

/// Pixels of a line with which the plan takes kernels with TMA and wgmma in wgrad too.
const SIDE: usize = 128;

/// A batch norm with ReLU between two convolutions on the tape of a Hopper, stored or not: the result, and the gradients of
/// everything. Returns also how often a pass has applied a norm.
fn recorded(store: bool, side: usize, kernel: [usize; 3], parts: usize, mode: Mode) -> (Vec<Vec<u32>>, u64) {
    let sim = Sim::hopper(Order::Forward, Sums::Nearest);
    let there = |t: Tensor| t.to(&sim.device()).unwrap();
    let t = Tape::new();
    let (c, k) = (64, 256);
    let x = t.leaf(there(half(1, [4, 2, 32, side, c])));
    let [gamma, beta] = [2, 3].map(|seed| t.leaf(there(noise(seed, &[c]))));
    let w = t.leaf(there(half(4, [k, kernel[0], kernel[1], kernel[2], c])));
    let g = Geometry::new(Window::same(kernel));
    let (z, _) = Activation::batch_norm(&t, &x, &gamma, &beta, Stats::Batch { parts }, 1e-5, None, true).unwrap();
    let z = if store { z.stored(&t).unwrap() } else { z };
    let near = there(Tensor::zeros([k]));
    let (y, moments) = conv_norm(&t, &z, &w, &g, Epilogue::Moments { parts, near: &near }).unwrap();
    let dy = Var::constant(there(half(6, y.shape())));
    let of = [&x, &gamma, &beta, &w];
    let grads = t.grad_from(&y, dy, &of, mode).unwrap();
    let sums = moments.unwrap();
    let mut all = vec![bits(y.value()), bits(sums.shifted().unwrap().1)];
    all.extend(grads.into_iter().map(|g| bits(g.unwrap().value())));
    let totals = sim.machine.totals();
    (all, totals.get("batch_norm_apply_wide_bf16").map_or(0, |c| c.launches))
}

/// The backward pass of `batch norm -> ReLU -> convolution` has the bits that it has with the normalised tensor stored, and a
/// convolution of one tap takes no pass to normalise.
#[test]
fn a_norm_that_is_left_to_the_next_convolution_has_the_same_gradients() {
    const ONE: [usize; 3] = [1; 3];
    for (side, kernel, parts, mode, passes) in [
        // fprop normalises on load, and wgrad of so many pixels too.
        (SIDE, ONE, 1, Mode::Free, [0, 1]),
        (SIDE, ONE, 4, Mode::Free, [0, 1]),
        // wgrad of fewer pixels is not by TMA, and has a pass before it.
        (32, ONE, 2, Mode::Free, [1, 1]),
        // Gradients that can be differentiated again are composed of recorded passes, from the normalised tensor. They also
        // make ReLU's mask of it.
        (32, ONE, 2, Mode::Keep, [2, 2]),
        // A convolution that does not normalise has the tensor stored for it.
        (32, [1, 3, 3], 2, Mode::Free, [1, 1]),
    ] {
        let both = [false, true].map(|store| recorded(store, side, kernel, parts, mode));
        let what = format!("{kernel:?} in {parts} parts, {mode:?}");
        assert!(both[0].0 == both[1].0, "{what}: other bits than with the normalised tensor");
        assert_eq!([both[0].1, both[1].1], passes, "{what}");
    }
}
