//! Batch normalisation: against its definition, PyTorch and differences, in both number types.

use crate::support::close::{assert_bounded, assert_gradient, assert_near, assert_norm};
use crate::support::goldens::Goldens;
use crate::support::grad::{assert_keep_is_free, assert_same_on_any_threads, assert_second_order};
use crate::support::numbers::{data, noise, wide};
use crate::support::sim::on_gpu;
use proptest::prelude::*;
use tubelet::error::ErrorKind;
use tubelet::ops;
use tubelet::ops::batch_norm::reference::{self, Layer, Rows};
use tubelet::ops::batch_norm::{self, Stats, cases::CASES};
use tubelet::tape::{Mode, Tape, Var};
use tubelet::tensor::{DType, Device, Tensor};

const EPS: f32 = 1e-5;

/// What a test varies.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    fixed: bool,
    residual: bool,
    relu: bool,
    dtype: DType,
}

pub const KINDS: [Kind; 6] = [
    Kind { fixed: false, residual: false, relu: false, dtype: DType::F32 },
    Kind { fixed: false, residual: false, relu: true, dtype: DType::F32 },
    Kind { fixed: false, residual: true, relu: true, dtype: DType::F32 },
    Kind { fixed: true, residual: true, relu: false, dtype: DType::F32 },
    Kind { fixed: true, residual: false, relu: true, dtype: DType::F32 },
    Kind { fixed: false, residual: true, relu: true, dtype: DType::BF16 },
];

/// The result, the gradients of x, gamma, beta (and residual), and the moments, by the tape.
fn run(
    inputs: &[Tensor],
    dy: &Tensor,
    stats: Stats,
    residual: bool,
    relu: bool,
) -> (Tensor, Vec<Tensor>, Option<batch_norm::BatchStatistics>) {
    let t = Tape::new();
    let v: Vec<Var> = inputs.iter().map(|x| t.leaf(x.clone())).collect();
    let (y, moments) = ops::batch_norm(&t, &v[0], &v[1], &v[2], stats, EPS, residual.then_some(&v[3]), relu).unwrap();
    let of: Vec<&Var> = v.iter().take(3 + usize::from(residual)).collect();
    let grads = t.grad_from(&y, Var::constant(dy.clone()), &of, Mode::Free).unwrap();
    (y.value().clone(), grads.into_iter().map(|g| g.unwrap().value().clone()).collect(), moments)
}

fn vector(v: &[f32]) -> Tensor {
    Tensor::from_f32([v.len()], v).unwrap()
}

/// Compares the layer on `p` with its definition on a device; `offset` is added to every `x`. The results' bits.
pub fn check(device: &Device, what: &str, p: Rows, kind: Kind, offset: f32) -> Vec<u32> {
    let what = format!("{what} {kind:?}");
    let n = p.parts * p.rows;
    let x: Vec<f32> = data(&noise(1, &[n, p.c])).iter().map(|v| v + offset).collect();
    let x = Tensor::from_f32([n, p.c], &x).unwrap().cast(kind.dtype).unwrap();
    let (gamma, beta, residual) = (noise(2, &[p.c]), noise(3, &[p.c]), noise(4, &[n, p.c]).cast(kind.dtype).unwrap());
    let dy = noise(5, &[n, p.c]).cast(kind.dtype).unwrap();
    let (mean, var) =
        (data(&noise(6, &[p.c])), data(&noise(7, &[p.c])).iter().map(|v| v.abs() + 0.1).collect::<Vec<_>>());
    let there = |x: &Tensor| x.to(device).unwrap();
    let (given_mean, given_var) = (there(&vector(&mean)), there(&vector(&var)));
    let stats = match kind.fixed {
        true => Stats::Fixed { mean: &given_mean, var: &given_var },
        false => Stats::Batch { parts: p.parts },
    };
    let inputs = [&x, &gamma, &beta, &residual].map(there);
    let (y, grads, moments) = run(&inputs, &there(&dy), stats, kind.residual, kind.relu);

    let rows = if kind.fixed { Rows { parts: 1, rows: n, c: p.c } } else { p };
    let (gamma, beta, r) = (wide(&gamma), wide(&beta), wide(&residual));
    let (mean, var): (Vec<f64>, Vec<f64>) =
        (mean.iter().map(|&v| v.into()).collect(), var.iter().map(|&v| v.into()).collect());
    let fixed = kind.fixed.then_some((&mean[..], &var[..]));
    let layer = Layer { rows, gamma: &gamma, beta: &beta, fixed, eps: f64::from(EPS) };
    let want = reference::forward(&layer, &wide(&x), kind.residual.then_some(&r[..]), kind.relu);
    assert_bounded(&format!("{what}: y"), &data(&y), &want.y, kind.dtype);

    // The mask is that of the result, so that a value within rounding of 0 is masked alike.
    let got = wide(&y);
    let d = reference::backward(&layer, &wide(&x), kind.relu.then_some(&got[..]), &wide(&dy));
    assert_bounded(&format!("{what}: dx"), &data(&grads[0]), &d.dx, kind.dtype);
    assert_bounded(&format!("{what}: dgamma"), &data(&grads[1]), &d.dgamma, DType::F32);
    assert_bounded(&format!("{what}: dbeta"), &data(&grads[2]), &d.dbeta, DType::F32);
    if kind.residual {
        assert_eq!(wide(&grads[3]), d.dresidual, "{what}: dresidual");
    }
    assert_eq!(moments.is_some(), !kind.fixed);
    let mut seen: Vec<Tensor> = grads.into_iter().chain([y]).collect();
    if let Some(m) = moments {
        let whole = Layer { rows: Rows { parts: 1, rows: n, c: p.c }, ..layer };
        let w = reference::forward(&whole, &wide(&x), None, false);
        let (mean, var) = (data(&m.mean), data(&m.var));
        for ch in 0..p.c {
            let unbiased = w.var[ch] * n as f64 / (n as f64 - 1.0);
            assert_near(&format!("{what}: mean"), mean[ch].into(), w.mean[ch], 1e-6);
            assert_near(&format!("{what}: variance"), var[ch].into(), unbiased, 3e-6);
        }
        seen.extend([m.mean, m.var]);
    }
    seen.iter().flat_map(data).map(f32::to_bits).collect()
}

