//! dgrad on the simulator's Hopper that forms the gradient of a batch norm as it loads it: the bits of two passes.

use super::conv3d_norm_sm90::{half, norm, problem};
use super::conv3d_sm90::took_part;
use crate::support::numbers::{bits, noise};
use crate::support::sim::{Sim, on_hopper};
use proptest::prelude::*;
use ptxsim::{Order, Sums};
use tubelet::ops::batch_norm::{Signs, Stats};
use tubelet::ops::conv3d::fusion::Epilogue;
use tubelet::ops::conv3d::{Conv3d, Geometry, formed_apart, on_tile_between};
use tubelet::ops::{Activation, add, conv_norm};
use tubelet::shape::Window;
use tubelet::tape::{Mode, Tape, Var};
use tubelet::tensor::Tensor;

const TILES: usize = 5;

/// Each tile that forms the gradient of a norm of `parts` parts, against a pass that forms it and the same tile: by itself, or
/// with the epilogue for a norm of `to` parts before the convolution, with ReLU's mask of its input, and with a given mask and
/// another branch. Returns how many tiles there were.
fn check(p: &Conv3d, parts: usize, to: Option<usize>) -> usize {
    let k = p.y_shape().last();
    let tiles = on_hopper(|device| {
        let there = |t: Tensor| t.to(device).unwrap();
        let [dz, w, x] = [half(21, p.y_shape()), half(22, p.w_shape()), half(23, p.y_shape())].map(there);
        let (behind, slopes) = (norm(parts, k, device), there(noise(24, &[parts, 2, k])));
        let of = (&x, &behind, &slopes);
        let apart = formed_apart(&dz, of).unwrap();
        let [normed, other, y] = [25, 26, 27].map(|seed| there(half(seed, p.x_shape())));
        let (before, signs) = (to.map(|parts| norm(parts, p.c(), device)), to.map(|_| Signs::of(&y).unwrap()));
        let epilogues = match &before {
            None => vec![None],
            Some(to) => vec![Some((&normed, None, None, to)), Some((&normed, signs.as_ref(), Some(&other), to))],
        };
        let one = |tile: usize| {
            let mut all = Vec::new();
            for epilogue in &epilogues {
                let (dx, sums, formed) = on_tile_between(p, tile, [&dz, &w], Some(of), *epilogue).unwrap()?;
                let (plain, plain_sums, _) =
                    on_tile_between(p, tile, [&apart, &w], None, *epilogue).unwrap().expect("a tile that forms is one");
                let what = format!("tile {tile} of {} in {parts} parts, {to:?}", p.x_shape());
                assert!(bits(&formed.unwrap()) == bits(&apart), "{what}: the gradient that is left");
                assert!(bits(&dx) == bits(&plain), "{what}: other bits than in two passes");
                let [sums, plain_sums] = [sums, plain_sums].map(|sums| sums.map(|sums| bits(&sums)));
                assert!(sums == plain_sums && sums.is_some() == to.is_some(), "{what}: other sums than in two passes");
                all.push((bits(&dx), sums));
            }
            Some(all)
        };
        (0..16).filter_map(one).collect::<Vec<_>>()
    });
    tiles.len()
}

#[test]
pub fn every_tile_forms_as_a_pass_before_it() {
    // Pixels that fill no tile, filters that fill no k-block, channels that fill no tile; parts that end within a tile.
    assert_eq!(check(&problem([2, 3, 7, 6, 40], 72), 1, None), TILES);
    assert_eq!(check(&problem([2, 3, 7, 6, 40], 72), 2, None), TILES);
    // Several k-blocks, more than a ring has stages; several tiles of columns, of which the first leaves the gradient.
    assert_eq!(check(&problem([4, 2, 8, 8, 264], 264), 4, None), TILES);
    assert_eq!(check(&problem([4, 2, 8, 8, 264], 264), 1, None), TILES);
}

/// With the sums for the batch norm before, over parts of an odd number of tiles, so that a pair has one without rows.
#[test]
pub fn every_tile_forms_before_its_epilogue() {
    for (parts, to) in [(1, 1), (2, 2), (1, 2)] {
        assert_eq!(check(&problem([2, 1, 9, 7, 136], 72), parts, Some(to)), TILES);
        assert_eq!(check(&problem([2, 3, 8, 6, 72], 136), parts, Some(to)), TILES);
    }
    // A tile is of one part of the samples: of the norm before, not of each norm.
    assert_eq!(check(&problem([2, 1, 9, 7, 136], 72), 2, Some(1)), 0);
}

/// A smaller one, for mistakes that are made on purpose.
#[test]
pub fn every_tile_forms_a_small_problem() {
    assert_eq!(check(&problem([2, 1, 8, 7, 264], 328), 2, Some(2)), TILES);
}

/// More tiles than the grid has blocks, of several parts: a block meets the numbers of another part.
#[test]
fn blocks_form_by_several_parts() {
    assert_eq!(check(&problem([4, 1, 72, 72, 8], 8), 4, Some(4)), TILES);
}

