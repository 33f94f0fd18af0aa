//! Sums over a batch, from which its statistics are formed.

use super::{Rows, cpu, cuda, vector};
use crate::error::{Error, Result};
use crate::tensor::{DType, Element, Place, Tensor};
use half::bf16;

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
    /// `shift [c]`; `Σ (x - shift)` and `Σ (x - shift)²` of each part, `[parts 2 c]`.
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
            Place::Cpu => match x.dtype() {
                DType::F32 => cpu::chunk_sums(&rows, f32::of(x))?,
                DType::BF16 => cpu::chunk_sums(&rows, bf16::of(x))?,
            },
        };
        Ok(Moments { parts, c: rows.c, sums: Sums::Chunked { rows, span, sums } })
    }

    /// Moments from given sums `sums [parts 2 c]` of `x - shift` and of its square, where `shift` is `[c]`; both f32.
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

    /// The shift `[c]` and the sums `[parts 2 c]`, where one shift is used for all rows ([`Moments::about`]).
    #[must_use]
    pub fn shifted(&self) -> Option<(&Tensor, &Tensor)> {
        match &self.sums {
            Sums::Shifted { shift, sums } => Some((shift, sums)),
            Sums::Chunked { .. } => None,
        }
    }

    /// Mean and `1/√(var + eps)` of each part and channel, `[parts · c]`, and the statistics of the whole batch.
    pub(super) fn statistics(&self, rows: &Rows, x: &Tensor, eps: f32) -> Result<(Tensor, Tensor, BatchStatistics)> {
        let (span, shift, sums) = match &self.sums {
            Sums::Shifted { shift, sums } => (rows.rows, Some(shift), sums),
            Sums::Chunked { span, sums, .. } => (*span, None, sums),
        };
        let fits = match &self.sums {
            Sums::Shifted { .. } => self.c == rows.c,
            Sums::Chunked { rows: taken, .. } => taken == rows,
        };
        if !fits {
            return Err(Error::shape("batch_norm", "moments", format!("those of {}", x.shape()), sums.shape()));
        }
        if let Place::Gpu(gpu) = x.place("batch_norm", &[("moments", sums)])? {
            return cuda::merge(gpu, rows, sums, shift, span, eps);
        }
        let merged = match shift {
            Some(shift) => cpu::from_sums(rows, &shift.host()?, &sums.host()?),
            None => cpu::merge_chunks(rows, &sums.host()?),
        };
        let inv_std = merged.iter().map(|s| (1.0 / (s.m2 / rows.rows as f64 + f64::from(eps)).sqrt()) as f32);
        let mean = vector(merged.iter().map(|s| s.mean as f32))?;
        Ok((mean, vector(inv_std)?, cpu::whole_batch(rows, &merged)?))
    }
}
