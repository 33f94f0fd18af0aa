//! Differentiating twice through what lies behind a tap: whole blocks, normalised by the batch or by running statistics; and
//! what the alignment loss can tell a feature map in either case.

use crate::support::close::{assert_near, assert_norm};
use crate::support::goldens::{fill_params, filled};
use crate::support::numbers::data;
use tubelet::nn::{HeadSpec, MclEncoder, Mode, P3d, ParamId, Params, Pass, Role};
use tubelet::ops::alignment::Cosines;
use tubelet::ops::{self, channel_map, map_alignment, relu};
use tubelet::shape::Shape;
use tubelet::tape::{self, Tape, Var};
use tubelet::tensor::Tensor;

/// A small P3D-A of three stages with heads. With addends of `shift` the rectifiers of the trunk are nearly always open, or
/// nearly half of them shut; those of the heads have ten times as much.
fn network(shift: f32) -> (MclEncoder, Params) {
    // No maximum: where its choice changes, differences say nothing.
    let net = P3d { width: 4, blocks: vec![1, 1, 1], pool: false, ..P3d::default() }.net().unwrap();
    let heads = HeadSpec { hidden: 16, code: 8, normalised: false };
    let (encoder, mut params) = MclEncoder::new(&net, heads, 1).unwrap();
    fill_params(&mut params);
    for (_, p) in params.iter_mut().filter(|(_, p)| matches!(p.role, Role::NormShift | Role::Bias)) {
        let head = if p.role == Role::Bias { 10.0 } else { 1.0 };
        p.value = Tensor::full(p.value.shape(), head * shift);
    }
    // Running statistics near those of the batch, so that addends mean the same in both modes.
    for _ in 0..40 {
        let none = Tape::no_grad();
        let mut pass = Pass::new(&none, &mut params, Mode::Train { parts: 1 });
        encoder.forward(&mut pass, &clips()).unwrap();
    }
    (encoder, params)
}

fn clips() -> Var {
    Var::constant(filled("x", [3, 8, 16, 16, 3]))
}

/// The gradient `G` of `Σ q·k` by the output of `module`, recorded, with that output and the pass's leaves.
fn gradient_map(
    tape: &Tape,
    encoder: &MclEncoder,
    params: &mut Params,
    mode: Mode,
    module: &str,
) -> (Var, Var, Vec<(ParamId, Var)>) {
    let mut pass = Pass::new(tape, params, mode).tapping(module);
    let q = encoder.forward(&mut pass, &clips()).unwrap().inter;
    let k = Var::constant(filled("key", q.shape()));
    let s = ops::sum_to(tape, &ops::mul(tape, &q, &k).unwrap(), Shape::from([1, 1])).unwrap();
    let f = pass.tapped().unwrap();
    let g = tape.grad(&s, &[&f], tape::Mode::Keep).unwrap().remove(0).unwrap();
    (g, f, pass.leaves())
}

/// `φ = Σ r·G` for a fixed `r`, and its gradients by all parameters.
fn probe(encoder: &MclEncoder, params: &mut Params, mode: Mode, module: &str) -> (f64, Vec<(ParamId, Vec<f32>)>) {
    let tape = Tape::new();
    let (g, _, leaves) = gradient_map(&tape, encoder, params, mode, module);
    let r = filled("probe", g.shape());
    let phi = data(g.value()).iter().zip(data(&r)).map(|(g, r)| f64::from(*g) * f64::from(r)).sum();
    let vars: Vec<&Var> = leaves.iter().map(|(_, v)| v).collect();
    let grads = tape.grad_from(&g, Var::constant(r), &vars, tape::Mode::Free).unwrap();
    let found = leaves.iter().zip(grads).filter_map(|((id, _), d)| Some((*id, data(d?.value()))));
    (phi, found.collect())
}

