//! Training steps of the networks, with two clips.

use crate::case::{Case, Unit, Work};
use crate::nets::nets;
use crate::noise::noise;
use crate::step::Step;
use serde_json::json;
use tubelet::nn::{Net, Precision};
use tubelet::ops::conv3d::Conv3d;

const CLIPS: usize = 2;

/// Every network in every precision; those that share a peer are adjacent. `of` are the convolutions for one clip.
pub fn cases(of: &[(&str, Vec<(String, Conv3d)>)]) -> Vec<Case> {
    let mut cases = Vec::new();
    for ((name, net, clip), (_, convs)) in nets().into_iter().zip(of) {
        // Three passes of each convolution, but two of the first, which reads the clips.
        let flops = convs.iter().enumerate().map(|(i, (_, p))| p.flops() * if i == 0 { 2 } else { 3 }).sum::<u64>();
        let precisions = [Precision::F32, Precision::Fma, Precision::Bf16x3, Precision::Bf16x6, Precision::Bf16];
        cases.extend(precisions.map(|p| case(name, &net, clip, p, flops * CLIPS as u64)));
    }
    cases
}

fn case(name: &'static str, net: &Net, [t, h, w]: [usize; 3], precision: Precision, flops: u64) -> Case {
    let shape = [CLIPS, t, h, w, 3];
    let net = net.clone();
    Case {
        name: format!("train_step/{name}/{CLIPS}x{t}x{h}x{w}/{precision}/cpu"),
        problem: json!({"op": "train_step", "net": name, "x": shape, "dtype": precision.dtype().name()}),
        flops,
        bytes: 0,
        extra: matches!(precision, Precision::Fma | Precision::Bf16x6),
        unit: Unit::of(precision),
        make: Box::new(move || {
            let mut step = Step::new(&net, noise(shape, 1), precision)?;
            Ok(Work { run: Box::new(move || step.run().map(drop)), check: None })
        }),
    }
}
