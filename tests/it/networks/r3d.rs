//! Networks: parameter counts, shapes, parity with PyTorch, running statistics, precision, small networks' options.
//!
//! Goldens: `tests/fixtures/networks.safetensors`, float64 values made by `tests/fixtures/make/networks.py`. Neither side
//! stores parameters: both compute them from names, in PyTorch's layout.

use crate::support::close::assert_norm;
use crate::support::goldens::{Goldens, fill_params, filled};
use tubelet::nn::nets::Net;
use tubelet::nn::{Classifier, Encoder, Mode, Params, Pass, Role, SmallR3d, Trunk};
use tubelet::ops;
use tubelet::tape::{self, Tape, Var};
use tubelet::tensor::{DType, Tensor};
use tubelet::weights::to_pytorch;

/// Compares output, running statistics, loss and gradients of a network with PyTorch's.
fn parity(name: &str, params: Params, clip: [usize; 3], forward: impl Fn(&mut Pass, &Var) -> Var) {
    parity_in("networks", name, params, clip, forward);
}

/// The same with goldens in the file `file`.
pub fn parity_in(
    file: &str,
    name: &str,
    mut params: Params,
    [t, h, w]: [usize; 3],
    forward: impl Fn(&mut Pass, &Var) -> Var,
) {
    let goldens = Goldens::open(file);
    fill_params(&mut params);
    let x = Var::constant(filled("x", [2, t, h, w, 3]));

    let eval = forward(&mut Pass::new(&Tape::no_grad(), &mut params, Mode::Eval), &x);
    goldens.check(&format!("{name}/eval"), &eval.value().load().unwrap());

    let tape = Tape::new();
    let mut pass = Pass::new(&tape, &mut params, Mode::Train { parts: 1 });
    let y = forward(&mut pass, &x);
    goldens.check(&format!("{name}/train"), &y.value().load().unwrap());
    let c = Var::constant(filled("loss", y.shape()));
    let loss = ops::sum_to(&tape, &ops::mul(&tape, &y, &c).unwrap(), [1, 1].into()).unwrap();
    goldens.check(&format!("{name}/loss"), &loss.value().load().unwrap());

    let leaves = pass.leaves();
    assert_eq!(leaves.len(), pass.params().trainable().count(), "every parameter is used");
    let vars: Vec<&Var> = leaves.iter().map(|(_, v)| v).collect();
    let grads = tape.grad(&loss, &vars, tape::Mode::Free).unwrap();
    let mut named: Vec<(&str, Role, Tensor)> = leaves
        .iter()
        .zip(&grads)
        .map(|((id, _), g)| {
            let p = &pass.params()[*id];
            (p.name.as_str(), p.role, g.as_ref().expect("a gradient").value().clone())
        })
        .collect();
    named.sort_by_key(|(name, ..)| *name);
    let norm = |t: &Tensor| t.load().unwrap().iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt() as f32;
    let norms: Vec<f32> = named.iter().map(|(_, _, g)| norm(g)).collect();
    goldens.check(&format!("{name}/norms"), &norms);
    let convs: Vec<_> = named.iter().filter(|(_, role, _)| *role == Role::ConvWeight).collect();
    for (parameter, role, g) in [convs[0], convs[convs.len() - 1]] {
        let (_, numbers) = to_pytorch(*role, g).unwrap();
        goldens.check(&format!("{name}/grad.{parameter}"), &numbers[..numbers.len().min(64)]);
    }

    let mut variances: Vec<&str> =
        params.iter().filter(|(_, p)| p.role == Role::RunningVar).map(|(_, p)| p.name.as_str()).collect();
    variances.sort();
    let var = *variances.last().unwrap();
    let mean = var.replace("running_var", "running_mean");
    let value = |name: &str| params[params.find(name).unwrap()].value.load().unwrap().into_owned();
    let running: Vec<f32> = [value(&mean), value(var)].iter().flat_map(|v| v[..v.len().min(64)].to_vec()).collect();
    goldens.check(&format!("{name}/running"), &running);
    assert_eq!(params.batches, 1);
}

pub fn trunk(net: &Net) -> (Trunk, Params) {
    Trunk::with_params(net, 1)
}

