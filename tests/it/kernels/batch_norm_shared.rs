//! Batch norm with the statistics of a batch that several processes share, on each device.

use crate::support::close::{assert_bounded, assert_near};
use crate::support::numbers::{bits, data, noise, wide};
use crate::support::sim::on_gpu;
use std::sync::{Arc, Mutex};
use tubelet::error::Result;
use tubelet::ops::batch_norm::reference::{self, Layer, Rows};
use tubelet::ops::batch_norm::{Incoming, Moments, Peers, ReluMask, Running, Stats, backward, forward};
use tubelet::tensor::{DType, Device, Tensor};

const EPS: f32 = 1e-5;
const MOMENTUM: f32 = 0.1;

/// Processes that take their turns: each gives what it has for its calls, and gets what the others gave in the round before. What
/// a call is given depends on the results of the calls before it, so as many rounds as there are calls make all of them right.
struct Turns {
    rank: usize,
    /// What each gave, by call.
    given: Arc<Mutex<Vec<Vec<Tensor>>>>,
    calls: Mutex<usize>,
}

impl Peers for Turns {
    fn count(&self) -> usize {
        self.given.lock().unwrap().len()
    }

    fn gather(&self, own: &Tensor) -> Result<Tensor> {
        let (mut given, mut call) = (self.given.lock().unwrap(), self.calls.lock().unwrap());
        let of_rank = &mut given[self.rank];
        of_rank.truncate(*call);
        of_rank.push(own.clone());
        let all: Vec<&Tensor> = given.iter().map(|of| of.get(*call).unwrap_or(own)).collect();
        *call += 1;
        Tensor::collect(&all)?.reshape([all.len(), own.shape().len() / own.shape().last(), own.shape().last()])
    }
}

/// What the layer with ReLU leaves on each of `size` processes: the result, the gradients of x, gamma and beta, and the running
/// averages. Moments are taken about the running mean, of tiles, if `tiles`; sums of the backward pass likewise.
fn layers(device: &Device, size: usize, [x, gamma, beta, dy]: [&Tensor; 4], tiles: usize) -> Vec<[Tensor; 6]> {
    let (n, c) = (x.dims()[0] / size, gamma.shape().len());
    let there = |t: &Tensor| t.to(device).unwrap();
    let given = Arc::new(Mutex::new(vec![Vec::new(); size]));
    let one = |rank: usize| {
        let peers: Arc<dyn Peers> = Arc::new(Turns { rank, given: given.clone(), calls: Mutex::new(0) });
        let own = |t: &Tensor| t.part(rank * n * c, [n, c]).unwrap();
        let (x, dy) = (own(x), own(dy));
        let (mut mean, mut var) = (there(&Tensor::full([c], 0.5)), there(&Tensor::full([c], 1.0)));
        let moments = match tiles {
            0 => Moments::of(&there(&x), 1).unwrap(),
            tiles => {
                let (mut sums, x) = (vec![0.0f64; tiles * 2 * c], wide(&x));
                for (i, v) in x.iter().enumerate() {
                    let (at, d) = (i / c % tiles * 2 * c + i % c, v - 0.5);
                    sums[at] += d;
                    sums[at + c] += d * d;
                }
                let sums: Vec<f32> = sums.iter().map(|v| *v as f32).collect();
                let sums = Tensor::from_f32([1, tiles, 2, c], &sums).unwrap();
                Moments::about(mean.clone(), there(&sums)).unwrap()
            }
        };
        let (x, gamma, beta) = (there(&x), there(gamma), there(beta));
        let running = Running { mean: &mut mean, var: &mut var, momentum: MOMENTUM };
        let formed = moments.statistics_over(&x, EPS, Some(running), Some(&peers)).unwrap();
        let (y, norm, _) = forward(&x, &gamma, &beta, Stats::Formed(&formed), EPS, None, true).unwrap();
        let dy = match tiles {
            0 => Incoming::Result(there(&dy)),
            tiles => {
                // As dgrad leaves them: past ReLU, with the sums.
                let (y, x) = (wide(&data(&y)[..]), wide(&data(&x)[..]));
                let dz: Vec<f32> = data(&dy).iter().zip(&y).map(|(d, y)| if *y > 0.0 { *d } else { 0.0 }).collect();
                let (mean, inv_std) = (wide(&data(norm.mean())[..]), wide(&data(norm.inv_std())[..]));
                let mut sums = vec![0.0f64; tiles * 2 * c];
                for (i, d) in dz.iter().enumerate() {
                    let (at, ch) = (i / c % tiles * 2 * c + i % c, i % c);
                    sums[at] += f64::from(*d);
                    sums[at + c] += f64::from(*d) * (x[i] - mean[ch]) * inv_std[ch];
                }
                let sums: Vec<f32> = sums.iter().map(|v| *v as f32).collect();
                let sums = there(&Tensor::from_f32([1, tiles, 2, c], &sums).unwrap());
                let dz = there(&Tensor::from_f32([n, c], &dz).unwrap().cast(dy.dtype()).unwrap());
                Incoming::PastRelu { dz, sums }
            }
        };
        let d = backward(&x, &norm, ReluMask::FromInput, false, &dy).unwrap();
        [y, d.dx, d.dgamma, d.dbeta, mean, var]
    };
    // Two calls.
    let rounds: Vec<Vec<[Tensor; 6]>> = (0..3).map(|_| (0..size).map(one).collect()).collect();
    rounds.into_iter().next_back().unwrap()
}

