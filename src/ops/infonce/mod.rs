//! The contrastive loss of a query against its positive and a queue of negatives (InfoNCE), streamed.
//!
//! For queries `q [n d]`, positives `k [n d]`, negatives `queue [m d]` and a temperature `τ`:
//!
//! ```text
//! lᵢ₊ = qᵢ·kᵢ/τ        lᵢⱼ = qᵢ·queueⱼ/τ        pᵢⱼ = exp(lᵢⱼ - Lᵢ)        Lᵢ = ln(exp lᵢ₊ + Σⱼ exp lᵢⱼ)
//! loss  = 1/n Σᵢ (Lᵢ - lᵢ₊)
//! dqᵢ   = 1/(nτ) · (Σⱼ pᵢⱼ queueⱼ - (1 - pᵢ₊)·kᵢ)
//! ```
//! Keys are constants, as in MoCo and MaCLR: gradients reach the queries only.
//!
//! **Memory.** The `n × m` logits never exist. One sweep over the queue, 256 keys at a time, keeps for each query the
//! largest logit so far, the sum of exponentials relative to it, and (where a gradient will be wanted) the sum of keys
//! weighted by them: at most 16 partial copies of `n·(d + 2)` numbers. The gradient is therefore ready when the loss is,
//! and the backward pass is one scaling. The derivation is in `docs/math/infonce.md`.
//!
//! **Range.** The running maximum makes every exponent at most 0 whatever the vectors and the temperature. For unit
//! vectors the fixed maximum `1/τ` would do, but it underflows for small temperatures and is wrong for other vectors,
//! and keeping the true one costs less than a hundredth of the time.

pub mod cases;
mod cpu;
mod exp;
mod grad;
pub mod reference;

pub use grad::{Loss, infonce, infonce_masked};

use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// The loss of a batch as numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scores {
    /// Mean over the queries, in nats.
    pub loss: f32,
    /// Mean probability `p₊` of the positive.
    pub positive: f32,
    /// Share of the queries whose positive is strictly nearer than every key of the queue.
    pub accuracy: f32,
}

/// The loss of `q [n d]` with positives `k [n d]` and negatives `queue [m d]` at temperature `tau`.
///
/// # Errors
/// `Shape` when an argument is not a matrix with rows, or the shapes do not agree; `Param` when `tau` is not a positive
/// number.
pub fn forward(q: &Tensor, k: &Tensor, queue: &Tensor, tau: f32) -> Result<Scores> {
    forward_masked(q, k, queue, None, tau)
}

/// As [`forward`], over the keys that `mask` leaves to each query.
///
/// # Errors
/// As [`forward`], and `Shape` when the mask has not one number for each query and key.
pub fn forward_masked(q: &Tensor, k: &Tensor, queue: &Tensor, mask: Option<Mask<'_>>, tau: f32) -> Result<Scores> {
    let p = Problem::new(q, k, queue, mask, tau)?;
    Ok(cpu::sweep(&p, &q.host(), &k.host(), queue, None))
}

/// As [`forward`], and the gradient of the loss for `q`, f32 `[n d]`, from the same sweep.
///
/// # Errors
/// As [`forward`].
pub fn forward_backward(q: &Tensor, k: &Tensor, queue: &Tensor, tau: f32) -> Result<(Scores, Tensor)> {
    forward_backward_masked(q, k, queue, None, tau)
}

/// As [`forward_backward`], over the keys that `mask` leaves to each query.
///
/// # Errors
/// As [`forward_masked`].
pub fn forward_backward_masked(
    q: &Tensor,
    k: &Tensor,
    queue: &Tensor,
    mask: Option<Mask<'_>>,
    tau: f32,
) -> Result<(Scores, Tensor)> {
    let p = Problem::new(q, k, queue, mask, tau)?;
    let mut scores = Scores { loss: 0.0, positive: 0.0, accuracy: 0.0 };
    let dq = Tensor::build(q.shape(), |dq| scores = cpu::sweep(&p, &q.host(), &k.host(), queue, Some(dq)));
    Ok((scores, dq))
}

/// Which keys of the queue are no negatives of a query: those of its own owner (an earlier clip of the same video), and
/// those of nobody yet.
#[derive(Clone, Copy, Debug)]
pub struct Mask<'a> {
    /// The owner of each query, `n` numbers.
    pub rows: &'a [u32],
    /// The owner of each key of the queue, `m` numbers; [`Mask::NOBODY`] for a place not filled yet.
    pub keys: &'a [u32],
}

impl Mask<'_> {
    /// The owner of a place in the queue that holds no key yet: no query's negative.
    pub const NOBODY: u32 = u32::MAX;

    /// Sets the logits of query `row` against the keys from `from` on to minus infinity where they do not count.
    fn hide(&self, row: usize, from: usize, logits: &mut [f32]) {
        let own = self.rows[row];
        for (l, &key) in logits.iter_mut().zip(&self.keys[from..]) {
            if key == own || key == Self::NOBODY {
                *l = f32::NEG_INFINITY;
            }
        }
    }
}

/// Checked extents and the temperature.
#[derive(Clone, Copy)]
struct Problem<'a> {
    n: usize,
    d: usize,
    m: usize,
    tau: f32,
    mask: Option<Mask<'a>>,
}

impl<'a> Problem<'a> {
    fn new(q: &Tensor, k: &Tensor, queue: &Tensor, mask: Option<Mask<'a>>, tau: f32) -> Result<Self> {
        let [n, d] = q.shape().matrix("infonce", "q")?;
        let [m, width] = queue.shape().matrix("infonce", "queue")?;
        if n == 0 || d == 0 {
            return Err(Error::shape("infonce", "q", "[n d] with at least one element", q.shape()));
        }
        if k.shape() != q.shape() {
            return Err(Error::shape("infonce", "k", q.shape(), k.shape()));
        }
        if m == 0 || width != d {
            return Err(Error::shape("infonce", "queue", format!("[m {d}] with m at least 1"), queue.shape()));
        }
        if !(tau > 0.0 && tau.is_finite()) {
            return Err(Error::param("infonce", "tau", tau, "a temperature is finite and above 0"));
        }
        if let Some(mask) = &mask
            && (mask.rows.len() != n || mask.keys.len() != m)
        {
            let got = format!("{} and {}", mask.rows.len(), mask.keys.len());
            return Err(Error::shape("infonce", "mask", format!("{n} numbers for queries and {m} for keys"), got));
        }
        Ok(Problem { n, d, m, tau, mask })
    }
}
