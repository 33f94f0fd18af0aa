//! Batch norm from moments that the convolution before it took: the same numbers, one pass over memory less.

use crate::support::close::assert_norm;
use crate::support::numbers::{bits, data, integers, noise};
use crate::support::sim::on_gpu;
use tubelet::ops::batch_norm::{Incoming, Moments, Norm, ReluMask, Running, Stats, backward, forward};
use tubelet::tensor::{DType, Device, Tensor};

/// The sums of `x [groups·rows c]` about `shift`, in f64.
fn sums(x: &Tensor, groups: usize, shift: &Tensor) -> Tensor {
    let (x, c, near) = (data(x), shift.shape().len(), data(shift));
    let mut out = vec![0.0f64; groups * 2 * c];
    let each = x.len() / groups;
    for (i, v) in x.iter().enumerate() {
        let (at, d) = (i / each * 2 * c + i % c, f64::from(*v) - f64::from(near[i % c]));
        out[at] += d;
        out[at + c] += d * d;
    }
    Tensor::from_f32([groups, 2, c], &out.iter().map(|v| *v as f32).collect::<Vec<_>>()).unwrap()
}

fn check(device: &Device) -> Vec<u32> {
    let mut bits = Vec::new();
    // Sums of each group as a whole, and of the tiles of a convolution.
    for (groups, tiles, dtype) in
        [(1, 1, DType::F32), (3, 1, DType::F32), (2, 1, DType::BF16), (1, 35, DType::F32), (3, 5, DType::F32)]
    {
        let (n, c) = (6 * 35, 37);
        let x = noise(1, &[n, c]).cast(dtype).unwrap();
        let (shift, there) = (noise(2, &[c]), |t: &Tensor| t.to(device).unwrap());
        let sums = sums(&x, groups * tiles, &shift);
        let sums = if tiles > 1 { sums.reshape([groups, tiles, 2, c]).unwrap() } else { sums };
        let taken = Moments::about(there(&shift), there(&sums)).unwrap();
        let (gamma, beta) = (there(&noise(3, &[c])), there(&noise(4, &[c])));
        let run = |stats| forward(&there(&x), &gamma, &beta, stats, 1e-5, None, true).unwrap();
        let (y, _, moments) = run(Stats::Moments(&taken));
        let (want, _, wanted) = run(Stats::Batch { parts: groups });
        let (moments, wanted) = (moments.unwrap(), wanted.unwrap());
        // Sums of 210 numbers that were rounded to f32 once, about a shift as large as the deviation.
        let close = if dtype == DType::F32 { 1e-6 } else { dtype.unit_roundoff() };
        assert_norm("y", &data(&y), &data(&want), close);
        assert_norm("mean", &data(&moments.mean), &data(&wanted.mean), 1e-5);
        assert_norm("var", &data(&moments.var), &data(&wanted.var), 1e-6);
        bits.extend(data(&y).iter().chain(&data(&moments.var)).map(|v| v.to_bits()));
    }
    bits
}

#[test]
pub fn sums_taken_elsewhere_give_the_same_statistics() {
    check(&Device::Cpu);
    on_gpu(check);
}

/// Gradients from sums of tiles are those from the sums of these, to the bit where these are exact.
fn gradients(device: &Device) -> Vec<Vec<u32>> {
    let mut seen = Vec::new();
    for (groups, tiles) in [(1, 5), (2, 21), (3, 128)] {
        let (n, c) = (6 * groups, 37);
        let there = |t: Tensor| t.to(device).unwrap();
        let (x, dz) = (there(noise(1, &[n, c])), there(noise(2, &[n, c])));
        let [mean, inv_std] = [3, 4].map(|seed| there(noise(seed, &[groups * c])));
        let [gamma, beta] = [5, 6].map(|seed| there(noise(seed, &[c])));
        let norm = Norm::new(&mean, &inv_std, &gamma, &beta).unwrap();
        let of_tiles = integers(7, &[groups, tiles, 2, c]);
        let (all, columns) = (data(&of_tiles), 2 * c);
        let total = |i: usize| (0..tiles).map(|t| all[(i / columns * tiles + t) * columns + i % columns]).sum();
        let totals = Tensor::from_f32([groups, 2, c], &(0..groups * columns).map(total).collect::<Vec<f32>>()).unwrap();
        let [tiled, whole] = [of_tiles, totals].map(|sums| {
            let dy = Incoming::PastRelu { dz: dz.clone(), sums: there(sums) };
            let g = backward(&x, &norm, ReluMask::None, false, &dy).unwrap();
            [g.dx, g.dgamma, g.dbeta].map(|t| bits(&t))
        });
        assert_eq!(tiled, whole, "{tiles} tiles of {groups} groups");
        seen.extend(tiled);
    }
    seen
}

#[test]
pub fn sums_of_tiles_give_the_gradients_of_their_sums() {
    gradients(&Device::Cpu);
    on_gpu(gradients);
}

