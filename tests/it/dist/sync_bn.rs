//! Batch norm with the statistics of all ranks' parts of a batch.

use super::law;
use crate::support::close::{assert_bounded, assert_much_nearer, assert_near};
use crate::support::numbers::{data, noise, wide};
use crate::training::maclr;
use std::sync::Arc;
use tubelet::dist::sum::Wire;
use tubelet::dist::{Alone, Collective};
use tubelet::error::{ErrorKind, Result};
use tubelet::ops;
use tubelet::ops::batch_norm::reference::{self, Layer, Rows};
use tubelet::ops::batch_norm::{Moments, Peers, Running, Stats};
use tubelet::ssl::Division;
use tubelet::ssl::alignment::Alignment;
use tubelet::tape::{self, Tape, Var};
use tubelet::tensor::{DType, Device, Tensor};
use tubelet::train::maclr::Recipe;
use tubelet::train::recipe::Training;

const EPS: f32 = 1e-5;
const MOMENTUM: f32 = 0.1;

struct Ranks(Arc<dyn Collective>);

impl Peers for Ranks {
    fn count(&self) -> usize {
        self.0.size()
    }

    fn gather(&self, own: &Tensor) -> Result<Tensor> {
        self.0.all_gather(own)
    }
}

/// What the layer leaves on a rank: the result, the gradients of x, gamma and beta, and the running averages.
pub type Layered = Vec<Tensor>;

/// The layer with ReLU on the rows of a rank, on `device`; `mode` is that of the gradient.
pub fn layer(
    ranks: Arc<dyn Collective>,
    device: &Device,
    [x, gamma, beta, dy]: [&Tensor; 4],
    mode: tape::Mode,
) -> Result<Layered> {
    let (rank, size, c) = (ranks.rank(), ranks.size(), gamma.shape().len());
    let n = x.dims()[0] / size;
    let there = |t: &Tensor| t.to(device).unwrap();
    let own = |t: &Tensor| there(&t.part(rank * n * c, [n, c]).unwrap());
    let peers: Arc<dyn Peers> = Arc::new(Ranks(ranks));
    let t = Tape::new();
    let [x, gamma, beta] = [own(x), there(gamma), there(beta)].map(|v| t.leaf(v));
    let (mut mean, mut var) = (there(&Tensor::zeros([c])), there(&Tensor::full([c], 1.0)));
    let running = Running { mean: &mut mean, var: &mut var, momentum: MOMENTUM };
    let formed = Moments::of(x.value(), 1)?.statistics_over(x.value(), EPS, Some(running), Some(&peers))?;
    let (y, _) = ops::batch_norm(&t, &x, &gamma, &beta, Stats::Formed(&formed), EPS, None, true)?;
    let grads = t.grad_from(&y, Var::constant(own(dy)), &[&x, &gamma, &beta], mode)?;
    let grads = grads.into_iter().map(|g| g.unwrap().value().clone());
    Ok([y.value().clone()].into_iter().chain(grads).chain([mean, var]).collect())
}

/// Rows of all ranks, one behind the other.
fn joined(all: &[Layered], i: usize) -> Vec<f32> {
    all.iter().flat_map(|of_rank| data(&of_rank[i])).collect()
}

#[test]
fn layers_of_ranks_meet_the_definition_on_the_whole_batch() {
    // Numbers far from 0, so that statistics of a part differ from those of the whole; a rank of a single row has none alone.
    for (size, n, c, offset) in [(2, 8, 5, 0.0), (3, 3, 4, 3.0), (3, 600, 33, 100.0)] {
        for dtype in [DType::F32, DType::BF16] {
            let what = format!("{size} ranks, {n} rows of {c}, {}", dtype.name());
            let x: Vec<f32> =
                data(&noise(1, &[n, c])).iter().enumerate().map(|(i, v)| v + offset + (i / c % 3) as f32).collect();
            let x = Tensor::from_f32([n, c], &x).unwrap().cast(dtype).unwrap();
            let (gamma, beta, dy) = (noise(2, &[c]), noise(3, &[c]), noise(5, &[n, c]).cast(dtype).unwrap());
            let all = law::on_ranks(size, |ranks| {
                let left = layer(ranks.clone(), &Device::Cpu, [&x, &gamma, &beta, &dy], tape::Mode::Free).unwrap();
                // Three numbers a channel forward, two backward.
                assert_eq!(ranks.sent(), ((3 + 2) * 4 * c * (size - 1)) as u64);
                left
            });
            let (wide_gamma, wide_beta) = (wide(&gamma), wide(&beta));
            let rows = Rows { parts: 1, rows: n, c };
            let of = Layer { rows, gamma: &wide_gamma, beta: &wide_beta, fixed: None, eps: f64::from(EPS) };
            let want = reference::forward(&of, &wide(&x), None, true);
            let y = joined(&all, 0);
            assert_bounded(&format!("{what}: y"), &y, &want.y, dtype);
            let mask: Vec<f64> = y.iter().map(|v| f64::from(*v)).collect();
            let d = reference::backward(&of, &wide(&x), Some(&mask), &wide(&dy));
            assert_bounded(&format!("{what}: dx"), &joined(&all, 1), &d.dx, dtype);
            // Each rank has the gradients of its rows, which are added with those of other parameters.
            let sum = |i: usize| -> Vec<f32> { (0..c).map(|ch| all.iter().map(|of| data(&of[i])[ch]).sum()).collect() };
            assert_bounded(&format!("{what}: dgamma"), &sum(2), &d.dgamma, DType::F32);
            assert_bounded(&format!("{what}: dbeta"), &sum(3), &d.dbeta, DType::F32);
            for of in &all {
                assert_eq!((data(&of[4]), data(&of[5])), (data(&all[0][4]), data(&all[0][5])), "{what}");
                for (ch, (mean, var)) in data(&of[4]).iter().zip(data(&of[5])).enumerate() {
                    let unbiased = want.var[ch] * n as f64 / (n as f64 - 1.0);
                    let m = f64::from(MOMENTUM);
                    assert_near(&format!("{what}: mean"), (*mean).into(), m * want.mean[ch], 1e-6);
                    assert_near(&format!("{what}: variance"), var.into(), 1.0 - m + m * unbiased, 3e-6);
                }
            }
        }
    }
}

