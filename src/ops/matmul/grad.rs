//! Matrix products on the tape: their gradients are matrix products.

use super::forward_as;
use crate::error::Result;
use crate::tape::{Op, Tape, Var};
use crate::tensor::DType;

struct MatMul {
    a: Var,
    b: Var,
    ta: bool,
    tb: bool,
}

impl Op for MatMul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn backward(&self, t: &Tape, dy: &Var, needs: &[bool]) -> Result<Vec<Option<Var>>> {
        let MatMul { a, b, ta, tb } = self;
        let (ta, tb) = (*ta, *tb);
        let (da_type, db_type) = (a.value().dtype(), b.value().dtype());
        // With A = op(a), B = op(b): dA = dy·Bᵀ and dB = Aᵀ·dy, transposed where the argument was.
        let da = || if ta { matmul_as(t, da_type, b, dy, tb, true) } else { matmul_as(t, da_type, dy, b, false, !tb) };
        let db = || if tb { matmul_as(t, db_type, dy, a, true, ta) } else { matmul_as(t, db_type, a, dy, !ta, false) };
        Ok(vec![needs[0].then(da).transpose()?, needs[1].then(db).transpose()?])
    }
}

/// `op(a)[m k] · op(b)[k n]`; `ta`, `tb` say which of them is stored transposed.
///
/// # Errors
/// `Shape`; see [`super::forward`].
pub fn matmul(t: &Tape, a: &Var, b: &Var, ta: bool, tb: bool) -> Result<Var> {
    matmul_as(t, a.value().dtype(), a, b, ta, tb)
}

/// [`matmul`] with the result rounded to `dtype`.
pub(crate) fn matmul_as(t: &Tape, dtype: DType, a: &Var, b: &Var, ta: bool, tb: bool) -> Result<Var> {
    let y = forward_as(dtype, a.value(), b.value(), ta, tb)?;
    Ok(t.record(y, &[a, b], || MatMul { a: a.clone(), b: b.clone(), ta, tb }))
}
