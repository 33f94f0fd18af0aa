//! Row normalisation, the losses, and the queue they contrast with.

use crate::support::close::{assert_bounded, assert_gradient, assert_norm};
use crate::support::goldens::Goldens;
use crate::support::grad::same_on_any_pool;
use crate::support::numbers::{data, matrix, tensor, wide};
use crate::support::sim::on_gpu;
use proptest::prelude::*;
use tubelet::error::ErrorKind;
use tubelet::ops::{self, cross_entropy, infonce, l2_norm};
use tubelet::ssl::queue::Queue;
use tubelet::tape::{Mode, Tape, Var};
use tubelet::tensor::{DType, Device, Tensor};

fn unit(n: usize, d: usize, seed: u64) -> Tensor {
    l2_norm::forward(&matrix(n, d, seed)).unwrap()
}

/// The gradient of `loss` at `x` under both modes, and that of `⟨gradient, v⟩` under `Keep`.
fn gradients(x: &Tensor, v: &Tensor, loss: impl Fn(&Tape, &Var) -> Var) -> [Vec<f32>; 3] {
    let t = Tape::new();
    let leaf = t.leaf(x.clone());
    let y = loss(&t, &leaf);
    let kept = t.grad(&y, &[&leaf], Mode::Keep).unwrap().remove(0).unwrap();
    let product = ops::mul(&t, &kept, &Var::constant(v.clone())).unwrap();
    let along = ops::sum_to(&t, &product, [1, 1].into()).unwrap();
    let second = t.grad(&along, &[&leaf], Mode::Free).unwrap().remove(0).unwrap();
    let t = Tape::new();
    let leaf = t.leaf(x.clone());
    let freed = t.grad(&loss(&t, &leaf), &[&leaf], Mode::Free).unwrap().remove(0).unwrap();
    [data(freed.value()), data(kept.value()), data(second.value())]
}

fn dot(a: &[f64], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * f64::from(*b)).sum()
}

// ---- rows of unit length

#[test]
fn l2_norm_meets_its_reference() {
    for c in l2_norm::cases::CASES {
        for dtype in [DType::F32, DType::BF16] {
            let (x, dy) = (matrix(c.n, c.d, 1).cast(dtype).unwrap(), matrix(c.n, c.d, 2).cast(dtype).unwrap());
            let (xs, dys) = (wide(&data(&x)), wide(&data(&dy)));
            let y = l2_norm::forward(&x).unwrap();
            assert_bounded(c.name, &data(&y), &l2_norm::reference::forward(&xs, c.d), dtype);
            let dx = l2_norm::backward(&x, &dy).unwrap();
            assert_bounded(c.name, &data(&dx), &l2_norm::reference::backward(&xs, &dys, c.d), dtype);
        }
    }
}

#[test]
fn l2_norm_gradients() {
    let (n, d) = (3, 5);
    let (x, w, v) = (matrix(n, d, 1), matrix(n, d, 2), matrix(n, d, 3));
    let (xs, ws) = (wide(&data(&x)), wide(&data(&w)));
    let first = |x: &[f64]| l2_norm::reference::backward(x, &ws, d).value;
    assert_gradient(
        "l2_norm",
        &xs,
        &first(&xs),
        1e-6,
        |_| false,
        |x| dot(&l2_norm::reference::forward(x, d).value, &data(&w)),
    );
    let [freed, kept, second] = gradients(&x, &v, |t, x| {
        let y = ops::mul(t, &ops::l2_norm(t, x).unwrap(), &Var::constant(w.clone())).unwrap();
        ops::sum_to(t, &y, [1, 1].into()).unwrap()
    });
    assert_norm("both modes", &kept, &freed, 1e-6);
    assert_gradient("second order", &xs, &wide(&second), 1e-5, |_| false, |x| dot(&first(x), &data(&v)));
}

#[test]
fn a_row_of_zeros_stays_and_its_gradient_is_linear() {
    let x = tensor(&[2, 2], &[0.0, 0.0, 3.0, 4.0]);
    assert_eq!(data(&l2_norm::forward(&x).unwrap()), [0.0, 0.0, 0.6, 0.8]);
    let w = tensor(&[2, 2], &[1e-12, 0.0, 4.0, -3.0]);
    let [freed, kept, second] = gradients(&x, &w, |t, x| {
        let y = ops::mul(t, &ops::l2_norm(t, x).unwrap(), &Var::constant(w.clone())).unwrap();
        ops::sum_to(t, &y, [1, 1].into()).unwrap()
    });
    assert_norm("free", &freed, &[1.0, 0.0, 0.8, -0.6], 1e-6);
    assert_norm("keep", &kept, &freed, 1e-6);
    assert!(second.iter().all(|v| v.is_finite()));
}

// ---- InfoNCE

