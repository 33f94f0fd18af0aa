//! The same elements in another shape. The eager function is [`crate::tensor::Tensor::reshape`].

mod grad;

pub use grad::reshape;
