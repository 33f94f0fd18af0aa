//! dgrad on the simulator's Hopper that forms the gradient of a batch norm as it loads it: the bits of two passes.

use super::conv3d_norm_sm90::{half, norm, problem};
use super::conv3d_sm90::took_part;
use crate::support::numbers::{bits, noise};
use crate::support::sim::{Sim, on_hopper};
use ptxsim::{Order, Sums};
use tubelet::ops::batch_norm::Stats;
use tubelet::ops::conv3d::fusion::Epilogue;
use tubelet::ops::conv3d::{Conv3d, Geometry, Operator, on_tile, on_tile_forming};
use tubelet::ops::{Activation, conv_norm};
use tubelet::shape::Window;
use tubelet::tape::{Mode, Tape, Var};
use tubelet::tensor::Tensor;

const TILES: usize = 5;

/// Each tile that forms its gradient against a pass that forms it and the same tile; returns how many there were.
fn check(p: &Conv3d, parts: usize) -> usize {
    let k = p.y_shape().last();
    on_hopper(|device| {
        let norm = norm(parts, k, device);
        let [dz, w, x] = [half(21, p.y_shape()), half(22, p.w_shape()), half(23, p.y_shape())];
        let [dz, w, x, slopes] = [dz, w, x, noise(24, &[parts, 2, k])].map(|t| t.to(device).unwrap());
        let one = |tile: usize| {
            let [dx, formed, apart] = on_tile_forming(p, tile, [&dz, &w, &x], &norm, &slopes).unwrap()?;
            assert!(bits(&formed) == bits(&apart), "tile {tile} of {}: the gradient that is left", p.x_shape());
            let plain = on_tile(p, Operator::Dgrad, tile, [&apart, &w]).unwrap().expect("a tile that forms is one");
            assert!(bits(&dx) == bits(&plain), "tile {tile} of {}: other bits than in two passes", p.x_shape());
            Some(bits(&dx))
        };
        (0..16).filter_map(one).collect::<Vec<_>>()
    })
    .len()
}

#[test]
pub fn every_tile_forms_as_a_pass_before_it() {
    assert_eq!(check(&problem([2, 3, 7, 6, 40], 72), 1), TILES);
    assert_eq!(check(&problem([2, 3, 7, 6, 40], 72), 2), TILES);
    assert_eq!(check(&problem([4, 2, 8, 8, 264], 264), 4), TILES);
    assert_eq!(check(&problem([4, 2, 8, 8, 264], 264), 1), TILES);
}

/// `norm -> ReLU -> convolution -> norm -> ReLU -> convolution`: gradients of everything, and how often a pass has formed one.
fn chain(hand: bool, parts: usize, residual: bool) -> (Vec<Vec<u32>>, u64) {
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
    let (z, _) = Activation::batch_norm(&t, &x, &g0, &b0, stats, 1e-5, None, true).unwrap();
    let (y, _) = conv_norm(&t, &z, &w0, &g, Epilogue::None).unwrap();
    let (z, _) = Activation::batch_norm(&t, &y, &g1, &b1, stats, 1e-5, residual.then_some(&r), true).unwrap();
    let (last, _) = conv_norm(&t, &z, &w1, &g, Epilogue::None).unwrap();
    let dy = Var::constant(there(half(9, last.shape())));
    let of = [&x, &g0, &b0, &g1, &b1, &w0, &w1];
    let grads = t.grad_from(&last, dy, &of, if hand { Mode::Free } else { Mode::Peek }).unwrap();
    let all = grads.into_iter().map(|g| bits(g.unwrap().value())).collect();
    let totals = sim.machine.totals();
    (all, totals.get("batch_norm_backward_apply_wide_bf16").map_or(0, |c| c.launches))
}

#[test]
fn a_chain_has_the_same_gradients_with_one_pass_less() {
    for (parts, residual) in [(1, false), (2, false), (1, true), (2, true)] {
        let [apart, handed] = [false, true].map(|hand| chain(hand, parts, residual));
        assert!(apart.0 == handed.0, "{parts} parts, residual {residual}: other bits");
        // That of the input has nobody to form it.
        assert_eq!([apart.1, handed.1], [2, 1], "{parts} parts, residual {residual}");
    }
    took_part(&["conv3d_dgrad_affine_sm90_"]);
}
