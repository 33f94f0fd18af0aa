//! MCL's network: what a pass taps, the three heads, the order classifier, and the pathway around them.

use crate::networks::r3d::{tiny, trunk};
use crate::support::close::{assert_near, assert_norm};
use crate::support::goldens::{fill_params, filled};
use crate::support::numbers::data;
use crate::support::sim::on_gpu;
use tubelet::nn::{Encoder, HeadSpec, MclEncoder, Mode, P3d, Params, Pass, Precision, Role};
use tubelet::ops::{self, conv3d::Geometry};
use tubelet::rng::{self, Purpose};
use tubelet::shape::Window;
use tubelet::ssl::pathway::{Order, Pathway};
use tubelet::ssl::queue::Queue;
use tubelet::ssl::{BatchPart, Division};
use tubelet::tape::{self, Tape, Var};
use tubelet::tensor::{Device, Tensor};

const HEADS: HeadSpec = HeadSpec { hidden: 24, code: 8, normalised: false };

fn encoder() -> (MclEncoder, Params) {
    let (net, mut params) = MclEncoder::new(&tiny().net().unwrap(), HEADS, 3).unwrap();
    fill_params(&mut params);
    (net, params)
}

fn pathway() -> Pathway<MclEncoder> {
    let (net, params) = encoder();
    Pathway::new(net, params, Queue::new(6, HEADS.code).unwrap()).unwrap()
}

#[test]
fn modules_are_listed_in_the_order_of_the_forward_pass() {
    let (trunk, params) = trunk(&tiny().net().unwrap());
    let want = [
        "stem.0",
        "layer1.0.conv1.0",
        "layer1.0.conv2.0",
        "layer1.0",
        "layer2.0.conv1.0",
        "layer2.0.downsample.0",
        "layer2.0.conv2.0",
        "layer2.0",
    ];
    assert_eq!(trunk.modules(&params), want);
    let message = trunk.check_module(&params, "layer9.0").unwrap_err().to_string();
    assert!(message.contains("layer9.0") && message.contains("layer2.0.conv2.0, layer2.0"), "{message}");
}

/// What is tapped is the value that flows on: the same bits, and gradients by it.
#[test]
fn a_tap_gives_the_value_that_flows_on() {
    let (trunk, mut params) = trunk(&tiny().net().unwrap());
    fill_params(&mut params);
    let x = Var::constant(filled("x", [2, 4, 16, 16, 3]));
    for module in trunk.modules(&params) {
        let tape = Tape::new();
        let mut pass = Pass::new(&tape, &mut params, Mode::Eval).tapping(&module);
        assert!(pass.tapped().is_none(), "nothing has passed");
        let map = trunk.forward_map(&mut pass, &x).unwrap();
        let tapped = pass.tapped().expect("a listed module is reached");
        let [n, t, h, w, c] = map.shape().dims().try_into().unwrap();
        let features = ops::global_avg_pool(&tape, &map).unwrap();
        let dy = Var::constant(Tensor::full([n, c], 1.0));
        let g = tape.grad_from(&features, dy, &[&tapped], tape::Mode::Keep).unwrap().remove(0).expect("a gradient");
        assert_eq!(g.shape(), tapped.shape(), "{module}");
        match module.as_str() {
            "stem.0" => {
                let weight = pass.var(params_id(&pass, "stem.0.weight")).unwrap();
                let window = Window::same([3, 5, 5]).strided([1, 2, 2]);
                let y = ops::conv3d::fprop(x.value(), weight.value(), &Geometry::new(window)).unwrap();
                assert_eq!(data(tapped.value()), data(&y));
            }
            "layer2.0" => {
                assert_eq!(data(tapped.value()), data(map.value()));
                let share = 1.0 / (t * h * w) as f32;
                assert_norm("gradient of a mean", &data(g.value()), &vec![share; g.shape().len()], 1e-6);
            }
            _ => {}
        }
        let mut pass = Pass::new(&tape, &mut params, Mode::Eval).tapping("layer1");
        trunk.forward(&mut pass, &x).unwrap();
        assert!(pass.tapped().is_none(), "no module of this name");
    }
}

fn params_id(pass: &Pass, name: &str) -> tubelet::nn::ParamId {
    pass.params().find(name).unwrap()
}

