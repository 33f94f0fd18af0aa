//! The momentum update of a key encoder (MoCo): `key ← m·key + (1 - m)·query`, in place, in f32.
//!
//! ```
//! use tubelet::{Tensor, ops::ema};
//! let (mut key, query) = (Tensor::zeros([2]), Tensor::full([2], 1.0));
//! ema::update(&mut key, &query, 0.75)?;
//! assert_eq!(key.load()?[..], [0.25, 0.25]);
//! # Ok::<(), tubelet::Error>(())
//! ```

#[cfg(any(test, feature = "testing"))]
pub mod cases;
mod cpu;
pub(super) mod cuda;
#[cfg(any(test, feature = "testing"))]
pub mod reference;

use crate::cpu::traffic::{self, Work};
use crate::error::{Error, Result};
use crate::ops::sgd;
use crate::tensor::{DType, Place, Tensor};

/// `key ← m·key + (1 - m)·query` for two tensors of the same shape. For `m` in `[0, 1]` every element stays between its
/// two sources (up to rounding); `m = 1` leaves `key` unchanged and `m = 0` copies `query`.
///
/// # Errors
/// `Shape` when the shapes differ; `DType` when one is not f32; `Param` when `m` is outside `[0, 1]`; `Device` when
/// they are on different devices.
pub fn update(key: &mut Tensor, query: &Tensor, m: f32) -> Result<()> {
    if !(0.0..=1.0).contains(&m) {
        return Err(Error::param("ema", "m", m, "it must be from 0 to 1"));
    }
    blend(key, query, m, 1.0 - m)
}

/// [`update`] of many pairs of a key and its query; on a GPU, one launch per 512 pairs.
///
/// # Errors
/// As [`update`], before anything is written.
pub fn update_all<'a>(pairs: impl Iterator<Item = (&'a mut Tensor, &'a Tensor)>, m: f32) -> Result<()> {
    let step = |(key, query)| sgd::Update {
        w: sgd::Weights::Fixed(query),
        update: None,
        key: Some(key),
        half: None,
        key_half: None,
    };
    sgd::update_all(&sgd::Sgd::default(), sgd::Rate::Value(0.0), m, None, &mut pairs.map(step).collect::<Vec<_>>())
}

/// `key ← keep·key + fresh·query`, with the same conditions.
pub(in crate::ops) fn blend(key: &mut Tensor, query: &Tensor, keep: f32, fresh: f32) -> Result<()> {
    if query.shape() != key.shape() {
        return Err(Error::shape("ema", "query", key.shape(), query.shape()));
    }
    key.expect("ema", "key", DType::F32)?;
    query.expect("ema", "query", DType::F32)?;
    let on_gpu = match key.place("ema", &[("query", query)])? {
        Place::Cpu => None,
        Place::Gpu(gpu) => Some(gpu.clone()),
    };
    match on_gpu {
        None => {
            let _pass = traffic::pass("ema", || Work::wide(2 * query.shape().len(), query.shape().len()));
            cpu::blend(key.f32_mut()?, query.f32()?, keep, fresh);
        }
        Some(gpu) => cuda::blend(&gpu, key, query, keep, fresh)?,
    }
    Ok(())
}