#[test]
fn parameter_counts() {
    let count = |net: &Net| trunk(net).1.count();
    assert_eq!(count(&Net::cvrl_r3d50()), 31_672_128); // maclr.md 2.1
    assert_eq!(count(&Net::motion_r2d50(8).unwrap()), 374_152); // maclr.md 3.2
    assert_eq!(count(&Net::motion_r3d50(8).unwrap()), 514_152); // maclr.md 3.2
    assert_eq!(count(&Net::slow_r50()), 31_634_496);
    let with_classes = |net: &Net| Classifier::new(net, 400, 1).unwrap().1.count();
    assert_eq!(with_classes(&Net::r2plus1d_18()), 31_505_325); // torchvision's documentation
    assert_eq!(with_classes(&Net::r3d_18()), 33_371_472); // torchvision's documentation
    assert_eq!(with_classes(&Net::slow_r50()), 32_454_096);
    // MaCLR's motion head: 256 -> 2048 -> 128 (maclr.md 3.2).
    let motion = Net::motion_r2d50(8).unwrap();
    assert_eq!(Encoder::new(&motion, 2048, 128, 1).unwrap().1.count() - 374_152, 788_608);
}

/// Products of a clip, in thousands of millions.
fn giga_products(net: &Net, clip: [usize; 3]) -> f64 {
    let (trunk, params) = trunk(net);
    let convs = trunk.convolutions(&params, 1, clip).unwrap();
    let modules = trunk.modules(&params);
    assert!(convs.iter().all(|(name, _)| modules.contains(name)));
    let grids = trunk.grids(&params, clip).unwrap();
    for (name, p) in &convs {
        let grid = grids.iter().find(|g| g.module == *name).unwrap();
        assert_eq!((grid.extents, grid.channels), (p.out(), p.k()), "{name}");
    }
    convs.iter().map(|(_, p)| p.flops() as f64 * 0.5e-9).sum()
}

#[test]
fn convolutions_are_the_published_ones() {
    let rounded = |net: Net, clip| format!("{:.1}", giga_products(&net, clip));
    // torchvision's documentation of its weights: 40.697 and 40.519, the classifier among them.
    assert_eq!(rounded(Net::r3d_18(), [16, 112, 112]), "40.7");
    assert_eq!(rounded(Net::r2plus1d_18(), [16, 112, 112]), "40.5");
    // pytorchvideo's model zoo: 54.52 at 8x256x256.
    assert_eq!(rounded(Net::slow_r50(), [8, 256, 256]), "54.5");
    let two = trunk(&Net::r3d_18());
    let of = |n| two.0.convolutions(&two.1, n, [16, 112, 112]).unwrap().iter().map(|(_, p)| p.flops()).sum::<u64>();
    assert_eq!(of(2), 2 * of(1));
}

#[test]
fn cvrl_r3d50_agrees_with_pytorch() {
    let (trunk, params) = trunk(&Net::cvrl_r3d50());
    parity("cvrl_r3d50", params, [8, 64, 64], |p, x| trunk.forward(p, x).unwrap());
}

#[test]
fn motion_r2d50_agrees_with_pytorch() {
    let (trunk, params) = trunk(&Net::motion_r2d50(8).unwrap());
    parity("motion_r2d50", params, [8, 64, 64], |p, x| trunk.forward(p, x).unwrap());
}

#[test]
fn motion_r3d50_agrees_with_pytorch() {
    let (trunk, params) = trunk(&Net::motion_r3d50(8).unwrap());
    parity("motion_r3d50", params, [8, 64, 64], |p, x| trunk.forward(p, x).unwrap());
}

#[test]
fn slow_r50_agrees_with_pytorch() {
    let (net, params) = Classifier::new(&Net::slow_r50(), 400, 1).unwrap();
    parity("slow_r50", params, [4, 64, 64], |p, x| net.forward(p, x).unwrap());
}

#[test]
fn r2plus1d_18_agrees_with_torchvision() {
    let (net, params) = Classifier::new(&Net::r2plus1d_18(), 400, 1).unwrap();
    parity("r2plus1d_18", params, [8, 32, 32], |p, x| net.forward(p, x).unwrap());
}

#[test]
fn r3d_18_agrees_with_torchvision() {
    let (net, params) = Classifier::new(&Net::r3d_18(), 400, 1).unwrap();
    parity("r3d_18", params, [8, 32, 32], |p, x| net.forward(p, x).unwrap());
}

pub fn tiny() -> SmallR3d {
    SmallR3d {
        widths: vec![8, 16],
        blocks: vec![1, 1],
        convs: 2,
        residual: true,
        strides: vec![[1; 3], [2; 3]],
        temporal: vec![3, 3],
        ..SmallR3d::default()
    }
}

#[test]
fn small_encoder_agrees_with_pytorch() {
    let (net, params) = Encoder::new(&tiny().net().unwrap(), 24, 12, 1).unwrap();
    parity("small_encoder", params, [8, 32, 32], |p, x| net.forward(p, x).unwrap());
}

