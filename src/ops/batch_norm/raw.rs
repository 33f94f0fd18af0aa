//! Batch norm on device addresses, for programs that manage memory and streams themselves: no tensors, no allocation. Results
//! have the bits of the functions on tensors.
//!
//! ```no_run
//! # use tubelet::{driver::Gpu, ops::{Workspace, batch_norm::raw}, tensor::DType};
//! # fn f(gpu: &Gpu, [x, y, space]: [u64; 3], [gamma, beta, mean, inv_std]: [u64; 4]) -> tubelet::error::Result<()> {
//! let layout = raw::Layout { x: [8, 4, 14, 14, 64].into(), parts: 1, dtype: DType::BF16 };
//! let workspace = Workspace { ptr: space, bytes: layout.forward_workspace()? }; // that much was allocated at `space`
//! let at = raw::Forward { x, gamma, beta, residual: None, y, signs: None, mean, inv_std, moments: None, running: None };
//! unsafe { raw::forward(gpu, &layout, &at, 1e-5, true, workspace) }
//! # }
//! ```

use super::cuda::{self, First, Merged, Pass};
use super::{Rows, check_eps};
use crate::driver::{Gpu, Out};
use crate::error::{Error, Result};
use crate::ops::addresses::{Addresses, Spans, Workspace};
use crate::shape::Shape;
use crate::tensor::DType;

/// The input of a batch norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Extents `[n .. c]` of `x`, `y` and their gradients.
    pub x: Shape,
    /// Equal contiguous parts of `n` with statistics of their own; 1 is plain batch normalisation.
    pub parts: usize,
    /// Data type of `x`, `y`, the residual and their gradients. All other arrays are f32.
    pub dtype: DType,
}

/// Sums that a convolution took in its epilogue ([`crate::ops::conv3d::raw::fprop_moments`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moments {
    /// `[parts tiles 2 c]`.
    pub sums: u64,
    /// Number of tiles.
    pub tiles: usize,
    /// What deviations are taken from, `[c]`; it may be the running mean.
    pub near: u64,
}

/// Running averages, which a forward pass updates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Running {
    /// Of the means, `[c]`.
    pub mean: u64,
    /// Of the unbiased variances, `[c]`.
    pub var: u64,
    /// Weight of the newest batch, from 0 to 1.
    pub momentum: f32,
}

/// Device addresses of a forward pass with the statistics of the batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forward {
    /// Input.
    pub x: u64,
    /// Scale, `[c]`.
    pub gamma: u64,
    /// Shift, `[c]`.
    pub beta: u64,
    /// What is added before ReLU.
    pub residual: Option<u64>,
    /// Result.
    pub y: u64,
    /// With a residual, bf16, and channels that are a multiple of eight: receives the signs of the result, one bit for each
    /// element, for [`crate::ops::conv3d::raw::dgrad_norm_relu`].
    pub signs: Option<u64>,
    /// Receives the mean of each part and channel, `[parts c]`, for [`backward`].
    pub mean: u64,
    /// Receives `1/√(var + eps)`, `[parts c]`, for [`backward`].
    pub inv_std: u64,
    /// Sums that were taken while `x` was computed; otherwise a pass over `x` takes them.
    pub moments: Option<Moments>,
    /// Running averages to be updated.
    pub running: Option<Running>,
}

/// Device addresses of a forward pass with given statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inference {
    /// Input.
    pub x: u64,
    /// Mean, `[c]`.
    pub mean: u64,
    /// Variance, `[c]`.
    pub var: u64,
    /// Scale, `[c]`.
    pub gamma: u64,
    /// Shift, `[c]`.
    pub beta: u64,
    /// What is added before ReLU.
    pub residual: Option<u64>,
    /// Result.
    pub y: u64,
}

