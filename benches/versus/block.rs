//! Complete blocks in training: convolutions with the normalisations, ReLUs and sums that are fused with them.

use crate::case::{Case, Unit, Work};
use crate::noise::noise;
use serde_json::json;
use tubelet::error::Result;
use tubelet::nn::nets::{Kind, Naming, Stage};
use tubelet::nn::{Mode, Net, Params, Pass, Precision, Trunk};
use tubelet::tape::{self, Tape, Var};
use tubelet::tensor::Tensor;

/// Blocks with an identity shortcut: name, kind, temporal extent, input `n t h w c`.
const BLOCKS: [(&str, Kind, usize, [usize; 5]); 5] = [
    ("slow_r50-2", Kind::Bottleneck { inner: 64 }, 1, [2, 8, 56, 56, 256]),
    ("slow_r50-4", Kind::Bottleneck { inner: 256 }, 3, [2, 8, 14, 14, 1024]),
    ("p3d_a50-3", Kind::PseudoBottleneck { inner: 128 }, 3, [2, 4, 28, 28, 512]),
    ("r2plus1d_18-1", Kind::Factored, 3, [2, 16, 56, 56, 64]),
    ("r3d_18-2", Kind::Whole { convs: 2, residual: true }, 3, [2, 8, 28, 28, 128]),
];

/// Forward in training mode, and forward and backward (gradients by input and parameters).
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, kind, temporal, x) in BLOCKS {
        for pass in ["fwd", "fwd_bwd"] {
            for precision in [Precision::F32, Precision::Bf16x3, Precision::Bf16] {
                cases.push(case(name, pass, kind, temporal, x, precision));
            }
        }
    }
    cases
}

fn case(name: &str, pass: &str, kind: Kind, temporal: usize, x: [usize; 5], precision: Precision) -> Case {
    let c = x[4];
    let stage = Stage { kind, count: 1, out: c, temporal, stride: [1; 3] };
    let net = Net {
        naming: Naming::Image,
        in_channels: c,
        stem: vec![],
        pool: None,
        stages: vec![stage],
        zero_last_scale: false,
    };
    let (trunk, params) = Trunk::with_params(&net, 1);
    let convs = trunk.convolutions(&params, x[0], [x[1], x[2], x[3]]).expect("a block fits its input");
    let forward: u64 = convs.iter().map(|(_, p)| p.flops()).sum();
    let backward = pass == "fwd_bwd";
    Case {
        name: format!("block/{pass}/{name}/{precision}/cpu"),
        problem: json!({
            "op": "block", "pass": pass, "block": name, "inner": inner(kind), "temporal": temporal, "x": x,
            "dtype": precision.dtype().name(),
        }),
        flops: if backward { 3 * forward } else { forward },
        bytes: 0,
        extra: false,
        unit: Unit::of(precision),
        make: Box::new(move || {
            let (trunk, mut params) = (trunk.clone(), params.clone());
            let (x, dy) = (noise(x, 1).cast(precision.dtype())?, noise(x, 2).cast(precision.dtype())?);
            let run = move || once(&trunk, &mut params, &x, backward.then_some(&dy), precision);
            Ok(Work { run: Box::new(run), check: None })
        }),
    }
}

/// Inner channels of a bottleneck; 0 for other blocks.
fn inner(kind: Kind) -> usize {
    match kind {
        Kind::Bottleneck { inner } | Kind::PseudoBottleneck { inner } => inner,
        _ => 0,
    }
}

fn once(trunk: &Trunk, params: &mut Params, x: &Tensor, dy: Option<&Tensor>, precision: Precision) -> Result<()> {
    let tape = Tape::new();
    let x = tape.leaf(x.clone());
    let mut pass = Pass::new(&tape, params, Mode::Train { parts: 1 }).with_precision(precision);
    let y = trunk.forward_map(&mut pass, &x)?;
    if let Some(dy) = dy {
        let leaves = pass.leaves();
        let to: Vec<&Var> = leaves.iter().map(|(_, v)| v).chain([&x]).collect();
        tape.grad_from(&y, Var::constant(dy.clone()), &to, tape::Mode::Free)?;
    }
    Ok(())
}