/// Codes of unit length, in f32; equal to those in f32 but for bf16's rounding, some 2^-8 in every layer.
#[test]
fn bf16_codes_stay_near_f32() {
    let (net, mut params) = Encoder::new(&tiny().net().unwrap(), 24, 12, 1).unwrap();
    fill_params(&mut params);
    let x = Var::constant(filled("x", [2, 8, 32, 32, 3]));
    let mut run = |dtype| {
        let tape = Tape::new();
        let mut pass = Pass::new(&tape, &mut params, Mode::Eval).with_precision(dtype);
        let y = net.forward(&mut pass, &x).unwrap();
        assert_eq!(y.value().dtype(), DType::F32);
        let c = Var::constant(filled("loss", y.shape()));
        let loss = ops::sum_to(&tape, &ops::mul(&tape, &y, &c).unwrap(), [1, 1].into()).unwrap();
        let leaves = pass.leaves();
        let vars: Vec<&Var> = leaves.iter().map(|(_, v)| v).collect();
        let grads = tape.grad(&loss, &vars, tape::Mode::Free).unwrap();
        let first = grads.into_iter().next().flatten().unwrap();
        assert!(first.value().dtype() == DType::F32, "gradients of weights are f32");
        (y.value().load().unwrap().into_owned(), first.value().load().unwrap().into_owned())
    };
    let (y32, g32) = run(DType::F32);
    let (y16, g16) = run(DType::BF16);
    assert_norm("unit length", &[y16.iter().map(|v| v * v).sum()], &[2.0], 1e-6);
    assert_norm("bf16 codes", &y16, &y32, 0.05);
    assert_norm("bf16 gradient of the stem", &g16, &g32, 0.2);
}

#[test]
fn frozen_and_eval_passes_leave_the_parameters_alone() {
    let (net, mut params) = Encoder::new(&tiny().net().unwrap(), 24, 12, 1).unwrap();
    fill_params(&mut params);
    let before = params.clone();
    let x = Var::constant(filled("x", [2, 4, 16, 16, 3]));
    for mode in [Mode::Eval, Mode::Frozen] {
        let tape = Tape::new();
        let mut pass = Pass::new(&tape, &mut params, mode);
        let y = net.forward(&mut pass, &x).unwrap();
        assert_eq!(y.has_grad(), mode == Mode::Eval);
        assert_eq!(pass.leaves().is_empty(), mode == Mode::Frozen);
    }
    assert_eq!(params.batches, 0);
    for ((_, a), (_, b)) in params.iter().zip(before.iter()) {
        assert_eq!(a.value.load().unwrap(), b.value.load().unwrap(), "{}", a.name);
    }
}

/// A key encoder: batch statistics and their running means without a gradient.
#[test]
fn training_mode_without_gradients_updates_running_statistics() {
    let (net, mut params) = Encoder::new(&tiny().net().unwrap(), 24, 12, 1).unwrap();
    let query = params.clone();
    let x = Var::constant(filled("x", [4, 4, 16, 16, 3]));
    let tape = Tape::no_grad();
    let mut pass = Pass::new(&tape, &mut params, Mode::Train { parts: 2 });
    assert!(!net.forward(&mut pass, &x).unwrap().has_grad());
    assert!(pass.leaves().is_empty());
    for ((_, a), (_, b)) in params.iter().zip(query.iter()) {
        assert_eq!(a.value.load().unwrap() == b.value.load().unwrap(), a.role.trains(), "{}", a.name);
    }
    assert_eq!((params.batches, query.batches), (1, 0));
}

/// Several inputs through one pass share their leaves, and the gradients add up.
#[test]
fn one_leaf_per_parameter_and_pass() {
    let (net, mut params) = trunk(&tiny().net().unwrap());
    let x = Var::constant(filled("x", [1, 4, 16, 16, 3]));
    let mut gradient = |times: usize| {
        let tape = Tape::new();
        let mut pass = Pass::new(&tape, &mut params, Mode::Eval);
        let mut sum = net.forward(&mut pass, &x).unwrap();
        for _ in 1..times {
            sum = ops::add(&tape, &sum, &net.forward(&mut pass, &x).unwrap()).unwrap();
        }
        let leaves = pass.leaves();
        let dy = Var::constant(filled("loss", sum.shape()));
        let g = tape.grad_from(&sum, dy, &[&leaves[0].1], tape::Mode::Free).unwrap();
        g[0].as_ref().unwrap().value().load().unwrap().into_owned()
    };
    let one: Vec<f32> = gradient(1).iter().map(|v| 2.0 * v).collect();
    assert_eq!(gradient(2), one);
}

