//! One training step, three places: the same code on the CPU, in the simulator and on a GPU.
//!
//! How far may two right implementations be apart after ten steps? Each pass of a layer is a set of sums, and a computed
//! sum is the exact sum of terms changed by at most `γ` each (the backward error, with the bound that holds for roundings
//! independent of each other), which is the exact result of weights changed by at most `γ`. So the CPU's own run is repeated with weights nudged by `±γ` before each step, and two
//! implementations may differ by what such nudges do.

use crate::support::close::{Trace, assert_within_nudges, beyond_nudges, likely_gamma};
use crate::support::numbers::noise;
use crate::support::sim::{Sim, on_gpu};
use crate::support::whole_run::VIDEOS;
use crate::training::maclr::{method, recipe, views};
use ptxsim::Order;
use rand::RngExt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use tubelet::dist::Alone;
use tubelet::dist::sum::Wire;
use tubelet::nn::Params;
use tubelet::ops::sgd::Sgd;
use tubelet::rng::{Purpose, stream};
use tubelet::ssl::Division;
use tubelet::ssl::alignment::Alignment;
use tubelet::ssl::capture::Captured;
use tubelet::ssl::maclr::{CrossPositive, Maclr, Pathways};
use tubelet::tensor::{DType, Device, Tensor};
use tubelet::train::checkpoint::State;
use tubelet::train::maclr::{MaclrRun, Recipe};
use tubelet::train::pretrain::{At, Method};
use tubelet::train::views::{ClipPair, Part};

const STEPS: u64 = 10;
/// Small enough that ten steps do not blow a rounding up to the size of the weights.
const RATE: f32 = 0.002;

fn pathways(dtype: DType, device: &Device) -> (Maclr, Pathways) {
    let method = Maclr { precision: dtype.into(), ..method() };
    let recipe = Recipe { method: method.clone(), ..recipe() };
    (method, recipe.pathways(VIDEOS, 1, device).unwrap())
}

fn all(p: &Pathways) -> Vec<&Params> {
    let networks = [Some(&p.visual), p.motion.as_ref()].into_iter().flatten();
    networks.flat_map(|n| [n.query(), n.key()]).collect()
}

/// Changes every trained number by a factor of `1 ± size`.
fn nudge(p: &mut Pathways, size: f64, seed: u64, step: u64) {
    let mut rng = stream(seed, 0, step, Purpose::Test);
    let networks = [Some(&mut p.visual), p.motion.as_mut()].into_iter().flatten();
    for network in networks {
        for (_, param) in network.query_mut().iter_mut().filter(|(_, p)| p.role.trains()) {
            let values: Vec<f32> = param.value.load().unwrap().to_vec();
            let moved = values.iter().map(|v| v * (1.0 + if rng.random() { size } else { -size }) as f32);
            param.value = Tensor::from_f32(param.value.shape(), &moved.collect::<Vec<_>>()).unwrap();
        }
    }
}

/// The losses of ten steps and every number the networks hold after them.
fn run(dtype: DType, device: &Device, nudged: Option<(f64, u64)>) -> Trace {
    run_with(&Sgd::default(), dtype, device, nudged)
}

fn run_with(sgd: &Sgd, dtype: DType, device: &Device, nudged: Option<(f64, u64)>) -> Trace {
    let (method, mut p) = pathways(dtype, device);
    let views = views(4).to(device).unwrap();
    let mut losses = Vec::new();
    for i in 0..STEPS {
        if let Some((size, seed)) = nudged {
            nudge(&mut p, size, seed, i);
        }
        let mut rng = stream(1, 0, i, Purpose::KeyShuffle);
        losses.push(method.step(&mut p, &views, &mut rng, RATE, sgd).unwrap().loss);
    }
    let state = all(&p)
        .into_iter()
        .flat_map(|params| params.iter().map(|(_, p)| (p.name.clone(), p.value.load().unwrap().to_vec())))
        .collect();
    Trace { losses, state }
}

/// Terms of the longest sums: the pixels of a filter's gradient in the stem of the motion network.
const LONGEST: usize = 4 * 8 * 8 * 8;

