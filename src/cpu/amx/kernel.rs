//! The assembly that multiplies: one or two tiles of rows by one or two tiles of columns, with one, two or three bf16
//! terms.
//!
//! A step's products of terms are ordered so that each shares an operand with the previous one: two terms cost 8 loads
//! for 12 tile products, three cost 14 for 24. Tiles of B are loaded with a non-temporal hint: a call reads each of
//! them once, but a tile of A mostly again, so the L1 cache is left to those.

use super::{DEPTH, Product, SIDE};
use std::arch::asm;

#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// # Safety
/// `Isa::Amx` is available; `depth` is even, at least 2 and at most [`DEPTH`].
pub(super) unsafe fn configure(depth: usize) {
    let mut c = Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
    // 0 to 3 are C, 4 and 5 are A, 6 and 7 are B.
    c.row_bytes[..8].fill(64);
    c.rows[..8].fill(SIDE as u8);
    c.row_bytes[4..6].fill(2 * depth.min(DEPTH) as u16);
    c.rows[6..8].fill(depth as u8 / 2);
    // SAFETY: the configuration is valid, and 64 bytes long.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const c, options(nostack, readonly)) }
}

/// Lines of assembly.
macro_rules! lines {
    ($($line:literal)+) => { concat!($($line, "\n"),+) };
}

/// Clears the sums.
macro_rules! zero {
    (2 2) => { lines!("tilezero tmm0" "tilezero tmm1" "tilezero tmm2" "tilezero tmm3") };
    (2 1) => { lines!("tilezero tmm0" "tilezero tmm2") };
    (1 2) => { lines!("tilezero tmm0" "tilezero tmm1") };
    (1 1) => { lines!("tilezero tmm0") };
}

/// Loads the sums, whose rows are 128 bytes long.
macro_rules! load {
    (2 2) => { concat!(load!(1 2), lines!("tileloadd tmm2, [{c} + {row} * 2 + 2048]" "tileloadd tmm3, [{c} + {row} * 2 + 2112]")) };
    (2 1) => { concat!(load!(1 1), lines!("tileloadd tmm2, [{c} + {row} * 2 + 2048]")) };
    (1 2) => { concat!(load!(1 1), lines!("tileloadd tmm1, [{c} + {row} * 2 + 64]")) };
    (1 1) => { lines!("tileloadd tmm0, [{c} + {row} * 2]") };
}

/// Stores the sums.
macro_rules! store {
    (2 2) => { concat!(store!(1 2), lines!("tilestored [{c} + {row} * 2 + 2048], tmm2" "tilestored [{c} + {row} * 2 + 2112], tmm3")) };
    (2 1) => { concat!(store!(1 1), lines!("tilestored [{c} + {row} * 2 + 2048], tmm2")) };
    (1 2) => { concat!(store!(1 1), lines!("tilestored [{c} + {row} * 2 + 64], tmm1")) };
    (1 1) => { lines!("tilestored [{c} + {row} * 2], tmm0") };
}

/// Loads tiles of both operands, and multiplies. This and the next two macros leave the addresses at the last tiles.
macro_rules! both {
    (2 2) => {
        lines!(
            "tileloaddt1 tmm6, [{tb} + {row}]"
            "tileloadd tmm4, [{ta} + {a_stride}]"
            "add {tb}, {b2}"
            "add {ta}, {a2}"
            "tdpbf16ps tmm0, tmm4, tmm6"
            "tileloaddt1 tmm7, [{tb} + {row}]"
            "tdpbf16ps tmm1, tmm4, tmm7"
            "tileloadd tmm5, [{ta} + {a_stride}]"
            "tdpbf16ps tmm2, tmm5, tmm6"
            "tdpbf16ps tmm3, tmm5, tmm7"
        )
    };
    (2 1) => { concat!(lines!("tileloaddt1 tmm6, [{tb} + {row}]"), next_a!(2 1)) };
    (1 2) => { concat!(lines!("tileloadd tmm4, [{ta} + {a_stride}]"), next_b!(1 2)) };
    (1 1) => { concat!(lines!("tileloaddt1 tmm6, [{tb} + {row}]"), next_a!(1 1)) };
}

/// Loads tiles of A, and multiplies with the tiles of B already loaded.
macro_rules! next_a {
    (2 2) => {
        lines!(
            "tileloadd tmm4, [{ta} + {a_stride}]"
            "tdpbf16ps tmm0, tmm4, tmm6"
            "tdpbf16ps tmm1, tmm4, tmm7"
            "add {ta}, {a2}"
            "tileloadd tmm5, [{ta} + {a_stride}]"
            "tdpbf16ps tmm2, tmm5, tmm6"
            "tdpbf16ps tmm3, tmm5, tmm7"
        )
    };
    (2 1) => {
        lines!(
            "tileloadd tmm4, [{ta} + {a_stride}]"
            "tdpbf16ps tmm0, tmm4, tmm6"
            "add {ta}, {a2}"
            "tileloadd tmm5, [{ta} + {a_stride}]"
            "tdpbf16ps tmm2, tmm5, tmm6"
        )
    };
    (1 2) => { lines!("tileloadd tmm4, [{ta} + {a_stride}]" "tdpbf16ps tmm0, tmm4, tmm6" "tdpbf16ps tmm1, tmm4, tmm7") };
    (1 1) => { lines!("tileloadd tmm4, [{ta} + {a_stride}]" "tdpbf16ps tmm0, tmm4, tmm6") };
}

