//! Sums over a batch, from which its statistics are formed.

use super::{Peers, Rows, check_eps, cpu, cuda, expect_channels, rows, vector};
use crate::cpu::traffic::{self, Work};
use crate::error::{Error, Result};
use crate::ops::ema;
use crate::tensor::{DType, Element, Place, Tensor};
use half::bf16;
use std::sync::Arc;

/// First and second moments of each channel of an `x`, over each of some number of equal contiguous parts of the batch.
///
/// Deviations are taken from a number near the channel's mean, so that little cancels: one chosen by the caller, or one
/// for each chunk of rows, computed from the chunk.
#[derive(Clone, Debug)]
pub struct Moments {
    parts: usize,
    c: usize,
    sums: Sums,
}

/// f32 sums, on the device of `x`.
#[derive(Clone, Debug)]
enum Sums {
    /// `shift [c]`; `Σ (x - shift)` and `Σ (x - shift)²` of each part, `[parts 2 c]`, or `[parts tiles 2 c]`.
    Shifted { shift: Tensor, sums: Tensor },
    /// For each chunk of `span` rows of a part (the last may be shorter): its own shift, and the two sums, `[parts
    /// chunks 3 c]`; for an `x` that divides into `rows`.
    Chunked { rows: Rows, span: usize, sums: Tensor },
}

/// Statistics of the whole batch, all parts together: the values that running averages are updated with. They are on
/// the device of `x`.
#[derive(Clone, Debug)]
pub struct BatchStatistics {
    /// Mean per channel, `[c]`, f32.
    pub mean: Tensor,
    /// Unbiased variance per channel (divided by the count minus one), as in PyTorch's running average, `[c]`, f32.
    pub var: Tensor,
}

/// Running averages that a batch's statistics are added to: `running = (1 - momentum) running + momentum batch`.
#[derive(Debug)]
pub struct Running<'a> {
    /// Of the means, `[c]`, f32.
    pub mean: &'a mut Tensor,
    /// Of the unbiased variances, `[c]`, f32.
    pub var: &'a mut Tensor,
    /// Weight of the newest batch, from 0 to 1.
    pub momentum: f32,
}

/// What a batch norm in training mode normalises with: the result of [`Moments::statistics`].
#[derive(Clone, Debug)]
pub struct Statistics {
    pub(super) rows: Rows,
    /// Mean and `1/√(var + eps)` of each part and channel, `[parts · c]`.
    pub(super) mean: Tensor,
    pub(super) inv_std: Tensor,
    /// Those of the whole batch.
    pub batch: BatchStatistics,
    /// With whom the batch is shared.
    pub(super) peers: Option<Arc<dyn Peers>>,
}

impl Moments {
    /// The moments of `x [n .. c]` over `parts` parts, in one pass over memory.
    ///
    /// # Errors
    /// `Shape` when the rank of `x` is not 2 to 5 or there are no elements; `Param` when `parts` is 0 or does not divide
    /// `n`; on a GPU also errors of its driver.
    pub fn of(x: &Tensor, parts: usize) -> Result<Moments> {
        let rows = Rows::new(x.shape(), parts)?;
        let (span, sums) = match x.place("batch_norm", &[])? {
            Place::Gpu(gpu) => cuda::chunk_sums(gpu, &rows, x)?,
            Place::Cpu => {
                let _pass = traffic::pass("batch_norm sums", || {
                    Work::moves(x.bytes(), 4 * cpu::chunk_sums_len(&rows), cpu::tasks(&rows))
                });
                match x.dtype() {
                    DType::F32 => cpu::chunk_sums(&rows, f32::of(x))?,
                    DType::BF16 => cpu::chunk_sums(&rows, bf16::of(x))?,
                }
            }
        };
        Ok(Moments { parts, c: rows.c, sums: Sums::Chunked { rows, span, sums } })
    }

    /// Moments from given sums `sums [parts 2 c]` of `x - shift` and of its square, where `shift` is `[c]`; both f32.
    /// Sums of some number of tiles of each part, `[parts tiles 2 c]`, are added up.
    ///
    /// # Errors
    /// `DType` or `Shape` when the arguments are not of that type or shape; `Device` when they are on different
    /// devices.
    pub fn about(shift: Tensor, sums: Tensor) -> Result<Moments> {
        shift.expect("batch_norm", "shift", DType::F32)?;
        sums.expect("batch_norm", "sums", DType::F32)?;
        let c = shift.shape().len();
        if shift.dims() != [c] || c == 0 {
            return Err(Error::shape("batch_norm", "shift", "[c], one per channel", shift.shape()));
        }
        let parts = match *sums.dims() {
            [parts, 2, channels] if channels == c && parts > 0 => parts,
            [parts, tiles, 2, channels] if channels == c && parts > 0 && tiles > 0 => parts,
            _ => return Err(Error::shape("batch_norm", "sums", format!("[parts 2 {c}]"), sums.shape())),
        };
        shift.place("batch_norm", &[("sums", &sums)])?;
        Ok(Moments { parts, c, sums: Sums::Shifted { shift, sums } })
    }

