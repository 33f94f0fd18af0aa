//! InfoNCE on the tape.

use super::{Mask, Owners, Term, making_operands, sweep};
use crate::error::{ErrorKind, Result};
use crate::ops::{add, cast, matmul, mul, reshape, scale, softmax, sub};
use crate::shape::Shape;
use crate::tape::{Op, Tape, Var};
use crate::tensor::{DType, Tensor};

/// The loss of a batch, and its statistics.
#[derive(Clone)]
pub struct Loss {
    /// Mean over the queries, in nats: a scalar.
    pub loss: Var,
    /// Mean probability of the positive, and share of the queries whose positive is strictly nearer than every key of
    /// the queue: `[2]`, on the device of the queries.
    pub stats: Tensor,
}

impl Loss {
    /// Mean probability of the positive; synchronises with a GPU.
    ///
    /// # Errors
    /// On a GPU, `Driver`.
    pub fn positive(&self) -> Result<f32> {
        Ok(self.stats.load()?[0])
    }

    /// Share of the queries whose positive is strictly nearer than every key of the queue; synchronises with a GPU.
    ///
    /// # Errors
    /// On a GPU, `Driver`.
    pub fn accuracy(&self) -> Result<f32> {
        Ok(self.stats.load()?[1])
    }
}

struct InfoNce {
    q: Var,
    k: Tensor,
    queue: Tensor,
    /// Owners of the queries and of the keys; see [`Mask`].
    owners: Option<[Vec<u32>; 2]>,
    tau: f32,
    /// Gradient of the loss by the queries, from the forward pass.
    dq: Tensor,
}

impl Op for InfoNce {
    fn name(&self) -> &'static str {
        "infonce"
    }

    fn backward(&self, t: &Tape, dy: &Var, _: &[bool]) -> Result<Vec<Option<Var>>> {
        let dq = if t.is_recording() { self.composed(t)? } else { Var::constant(self.dq.clone()) };
        let dq = mul(t, &dq, &reshape(t, dy, Shape::new(&[1, 1]))?)?;
        Ok(vec![Some(cast(t, &dq, self.q.value().dtype())?)])
    }
}

impl InfoNce {
    /// The gradient in recorded operations, so that it can be differentiated again: `(softmax(q·keysᵀ/τ) - onehot)·keys
    /// / (nτ)`. The keys are all positives followed by the queue; the logits of a query with other queries' positives
    /// are minus infinity. This takes the `n × (n + m)` memory that the forward pass avoids.
    fn composed(&self, t: &Tape) -> Result<Var> {
        if self.queue.device() != crate::tensor::Device::Cpu {
            return Err(ErrorKind::NoSecondOrder { op: "infonce" }.into());
        }
        let [n, d] = self.q.shape().matrix("infonce", "q")?;
        let [m, _] = self.queue.shape().matrix("infonce", "queue")?;
        let (own, others) = (self.k.host()?, self.queue.host()?);
        // The keys, and what is added to and subtracted from the logits.
        let made = making_operands([n, m, d]);
        let keys = Tensor::build([n + m, d], |all| {
            all[..n * d].copy_from_slice(&own);
            all[n * d..].copy_from_slice(&others);
        })?;
        let mask = self.owners.as_ref().map(|[rows, keys]| Mask { rows, keys });
        let hidden = Var::constant(Tensor::build([n, n + m], |rows| {
            rows.fill(0.0);
            for (i, row) in rows.chunks_exact_mut(n + m).enumerate() {
                row[..n].fill(f32::NEG_INFINITY);
                row[i] = 0.0;
                if let Some(mask) = &mask {
                    mask.hide(i, 0, &mut row[n..]);
                }
            }
        })?);
        let onehot = Var::constant(Tensor::build([n, n + m], |rows| {
            rows.fill(0.0);
            (0..n).for_each(|i| rows[i * (n + m) + i] = 1.0);
        })?);
        drop(made);
        let keys = Var::constant(keys);
        let q = cast(t, &self.q, DType::F32)?;
        let logits = scale(t, &matmul(t, &q, &keys, false, true)?, 1.0 / self.tau)?;
        let p = softmax(t, &add(t, &logits, &hidden)?)?;
        let error = sub(t, &p, &onehot)?;
        scale(t, &matmul(t, &error, &keys, false, false)?, 1.0 / (n as f32 * self.tau))
    }
}

/// The contrastive loss of `q [n d]` against positives `k [n d]` and negatives `queue [m d]` at temperature `tau`, with
/// `O(n·d)` memory. `k` and `queue` are constants. Only second-order gradients take `n × m` memory.
///
/// # Errors
/// As [`super::forward`].
pub fn infonce(t: &Tape, q: &Var, k: &Tensor, queue: &Tensor, tau: f32) -> Result<Loss> {
    infonce_masked(t, q, k, queue, None, tau)
}

/// As [`infonce`], with the keys masked by `mask` excluded.
///
/// # Errors
/// As [`super::forward_masked`].
pub fn infonce_masked(t: &Tape, q: &Var, k: &Tensor, queue: &Tensor, mask: Option<Mask<'_>>, tau: f32) -> Result<Loss> {
    Ok(infonce_terms(t, &[(q.clone(), k.clone())], queue, mask.into(), tau)?.remove(0))
}

/// As [`infonce_masked`], for several terms (queries and positives) that share the queue: on a GPU one pass over the
/// queue computes up to four of them.
///
/// # Errors
/// As [`super::sweep`].
pub fn infonce_terms(
    t: &Tape,
    terms: &[(Var, Tensor)],
    queue: &Tensor,
    owners: Owners<'_>,
    tau: f32,
) -> Result<Vec<Loss>> {
    let wanted = t.is_recording() && terms.iter().any(|(q, _)| q.has_grad());
    let pairs: Vec<Term<'_>> = terms.iter().map(|(q, k)| Term { q: q.value(), k }).collect();
    let swept = sweep(&pairs, queue, owners, tau, wanted)?;
    let record = |((q, k), out): (&(Var, Tensor), super::Swept)| {
        let loss = match out.dq {
            Some(dq) if q.has_grad() => t.record(out.loss, &[q], || {
                let owners = if let Owners::Host(m) = owners { Some([m.rows.to_vec(), m.keys.to_vec()]) } else { None };
                InfoNce { q: q.clone(), k: k.clone(), queue: queue.clone(), owners, tau, dq }
            }),
            _ => Var::constant(out.loss),
        };
        Loss { loss, stats: out.stats }
    };
    Ok(terms.iter().zip(swept).map(record).collect())
}
