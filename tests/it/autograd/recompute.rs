//! Blocks that run again in the backward pass: the same bits, with less memory (`memory.rs`).

use crate::support::close::assert_norm;
use crate::support::goldens::{fill_params, filled};
use crate::support::numbers::bits;
use crate::training::maclr::{method, recipe, views};
use crate::training::memory::narrow;
use tubelet::nn::{Encoder, HeadSpec, MclEncoder, Mode, Net, P3d, Params, Pass, Precision, SmallR3d};
use tubelet::ops::{self, sgd::Sgd};
use tubelet::rng::{Purpose, stream};
use tubelet::shape::Shape;
use tubelet::ssl::maclr::{CrossPositive, Maclr, Pathways};
use tubelet::tape::{self, Tape, Var};
use tubelet::tensor::Device;

fn numbers(params: &Params) -> Vec<(String, Vec<u32>)> {
    params.iter().map(|(_, p)| (p.name.clone(), bits(&p.value))).collect()
}

/// A scalar made of the codes of `x`.
fn loss(tape: &Tape, encoder: &Encoder, pass: &mut Pass, x: &Var) -> Var {
    let q = encoder.forward(pass, x).unwrap();
    let k = Var::constant(filled("key", q.shape()));
    ops::sum_to(tape, &ops::mul(tape, &q, &k).unwrap(), Shape::from([1, 1])).unwrap()
}

/// What a pass leaves: the loss, every gradient (the last one for the clips), every number of the network.
#[derive(PartialEq, Debug)]
struct Left {
    loss: Vec<u32>,
    grads: Vec<Option<Vec<u32>>>,
    params: Vec<(String, Vec<u32>)>,
    batches: u64,
}

/// Two clips through one pass, which share its leaves.
fn run(net: &Net, mode: Mode, precision: Precision, recompute: bool, tap: Option<&str>) -> Left {
    let (encoder, mut params) = Encoder::new(net, 16, 8, 1).unwrap();
    fill_params(&mut params);
    let tape = Tape::new();
    let clips = ["x", "other"].map(|name| tape.leaf(filled(name, [4, 8, 32, 32, 3])));
    let mut pass = Pass::new(&tape, &mut params, mode).with_precision(precision).recomputing(recompute);
    if let Some(module) = tap {
        pass = pass.tapping(module);
    }
    let [a, b] = [&clips[0], &clips[1]].map(|x| loss(&tape, &encoder, &mut pass, x));
    let tapped = pass.tapped();
    let mut y = ops::add(&tape, &a, &b).unwrap();
    if let Some(f) = &tapped {
        // A use of the tapped map beside the rest of the network.
        let square = ops::mul(&tape, f, f).unwrap();
        let more = ops::cast(&tape, &square, tubelet::tensor::DType::F32).unwrap();
        let sum = ops::sum_to(&tape, &more, Shape::from([1; 5])).unwrap();
        y = ops::add(&tape, &y, &ops::reshape(&tape, &sum, y.shape()).unwrap()).unwrap();
    }
    let leaves = pass.leaves();
    let wanted: Vec<&Var> = leaves.iter().map(|(_, v)| v).chain(&clips).chain(&tapped).collect();
    let peeked = tape.grad(&y, &wanted, tape::Mode::Peek).unwrap();
    let grads = tape.grad(&y, &wanted, tape::Mode::Free).unwrap();
    let of =
        |grads: Vec<Option<Var>>| -> Vec<_> { grads.iter().map(|g| g.as_ref().map(|g| bits(g.value()))).collect() };
    let grads = of(grads);
    assert_eq!(of(peeked), grads, "a recording that was looked at stays as it is");
    drop((leaves, pass));
    Left { loss: bits(y.value()), grads, params: numbers(&params), batches: params.batches }
}

