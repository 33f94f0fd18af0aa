//! Main memory of a training step: what it takes beyond what the tape must hold, measured in processes of their own, since
//! the figures are those of a process.

use crate::support::skip::{MARK, absent};
use std::process::Command;
use tubelet::cpu::Isa;
use tubelet::nn::nets::Kind;
use tubelet::nn::{Classifier, Mode, Net, Params, Pass, Precision, SmallR3d};
use tubelet::ops::{self, sgd};
use tubelet::tape::{self, Tape, Var};
use tubelet::tensor::{Tensor, memory};

/// Runs the ignored test `name` of this file in a process of its own and returns what it printed.
fn alone(name: &str) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("training::memory::{name}"), "--ignored", "--nocapture", "--test-threads", "1"]);
    let out = command.output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&out.stderr));
    // It counts for the test that asked.
    let lines = text.lines().filter_map(|line| line.strip_prefix(MARK)?.split_once(", for "));
    lines.for_each(|(untested, what)| absent(what.trim_end_matches(" is absent"), untested));
    text
}

/// The network with an eighth of its channels.
pub fn narrow(mut net: Net) -> Net {
    net.stem.iter_mut().for_each(|s| s.out = s.out.div_ceil(8));
    for stage in &mut net.stages {
        stage.out /= 8;
        match &mut stage.kind {
            Kind::Bottleneck { inner } | Kind::PseudoBottleneck { inner } => *inner /= 8,
            _ => {}
        }
    }
    net
}

/// Bytes of a step: parameters, velocity and clips; gradients; what the tape held at the end of the forward pass; the most
/// there was.
struct Figures {
    state: usize,
    gradients: usize,
    tape: usize,
    peak: usize,
}

impl Figures {
    /// The step's peak beyond its state.
    fn beyond(&self) -> usize {
        self.peak - self.state
    }

    /// What of that is not gradients, in units of the tape.
    fn share(&self) -> f64 {
        self.beyond().saturating_sub(self.gradients) as f64 / self.tape as f64
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [state, gradients, tape, peak] =
            [self.state, self.gradients, self.tape, self.peak].map(|bytes| bytes as f64 / 1e6);
        write!(
            f,
            "peak {peak:.1} MB = state {state:.1} + gradients {gradients:.1} + {:.2} of the tape's {tape:.1}",
            self.share()
        )
    }
}

fn step(
    net: &Classifier,
    params: &mut Params,
    velocity: &mut [Tensor],
    x: &Var,
    (precision, recompute): (Precision, bool),
) -> Figures {
    let state = memory::usage().live;
    let gradients = params.iter().filter(|(_, p)| p.role.trains()).map(|(_, p)| 4 * p.value.shape().len()).sum();
    memory::reset_peak();
    let tape = Tape::new();
    let mut pass = Pass::new(&tape, params, Mode::Train { parts: 1 }).with_precision(precision).recomputing(recompute);
    let logits = net.forward(&mut pass, x).unwrap();
    let labels: Vec<usize> = (0..x.shape().dims()[0]).collect();
    let loss = ops::cross_entropy(&tape, &logits, &labels).unwrap();
    let held = memory::usage().live - state;
    let leaves = pass.leaves();
    let vars: Vec<&Var> = leaves.iter().map(|(_, v)| v).collect();
    let grads = tape.grad(&loss, &vars, tape::Mode::Free).unwrap();
    let ids: Vec<_> = leaves.iter().map(|(id, _)| *id).collect();
    drop((leaves, pass));
    for (id, grad) in ids.into_iter().zip(grads) {
        let decays = params[id].role.decays();
        let (w, v) = (&mut params[id].value, &mut velocity[id.index()]);
        sgd::update(&sgd::Sgd::default(), 0.01, w, grad.unwrap().value(), v, decays).unwrap();
    }
    Figures { state, gradients, tape: held, peak: memory::usage().peak }
}

/// Three steps of each network in both precisions, recomputing or not; the figures of the last.
fn figures(nets: &[(&str, Net, [usize; 4])]) {
    for (name, net, [n, t, h, w]) in nets {
        let (net, mut params) = Classifier::new(net, 16, 1).unwrap();
        let mut velocity: Vec<Tensor> = params.iter().map(|(_, p)| Tensor::zeros(p.value.shape())).collect();
        let data: Vec<f32> = (0..n * t * h * w * 3).map(|i| (i as f32 * 0.7).sin()).collect();
        let x = Var::constant(Tensor::from_f32([*n, *t, *h, *w, 3], &data).unwrap());
        for precision in [Precision::F32, Precision::Bf16] {
            let mut figures = |recompute| {
                let mut step = || step(&net, &mut params, &mut velocity, &x, (precision, recompute));
                (step(), step(), step()).2
            };
            let (kept, again) = (figures(false), figures(true));
            println!("{name} {n}x{t}x{h}x{w} {precision}: {kept}; recomputing {again}");
            println!("    held {:.1} MB, resident {:.1} MB", memory::usage().held as f64 / 1e6, resident());
            assert!(kept.share() <= 1.2, "{name} {precision}: {:.3} of what the tape holds", kept.share());
            let ([kept, again], tape) = ([kept.beyond(), again.beyond()], [kept.tape, again.tape]);
            assert!(3 * tape[1] < 2 * tape[0], "{name} {precision}: recomputing saves too little of the tape");
            // Without tiles some convolutions widen their operands of bf16 (with products of pairs those of few channels, in wgrad),
            // and of networks this small that is the peak.
            let widened = precision == Precision::Bf16 && Isa::best() < Isa::Amx;
            assert!(again < kept || widened, "{name} {precision}: recomputing does not lower the peak");
        }
    }
}