/// The gradient of a function of `G` against difference quotients, for each parameter along that gradient: convolutions with
/// and without stride, normalisations, sums with shortcuts, the pool and the heads are all differentiated twice.
#[test]
fn gradients_of_gradients_pass_whole_blocks() {
    let live = Mode::Train { parts: 1 };
    let block = "layer3.0.conv2.weight";
    let cases =
        [("layer2.0", live, block), ("layer2.0", Mode::Eval, block), ("layer1.0.conv3", live, "layer1.0.bn3.weight")];
    for (module, mode, behind) in cases {
        let (encoder, mut params) = network(4.0);
        let (_, grads) = probe(&encoder, &mut params.clone(), mode, module);
        let size = |g: &[f32]| g.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        let largest = grads.iter().map(|(_, g)| size(g)).fold(0.0, f64::max);
        let mut seen = 0;
        for (id, g) in grads.iter().filter(|(_, g)| size(g) > largest / 1000.0) {
            let value = params[*id].value.clone();
            let numbers = data(&value);
            let mut phi = |along: f64| {
                let moved =
                    numbers.iter().zip(g).map(|(w, d)| (f64::from(*w) + along * f64::from(*d) / size(g)) as f32);
                params[*id].value = Tensor::from_f32(value.shape(), &moved.collect::<Vec<_>>()).unwrap();
                probe(&encoder, &mut params.clone(), mode, module).0
            };
            // Two widths of differences, so that what is left of the error is of fourth order.
            let quotient = |h: f64, phi: &mut dyn FnMut(f64) -> f64| (phi(h) - phi(-h)) / (2.0 * h);
            let h = 0.02 * size(&numbers).max(0.5);
            let difference = (4.0 * quotient(h / 2.0, &mut phi) - quotient(h, &mut phi)) / 3.0;
            params[*id].value = value;
            let what = format!("{module}, {mode:?}, {}", params[*id].name);
            assert_near(&what, difference / size(g), 1.0, 5e-3);
            seen += usize::from(params[*id].name == behind);
        }
        assert_eq!(seen, 1, "{behind} is behind the tap {module}");
    }
}

/// mcl.md 3: behind the tap there is only a normalisation, a shortcut, a rectifier, a mean and the heads. Without statistics
/// of the batch the released loss has one gradient for all active positions of a channel; with them it has not.
#[test]
fn with_frozen_statistics_the_released_loss_cannot_tell_positions_apart() {
    for (mode, spreads) in [(Mode::Eval, false), (Mode::Train { parts: 1 }, true)] {
        let (encoder, mut params) = network(0.3);
        let tape = Tape::new();
        let (g, f, _) = gradient_map(&tape, &encoder, &mut params, mode, "layer3.0.conv3");
        let p = relu(&tape, &channel_map(&tape, &g, &g).unwrap()).unwrap();
        let y = filled("target", p.shape());
        let y: Vec<f32> = data(&y).iter().map(|v| v.max(0.0)).collect();
        let y = Tensor::from_f32(p.shape(), &y).unwrap();
        let loss = map_alignment(&tape, &p, &y, &Cosines::default()).unwrap().loss;
        let d = tape.grad(&loss, &[&f], tape::Mode::Free).unwrap().remove(0);
        let [n, _, _, _, c] = f.shape().dims().try_into().unwrap();
        let d = d.map_or_else(|| vec![0.0; f.shape().len()], |d| data(d.value()));
        let g = data(g.value());
        let largest = d.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        // Each channel of each sample: its values where its gradient is not 0, less their mean.
        let per = d.len() / n;
        let mut spread = 0.0f32;
        for (sample, gs) in d.chunks(per).zip(g.chunks(per)) {
            for channel in 0..c {
                let at = |x: &[f32]| x[channel..].iter().step_by(c).copied().collect::<Vec<_>>();
                let active: Vec<f32> =
                    at(sample).into_iter().zip(at(gs)).filter(|(_, g)| *g != 0.0).map(|(d, _)| d).collect();
                let mean = active.iter().sum::<f32>() / active.len().max(1) as f32;
                spread = active.iter().fold(spread, |m, v| m.max((v - mean).abs()));
            }
        }
        if spreads {
            assert!(spread > 0.1 * largest, "spread {spread:e} of {largest:e}");
        } else {
            let part = f64::from(spread) / f64::from(largest.max(f32::MIN_POSITIVE));
            assert_near("spread of the largest gradient", part, 0.0, 1e-6);
        }
    }
}

/// Reading the gradient once more does not change it: what `Keep` composes is what `Free` fuses.
#[test]
fn kept_gradients_are_the_free_ones() {
    for mode in [Mode::Train { parts: 3 }, Mode::Eval] {
        let (encoder, mut params) = network(0.3);
        let tape = Tape::new();
        let mut pass = Pass::new(&tape, &mut params, mode).tapping("layer1.0");
        let q = encoder.forward(&mut pass, &clips()).unwrap().inter;
        let (f, dy) = (pass.tapped().unwrap(), Var::constant(filled("key", q.shape())));
        let keep = tape.grad_from(&q, dy.clone(), &[&f], tape::Mode::Keep).unwrap().remove(0).unwrap();
        let free = tape.grad_from(&q, dy, &[&f], tape::Mode::Free).unwrap().remove(0).unwrap();
        assert_norm("gradient", &data(keep.value()), &data(free.value()), 1e-5);
    }
}
