//! What a recording of a training step counts: the extents' arithmetic, whatever the number of threads, and every operation.

use crate::training::memory::narrow;
use std::collections::BTreeSet;
use std::time::Duration;
use tubelet::cpu::Isa;
use tubelet::cpu::traffic::{Report, Row, record};
use tubelet::nn::{Classifier, Mode, Net, Params, Pass, Precision};
use tubelet::ops::conv3d::{self, Conv3d, Geometry, Products};
use tubelet::ops::{self, ema, infonce, l2_norm, sgd};
use tubelet::shape::{Shape, Window};
use tubelet::tape::{self, Tape, Var};
use tubelet::tensor::{DType, Tensor};

fn numbers(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i as f32 * 0.7).sin()).collect()
}

/// Runs `f` on a thread of a pool of its own, where no other test has work.
fn alone<R: Send>(threads: usize, f: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(f)
}

/// A training step of a small network with its optimiser, after one that takes what memory it needs.
fn step(net: &Net, [t, h, w]: [usize; 3], precision: Precision) -> (Report, usize) {
    let (net, mut params) = Classifier::new(net, 16, 1).unwrap();
    let mut velocity: Vec<Tensor> = params.iter().map(|(_, p)| Tensor::zeros(p.value.shape())).collect();
    let x = Var::constant(Tensor::from_f32([2, t, h, w, 3], &numbers(2 * t * h * w * 3)).unwrap());
    let trained = params.trainable().map(|(_, p)| p.value.shape().len()).sum();
    once(&net, &mut params, &mut velocity, &x, precision);
    (record(|| once(&net, &mut params, &mut velocity, &x, precision)).1, trained)
}

fn once(net: &Classifier, params: &mut Params, velocity: &mut [Tensor], x: &Var, precision: Precision) {
    let tape = Tape::new();
    let mut pass = Pass::new(&tape, params, Mode::Train { parts: 1 }).with_precision(precision);
    let logits = net.forward(&mut pass, x).unwrap();
    let loss = ops::cross_entropy(&tape, &logits, &[3, 5]).unwrap();
    let leaves = pass.leaves();
    let vars: Vec<&Var> = leaves.iter().map(|(_, v)| v).collect();
    let grads = tape.grad(&loss, &vars, tape::Mode::Free).unwrap();
    let ids: Vec<_> = leaves.iter().map(|(id, _)| *id).collect();
    drop((leaves, pass));
    for (id, grad) in ids.into_iter().zip(grads) {
        let (w, v) = (&mut params[id].value, &mut velocity[id.index()]);
        sgd::update(&sgd::Sgd::default(), 0.01, w, grad.unwrap().value(), v, true).unwrap();
    }
}

fn row<'a>(report: &'a Report, kind: &str) -> &'a Row {
    let found = report.rows.iter().find(|row| row.kind == kind);
    found.unwrap_or_else(|| panic!("no {kind} in {:?}", report.rows.iter().map(|row| row.kind).collect::<Vec<_>>()))
}

#[test]
fn a_convolution_counts_the_arithmetic_of_its_extents() {
    // As many filters and channels as fill every vector; few enough filters to stay in a cache.
    let (c, k) = (32, 32);
    let g = Geometry::new(Window::same([1, 3, 3])).with(Products::Fma);
    let p = Conv3d::new("conv3d", [2, 2, 6, 7, c].into(), [k, 1, 3, 3, c].into(), &g).unwrap();
    let tensor = |shape: Shape| Tensor::from_f32(shape, &numbers(shape.len())).unwrap();
    let (x, w, dy) = (tensor(p.x_shape()), tensor(p.w_shape()), tensor(p.y_shape()));
    let [of_x, of_w, of_y] = [&x, &w, &dy].map(|t| 4 * t.shape().len() as u64);
    let ((), report) = alone(2, || {
        record(|| {
            conv3d::fprop(&x, &w, &g).map(drop).unwrap();
            conv3d::dgrad(&dy, &w, x.shape(), &g).map(drop).unwrap();
            conv3d::wgrad(&x, &dy, w.shape(), &g).map(drop).unwrap();
        })
    });
    let fprop = row(&report, "conv3d fprop, multiply-adds");
    // Filters are read, packed and read again.
    assert_eq!((fprop.calls, fprop.flops), (1, p.flops()));
    assert_eq!((fprop.read, fprop.wrote), (of_x + 2 * of_w, of_y + of_w));
    assert_eq!((fprop.temporary.filters, fprop.temporary.total(), fprop.allocated), (of_w, of_w, of_y));
    let dgrad = row(&report, "conv3d dgrad, multiply-adds");
    assert_eq!((dgrad.read, dgrad.wrote, dgrad.allocated), (of_y + 2 * of_w, of_x + of_w, of_x));
    let wgrad = row(&report, "conv3d wgrad, multiply-adds");
    assert_eq!((wgrad.read, wgrad.wrote, wgrad.temporary.total()), (of_x + of_y, of_w, 0));
    assert_eq!((wgrad.flops, wgrad.allocated), (p.flops(), of_w));
    assert_eq!(report.outside, 0);

    // Results of bf16 are rounded as they are stored. Operands are read as they are where pairs of them are multiplied, and widened
    // before where they are not.
    let half = |t: &Tensor| t.cast(DType::BF16).unwrap();
    let (x, w) = (half(&x), half(&w));
    let best = Isa::best();
    if best < Isa::Amx {
        let ((), report) = alone(1, || record(|| conv3d::fprop(&x, &w, &g).map(drop).unwrap()));
        let fprop = row(&report, "conv3d fprop, multiply-adds");
        let size = if best == Isa::Avx512Bf16 { 2 } else { 1 };
        assert_eq!((fprop.read, fprop.wrote), ((of_x + 2 * of_w) / size, of_y / 2 + of_w / size));
        if best < Isa::Avx512Bf16 {
            let cast = row(&report, "cast");
            assert_eq!((cast.calls, cast.read, cast.wrote), (2, (of_x + of_w) / 2, of_x + of_w));
        }
    }
}

