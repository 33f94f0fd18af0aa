//! `ndarray`: arrays in, borrowed views out.

use crate::error::{Error, Result};
use crate::shape::Shape;
use crate::tensor::Tensor;
use ndarray::{ArrayView, ArrayViewD, Dimension, IxDyn};

impl<D: Dimension> TryFrom<ArrayView<'_, f32, D>> for Tensor {
    type Error = Error;

    /// The elements in logical order, whatever the strides, copied.
    ///
    /// # Errors
    /// `Shape` for more than five axes.
    fn try_from(array: ArrayView<'_, f32, D>) -> Result<Tensor> {
        if array.ndim() > Shape::MAX_RANK {
            return Err(Error::shape("tensor", "array", "of at most five axes", array.ndim()));
        }
        let shape = Shape::new(array.shape());
        match array.as_slice() {
            Some(elements) => Tensor::from_f32(shape, elements),
            None => Tensor::from_f32(shape, &array.iter().copied().collect::<Vec<f32>>()),
        }
    }
}

impl Tensor {
    /// The elements as a view of `ndarray`, borrowed.
    ///
    /// # Errors
    /// `DType` when they are not `f32`, `Device` when they are not in main memory; [`Tensor::to_cpu`] and
    /// [`Tensor::cast`] bring them there.
    pub fn array(&self) -> Result<ArrayViewD<'_, f32>> {
        let elements = self.f32()?;
        Ok(ArrayViewD::from_shape(IxDyn(self.dims()), elements)
            .expect("a tensor is contiguous and has its shape's length"))
    }
}