fn check(device: &Device) -> Vec<Vec<u32>> {
    let mut seen = Vec::new();
    // A process with a single row has no statistics alone; numbers far from 0 leave a rest when their mean is rounded.
    for (size, n, c, offset, tiles) in
        [(2, 8, 5, 0.0, 0), (3, 3, 4, 3.0, 0), (3, 600, 33, 100.0, 0), (2, 80, 37, 1.0, 7), (4, 400, 40, 0.0, 70)]
    {
        for dtype in [DType::F32, DType::BF16] {
            let what = format!("{size} processes, {n} rows of {c}, {tiles} tiles, {}", dtype.name());
            let x: Vec<f32> =
                data(&noise(1, &[n, c])).iter().enumerate().map(|(i, v)| v + offset + (i / c % 3) as f32).collect();
            let x = Tensor::from_f32([n, c], &x).unwrap().cast(dtype).unwrap();
            let (gamma, beta, dy) = (noise(2, &[c]), noise(3, &[c]), noise(5, &[n, c]).cast(dtype).unwrap());
            let all = layers(device, size, [&x, &gamma, &beta, &dy], tiles);
            let joined = |i: usize| -> Vec<f32> { all.iter().flat_map(|of| data(&of[i])).collect() };
            let (wide_gamma, wide_beta) = (wide(&gamma), wide(&beta));
            let rows = Rows { parts: 1, rows: n, c };
            let of = Layer { rows, gamma: &wide_gamma, beta: &wide_beta, fixed: None, eps: f64::from(EPS) };
            let want = reference::forward(&of, &wide(&x), None, true);
            let y = joined(0);
            assert_bounded(&format!("{what}: y"), &y, &want.y, dtype);
            let mask: Vec<f64> = y.iter().map(|v| f64::from(*v)).collect();
            let d = reference::backward(&of, &wide(&x), Some(&mask), &wide(&dy));
            assert_bounded(&format!("{what}: dx"), &joined(1), &d.dx, dtype);
            // Each has the gradients of its own rows.
            let sum = |i: usize| -> Vec<f32> { (0..c).map(|ch| all.iter().map(|of| data(&of[i])[ch]).sum()).collect() };
            assert_bounded(&format!("{what}: dgamma"), &sum(2), &d.dgamma, DType::F32);
            assert_bounded(&format!("{what}: dbeta"), &sum(3), &d.dbeta, DType::F32);
            let m = f64::from(MOMENTUM);
            for of in &all {
                assert_eq!([bits(&of[4]), bits(&of[5])], [bits(&all[0][4]), bits(&all[0][5])], "{what}");
                for (ch, (mean, var)) in data(&of[4]).iter().zip(data(&of[5])).enumerate() {
                    let unbiased = want.var[ch] * n as f64 / (n as f64 - 1.0);
                    let want_mean = (1.0 - m) * 0.5 + m * want.mean[ch];
                    assert_near(&format!("{what}: mean"), f64::from(*mean), want_mean, 1e-6);
                    assert_near(&format!("{what}: variance"), var.into(), 1.0 - m + m * unbiased, 3e-6);
                }
            }
            seen.extend(all.iter().flatten().map(bits));
        }
    }
    seen
}

#[test]
pub fn layers_of_processes_meet_the_definition_on_the_whole_batch() {
    check(&Device::Cpu);
    on_gpu(check);
}