/// The most memory this process had resident, in MB; 0 where the system does not say.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<f64>().ok()).unwrap_or(0.0) / 1e3
}

#[test]
fn a_training_step_needs_little_more_than_its_tape() {
    println!("{}", alone("small_networks"));
}

#[test]
#[ignore = "counts the memory of the whole process: a_training_step_needs_little_more_than_its_tape runs it"]
fn small_networks() {
    let nets = [
        ("cvrl_r3d50", narrow(Net::cvrl_r3d50()), [2, 8, 64, 64]),
        ("slow_r50", narrow(Net::slow_r50()), [2, 8, 64, 64]),
        ("p3d_a50", narrow(Net::p3d_a50()), [2, 16, 64, 64]),
        ("r2plus1d_18", narrow(Net::r2plus1d_18()), [2, 16, 32, 32]),
    ];
    figures(&nets);
}

#[test]
#[ignore = "minutes and gigabytes: the published networks at their size"]
fn networks() {
    let nets = [
        ("cvrl_r3d50", Net::cvrl_r3d50(), [2, 8, 224, 224]),
        ("slow_r50", Net::slow_r50(), [2, 8, 224, 224]),
        ("p3d_a50", Net::p3d_a50(), [1, 16, 224, 224]),
        ("r2plus1d_18", Net::r2plus1d_18(), [1, 16, 112, 112]),
    ];
    figures(&nets);
}

#[test]
fn normalised_activations_are_not_held() {
    println!("{}", alone("blocks_of_three_convolutions"));
}

#[test]
#[ignore = "counts the memory of the whole process: normalised_activations_are_not_held runs it"]
fn blocks_of_three_convolutions() {
    let spec = SmallR3d { convs: 3, residual: true, widths: vec![16; 2], blocks: vec![2; 2], ..SmallR3d::default() };
    let spec = SmallR3d { strides: vec![[1; 3]; 2], temporal: vec![3; 2], ..spec };
    let (net, mut params) = Classifier::new(&spec.net().unwrap(), 4, 1).unwrap();
    let data: Vec<f32> = (0..2 * 4 * 32 * 32 * 3).map(|i| (i as f32 * 0.7).sin()).collect();
    let x = Var::constant(Tensor::from_f32([2, 4, 32, 32, 3], &data).unwrap());
    let activation = 4 * 2 * 4 * 16 * 16 * 16;
    for precision in [Precision::F32, Precision::Fma, Precision::Bf16x3, Precision::Bf16] {
        let (tape, before) = (Tape::new(), memory::usage().live);
        let mut pass = Pass::new(&tape, &mut params, Mode::Train { parts: 1 }).with_precision(precision);
        let _y = net.forward(&mut pass, &x).unwrap();
        let narrow = precision == Precision::Bf16;
        let held = (memory::usage().live - before) as f64 / (activation / if narrow { 2 } else { 1 }) as f64;
        println!("{precision}: {held:.2} activations");
        // The stem's convolution and its rectified result; of each of four blocks what three normalisations read, and its
        // result. Not what its second and third convolution read, which would be eight more. In bf16 also rounded filters
        // and clips, worth 3.3.
        let expected = if narrow { 21.3 } else { 18.0 };
        assert!((held - expected).abs() < 0.5, "{precision}: {held}");
    }
}

#[test]
fn infonce_needs_a_small_part_of_its_logits() {
    println!("{}", alone("infonce_with_a_long_queue"));
}

#[test]
#[ignore = "counts the memory of the whole process: infonce_needs_a_small_part_of_its_logits runs it"]
fn infonce_with_a_long_queue() {
    let (n, d, m) = (256, 128, 65536);
    let codes = |n: usize| {
        let any: Vec<f32> = (0..n * d).map(|i| (i as f32 * 0.37).sin()).collect();
        ops::l2_norm::forward(&Tensor::from_f32([n, d], &any).unwrap()).unwrap()
    };
    let (q, k, queue) = (codes(n), codes(n), codes(m));
    let small = codes(m / 128);
    let run = |queue: &Tensor| ops::infonce::forward_backward(&q, &k, queue, 0.1).unwrap();
    run(&small); // threads have their stacks and rayon its queues
    let before = resident();
    if std::fs::write("/proc/self/clear_refs", "5").is_err() || resident() > before {
        return absent("a peak of resident memory that can be set back", "what the process takes");
    }
    let before = resident();
    run(&queue);
    let (more, logits) = (resident() - before, (4 * n * m) as f64 / 1e6);
    println!("{more:.2} MB beside {logits:.1} MB of logits that never were");
    assert!(more < logits / 20.0);
}
