//! The alignment loss behind a network, as MCL has it: the gradient of a similarity for a feature map, kept; its channel map,
//! rectified; the cosines with a target; and the gradients of all weights through all of that. Against differences of the
//! definition of the whole in f64, and with what follows from the formulas (mcl.md 3).

use crate::kernels::alignment::rows;
use crate::support::close::{assert_near, assert_norm};
use crate::support::numbers::{data, noise, wide};
use tubelet::error::Result;
use tubelet::ops::alignment::{self, Cosines};
use tubelet::ops::batch_norm::reference::{Layer, Rows};
use tubelet::ops::batch_norm::{self, Stats};
use tubelet::ops::conv3d::{self, Conv3d, Geometry};
use tubelet::ops::{self, l2_norm, linear, pool3d};
use tubelet::shape::{Shape, Window};
use tubelet::tape::{Mode, Tape, Var};
use tubelet::tensor::Tensor;

const X: [usize; 5] = [3, 2, 4, 3, 4];
const W: [usize; 5] = [6, 1, 3, 3, 4];
/// The feature map, and what is added to it after its normalisation.
const F: [usize; 5] = [3, 2, 4, 3, 6];
const CODE: usize = 5;
const EPS: f32 = 1e-5;
/// Of the similarity itself in the loss, which a contrastive loss has besides.
const PULL: f32 = -0.3;

fn geometry() -> Geometry {
    Geometry::new(Window::same([1, 3, 3]))
}

/// Which map (mcl.md 3.4 and issue: released, Grad-CAM), and which statistics.
#[derive(Clone, Copy, Debug)]
struct Setting {
    grad_cam: bool,
    frozen: bool,
}

const SETTINGS: [Setting; 4] = [
    Setting { grad_cam: false, frozen: false },
    Setting { grad_cam: false, frozen: true },
    Setting { grad_cam: true, frozen: false },
    Setting { grad_cam: true, frozen: true },
];

/// Clip, residual, key, target, and frozen statistics: what has no gradient.
struct Given {
    x: Tensor,
    residual: Tensor,
    key: Tensor,
    y: Tensor,
    mean: Tensor,
    var: Tensor,
}

fn given() -> Given {
    let positive = |v: Tensor| {
        let data: Vec<f32> = data(&v).iter().map(|v| v.abs() + 0.1).collect();
        Tensor::from_f32(v.shape(), &data).unwrap()
    };
    Given {
        x: noise(1, &X),
        residual: noise(2, &F),
        key: l2_norm::forward(&noise(3, &[X[0], CODE])).unwrap(),
        y: positive(noise(4, &[F[0], F[1], F[2], F[3]])),
        mean: noise(5, &[F[4]]),
        var: positive(noise(6, &[F[4]])),
    }
}

/// Filters, gamma, beta, weights and offsets of the head.
fn weights() -> [Tensor; 5] {
    [noise(11, &W), noise(12, &[F[4]]), noise(13, &[F[4]]), noise(14, &[CODE, F[4]]), noise(15, &[CODE])]
}

/// The loss, and the feature map.
fn loss(t: &Tape, given: &Given, v: &[Var], setting: Setting) -> Result<(Var, Var)> {
    let f = ops::conv3d(t, &Var::constant(given.x.clone()), &v[0], &geometry())?;
    let fixed = Stats::Fixed { mean: &given.mean, var: &given.var };
    let stats = if setting.frozen { fixed } else { Stats::Batch { parts: 1 } };
    let residual = Var::constant(given.residual.clone());
    let (h, _) = ops::batch_norm(t, &f, &v[1], &v[2], stats, EPS, Some(&residual), true)?;
    let q = ops::linear(t, &ops::global_avg_pool(t, &h)?, &v[3], Some(&v[4]))?;
    let q = ops::l2_norm(t, &q)?;
    let product = ops::mul(t, &q, &Var::constant(given.key.clone()))?;
    let similar = ops::reshape(t, &ops::sum_to(t, &product, Shape::from([1, 1]))?, Shape::from([]))?;
    let g = t.grad(&similar, &[&f], Mode::Keep)?.remove(0).expect("the similarity depends on the features");
    let p = ops::relu(t, &ops::channel_map(t, &g, if setting.grad_cam { &f } else { &g })?)?;
    let align = ops::map_alignment(t, &p, &given.y, &Cosines::default())?.loss;
    Ok((ops::add(t, &align, &ops::scale(t, &similar, PULL)?)?, f))
}

/// The same in f64, from the definitions, of which the gradient for the feature map is written out.
fn definition(given: &Given, v: &[Vec<f64>], setting: Setting) -> f64 {
    let problem = Conv3d::new("conv3d", Shape::from(X), Shape::from(W), &geometry()).unwrap();
    let f = conv3d::reference::fprop(&problem, &wide(&given.x), &v[0]).value;
    let (mean, var) = (wide(&given.mean), wide(&given.var));
    let layer = Layer {
        rows: Rows { parts: 1, rows: F[..4].iter().product(), c: F[4] },
        gamma: &v[1],
        beta: &v[2],
        fixed: setting.frozen.then_some((&mean, &var)),
        eps: f64::from(EPS),
    };
    let h = batch_norm::reference::forward(&layer, &f, Some(&wide(&given.residual)), true).y.value;
    let places: usize = F[1..4].iter().product();
    let pooled = pool3d::reference::global(F[0], places, F[4], &h).value;
    let extents = [F[0], F[4], CODE];
    let z = linear::reference::linear(extents, &pooled, &v[3], Some(&v[4])).value;
    let q = l2_norm::reference::forward(&z, CODE).value;
    let key = wide(&given.key);
    let similar: f64 = q.iter().zip(&key).map(|(q, k)| q * k).sum();

    let dz = l2_norm::reference::backward(&z, &key, CODE).value;
    let [dpooled, ..] = linear::reference::backward(extents, &pooled, &v[3], &dz);
    let dh = pool3d::reference::global_back(places, F[4], &dpooled.value);
    let g = batch_norm::reference::backward(&layer, &f, Some(&h), &dh).dx.value;
    let m = alignment::reference::map(rows(F), &g, if setting.grad_cam { &f } else { &g }).value;
    let p: Vec<f64> = m.iter().map(|v| v.max(0.0)).collect();
    let grid = [F[0], F[1], F[2] * F[3]];
    let align = alignment::reference::align(grid, &p, &wide(&given.y), &Cosines::default()).value[0];
    align + f64::from(PULL) * similar
}