/// Whether there is such a kernel is a question of the convolution alone.
#[test]
fn gradients_of_other_convolutions_are_formed_in_a_pass_of_their_own() {
    let tiles = |x: [usize; 5], k: usize, window: Window, kernel: [usize; 3]| {
        let w = [k, kernel[0], kernel[1], kernel[2], x[4]];
        let p = Conv3d::new("conv3d", x.into(), w.into(), &Geometry::new(window)).unwrap();
        let sim = Sim::hopper(Order::Forward, Sums::Nearest);
        let there = |t: Tensor| t.to(&sim.device()).unwrap();
        let [dz, w, x] = [p.y_shape(), p.w_shape(), p.y_shape()].map(|s| there(half(1, s)));
        let (norm, slopes) = (norm(1, k, &sim.device()), there(noise(2, &[1, 2, k])));
        let of = Some((&x, &norm, &slopes));
        (0..16).filter(|tile| on_tile_between(&p, *tile, [&dz, &w], of, None).unwrap().is_some()).count()
    };
    let (x, unit) = ([1, 1, 8, 8, 16], Window::UNIT);
    assert_eq!(tiles(x, 8, unit, [1; 3]), TILES);
    assert_eq!(tiles(x, 8, Window::same([1, 3, 3]), [1, 3, 3]), 0);
    assert_eq!(tiles(x, 8, unit.strided([1, 2, 1]), [1; 3]), 0);
    assert_eq!(tiles(x, 8, Window { pad: [0, 0, 1], ..unit }, [1; 3]), 0);
    assert_eq!(tiles(x, 12, unit, [1; 3]), 0);
    assert_eq!(tiles([1, 1, 8, 8, 12], 8, unit, [1; 3]), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4))]

    #[test]
    fn any_rows(
        n in 1usize..=3, t in 1usize..=3, h in 1usize..=9, w in 1usize..=9, c in 1usize..=20, k in 1usize..=20,
        split in prop::bool::ANY, epilogue in prop::bool::ANY,
    ) {
        let parts = if split { n } else { 1 };
        prop_assert_eq!(check(&problem([n, t, h, w, 8 * c], 8 * k), parts, epilogue.then_some(n)), TILES);
    }
}

/// What reads the result of the first convolution of [`chain`], and what has a gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Chain {
    /// One batch norm.
    Plain,
    /// A batch norm that adds another tensor.
    Residual,
    /// A batch norm, and an addition.
    TwoReaders,
    /// A batch norm, and the caller.
    Requested,
    /// A batch norm; the input of the first convolution has no gradient.
    Constant,
}

/// `norm -> ReLU -> convolution -> norm -> ReLU -> convolution`: gradients of everything, and how often a pass has formed one.
fn chain(mode: Mode, parts: usize, kind: Chain) -> (Vec<Vec<u32>>, u64) {
    let sim = Sim::hopper(Order::Forward, Sums::Nearest);
    let there = |t: Tensor| t.to(&sim.device()).unwrap();
    let t = Tape::new();
    let x = t.leaf(there(half(1, [4, 2, 32, 64, 64])));
    let vectors = [(2, 64), (3, 64), (4, 256), (5, 256)];
    let [g0, b0, g1, b1] = vectors.map(|(seed, len)| t.leaf(there(noise(seed, &[len]))));
    let w0 = t.leaf(there(half(6, [256, 1, 1, 1, 64])));
    let w1 = t.leaf(there(half(7, [64, 1, 1, 1, 256])));
    let r = t.leaf(there(half(8, [4, 2, 32, 64, 256])));
    let g = Geometry::new(Window::UNIT);
    let stats = Stats::Batch { parts };
    let first = match kind {
        Chain::Constant => Activation::from(&Var::constant(x.value().clone())),
        _ => Activation::batch_norm(&t, &x, &g0, &b0, stats, 1e-5, None, true).unwrap().0,
    };
    let (y, _) = conv_norm(&t, &first, &w0, &g, Epilogue::None).unwrap();
    let residual = (kind == Chain::Residual).then_some(&r);
    let (mut z, _) = Activation::batch_norm(&t, &y, &g1, &b1, stats, 1e-5, residual, true).unwrap();
    if kind == Chain::TwoReaders {
        z = Activation::from(&add(&t, &z.value(&t).unwrap(), &y).unwrap());
    }
    let (last, _) = conv_norm(&t, &z, &w1, &g, Epilogue::None).unwrap();
    let dy = Var::constant(there(half(9, last.shape())));
    let mut of = vec![&g1, &b1, &w0, &w1];
    if kind != Chain::Constant {
        of.extend([&x, &g0, &b0]);
    }
    if kind == Chain::Requested {
        of.push(&y);
    }
    let grads = t.grad_from(&last, dy, &of, mode).unwrap();
    let all = grads.into_iter().map(|g| bits(g.unwrap().value())).collect();
    let totals = sim.machine.totals();
    (all, totals.get("batch_norm_backward_apply_wide_bf16").map_or(0, |c| c.launches))
}

#[test]
fn a_chain_has_the_same_gradients_with_one_pass_less() {
    use Chain::*;
    // How often a pass has formed a gradient of bf16 whose mask was applied. That of the input has nobody to form it.
    for (kind, parts, passes) in [
        (Plain, 2, [2, 1]),
        (Residual, 2, [2, 1]),
        // The gradient has another share, or leaves the tape.
        (TwoReaders, 1, [1, 1]),
        (Requested, 1, [2, 2]),
        // There is no dgrad, and the convolution forms it for wgrad alone.
        (Constant, 1, [1, 1]),
    ] {
        // Where the recording may be used again, nothing is handed on.
        let [apart, handed] = [Mode::Peek, Mode::Free].map(|mode| chain(mode, parts, kind));
        assert!(apart.0 == handed.0, "{kind:?} in {parts} parts: other bits");
        assert_eq!([apart.1, handed.1], passes, "{kind:?} in {parts} parts");
    }
    took_part(&["conv3d_dgrad_affine_sm90_"]);
}