/// The CPU's run, and its runs with nudged weights.
fn nudged(dtype: DType) -> (Trace, Vec<Trace>) {
    // In bf16 results are rounded as they are stored, in both places alike unless the sums before differ.
    let size = likely_gamma(LONGEST) + if dtype == DType::BF16 { dtype.unit_roundoff() } else { 0.0 };
    let one = |seed| run(dtype, &Device::Cpu, Some((size, seed)));
    (run(dtype, &Device::Cpu, None), (0..4).map(one).collect())
}

fn agrees(dtype: DType) {
    let (cpu, nudged) = nudged(dtype);
    let gpu = on_gpu(|device| run(dtype, device, None));
    assert_within_nudges(&gpu, &cpu, &nudged);
}

#[test]
fn ten_steps_agree_with_the_cpu_in_f32() {
    agrees(DType::F32);
}

#[test]
fn ten_steps_agree_with_the_cpu_in_bf16() {
    agrees(DType::BF16);
}

/// The bounds are tight enough to see a momentum that is a hundredth off, or in bf16 a tenth.
#[test]
fn a_step_that_is_wrong_is_noticed() {
    for (dtype, momentum) in [(DType::F32, 0.891), (DType::BF16, 0.81)] {
        let (cpu, nudged) = nudged(dtype);
        let wrong = run_with(&Sgd { momentum, ..Sgd::default() }, dtype, &Device::Cpu, None);
        let apart = beyond_nudges(&wrong, &cpu, &nudged).expect("it is noticed");
        println!("{}: {apart}", dtype.name());
    }
}

