//! The crate's forms of TV-L1, with the parameters of our defaults as far as each has them.

use crate::images::Pair;
use scirs2_vision::feature::{DenseFlow, TVL1Params, dual_tvl1_flow, tvl1_flow};
use scirs2_vision::optical_flow_dense::{coarse_to_fine_flow, tvl1_flow as dense_tvl1_flow};

/// Horizontal and vertical displacements.
pub type Found = Result<(Vec<f64>, Vec<f64>), String>;

/// Solves a pair.
pub type Solve = fn(&Pair) -> Found;

pub const FORMS: [(&str, Solve); 4] = [
    ("tvl1_flow", |pair| with(pair, tvl1_flow)),
    ("dual_tvl1_flow", |pair| with(pair, dual_tvl1_flow)),
    ("dense::tvl1_flow", one_level),
    ("dense::tvl1_flow coarse to fine", levels),
];

/// All of them compute on numbers from 0 to 1, where ours are from 0 to 255: so the same weight of brightness is this.
const LAMBDA: f64 = 0.15 * 255.0;

/// Iterations of the forms that have one kind of them, each with a warp, and no criterion to stop: as many as ours has for a warp.
const ITERATIONS: usize = 10 * 30;

type Flow = fn(&image::DynamicImage, &image::DynamicImage, &TVL1Params) -> scirs2_vision::error::Result<DenseFlow>;

/// The defaults are OpenCV's and ours in everything else.
fn with(pair: &Pair, flow: Flow) -> Found {
    let [a, b] = &pair.pictures;
    let found =
        flow(a, b, &TVL1Params { lambda: LAMBDA as f32, ..TVL1Params::default() }).map_err(|e| e.to_string())?;
    Ok((found.u.iter().copied().map(f64::from).collect(), found.v.iter().copied().map(f64::from).collect()))
}

fn one_level(pair: &Pair) -> Found {
    let [a, b] = &pair.numbers;
    let (u, v) = dense_tvl1_flow(a, b, LAMBDA, 0.25, 0.3, ITERATIONS).map_err(|e| e.to_string())?;
    Ok((u.iter().copied().collect(), v.iter().copied().collect()))
}

fn levels(pair: &Pair) -> Found {
    let [a, b] = &pair.numbers;
    let level = |a: &_, b: &_| dense_tvl1_flow(a, b, LAMBDA, 0.25, 0.3, ITERATIONS);
    let (u, v) = coarse_to_fine_flow(a, b, 5, level).map_err(|e| e.to_string())?;
    Ok((u.iter().copied().collect(), v.iter().copied().collect()))
}