#[test]
fn cases_meet_the_definition() {
    for case in CASES.iter().filter(|c| c.len() < 100_000) {
        for kind in KINDS {
            check(&Device::Cpu, case.name, case.rows, kind, 0.0);
        }
    }
}

#[test]
pub fn cases_meet_the_definition_on_a_device() {
    let bf16 = |kind: Kind| Kind { dtype: DType::BF16, ..kind };
    on_gpu(|device| {
        let mut seen = Vec::new();
        for case in CASES.iter().filter(|c| c.len() < 80_000) {
            for kind in KINDS.into_iter().chain([bf16(KINDS[1]), bf16(KINDS[4])]) {
                seen.push(check(device, case.name, case.rows, kind, 0.0));
            }
        }
        // Channels that are whole vectors, in one tile and in several, in one chunk and in several; and that are not.
        for (groups, rows, c) in [(2, 700, 16), (1, 9, 136), (3, 300, 64), (1, 40, 5)] {
            for kind in KINDS.into_iter().chain(KINDS.map(bf16)) {
                seen.push(check(device, "wide", Rows { parts: groups, rows, c }, kind, 0.0));
            }
        }
        seen
    });
}

#[test]
fn a_large_mean_costs_no_digits_of_the_variance() {
    let rows = Rows { parts: 2, rows: 1061, c: 5 };
    for kind in [KINDS[0], KINDS[2]] {
        check(&Device::Cpu, "mean 1000", rows, kind, 1000.0);
        on_gpu(|device| {
            let wide = check(device, "mean 1000, wide", Rows { c: 8, ..rows }, kind, 1000.0);
            (check(device, "mean 1000", rows, kind, 1000.0), wide)
        });
    }
}

