//! Conversions on the tape. A gradient is converted back.

use crate::error::Result;
use crate::shape::Shape;
use crate::tape::{Op, Tape, Var};
use crate::tensor::{DType, Tensor};

struct Cast {
    from: DType,
}

impl Op for Cast {
    fn name(&self) -> &'static str {
        "cast"
    }

    fn backward(&self, t: &Tape, dy: &Var, _: &[bool]) -> Result<Vec<Option<Var>>> {
        Ok(vec![Some(cast(t, dy, self.from)?)])
    }
}

/// The same values in another data type, rounded to nearest even; the gradient is rounded back to the type of `a`.
///
/// # Errors
/// As [`crate::tensor::Tensor::cast`].
pub fn cast(t: &Tape, a: &Var, dtype: DType) -> Result<Var> {
    let from = a.value().dtype();
    if from == dtype {
        return Ok(a.clone());
    }
    Ok(converted(t, a, a.value().cast(dtype)?))
}

/// Records `y`, which is `a` in another data type.
pub(crate) fn converted(t: &Tape, a: &Var, y: Tensor) -> Var {
    let from = a.value().dtype();
    t.record(y, &[a], || Cast { from })
}

struct Reshape {
    from: Shape,
}

impl Op for Reshape {
    fn name(&self) -> &'static str {
        "reshape"
    }

    fn backward(&self, t: &Tape, dy: &Var, _: &[bool]) -> Result<Vec<Option<Var>>> {
        Ok(vec![Some(reshape(t, dy, self.from)?)])
    }
}

/// `a` in another shape with the same number of elements; the memory is shared.
///
/// # Errors
/// `Shape` when the number of elements differs.
pub fn reshape(t: &Tape, a: &Var, shape: Shape) -> Result<Var> {
    let y = a.value().reshape(shape)?;
    Ok(t.record(y, &[a], || Reshape { from: a.shape() }))
}