impl Left {
    /// The same loss, statistics and weights bit for bit, and gradients of which all together differ by no more than `rel`.
    fn assert_near(&self, other: &Left, what: &str, rel: f64) {
        assert_eq!((&self.loss, self.batches), (&other.loss, other.batches), "{what}");
        assert!(self.params == other.params, "{what}: the numbers of the network");
        let all = |of: &Left| -> Vec<f32> { of.grads.iter().flatten().flatten().map(|&b| f32::from_bits(b)).collect() };
        assert_norm(what, &all(other), &all(self), rel);
        let given = |of: &Left| of.grads.iter().map(Option::is_some).collect::<Vec<_>>();
        assert_eq!(given(self), given(other), "{what}");
    }
}

const TRAIN: Mode = Mode::Train { parts: 1 };

/// A pool before a block and a mean after it: nothing is fused across its ends.
#[test]
fn the_second_run_of_a_block_is_the_first() {
    for (bottleneck, stage) in [(true, Mode::Train { parts: 2 }), (false, TRAIN), (true, Mode::Eval)] {
        let net = P3d { width: 8, blocks: vec![1], bottleneck, ..P3d::default() }.net().unwrap();
        for precision in [Precision::F32, Precision::Bf16, Precision::Bf16x3] {
            let [kept, again] = [false, true].map(|recompute| run(&net, stage, precision, recompute, None));
            assert!(kept == again, "bottleneck {bottleneck}, {stage:?}, {precision}");
            assert!(kept.grads.iter().all(Option::is_some));
        }
    }
}

/// Across blocks a gradient that is passed on whole is rounded once less than one whose parts are added by the tape.
#[test]
fn recomputing_changes_a_network_by_roundings_alone() {
    let small = SmallR3d {
        widths: vec![8, 16],
        blocks: vec![1, 2],
        strides: vec![[1; 3], [2; 3]],
        temporal: vec![3; 2],
        ..SmallR3d::default()
    };
    let residual = SmallR3d { residual: true, convs: 2, ..small.clone() };
    let nets = [
        ("plain", small.net().unwrap()),
        ("residual", residual.net().unwrap()),
        ("bottleneck", narrow(Net::cvrl_r3d50())),
        ("pseudo", P3d { width: 4, blocks: vec![1, 2], ..P3d::default() }.net().unwrap()),
    ];
    for (name, net) in &nets {
        for (mode, precision, rel) in [
            (TRAIN, Precision::Bf16, 0.1),
            (Mode::Train { parts: 2 }, Precision::F32, 1e-4),
            (Mode::Eval, Precision::F32, 1e-4),
            (Mode::Frozen, Precision::F32, 1e-4),
        ] {
            let [kept, again] = [false, true].map(|recompute| run(net, mode, precision, recompute, None));
            kept.assert_near(&again, &format!("{name}, {mode:?}, {precision}"), rel);
        }
    }
    // Taps: of a block, and of a convolution within one, which is then kept.
    for module in ["layer1.0", "layer2.0.conv2.0", "layer2.1"] {
        let [kept, again] =
            [false, true].map(|recompute| run(&nets[1].1, TRAIN, Precision::F32, recompute, Some(module)));
        kept.assert_near(&again, &format!("tapping {module}"), 1e-4);
    }
}

#[test]
fn nothing_is_kept_without_a_gradient() {
    let net = narrow(Net::slow_r50());
    let (encoder, mut params) = Encoder::new(&net, 16, 8, 1).unwrap();
    let tape = Tape::no_grad();
    let mut pass = Pass::new(&tape, &mut params, Mode::Train { parts: 1 }).recomputing(true);
    let codes = encoder.forward(&mut pass, &Var::constant(filled("x", [2, 8, 32, 32, 3]))).unwrap();
    assert!(!codes.has_grad());
}