#[test]
fn the_last_chunk_may_hold_one_row() {
    check(&Device::Cpu, "513 rows", Rows { parts: 1, rows: 513, c: 3 }, KINDS[2], 0.0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn ragged_shapes_meet_the_definition(groups in 1usize..4, rows in 2usize..90, c in 1usize..40, kind in 0usize..6) {
        check(&Device::Cpu, "ragged", Rows { parts: groups, rows, c }, KINDS[kind], 0.5);
    }
}

#[test]
fn gradients_are_those_of_differences() {
    let rows = Rows { parts: 2, rows: 5, c: 3 };
    let shape = [10, 3];
    let [x, r, dy] = [1, 2, 3].map(|seed| wide(&noise(seed, &shape)));
    let (gamma, beta) = (wide(&noise(4, &[3])), wide(&noise(5, &[3])));
    let (mean, var) = ([0.1, -0.2, 0.3], [1.5, 0.5, 1.0]);
    for (fixed, relu) in [(None, false), (None, true), (Some((&mean[..], &var[..])), true)] {
        let layer = Layer {
            rows: if fixed.is_some() { Rows { parts: 1, rows: 10, c: 3 } } else { rows },
            gamma: &gamma,
            beta: &beta,
            fixed,
            eps: 1e-5,
        };
        let loss = |l: &Layer<f64>, x: &[f64], r: &[f64]| -> f64 {
            reference::forward(l, x, Some(r), relu).y.value.iter().zip(&dy).map(|(y, d)| y * d).sum()
        };
        let y = reference::forward(&layer, &x, Some(&r), relu).y.value;
        let d = reference::backward(&layer, &x, relu.then_some(&y[..]), &dy);
        let all = |_: usize| false;
        assert_gradient("dx", &x, &d.dx.value, 1e-6, all, |x| loss(&layer, x, &r));
        assert_gradient("dgamma", &gamma, &d.dgamma.value, 1e-6, all, |g| loss(&Layer { gamma: g, ..layer }, &x, &r));
        assert_gradient("dbeta", &beta, &d.dbeta.value, 1e-6, all, |b| loss(&Layer { beta: b, ..layer }, &x, &r));
        assert_gradient("dresidual", &r, &d.dresidual, 1e-6, all, |r| loss(&layer, &x, r));
    }
}

#[test]
fn fused_and_composed_gradients_agree() {
    let shape = [4, 2, 3, 3, 5];
    let inputs = [noise(1, &shape), noise(2, &[5]), noise(3, &[5]), noise(4, &shape)];
    let (mean, var) = (vector(&[0.1, 0.2, -0.1, 0.0, 0.3]), vector(&[1.0, 0.5, 2.0, 1.5, 0.7]));
    for (i, stats) in [Stats::Batch { parts: 1 }, Stats::Batch { parts: 2 }, Stats::Fixed { mean: &mean, var: &var }]
        .into_iter()
        .enumerate()
    {
        for (residual, relu) in [(false, false), (false, true), (true, false), (true, true)] {
            let count = 3 + usize::from(residual);
            assert_keep_is_free(&format!("statistics {i} {residual} {relu}"), &inputs[..count], 1e-5, |t, v| {
                Ok(ops::batch_norm(t, &v[0], &v[1], &v[2], stats, EPS, v.get(3), relu)?.0)
            });
        }
    }
    let half: Vec<Tensor> = inputs
        .iter()
        .enumerate()
        .map(|(i, x)| x.cast([DType::BF16, DType::F32][usize::from(i == 1 || i == 2)]).unwrap())
        .collect();
    assert_keep_is_free("bf16", &half, 1e-2, |t, v| {
        Ok(ops::batch_norm(t, &v[0], &v[1], &v[2], Stats::Batch { parts: 1 }, EPS, v.get(3), true)?.0)
    });
}

#[test]
fn the_gradient_has_a_gradient() {
    let shape = [4, 3, 2];
    let inputs = [noise(1, &shape), noise(2, &[2]), noise(3, &[2]), noise(4, &shape)];
    let (mean, var) = ([0.1f32, 0.2], [1.0f32, 0.5]);
    let (wide_mean, wide_var): (Vec<f64>, Vec<f64>) = (mean.map(f64::from).into(), var.map(f64::from).into());
    let (mean, var) = (vector(&mean), vector(&var));
    for fixed in [false, true] {
        let stats = if fixed { Stats::Fixed { mean: &mean, var: &var } } else { Stats::Batch { parts: 2 } };
        let rows = if fixed { Rows { parts: 1, rows: 12, c: 2 } } else { Rows { parts: 2, rows: 6, c: 2 } };
        assert_second_order(
            &format!("fixed {fixed}"),
            &inputs,
            |t, v| Ok(ops::batch_norm(t, &v[0], &v[1], &v[2], stats, EPS, v.get(3), true)?.0),
            |v, dy| {
                let fixed = fixed.then_some((&wide_mean[..], &wide_var[..]));
                let layer = Layer { rows, gamma: &v[1], beta: &v[2], fixed, eps: f64::from(EPS) };
                let y = reference::forward(&layer, &v[0], Some(&v[3]), true).y.value;
                let d = reference::backward(&layer, &v[0], Some(&y), dy);
                vec![d.dx.value, d.dgamma.value, d.dbeta.value, d.dresidual]
            },
        );
    }
}

#[test]
fn agrees_with_pytorch() {
    let goldens = Goldens::open("batch_norm");
    let get = |name: &str| goldens.tensor(name);
    let inputs = [get("x"), get("gamma"), get("beta"), get("residual")];
    let (mean, var) = (get("fixed_mean"), get("fixed_var"));
    let fixed = Stats::Fixed { mean: &mean, var: &var };
    for (name, stats, residual, relu) in [
        ("train", Stats::Batch { parts: 1 }, false, false),
        ("train_relu", Stats::Batch { parts: 1 }, false, true),
        ("train_residual_relu", Stats::Batch { parts: 1 }, true, true),
        ("groups_residual_relu", Stats::Batch { parts: 3 }, true, true),
        ("eval", fixed, false, false),
        ("eval_residual_relu", fixed, true, true),
    ] {
        let (y, grads, moments) = run(&inputs, &get("dy"), stats, residual, relu);
        let same = |part: &str, got: &[f32]| {
            let name = format!("{name}.{part}");
            assert_norm(&name, got, &data(&get(&name)), 2e-6);
        };
        same("y", &data(&y));
        for (part, g) in ["dx", "dgamma", "dbeta", "dresidual"].iter().zip(&grads) {
            same(part, &data(g));
        }
        if let Some(m) = moments.filter(|_| !name.starts_with("groups")) {
            same("mean", &data(&m.mean));
            same("var", &data(&m.var));
        }
    }
}

#[test]
fn thread_count_changes_no_bit() {
    for dtype in [DType::F32, DType::BF16] {
        let shape = [6, 4, 9, 9, 20];
        let inputs = [
            noise(1, &shape).cast(dtype).unwrap(),
            noise(2, &[20]),
            noise(3, &[20]),
            noise(4, &shape).cast(dtype).unwrap(),
        ];
        let dy = noise(5, &shape).cast(dtype).unwrap();
        assert_same_on_any_threads("batch_norm", || {
            let (y, mut out, m) = run(&inputs, &dy, Stats::Batch { parts: 2 }, true, true);
            let m = m.unwrap();
            out.extend([y, m.mean, m.var]);
            out
        });
    }
}

#[test]
fn mistakes_are_errors() {
    let ones = |shape: &[usize]| Tensor::full(tubelet::shape::Shape::new(shape), 1.0);
    let (x, c) = (ones(&[4, 2, 3]), ones(&[3]));
    let batch = Stats::Batch { parts: 1 };
    let kind = |x: &Tensor, g: &Tensor, stats: Stats, eps: f32, r: Option<&Tensor>| {
        batch_norm::forward(x, g, &c, stats, eps, r, false).err().map(|e| e.to_string())
    };
    for (got, sentence) in [
        (kind(&x, &ones(&[2]), batch, EPS, None), "batch_norm: `gamma` must be [3], one per channel, but it is [2]"),
        (
            kind(&x, &c, Stats::Batch { parts: 3 }, EPS, None),
            "batch_norm: parts = 3, but it must divide the batch of 4",
        ),
        (
            kind(&x, &c, Stats::Batch { parts: 0 }, EPS, None),
            "batch_norm: parts = 0, but it must divide the batch of 4",
        ),
        (kind(&x, &c, batch, -1.0, None), "batch_norm: eps = -1, but it must be finite and at least 1.2e-38"),
        (kind(&x, &c, batch, 0.0, None), "batch_norm: eps = 0, but it must be finite and at least 1.2e-38"),
        (kind(&x, &c, batch, EPS, Some(&c)), "batch_norm: `residual` must be [4 2 3], but it is [3]"),
        (
            kind(&x, &c, Stats::Fixed { mean: &ones(&[1]), var: &ones(&[3]) }, EPS, None),
            "batch_norm: `mean` must be [3], one per channel, but it is [1]",
        ),
        (
            kind(&ones(&[1, 3]), &c, batch, EPS, None),
            "batch_norm: `x` must be more than one value per channel and part to form statistics, but it is [1 3]",
        ),
        (
            kind(&c, &c, batch, EPS, None),
            "batch_norm: `x` must be [n .. c] of two to five extents, none of them 0, but it is [3]",
        ),
    ] {
        assert_eq!(got.as_deref(), Some(sentence));
    }
    let e = batch_norm::forward(&x, &c, &c, Stats::Batch { parts: 3 }, EPS, None, false).unwrap_err();
    assert!(matches!(e.kind(), ErrorKind::Param { name: "parts", .. }));
}
