//! Whether wgmma reads an operand that begins at any row of a tile which TMA wrote with the 128-byte swizzle. The kernels with
//! halos stand on it and NVIDIA's documents do not say it in so many words, so that every device is asked once.

use crate::driver::{Declared, Gpu, Kernel, Map, Module, Out, Spread, TensorMap, TensorWindow};
use crate::error::Result;

static FILE: Module = Module::new("conv3d_rows_sm90", include_str!("../../../../ptx/conv3d_rows_sm90.sm_90a.ptx"));
static ROWS: Kernel<(Map, Out)> = Kernel::new(&FILE, &["conv3d_rows_sm90_bf16"]);

pub(super) fn declared() -> Declared {
    ROWS.declared()
}

/// Rows of different numbers, and of the unit matrix behind them; each row has 64 columns.
const NUMBERS: usize = 80;
const COLUMNS: usize = 64;
/// Rows of a copy, threads of the block, and its shared memory.
const COPY: u32 = 16;
const THREADS: u32 = 128;
const SHARED: u32 = 19456;

/// The tensor that the kernel reads, as bits of bf16.
fn tensor() -> Vec<u16> {
    let numbers = (0..NUMBERS * COLUMNS).map(|i| 0x3f80 + i as u16);
    let unit = (0..COLUMNS * COLUMNS).map(|i| if i / COLUMNS == i % COLUMNS { 0x3f80 } else { 0 });
    numbers.chain(unit).collect()
}

/// How an operand lies in shared memory, in the words of a record.
pub const FORMS: [&str; 3] = ["A with k in rows", "B with k over rows", "A with k over rows"];

/// The answer of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begins {
    /// Wrong numbers in a product, for each of [`FORMS`] and each row (of eight) at which its operand begins.
    pub wrong: [[u32; 8]; 3],
}

impl Begins {
    /// Whether operands may begin at any row.
    #[must_use]
    pub fn anywhere(&self) -> bool {
        self.wrong.as_flattened().iter().all(|wrong| *wrong == 0)
    }
}

/// Lets the device multiply operands that begin at each of eight rows, and counts the wrong numbers. It waits for the result.
/// Convolutions ask once by themselves, and do without the kernels that need it where the answer is no.
///
/// # Errors
/// `Driver`, also where the device has no TMA.
pub fn ask(gpu: &Gpu) -> Result<Begins> {
    let values = tensor();
    let x = gpu.alloc(2 * values.len())?;
    gpu.driver().upload(x.ptr(), bytemuck::cast_slice(&values))?;
    let mut counts = vec![0_u32; FORMS.len() * 8 * THREADS as usize];
    let y = gpu.alloc(4 * counts.len())?;
    let map = gpu.tensor_map(&TensorMap {
        ptr: x.ptr(),
        extents: vec![COLUMNS as u64, (values.len() / COLUMNS) as u64],
        window: TensorWindow::Tiled(vec![COLUMNS as u32, COPY]),
    })?;
    ROWS.launch(gpu, 0, Spread::line(1, THREADS).with_shared(SHARED), (map, Out(y.ptr(), y.bytes())))?;
    gpu.driver().download(y.ptr(), bytemuck::cast_slice_mut(&mut counts))?;
    let mut wrong = counts.chunks(THREADS as usize).map(|threads| threads.iter().sum());
    Ok(Begins { wrong: FORMS.map(|_| [0; 8].map(|_| wrong.next().unwrap_or(u32::MAX))) })
}