#[test]
fn infonce_meets_its_reference() {
    for c in infonce::cases::CASES.iter().filter(|c| c.name != "paper") {
        for dtype in [DType::F32, DType::BF16] {
            let [q, k, queue] =
                [unit(c.n, c.d, 1), unit(c.n, c.d, 2), unit(c.m, c.d, 3)].map(|x| x.cast(dtype).unwrap());
            let (s, dq) = infonce::forward_backward(&q, &k, &queue, c.tau).unwrap();
            let (qs, ks, keys) = (wide(&data(&q)), wide(&data(&k)), wide(&data(&queue)));
            let tau = f64::from(c.tau);
            let loss = infonce::reference::forward(&qs, &ks, &keys, c.d, tau);
            assert_bounded(c.name, &[s.loss], &loss, DType::F32);
            let want = infonce::reference::backward(&qs, &ks, &keys, c.d, tau);
            assert_bounded(c.name, &data(&dq), &want, DType::F32);
            let only = infonce::forward(&q, &k, &queue, c.tau).unwrap();
            assert_eq!(only, s, "{}: asking for the gradient changes the loss", c.name);
        }
    }
}

#[test]
fn infonce_gradients() {
    let (n, d, m, tau) = (3, 4, 7, 0.2);
    let (q, k, queue, v) = (matrix(n, d, 1), matrix(n, d, 2), matrix(m, d, 3), matrix(n, d, 4));
    let [qs, ks, keys] = [&q, &k, &queue].map(|x| wide(&data(x)));
    let tau64 = f64::from(tau);
    let first = |q: &[f64]| infonce::reference::backward(q, &ks, &keys, d, tau64).value;
    assert_gradient(
        "infonce",
        &qs,
        &first(&qs),
        1e-6,
        |_| false,
        |q| infonce::reference::forward(q, &ks, &keys, d, tau64).value[0],
    );
    let [freed, kept, second] =
        gradients(&q, &v, |t, q| ops::scale(t, &ops::infonce(t, q, &k, &queue, tau).unwrap().loss, 0.7).unwrap());
    assert_norm("both modes", &kept, &freed, 1e-5);
    let along = |q: &[f64]| f64::from(0.7f32) * dot(&first(q), &data(&v));
    assert_gradient("second order", &qs, &wide(&second), 1e-5, |_| false, along);
}

#[test]
fn infonce_equals_pytorch_through_the_normalisation() {
    let goldens = Goldens::open("infonce");
    let (z, k, queue) = (goldens.tensor("z"), goldens.tensor("k"), goldens.tensor("queue"));
    for tau in [0.1f32, 0.02] {
        let t = Tape::new();
        let z = t.leaf(z.clone());
        let out = ops::infonce(&t, &ops::l2_norm(&t, &z).unwrap(), &k, &queue, tau).unwrap();
        let dz = t.grad(&out.loss, &[&z], Mode::Free).unwrap().remove(0).unwrap();
        let want = |name: &str| goldens.get(&format!("{name}_{tau}"));
        assert_norm("loss", &data(out.loss.value()), &want("loss"), 1e-5);
        assert_norm("positive", &[out.positive().unwrap()], &want("positive"), 1e-5);
        assert_eq!(out.accuracy().unwrap(), want("accuracy")[0]);
        assert_norm("dz", &data(dz.value()), &want("dz"), 1e-5);
    }
}

#[test]
fn infonce_of_equal_logits_is_the_log_of_the_candidates() {
    for m in [1usize, 255, 256, 257, 5000] {
        let codes = |n: usize| tensor(&[n, 4], &[0.5; 4].repeat(n));
        let s = infonce::forward(&codes(6), &codes(6), &codes(m), 0.1).unwrap();
        let want = ((1 + m) as f32).ln();
        assert_norm("log(1 + m)", &[s.loss], &[want], 1e-6);
        assert_norm("uniform", &[s.positive], &[1.0 / (1 + m) as f32], 1e-6);
        assert_eq!(s.accuracy, 0.0, "a tie is no success");
    }
}

/// With random unit codes `E exp(q·k/τ) ≈ exp(1/(2dτ²))`, 1.48 for d = 128, τ = 0.1: a new run starts near 11.48.
#[test]
fn infonce_of_random_codes_starts_where_theory_says() {
    let (n, d, m, tau) = (32, 128, 65536, 0.1f32);
    let queue = unit(m, d, 7);
    let q = unit(n, d, 8);
    // Positives at right angles to their queries: exp(q·k/τ) = 1.
    let mut k = data(&q);
    k.chunks_exact_mut(2).for_each(|p| (p[0], p[1]) = (-p[1], p[0]));
    let s = infonce::forward(&q, &tensor(&[n, d], &k), &queue, tau).unwrap();
    let want = (1.0 + (1.0f64 / (2.0 * 128.0 * 0.01)).exp() * m as f64).ln();
    assert_norm("start", &[s.loss], &[want as f32], 2e-3);
}