/// Loads tiles of B, and multiplies with the tiles of A already loaded.
macro_rules! next_b {
    (2 2) => {
        lines!(
            "tileloaddt1 tmm6, [{tb} + {row}]"
            "tdpbf16ps tmm0, tmm4, tmm6"
            "tdpbf16ps tmm2, tmm5, tmm6"
            "add {tb}, {b2}"
            "tileloaddt1 tmm7, [{tb} + {row}]"
            "tdpbf16ps tmm1, tmm4, tmm7"
            "tdpbf16ps tmm3, tmm5, tmm7"
        )
    };
    (1 2) => {
        lines!(
            "tileloaddt1 tmm6, [{tb} + {row}]"
            "tdpbf16ps tmm0, tmm4, tmm6"
            "add {tb}, {b2}"
            "tileloaddt1 tmm7, [{tb} + {row}]"
            "tdpbf16ps tmm1, tmm4, tmm7"
        )
    };
    (2 1) => { lines!("tileloaddt1 tmm6, [{tb} + {row}]" "tdpbf16ps tmm0, tmm4, tmm6" "tdpbf16ps tmm2, tmm5, tmm6") };
    (1 1) => { lines!("tileloaddt1 tmm6, [{tb} + {row}]" "tdpbf16ps tmm0, tmm4, tmm6") };
}

/// One step: the products of all pairs of terms that count (in the comments, the term of A first). The additions move
/// the addresses from the last tiles of one term to the first tile of the next term to load.
macro_rules! step {
    (1, $m:tt $n:tt) => { concat!("/* {a_part} {b_part} {a2} {b2} */\n", both!($m $n)) };
    (2, $m:tt $n:tt) => {
        concat!(
            "add {tb}, {b_part}\n", // 0 1
            both!($m $n),
            "sub {tb}, {b2}\n sub {tb}, {b_part}\n", // 0 0
            next_b!($m $n),
            "sub {ta}, {a2}\n add {ta}, {a_part}\n", // 1 0
            next_a!($m $n)
        )
    };
    (3, $m:tt $n:tt) => {
        concat!(
            "lea {ta}, [{ta} + {a_part} * 2]\n", // 2 0
            both!($m $n),
            "sub {ta}, {a2}\n sub {ta}, {a_part}\n", // 1 0
            next_a!($m $n),
            "sub {tb}, {b2}\n add {tb}, {b_part}\n", // 1 1
            next_b!($m $n),
            "sub {ta}, {a2}\n sub {ta}, {a_part}\n", // 0 1
            next_a!($m $n),
            "sub {tb}, {b2}\n sub {tb}, {b_part}\n", // 0 0
            next_b!($m $n),
            "sub {tb}, {b2}\n lea {tb}, [{tb} + {b_part} * 2]\n", // 0 2
            next_b!($m $n)
        )
    };
}

macro_rules! kernel {
    ($name:ident, $parts:tt, $m:tt $n:tt) => {
        unsafe fn $name(p: &Product) {
            let steps = p.steps.as_ptr_range();
            let [a_second, b_second] = [if $m == 2 { p.a_second } else { 0 }, if $n == 2 { p.b_second } else { 0 }];
            // SAFETY: the caller vouches for all rows; the tile registers are used by this block alone.
            unsafe {
                asm!(
                    "test {ta}, {ta}",
                    "jnz 2f",
                    load!($m $n),
                    "jmp 3f",
                    "2:",
                    zero!($m $n),
                    "3:",
                    "cmp {s}, {end}",
                    "je 5f",
                    "4:",
                    "mov {ta}, [{s}]",
                    "mov {tb}, [{s} + 8]",
                    "add {ta}, {a}",
                    "add {tb}, {b}",
                    "add {s}, 16",
                    step!($parts, $m $n),
                    "cmp {s}, {end}",
                    "jne 4b",
                    "5:",
                    store!($m $n),
                    s = inout(reg) steps.start => _,
                    end = in(reg) steps.end,
                    a = in(reg) p.a,
                    a_stride = in(reg) p.a_stride,
                    a2 = in(reg) a_second,
                    a_part = in(reg) p.a_part,
                    b = in(reg) p.b,
                    b2 = in(reg) b_second,
                    b_part = in(reg) p.b_part,
                    row = in(reg) 64usize,
                    c = in(reg) p.c,
                    ta = inout(reg) usize::from(p.fresh) => _,
                    tb = out(reg) _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

/// All kernels for a given number of terms.
macro_rules! kernels {
    ($name:ident, $parts:tt) => {
        /// `c (+)= Σ a·b` with this number of terms.
        ///
        /// # Safety
        /// As for [`Tiles::multiply`](super::Tiles::multiply).
        #[inline]
        pub(super) unsafe fn $name<const M: usize, const N: usize>(p: &Product) {
            kernel!(two_by_two, $parts, 2 2);
            kernel!(two_by_one, $parts, 2 1);
            kernel!(one_by_two, $parts, 1 2);
            kernel!(one_by_one, $parts, 1 1);
            // SAFETY: as the caller vouches.
            unsafe {
                match (M, N) {
                    (2, 2) => two_by_two(p),
                    (2, 1) => two_by_one(p),
                    (1, 2) => one_by_two(p),
                    _ => one_by_one(p),
                }
            }
        }
    };
}

kernels!(whole, 1);
kernels!(in_two, 2);
kernels!(in_three, 3);