#[test]
fn gradients_of_the_whole_loss_equal_its_differences() {
    let given = given();
    for setting in SETTINGS {
        let t = Tape::new();
        let leaves = weights().map(|w| t.leaf(w));
        let (value, _) = loss(&t, &given, &leaves, setting).unwrap();
        let at = weights().each_ref().map(wide).to_vec();
        assert_near(
            &format!("{setting:?}"),
            value.value().item().unwrap().into(),
            definition(&given, &at, setting),
            1e-6,
        );
        let grads = t.grad(&value, &leaves.each_ref(), Mode::Free).unwrap();
        for (i, name) in ["filters", "gamma", "beta", "head", "offsets"].into_iter().enumerate() {
            let differences = (0..at[i].len()).map(|j| {
                let shifted = |h: f64| {
                    let mut at = at.clone();
                    at[i][j] += h;
                    definition(&given, &at, setting)
                };
                // Of the fourth order: the curvature of cosines of small maps is large.
                let (h, d) = (1e-5, |h: f64| (shifted(h) - shifted(-h)) / (2.0 * h));
                ((4.0 * d(h) - d(2.0 * h)) / 3.0) as f32
            });
            let want: Vec<f32> = differences.collect();
            let got = data(grads[i].as_ref().unwrap().value());
            assert_norm(&format!("{setting:?}: {name}"), &got, &want, 1e-5);
        }
    }
}

/// How far apart the numbers of a sample and channel are at positions where its unit is on, relative to the largest, at
/// the worst; and the largest number at a position where it is off, relative to the largest of all.
fn spread(d: &[f32], on: &[bool]) -> (f64, f64) {
    let (c, size) = (F[4], F[1] * F[2] * F[3] * F[4]);
    let top = d.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let mut worst = 0.0f64;
    for (d, on) in d.chunks_exact(size).zip(on.chunks_exact(size)) {
        for k in 0..c {
            let active: Vec<f64> = (k..size).step_by(c).filter(|i| on[*i]).map(|i| d[i].into()).collect();
            let (low, high) = active.iter().fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
            if active.len() > 1 && low.abs().max(high.abs()) > 0.0 {
                worst = worst.max((high - low) / low.abs().max(high.abs()));
            }
        }
    }
    let off = d.iter().zip(on).filter(|(_, on)| !**on).fold(0.0f32, |m, (v, _)| m.max(v.abs()));
    (worst, f64::from(off / top))
}

/// The gradient of the alignment loss alone for the features, and which units are on.
fn for_features(setting: Setting) -> (Vec<f32>, Vec<bool>) {
    let given = given();
    let t = Tape::new();
    let leaves = weights().map(|w| t.leaf(w));
    let (value, f) = loss(&t, &given, &leaves, setting).unwrap();
    let d = data(t.grad(&value, &[&f], Mode::Free).unwrap().remove(0).unwrap().value());
    let [gamma, beta] = [1, 2].map(|i| leaves[i].value().clone());
    let fixed = Stats::Fixed { mean: &given.mean, var: &given.var };
    let stats = if setting.frozen { fixed } else { Stats::Batch { parts: 1 } };
    let (h, ..) = batch_norm::forward(f.value(), &gamma, &beta, stats, EPS, Some(&given.residual), true).unwrap();
    (d, data(&h).iter().map(|v| *v > 0.0).collect())
}

/// Behind a mean over positions the released map says only which units are on, which no small change of the features
/// changes: with frozen statistics its gradient is the same wherever a unit is on, and 0 where it is off. It selects
/// positions through the batch's statistics alone.
#[test]
fn the_released_map_selects_positions_only_through_live_statistics() {
    let (d, on) = for_features(Setting { grad_cam: false, frozen: true });
    let (apart, off) = spread(&d, &on);
    assert_near("frozen: spread where units are on", apart, 0.0, 1e-5);
    assert_near("frozen: where units are off", off, 0.0, 0.0);
    let (d, on) = for_features(Setting { grad_cam: false, frozen: false });
    let (apart, off) = spread(&d, &on);
    println!("live: spread {apart}, where off {off}");
    assert!(10.0 * apart > 1.0 && 10.0 * off > 1.0, "live statistics: spread {apart}, where units are off {off}");
}

/// A map of the features themselves (Grad-CAM) has a gradient of its own at every position, whatever the statistics.
#[test]
fn the_map_of_features_selects_positions_by_itself() {
    for frozen in [true, false] {
        let (d, on) = for_features(Setting { grad_cam: true, frozen });
        let (apart, off) = spread(&d, &on);
        println!("Grad-CAM, frozen {frozen}: spread {apart}, where off {off}");
        assert!(10.0 * apart > 1.0 && 10.0 * off > 1.0, "frozen {frozen}: spread {apart}, where units are off {off}");
    }
}