/// What a backward pass does first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// There was no ReLU.
    None,
    /// ReLU's mask is recomputed from `x`; correct only without a residual.
    FromInput,
    /// The mask is where the result is positive.
    FromResult {
        /// The result of the forward pass.
        y: u64,
        /// Receives the masked gradient, which is also that of the residual.
        dz: u64,
    },
    /// `dy` is masked already, and the sums were taken by a convolution ([`crate::ops::conv3d::raw::dgrad_norm_relu`]).
    Applied {
        /// `[parts tiles 2 c]`.
        sums: u64,
        /// Number of tiles.
        tiles: usize,
    },
}

/// Device addresses of a backward pass, after [`forward`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backward {
    /// Input of the forward pass.
    pub x: u64,
    /// Gradient by its result.
    pub dy: u64,
    /// What [`Forward::mean`] received.
    pub mean: u64,
    /// What [`Forward::inv_std`] received.
    pub inv_std: u64,
    /// Scale, `[c]`.
    pub gamma: u64,
    /// Shift, `[c]`.
    pub beta: u64,
    /// ReLU's mask.
    pub mask: Mask,
    /// Gradient by `x`.
    pub dx: u64,
    /// Gradient by `gamma`, `[c]`.
    pub dgamma: u64,
    /// Gradient by `beta`, `[c]`.
    pub dbeta: u64,
}

const CHECK: Addresses = Addresses("batch_norm");

impl Layout {
    fn rows(&self) -> Result<Rows> {
        Rows::new(self.x.check("batch_norm", "x")?, self.parts)
    }

    /// Sums of chunks; mean and variance of the batch.
    fn forward_spans(&self) -> Result<Spans<3>> {
        let p = self.rows()?;
        Ok(Spans([4 * Pass::new(&p, self.dtype).parts(3), 4 * p.c, 4 * p.c]))
    }

    /// Sums of chunks; slopes.
    fn backward_spans(&self) -> Result<Spans<2>> {
        let p = self.rows()?;
        Ok(Spans([4 * Pass::new(&p, self.dtype).parts(2), 8 * p.parts * p.c]))
    }

    /// Bytes of working space that [`forward`] needs.
    ///
    /// # Errors
    /// `Shape` when the rank of `x` is not 2 to 5 or there are no elements; `Param` when `parts` is 0 or does not divide `n`.
    pub fn forward_workspace(&self) -> Result<usize> {
        Ok(self.forward_spans()?.bytes())
    }

    /// Bytes of working space that [`inference`] needs.
    ///
    /// # Errors
    /// As [`Layout::forward_workspace`].
    pub fn inference_workspace(&self) -> Result<usize> {
        Ok(4 * self.rows()?.c)
    }

    /// Bytes of working space that [`backward`] needs.
    ///
    /// # Errors
    /// As [`Layout::forward_workspace`].
    pub fn backward_workspace(&self) -> Result<usize> {
        Ok(self.backward_spans()?.bytes())
    }
}

