//! The only place that compares floating-point numbers.

use tubelet::ops::reference::Bounded;
use tubelet::tensor::DType;

/// `γ_n = n·u / (1 - n·u)`: the largest relative growth of error over `n` roundings.
pub fn gamma(n: usize, dtype: DType) -> f64 {
    let nu = n as f64 * dtype.unit_roundoff();
    assert!(nu < 1.0, "{n} roundings in {} leave no bound", dtype.name());
    nu / (1.0 - nu)
}

/// `6·√n·u`: what the relative error of a sum of `n` f32 exceeds with probability below 1e-7, where roundings are
/// independent and as often up as down (Higham and Mary, SIAM J. Sci. Comput. 41, 2019, theorem 2.4 with λ = 6).
pub fn likely_gamma(n: usize) -> f64 {
    6.0 * (n as f64).sqrt() * DType::F32.unit_roundoff()
}

/// What a bound of sums on tensor cores is in `γ_n`, with u = 2⁻²⁴ and S the sum of the magnitudes of all terms.
///
/// A tensor core adds an accumulator and eight products (four of tf32) at once. It aligns them to the largest, which is at
/// most S, and cuts the others off behind the f32 significand and one more bit (Fasi et al. 2021, see `ptxsim::Sums`): each
/// loses less than 2⁻²⁴ S = u S. It cuts the sum off to f32, which loses less than 2⁻²³ S = 2u S. Of p + 1 numbers other than
/// zero, p are not the largest, so this costs (p + 2) u S, at most 3 u S for each product; without a product the accumulator
/// stays what it is. Sums that are computed apart are added with one more rounding each, and each has a product: 4 u S.
const TENSOR_CORES: f64 = 4.0;

/// The largest error of a sum of `n` products on tensor cores, relative to the sum of their magnitudes: [`TENSOR_CORES`].
pub fn tensor_core_gamma(n: usize) -> f64 {
    TENSOR_CORES * gamma(n, DType::F32)
}

/// Asserts `|got - want| ≤ 2·γ·magnitude` everywhere (f32 arithmetic); where `stored` is bf16, plus one rounding of the
/// value to it. The factor 2 covers the reference's own inputs having been rounded.
#[track_caller]
pub fn assert_bounded(what: &str, got: &[f32], want: &Bounded<f64>, stored: DType) {
    bounded(what, got, want, |n| 2.0 * gamma(n, DType::F32), stored);
}

/// [`assert_bounded`] for sums of tensor cores, whose inputs are bf16 in the reference too.
#[track_caller]
pub fn assert_tensor_cores(what: &str, got: &[f32], want: &Bounded<f64>, stored: DType) {
    bounded(what, got, want, tensor_core_gamma, stored);
}

#[track_caller]
fn bounded(what: &str, got: &[f32], want: &Bounded<f64>, error: impl Fn(usize) -> f64, stored: DType) {
    assert_eq!(got.len(), want.value.len(), "{what}: length");
    if got.is_empty() {
        return; // nothing was rounded, however many terms a result would have
    }
    let g = error(want.terms.max(1));
    let last = if stored == DType::BF16 { DType::BF16.unit_roundoff() * 1.01 } else { 0.0 };
    for (i, (&y, &r)) in got.iter().zip(&want.value).enumerate() {
        let bound = g * want.magnitude[i] + last * r.abs() + f64::from(f32::MIN_POSITIVE);
        let err = (f64::from(y) - r).abs();
        assert!(err <= bound, "{what}[{i}]: got {y}, want {r}, error {err:.3e} above the bound {bound:.3e}");
    }
}

/// Asserts `|got - want| ≤ off` everywhere: for bounds derived where they are used.
#[track_caller]
pub fn assert_within(what: &str, got: &[f32], want: &[f64], off: &[f64]) {
    assert_eq!((got.len(), want.len()), (want.len(), off.len()), "{what}: length");
    for (i, ((&y, &r), &bound)) in got.iter().zip(want).zip(off).enumerate() {
        let err = (f64::from(y) - r).abs();
        let bound = bound + f64::from(f32::MIN_POSITIVE);
        assert!(err <= bound, "{what}[{i}]: got {y}, want {r}, error {err:.3e} above the bound {bound:.3e}");
    }
}

/// Asserts `‖got - want‖ ≤ rel·‖want‖` (Euclidean norms): for goldens, whose own arithmetic is unknown.
#[track_caller]
pub fn assert_norm(what: &str, got: &[f32], want: &[f32], rel: f64) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    let err: f64 = got.iter().zip(want).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    let size: f64 = want.iter().map(|b| f64::from(*b).powi(2)).sum();
    let (err, size) = (err.sqrt(), size.sqrt());
    assert!(err <= rel * size, "{what}: ‖difference‖ {err:.3e} exceeds {rel:.1e} of ‖golden‖ {size:.3e}");
}

/// Asserts that `near` is at least `times` as near to `want` as `far` is (Euclidean norms): for what differs from `want` by rounding
/// alone, beside what computes something else.
#[track_caller]
pub fn assert_much_nearer(what: &str, [near, far]: [&[f32]; 2], want: &[f32], times: f64) {
    let distance = |got: &[f32]| -> f64 {
        assert_eq!(got.len(), want.len(), "{what}: numbers");
        got.iter().zip(want).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>().sqrt()
    };
    let (near, far) = (distance(near), distance(far));
    assert!(
        near * times <= far,
        "{what}: at a distance of {near:.3e}, and of {far:.3e} where something else is computed"
    );
}

