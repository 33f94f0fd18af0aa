//! The updates of weights: SGD and the momentum encoder's average.

use crate::support::close::{assert_bounded, assert_norm};
use crate::support::goldens::Goldens;
use crate::support::grad::same_on_any_pool;
use crate::support::numbers::{data, reals, tensor, wide};
use crate::support::sim::on_gpu;
use proptest::prelude::*;
use tubelet::ops::{ema, sgd};
use tubelet::tensor::{DType, Tensor};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn ema_lies_between_its_sources(len in 1usize..300, m in 0.0f32..=1.0, seed in 0u64..1000) {
        let (k, q) = (reals(len, seed), reals(len, seed + 1));
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
    let (k, q) = (reals(50, 1), tensor(&[50], &reals(50, 2)));
    let mut key = tensor(&[50], &k);
    ema::update(&mut key, &q, 1.0).unwrap();
    assert_eq!(data(&key), k, "m = 1 keeps");
    ema::update(&mut key, &q, 0.0).unwrap();
    assert_eq!(data(&key), data(&q), "m = 0 copies");
    assert!(ema::update(&mut key, &q, 1.5).is_err());
    assert!(ema::update(&mut key, &q, f32::NAN).is_err());
    assert!(ema::update(&mut key, &tensor(&[25, 2], &reals(50, 1)), 0.5).is_err());
}

