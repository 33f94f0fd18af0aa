//! A complete MCL step with and without the alignment loss: the cost of the alignment in time and memory.
//!
//! Before Criterion's cases, which are timed one after another, the steps of each network's variants are alternated and
//! their best times compared, so that other load on the machine affects all of them. Memory is the peak use by tensors
//! during three steps in a separate process, including weights and clips.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::process::Command;
use std::time::{Duration, Instant};
use tubelet::ops::sgd::Sgd;
use tubelet::rng::{Purpose, stream};
use tubelet::ssl::alignment::{Alignment, Form};
use tubelet::ssl::mcl::{Mcl, Network, Rates, Views};
use tubelet::tensor::{Device, Integers, Tensor, memory};
use tubelet::train::mcl::Recipe;

/// One network with one kind of alignment.
struct Case {
    name: String,
    method: Mcl,
    network: Network,
    views: Views,
    step: u64,
}

impl Case {
    fn step(&mut self) {
        let mut rng = stream(1, 0, self.step, Purpose::KeyShuffle);
        self.step += 1;
        let rates = Rates { lr: 0.01, order: 1.0, alignment: self.method.alignment.weight };
        self.method.step(&mut self.network, &self.views, &mut rng, rates, &Sgd::default()).unwrap();
    }
}

/// Kinds of alignment: none, the release's, Grad-CAM's, with magnitudes.
const WAYS: usize = 4;

/// The network of `recipe` with `n` videos per step and alignment kind `way`.
fn case(net: &str, recipe: &Recipe, n: usize, last: &str, below: &str, way: usize) -> Case {
    let off = Alignment { weight: 0.0, warm_weight: 0.0, ..Alignment::released(last) };
    let grad_cam = Alignment { form: Form::GradCam, ..Alignment::released(below) };
    let ways = [
        ("off", off),
        ("released", Alignment::released(last)),
        ("grad_cam", grad_cam),
        ("magnitude", Alignment::from_scratch(below)),
    ];
    let (way, alignment) = ways[way].clone();
    let [[t, h, w, c], _] = recipe.training.views.dims();
    let recipe = Recipe { method: Mcl { alignment, ..recipe.method.clone() }, ..recipe.clone() };
    let clip = |seed: usize| {
        let data: Vec<f32> = (0..n * t * h * w * c).map(|i| (i as f32 * 0.7 + seed as f32).sin()).collect();
        Tensor::from_f32([n, t, h, w, c], &data).unwrap()
    };
    let target = recipe.grid().unwrap().map(|[t, h, w]| {
        let data: Vec<f32> = (0..n * t * h * w).map(|i| (i as f32 * 0.3).sin().abs()).collect();
        Tensor::from_f32([n, t, h, w], &data).unwrap()
    });
    let views = Views {
        query: clip(0),
        keys: [clip(1), clip(2), clip(3)],
        target,
        order: Tensor::from_f32([n, 1], &vec![1.0; n]).unwrap(),
        owners: Integers::new((0..n as u32).collect()),
        permuted: false,
    };
    let (network, _) = recipe.network(256, 1, &Device::Cpu).unwrap();
    let name = format!("{net}/{n}x{t}x{h}x{w}/{way}/f32/cpu");
    Case { name, method: recipe.method, network, views, step: 0 }
}

fn small(way: usize) -> Case {
    case("mcl_small", &Recipe::small(), 32, "layer4.0.conv2.0", "layer3.0", way)
}

fn paper(way: usize) -> Case {
    case("mcl_p3d_a50", &Recipe::paper(), 1, "layer4.2.conv3", "layer4.0", way)
}

/// Set for a process that measures its memory: `network way`.
const MEMORY_OF: &str = "TUBELET_MEMORY_OF";

/// Runs three steps of the case named by [`MEMORY_OF`], then returns the peak memory use by tensors in bytes.
fn measured(of: &str) {
    let (net, way) = of.split_once(' ').expect("network and way");
    let way = way.parse().expect("a number");
    let mut case = if net == "small" { small(way) } else { paper(way) };
    (0..3).for_each(|_| case.step());
    println!("{}", memory::usage().peak);
}

/// The bytes that a separate process needs for it.
fn bytes_of(net: &str, way: usize) -> f64 {
    let mut process = Command::new(std::env::current_exe().unwrap());
    let out = process.arg("--bench").env(MEMORY_OF, format!("{net} {way}")).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    text.trim().parse().unwrap_or_else(|_| panic!("no number of bytes in {text}"))
}

/// Best times of alternating steps, and memory, as one line of JSON per case.
fn by_turns(net: &str, make: fn(usize) -> Case, rounds: usize) {
    let mut cases: Vec<Case> = (0..WAYS).map(make).collect();
    let mut best = [f64::INFINITY; WAYS];
    for round in 0..=rounds {
        for (case, best) in cases.iter_mut().zip(&mut best) {
            let began = Instant::now();
            case.step();
            // The first step fills caches and separates what query and key network share.
            if round > 0 {
                *best = best.min(began.elapsed().as_secs_f64());
            }
        }
    }
    let names: Vec<String> = cases.into_iter().map(|case| case.name).collect();
    let bytes: Vec<f64> = (0..WAYS).map(|way| bytes_of(net, way)).collect();
    for ((name, s), bytes_) in names.iter().zip(best).zip(&bytes) {
        println!(
            "{{\"case\":\"train_step/{name}\",\"best_ms\":{:.1},\"of_off\":{:.3},\"peak_mib\":{:.1},\"peak_of_off\":{:.3}}}",
            1e3 * s,
            s / best[0],
            bytes_ / f64::from(1 << 20),
            bytes_ / bytes[0]
        );
    }
}

fn mcl_step(c: &mut Criterion) {
    if let Ok(of) = std::env::var(MEMORY_OF) {
        measured(&of);
        std::process::exit(0);
    }
    by_turns("small", small, 12);
    by_turns("paper", paper, 3);
    let mut group = c.benchmark_group("train_step");
    group.sample_size(10).warm_up_time(Duration::from_millis(1)).measurement_time(Duration::from_secs(5));
    for mut case in (0..WAYS).map(small) {
        group.throughput(Throughput::Elements(32));
        group.bench_function(case.name.clone(), |bench| bench.iter(|| case.step()));
    }
    group.finish();
}

criterion_group!(benches, mcl_step);
criterion_main!(benches);
