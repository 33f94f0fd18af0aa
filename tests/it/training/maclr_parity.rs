//! MaCLR's training against PyTorch: the four losses of three steps, and the weights, statistics and queues after them.
//!
//! Goldens: `tests/fixtures/maclr.safetensors`, made by `tests/fixtures/make/maclr.py` in float64 with the program that our
//! speed is compared with: what is compared there does the same work.

use crate::support::goldens::{Goldens, fill_params, filled};
use tubelet::nn::{Encoder, Params, SmallR3d};
use tubelet::ops::sgd::Sgd;
use tubelet::rng::{Purpose, stream};
use tubelet::ssl::maclr::{CrossPositive, Maclr, Pathways, Views};
use tubelet::ssl::pathway::Pathway;
use tubelet::ssl::queue::Queue;
use tubelet::tensor::Integers;
use tubelet::weights::to_pytorch;

const OWNERS: [[u32; 4]; 3] = [[3, 7, 5, 11], [1, 3, 8, 2], [7, 4, 3, 9]];
const QUEUE: usize = 12;
const CODE: usize = 4;

fn pathway(in_channels: usize, stem_t: usize) -> Pathway {
    let spec = SmallR3d {
        in_channels,
        widths: vec![4, 8],
        blocks: vec![0, 1],
        convs: 2,
        residual: true,
        stem_kernel: [3, 3, 3],
        stem_stride: [stem_t, 2, 2],
        strides: vec![[1; 3], [2; 3]],
        temporal: vec![3; 2],
    };
    let (encoder, mut params) = Encoder::normalised(&spec.net().unwrap(), 8, CODE, 1).unwrap();
    fill_params(&mut params);
    Pathway::new(encoder, params, Queue::new(QUEUE, CODE).unwrap()).unwrap()
}

/// All numbers of a network, in PyTorch's layout and in the order of its names.
fn numbers(params: &Params) -> Vec<f32> {
    let mut all: Vec<_> = params.iter().map(|(_, p)| p).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all.iter().flat_map(|p| to_pytorch(p.role, &p.value).unwrap().1.into_owned()).collect()
}

#[test]
fn three_steps_agree_with_pytorch() {
    let goldens = Goldens::open("maclr");
    let method =
        Maclr { w_vv: 0.1, momentum: 0.9, cross_positive: CrossPositive::SameClip, in_batch: true, ..Maclr::default() };
    let sgd = Sgd { momentum: 0.9, nesterov: true, weight_decay: 1e-4 };
    let mut p = Pathways { visual: pathway(3, 1), motion: Some(pathway(1, 2)) };
    let mut losses = Vec::new();
    for (step, owners) in OWNERS.iter().enumerate() {
        let rgb = ["a", "b"].map(|clip| filled(&format!("rgb{step}{clip}"), [4, 4, 16, 16, 3]));
        let motion = ["a", "b"].map(|clip| filled(&format!("motion{step}{clip}"), [4, 8, 16, 16, 1]));
        let owners = Integers::new(owners.to_vec());
        let views = Views { rgb, motion: Some(motion), targets: None, owners, key_clips: Vec::new() };
        let mut rng = stream(1, 0, step as u64, Purpose::KeyShuffle);
        let report = method.step(&mut p, &views, &mut rng, 0.02, &sgd).unwrap();
        losses.extend(["vv", "mm", "vm", "mv"].map(|term| report.part(&format!("loss_{term}")).unwrap()));
    }
    goldens.check("losses", &losses);
    for (name, p) in [("visual", &p.visual), ("motion", p.motion.as_ref().unwrap())] {
        goldens.check(&format!("{name}/query"), &numbers(p.query()));
        goldens.check(&format!("{name}/key"), &numbers(p.key()));
        goldens.check(&format!("{name}/queue"), &p.queue().keys().load().unwrap());
    }
}