#[test]
fn ema_meets_its_reference_on_any_pool() {
    for c in ema::cases::CASES.iter().filter(|c| c.len < 100_000) {
        let (k, q) = (reals(c.len, 1), reals(c.len, 2));
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
    let (w, g, v) = (reals(c.len, 1), reals(c.len, 2), reals(c.len, 3));
    for nesterov in [true, false] {
        let p = sgd::Sgd { nesterov, ..Default::default() };
        let want = sgd::reference::update(p.momentum, nesterov, p.weight_decay, 0.1, &w, &g, &v);
        same_on_any_pool(|| {
            let (mut weights, mut velocity) = (tensor(&[c.len], &w), tensor(&[c.len], &v));
            sgd::update(&p, 0.1, &mut weights, &tensor(&[c.len], &g), &mut velocity, true).unwrap();
            let got = (data(&weights), data(&velocity));
            assert_eq!(got, want);
            got
        });
    }
}

#[test]
fn sgd_follows_pytorch() {
    let goldens = Goldens::open("sgd");
    let (w0, grads, lrs) = (goldens.tensor("w0"), goldens.tensor("grads"), goldens.get("lrs"));
    for (name, nesterov, decay) in [("nesterov", true, true), ("heavy", false, true), ("plain", true, false)] {
        let p = sgd::Sgd { momentum: 0.9, nesterov, weight_decay: 1e-2 };
        let (mut w, mut v) = (w0.clone(), Tensor::zeros(w0.shape()));
        let trace: Vec<f32> = data(&grads)
            .chunks_exact(w0.shape().len())
            .zip(&lrs)
            .flat_map(|(g, &lr)| {
                sgd::update(&p, lr, &mut w, &tensor(w0.dims(), g), &mut v, decay).unwrap();
                data(&w)
            })
            .collect();
        assert_norm(name, &trace, &goldens.get(name), 1e-6);
    }
}

#[test]
fn sgd_refuses_and_leaves_everything() {
    let (mut w, mut v, g) = (tensor(&[2], &[1.0, 2.0]), tensor(&[2], &[0.0, 0.0]), tensor(&[2], &[1.0, 1.0]));
    let p = sgd::Sgd::default();
    assert!(sgd::update(&p, f32::NAN, &mut w, &g, &mut v, true).is_err());
    assert!(sgd::update(&sgd::Sgd { momentum: 1.0, ..p }, 0.1, &mut w, &g, &mut v, true).is_err());
    assert!(sgd::update(&sgd::Sgd { weight_decay: -1.0, ..p }, 0.1, &mut w, &g, &mut v, true).is_err());
    assert!(sgd::update(&p, 0.1, &mut w, &tensor(&[1], &[1.0]), &mut v, true).is_err());
    assert!(sgd::update(&p, 0.1, &mut w.cast(DType::BF16).unwrap(), &g, &mut v, true).is_err());
    assert_eq!((data(&w), data(&v)), (vec![1.0, 2.0], vec![0.0, 0.0]));
}

/// Everything of a step and of what follows it: one tensor at a time on the CPU, all at once on a device, the same bits.
#[test]
pub fn updates_on_a_device_are_those_of_the_cpu_to_the_bit() {
    let lens = [1, 5, 4096, 16_384, 16_385, 40_003, 64];
    on_gpu(|device| {
        let there = |t: &Tensor| t.to(device).unwrap();
        let make = |len: usize, seed: u64| tensor(&[len], &reals(len, seed));
        for nesterov in [true, false] {
            let p = sgd::Sgd { nesterov, ..Default::default() };
            let mut want = Vec::new();
            let mut got: Vec<[Tensor; 6]> = Vec::new();
            let mut single = Vec::new();
            for (i, &len) in lens.iter().enumerate() {
                let (w, g, v, k) = (make(len, 1), make(len, 2), make(len, 3), make(len, 4));
                let half = Tensor::zeros([len]).cast(DType::BF16).unwrap();
                let [mut w1, mut v1] = [&w, &v].map(there);
                sgd::update(&p, 0.1, &mut w1, &there(&g), &mut v1, i % 2 == 0).unwrap();
                let mut k1 = there(&k);
                ema::update(&mut k1, &w1, 0.99).unwrap();
                single.push([w1, v1, k1].map(|t| data(&t)));
                got.push([&w, &g, &v, &k, &half, &half].map(there));
                let (mut w, mut v, mut k) = (w, v, k);
                sgd::update(&p, 0.1, &mut w, &g, &mut v, i % 2 == 0).unwrap();
                ema::update(&mut k, &w, 0.99).unwrap();
                want.push([w, v, k]);
            }
            let rate = there(&tensor(&[1], &[0.1]));
            let steps = |got: &mut Vec<[Tensor; 6]>, rate: sgd::Rate, guard: f32| {
                let guard = there(&tensor(&[1], &[guard]));
                let mut steps: Vec<sgd::Update> = got
                    .iter_mut()
                    .enumerate()
                    .map(|(i, [w, g, v, k, half, key_half])| sgd::Update {
                        w: sgd::Weights::Trained(w),
                        update: Some((g, v, i % 2 == 0)),
                        key: Some(k),
                        half: Some(half),
                        key_half: Some(key_half),
                    })
                    .collect();
                sgd::update_all(&p, rate, 0.99, Some(&guard), &mut steps).unwrap();
            };
            let mut still = got.clone();
            steps(&mut got, sgd::Rate::In(&rate), 1.0);
            for (((got, want), single), len) in got.iter().zip(&want).zip(&single).zip(lens) {
                let [w, _, v, k, half, key_half] = got;
                assert_eq!([w, v, k].map(data), [&want[0], &want[1], &want[2]].map(data), "{len} weights");
                assert_eq!(single, &[&want[0], &want[1], &want[2]].map(data), "{len} weights alone");
                assert_eq!(data(half), data(&want[0].cast(DType::BF16).unwrap()));
                assert_eq!(data(key_half), data(&want[2].cast(DType::BF16).unwrap()));
            }
            // A loss that is no number leaves the weights alone.
            steps(&mut still, sgd::Rate::Value(0.1), f32::NAN);
            assert_eq!(data(&still[5][0]), data(&make(40_003, 1)));
            assert_eq!(data(&still[5][2]), data(&make(40_003, 3)));
            assert_eq!(data(&still[5][4]), data(&make(40_003, 1).cast(DType::BF16).unwrap()));
        }
        // Many pairs, and many tensors: more than one launch.
        let mut keys: Vec<Tensor> = (0..600).map(|i| there(&make(1 + i % 7, i as u64))).collect();
        let queries: Vec<Tensor> = (0..600).map(|i| there(&make(1 + i % 7, 1000 + i as u64))).collect();
        ema::update_all(keys.iter_mut().zip(&queries), 0.9).unwrap();
        for (i, key) in keys.iter().enumerate() {
            let mut want = make(1 + i % 7, i as u64);
            ema::update(&mut want, &make(1 + i % 7, 1000 + i as u64), 0.9).unwrap();
            assert_eq!(data(key), data(&want), "pair {i}");
        }
    });
}

#[test]
fn steps_of_many_refuse_what_does_not_fit() {
    let (w, k, g) = (tensor(&[2], &[1.0, 2.0]), tensor(&[3], &[0.0; 3]), tensor(&[2], &[1.0; 2]));
    let p = sgd::Sgd::default();
    let (mut key, mut v) = (k.clone(), g.clone());
    let none = || sgd::Update { w: sgd::Weights::Fixed(&w), update: None, key: None, half: None, key_half: None };
    let run = |step: sgd::Update, guard: Option<&Tensor>| {
        sgd::update_all(&p, sgd::Rate::Value(0.1), 0.9, guard, &mut [step]).map_err(|e| e.to_string())
    };
    assert!(run(none(), None).is_ok());
    assert!(run(sgd::Update { key: Some(&mut key), ..none() }, None).unwrap_err().contains("`key`"));
    assert!(run(sgd::Update { update: Some((&g, &mut v, true)), ..none() }, None).unwrap_err().contains("fixed"));
    let mut half = k.cast(DType::BF16).unwrap();
    assert!(run(sgd::Update { key_half: Some(&mut half), ..none() }, None).is_err());
    assert!(run(none(), Some(&g)).unwrap_err().contains("`guard`"));
    assert!(sgd::update_all(&p, sgd::Rate::Value(0.1), 1.5, None, &mut []).is_err());
}
