//! InfoNCE's device code in the simulator, against its definition.

use crate::support::close::{assert_within, gamma, tensor_core_gamma};
use crate::support::numbers::{data, reals, tensor, wide};
use crate::support::sim::{Sim, on_gpu, on_hopper, on_tensor_cores};
use ptxsim::Order;
use tubelet::error::ErrorKind;
use tubelet::ops::infonce::{self, Layout, Mask, Owners, Plan, Pointers, Scores, Term};
use tubelet::ops::reference::Bounded;
use tubelet::ops::{self, l2_norm};
use tubelet::tape::{Mode, Tape, Var};
use tubelet::tensor::{DType, Device, Tensor};

pub fn unit(n: usize, d: usize, seed: u64, dtype: DType) -> Tensor {
    l2_norm::forward(&tensor(&[n, d], &reals(n * d, seed))).unwrap().cast(dtype).unwrap()
}

/// Queries, positives, queue, and who owns them.
pub struct Problem {
    pub q: Tensor,
    pub k: Tensor,
    pub queue: Tensor,
    pub rows: Vec<u32>,
    pub keys: Vec<u32>,
    pub tau: f32,
}

impl Problem {
    /// Every third key is near a query, so that probabilities are not all alike; every seventh place is empty.
    pub fn new(n: usize, d: usize, m: usize, tau: f32, [q, k, queue]: [DType; 3]) -> Problem {
        let codes = reals(n * d, 1);
        let mut keys = reals(m * d, 3);
        for (j, key) in keys.chunks_exact_mut(d).enumerate().filter(|(j, _)| j % 3 == 0) {
            key.iter_mut().zip(&codes[j % n * d..]).for_each(|(key, q)| *key = 0.5 * *key + q);
        }
        let unit_rows =
            |rows: usize, x: &[f32], dtype| l2_norm::forward(&tensor(&[rows, d], x)).unwrap().cast(dtype).unwrap();
        Problem {
            q: unit_rows(n, &codes, q),
            k: unit(n, d, 2, k),
            queue: unit_rows(m, &keys, queue),
            rows: (0..n as u32).map(|i| i % 5).collect(),
            keys: (0..m as u32).map(|j| if j % 7 == 6 { Mask::NOBODY } else { j % 9 }).collect(),
            tau,
        }
    }

    pub fn on(&self, device: &Device) -> [Tensor; 3] {
        [&self.q, &self.k, &self.queue].map(|x| x.to(device).unwrap())
    }

    pub fn mask(&self) -> Mask<'_> {
        Mask { rows: &self.rows, keys: &self.keys }
    }

    /// The definition on each query and the keys that count for it: loss, probability of the positive, share of nearest
    /// positives, gradient; and what the first and the last may be off by.
    ///
    /// To the reference's bound comes what the device does otherwise: the fixed maximum `1/τ` in place of the largest logit
    /// (`1/τ` more to round in each exponent), and the exponential itself (2^-22). Both count as terms of size `1 + 1/τ`, and
    /// a probability's relative error grows by as much. With weights in bf16 each is off by one more rounding.
    pub fn want(&self, masked: bool, weights: DType) -> Wanted {
        let (n, d) = (self.q.dims()[0], self.q.dims()[1]);
        let tau = f64::from(self.tau);
        let [q, k, queue] = [&self.q, &self.k, &self.queue].map(|x| wide(&data(x)));
        let mut out = Wanted { scores: [0.0; 3], off: [0.0; 2], dq: Vec::new(), dq_off: Vec::new() };
        for i in 0..n {
            let (q, k) = (&q[i * d..(i + 1) * d], &k[i * d..(i + 1) * d]);
            let counts = |j: &usize| !masked || (self.keys[*j] != self.rows[i] && self.keys[*j] != Mask::NOBODY);
            let keys: Vec<f64> =
                (0..self.keys.len()).filter(counts).flat_map(|j| &queue[j * d..(j + 1) * d]).copied().collect();
            let share = 1.0 / n as f64;
            let Bounded { value, magnitude, terms } = infonce::reference::forward(q, k, &keys, d, tau);
            let dq = infonce::reference::backward(q, k, &keys, d, tau);
            let error = match weights {
                DType::BF16 => tensor_core_gamma(terms + 16),
                _ => 2.0 * gamma(terms + 16, DType::F32),
            };
            let more = 1.0 + 1.0 / tau;
            out.scores[0] += share * value[0];
            out.off[0] += share * error * (magnitude[0] + more);
            let positive = (-value[0]).exp();
            out.scores[1] += share * positive;
            out.off[1] += share * positive * error * (magnitude[0] + more);
            let near = |key: &[f64]| key.iter().zip(q).map(|(a, b)| a * b).sum::<f64>();
            out.scores[2] += share * f64::from(keys.chunks_exact(d).all(|key| near(key) < near(k)));
            let rounding = if weights == DType::BF16 { DType::BF16.unit_roundoff() } else { 0.0 };
            for (v, m) in dq.value.iter().zip(&dq.magnitude) {
                out.dq.push(share * v);
                // The reference's magnitude is at least twice the sum of weighted keys.
                out.dq_off.push(share * m * (error * (1.0 + 0.5 * more) + 0.5 * rounding));
            }
        }
        out
    }
}