/// PyTorch's `Linear`: weights and biases uniform within 1 / √inputs (mcl.md 2.3).
#[test]
fn uniform_heads_start_as_pytorchs_linear_layers_and_the_trunk_as_ever() {
    let net = tiny().net().unwrap();
    let heads = HeadSpec { hidden: 96, code: 32, normalised: false };
    let [(_, plain), (_, uniform)] =
        [MclEncoder::new(&net, heads, 3).unwrap(), MclEncoder::uniform(&net, heads, 3).unwrap()];
    assert_eq!(plain.count(), uniform.count());
    let mut inputs = 0;
    for ((_, a), (_, b)) in plain.iter().zip(uniform.iter()) {
        assert_eq!((&a.name, a.role), (&b.name, b.role));
        let (values, before) = (data(&b.value), data(&a.value));
        if !matches!(b.role, Role::LinearWeight | Role::Bias) {
            assert_eq!(values, before, "{}", b.name);
            continue;
        }
        if b.role == Role::LinearWeight {
            inputs = b.value.dims()[1]; // a layer's bias follows its weight
        }
        let bound = (inputs as f64).powf(-0.5);
        let largest = values.iter().fold(0f64, |m, v| m.max(f64::from(v.abs())));
        assert!(largest <= bound * 1.0001 && (values.len() < 32 || largest > 0.8 * bound), "{}: {largest}", b.name);
        if values.len() > 1000 {
            let square = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / values.len() as f64;
            assert!((square / (bound * bound / 3.0) - 1.0).abs() < 0.1, "{}: variance {square}", b.name);
        }
    }
}

#[test]
fn the_heads_have_the_names_of_the_release() {
    let (_, params) = encoder();
    let (_, trunk) = trunk(&tiny().net().unwrap());
    let (features, HeadSpec { hidden, code, .. }) = (16, HEADS);
    let head = (features + 1) * hidden + (hidden + 1) * code;
    assert_eq!(params.count() - trunk.count(), 3 * head + (3 * code + 1) * 2);
    let names = [
        "nce_inter_head.head.0.weight",
        "nce_intra_head.head.2.bias",
        "order_head.head.2.weight",
        "order_classfier.fc.weight",
    ];
    for name in names {
        assert!(params.find(name).is_some(), "{name}");
    }
    let normalised = HeadSpec { normalised: true, ..HEADS };
    let (_, more) = MclEncoder::new(&tiny().net().unwrap(), normalised, 3).unwrap();
    assert!(more.find("nce_inter_head.head.1.running_var").is_some());
    assert!(MclEncoder::new(&tiny().net().unwrap(), HeadSpec { code: 0, ..HEADS }, 3).is_err());
}

/// `W (q k2 k3) / ‖(q k2 k3)‖ + b`, by hand in f64.
#[test]
fn the_classifier_sees_three_codes_side_by_side() {
    let (net, mut params) = encoder();
    let (n, d) = (5, HEADS.code);
    let [q, k2, k3] = ["q", "k2", "k3"].map(|name| filled(name, [n, d]));
    let tape = Tape::new();
    let mut pass = Pass::new(&tape, &mut params, Mode::Train { parts: 1 });
    let query = tape.leaf(q.clone());
    let logits = net.classify(&mut pass, &query, &k2, &k3).unwrap();
    let [w, b] =
        ["weight", "bias"].map(|p| data(&pass.params()[params_id(&pass, &format!("order_classfier.fc.{p}"))].value));
    let mut want = Vec::new();
    for i in 0..n {
        let rows = [&q, &k2, &k3].map(|t| data(t)[i * d..(i + 1) * d].to_vec()).concat();
        let norm = rows.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        for o in 0..2 {
            let terms = rows.iter().zip(&w[o * 3 * d..]).map(|(x, w)| f64::from(*x) * f64::from(*w));
            want.push((terms.sum::<f64>() / norm + f64::from(b[o])) as f32);
        }
    }
    assert_norm("logits", &data(logits.value()), &want, 1e-6);
    assert_eq!(pass.leaves().len(), 2, "weight and addend are among the pass's leaves");
    let dy = Var::constant(filled("loss", [n, 2]));
    let g = tape.grad_from(&logits, dy, &[&query], tape::Mode::Free).unwrap().remove(0).unwrap();
    assert!(data(g.value()).iter().any(|v| *v != 0.0));
    assert!(net.classify(&mut pass, &query, &k2, &filled("k3", [n, d + 1])).is_err());
}

