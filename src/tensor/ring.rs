//! A ring buffer of rows on a GPU: new rows replace the oldest. The index of the next row and the owners of the rows
//! are on the GPU too, so that pushing needs nothing from the host but the new owners.

use super::{DType, Integers, Tensor};
use crate::driver::{Declared, Gpu, In, InOut, Kernel, Memory, Module, Spread};
use crate::error::Result;

static MODULE: Module = Module::new("queue", include_str!("../../ptx/queue.sm_80.ptx"));

type Push = (In, In, In, InOut, InOut, u32, u32, u32);
/// Indexed by whether threads access single elements.
static PUSH: Kernel<Push> = Kernel::new(&MODULE, &["queue_push_wide_f32", "queue_push_single_f32"]);
static ADVANCE: Kernel<(InOut, u32, u32)> = Kernel::new(&MODULE, &["queue_advance_u32"]);

pub(super) fn kernels() -> Vec<Declared> {
    vec![PUSH.declared(), ADVANCE.declared()]
}

/// The state of a ring buffer on its GPU, apart from its rows.
#[derive(Debug)]
pub(crate) struct Ring {
    owners: Memory,
    at: Memory,
}

impl Ring {
    /// A ring buffer whose rows have these owners, and whose next row is written at index `at`.
    pub fn new(gpu: &Gpu, owners: &[u32], at: usize) -> Result<Ring> {
        Ok(Ring { owners: numbers(gpu, owners)?, at: numbers(gpu, &[at as u32])? })
    }

    /// The owners of the rows.
    pub fn owners(&self) -> &Memory {
        &self.owners
    }

    /// Writes the rows `fresh [n d]` of `owners` into `rows [K d]`, which are f32; of more than `K` only the last `K`.
    pub fn push(&self, rows: &mut Tensor, fresh: &Tensor, owners: &Integers) -> Result<()> {
        let (capacity, d, n) = (rows.dims()[0], rows.dims()[1], fresh.dims()[0]);
        if n == 0 {
            return Ok(());
        }
        let gpu = self.at.gpu();
        let (fresh, owners) = (fresh.cast(DType::F32)?, owners.to(&fresh.device())?);
        let which = usize::from(!d.is_multiple_of(4));
        let skip = n.saturating_sub(capacity);
        let args = (
            fresh.input(),
            owners.input().expect("they were just brought there"),
            In(self.at.ptr(), self.at.bytes()),
            rows.in_out()?,
            InOut(self.owners.ptr(), self.owners.bytes()),
            d as u32,
            capacity as u32,
            skip as u32,
        );
        PUSH.launch(gpu, which, Spread::line((n - skip) as u32, 256), args)?;
        let at = InOut(self.at.ptr(), self.at.bytes());
        ADVANCE.launch(gpu, 0, Spread::line(1, 32), (at, n as u32, capacity as u32))
    }
}

fn numbers(gpu: &Gpu, v: &[u32]) -> Result<Memory> {
    let memory = gpu.alloc(4 * v.len())?;
    if !v.is_empty() {
        gpu.driver().upload(memory.ptr(), bytemuck::cast_slice(v))?;
    }
    Ok(memory)
}
