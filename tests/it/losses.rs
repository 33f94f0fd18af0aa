//! Row normalisation, the losses, and the updates of weights and queues.

use crate::close::{assert_bounded, assert_gradient};
use rand::RngExt;
use tubelet::ops::{cross_entropy, ema, infonce, l2_norm, sgd};
use tubelet::rng::{Purpose, stream};
use tubelet::ssl::queue::Queue;
use tubelet::tensor::{DType, Tensor};

fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut rng = stream(seed, 0, 0, Purpose::Test);
    (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
}

fn unit(n: usize, d: usize, seed: u64) -> Tensor {
    let x = Tensor::from_f32([n, d], &noise(n * d, seed)).unwrap();
    l2_norm::forward(&x).unwrap()
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| f64::from(v)).collect()
}

fn data(x: &Tensor) -> Vec<f32> {
    x.load().into_owned()
}

#[test]
fn l2_norm_meets_its_reference() {
    for c in l2_norm::cases::CASES {
        for dtype in [DType::F32, DType::BF16] {
            let x = Tensor::from_f32([c.n, c.d], &noise(c.n * c.d, 1)).unwrap().cast(dtype);
            let dy = Tensor::from_f32([c.n, c.d], &noise(c.n * c.d, 2)).unwrap().cast(dtype);
            let (xs, dys) = (wide(&data(&x)), wide(&data(&dy)));
            let y = l2_norm::forward(&x).unwrap();
            assert_bounded(c.name, &data(&y), &l2_norm::reference::forward(&xs, c.d), dtype);
            let dx = l2_norm::backward(&x, &dy).unwrap();
            assert_bounded(c.name, &data(&dx), &l2_norm::reference::backward(&xs, &dys, c.d), dtype);
        }
    }
}

#[test]
fn infonce_meets_its_reference() {
    for c in infonce::cases::CASES.iter().filter(|c| c.name != "paper") {
        let (q, k, queue) = (unit(c.n, c.d, 1), unit(c.n, c.d, 2), unit(c.m, c.d, 3));
        let (s, dq) = infonce::forward_backward(&q, &k, &queue, c.tau).unwrap();
        let (qs, ks, keys) = (wide(&data(&q)), wide(&data(&k)), wide(&data(&queue)));
        let tau = f64::from(c.tau);
        let loss = infonce::reference::forward(&qs, &ks, &keys, c.d, tau);
        assert_bounded(c.name, &[s.loss], &loss, DType::F32);
        let want = infonce::reference::backward(&qs, &ks, &keys, c.d, tau);
        assert_bounded(c.name, &data(&dq), &want, DType::F32);
        let only = infonce::forward(&q, &k, &queue, c.tau).unwrap();
        assert_eq!(only, s, "{}: the gradient changes the loss", c.name);
    }
}

#[test]
fn infonce_gradient_is_that_of_differences() {
    let (n, d, m) = (3, 4, 7);
    let (q, k, queue) = (wide(&noise(n * d, 1)), wide(&noise(n * d, 2)), wide(&noise(m * d, 3)));
    let gradient = infonce::reference::backward(&q, &k, &queue, d, 0.2).value;
    let loss = |q: &[f64]| infonce::reference::forward(q, &k, &queue, d, 0.2).value[0];
    assert_gradient("infonce", &q, &gradient, 1e-6, |_| false, loss);
}

#[test]
fn cross_entropy_meets_its_reference() {
    for c in cross_entropy::cases::CASES {
        let x = Tensor::from_f32([c.n, c.c], &noise(c.n * c.c, 1)).unwrap();
        let labels: Vec<usize> = (0..c.n).map(|i| i * 7 % c.c).collect();
        let xs = wide(&data(&x));
        let loss = cross_entropy::forward(&x, &labels).unwrap();
        assert_bounded(c.name, &[loss], &cross_entropy::reference::forward(&xs, c.c, &labels), DType::F32);
        let dx = cross_entropy::backward(&x, &labels, 0.5).unwrap();
        let want = cross_entropy::reference::backward(&xs, c.c, &labels, 0.5);
        assert_bounded(c.name, &data(&dx), &want, DType::F32);
        let p = cross_entropy::probabilities(&x).unwrap();
        assert_bounded(c.name, &data(&p), &cross_entropy::reference::softmax(&xs, c.c), DType::F32);
    }
}

#[test]
fn queue_replaces_the_oldest() {
    let mut q = Queue::random(5, 2, 1, 0).unwrap();
    let rows = |from: usize, n: usize| {
        let v: Vec<f32> = (from..from + n).flat_map(|i| [i as f32, -(i as f32)]).collect();
        Tensor::from_f32([n, 2], &v).unwrap()
    };
    q.push(&rows(0, 3)).unwrap();
    assert_eq!((q.at(), q.filled()), (3, 3));
    q.push(&rows(3, 3)).unwrap();
    assert_eq!((q.at(), q.filled()), (1, 5));
    let firsts: Vec<f32> = data(q.keys()).chunks(2).map(|r| r[0]).collect();
    assert_eq!(firsts, [5.0, 1.0, 2.0, 3.0, 4.0]);
    q.push(&rows(6, 12)).unwrap();
    let mut firsts: Vec<f32> = data(q.keys()).chunks(2).map(|r| r[0]).collect();
    firsts.sort_by(f32::total_cmp);
    assert_eq!(firsts, [13.0, 14.0, 15.0, 16.0, 17.0]);
}

#[test]
fn ema_and_sgd_meet_their_references() {
    for c in ema::cases::CASES.iter().filter(|c| c.len < 100_000) {
        let (k, q) = (noise(c.len, 1), noise(c.len, 2));
        let mut key = Tensor::from_f32([c.len], &k).unwrap();
        ema::update(&mut key, &Tensor::from_f32([c.len], &q).unwrap(), 0.99).unwrap();
        let want = ema::reference::update(&wide(&k), &wide(&q), f64::from(0.99f32));
        assert_bounded(c.name, &data(&key), &want, DType::F32);
    }
    for c in sgd::cases::CASES.iter().filter(|c| c.len < 100_000) {
        let (w, g, v) = (noise(c.len, 1), noise(c.len, 2), noise(c.len, 3));
        let p = sgd::Sgd::default();
        let (mut weights, mut velocity) =
            (Tensor::from_f32([c.len], &w).unwrap(), Tensor::from_f32([c.len], &v).unwrap());
        sgd::step(&p, 0.1, &mut weights, &Tensor::from_f32([c.len], &g).unwrap(), &mut velocity, true).unwrap();
        let (want_w, want_v) = sgd::reference::step(p.momentum, p.nesterov, p.weight_decay, 0.1, &w, &g, &v);
        assert_eq!((data(&weights), data(&velocity)), (want_w, want_v), "{}", c.name);
    }
}