/// Whether [`assert_norm`] would hold: for tests that count how often something does.
pub fn is_norm(got: &[f32], want: &[f32], rel: f64) -> bool {
    assert_eq!(got.len(), want.len(), "length");
    let err: f64 = got.iter().zip(want).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    let size: f64 = want.iter().map(|b| f64::from(*b).powi(2)).sum();
    err.sqrt() <= rel * size.sqrt()
}

/// Asserts `|got - want| ≤ rel·(1 + |want|)`: for single figures, such as a statistic or a law's constant.
#[track_caller]
pub fn assert_near(what: &str, got: f64, want: f64, rel: f64) {
    let bound = rel * (1.0 + want.abs());
    assert!((got - want).abs() <= bound, "{what}: got {got}, want {want}, further apart than {bound:.1e}");
}

/// Asserts that a gradient equals central differences of `f`, all in f64: `|g - d| ≤ rel·(max|d| + 1)`.
/// `skip(i)` leaves out coordinates that sit on a kink.
#[track_caller]
pub fn assert_gradient(
    what: &str,
    x: &[f64],
    gradient: &[f64],
    rel: f64,
    skip: impl Fn(usize) -> bool,
    mut f: impl FnMut(&[f64]) -> f64,
) {
    let mut at = x.to_vec();
    let differences: Vec<f64> = (0..x.len())
        .map(|i| {
            let h = 1e-5 * x[i].abs().max(1.0);
            at[i] = x[i] + h;
            let up = f(&at);
            at[i] = x[i] - h;
            let down = f(&at);
            at[i] = x[i];
            (up - down) / (2.0 * h)
        })
        .collect();
    let scale = differences.iter().fold(0.0f64, |m, d| m.max(d.abs())) + 1.0;
    let mut compared = 0;
    for (i, (g, d)) in gradient.iter().zip(&differences).enumerate() {
        if skip(i) {
            continue;
        }
        compared += 1;
        assert!((g - d).abs() <= rel * scale, "{what}[{i}]: gradient {g}, difference quotient {d}");
    }
    assert!(compared > 0, "{what}: nothing was compared");
}

/// The mean distance of two flow fields in pixels.
#[track_caller]
pub fn mean_pixels(what: &str, got: [&[f32]; 2], want: [&[f64]; 2]) -> f64 {
    let n = want[0].len();
    assert!(got.iter().all(|g| g.len() == n) && want[1].len() == n && n > 0, "{what}: length");
    let error = |i: usize| (f64::from(got[0][i]) - want[0][i]).hypot(f64::from(got[1][i]) - want[1][i]);
    (0..n).map(error).sum::<f64>() / n as f64
}

/// Asserts that flows differ by at most `px` pixels in the mean: their iteration has no bound to derive.
#[track_caller]
pub fn assert_pixels(what: &str, got: [&[f32]; 2], want: [&[f64]; 2], px: f64) {
    let mean = mean_pixels(what, got, want);
    assert!(mean <= px, "{what}: flows differ by {mean:.3e} pixels in the mean, more than {px:.1e}");
}

/// Asserts that a flow is as near to the definition in f64 as the definition in f32 is: at most eight times as far, since
/// a few pixels that two displacements explain equally well carry most of either distance, plus 1e-5 pixels.
#[track_caller]
pub fn assert_near_as_f32(what: &str, got: [&[f32]; 2], f32s: [&[f32]; 2], want: [&[f64]; 2]) {
    assert_pixels(what, got, want, 8.0 * mean_pixels(what, f32s, want) + 1e-5);
}

/// What ten steps of training leave: the losses, and named arrays.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// One a step.
    pub losses: Vec<f32>,
    /// Everything the networks hold afterwards.
    pub state: Vec<(String, Vec<f32>)>,
}

impl Trace {
    /// The greatest difference of losses, and the Euclidean distance of each array.
    fn distances(&self, other: &Trace) -> Vec<(String, f64)> {
        let norm = |a: &[f32], b: &[f32]| -> f64 {
            assert_eq!(a.len(), b.len());
            a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>().sqrt()
        };
        let losses = self.losses.iter().zip(&other.losses).enumerate();
        let losses = losses.map(|(i, (a, b))| (format!("loss of step {i}"), f64::from((a - b).abs())));
        let states = self.state.iter().zip(&other.state);
        losses.chain(states.map(|((name, a), (_, b))| (name.clone(), norm(a, b)))).collect()
    }
}

/// Asserts that two runs are no further apart than twice what nudges by the rounding of one step did to the first, in
/// each loss and each array. Twice, since both runs round.
#[track_caller]
pub fn assert_within_nudges(got: &Trace, want: &Trace, nudged: &[Trace]) {
    if let Some(apart) = beyond_nudges(got, want, nudged) {
        panic!("{apart}");
    }
}

/// The first loss or array for which [`assert_within_nudges`] does not hold.
pub fn beyond_nudges(got: &Trace, want: &Trace, nudged: &[Trace]) -> Option<String> {
    let moved: Vec<Vec<(String, f64)>> = nudged.iter().map(|n| n.distances(want)).collect();
    for (i, (name, distance)) in got.distances(want).into_iter().enumerate() {
        let bound = 2.0 * moved.iter().map(|m| m[i].1).fold(0.0, f64::max) + f64::from(f32::EPSILON);
        if distance > bound {
            return Some(format!("{name}: {distance:.3e} apart, and rounding explains {bound:.3e}"));
        }
    }
    None
}