pub struct Wanted {
    scores: [f64; 3],
    off: [f64; 2],
    dq: Vec<f64>,
    dq_off: Vec<f64>,
}

impl Wanted {
    #[track_caller]
    pub fn hold(&self, what: &str, scores: Scores, dq: Option<&[f32]>) {
        assert_within(&format!("{what}: loss"), &[scores.loss], &self.scores[..1], &self.off[..1]);
        assert_within(&format!("{what}: positive"), &[scores.positive], &self.scores[1..2], &self.off[1..]);
        assert_within(&format!("{what}: accuracy"), &[scores.accuracy], &self.scores[2..], &[1e-6]);
        if let Some(dq) = dq {
            assert_within(&format!("{what}: dq"), dq, &self.dq, &self.dq_off);
        }
    }
}

fn bits(scores: Scores, dq: &[f32]) -> Vec<u32> {
    let scores = [scores.loss, scores.positive, scores.accuracy];
    scores.iter().chain(dq).map(|v| v.to_bits()).collect()
}

const F32: [DType; 3] = [DType::F32; 3];
pub const BF16: [DType; 3] = [DType::BF16; 3];

fn check(what: &str, p: &Problem) {
    check_on(what, p, false);
}

/// Runs one term with and without its gradient and a mask, in both orders; on a Hopper or any GPU.
pub fn check_on(what: &str, p: &Problem, hopper: bool) {
    let tensor = p.q.dtype() == DType::BF16 && p.queue.dtype() == DType::BF16 && p.q.dims()[1].is_multiple_of(8);
    let weights = if tensor { DType::BF16 } else { DType::F32 };
    for masked in [false, true] {
        let want = p.want(masked, weights);
        let test = |device: &Device| {
            let [q, k, queue] = p.on(device);
            let mask = masked.then_some(p.mask());
            let (scores, dq) = infonce::forward_backward_masked(&q, &k, &queue, mask, p.tau).unwrap();
            let dq = data(&dq);
            want.hold(what, scores, Some(&dq));
            let alone = infonce::forward_masked(&q, &k, &queue, mask, p.tau).unwrap();
            assert_eq!(bits(alone, &[]), bits(scores, &[]), "{what}: the gradient changed the scores");
            bits(scores, &dq)
        };
        if hopper {
            on_hopper(test)
        } else {
            on_tensor_cores(test)
        };
    }
}

#[test]
fn infonce_on_a_gpu_meets_its_reference() {
    for c in infonce::cases::CASES.iter().filter(|c| c.tau >= 0.025 && c.n * c.m < 50_000) {
        check(c.name, &Problem::new(c.n, c.d, c.m, c.tau, F32));
        check(c.name, &Problem::new(c.n, c.d, c.m, c.tau, BF16));
    }
}

/// Each kernel: both widths and both tiles of the tensor cores, plain arithmetic with every mixture of number types, rows and
/// keys that divide nothing.
#[test]
pub fn every_kernel_of_infonce_meets_the_reference() {
    for (n, d, m) in [(3, 64, 65), (64, 128, 257), (70, 40, 130), (130, 128, 300), (65, 104, 64)] {
        check(&format!("tensor cores {n} {d} {m}"), &Problem::new(n, d, m, 0.1, BF16));
    }
    for q in [DType::F32, DType::BF16] {
        for queue in [DType::F32, DType::BF16] {
            for (n, d, m) in [(5, 33, 40), (66, 100, 97), (2, 128, 300)] {
                let d = if q == DType::BF16 && queue == DType::BF16 { d + d % 2 * 2 + 1 - d % 8 % 2 } else { d };
                let d = d.min(127 + usize::from(q == DType::F32));
                let p = Problem::new(n, d, m, 0.07, [q, DType::F32, queue]);
                check(&format!("plain {n} {d} {m} {} {}", q.name(), queue.name()), &p);
            }
        }
    }
}

