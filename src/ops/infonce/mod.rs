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

pub use grad::{Loss, infonce};

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
    let p = Problem::new(q, k, queue, tau)?;
    Ok(cpu::sweep(&p, &q.load(), &k.load(), queue, None))
}

/// As [`forward`], and the gradient of the loss for `q`, f32 `[n d]`, from the same sweep.
///
/// # Errors
/// As [`forward`].
pub fn forward_backward(q: &Tensor, k: &Tensor, queue: &Tensor, tau: f32) -> Result<(Scores, Tensor)> {
    let p = Problem::new(q, k, queue, tau)?;
    let mut scores = Scores { loss: 0.0, positive: 0.0, accuracy: 0.0 };
    let dq = Tensor::build(q.shape(), |dq| scores = cpu::sweep(&p, &q.load(), &k.load(), queue, Some(dq)));
    Ok((scores, dq))
}

/// Checked extents and the temperature.
#[derive(Clone, Copy)]
struct Problem {
    n: usize,
    d: usize,
    m: usize,
    tau: f32,
}

impl Problem {
    fn new(q: &Tensor, k: &Tensor, queue: &Tensor, tau: f32) -> Result<Self> {
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
        Ok(Problem { n, d, m, tau })
    }
}
