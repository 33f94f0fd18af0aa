//! The contrastive loss of a query against its positive and a queue of negatives (InfoNCE), streamed over the queue.
//!
//! For queries `q [n d]`, positives `k [n d]`, negatives `queue [m d]` and a temperature `τ`:
//!
//! ```text
//! lᵢ₊ = qᵢ·kᵢ/τ        lᵢⱼ = qᵢ·queueⱼ/τ        pᵢⱼ = exp(lᵢⱼ - Lᵢ)        Lᵢ = ln(exp lᵢ₊ + Σⱼ exp lᵢⱼ)
//! loss  = 1/n Σᵢ (Lᵢ - lᵢ₊)
//! dqᵢ   = 1/(nτ) · (Σⱼ pᵢⱼ queueⱼ - (1 - pᵢ₊)·kᵢ)
//! ```
//! Keys are constants, as in MoCo and MaCLR: gradients are taken by the queries only.
//!
//! **Memory.** The `n × m` logits are never stored. One pass over the queue, 96 keys at a time, keeps for each query
//! the largest logit so far, the sum of exponentials relative to it, and (if a gradient will be needed) the sum of keys
//! weighted by them: partial results of `n·(d + 3)` numbers, 8 of them or as many as take a MiB. The gradient is
//! therefore available with the loss, and the backward pass only scales it. The derivation is in
//! `docs/math/infonce.md`.
//!
//! **Range.** The running maximum makes every exponent at most 0 for any vectors and temperature. For unit vectors the
//! fixed maximum `1/τ` would suffice, but it underflows for small temperatures and is wrong for other vectors, and the
//! running maximum costs less than a hundredth of the time.
//! All vectors must be finite, as those of [`crate::ops::l2_norm::forward`] are: as with a softmax over stored logits, a key with
//! an infinite element can give a finite loss and a gradient that is NaN. NaN in a query, its positive or a key that is not
//! masked gives a loss of NaN.
//!
//! ```
//! use tubelet::{ops::{infonce, l2_norm}, tensor::{Device, Tensor}};
//! let (device, _) = Device::auto(); // the first GPU, or the CPU
//! let codes = |n: usize, turn: usize| -> tubelet::error::Result<Tensor> {
//!     let any: Vec<f32> = (0..n * 16).map(|i| ((i * 37 + turn) % 101) as f32 - 50.0).collect();
//!     l2_norm::forward(&Tensor::from_f32([n, 16], &any)?.to(&device)?)
//! };
//! let (q, queue) = (codes(4, 0)?, codes(256, 7)?);
//! let (scores, dq) = infonce::forward_backward(&q, &q, &queue, 0.1)?; // each query is its own positive
//! assert!(scores.loss > 0.0 && scores.positive > 1.0 / 257.0);
//! assert_eq!(dq.dims(), [4, 16]);
//! # Ok::<(), tubelet::error::Error>(())
//! ```

#[cfg(any(test, feature = "testing"))]
pub mod cases;
mod cpu;
pub(super) mod cuda;
mod exp;
mod grad;
mod kernel;
#[cfg(any(test, feature = "testing"))]
pub mod reference;

pub use cuda::{Layout, Pointers, TERMS, launch};
#[cfg(any(test, feature = "testing"))]
pub use cuda::{Plan, Sort, launch_planned};
pub use grad::{Loss, infonce, infonce_masked, infonce_terms};

use crate::cpu::traffic::{self, Work};
use crate::driver::{Gpu, Memory};
use crate::error::{Error, Result};
use crate::shape::Shape;
use crate::tensor::{DType, Device, Place, Tensor};

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
/// `Shape` when an argument is not a matrix with rows, or the shapes do not agree; `Param` when `tau` is not finite or
/// below 2⁻⁶², where numbers made of it would not be.
pub fn forward(q: &Tensor, k: &Tensor, queue: &Tensor, tau: f32) -> Result<Scores> {
    forward_masked(q, k, queue, None, tau)
}