/// Queries that point away from everything: similarities with the positive and the queue are negative, and the positive's is the
/// largest where `first`. Keys beyond the last are not filled, and a similarity of 0 would outweigh all others.
fn opposed(n: usize, d: usize, m: usize, tau: f32, types: [DType; 3], first: bool) -> Problem {
    let p = Problem::new(n, d, m, tau, types);
    // Codes with numbers of one sign; a key that has half of its numbers at 0 is nearer to orthogonal.
    let unit_rows = |rows: usize, seed: u64, sign: f32, sparse: bool, dtype: DType| {
        let x: Vec<f32> = reals(rows * d, seed)
            .iter()
            .enumerate()
            .map(|(i, v)| sign * if sparse && i % d >= d / 8 { 0.0 } else { 0.5 + 0.25 * v })
            .collect();
        l2_norm::forward(&tensor(&[rows, d], &x)).unwrap().cast(dtype).unwrap()
    };
    Problem {
        q: unit_rows(n, 1, 1.0, false, types[0]),
        k: unit_rows(n, 2, -1.0, first, types[1]),
        queue: unit_rows(m, 3, -1.0, !first, types[2]),
        ..p
    }
}

/// All similarities are -1: queries are one vector, and everything else its opposite.
fn opposite(n: usize, d: usize, m: usize, tau: f32, types: [DType; 3]) -> Problem {
    let rows = |rows: usize, value: f32, dtype: DType| {
        let x: Vec<f32> = (0..rows * d).map(|i| if i % d < 4 { value } else { 0.0 }).collect();
        tensor(&[rows, d], &x).cast(dtype).unwrap()
    };
    let p = Problem::new(n, d, m, tau, types);
    Problem { q: rows(n, 0.5, types[0]), k: rows(n, -0.5, types[1]), queue: rows(m, -0.5, types[2]), ..p }
}

/// With the smallest temperature too: an exponential is then as small as exp(-80).
#[test]
pub fn similarities_may_all_be_negative() {
    for (types, [n, d, m], tau) in [
        (BF16, [5, 64, 70], 0.1),
        (BF16, [5, 64, 70], 0.025),
        (BF16, [66, 128, 130], 0.025),
        (F32, [5, 40, 70], 0.025),
        (F32, [5, 128, 70], 0.1),
    ] {
        all_negative(types, [n, d, m], tau, false);
    }
}

pub fn all_negative(types: [DType; 3], [n, d, m]: [usize; 3], tau: f32, hopper: bool) {
    for (what, p) in [
        ("the positive first", opposed(n, d, m, tau, types, true)),
        ("the positive last", opposed(n, d, m, tau, types, false)),
        ("all alike", opposite(n, d, m, tau, types)),
    ] {
        let (q, k, queue) = (wide(&data(&p.q)), wide(&data(&p.k)), wide(&data(&p.queue)));
        let all = || k.chunks_exact(d).chain(queue.chunks_exact(d));
        let negative = |q: &[f64]| all().all(|key| q.iter().zip(key).map(|(a, b)| a * b).sum::<f64>() < 0.0);
        assert!(q.chunks_exact(d).all(negative), "{what}");
        let nearest = p.want(false, DType::F32).scores[2];
        assert_eq!(nearest > 0.5, what == "the positive first");
        check_on(&format!("{what} {n} {d} {m} {tau}"), &p, hopper);
    }
}

#[test]
fn terms_that_share_a_queue_share_a_sweep() {
    let all: Vec<Problem> = (0..5)
        .map(|i| {
            let p = Problem::new(20, 48, 400, 0.1, BF16);
            Problem { q: unit(20, 48, 10 + i, DType::BF16), k: unit(20, 48, 20 + i, DType::BF16), ..p }
        })
        .collect();
    let sim = Sim::new(Order::Forward);
    let placed: Vec<[Tensor; 3]> = all.iter().map(|p| p.on(&sim.device())).collect();
    let terms: Vec<Term<'_>> = placed.iter().map(|[q, k, _]| Term { q, k }).collect();
    let swept = infonce::sweep(&terms, &placed[0][2], Owners::Host(all[0].mask()), 0.1, true).unwrap();
    for (p, out) in all.iter().zip(&swept) {
        let dq = data(out.dq.as_ref().unwrap());
        p.want(true, DType::BF16).hold("shared", out.scores().unwrap(), Some(&dq));
    }
    let totals = sim.machine.totals();
    let sweeps: u64 = totals.iter().filter(|(name, _)| name.contains("sweep")).map(|(_, c)| c.launches).sum();
    assert_eq!(sweeps, 2, "four terms to a sweep");
}