/// One pass gives codes, the tapped map and the answers; every parameter has a leaf in it, once.
#[test]
fn a_query_pass_knows_all_its_leaves() {
    let mut p = pathway();
    let x = filled("x", [4, 4, 16, 16, 3]);
    let keys = p.keys(&x, 1, None, Precision::F32, &Division::default()).unwrap();
    for mode in [Mode::Train { parts: 1 }, Mode::Eval] {
        let tape = Tape::new();
        let before = p.query().clone();
        let (q, logits) = p
            .queries(&tape, &x, mode, Precision::F32, Some("layer2.0.conv2.0"), &BatchPart::whole(), |net, pass, q| {
                net.classify(pass, &q.order, &keys.order, &keys.order)
            })
            .unwrap();
        assert_eq!(q.leaves.len(), p.query().trainable().count());
        assert_eq!((logits.shape().dims(), q.codes.intra.shape().dims()), (&[4, 2][..], &[4, 8][..]));
        assert!(q.tapped.unwrap().has_grad());
        for code in [&q.codes.inter, &q.codes.intra, &q.codes.order] {
            let squares = data(code.value()).iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
            assert_near("rows of unit length", squares, 4.0, 1e-6);
        }
        let moved = before.iter().zip(p.query().iter()).any(|((_, a), (_, b))| data(&a.value) != data(&b.value));
        assert_eq!(moved, mode != Mode::Eval, "running statistics stand still in evaluation mode");
    }
    let tape = Tape::new();
    let error = p
        .queries(&tape, &x, Mode::Eval, Precision::F32, Some("layer2"), &BatchPart::whole(), |_, _, _| Ok(()))
        .err()
        .unwrap();
    assert!(error.to_string().contains("layer2.0"), "{error}");
}

/// With one group, a permutation changes whose batch statistics are shared by nobody: the keys come back in place.
#[test]
fn permuted_keys_return_to_their_rows() {
    let x = filled("x", [4, 4, 16, 16, 3]);
    let order =
        Order::shuffled(4, &mut rng::stream(1, 0, 0, Purpose::KeyShuffle), &Device::Cpu, &Division::default()).unwrap();
    let plain = pathway().keys(&x, 1, None, Precision::F32, &Division::default()).unwrap();
    let permuted = pathway().keys(&x, 1, Some(&order), Precision::F32, &Division::default()).unwrap();
    for (a, b) in [(&plain.inter, &permuted.inter), (&plain.intra, &permuted.intra), (&plain.order, &permuted.order)] {
        assert_norm("keys", &data(b), &data(a), 1e-5);
    }
    assert_ne!(data(&plain.inter), data(&plain.intra), "each head has its own numbers");
}

/// An encoder of one head taps as well: what MaCLR with an alignment needs.
#[test]
fn a_pathway_of_one_head_taps_too() {
    let (net, params) = Encoder::new(&tiny().net().unwrap(), 24, 8, 1).unwrap();
    let mut p = Pathway::new(net, params, Queue::new(6, 8).unwrap()).unwrap();
    let x = filled("x", [2, 4, 16, 16, 3]);
    let tape = Tape::new();
    let q =
        p.queries(&tape, &x, Mode::Train { parts: 1 }, Precision::F32, Some("layer1.0"), &BatchPart::whole()).unwrap();
    assert_eq!(q.tapped.unwrap().shape().dims(), [2, 4, 8, 8, 8]);
    let tape = Tape::new();
    assert!(p.queries(&tape, &x, Mode::Eval, Precision::F32, None, &BatchPart::whole()).unwrap().tapped.is_none());
}

/// P3D-A with heads and classifier as kernels: even filters over time, pairs of convolutions, and codes put side by side
/// without an upload.
#[test]
fn a_gpu_computes_the_same_codes_and_answers() {
    let net = P3d { width: 4, blocks: vec![1], ..P3d::default() }.net().unwrap();
    let (encoder, mut params) = MclEncoder::new(&net, HEADS, 3).unwrap();
    fill_params(&mut params);
    let run = |device: &Device| {
        let mut params = params.to(device).unwrap();
        let tape = Tape::new();
        let mut pass = Pass::new(&tape, &mut params, Mode::Train { parts: 1 }).tapping("layer1.0.conv3");
        let x = Var::constant(filled("x", [2, 9, 16, 16, 3]).to(device).unwrap());
        let codes = encoder.forward(&mut pass, &x).unwrap();
        let keys = ["k2", "k3"].map(|name| filled(name, [2, HEADS.code]).to(device).unwrap());
        let logits = encoder.classify(&mut pass, &codes.order, &keys[0], &keys[1]).unwrap();
        let leaves = pass.leaves();
        let vars: Vec<&Var> = leaves.iter().map(|(_, v)| v).collect();
        let dy = Var::constant(filled("loss", logits.shape()).to(device).unwrap());
        let grads = tape.grad_from(&logits, dy, &vars, tape::Mode::Free).unwrap();
        let stem = data(grads[0].as_ref().unwrap().value());
        let tapped = pass.tapped().unwrap();
        [codes.inter.value(), logits.value(), tapped.value()].map(data).into_iter().chain([stem]).collect::<Vec<_>>()
    };
    let want = run(&Device::Cpu);
    let got = on_gpu(run);
    for (what, (got, want)) in ["codes", "answers", "tapped", "stem's gradient"].iter().zip(got.iter().zip(&want)) {
        assert_norm(what, got, want, 1e-4);
    }
}