/// As [`forward`], with the keys masked by `mask` excluded.
///
/// # Errors
/// As [`forward`], and `Shape` when the mask does not have one number for each query and key.
pub fn forward_masked(q: &Tensor, k: &Tensor, queue: &Tensor, mask: Option<Mask<'_>>, tau: f32) -> Result<Scores> {
    sweep(&[Term { q, k }], queue, mask.into(), tau, false)?.remove(0).scores()
}

/// As [`forward`], and the gradient of the loss by `q`, f32 `[n d]`, from the same pass.
///
/// # Errors
/// As [`forward`].
pub fn forward_backward(q: &Tensor, k: &Tensor, queue: &Tensor, tau: f32) -> Result<(Scores, Tensor)> {
    forward_backward_masked(q, k, queue, None, tau)
}

/// As [`forward_backward`], with the keys masked by `mask` excluded.
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
    let swept = sweep(&[Term { q, k }], queue, mask.into(), tau, true)?.remove(0);
    let scores = swept.scores()?;
    swept.dq.map(|dq| (scores, dq)).ok_or_else(|| unreachable!("a gradient was asked for"))
}

/// One loss: queries and their positives.
#[derive(Clone, Copy)]
pub struct Term<'a> {
    /// Queries `[n d]`.
    pub q: &'a Tensor,
    /// Positives `[n d]`.
    pub k: &'a Tensor,
}

/// Owners of keys and queries, for masking ([`Mask`]): on the host, or on the GPU that computes.
#[derive(Clone, Copy)]
pub enum Owners<'a> {
    /// Nothing is masked.
    Unknown,
    /// In main memory; copied to the device of the queries.
    Host(Mask<'a>),
    /// On the queries' GPU: `n` and `m` 32-bit numbers.
    Device {
        /// Of the queries, the same for each term.
        rows: &'a Memory,
        /// Of the keys of the queue.
        keys: &'a Memory,
    },
}

impl<'a> From<Option<Mask<'a>>> for Owners<'a> {
    fn from(mask: Option<Mask<'a>>) -> Self {
        mask.map_or(Owners::Unknown, Owners::Host)
    }
}

/// The results of a pass for one term, on the device of its queries; there was no host synchronisation.
pub struct Swept {
    /// Mean loss, a scalar.
    pub loss: Tensor,
    /// Mean probability of the positive, and share of nearest positives: `[2]`.
    pub stats: Tensor,
    /// Gradient of the mean loss by the queries, f32 `[n d]`, if requested.
    pub dq: Option<Tensor>,
}

impl Swept {
    /// The loss as numbers; synchronises with a GPU.
    ///
    /// # Errors
    /// On a GPU, `Driver`.
    pub fn scores(&self) -> Result<Scores> {
        let stats = self.stats.load()?;
        Ok(Scores { loss: self.loss.item()?, positive: stats[0], accuracy: stats[1] })
    }
}