#[test]
fn gradients_pass_through_the_tape_on_a_gpu() {
    let p = Problem::new(6, 16, 50, 0.2, F32);
    let gradient = |device: &Device| {
        let [q, k, queue] = p.on(device);
        let t = Tape::new();
        let leaf = t.leaf(q);
        let terms = [(leaf.clone(), k.clone()), (Var::constant(k.clone()), k)];
        let losses = ops::infonce_terms(&t, &terms, &queue, Owners::Host(p.mask()), p.tau).unwrap();
        let total = ops::scale(&t, &losses[0].loss, 3.0).unwrap();
        let keep = t.grad(&total, &[&leaf], Mode::Keep);
        assert_eq!(keep.is_err(), *device != Device::Cpu, "a gradient's gradient is the CPU's");
        let dq = t.grad(&total, &[&leaf], Mode::Free).unwrap().remove(0).unwrap();
        (losses[0].accuracy().unwrap(), losses[0].positive().unwrap(), data(dq.value()))
    };
    let want = p.want(true, DType::F32);
    on_gpu(|device| {
        let (accuracy, _, dq) = gradient(device);
        let (tripled, off): (Vec<f64>, Vec<f64>) =
            want.dq.iter().zip(&want.dq_off).map(|(v, o)| (3.0 * v, 3.0 * o + 1e-7 * v.abs())).unzip();
        assert_within("tape", &dq, &tripled, &off);
        assert_within("tape", &[accuracy], &want.scores[2..], &[1e-6]);
    });
    gradient(&Device::Cpu);
}

#[test]
fn a_gpu_refuses_what_its_kernels_do_not_compute() {
    let sim = Sim::new(Order::Forward);
    let refused = |p: &Problem, name: &str| {
        let [q, k, queue] = p.on(&sim.device());
        let e = infonce::forward(&q, &k, &queue, p.tau).unwrap_err();
        assert!(matches!(e.kind(), ErrorKind::Param { name: n, .. } if *n == name), "{e}");
    };
    refused(&Problem::new(2, 129, 4, 0.1, F32), "d");
    refused(&Problem::new(2, 8, 4, 0.02, F32), "tau");
    let p = Problem::new(2, 8, 4, 0.1, F32);
    let [q, k, _] = p.on(&sim.device());
    let e = infonce::forward(&q, &k, &p.queue, 0.1).unwrap_err();
    assert!(matches!(e.kind(), ErrorKind::Device { .. }), "{e}");
}

#[test]
fn an_empty_queue_has_nothing_to_say_on_a_gpu() {
    let p = Problem::new(3, 8, 100, 0.1, F32);
    let keys = vec![Mask::NOBODY; 100];
    on_gpu(|device| {
        let [q, k, queue] = p.on(device);
        let mask = Mask { rows: &[0, 1, 2], keys: &keys };
        let (scores, dq) = infonce::forward_backward_masked(&q, &k, &queue, Some(mask), 0.1).unwrap();
        assert_eq!((scores.loss, scores.positive, scores.accuracy), (0.0, 1.0, 1.0));
        assert!(data(&dq).iter().all(|v| *v == 0.0));
    });
}

#[test]
fn a_nan_shows_on_a_gpu() {
    let p = Problem::new(3, 8, 10, 0.1, F32);
    on_gpu(|device| {
        let [q, k, queue] = p.on(device);
        let bad = tensor(&[3, 8], &[f32::NAN; 24]).to(device).unwrap();
        let keys = tensor(&[10, 8], &[f32::NAN; 80]).to(device).unwrap();
        for (q, k, queue) in [(&bad, &k, &queue), (&q, &bad, &queue), (&q, &k, &keys)] {
            assert!(infonce::forward(q, k, queue, 0.1).unwrap().loss.is_nan());
        }
    });
}