    /// Number of parts of the batch.
    #[must_use]
    pub fn parts(&self) -> usize {
        self.parts
    }

    /// The shift `[c]` and the sums `[parts 2 c]` or `[parts tiles 2 c]`, where one shift is used for all rows ([`Moments::about`]).
    #[must_use]
    pub fn shifted(&self) -> Option<(&Tensor, &Tensor)> {
        match &self.sums {
            Sums::Shifted { shift, sums } => Some((shift, sums)),
            Sums::Chunked { .. } => None,
        }
    }

    /// The statistics of `x`, whose moments these are. `running` is updated with those of the whole batch; on a GPU this
    /// takes no launch of its own. `eps` is added to the variances.
    ///
    /// # Errors
    /// `Shape` when `x` has other extents than the tensor the moments were taken of, when there is only one value per
    /// channel and part, or when a running average is not `[c]`; `DType` when one is not f32; `Param` when `eps` is below
    /// 1.2e-38 or not finite, or the momentum is not from 0 to 1; `Device` when the tensors are on different devices.
    pub fn statistics(self, x: &Tensor, eps: f32, running: Option<Running>) -> Result<Statistics> {
        self.statistics_over(x, eps, running, None)
    }

    /// The same of a batch of which `x` is the part of this one of `peers`: all of them call it. Moments are exchanged, and so are
    /// the sums of the backward pass.
    ///
    /// # Errors
    /// Those of [`Moments::statistics`] and of [`Peers::gather`]; with peers also `Param` when there is more than one part.
    pub fn statistics_over(
        self,
        x: &Tensor,
        eps: f32,
        running: Option<Running>,
        peers: Option<&Arc<dyn Peers>>,
    ) -> Result<Statistics> {
        let rows = Rows::new(x.shape(), self.parts)?;
        check_eps(eps)?;
        if let Some(Running { mean, var, momentum }) = &running {
            for (arg, t) in [("running mean", mean), ("running variance", var)] {
                expect_channels(arg, t.shape(), rows.c)?;
                t.expect("batch_norm", arg, DType::F32)?;
                x.place("batch_norm", &[(arg, t)])?;
            }
            if !(0.0..=1.0).contains(momentum) {
                return Err(Error::param("batch_norm", "momentum", momentum, "it must be from 0 to 1"));
            }
        }
        let count = peers.map_or(1, |peers| peers.count());
        if peers.is_some() && rows.parts > 1 {
            let rule = "a batch that is shared with others has statistics of its own as a whole";
            return Err(Error::param("batch_norm", "parts", rows.parts, rule));
        }
        if rows.rows * count == 1 {
            let want = "more than one value per channel and part to form statistics";
            return Err(Error::shape("batch_norm", "x", want, x.shape()));
        }
        let (fits, span, shift, sums) = match self.sums {
            Sums::Shifted { shift, sums } => (self.c == rows.c, rows.rows, Some(shift), sums),
            Sums::Chunked { rows: taken, span, sums } => (taken == rows, span, None, sums),
        };
        if !fits {
            return Err(Error::shape("batch_norm", "moments", format!("those of {}", x.shape()), sums.shape()));
        }
        let all = Rows { rows: rows.rows * count, ..rows };
        if let Place::Gpu(gpu) = x.place("batch_norm", &[("moments", &sums)])? {
            let Some(peers) = peers else { return cuda::merge(gpu, &rows, &sums, shift, span, eps, running) };
            let own = cuda::as_chunk(gpu, &rows, &sums, shift.as_ref(), span)?;
            let formed = cuda::merge(gpu, &all, &peers.gather(&own)?, None, rows.rows, eps, running)?;
            return Ok(Statistics { rows, peers: Some(peers.clone()), ..formed });
        }
        // From the sums, four numbers for each channel.
        let numbers = || Work::wide(sums.shape().len(), 2 * rows.parts * rows.c + 2 * rows.c);
        let _pass = traffic::pass("batch_norm statistics", numbers);
        let merged = match shift {
            Some(shift) => cpu::from_sums(&rows, &shift.host()?, &rows::over_tiles(&sums)?),
            None => cpu::merge_chunks(&rows, &sums.host()?),
        };
        let merged = peers.map_or(Ok(merged.clone()), |peers| cpu::merge_peers(&**peers, &rows, &merged))?;
        let inv_std = merged.iter().map(|s| (1.0 / (s.m2 / all.rows as f64 + f64::from(eps)).sqrt()) as f32);
        let mean = vector(merged.iter().map(|s| s.mean as f32))?;
        let batch = cpu::whole_batch(&all, &merged)?;
        if let Some(Running { mean, var, momentum }) = running {
            ema::blend(mean, &batch.mean, 1.0 - momentum, momentum)?;
            ema::blend(var, &batch.var, 1.0 - momentum, momentum)?;
        }
        Ok(Statistics { rows, mean, inv_std: vector(inv_std)?, batch, peers: peers.cloned() })
    }
}