#[test]
fn infonce_keeps_its_digits_when_the_positive_wins() {
    // One query on its positive, one far negative: loss = ln(1 + exp(-2/τ)), below the rounding of 1.
    let (q, far) = (tensor(&[1, 2], &[1.0, 0.0]), tensor(&[1, 2], &[-1.0, 0.0]));
    let (s, dq) = infonce::forward_backward(&q, &q, &far, 0.1).unwrap();
    let p = (-20f64).exp();
    assert_norm("loss", &[s.loss], &[p.ln_1p() as f32], 1e-5);
    assert_norm("dq", &data(&dq), &[(-2.0 * p / (1.0 + p) / 0.1) as f32, 0.0], 1e-5);
    assert_eq!(s.accuracy, 1.0);
}

#[test]
fn infonce_does_not_depend_on_the_threads() {
    let (q, k, queue) = (unit(70, 24, 1), unit(70, 24, 2), unit(9000, 24, 3));
    same_on_any_pool(|| {
        let (s, dq) = infonce::forward_backward(&q, &k, &queue, 0.1).unwrap();
        (s.loss.to_bits(), s.positive.to_bits(), dq.load().unwrap().iter().map(|v| v.to_bits()).collect::<Vec<_>>())
    });
}

#[test]
fn infonce_refuses_what_makes_no_sense() {
    let (q, queue) = (unit(3, 4, 1), unit(5, 4, 2));
    for tau in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let e = infonce::forward(&q, &q, &queue, tau).unwrap_err();
        assert!(matches!(e.kind(), ErrorKind::Param { name: "tau", .. }), "{e}");
    }
    for (k, queue) in [(unit(2, 4, 1), queue.clone()), (q.clone(), unit(5, 3, 1)), (q.clone(), tensor(&[0, 4], &[]))] {
        let e = infonce::forward(&q, &k, &queue, 0.1).unwrap_err();
        assert!(matches!(e.kind(), ErrorKind::Shape { op: "infonce", .. }), "{e}");
    }
    let bad = tensor(&[3, 4], &[f32::NAN; 12]);
    assert!(infonce::forward(&bad, &q, &queue, 0.1).unwrap().loss.is_nan(), "a NaN must show");
    assert!(infonce::forward(&q, &q, &bad, 0.1).unwrap().loss.is_nan(), "a NaN must show");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn infonce_on_any_shape(n in 1usize..80, d in 1usize..24, m in 1usize..700, tau in 0.02f32..2.0, seed in 0u64..1000) {
        let (q, k, queue) = (matrix(n, d, seed), matrix(n, d, seed + 1), matrix(m, d, seed + 2));
        let [qs, ks, keys] = [&q, &k, &queue].map(|x| wide(&data(x)));
        let (s, dq) = infonce::forward_backward(&q, &k, &queue, tau).unwrap();
        let tau = f64::from(tau);
        assert_bounded("loss", &[s.loss], &infonce::reference::forward(&qs, &ks, &keys, d, tau), DType::F32);
        assert_bounded("dq", &data(&dq), &infonce::reference::backward(&qs, &ks, &keys, d, tau), DType::F32);
        prop_assert!(s.loss >= 0.0 && (0.0..=1.0).contains(&s.positive));
    }

    #[test]
    fn queue_is_first_in_first_out(keys in 1usize..20, pushes in prop::collection::vec(0usize..50, 1..8)) {
        let mut queue = Queue::new(keys, 2).unwrap();
        let mut all: Vec<f32> = Vec::new();
        for n in pushes {
            let rows: Vec<f32> = (all.len()..all.len() + n).map(|i| i as f32).collect();
            let both: Vec<f32> = rows.iter().flat_map(|&v| [v, -v]).collect();
            queue.push(&tensor(&[n, 2], &both), &vec![7; n][..].into()).unwrap();
            all.extend(rows);
            prop_assert_eq!(queue.filled(), all.len().min(keys));
            prop_assert_eq!(queue.at(), all.len() % keys);
            // Row `at` is the oldest: reading the ring from there gives the last rows in order.
            let ring = data(queue.keys());
            let from = keys - queue.filled();
            let held: Vec<f32> = (from..keys).map(|i| ring[(queue.at() + i) % keys * 2]).collect();
            prop_assert_eq!(&held[..], &all[all.len() - queue.filled()..]);
        }
    }
}

// ---- cross-entropy

