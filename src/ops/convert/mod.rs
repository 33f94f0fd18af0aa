//! Conversions: the same values in another data type, the same elements in another shape. The eager functions
//! are [`Tensor::cast`](crate::tensor::Tensor::cast) and [`Tensor::reshape`](crate::tensor::Tensor::reshape).
//!
//! ```
//! use tubelet::{DType, Tape, Tensor, ops};
//! let t = Tape::new();
//! let x = t.leaf(Tensor::full([2, 3, 4], 1.0 / 3.0));
//! let y = ops::reshape(&t, &x, [6, 4].into())?;
//! assert_eq!(y.value().dims(), [6, 4]);
//! assert_eq!(ops::cast(&t, &y, DType::BF16)?.value().load()?[0], 0.333_984_38); // 8 significant bits
//! # Ok::<(), tubelet::Error>(())
//! ```

mod grad;

pub(crate) use grad::converted;
pub use grad::{cast, reshape};

use crate::error::Result;
use crate::ops::sgd;
use crate::tensor::{DType, Device, Tensor};

/// f32 tensors rounded to bf16; on a GPU one launch for up to 512 of them.
///
/// # Errors
/// `DType` when one is not f32; `Device` when they are on different devices; `OutOfMemory`; on a GPU also `Driver`.
pub(crate) fn round_all(all: &[&Tensor]) -> Result<Vec<Tensor>> {
    let Some(Device::Cuda(gpu)) = all.first().map(|t| t.device()) else {
        return all.iter().map(|t| t.cast(DType::BF16)).collect();
    };
    let mut halves: Vec<Tensor> =
        all.iter().map(|t| Tensor::on_gpu(&gpu, DType::BF16, t.shape())).collect::<Result<_>>()?;
    // An update that changes nothing but the copies.
    let step = |(w, half)| sgd::Update {
        w: sgd::Weights::Fixed(w),
        update: None,
        key: None,
        half: Some(half),
        key_half: None,
    };
    let mut steps: Vec<_> = all.iter().copied().zip(&mut halves).map(step).collect();
    sgd::update_all(&sgd::Sgd::default(), sgd::Rate::Value(0.0), 1.0, None, &mut steps)?;
    drop(steps);
    Ok(halves)
}