/// After the first steps no memory is asked of the driver any more, and the host waits once a step.
#[test]
fn a_step_allocates_nothing_and_waits_once() {
    let sim = Sim::new(Order::Forward);
    let (method, mut p) = pathways(DType::BF16, &sim.device());
    let views = views(4).to(&sim.device()).unwrap();
    let mut step = |i| {
        let mut rng = stream(1, 0, i, Purpose::KeyShuffle);
        method.step(&mut p, &views, &mut rng, 0.02, &Sgd::default()).unwrap();
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

/// A run of the training loop's method with its step recorded, restored in between, is the run without.
#[test]
fn a_recorded_run_is_the_run() {
    recorded_is_the_run(&recipe(), None);
}

/// So it is with terms between time steps, and with an alignment whose weight changes in each epoch and is 0 in the last: then it
/// is not in the recording.
#[test]
fn a_recorded_run_with_all_terms_is_the_run() {
    let falling = Alignment { warm_weight: 3.0, last_weight: Some(0.0), ..Alignment::from_scratch("layer2.0") };
    // Off at first: the recording of the warm-up does not have it.
    let late = Alignment { warm_weight: 0.0, ..falling.clone() };
    let steps = Maclr { w_steps: 0.5, ..method() };
    let steps = Recipe { method: Maclr { cross_positive: CrossPositive::SameClip, ..steps }, ..recipe() };
    recorded_is_the_run(&steps, None);
    for alignment in [falling, late] {
        let method = Maclr { alignment: Some(alignment), ..method() };
        let aligned = Recipe { method, ..recipe() }.with_target().unwrap();
        let grid = aligned.training.views.focus.target;
        assert!(grid.is_some());
        recorded_is_the_run(&aligned, grid);
    }
}

fn recorded_is_the_run(recipe: &Recipe, grid: Option<[usize; 3]>) {
    let sample = |video: u32, step: u64| {
        let part = |dims: [usize; 4], seed: u64| {
            let data = noise(seed + 10 * u64::from(video) + 1000 * step, &dims).load().unwrap().into_owned();
            Part::new(dims, data)
        };
        let (rgb, motion) = ([4, 16, 16, 3], [8, 16, 16, 1]);
        ClipPair {
            video,
            starts: [0.0; 2],
            rgb: [part(rgb, 1), part(rgb, 2)],
            motion: Some([part(motion, 3), part(motion, 4)]),
            target: grid.map(|[t, h, w]| [5, 6].map(|seed| part([t, h, w, 1], seed))),
        }
    };
    let run = |recorded: bool| {
        let sim = Sim::new(Order::Forward);
        let new = || MaclrRun::new(recipe, VIDEOS, 1, &sim.device()).unwrap();
        let mut method = if recorded { new().recorded() } else { new() };
        let mut losses = Vec::new();
        for step in 0..7 {
            if step == 4 {
                let mut state = State::default();
                method.save(&mut state);
                method.restore(&state).unwrap();
            }
            let batch = (0..4).map(|i| sample((i + step as u32) % VIDEOS as u32, step)).collect();
            // Three steps of warm-up (half an epoch), then epochs of two: a recording is replayed with another weight than it was made with.
            let at = At { seed: 1, epoch: step.saturating_sub(1) / 2, step, epochs: 4 };
            losses.push(method.step(batch, at, 0.01, &Sgd::default()).unwrap().loss.to_bits());
        }
        losses
    };
    assert_eq!(run(true), run(false));
}

/// With one network that runs its blocks a second time in the backward pass.
fn twice(Pathways { visual, motion }: Pathways) -> Pathways {
    Pathways { visual: visual.recomputing(true), motion }
}

/// Captured once and repeated on new clips, rates and permutations: the same bits as step by step, queues included.
#[test]
fn a_recorded_step_repeats_itself() {
    let sgd = Sgd::default();
    let batch = |i: u64| {
        let mut v = views(4);
        v.rgb = v.rgb.map(|x| tubelet::ops::arith::scale_forward(&x, 1.0 + 0.1 * i as f32).unwrap());
        v.owners = (0..4).map(|o| (o + i as u32) % VIDEOS as u32).collect();
        v
    };
    let rate = |i: u64| 0.02 / (1 + i) as f32;
    let rng = |i| stream(1, 0, i, Purpose::KeyShuffle);
    let everything = |p: &Pathways| -> Vec<Vec<u32>> {
        let numbers = |t: &Tensor| t.load().unwrap().iter().map(|v| v.to_bits()).collect();
        let networks = [Some(&p.visual), p.motion.as_ref()].into_iter().flatten();
        let mut all = Vec::new();
        for network in networks {
            all.push(numbers(network.queue().keys()));
            all.push([network.queue().owners(), &[network.queue().at() as u32]].concat());
            for params in [network.query(), network.key()] {
                all.push(vec![params.batches as u32]);
                all.extend(params.iter().map(|(_, p)| numbers(&p.value)));
            }
        }
        all
    };
    for (dtype, micro_batches) in [(DType::F32, 1), (DType::BF16, 1), (DType::BF16, 2)] {
        let division = Division::new(Arc::new(Alone), micro_batches, Wire::F32).unwrap();
        let (one, other) = (Sim::new(Order::Forward), Sim::new(Order::Forward));
        let (method, p) = pathways(dtype, &one.device());
        let mut p = twice(p);
        let want: Vec<u32> = (0..6)
            .map(|i| method.step_of(&mut p, &batch(i), &mut rng(i), rate(i), &sgd, &division).unwrap().loss.to_bits())
            .collect();
        let mut q = twice(pathways(dtype, &other.device()).1);
        let mut got: Vec<u32> = (0..1)
            .map(|i| method.step_of(&mut q, &batch(i), &mut rng(i), rate(i), &sgd, &division).unwrap().loss.to_bits())
            .collect();
        let (mut recorded, report) =
            Captured::new(&method, &mut q, &batch(1), &mut rng(1), rate(1).into(), &sgd, &division).unwrap();
        got.push(report.loss.to_bits());
        let before = other.gpu.usage();
        for i in 2..6 {
            got.push(recorded.step(&mut q, &batch(i), &mut rng(i), rate(i).into()).unwrap().loss.to_bits());
        }
        assert_eq!(got, want);
        assert_eq!(everything(&p), everything(&q));
        assert_eq!((before.allocations, before.live), (other.gpu.usage().allocations, other.gpu.usage().live));
        assert!(recorded.bytes() > 0);
    }
}
