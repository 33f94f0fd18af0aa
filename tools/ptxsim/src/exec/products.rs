//! The arithmetic of `wgmma`, for the sixteen rows of a warp. This is where simulations spend their time.
//!
//! A register of accumulators holds, in lane `4 r + c`, row `r` of eight and column `2 c` or `2 c + 1` of eight. Factors are
//! arranged so that products are formed in that order.

use super::regs::Regs;
use super::truncated;
use crate::ins::Slot;
use crate::lane::format::f16_value;
use crate::machine::Sums;

/// As many lanes as are computed at once.
type Lanes = [f32; 16];

/// Eight columns of the second factor: for each k the even ones, four times, and the odd ones, four times.
pub(super) type Columns = [[Lanes; 2]; 16];

/// Sixteen rows of the first factor.
pub(super) struct Rows {
    plain: [[f32; 16]; 16],
    /// For each k rows 0 to 7 and 8 to 15, each value four times.
    spread: [[[Lanes; 2]; 2]; 16],
}

impl Rows {
    pub fn new(plain: [[f32; 16]; 16]) -> Rows {
        let lanes = |k: usize, from: usize| std::array::from_fn(|l| plain[from + l / 4][k]);
        let spread = std::array::from_fn(|k| std::array::from_fn(|h| [lanes(k, 8 * h), lanes(k, 8 * h + 4)]));
        Rows { plain, spread }
    }
}

/// The eight elements of a chunk.
#[inline(always)]
pub(super) fn chunk(row: &[u8; 16]) -> impl Iterator<Item = u16> + '_ {
    row.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]))
}

/// The value of an element.
#[inline(always)]
pub(super) fn value(bf16: bool, v: u16) -> f32 {
    if bf16 { f32::from_bits(u32::from(v) << 16) } else { f16_value(u64::from(v)) as f32 }
}

/// Arranges eight columns of sixteen elements.
pub(super) fn arrange(from: &[[u16; 16]; 8], bf16: bool, to: &mut Columns) {
    for (k, pair) in to.iter_mut().enumerate() {
        for (odd, lanes) in pair.iter_mut().enumerate() {
            let four: [f32; 4] = std::array::from_fn(|c| value(bf16, from[2 * c + odd][k]));
            lanes.as_chunks_mut().0.fill(four);
        }
    }
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

#[inline(always)]
fn add_products(sum: &mut Lanes, a: &Lanes, b: &Lanes) {
    for l in 0..16 {
        sum[l] = a[l].mul_add(b[l], sum[l]);
    }
}

/// The accumulators of a register.
#[inline(always)]
fn load(r: &[u32; 32], add: bool) -> [Lanes; 2] {
    if !add {
        return [[0.0; 16]; 2];
    }
    [std::array::from_fn(|l| f32::from_bits(r[l])), std::array::from_fn(|l| f32::from_bits(r[16 + l]))]
}

#[inline(always)]
fn store(r: &mut [u32; 32], sums: &[Lanes; 2]) {
    for (to, v) in r.iter_mut().zip(sums.as_flattened()) {
        *to = v.to_bits();
    }
}

/// One product after another is added, each sum rounded to the nearest f32; the products themselves are exact.
#[inline(always)]
fn body(regs: &mut Regs, d: &[Slot], add: bool, rows: &Rows, columns: &[Columns]) {
    for (quad, b) in d.chunks_exact(4).zip(columns) {
        for half in 0..2 {
            let [e, o] = [quad[2 * half].i as usize, quad[2 * half + 1].i as usize];
            let [mut e0, mut e1] = load(&regs.w[e], add);
            let [mut o0, mut o1] = load(&regs.w[o], add);
            for (a, [even, odd]) in rows.spread.iter().zip(b) {
                let [upper, lower] = &a[half];
                add_products(&mut e0, upper, even);
                add_products(&mut e1, lower, even);
                add_products(&mut o0, upper, odd);
                add_products(&mut o1, lower, odd);
            }
            store(&mut regs.w[e], &[e0, e1]);
            store(&mut regs.w[o], &[o0, o1]);
        }
    }
}

/// Sums that are cut off, as [`Sums::Truncated`] says.
fn cut(regs: &mut Regs, d: &[Slot], add: bool, rows: &Rows, columns: &[Columns]) {
    for (quad, b) in d.chunks_exact(4).zip(columns) {
        let plain = b.map(|v| std::array::from_fn(|c| v[c % 2][c / 2]));
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
