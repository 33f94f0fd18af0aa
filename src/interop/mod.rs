//! Arrays and streams of other crates.
//!
//! | yours | becomes | by |
//! |---|---|---|
//! | a slice | a tensor, copied | [`Tensor::from_f32`](crate::tensor::Tensor::from_f32); back by [`Tensor::f32`](crate::tensor::Tensor::f32), borrowed |
//! | an `ndarray` array (feature `ndarray`) | a tensor, copied | `Tensor::try_from(array.view())`; back by `Tensor::array`, borrowed |
//! | a `cudarc` stream | a [`Gpu`](crate::driver::Gpu) whose work goes there | `Gpu::on_cudarc`, shared |
//! | a `cudarc` slice | a tensor, not copied | `Tensor::share_cudarc`, shared |
//! | any `CUstream` | the same | `Gpu::on_stream`, borrowed, unsafe |
//! | any device pointer | a tensor, not copied | [`Tensor::borrow_gpu`](crate::tensor::Tensor::borrow_gpu), borrowed, unsafe |

#[cfg(feature = "cuda")]
mod cudarc;
#[cfg(feature = "ndarray")]
mod ndarray;

#[cfg(feature = "cuda")]
pub use cudarc::Stored;