#[test]
fn first_values_follow_the_paper() {
    let (_, params) = Encoder::new(&SmallR3d { residual: true, ..tiny() }.net().unwrap(), 64, 32, 5).unwrap();
    for (_, p) in params.iter() {
        let data = p.value.load().unwrap();
        let mean = data.iter().map(|v| f64::from(*v)).sum::<f64>() / data.len() as f64;
        let deviation = (data.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / data.len() as f64).sqrt();
        let want = match p.role {
            Role::ConvWeight => {
                let fan_out = p.value.dims()[..4].iter().product::<usize>();
                (2.0 / fan_out as f64).sqrt()
            }
            Role::LinearWeight => 0.01,
            _ => 0.0,
        };
        // The deviation of n normal draws scatters by 1/sqrt(2n): within six of those.
        let scatter = 6.0 / (2.0 * data.len() as f64).sqrt();
        assert!((deviation - want).abs() <= scatter * want, "{}: deviation {deviation}, not {want}", p.name);
        let ends_block = p.name.ends_with("conv2.1.weight");
        match p.role {
            Role::NormScale => assert_eq!(data[0], if ends_block { 0.0 } else { 1.0 }, "{}", p.name),
            Role::NormShift | Role::Bias | Role::RunningMean => assert_eq!(data[0], 0.0, "{}", p.name),
            Role::RunningVar => assert_eq!(data[0], 1.0, "{}", p.name),
            _ => {}
        }
    }
    let draw = |seed| Encoder::new(&tiny().net().unwrap(), 8, 4, seed).unwrap().1;
    let first = |p: &Params| p.iter().next().unwrap().1.value.load().unwrap().into_owned();
    assert_eq!(first(&draw(5)), first(&params), "what stands behind a layer does not change it");
    assert_ne!(first(&draw(6)), first(&params));
}

#[test]
fn only_normalisations_escape_weight_decay() {
    let (_, params) = Encoder::new(&tiny().net().unwrap(), 24, 12, 1).unwrap();
    for (_, p) in params.trainable() {
        let norm = matches!(p.role, Role::NormScale | Role::NormShift);
        assert_eq!(p.role.decays(), !norm, "{}", p.name);
    }
}

#[test]
fn small_networks_take_their_options() {
    let net = SmallR3d {
        in_channels: 1,
        widths: vec![4, 8, 8],
        blocks: vec![0, 2, 1],
        convs: 1,
        residual: false,
        stem_kernel: [5, 3, 3],
        stem_stride: [2, 2, 2],
        strides: vec![[1; 3], [1, 2, 2], [2, 1, 1]],
        temporal: vec![1, 1, 3],
    };
    let (trunk, mut params) = trunk(&net.net().unwrap());
    assert_eq!(params.count(), (4 * 5 * 9 + 8) + (8 * 4 * 9 + 16) + (8 * 8 * 9 + 16) + (8 * 8 * 27 + 16));
    let tape = Tape::no_grad();
    let mut pass = Pass::new(&tape, &mut params, Mode::Eval);
    let map = trunk.forward_map(&mut pass, &Var::constant(filled("x", [1, 9, 10, 12, 1]))).unwrap();
    assert_eq!((map.shape().dims(), trunk.features_dim()), (&[1, 3, 3, 3, 8][..], 8));

    let wrong = Var::constant(filled("x", [1, 9, 10, 12, 3]));
    let error = trunk.forward(&mut pass, &wrong).err().unwrap().to_string();
    assert_eq!(error, "network: `x` must be [n t h w 1], but it is [1 9 10 12 3]");
}

#[test]
fn impossible_networks_are_refused() {
    let refused = |net: SmallR3d| net.net().unwrap_err().to_string();
    let d = SmallR3d::default;
    assert!(refused(SmallR3d { blocks: vec![1], ..d() }).contains("one entry for each stage"));
    assert!(refused(SmallR3d { widths: vec![], ..d() }).contains("one entry for each stage"));
    assert!(refused(SmallR3d { convs: 0, ..d() }).contains("none of them may be 0"));
    assert!(refused(SmallR3d { temporal: vec![3, 2, 3], ..d() }).contains("odd"));
    assert!(refused(SmallR3d { stem_stride: [1, 0, 1], ..d() }).contains("at least 1"));
    assert!(Net::motion_r2d50(3).unwrap_err().to_string().contains("it must divide 64"));
    assert!(Encoder::new(&d().net().unwrap(), 0, 8, 1).is_err());
    assert!(Classifier::new(&d().net().unwrap(), 0, 1).is_err());
}
