//! MCL's step in two places: four losses, one of them differentiated through a gradient, on the CPU and on a device. How far
//! they may be apart is derived as for MaCLR's (`device::maclr`): by what nudges of the size of a rounding do.

use crate::support::close::{Trace, assert_within_nudges, beyond_nudges, likely_gamma};
use crate::support::sim::{Sim, on_gpu};
use crate::support::whole_run::VIDEOS;
use crate::training::mcl::{RATES, recipe, views};
use ptxsim::Order;
use rand::RngExt;
use std::sync::atomic::Ordering::Relaxed;
use tubelet::ops::alignment::{Cosines, TargetNorm};
use tubelet::ops::sgd::Sgd;
use tubelet::rng::{Purpose, stream};
use tubelet::ssl::alignment::{Alignment, Form};
use tubelet::ssl::mcl::{Mcl, Network, Rates};
use tubelet::tensor::{Device, Tensor};

const STEPS: u64 = 4;
/// Small enough that the steps do not blow a rounding up to the size of the weights.
const RATE: f32 = 0.002;
/// Terms of the longest sums: the pixels of a filter's gradient in the first layer.
const LONGEST: usize = 4 * 4 * 8 * 8;

/// The alignment on a convolution that a normalisation follows, differentiated through the gradient.
fn through(form: Form, target_norm: TargetNorm) -> Mcl {
    let method = recipe().method;
    let cosines = Cosines { target_norm, ..Cosines::default() };
    let alignment = Alignment { form, cosines, detached: false, module: "layer2.0.conv1.0".into(), ..method.alignment };
    Mcl { alignment, ..method }
}

/// Changes every trained number by a factor of `1 ± size`.
fn nudge(network: &mut Network, size: f64, seed: u64, step: u64) {
    let mut rng = stream(seed, 0, step, Purpose::Test);
    for (_, param) in network.query_mut().iter_mut().filter(|(_, p)| p.role.trains()) {
        let values: Vec<f32> = param.value.load().unwrap().to_vec();
        let moved = values.iter().map(|v| v * (1.0 + if rng.random() { size } else { -size }) as f32);
        param.value = Tensor::from_f32(param.value.shape(), &moved.collect::<Vec<_>>()).unwrap();
    }
}

/// The losses of the steps before their weights, the map's cosine, and every number the networks hold after them.
fn run(method: &Mcl, device: &Device, rates: Rates, nudged: Option<(f64, u64)>) -> Trace {
    let (mut network, _) = recipe().network(VIDEOS, 1, device).unwrap();
    let mut losses = Vec::new();
    for i in 0..STEPS {
        if let Some((size, seed)) = nudged {
            nudge(&mut network, size, seed, i);
        }
        let mut rng = stream(1, 0, i, Purpose::KeyShuffle);
        let report = method.step(&mut network, &views(4), &mut rng, rates, &Sgd::default()).unwrap();
        let parts = ["loss_inter", "loss_intra", "loss_order", "loss_align", "align_cosine"];
        losses.extend(parts.map(|name| report.part(name).unwrap()));
    }
    let state = [network.query(), network.key()]
        .into_iter()
        .flat_map(|params| params.iter().map(|(_, p)| (p.name.clone(), p.value.load().unwrap().to_vec())))
        .chain([("queue".to_owned(), network.queue().keys().load().unwrap().to_vec())])
        .collect();
    Trace { losses, state }
}

/// `wrong` is close to `method`, and noticed.
fn agrees(method: &Mcl, wrong: (&Mcl, Rates)) {
    let rates = Rates { lr: RATE, ..RATES };
    let cpu = run(method, &Device::Cpu, rates, None);
    let size = likely_gamma(LONGEST);
    let nudged: Vec<Trace> = (0..4).map(|seed| run(method, &Device::Cpu, rates, Some((size, seed)))).collect();
    let gpu = on_gpu(|device| run(method, device, rates, None));
    assert_within_nudges(&gpu, &cpu, &nudged);
    let wrong = run(wrong.0, &Device::Cpu, Rates { lr: RATE, ..wrong.1 }, None);
    println!("{}: {}", method.alignment.form, beyond_nudges(&wrong, &cpu, &nudged).expect("it is noticed"));
}

/// The same without a derivative of the channel weights, which are gradients.
fn once(method: &Mcl) -> Mcl {
    Mcl { alignment: Alignment { detached: true, ..method.alignment.clone() }, ..method.clone() }
}

#[test]
fn steps_of_the_released_form_agree_with_the_cpu() {
    let method = through(Form::WeightGradient, TargetNorm::Raw);
    agrees(&method, (&once(&method), RATES));
}

#[test]
fn steps_of_the_grad_cam_form_agree_with_the_cpu() {
    let method = through(Form::GradCam, TargetNorm::Mean);
    agrees(&method, (&once(&method), RATES));
}

#[test]
fn steps_of_constant_weights_agree_with_the_cpu() {
    let less = Rates { alignment: 0.9 * RATES.alignment, ..RATES };
    agrees(&recipe().method, (&recipe().method, less));
}

/// The picture of what a network attends to, as it is drawn before and after a run.
#[test]
fn maps_of_gradients_agree_with_the_cpu() {
    for form in [Form::WeightGradient, Form::GradCam, Form::Magnitude] {
        let method = through(form, TargetNorm::Mean);
        let map = |device: &Device| {
            let (network, _) = recipe().network(VIDEOS, 1, device).unwrap();
            let map = method.saliency(&network, &views(4).to(device).unwrap()).unwrap();
            map.load().unwrap().to_vec()
        };
        crate::support::close::assert_norm(&form.to_string(), &on_gpu(map), &map(&Device::Cpu), 1e-4);
    }
}

/// After the first steps no memory is asked of the driver any more, and the host waits once a step.
#[test]
fn a_step_allocates_nothing_and_waits_once() {
    for method in [through(Form::WeightGradient, TargetNorm::Raw), recipe().method] {
        let sim = Sim::new(Order::Forward);
        let (mut network, _) = recipe().network(VIDEOS, 1, &sim.device()).unwrap();
        let views = views(4).to(&sim.device()).unwrap();
        let mut step = |i| {
            let mut rng = stream(1, 0, i, Purpose::KeyShuffle);
            method.step(&mut network, &views, &mut rng, RATES, &Sgd::default()).unwrap();
            (sim.gpu.usage(), sim.waits.load(Relaxed))
        };
        (0..3).for_each(|i| {
            step(i);
        });
        let (before, after) = (step(3), step(4));
        assert_eq!(before.0.allocations, after.0.allocations);
        assert_eq!(before.0.live, after.0.live, "a step leaves as much behind as it found");
        assert_eq!(after.1 - before.1, 1, "for its report");
    }
}
