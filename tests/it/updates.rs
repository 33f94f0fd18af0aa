//! The updates of weights: SGD and the momentum encoder's average.

use crate::close::{assert_bounded, assert_norm};
use crate::losses::{data, golden, noise, same_on_any_pool, tensor, wide};
use proptest::prelude::*;
use tubelet::ops::{ema, sgd};
use tubelet::tensor::{DType, Tensor};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn ema_lies_between_its_sources(len in 1usize..300, m in 0.0f32..=1.0, seed in 0u64..1000) {
        let (k, q) = (noise(len, seed), noise(len, seed + 1));
        let mut key = tensor(&[len], &k);
        ema::update(&mut key, &tensor(&[len], &q), m).unwrap();
        assert_bounded("ema", &data(&key), &ema::reference::update(&wide(&k), &wide(&q), f64::from(m)), DType::F32);
        for ((&y, &k), &q) in data(&key).iter().zip(&k).zip(&q) {
            let slack = 4.0 * DType::F32.unit_roundoff() as f32 * k.abs().max(q.abs()); // two roundings of either
            prop_assert!(k.min(q) - slack <= y && y <= k.max(q) + slack, "{} is not between {} and {}", y, k, q);
        }
    }
}

#[test]
fn ema_fixed_points() {
    let (k, q) = (noise(50, 1), tensor(&[50], &noise(50, 2)));
    let mut key = tensor(&[50], &k);
    ema::update(&mut key, &q, 1.0).unwrap();
    assert_eq!(data(&key), k, "m = 1 keeps");
    ema::update(&mut key, &q, 0.0).unwrap();
    assert_eq!(data(&key), data(&q), "m = 0 copies");
    assert!(ema::update(&mut key, &q, 1.5).is_err());
    assert!(ema::update(&mut key, &q, f32::NAN).is_err());
    assert!(ema::update(&mut key, &tensor(&[25, 2], &noise(50, 1)), 0.5).is_err());
}

#[test]
fn ema_meets_its_reference_on_any_pool() {
    for c in ema::cases::CASES.iter().filter(|c| c.len < 100_000) {
        let (k, q) = (noise(c.len, 1), noise(c.len, 2));
        same_on_any_pool(|| {
            let mut key = tensor(&[c.len], &k);
            ema::update(&mut key, &tensor(&[c.len], &q), 0.99).unwrap();
            let want = ema::reference::update(&wide(&k), &wide(&q), f64::from(0.99f32));
            assert_bounded(c.name, &data(&key), &want, DType::F32);
            data(&key)
        });
    }
}

#[test]
fn sgd_meets_its_reference_on_any_pool() {
    let c = sgd::cases::CASES.iter().find(|c| c.name == "ragged").unwrap();
    let (w, g, v) = (noise(c.len, 1), noise(c.len, 2), noise(c.len, 3));
    for nesterov in [true, false] {
        let p = sgd::Sgd { nesterov, ..Default::default() };
        let want = sgd::reference::step(p.momentum, nesterov, p.weight_decay, 0.1, &w, &g, &v);
        same_on_any_pool(|| {
            let (mut weights, mut velocity) = (tensor(&[c.len], &w), tensor(&[c.len], &v));
            sgd::step(&p, 0.1, &mut weights, &tensor(&[c.len], &g), &mut velocity, true).unwrap();
            let got = (data(&weights), data(&velocity));
            assert_eq!(got, want);
            got
        });
    }
}

#[test]
fn sgd_follows_pytorch() {
    let file = include_bytes!("../fixtures/sgd.safetensors");
    let (w0, grads, lrs) = (golden(file, "w0"), golden(file, "grads"), data(&golden(file, "lrs")));
    for (name, nesterov, decay) in [("nesterov", true, true), ("heavy", false, true), ("plain", true, false)] {
        let p = sgd::Sgd { momentum: 0.9, nesterov, weight_decay: 1e-2 };
        let (mut w, mut v) = (w0.clone(), Tensor::zeros(w0.shape()));
        let trace: Vec<f32> = data(&grads)
            .chunks_exact(w0.shape().len())
            .zip(&lrs)
            .flat_map(|(g, &lr)| {
                sgd::step(&p, lr, &mut w, &tensor(w0.dims(), g), &mut v, decay).unwrap();
                data(&w)
            })
            .collect();
        assert_norm(name, &trace, &data(&golden(file, name)), 1e-6);
    }
}

#[test]
fn sgd_refuses_and_leaves_everything() {
    let (mut w, mut v, g) = (tensor(&[2], &[1.0, 2.0]), tensor(&[2], &[0.0, 0.0]), tensor(&[2], &[1.0, 1.0]));
    let p = sgd::Sgd::default();
    assert!(sgd::step(&p, f32::NAN, &mut w, &g, &mut v, true).is_err());
    assert!(sgd::step(&sgd::Sgd { momentum: 1.0, ..p }, 0.1, &mut w, &g, &mut v, true).is_err());
    assert!(sgd::step(&sgd::Sgd { weight_decay: -1.0, ..p }, 0.1, &mut w, &g, &mut v, true).is_err());
    assert!(sgd::step(&p, 0.1, &mut w, &tensor(&[1], &[1.0]), &mut v, true).is_err());
    assert!(sgd::step(&p, 0.1, &mut w.cast(DType::BF16).unwrap(), &g, &mut v, true).is_err());
    assert_eq!((data(&w), data(&v)), (vec![1.0, 2.0], vec![0.0, 0.0]));
}