#[test]
fn every_operation_of_a_step_counts_and_threads_change_nothing() {
    let cases = [
        (narrow(Net::cvrl_r3d50()), [8, 32, 32]),
        (narrow(Net::p3d_a50()), [16, 32, 32]),
        (narrow(Net::r2plus1d_18()), [8, 32, 32]),
    ];
    for (net, clip) in cases {
        for precision in [Precision::F32, Precision::Bf16x3, Precision::Bf16] {
            let (report, trained) = alone(1, || step(&net, clip, precision));
            // No tensor is made outside of a pass, and a pass writes at least what it makes.
            assert_eq!(report.outside, 0, "{precision}");
            for row in &report.rows {
                assert!(row.wrote >= row.allocated, "{precision}: {row:?}");
                assert!(row.calls > 0 && row.tasks > 0 && row.read + row.wrote > 0, "{precision}: {row:?}");
                assert!(row.temporary.total() <= row.wrote, "{precision}: {row:?}");
            }
            // Each array of the update once.
            let update = row(&report, "sgd");
            assert_eq!((update.read, update.wrote), (12 * trained as u64, 8 * trained as u64));
            let kinds: BTreeSet<&str> = report.rows.iter().map(|r| r.kind.split(',').next().unwrap()).collect();
            let expected = [
                "batch_norm backward",
                "batch_norm normalise",
                "batch_norm statistics",
                "conv3d dgrad",
                "conv3d fprop",
                "conv3d wgrad",
                "cross_entropy",
                "cross_entropy backward",
                "ema",
                "global_avg_pool",
                "global_avg_pool backward",
                "matmul",
                "sgd",
            ];
            let missing: Vec<_> = expected.iter().filter(|kind| !kinds.contains(**kind)).collect();
            assert!(missing.is_empty(), "{precision}: {missing:?} are not in {kinds:?}");
            let counted = |report: Report| -> Vec<Row> {
                let timeless = |row: Row| {
                    let mut row = row;
                    (row.time, row.busy) = (Duration::ZERO, Duration::ZERO);
                    row
                };
                report.rows.into_iter().map(timeless).collect()
            };
            let (one, three) = (counted(report), counted(alone(3, || step(&net, clip, precision)).0));
            assert_eq!(one, three, "{precision}");
        }
    }
}

/// Operations that pre-training has and a classifier's step has not.
#[test]
fn other_operations_count_what_they_make() {
    let tensor = |shape: &[usize]| Tensor::from_f32(Shape::new(shape), &numbers(shape.iter().product())).unwrap();
    let (a, b, map) = (tensor(&[6, 8]), tensor(&[6, 8]), tensor(&[2, 2, 3, 4, 5]));
    let (mut key, window) = (tensor(&[6, 8]), Window::same([1, 1, 1]));
    let ((), report) = alone(2, || {
        record(|| {
            let t = Tape::new();
            let (x, y, m) = (t.leaf(a.clone()), t.leaf(b.clone()), t.leaf(map.clone()));
            let unit = ops::l2_norm(&t, &x).unwrap();
            let all = [
                ops::add(&t, &x, &y).unwrap(),
                ops::mul(&t, &x, &y).unwrap(),
                ops::scale(&t, &x, 2.0).unwrap(),
                ops::exp(&t, &x).unwrap(),
                ops::relu(&t, &x).unwrap(),
                ops::softmax(&t, &x).unwrap(),
                ops::cast(&t, &unit, DType::BF16).unwrap(),
                ops::max_pool(&t, &m, [1, 1, 1], &window).unwrap(),
                ops::avg_pool(&t, &m, [1, 1, 1], &window).unwrap(),
                ops::channel_map(&t, &m, &m).unwrap(),
            ];
            for y in &all {
                let sum = ops::sum(&t, &ops::cast(&t, y, DType::F32).unwrap()).unwrap();
                t.grad(&sum, &[&x, &m], tape::Mode::Peek).map(drop).unwrap();
            }
            infonce::forward_backward(&l2_norm::forward(&a).unwrap(), &b, &a, 0.1).map(drop).unwrap();
            ema::update(&mut key, &b, 0.9).unwrap();
            a.rows(&[1, 0]).map(drop).unwrap();
            a.part(8, [8]).map(drop).unwrap();
        })
    });
    assert_eq!(report.outside, 0, "{:?}", report.rows);
    for row in &report.rows {
        assert!(row.wrote >= row.allocated, "{row:?}");
    }
    let infonce = row(&report, "infonce");
    assert_eq!((infonce.flops, infonce.read), (2 * 2 * 6 * 6 * 8, 3 * 4 * 6 * 8));
    assert_eq!(row(&report, "ema").read, 2 * 4 * 48);
}
