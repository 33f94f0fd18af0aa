//! Batch norm from moments that the convolution before it took: the same numbers, one pass over memory less.

use crate::support::close::assert_norm;
use crate::support::numbers::{data, noise};
use crate::support::sim::on_gpu;
use tubelet::ops::batch_norm::{Moments, Stats, forward};
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
    for (groups, dtype) in [(1, DType::F32), (3, DType::F32), (2, DType::BF16)] {
        let (n, c) = (6 * 35, 37);
        let x = noise(1, &[n, c]).cast(dtype).unwrap();
        let (shift, there) = (noise(2, &[c]), |t: &Tensor| t.to(device).unwrap());
        let taken = Moments::about(there(&shift), there(&sums(&x, groups, &shift))).unwrap();
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
