//! Launches that a network does not need, because another one does their work.

use crate::support::numbers::{bits, noise};
use crate::support::sim::Sim;
use ptxsim::Order;
use tubelet::nn::{Encoder, Mode, Pass, SmallR3d};
use tubelet::ops::conv3d::{self, Geometry, fusion::Epilogue};
use tubelet::ops::{self, conv_norm};
use tubelet::shape::{Shape, Window};
use tubelet::tape::{self, Tape, Var};
use tubelet::tensor::{DType, Tensor};

/// How often a kernel whose name begins so was launched.
fn launched(sim: &Sim, kernel: &str) -> u64 {
    sim.machine.totals().iter().filter(|(name, _)| name.starts_with(kernel)).map(|(_, c)| c.launches).sum()
}

/// Forward and backward pass of a small network: running statistics, the rounding of weights and the padding of clips.
#[test]
fn a_pass_launches_nothing_for_statistics_weights_and_padding_one_by_one() {
    let sim = Sim::new(Order::Forward);
    let (encoder, params) = Encoder::new(&SmallR3d::default().net().unwrap(), 16, 8, 7).unwrap();
    let mut params = params.to(&sim.device()).unwrap();
    let before: Vec<Vec<u32>> = params.iter().map(|(_, p)| bits(&p.value)).collect();
    let clips = Var::constant(noise(1, &[2, 4, 16, 16, 3]).cast(DType::BF16).unwrap().to(&sim.device()).unwrap());
    let tape = Tape::new();
    let mut pass = Pass::new(&tape, &mut params, Mode::Train { parts: 1 }).with_precision(DType::BF16);
    let codes = encoder.forward(&mut pass, &clips).unwrap();
    let loss = ops::sum_to(&tape, &codes, Shape::from([1, 1])).unwrap();
    let leaves = pass.leaves();
    let grads = tape.grad(&loss, &leaves.iter().map(|(_, v)| v).collect::<Vec<_>>(), tape::Mode::Free).unwrap();
    assert!(grads.iter().all(Option::is_some));
    drop((pass, leaves));
    for ((_, p), before) in params.iter().zip(&before) {
        assert_eq!(bits(&p.value) != *before, !p.role.trains(), "{}: running statistics have moved, only they", p.name);
    }
    assert_eq!(launched(&sim, "ema_blend"), 0, "running statistics are updated by the launch that forms them");
    assert_eq!(launched(&sim, "sgd_step_all"), 1, "all weights are rounded by one launch");
    assert_eq!(launched(&sim, "cast_convert_f32_bf16"), 3, "gradients in the head, and no weight");
    assert_eq!(launched(&sim, "conv3d_pad"), 2, "the clips once, and the stem's filters");
}

/// The copy of a stem's input that fprop made serves wgrad: the same bits with one launch less.
#[test]
fn a_stem_pads_its_input_once() {
    for c in [1, 3] {
        let sim = Sim::new(Order::Forward);
        let there = |t: Tensor| t.to(&sim.device()).unwrap();
        let half = |seed, shape: &[usize]| there(noise(seed, shape).cast(DType::BF16).unwrap());
        let (x, w) = (half(1, &[2, 3, 9, 11, c]), half(2, &[16, 1, 5, 5, c]));
        let (g, near) = (Geometry::new(Window::same([1, 5, 5]).strided([1, 2, 2])), there(noise(3, &[16])));
        let tape = Tape::new();
        let w = tape.leaf(w);
        let epilogue = Epilogue::Moments { parts: 1, near: &near };
        let (y, moments) = conv_norm(&tape, &(&Var::constant(x.clone())).into(), &w, &g, epilogue).unwrap();
        assert!(moments.is_some());
        let dy = half(4, y.value().dims());
        let loss = ops::mul(&tape, &y, &Var::constant(dy.clone())).unwrap();
        let loss = ops::sum_to(&tape, &loss, Shape::from([1; 5])).unwrap();
        let before = launched(&sim, "conv3d_pad");
        assert_eq!(before, 2, "the clips and the filters");
        let dw = tape.grad(&loss, &[&w], tape::Mode::Free).unwrap().remove(0).unwrap();
        assert_eq!(launched(&sim, "conv3d_pad"), before, "{c} channels");
        let apart = conv3d::wgrad(&x, &dy, w.shape(), &g).unwrap();
        assert_eq!(launched(&sim, "conv3d_pad"), before + 1);
        assert_eq!(bits(&dw.value().cast(DType::F32).unwrap()), bits(&apart));
    }
}
