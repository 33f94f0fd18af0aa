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

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array, array};

    #[test]
    fn arrays_come_in_by_their_logical_order() {
        let a = array![[1.0f32, 2.0, 3.0], [4.0, 5.0, 6.0]];
        let x = Tensor::try_from(a.t()).unwrap();
        assert_eq!((x.dims(), x.f32().unwrap()), (&[3, 2][..], &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0][..]));
        assert_eq!(x.array().unwrap(), a.t().into_dyn());
        let e = Tensor::try_from(Array::<f32, _>::zeros(vec![1; 6]).view()).unwrap_err();
        assert_eq!(e.to_string(), "tensor: `array` must be of at most five axes, but it is 6");
        assert!(x.cast(crate::tensor::DType::BF16).unwrap().array().is_err());
    }
}
