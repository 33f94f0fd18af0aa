//! The whole MCL loss against PyTorch: total, parts, the map of gradients, and every gradient of the query network, the
//! alignment differentiated through the gradient.
//!
//! Goldens: `tests/fixtures/mcl.safetensors`, made by `tests/fixtures/make/mcl.py` in float64, where also the error of
//! PyTorch's float32 is printed: up to 4e-5 of all gradients together, 6e-5 of a single one.

use crate::support::close::assert_norm;
use crate::support::goldens::{Goldens, fill, filled};
use tubelet::nn::{HeadSpec, MclEncoder, P3d, Params, Role};
use tubelet::ops::alignment::{Cosines, TargetNorm};
use tubelet::rng::{self, Purpose};
use tubelet::ssl::alignment::{Alignment, Form};
use tubelet::ssl::mcl::{Mcl, Rates, Views};
use tubelet::ssl::pathway::Pathway;
use tubelet::ssl::queue::Queue;
use tubelet::tensor::{Integers, Tensor};
use tubelet::weights::{from_pytorch, to_pytorch};

const OWNERS: [u32; 4] = [3, 7, 5, 11];
const QUEUE: [u32; 12] = [7, 1, 2, 3, 9, 5, 3, 8, 4, 11, 6, 10];
const CODE: usize = 8;

/// The numbers of the generator: from `prefix` and the name.
fn fill_with(prefix: &str, params: &mut Params) {
    for (_, p) in params.iter_mut() {
        let shape = p.value.shape();
        let fan_in = shape.len() / shape.dims()[0];
        let (mean, deviation) = match p.role {
            Role::ConvWeight | Role::LinearWeight => (0.0, (6.0 / fan_in as f64).sqrt()),
            Role::NormScale => (0.7, 0.2),
            Role::NormShift | Role::Bias | Role::RunningMean => (0.2, 0.2),
            Role::RunningVar => (1.0, 0.5),
        };
        let values = fill(&format!("{prefix}{}", p.name), shape.len());
        let values: Vec<f32> = values.iter().map(|v| (mean + deviation * v) as f32).collect();
        p.value = from_pytorch(p.role, shape, &values).unwrap();
    }
}

fn pathway() -> Pathway<MclEncoder> {
    let net = P3d { width: 6, blocks: vec![1, 1], ..P3d::default() }.net().unwrap();
    let heads = HeadSpec { hidden: 12, code: CODE, normalised: false };
    let (encoder, mut params) = MclEncoder::new(&net, heads, 1).unwrap();
    fill_with("", &mut params);
    let queue: Vec<f32> = fill("queue", QUEUE.len() * CODE).iter().map(|v| (0.3 * v) as f32).collect();
    let keys = Tensor::from_f32([QUEUE.len(), CODE], &queue).unwrap();
    let mut p = Pathway::new(encoder, params, Queue::restore(keys, QUEUE.to_vec(), 0).unwrap()).unwrap();
    let ([(_, key), _], _) = p.followers_mut();
    fill_with("key.", key);
    p
}

/// What one variant of the generator computes, to 1e-4.
fn parity(name: &str, method: &Mcl, grid: [usize; 3], weight: f32) {
    let goldens = Goldens::open("mcl");
    let mut p = pathway();
    let [t, h, w] = grid;
    let target = fill("target", OWNERS.len() * t * h * w);
    let target: Vec<f32> = target.iter().map(|v| (10.0 * (v - 0.2).max(0.0)) as f32).collect();
    let clip = |name| filled(name, [OWNERS.len(), 8, 32, 32, 3]);
    let views = Views {
        query: clip("q"),
        keys: ["k1", "k2", "k3"].map(clip),
        target: Some(Tensor::from_f32([OWNERS.len(), t, h, w], &target).unwrap()),
        order: Tensor::from_f32([OWNERS.len(), 1], &[1.0, -1.0, -1.0, 1.0]).unwrap(),
        owners: Integers::new(OWNERS.to_vec()),
        permuted: false,
    };
    let mut rng = rng::stream(1, 0, 0, Purpose::KeyShuffle);
    let rates = Rates { lr: 0.0, order: 0.7, alignment: weight };
    let inputs = method.inputs(&p, &views, &mut rng, rates).unwrap();
    let step = method.gradients(&mut p, &inputs).unwrap();

    let report = step.seen.read().unwrap();
    let part = |name: &str| report.parts.iter().find(|(n, _)| *n == name).map(|(_, v)| *v).expect(name);
    let parts = [report.loss, part("loss_inter"), part("loss_intra"), part("loss_order"), part("loss_align")];
    assert_norm(&format!("{name}: loss and parts"), &parts, &goldens.get(&format!("{name}/parts")), 1e-5);

    assert_eq!(step.grads.len(), p.query().trainable().count());
    let (mut all, mut want) = (Vec::new(), Vec::new());
    for (id, grad) in &step.grads {
        let param = &p.query()[*id];
        let (_, got) = to_pytorch(param.role, grad).unwrap();
        let golden = goldens.get(&format!("{name}/grad.{}", param.name));
        // A gradient that is a small difference of large terms has the rounding of those: here up to 3e-4.
        assert_norm(&format!("{name}: gradient of {}", param.name), &got, &golden, 3e-4);
        all.extend_from_slice(&got);
        want.extend(golden);
    }
    assert_norm(&format!("{name}: all gradients"), &all, &want, 1e-4);
}

fn aligned(module: &str, form: Form, detached: bool, target_norm: TargetNorm, centred: bool) -> Mcl {
    let cosines = Cosines { target_norm, centred, ..Cosines::default() };
    let alignment = Alignment { form, detached, cosines, ..Alignment::released(module) };
    Mcl { alignment, ..Mcl::released(module) }
}

/// Weight x gradient at the output of the last convolution before its normalisation, with the unscaled softmax.
#[test]
fn the_released_form_agrees_with_pytorch() {
    let method = aligned("layer2.0.conv3", Form::WeightGradient, false, TargetNorm::Raw, false);
    parity("released", &method, [2, 4, 4], 2.0);
}

/// Grad-CAM a block earlier: convolutions with a stride, normalisations and a shortcut are differentiated twice.
#[test]
fn the_grad_cam_form_agrees_with_pytorch() {
    let method = aligned("layer1.0", Form::GradCam, false, TargetNorm::Mean, false);
    parity("grad_cam", &method, [2, 8, 8], 3.0);
}

#[test]
fn the_form_with_constant_weights_agrees_with_pytorch() {
    let method = aligned("layer1.0", Form::Magnitude, true, TargetNorm::Mean, true);
    parity("magnitude", &method, [2, 8, 8], 3.0);
}

/// The query network normalises by running statistics; the key network by the batch's, as always.
#[test]
fn frozen_normalisation_agrees_with_pytorch() {
    let method = aligned("layer1.0", Form::GradCam, false, TargetNorm::Mean, true);
    parity("frozen", &Mcl { frozen_norm: true, ..method }, [2, 8, 8], 3.0);
}