fn check_cross_entropy(device: &Device, what: &str, n: usize, c: usize) {
    for dtype in [DType::F32, DType::BF16] {
        let x = matrix(n, c, 1).cast(dtype).unwrap();
        let labels: Vec<usize> = (0..n).map(|i| i * 7 % c).collect();
        let xs = wide(&data(&x));
        let x = x.to(device).unwrap();
        let loss = cross_entropy::forward(&x, &labels).unwrap();
        assert_bounded(what, &[loss], &cross_entropy::reference::forward(&xs, c, &labels), DType::F32);
        let dx = cross_entropy::backward(&x, &labels, 0.5).unwrap();
        let want = cross_entropy::reference::backward(&xs, c, &labels, 0.5);
        assert_bounded(what, &data(&dx), &want, dtype);
        let p = cross_entropy::softmax_forward(&x).unwrap();
        assert_bounded(what, &data(&p), &cross_entropy::reference::softmax(&xs, c), dtype);
    }
}

#[test]
fn cross_entropy_meets_its_reference() {
    for c in cross_entropy::cases::CASES {
        check_cross_entropy(&Device::Cpu, c.name, c.n, c.c);
    }
}

#[test]
pub fn cross_entropy_on_a_device() {
    on_gpu(|device| {
        for c in cross_entropy::cases::CASES {
            check_cross_entropy(device, c.name, c.n.min(70), c.c);
        }
        check_cross_entropy(device, "many classes", 3, 1304);
        check_cross_entropy(device, "many classes, ragged", 2, 701);
        let there = |x: Tensor| x.to(device).unwrap();
        let flat = there(tensor(&[2, 8], &[3.0; 16]));
        assert_norm("ln 8", &[cross_entropy::forward(&flat, &[0, 7]).unwrap()], &[8f32.ln()], 1e-6);
        let huge = there(tensor(&[2, 2], &[1e30, -1e30, 0.0, f32::NEG_INFINITY]));
        assert_eq!(cross_entropy::forward(&huge, &[0, 0]).unwrap(), 0.0);
        assert_eq!(data(&cross_entropy::softmax_forward(&huge).unwrap()), [1.0, 0.0, 1.0, 0.0]);
        let (x, v, labels) = (matrix(3, 5, 1), matrix(3, 5, 2), [4, 0, 2]);
        let here = gradients(&x, &v, |t, x| ops::cross_entropy(t, x, &labels).unwrap());
        let got = gradients(&there(x), &there(v), |t, x| ops::cross_entropy(t, x, &labels).unwrap());
        for (got, here) in got.iter().zip(&here) {
            assert_norm("gradients on a device", got, here, 1e-5);
        }
        let (x, v, w) = (matrix(3, 5, 1), matrix(3, 5, 2), matrix(3, 5, 3));
        let f = |w: Tensor| {
            move |t: &Tape, x: &Var| {
                let y = ops::mul(t, &ops::l2_norm(t, x).unwrap(), &Var::constant(w.clone())).unwrap();
                ops::sum_to(t, &y, [1, 1].into()).unwrap()
            }
        };
        let here = gradients(&x, &v, f(w.clone()));
        for (got, here) in gradients(&there(x), &there(v), f(there(w))).iter().zip(&here) {
            assert_norm("gradients of unit rows on a device", got, here, 1e-5);
        }
    });
}

#[test]
fn cross_entropy_gradients() {
    let (n, c, labels) = (3, 5, [4, 0, 2]);
    let (x, v) = (matrix(n, c, 1), matrix(n, c, 2));
    let xs = wide(&data(&x));
    let first = |x: &[f64]| cross_entropy::reference::backward(x, c, &labels, 1.0).value;
    assert_gradient(
        "cross_entropy",
        &xs,
        &first(&xs),
        1e-6,
        |_| false,
        |x| cross_entropy::reference::forward(x, c, &labels).value[0],
    );
    let [freed, kept, second] = gradients(&x, &v, |t, x| ops::cross_entropy(t, x, &labels).unwrap());
    assert_norm("both modes", &kept, &freed, 1e-6);
    assert_gradient("second order", &xs, &wide(&second), 1e-5, |_| false, |x| dot(&first(x), &data(&v)));
}

#[test]
fn cross_entropy_of_equal_and_of_huge_logits() {
    let flat = tensor(&[2, 8], &[3.0; 16]);
    assert_norm("ln 8", &[cross_entropy::forward(&flat, &[0, 7]).unwrap()], &[8f32.ln()], 1e-6);
    let huge = tensor(&[1, 2], &[1e30, -1e30]);
    assert_eq!(cross_entropy::forward(&huge, &[0]).unwrap(), 0.0);
    let e = cross_entropy::forward(&huge, &[2]).unwrap_err();
    assert!(matches!(e.kind(), ErrorKind::Param { name: "label", .. }), "{e}");
    assert!(cross_entropy::forward(&huge, &[0, 1]).is_err());
}