/// `y = relu((x - mean) · inv_std · gamma + beta + residual)` with the statistics of the batch; ReLU if `relu`. `eps` is added
/// to the variances.
///
/// # Safety
/// The addresses are those of contiguous arrays of the stated extents and types on `gpu`'s device, `workspace` is memory of
/// its length there, no array that is written overlaps another one (but `near` may be the running mean), and all of them stay
/// valid until the work given to the stream is done.
///
/// # Errors
/// As [`Layout::forward_workspace`]; `Shape` when statistics would come from a single value; `Param` when `eps` is below
/// 1.2e-38 or not finite, the momentum is not from 0 to 1, there are no tiles, an address is null or not a multiple of 16 (of
/// 256 for `workspace`), or `workspace` is too short; `Driver`.
pub unsafe fn forward(
    gpu: &Gpu,
    layout: &Layout,
    at: &Forward,
    eps: f32,
    relu: bool,
    workspace: Workspace,
) -> Result<()> {
    let (p, spans, dtype, n) = (layout.rows()?, layout.forward_spans()?, layout.dtype, layout.x.len());
    check_eps(eps)?;
    if p.rows == 1 {
        let want = "more than one value per channel and part to form statistics";
        return Err(Error::shape("batch_norm", "x", want, layout.x));
    }
    let f32s = DType::F32;
    let x = CHECK.input("x", at.x, n, dtype)?;
    let (gamma, beta) = (CHECK.input("gamma", at.gamma, p.c, f32s)?, CHECK.input("beta", at.beta, p.c, f32s)?);
    let residual = at.residual.map(|r| CHECK.input("residual", r, n, dtype)).transpose()?;
    let y = CHECK.output("y", at.y, n, dtype)?;
    let mean = CHECK.output("mean", at.mean, p.parts * p.c, f32s)?;
    let inv_std = CHECK.output("inv_std", at.inv_std, p.parts * p.c, f32s)?;
    let running = at.running.map(|r| {
        if !(0.0..=1.0).contains(&r.momentum) {
            return Err(Error::param("batch_norm", "momentum", r.momentum, "it must be from 0 to 1"));
        }
        let mean = CHECK.in_out("running mean", r.mean, p.c, f32s)?;
        Ok(([mean, CHECK.in_out("running variance", r.var, p.c, f32s)?], r.momentum))
    });
    let running = running.transpose()?;
    let signs = at.signs.map(|at| {
        if residual.is_none() || dtype != DType::BF16 || !p.c.is_multiple_of(8) {
            let rule = "signs are taken where there is a residual, of bf16 with a multiple of 8 channels";
            return Err(Error::param("batch_norm", "signs", format!("{at:#x}"), rule));
        }
        CHECK.output_bits("signs", at, n)
    });
    let signs = signs.transpose()?;
    let given = at.moments.map(|m| {
        let sums = CHECK.input("sums", m.sums, sums(&p, m.tiles)?, f32s)?;
        Ok::<_, Error>((sums, CHECK.input("near", m.near, p.c, f32s)?, m.tiles))
    });
    let given = given.transpose()?;
    let [chunks, batch_mean, batch_var] = spans.at(CHECK.workspace(workspace, spans.bytes())?);

    let (pass, targets) = (Pass::new(&p, dtype), [mean, inv_std, batch_mean, batch_var]);
    let merged = match given {
        Some((sums, near, tiles)) => Merged { sums, span: p.rows, shift: Some(near), tiles, targets, eps, running },
        None => {
            pass.sums(gpu, x, chunks)?;
            Merged { sums: chunks.written(), span: pass.span(), shift: None, tiles: 0, targets, eps, running }
        }
    };
    merged.launch(gpu, &p)?;
    pass.apply(gpu, x, (mean.written(), inv_std.written(), gamma, beta), residual, relu, (y, signs))
}

/// The signs of `y`, `elements` numbers of bf16, one bit for each, for [`crate::ops::conv3d::raw::dgrad_norm_relu`]: where
/// [`forward`] did not take them.
///
/// # Safety
/// As [`forward`].
///
/// # Errors
/// `Param` for an address that is null or not aligned, or a number of elements that is no multiple of eight; `Driver`.
pub unsafe fn signs(gpu: &Gpu, elements: usize, y: u64, signs: u64) -> Result<()> {
    if !elements.is_multiple_of(8) {
        return Err(Error::param("batch_norm", "elements", elements, "a byte has the signs of 8 elements"));
    }
    let (y, to) = (CHECK.input("y", y, elements, DType::BF16)?, CHECK.output_bits("signs", signs, elements)?);
    cuda::launch_signs(gpu, y, to)
}

