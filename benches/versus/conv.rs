//! Convolutions: every distinct layer of the networks, three passes, all precisions.

use crate::case::{Case, Unit, Work};
use crate::exact::relative_error;
use crate::layers::{Layer, distinct};
use crate::noise::noise;
use serde_json::{Value, json};
use std::hint::black_box;
use tubelet::error::Result;
use tubelet::nn::Precision;
use tubelet::ops::conv3d::{Conv3d, dgrad, fprop, wgrad};
use tubelet::tensor::{DType, Tensor};

/// Precisions that store f32, and so share a peer, are adjacent.
const PRECISIONS: [Precision; 5] =
    [Precision::F32, Precision::Fma, Precision::Bf16x3, Precision::Bf16x6, Precision::Bf16];

/// The gradient by the clips is omitted: training does not compute it, in this crate or in the peer.
pub fn cases(of: &[(&'static str, Vec<(String, Conv3d)>)]) -> Vec<Case> {
    let mut cases = Vec::new();
    for layer in distinct(of) {
        let passes = if layer.stem { &["fprop", "wgrad"][..] } else { &["fprop", "dgrad", "wgrad"] };
        for pass in passes {
            cases.extend(PRECISIONS.map(|precision| case(&layer, pass, precision)));
        }
    }
    cases
}

fn case(layer: &Layer, pass: &'static str, precision: Precision) -> Case {
    let geometry = layer.problem.geometry().with(precision.products());
    let p = Conv3d::new("conv3d", layer.problem.x_shape(), layer.problem.w_shape(), &geometry).unwrap();
    let (dtype, unit) = (precision.dtype(), Unit::of(precision));
    Case {
        name: format!("conv3d/{pass}/{}/{precision}/cpu", layer.name),
        problem: problem(layer, pass, dtype),
        flops: p.flops(),
        bytes: bytes(&p, pass, dtype),
        extra: matches!(precision, Precision::Fma | Precision::Bf16x6),
        unit,
        make: Box::new(move || make(p, pass, dtype)),
    }
}

fn problem(layer: &Layer, pass: &str, dtype: DType) -> Value {
    let p = &layer.problem;
    let window = p.geometry().window;
    json!({
        "op": "conv3d", "pass": pass, "dtype": dtype.name(), "x": p.x_shape().dims(), "k": p.k(), "kernel": p.kernel(),
        "stride": window.stride, "pad": window.pad, "places": layer.places,
    })
}

/// Each array once; the gradient by the filters is f32.
fn bytes(p: &Conv3d, pass: &str, dtype: DType) -> u64 {
    let w = if pass == "wgrad" { 4 } else { dtype.size() };
    (dtype.size() * (p.x_shape().len() + p.y_shape().len()) + w * p.w_shape().len()) as u64
}

type Run = fn(&Conv3d, &Tensor, &Tensor) -> Result<Tensor>;

fn make(p: Conv3d, pass: &'static str, dtype: DType) -> Result<Work> {
    let [x, w, dy] = [(p.x_shape(), 1), (p.w_shape(), 2), (p.y_shape(), 3)];
    let (run, a, b): (Run, _, _) = match pass {
        "fprop" => (|p, x, w| fprop(x, w, p.geometry()), x, w),
        "dgrad" => (|p, dy, w| dgrad(dy, w, p.x_shape(), p.geometry()), dy, w),
        _ => (|p, x, dy| wgrad(x, dy, p.w_shape(), p.geometry()), x, dy),
    };
    let [a, b] = [a, b].map(|(shape, seed)| noise(shape, seed).cast(dtype));
    let (a, b) = (a?, b?);
    let (a2, b2) = (a.clone(), b.clone());
    let run_once = move || run(&p, &a, &b).map(|y| drop(black_box(y)));
    let check = move || {
        let y = run(&p, &a2, &b2)?;
        let error = relative_error(&p, pass, [&a2.load()?, &b2.load()?], &y.load()?);
        Ok(json!({"relative_error": error}))
    };
    Ok(Work { run: Box::new(run_once), check: Some(Box::new(check)) })
}