#[test]
fn gradients_of_ranks_are_differences_of_the_sum_of_their_losses() {
    let (n, c, h) = (6, 3, 1.0 / 64.0);
    let (gamma, beta, dy) = (noise(2, &[c]), Tensor::full([c], 9.0), noise(5, &[n, c])); // ReLU never cuts
    let (x, direction) = (noise(1, &[n, c]), noise(4, &[n, c]));
    let run = |step: f32| {
        let moved: Vec<f32> = data(&x).iter().zip(data(&direction)).map(|(x, d)| x + step * d).collect();
        let moved = Tensor::from_f32([n, c], &moved).unwrap();
        law::on_ranks(2, |ranks| layer(ranks, &Device::Cpu, [&moved, &gamma, &beta, &dy], tape::Mode::Free).unwrap())
    };
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let loss = |step: f32| dot(&joined(&run(step), 0), &data(&dy));
    let slope = dot(&joined(&run(0.0), 1), &data(&direction));
    // Central differences of two widths; with a third of the narrower one's distance to the wider added, the error in h² is gone.
    let difference = |h: f32| (loss(h) - loss(-h)) / f64::from(2.0 * h);
    let (wide, narrow) = (difference(2.0 * h), difference(h));
    // A loss adds 18 results near 9, each rounded by at most 2⁻²¹ and computed from numbers that are rounded by as much, times
    // gradients of at most 2: it is off by 18·2·2⁻²⁰ = 3.5e-5, the narrower difference by 2·3.5e-5/2h = 2.2e-3, and the result by
    // 4/3 of that and a third of half of it.
    assert_near("slope", slope, narrow + (narrow - wide) / 3.0, 3.4e-3);
}

#[test]
fn steps_of_ranks_are_those_of_the_whole_batch_but_for_rounding() {
    let method = maclr::method();
    let alone = |accumulate| law::maclr_run(&method, &Division::new(Arc::new(Alone), accumulate, Wire::F32).unwrap());
    let (whole, apart) = (alone(1), alone(2));
    let over_ranks = |ranks| {
        let division = Division::new(ranks, 1, Wire::F32).unwrap().with_whole_statistics(true).unwrap();
        law::maclr_run(&method, &division.with_bucket(100))
    };
    let got = law::on_ranks(2, over_ranks).into_iter().next().unwrap();
    // Of a report the loss: its accuracies are counts, which rounding can change by one.
    let numbers = |left: &law::Left, what: &str| -> Vec<f32> {
        let most = if what.starts_with("report") { 1 } else { usize::MAX };
        let found = left.iter().filter(|(name, _)| name.starts_with(what));
        found.flat_map(|(_, bits)| bits.iter().take(most).map(|bits| f32::from_bits(*bits))).collect()
    };
    for what in ["report 0", "report 2", "visual query", "visual key", "motion query", "motion key"] {
        let of = |left| numbers(left, what);
        assert_much_nearer(what, [&of(&got), &of(&apart)], &of(&whole), 1000.0);
    }
}

#[test]
fn what_whole_statistics_do_not_go_with_is_refused() {
    let division =
        |accumulate| Division::new(Arc::new(Alone), accumulate, Wire::F32).unwrap().with_whole_statistics(true);
    let e = division(2).err().unwrap().to_string();
    assert!(e.contains("--sync-bn = true") && e.contains("--accumulate 2"), "{e}");
    let e = division(1).unwrap().parts(4).unwrap_err().to_string();
    assert!(e.contains("--bn-groups = 4") && e.contains("--sync-bn"), "{e}");
    assert_eq!(division(1).unwrap().parts(1).unwrap(), 1);
    // As the programs ask, before they write anything.
    let training = Training { sync_bn: true, ..Recipe::tiny().training };
    let e = training.division(Arc::new(Alone), 4, None).err().unwrap().to_string();
    assert!(e.contains("--bn-groups = 4") && e.contains("--sync-bn"), "{e}");
    // Losses that differentiate a gradient, on several ranks.
    let of = |alignment: Alignment, size| {
        let ranks = |ranks| Training { batch: 8, ..training.clone() }.division(ranks, 1, Some(&alignment)).err();
        law::on_ranks(size, ranks).pop().unwrap().map(|e| e.to_string())
    };
    let (released, ours) = (Alignment::released("layer3.0"), Alignment::from_scratch("layer3.0"));
    let e = of(released.clone(), 2).unwrap();
    assert!(e.contains("--sync-bn = true") && e.contains("--align-form weight-gradient"), "{e}");
    assert!(of(Alignment { detached: false, ..ours.clone() }, 2).is_some());
    for fine in [(released.clone(), 1), (ours, 2), (Alignment { weight: 0.0, warm_weight: 0.0, ..released }, 2)] {
        assert_eq!(of(fine.0, fine.1), None);
    }
    // A gradient that is differentiated again would need an exchange on the tape.
    let (x, c) = (noise(1, &[4, 3]), noise(2, &[3]));
    let errors =
        law::on_ranks(2, |ranks| layer(ranks, &Device::Cpu, [&x, &c, &c, &x], tape::Mode::Keep).err().unwrap());
    assert!(errors.iter().all(|e| matches!(e.kind(), ErrorKind::NoSecondOrder { .. })), "{errors:?}");
}
