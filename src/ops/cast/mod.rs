//! The same numbers in another type. The eager function is [`crate::tensor::Tensor::cast`].

mod grad;

pub use grad::cast;