/// The losses of several terms against one queue, and their gradients if `gradient`. On a GPU up to four terms share
/// each pass over the queue, rows must be of unit length (the exponentials are relative to `1/τ`, their largest logit),
/// the temperature must be at least 0.025 and `d` at most 128. With bf16 queries and queue, tensor cores compute it,
/// and the weights of the keys in the gradient are rounded to bf16.
///
/// ```
/// use tubelet::ops::infonce::{Owners, Term, sweep};
/// use tubelet::tensor::{Device, Tensor};
///
/// # fn main() -> tubelet::error::Result<()> {
/// let device = Device::Cpu; // or a GPU: the call is the same
/// let q = Tensor::from_f32([1, 2], &[1.0, 0.0])?.to(&device)?;
/// let queue = Tensor::from_f32([2, 2], &[0.0, 1.0, -1.0, 0.0])?.to(&device)?;
/// let swept = sweep(&[Term { q: &q, k: &q }], &queue, Owners::Unknown, 0.1, true)?.remove(0);
/// assert!(swept.scores()?.loss < 1e-4 && swept.dq.is_some());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`forward_masked`]; `Shape` when the terms differ in shape; `Device` when the tensors are on different devices; on a GPU
/// `Param` for the limits above, `OutOfMemory` and `Driver`.
pub fn sweep(terms: &[Term<'_>], queue: &Tensor, owners: Owners<'_>, tau: f32, gradient: bool) -> Result<Vec<Swept>> {
    let Some(first) = terms.first() else { return Ok(Vec::new()) };
    let mask = if let Owners::Host(mask) = owners { Some(mask) } else { None };
    let mut p = None;
    for Term { q, k } in terms {
        p = Some(Problem::new(q, k, queue, mask, tau)?);
        if q.shape() != first.q.shape() {
            return Err(Error::shape("infonce", "q", first.q.shape(), q.shape()));
        }
        first.q.place("infonce", &[("q", q), ("k", k), ("queue", queue)])?;
    }
    let Some(p) = p else { return Ok(Vec::new()) };
    match first.q.place("infonce", &[])? {
        Place::Cpu => {
            if let Owners::Device { rows, .. } = owners {
                let there = Device::Cuda(rows.gpu().clone());
                return Err(Error::device("infonce", "owners", Device::Cpu, there));
            }
            terms.iter().map(|term| on_cpu(&p, term, queue, gradient)).collect()
        }
        Place::Gpu(gpu) => on_gpu(gpu, &p, terms, queue, owners, gradient),
    }
}

fn on_cpu(p: &Problem<'_>, term: &Term<'_>, queue: &Tensor, gradient: bool) -> Result<Swept> {
    let _pass = traffic::pass("infonce", || {
        // The logits and, for the gradient, the keys weighted by them.
        let flops = 2 * (p.n * p.m * p.d) as u64 * if gradient { 2 } else { 1 };
        let wrote = 4 * (if gradient { p.n * p.d } else { 0 } + 2);
        Work { flops, read: 2 * 4 * p.n * p.d + queue.bytes(), wrote, tasks: cpu::tasks(p) }
    });
    let mut scores = Scores { loss: 0.0, positive: 0.0, accuracy: 0.0 };
    let (q, k) = (term.q.host()?, term.k.host()?);
    let mut sweep = |dq: Option<&mut [f32]>| scores = cpu::sweep(p, &q, &k, queue, dq);
    let dq = gradient.then(|| Tensor::build(term.q.shape(), |dq| sweep(Some(dq)))).transpose()?;
    if dq.is_none() {
        sweep(None);
    }
    let stats = Tensor::build([2], |s| s.copy_from_slice(&[scores.positive, scores.accuracy]))?;
    Ok(Swept { loss: Tensor::scalar(scores.loss), stats, dq })
}

/// A pass that makes what the gradient in recorded operations needs: all keys, and two arrays of the extents of the logits.
fn making_operands([n, m, d]: [usize; 3]) -> traffic::Pass {
    traffic::pass("infonce operands", || Work::wide((n + m) * d, (n + m) * (d + 2 * n)))
}

fn on_gpu(
    gpu: &Gpu,
    p: &Problem<'_>,
    terms: &[Term<'_>],
    queue: &Tensor,
    owners: Owners<'_>,
    gradient: bool,
) -> Result<Vec<Swept>> {
    let upload = |numbers: &[u32]| -> Result<Memory> {
        let to = gpu.alloc(4 * numbers.len())?;
        gpu.driver().upload(to.ptr(), bytemuck::cast_slice(numbers))?;
        Ok(to)
    };
    let copies = match owners {
        Owners::Host(mask) => Some([upload(mask.rows)?, upload(mask.keys)?]),
        _ => None,
    };
    let owners = match (&copies, owners) {
        (Some([rows, keys]), _) => [rows.ptr(), keys.ptr()],
        (None, Owners::Device { rows, keys }) => {
            if let Some(other) = [rows, keys].into_iter().map(Memory::gpu).find(|owners| *owners != gpu) {
                return Err(Error::device("infonce", "owners", Device::Cuda(gpu.clone()), Device::Cuda(other.clone())));
            }
            if rows.bytes() < 4 * p.n || keys.bytes() < 4 * p.m {
                let got = format!("{} and {} bytes", rows.bytes(), keys.bytes());
                return Err(Error::shape("infonce", "owners", format!("{} and {} numbers", p.n, p.m), got));
            }
            [rows.ptr(), keys.ptr()]
        }
        _ => [0, 0],
    };
    let mut all = Vec::with_capacity(terms.len());
    for terms in terms.chunk_by(|a, b| a.q.dtype() == b.q.dtype() && a.k.dtype() == b.k.dtype()) {
        for terms in terms.chunks(TERMS) {
            let (q, k) = (terms[0].q.dtype(), terms[0].k.dtype());
            let layout =
                Layout { terms: terms.len(), n: p.n, d: p.d, m: p.m, q, k, queue: queue.dtype(), tau: p.tau, gradient };
            layout.check()?;
            let work = gpu.alloc(layout.workspace())?;
            let mut at = Pointers { queue: queue.input().0, owners, workspace: work.ptr(), ..Pointers::default() };
            for (i, term) in terms.iter().enumerate() {
                let new = |shape: &[usize]| Tensor::on_gpu(gpu, DType::F32, Shape::new(shape));
                let mut out = Swept { loss: new(&[])?, stats: new(&[2])?, dq: None };
                (at.q[i], at.k[i]) = (term.q.input().0, term.k.input().0);
                (at.loss[i], at.stats[i]) = (out.loss.output().0, out.stats.output().0);
                if gradient {
                    let mut dq = new(&[p.n, p.d])?;
                    at.dq[i] = dq.output().0;
                    out.dq = Some(dq);
                }
                all.push(out);
            }
            // SAFETY: the addresses are those of tensors of the layout's extents, which are not freed before the
            // launches in stream order.
            unsafe { launch(gpu, &layout, &at)? };
        }
    }
    Ok(all)
}

/// Which keys of the queue are not negatives of a query: those of the same owner (earlier clips of the same video), and
/// slots that are not filled yet.
#[derive(Clone, Copy, Debug)]
pub struct Mask<'a> {
    /// The owner of each query, `n` numbers.
    pub rows: &'a [u32],
    /// The owner of each key of the queue, `m` numbers; [`Mask::NOBODY`] for a slot that is not filled yet.
    pub keys: &'a [u32],
}

impl Mask<'_> {
    /// The owner of an empty slot of the queue, which is not a negative of any query.
    pub const NOBODY: u32 = u32::MAX;

    /// Sets the logits of query `row` with the keys from `from` on to minus infinity where they are masked.
    fn hide(&self, row: usize, from: usize, logits: &mut [f32]) {
        let own = self.rows[row];
        for (l, &key) in logits.iter_mut().zip(&self.keys[from..]) {
            if key == own || key == Self::NOBODY {
                *l = f32::NEG_INFINITY;
            }
        }
    }
}

/// The minimum temperature. Unit vectors have logits of magnitude up to `1/τ`, whose differences reach `2/τ`, and
/// second-order gradients have terms of up to `4/τ²`: at `τ = 2⁻⁶²` that is `2¹²⁶`, and the sum of two such terms is
/// still finite in f32.
const LEAST_TAU: f32 = 1.0 / (1u64 << 62) as f32;

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
        if !(tau >= LEAST_TAU && tau.is_finite()) {
            let rule = format!("a temperature is finite and at least 2⁻⁶² ({LEAST_TAU:.1e})");
            return Err(Error::param("infonce", "tau", format!("{tau:e}"), rule));
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
