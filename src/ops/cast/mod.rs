//! Conversion between data types. The eager function is [`crate::tensor::Tensor::cast`].

mod grad;

pub use grad::cast;
