//! Training steps of a network on a Hopper: the joins between its kernels. Moments from one convolution to the next, masks
//! and sums back, gradients of both branches of a block, weights rounded once a step.

use super::conv3d_sm90::took_part;
use crate::support::close::{Trace, assert_within_nudges, beyond_nudges, likely_gamma};
use crate::support::numbers::noise;
use crate::support::sim::once_on_hopper;
use rand::RngExt;
use tubelet::nn::nets::{Kind, Naming, Stage};
use tubelet::nn::{Classifier, ConvSpec, Net, Precision};
use tubelet::ops::sgd::Sgd;
use tubelet::rng::{Purpose, stream};
use tubelet::ssl::supervised::{Learner, Supervised};
use tubelet::tensor::{DType, Device, Tensor};

/// Input, kernel and stride of the stem: so many pixels that the plan takes kernels for Hopper.
type Stem = ([usize; 5], [usize; 3], [usize; 3]);
const DENSE: Stem = ([2, 4, 60, 60, 3], [1, 3, 3], [1; 3]);
const STRIDED: Stem = ([2, 4, 96, 100, 3], [1, 5, 7], [1, 2, 2]);
/// Terms of the longest sums, those of a filter's gradient: all pixels, of which the strided stem leaves fewer.
const PIXELS: usize = 2 * 4 * 60 * 60;

/// Two blocks: one with a projection, whose gradient has two branches, and one that adds its input.
fn net(kind: Kind, (_, kernel, stride): Stem) -> Net {
    Net {
        naming: Naming::Image,
        in_channels: 3,
        stem: vec![ConvSpec { out: 64, kernel, stride }],
        pool: None,
        stages: vec![Stage { kind, count: 2, out: 128, temporal: 3, stride: [1; 3] }],
        zero_last_scale: false,
    }
}

/// The losses of `steps` steps, and the weights, running statistics and velocities after them.
fn run(kind: Kind, stem: Stem, steps: u64, device: &Device, nudged: Option<u64>) -> Trace {
    run_with(&Sgd::default(), kind, stem, steps, device, nudged)
}

fn run_with(sgd: &Sgd, kind: Kind, stem: Stem, steps: u64, device: &Device, nudged: Option<u64>) -> Trace {
    let clips = stem.0;
    let (classifier, params) = Classifier::new(&net(kind, stem), 5, 1).unwrap();
    let mut learner = Learner::new(classifier, params.to(device).unwrap()).unwrap();
    let how = Supervised { dropout: 0.0, clip_norm: None, frozen: false, precision: Precision::Bf16 };
    let mut losses = Vec::new();
    for step in 0..steps {
        if let Some(seed) = nudged {
            // By what a rounding of a long sum, or of a stored number, may change.
            let size = likely_gamma(PIXELS) + DType::BF16.unit_roundoff();
            let mut rng = stream(seed, 0, step, Purpose::Test);
            let [params, _] = learner.state_mut();
            for (_, param) in params.iter_mut().filter(|(_, p)| p.role.trains()) {
                let values: Vec<f32> = param.value.load().unwrap().to_vec();
                let moved = values.iter().map(|v| v * (1.0 + if rng.random() { size } else { -size }) as f32);
                param.value = Tensor::from_f32(param.value.shape(), &moved.collect::<Vec<_>>()).unwrap();
            }
        }
        let parts = std::iter::once(Ok((noise(7 + step, &clips), vec![1, 3])));
        let mut rng = stream(1, 0, step, Purpose::Dropout);
        let report = learner.step(&how, clips[0], parts, &mut rng, 0.002, sgd).unwrap();
        losses.push(report.loss);
    }
    let values = |of: &str, params: &tubelet::nn::Params| {
        let named = params.iter().map(|(_, p)| (format!("{of} {}", p.name), p.value.load().unwrap().to_vec()));
        named.collect::<Vec<_>>()
    };
    let [params, velocity] = learner.state_mut();
    let state = [values("weights", params), values("velocity", velocity)].concat();
    Trace { losses, state }
}

#[test]
pub fn steps_of_bottlenecks_agree_with_the_cpu() {
    agree(Kind::Bottleneck { inner: 64 }, DENSE, 2);
}

/// Here two convolutions follow each other without a batch norm.
#[test]
pub fn a_step_of_pseudo_bottlenecks_agrees_with_the_cpu() {
    agree(Kind::PseudoBottleneck { inner: 64 }, DENSE, 1);
}

/// A stem whose clips are packed once, for its two passes.
#[test]
fn a_step_behind_a_strided_stem_agrees_with_the_cpu() {
    agree(Kind::Bottleneck { inner: 64 }, STRIDED, 1);
    took_part(&["conv3d_fprop_stem_sm90_", "conv3d_wgrad_stem_sm90_"]);
}

fn agree(kind: Kind, stem: Stem, steps: u64) {
    let want = run(kind, stem, steps, &Device::Cpu, None);
    let nudged: Vec<Trace> = (0..4).map(|seed| run(kind, stem, steps, &Device::Cpu, Some(seed))).collect();
    let got = once_on_hopper(|device| run(kind, stem, steps, device, None));
    assert_within_nudges(&got, &want, &nudged);
    // The bounds are tight enough to see a wrong weight decay in the first step.
    let wrong = Sgd { weight_decay: 0.1, ..Sgd::default() };
    assert!(beyond_nudges(&run_with(&wrong, kind, stem, steps, &Device::Cpu, None), &want, &nudged).is_some());
    took_part(&["conv3d_fprop_halo_sm90_", "conv3d_dgrad_halo_sm90_", "conv3d_wgrad_halo_sm90_"]);
    // dgrad of one tap forms the gradient of the batch norm behind it.
    took_part(&["conv3d_dgrad_affine_sm90_"]);
    // The last convolution of a block reads what the batch norm before it has not written.
    took_part(&["conv3d_fprop_norm_sm90_"]);
}
