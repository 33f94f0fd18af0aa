//! The arithmetic of `wgmma`, for the sixteen rows of a warp. This is where simulations spend their time.
//!
//! A register of accumulators holds, in lane `4 r + c`, row `r` of eight and column `2 c` or `2 c + 1` of eight. Factors are
//! arranged so that products are formed in that order.

use super::regs::Regs;
use super::truncated;
use crate::ins::Slot;
use crate::lane::format::f16_value;
use crate::machine::Sums;

/// Eight columns of the second factor: for each k first the even columns, then the odd ones.
pub(super) type Columns = [[f32; 8]; 16];

/// Sixteen rows of the first factor.
pub(super) struct Rows {
    plain: [[f32; 16]; 16],
    /// For each k rows 0 to 7 and 8 to 15, each value four times.
    spread: [[[f32; 32]; 2]; 16],
}

impl Rows {
    pub fn new(plain: [[f32; 16]; 16]) -> Rows {
        let spread = std::array::from_fn(|k| std::array::from_fn(|h| std::array::from_fn(|l| plain[8 * h + l / 4][k])));
        Rows { plain, spread }
    }
}

/// The eight elements of a chunk.
#[inline(always)]
pub(super) fn chunk(row: &[u8; 16]) -> impl Iterator<Item = u16> + '_ {
    row.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]))
}

/// How an element is read.
pub(super) fn value(bf16: bool) -> fn(u16) -> f32 {
    if bf16 { |v| f32::from_bits(u32::from(v) << 16) } else { |v| f16_value(u64::from(v)) as f32 }
}

/// `D = A B`, plus `D` if `add`; `-A B` if `negative`.
pub(super) fn accumulate(
    regs: &mut Regs,
    d: &[Slot],
    add: bool,
    mut rows: Box<Rows>,
    columns: &[Columns],
    negative: bool,
    sums: Sums,
) {
    if negative {
        rows.plain.as_flattened_mut().iter_mut().for_each(|v| *v = -*v);
        *rows = Rows::new(rows.plain);
    }
    match sums {
        Sums::Nearest => nearest(regs, d, add, &rows, columns),
        Sums::Truncated => cut(regs, d, add, &rows, columns),
    }
}

fn nearest(regs: &mut Regs, d: &[Slot], add: bool, rows: &Rows, columns: &[Columns]) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f")]
        fn widest(regs: &mut Regs, d: &[Slot], add: bool, rows: &Rows, columns: &[Columns]) {
            body(regs, d, add, rows, columns);
        }
        #[target_feature(enable = "avx2,fma")]
        fn wide(regs: &mut Regs, d: &[Slot], add: bool, rows: &Rows, columns: &[Columns]) {
            body(regs, d, add, rows, columns);
        }
        if std::arch::is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has the instructions, as was just checked.
            return unsafe { widest(regs, d, add, rows, columns) };
        }
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            // SAFETY: the processor has the instructions, as was just checked.
            return unsafe { wide(regs, d, add, rows, columns) };
        }
    }
    body(regs, d, add, rows, columns);
}

/// One product after another is added, each sum rounded to the nearest f32; the products themselves are exact.
#[inline(always)]
fn body(regs: &mut Regs, d: &[Slot], add: bool, rows: &Rows, columns: &[Columns]) {
    for (quad, b) in d.chunks_exact(4).zip(columns) {
        for half in 0..2 {
            let [e, o] = [quad[2 * half].i as usize, quad[2 * half + 1].i as usize];
            let start = |r: &[u32; 32]| if add { r.map(f32::from_bits) } else { [0.0; 32] };
            let (mut even, mut odd) = (start(&regs.w[e]), start(&regs.w[o]));
            for (a, b) in rows.spread.iter().zip(b) {
                let a = &a[half];
                for l in 0..32 {
                    even[l] = a[l].mul_add(b[l % 4], even[l]);
                    odd[l] = a[l].mul_add(b[4 + l % 4], odd[l]);
                }
            }
            regs.w[e] = even.map(f32::to_bits);
            regs.w[o] = odd.map(f32::to_bits);
        }
    }
}

/// Sums that are cut off, as [`Sums::Truncated`] says.
fn cut(regs: &mut Regs, d: &[Slot], add: bool, rows: &Rows, columns: &[Columns]) {
    for (quad, b) in d.chunks_exact(4).zip(columns) {
        let plain = b.map(|v| std::array::from_fn(|c| v[c % 2 * 4 + c / 2]));
        let mut acc = [[0f32; 8]; 16];
        let place = |i: usize, l: usize| (l / 4 + i / 2 * 8, l % 4 * 2 + i % 2);
        if add {
            for (i, s) in quad.iter().enumerate() {
                for (l, v) in regs.w[s.i as usize].iter().enumerate() {
                    let (row, column) = place(i, l);
                    acc[row][column] = f32::from_bits(*v);
                }
            }
        }
        truncated::multiply(&mut acc, &rows.plain, &plain, 16, 8);
        for (i, s) in quad.iter().enumerate() {
            for (l, v) in regs.w[s.i as usize].iter_mut().enumerate() {
                let (row, column) = place(i, l);
                *v = acc[row][column].to_bits();
            }
        }
    }
}
