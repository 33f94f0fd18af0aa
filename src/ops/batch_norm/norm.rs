//! A normalisation whose statistics are known.

use super::{Lines, Peers, Rows, Signs, cpu, cuda};
use crate::cpu::traffic::{self, Work};
use crate::error::{Error, Result};
use crate::ops::lanes::Stored;
use crate::shape::Shape;
use crate::tensor::{DType, Place, Tensor};
use half::bf16;
use std::sync::Arc;

/// `z = (x - mean) · inv_std · gamma + beta`: a batch norm with known numbers, all of them f32.
#[derive(Clone, Debug)]
pub struct Norm {
    /// Parts of the batch with statistics of their own.
    parts: usize,
    /// Whether the statistics are functions of `x`, so that gradients pass through them.
    of_batch: bool,
    mean: Tensor,
    inv_std: Tensor,
    gamma: Tensor,
    beta: Tensor,
    /// With whom the batch is shared.
    peers: Option<Arc<dyn Peers>>,
}

impl Norm {
    /// A normalisation by the means `mean` and the inverse deviations `inv_std = 1/√(var + eps)` of each of some number
    /// of equal contiguous parts of the batch and each channel, both `[parts · c]`, with the scale `gamma` and the
    /// shift `beta`, both `[c]`. A backward pass treats all as constants.
    ///
    /// # Errors
    /// `DType` when one is not f32; `Shape` when they do not fit each other; `Device` when they are on different
    /// devices.
    pub fn new(mean: &Tensor, inv_std: &Tensor, gamma: &Tensor, beta: &Tensor) -> Result<Norm> {
        for (arg, t) in [("mean", mean), ("inv_std", inv_std), ("gamma", gamma), ("beta", beta)] {
            t.expect("batch_norm", arg, DType::F32)?;
        }
        let (c, len) = (gamma.shape().len(), mean.shape().len());
        let fits = [("gamma", gamma, c), ("beta", beta, c), ("mean", mean, len), ("inv_std", inv_std, len)];
        for (arg, t, len) in fits {
            if t.shape() != Shape::from([len]) {
                return Err(Error::shape("batch_norm", arg, format!("[{len}]"), t.shape()));
            }
        }
        if c == 0 || len == 0 || !len.is_multiple_of(c) {
            return Err(Error::shape("batch_norm", "mean", format!("[parts · {c}]"), mean.shape()));
        }
        mean.place("batch_norm", &[("inv_std", inv_std), ("gamma", gamma), ("beta", beta)])?;
        Norm::of(false, [mean.clone(), inv_std.clone()], [gamma, beta])
    }

    /// The same from arrays whose shapes fit; `gamma` and `beta` are converted to f32.
    pub(super) fn of(of_batch: bool, [mean, inv_std]: [Tensor; 2], [gamma, beta]: [&Tensor; 2]) -> Result<Norm> {
        let parts = mean.shape().len() / gamma.shape().len();
        let [gamma, beta] = [gamma.cast(DType::F32)?, beta.cast(DType::F32)?];
        Ok(Norm { parts, of_batch, mean, inv_std, gamma, beta, peers: None })
    }

    /// The same with statistics of a batch that is shared.
    pub(super) fn over(self, peers: Option<Arc<dyn Peers>>) -> Norm {
        Norm { peers, ..self }
    }

    /// With whom the batch is shared, if its statistics are of more rows than this process has.
    pub(super) fn peers(&self) -> Option<&dyn Peers> {
        self.peers.as_deref()
    }

    /// Number of parts of the batch with statistics of their own.
    #[must_use]
    pub fn parts(&self) -> usize {
        self.parts
    }

    /// Number of channels.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.gamma.shape().len()
    }

    /// Mean of each part and channel, `[parts · c]`.
    #[must_use]
    pub fn mean(&self) -> &Tensor {
        &self.mean
    }

    /// Inverse deviation `1/√(var + eps)` of each part and channel, `[parts · c]`.
    #[must_use]
    pub fn inv_std(&self) -> &Tensor {
        &self.inv_std
    }

    /// Scale, `[c]`.
    #[must_use]
    pub fn gamma(&self) -> &Tensor {
        &self.gamma
    }

    /// Shift, `[c]`.
    #[must_use]
    pub fn beta(&self) -> &Tensor {
        &self.beta
    }

    /// Whether gradients pass through the statistics.
    pub(super) fn of_batch(&self) -> bool {
        self.of_batch
    }

    /// Its arrays with their names.
    pub(in crate::ops) fn arrays(&self) -> [(&'static str, &Tensor); 4] {
        [("mean", &self.mean), ("inv_std", &self.inv_std), ("gamma", &self.gamma), ("beta", &self.beta)]
    }

    /// How the elements of an `x` of this shape are divided.
    ///
    /// # Errors
    /// `Shape` when the rank of `x` is not 2 to 5 or there are no elements; `Param` when the number of parts does not
    /// divide `n`; `Shape` when `x` has another number of channels.
    pub(in crate::ops) fn rows(&self, x: Shape) -> Result<Rows> {
        let rows = Rows::new(x, self.parts)?;
        if rows.c != self.channels() {
            return Err(Error::shape("batch_norm", "x", format!("[n .. {}]", self.channels()), x));
        }
        Ok(rows)
    }

    /// `z`, with `residual` added and ReLU applied where requested, in the data type of `x [n .. c]`.
    ///
    /// # Errors
    /// `Shape` or `Param` when `x` has another number of channels or does not divide into the parts, or `residual` does
    /// not have its shape; `Device` when they are on different devices.
    pub fn apply(&self, x: &Tensor, residual: Option<&Tensor>, relu: bool) -> Result<Tensor> {
        Ok(self.apply_keeping(x, residual, relu, false)?.0)
    }

    /// [`Norm::apply`], with the signs of the result if `keep`, and where a GPU takes them.
    pub(super) fn apply_keeping(
        &self,
        x: &Tensor,
        residual: Option<&Tensor>,
        relu: bool,
        keep: bool,
    ) -> Result<(Tensor, Option<Signs>)> {
        let rows = self.rows(x.shape())?;
        if let Some(r) = residual.filter(|r| r.shape() != x.shape()) {
            return Err(Error::shape("batch_norm", "residual", x.shape(), r.shape()));
        }
        let residual = residual.map(|r| r.cast(x.dtype())).transpose()?;
        let mut others = self.arrays().to_vec();
        others.extend(residual.as_ref().map(|r| ("residual", r)));
        match x.place("batch_norm", &others)? {
            Place::Gpu(gpu) => cuda::apply(gpu, &rows, x, self, residual.as_ref(), relu, keep),
            Place::Cpu => {
                let read = x.bytes() + residual.as_ref().map_or(0, Tensor::bytes);
                let _pass = traffic::pass("batch_norm normalise", || Work::moves(read, x.bytes(), cpu::tasks(&rows)));
                let (lines, residual) = (Lines::new(&rows, self)?, residual.as_ref());
                let y = match x.dtype() {
                    DType::F32 => apply_as::<f32>(&lines, x, residual, relu),
                    DType::BF16 => apply_as::<bf16>(&lines, x, residual, relu),
                };
                Ok((y?, None))
            }
        }
    }
}

fn apply_as<T: Stored>(lines: &Lines, x: &Tensor, residual: Option<&Tensor>, relu: bool) -> Result<Tensor> {
    T::build(x.shape(), |y| lines.normalise(T::of(x), residual.map(T::of), relu, y))
}