/// As [`forward`], with a given mean and variance for each channel; [`Layout::parts`] is 1.
///
/// # Safety
/// As [`forward`].
///
/// # Errors
/// As [`forward`]; `Param` when the layout has several parts.
pub unsafe fn inference(
    gpu: &Gpu,
    layout: &Layout,
    at: &Inference,
    eps: f32,
    relu: bool,
    workspace: Workspace,
) -> Result<()> {
    let (p, dtype, n) = (layout.rows()?, layout.dtype, layout.x.len());
    check_eps(eps)?;
    if p.parts != 1 {
        return Err(Error::param("batch_norm", "parts", p.parts, "given statistics are those of one part"));
    }
    let [mean, var, gamma, beta] = [("mean", at.mean), ("var", at.var), ("gamma", at.gamma), ("beta", at.beta)]
        .map(|(arg, at)| CHECK.input(arg, at, p.c, DType::F32));
    let (mean, var, gamma, beta) = (mean?, var?, gamma?, beta?);
    let x = CHECK.input("x", at.x, n, dtype)?;
    let residual = at.residual.map(|r| CHECK.input("residual", r, n, dtype)).transpose()?;
    let y = CHECK.output("y", at.y, n, dtype)?;
    let inv_std = Out(CHECK.workspace(workspace, layout.inference_workspace()?)?, 4 * p.c);
    cuda::launch_inv_std(gpu, p.c, var, inv_std, eps)?;
    Pass::new(&p, dtype).apply(gpu, x, (mean, inv_std.written(), gamma, beta), residual, relu, (y, None))
}

/// The gradients by `x`, `gamma` and `beta` of [`forward`]. That by the residual is `dy` after ReLU's mask: [`Mask`].
///
/// # Safety
/// As [`forward`].
///
/// # Errors
/// As [`forward`].
pub unsafe fn backward(gpu: &Gpu, layout: &Layout, at: &Backward, workspace: Workspace) -> Result<()> {
    let (p, spans, dtype, n) = (layout.rows()?, layout.backward_spans()?, layout.dtype, layout.x.len());
    let f32s = DType::F32;
    let (x, dy) = (CHECK.input("x", at.x, n, dtype)?, CHECK.input("dy", at.dy, n, dtype)?);
    let mean = CHECK.input("mean", at.mean, p.parts * p.c, f32s)?;
    let inv_std = CHECK.input("inv_std", at.inv_std, p.parts * p.c, f32s)?;
    let (gamma, beta) = (CHECK.input("gamma", at.gamma, p.c, f32s)?, CHECK.input("beta", at.beta, p.c, f32s)?);
    let dx = CHECK.output("dx", at.dx, n, dtype)?;
    let (dgamma, dbeta) = (CHECK.output("dgamma", at.dgamma, p.c, f32s)?, CHECK.output("dbeta", at.dbeta, p.c, f32s)?);
    let [parts, slopes] = spans.at(CHECK.workspace(workspace, spans.bytes())?);
    let first = match at.mask {
        Mask::None => First::Sums { recomputes_mask: false, sums: parts },
        Mask::FromInput => First::Sums { recomputes_mask: true, sums: parts },
        Mask::FromResult { y, dz } => {
            let (y, masked) = (CHECK.input("y", y, n, dtype)?, CHECK.output("dz", dz, n, dtype)?);
            First::MaskedByResult { y, masked, sums: parts }
        }
        Mask::Applied { sums: taken, tiles } => {
            First::Taken { sums: CHECK.input("sums", taken, sums(&p, tiles)?, f32s)?, tiles }
        }
    };
    let numbers = (mean, inv_std, gamma, beta);
    let given =
        cuda::Backward { x, dy, numbers, of_batch: true, first, slopes, dx: Some(dx), dgamma, dbeta, of_all: None };
    Pass::new(&p, dtype).backward(gpu, &p, &given)
}

/// Number of sums of `tiles` tiles.
fn sums(p: &Rows, tiles: usize) -> Result<usize> {
    let len = (p.parts * 2 * p.c).checked_mul(tiles).filter(|len| *len > 0);
    len.ok_or_else(|| Error::param("batch_norm", "tiles", tiles, "sums are of at least one tile"))
}