/// Running averages that are updated where statistics are formed: as by `running ← (1 - m)·running + m·batch`, to the bit,
/// whether the sums are about numbers of their own, about others, or about the running mean itself.
fn averages(device: &Device) -> Vec<Vec<u32>> {
    let (momentum, c) = (0.1f32, 37);
    let mut seen = Vec::new();
    for groups in [1, 3] {
        let there = |t: &Tensor| t.to(device).unwrap();
        let (x, shift) = (noise(1, &[6 * 35, c]), noise(2, &[c]));
        let before = [noise(5, &[c]), noise(6, &[c])];
        for (what, near) in [("own", None), ("others", Some(&shift)), ("running mean", Some(&before[0]))] {
            let [mut mean, mut var] = before.each_ref().map(there);
            let taken = |near: &Tensor, shift: Tensor| Moments::about(shift, there(&sums(&x, groups, near))).unwrap();
            let moments = match near {
                None => Moments::of(&there(&x), groups).unwrap(),
                Some(near) if what == "others" => taken(near, there(near)),
                Some(near) => taken(near, mean.clone()),
            };
            let apart = match near {
                None => moments.clone(),
                Some(near) => taken(near, there(near)),
            };
            let batch = apart.statistics(&there(&x), 1e-5, None).unwrap().batch;
            let running = Running { mean: &mut mean, var: &mut var, momentum };
            let formed = moments.statistics(&there(&x), 1e-5, Some(running)).unwrap();
            assert_eq!([bits(&formed.batch.mean), bits(&formed.batch.var)], [bits(&batch.mean), bits(&batch.var)]);
            for (before, (batch, after)) in before.iter().zip([(&batch.mean, &mean), (&batch.var, &var)]) {
                let follow = |(old, new): (&f32, &f32)| ((1.0 - momentum) * old + momentum * new).to_bits();
                let want: Vec<u32> = data(before).iter().zip(&data(batch)).map(follow).collect();
                assert_eq!(bits(after), want, "{groups} groups, sums about {what}");
                seen.push(want);
            }
            // What was formed normalises as what is formed on the way.
            let (gamma, beta) = (there(&noise(3, &[c])), there(&noise(4, &[c])));
            let by = |stats| bits(&forward(&there(&x), &gamma, &beta, stats, 1e-5, None, true).unwrap().0);
            if near.is_none() {
                assert_eq!(by(Stats::Formed(&formed)), by(Stats::Batch { parts: groups }));
            }
        }
    }
    seen
}

#[test]
pub fn running_averages_follow_where_statistics_are_formed() {
    averages(&Device::Cpu);
    on_gpu(averages);
}

#[test]
fn averages_that_do_not_fit_are_refused() {
    let x = noise(1, &[8, 4]);
    let refused = |mean: &[usize], var: DType, momentum| {
        let (mut mean, mut var) =
            (Tensor::zeros(tubelet::shape::Shape::new(mean)), Tensor::zeros([4]).cast(var).unwrap());
        let running = Running { mean: &mut mean, var: &mut var, momentum };
        Moments::of(&x, 1).unwrap().statistics(&x, 1e-5, Some(running)).unwrap_err().to_string()
    };
    let e = refused(&[5], DType::F32, 0.1);
    assert!(e.starts_with("batch_norm: `running mean` must be [4]"), "{e}");
    let e = refused(&[4], DType::BF16, 0.1);
    assert!(e.contains("running variance"), "{e}");
    let e = refused(&[4], DType::F32, 1.5);
    assert_eq!(e, "batch_norm: momentum = 1.5, but it must be from 0 to 1");
    let formed = Moments::of(&x, 2).unwrap().statistics(&x, 1e-5, None).unwrap();
    let v = noise(2, &[4]);
    let e = forward(&noise(1, &[12, 4]), &v, &v, Stats::Formed(&formed), 1e-5, None, false).unwrap_err().to_string();
    assert!(e.starts_with("batch_norm: `statistics` must be those of [12 4]"), "{e}");
}

#[test]
fn moments_that_do_not_fit_are_refused() {
    let (x, v) = (noise(1, &[8, 4]), noise(2, &[4]));
    let e = Moments::about(v.clone(), Tensor::zeros([2, 2, 5])).unwrap_err();
    assert_eq!(e.to_string(), "batch_norm: `sums` must be [parts 2 4], but it is [2 2 5]");
    let refused = |moments: &Moments| forward(&x, &v, &v, Stats::Moments(moments), 1e-5, None, false).unwrap_err();
    let e = refused(&Moments::about(v.clone(), Tensor::zeros([3, 2, 4])).unwrap());
    assert_eq!(e.to_string(), "batch_norm: parts = 3, but it must divide the batch of 8");
    // Those of another tensor: of other channels, or of more rows.
    for other in [Moments::about(noise(3, &[5]), Tensor::zeros([2, 2, 5])), Moments::of(&noise(4, &[16, 4]), 2)] {
        let e = refused(&other.unwrap()).to_string();
        assert!(e.starts_with("batch_norm: `moments` must be those of [8 4]"), "{e}");
    }
}