/// The raw layer, with one part: what is asked of memory is little more than every argument once, and as the plan says.
#[test]
fn infonce_asks_for_few_bytes() {
    for (dtype, gradient) in [(DType::BF16, true), (DType::BF16, false), (DType::F32, true)] {
        let (n, d, m) = (32, 128, 8192);
        let layout = Layout { terms: 2, n, d, m, q: dtype, k: dtype, queue: dtype, tau: 0.1, gradient };
        let plan = Plan::new(&layout, 1, false);
        let sim = Sim::new(Order::Forward);
        let p = Problem::new(n, d, m, 0.1, [dtype; 3]);
        let [q, k, queue] = p.on(&sim.device());
        let alloc = |bytes: usize| sim.gpu.alloc(bytes).unwrap();
        let (dq, loss, stats) = ([alloc(4 * n * d), alloc(4 * n * d)], alloc(8), alloc(16));
        let work = alloc(layout.workspace_for(&plan));
        let addresses = |x: &Tensor| x.address().unwrap();
        let at = Pointers {
            q: [addresses(&q), addresses(&q), 0, 0],
            k: [addresses(&k), addresses(&k), 0, 0],
            queue: addresses(&queue),
            owners: [0, 0],
            dq: [dq[0].ptr(), dq[1].ptr(), 0, 0],
            loss: [loss.ptr(), loss.ptr() + 4, 0, 0],
            stats: [stats.ptr(), stats.ptr() + 8, 0, 0],
            workspace: work.ptr(),
        };
        // SAFETY: the memory above lives to the end of the block.
        unsafe { infonce::launch_planned(&sim.gpu, &layout, &plan, &at).unwrap() };
        let totals = sim.machine.totals();
        let mut moved = 0;
        for (name, c) in &totals {
            println!("{name}: {c:?}");
            moved += c.global_bytes_loaded + c.global_bytes_stored;
        }
        let fewest = layout.fewest_bytes();
        println!("{} {gradient}: {moved} bytes, planned {}, fewest {fewest}", dtype.name(), plan.traffic(&layout));
        assert!(moved <= plan.traffic(&layout), "the plan promised {}, {moved} were moved", plan.traffic(&layout));
        assert!(moved as f64 <= 1.1 * fewest as f64, "{moved} bytes, fewest {fewest}");
    }
}

/// MaCLR's own extents, cut as a GPU of 132 processors wants it: what is moved is what the plan says, and queries picked from
/// all over the tile have the definition's gradient.
#[test]
fn the_papers_queue_in_one_sweep() {
    let Some(c) = infonce::cases::CASES.iter().find(|c| c.name == "paper") else { panic!("no such case") };
    let p = Problem::new(c.n, c.d, c.m, c.tau, BF16);
    let sim = Sim::new(Order::Forward);
    let [q, k, queue] = p.on(&sim.device());
    let (scores, dq) = infonce::forward_backward(&q, &k, &queue, c.tau).unwrap();
    assert!(scores.loss.is_finite());
    let dq = data(&dq);
    for i in [0, 100, 255] {
        let one = Problem {
            q: p.q.rows(&[i]).unwrap(),
            k: p.k.rows(&[i]).unwrap(),
            queue: p.queue.clone(),
            rows: vec![p.rows[i]],
            keys: p.keys.clone(),
            tau: p.tau,
        };
        let want = one.want(false, DType::BF16);
        let got: Vec<f32> = dq[i * c.d..(i + 1) * c.d].iter().map(|v| v * c.n as f32).collect();
        assert_within("paper", &got, &want.dq, &want.dq_off);
    }
    let layout = Layout {
        terms: 1,
        n: c.n,
        d: c.d,
        m: c.m,
        q: DType::BF16,
        k: DType::BF16,
        queue: DType::BF16,
        tau: c.tau,
        gradient: true,
    };
    let plan = Plan::new(&layout, 132, false);
    assert_eq!((plan.tile, plan.tiles), (256, 1), "every key is asked for once");
    let totals = sim.machine.totals();
    let of_infonce = totals.iter().filter(|(name, _)| name.starts_with("infonce"));
    let moved: u64 = of_infonce.map(|(_, c)| c.global_bytes_loaded + c.global_bytes_stored).sum();
    assert_eq!(moved, plan.traffic(&layout));
    let sweep = &totals["infonce_sweep_r256_d128_bf16"];
    assert_eq!(sweep.bank_conflict_cycles, 0);
    assert_eq!(sweep.global_sectors_loaded + sweep.global_sectors_stored, sweep.ideal_sectors);
    println!(
        "{} parts, {moved} bytes, {:.2} times the queue; {sweep:?}",
        plan.parts,
        moved as f64 / (c.m * c.d * 2) as f64
    );
}