/// Gradients of gradients pass a second run as they pass a first.
#[test]
fn a_second_run_is_differentiated_again() {
    let net = P3d { width: 4, blocks: vec![1, 1, 1], pool: false, ..P3d::default() }.net().unwrap();
    let heads = HeadSpec { hidden: 16, code: 8, normalised: false };
    for (module, mode) in [("layer1.0", Mode::Train { parts: 1 }), ("layer2.0.conv3", Mode::Eval)] {
        let [kept, again] = [false, true].map(|recompute| {
            let (encoder, mut params) = MclEncoder::new(&net, heads, 1).unwrap();
            fill_params(&mut params);
            let tape = Tape::new();
            let mut pass = Pass::new(&tape, &mut params, mode).tapping(module).recomputing(recompute);
            let x = Var::constant(filled("x", [3, 8, 16, 16, 3]));
            let q = encoder.forward(&mut pass, &x).unwrap().inter;
            let k = Var::constant(filled("key", q.shape()));
            let s = ops::sum_to(&tape, &ops::mul(&tape, &q, &k).unwrap(), Shape::from([1, 1])).unwrap();
            let f = pass.tapped().unwrap();
            let g = tape.grad(&s, &[&f], tape::Mode::Keep).unwrap().remove(0).unwrap();
            let leaves = pass.leaves();
            let vars: Vec<&Var> = leaves.iter().map(|(_, v)| v).collect();
            let r = Var::constant(filled("probe", g.shape()));
            let grads = tape.grad_from(&g, r, &vars, tape::Mode::Free).unwrap();
            let load = |v: &Var| v.value().load().unwrap().into_owned();
            (load(&g), grads.iter().map(|d| d.as_ref().map(load)).collect::<Vec<_>>())
        });
        assert_norm(module, &again.0, &kept.0, 1e-6);
        // Of all parameters together: a shift before a normalisation has a gradient of roundings alone.
        let all = |of: &[Option<Vec<f32>>]| of.iter().flatten().flatten().copied().collect::<Vec<f32>>();
        assert_norm(module, &all(&again.1), &all(&kept.1), 1e-5);
        let given = |of: &[Option<Vec<f32>>]| of.iter().map(Option::is_some).collect::<Vec<_>>();
        assert_eq!(given(&again.1), given(&kept.1), "{module}");
        let reached = kept.1.iter().flatten().filter(|g| g.iter().any(|v| *v != 0.0)).count();
        assert!(reached > 10, "{module}: {reached} parameters have a gradient");
    }
}

#[test]
fn steps_of_a_method_are_the_same() {
    let alignment = tubelet::ssl::alignment::Alignment::from_scratch("layer2.0");
    for (symmetric, aligned) in [(true, false), (false, true)] {
        let method = Maclr {
            symmetric,
            alignment: aligned.then(|| alignment.clone()),
            cross_positive: CrossPositive::SameClip,
            precision: Precision::F32,
            ..method()
        };
        let recipe = tubelet::train::maclr::Recipe { method: method.clone(), ..recipe() };
        let mut views = views(4);
        if aligned {
            let grid = alignment.grid(
                &recipe.pathways(8, 1, &Device::Cpu).unwrap().visual.encoder().trunk,
                &encoder_params(&recipe),
                [4, 16, 16],
            );
            let [t, h, w] = grid.unwrap().unwrap();
            views.targets = Some(["a", "b"].map(|name| filled(name, [4, t, h, w])));
        }
        let after = [false, true].map(|recompute| {
            let Pathways { visual, motion } = recipe.pathways(8, 1, &Device::Cpu).unwrap();
            let motion = motion.map(|m| m.recomputing(recompute));
            let mut p = Pathways { visual: visual.recomputing(recompute), motion };
            for i in 0..3 {
                let mut rng = stream(1, 0, i, Purpose::KeyShuffle);
                method.step(&mut p, &views, &mut rng, 0.02, &Sgd::default()).unwrap();
            }
            let networks = [Some(&p.visual), p.motion.as_ref()].into_iter().flatten();
            let all = networks.flat_map(|n| numbers(n.query()).into_iter().chain(numbers(n.key())));
            all.flat_map(|(_, bits)| bits).map(f32::from_bits).collect::<Vec<_>>()
        });
        assert_norm(&format!("symmetric {symmetric}, aligned {aligned}"), &after[1], &after[0], 1e-5);
    }
}

fn encoder_params(recipe: &tubelet::train::maclr::Recipe) -> Params {
    recipe.pathways(8, 1, &Device::Cpu).unwrap().visual.query().clone()
}
