//! The data types of tensors, as the AMX code reads and writes them.

use crate::cpu::amx;
use crate::ops::batch_norm::lines::Line;
use crate::ops::lanes::Stored;
use half::bf16;
use std::ops::Range;

/// Positions, and channels, of a block of products.
pub(super) const BLOCK: usize = 32;

/// A data type in which tensors are stored.
pub(in crate::ops::conv3d) trait Number: Stored {
    /// Whether tiles can load it directly.
    const STORED: bool;

    /// Splits each number into `planes` bf16 terms, stored in planes `pitch` apart.
    ///
    /// # Safety
    /// `Isa::Amx` is available.
    unsafe fn spread(from: &[Self], to: &mut [bf16], pitch: usize, planes: usize);

    /// [`Number::spread`] of the result of normalisation and ReLU on the numbers, which are a line or its beginning.
    ///
    /// # Safety
    /// `Isa::Amx` is available.
    unsafe fn spread_after(line: &Line, from: &[Self], to: &mut [bf16], pitch: usize, planes: usize);

    /// Writes the first `columns` sums of each row (rows are [`BLOCK`] wide) to `to[row] + channel`, unless that
    /// pointer is null.
    ///
    /// # Safety
    /// `Isa::Amx` is available; there are as many rows as entries in `to`, each of them null or writable for `columns`.
    unsafe fn store(sums: *const f32, to: &[*mut Self], channel: usize, columns: usize);
}

impl Number for bf16 {
    const STORED: bool = true;

    #[inline]
    unsafe fn spread(from: &[bf16], to: &mut [bf16], _: usize, _: usize) {
        to[..from.len()].copy_from_slice(from);
    }

    #[inline]
    unsafe fn spread_after(line: &Line, from: &[bf16], to: &mut [bf16], _: usize, _: usize) {
        let (len, numbers) = (from.len(), line.numbers(from.len()));
        // SAFETY: as the caller vouches; all are as long as `from`.
        unsafe { x86::norm_relu(numbers, from.as_ptr(), to[..len].as_mut_ptr(), len) }
    }

    unsafe fn store(sums: *const f32, to: &[*mut bf16], channel: usize, columns: usize) {
        // SAFETY: as the caller vouches.
        unsafe { x86::store_bf16(sums, to, channel, columns) }
    }
}

impl Number for f32 {
    const STORED: bool = false;

    unsafe fn spread(from: &[f32], to: &mut [bf16], pitch: usize, planes: usize) {
        let len = from.len();
        // SAFETY: as the caller vouches.
        unsafe {
            match planes {
                1 => amx::split(from, [&mut to[..len]]),
                2 => {
                    let (p0, p1) = to.split_at_mut(pitch);
                    amx::split(from, [&mut p0[..len], &mut p1[..len]]);
                }
                _ => {
                    let (p0, rest) = to.split_at_mut(pitch);
                    let (p1, p2) = rest.split_at_mut(pitch);
                    amx::split(from, [&mut p0[..len], &mut p1[..len], &mut p2[..len]]);
                }
            }
        }
    }

    unsafe fn spread_after(line: &Line, from: &[f32], to: &mut [bf16], pitch: usize, planes: usize) {
        let (len, numbers) = (from.len(), line.numbers(from.len()));
        let to = to[..(planes - 1) * pitch + len].as_mut_ptr();
        // SAFETY: as the caller vouches; all are as long as `from`.
        unsafe {
            match planes {
                1 => x86::norm_relu_split::<1>(numbers, from.as_ptr(), to, pitch, len),
                2 => x86::norm_relu_split::<2>(numbers, from.as_ptr(), to, pitch, len),
                _ => x86::norm_relu_split::<3>(numbers, from.as_ptr(), to, pitch, len),
            }
        }
    }

    unsafe fn store(sums: *const f32, to: &[*mut f32], channel: usize, columns: usize) {
        // SAFETY: as the caller vouches.
        unsafe { x86::store_f32(sums, to, channel, columns) }
    }
}

/// Copies `count` pixels of `c` numbers, fewer than 32, to a distance of `pitch`, with zeros between.
///
/// # Safety
/// `Isa::Amx` is available; both arrays have as many pixels.
pub(super) unsafe fn widen_pixels(from: &[bf16], c: usize, to: &mut [bf16], pitch: usize, count: usize) {
    debug_assert!(from.len() >= count * c && to.len() >= count * pitch);
    // SAFETY: as the caller vouches.
    unsafe { x86::widen_pixels(from.as_ptr(), c, to.as_mut_ptr(), pitch, count) }
}

/// Builds a tile of B whose columns are rows of numbers in memory: `rows` of them, of which the numbers from
/// `numbers.start` up to `numbers.end` are read; the others are 0.
///
/// # Safety
/// `Isa::Amx` is available; those numbers of `rows ≤ 16` rows, `step` apart, are readable; `to` has `depth·16` numbers.
pub(super) unsafe fn transpose(
    from: *const bf16,
    step: usize,
    rows: usize,
    numbers: Range<usize>,
    to: &mut [bf16],
    depth: usize,
) {
    debug_assert!(to.len() >= depth * 16 && rows <= 16 && numbers.end <= BLOCK);
    // SAFETY: as the caller vouches.
    unsafe { x86::transpose(from, step, rows, numbers, to.as_mut_ptr(), depth / 2) }
}

/// Interleaves two rows of up to 32 numbers in memory (zeros for a null pointer) into a row of each of two tiles of B.
///
/// # Safety
/// `Isa::Amx` is available; `columns` of each row are readable, and `to` has space for 32 numbers in each of two
/// places, `second` apart.
pub(super) unsafe fn pair(rows: [*const bf16; 2], columns: usize, to: *mut bf16, second: usize) {
    // SAFETY: as the caller vouches.
    unsafe { x86::pair(rows, columns, to, second) }
}

mod x86 {
    use super::BLOCK;
    use crate::cpu::amx::x86::{plane, wide};
    use crate::ops::lanes::prefetch_ahead;
    use half::bf16;
    use std::arch::x86_64::*;
    use std::ops::Range;

    fn first(n: usize) -> u32 {
        if n >= 32 { u32::MAX } else { (1 << n) - 1 }
    }

    /// `max(0, (x - mean) · scale + shift)`, rounded as in the vector code; NaN is propagated.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn normalised(x: __m512, [mean, scale, shift]: [__m512; 3]) -> __m512 {
        let z = _mm512_add_ps(_mm512_mul_ps(_mm512_sub_ps(x, mean), scale), shift);
        _mm512_max_ps(_mm512_setzero_ps(), z)
    }

    /// Subnormal results may become 0, which is also how tiles read them.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    pub(super) unsafe fn norm_relu(line: [*const f32; 3], from: *const bf16, to: *mut bf16, len: usize) {
        for at in (0..len).step_by(32) {
            let mask = first(len - at);
            prefetch_ahead(from.wrapping_add(at));
            let half = |at: usize, mask: u16| {
                // SAFETY: the caller vouches for the numbers under the mask.
                unsafe {
                    let numbers = line.map(|p| _mm512_maskz_loadu_ps(mask, p.wrapping_add(at)));
                    normalised(wide(_mm256_maskz_loadu_epi16(mask, from.wrapping_add(at).cast())), numbers)
                }
            };
            let (low, high) = (half(at, mask as u16), half(at + 16, (mask >> 16) as u16));
            // SAFETY: as above; both are 32 numbers of 16 bits.
            unsafe {
                let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
                _mm512_mask_storeu_epi16(to.add(at).cast(), mask, both);
            }
        }
    }

    /// In `P` bf16 terms, `pitch` apart.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    pub(super) unsafe fn norm_relu_split<const P: usize>(
        line: [*const f32; 3],
        from: *const f32,
        to: *mut bf16,
        pitch: usize,
        len: usize,
    ) {
        for at in (0..len).step_by(16) {
            let mask = first(len - at) as u16;
            prefetch_ahead(from.wrapping_add(at));
            // SAFETY: the caller vouches for the numbers under the mask.
            unsafe {
                let numbers = line.map(|p| _mm512_maskz_loadu_ps(mask, p.add(at)));
                let mut rest = normalised(_mm512_maskz_loadu_ps(mask, from.add(at)), numbers);
                for part in 0..P {
                    let (rounded, left) = plane(rest);
                    _mm256_mask_storeu_epi16(to.add(part * pitch + at).cast(), mask, rounded);
                    rest = left;
                }
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    pub(super) unsafe fn store_bf16(sums: *const f32, to: &[*mut bf16], channel: usize, columns: usize) {
        let mask = first(columns);
        for (i, &to) in to.iter().enumerate() {
            if !to.is_null() {
                // SAFETY: the caller vouches for the row of sums, and for the place under the mask.
                unsafe {
                    let (low, high) = (_mm512_load_ps(sums.add(i * BLOCK)), _mm512_load_ps(sums.add(i * BLOCK + 16)));
                    let row: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
                    _mm512_mask_storeu_epi16(to.add(channel).cast(), mask, row);
                }
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    pub(super) unsafe fn store_f32(sums: *const f32, to: &[*mut f32], channel: usize, columns: usize) {
        let mask = first(columns);
        for (i, &to) in to.iter().enumerate() {
            if !to.is_null() {
                // SAFETY: as above.
                unsafe {
                    let (row, to) = (sums.add(i * BLOCK), to.add(channel));
                    _mm512_mask_storeu_ps(to, mask as u16, _mm512_load_ps(row));
                    _mm512_mask_storeu_ps(to.wrapping_add(16), (mask >> 16) as u16, _mm512_load_ps(row.add(16)));
                }
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    pub(super) unsafe fn widen_pixels(from: *const bf16, c: usize, to: *mut bf16, pitch: usize, count: usize) {
        // As many pixels at once as fit into a vector: lane `i` takes number `source[i]` of the input.
        let at_once = (32 / pitch).max(1);
        let mut source = [0u16; 32];
        let mut kept = 0u32;
        for p in 0..at_once {
            for ch in 0..c {
                source[p * pitch + ch] = (p * c + ch) as u16;
                kept |= 1 << (p * pitch + ch);
            }
        }
        // SAFETY: 32 numbers of 16 bits.
        let source = unsafe { _mm512_loadu_epi16(source.as_ptr().cast()) };
        for p in (0..count).step_by(at_once) {
            let pixels = at_once.min(count - p);
            // SAFETY: the masks cover complete pixels that the caller vouches for.
            unsafe {
                let v = _mm512_maskz_loadu_epi16(first(pixels * c), from.add(p * c).cast());
                let v = _mm512_maskz_permutexvar_epi16(kept, source, v);
                _mm512_mask_storeu_epi16(to.add(p * pitch).cast(), first(pixels * pitch), v);
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    pub(super) unsafe fn transpose(
        from: *const bf16,
        step: usize,
        rows: usize,
        numbers: Range<usize>,
        to: *mut bf16,
        depth: usize,
    ) {
        // A 16x16 transpose of 32-bit elements (pairs of numbers), in steps of powers of two.
        let mut a = [_mm512_setzero_si512(); 16];
        let mask = first(numbers.end) & !first(numbers.start);
        for (i, a) in a.iter_mut().enumerate().take(rows) {
            // SAFETY: the caller vouches for the numbers under the mask.
            *a = unsafe { _mm512_maskz_loadu_epi16(mask, from.wrapping_add(i * step).cast()) };
        }
        let mut b = a;
        for i in (0..16).step_by(2) {
            b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
            b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
        }
        for i in (0..16).step_by(4) {
            a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
            a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
            a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
            a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
        }
        // Now lane `l` of `a[4g + j]` holds element `4l + j` of rows `4g..4g + 4`.
        for j in 0..4 {
            let low = [_mm512_shuffle_i32x4::<0x44>(a[j], a[4 + j]), _mm512_shuffle_i32x4::<0x44>(a[8 + j], a[12 + j])];
            let high =
                [_mm512_shuffle_i32x4::<0xee>(a[j], a[4 + j]), _mm512_shuffle_i32x4::<0xee>(a[8 + j], a[12 + j])];
            b[j] = _mm512_shuffle_i32x4::<0x88>(low[0], low[1]);
            b[4 + j] = _mm512_shuffle_i32x4::<0xdd>(low[0], low[1]);
            b[8 + j] = _mm512_shuffle_i32x4::<0x88>(high[0], high[1]);
            b[12 + j] = _mm512_shuffle_i32x4::<0xdd>(high[0], high[1]);
        }
        for (i, row) in b.iter().enumerate().take(depth) {
            // SAFETY: the caller vouches for `depth` rows of 32 numbers.
            unsafe { _mm512_storeu_si512(to.add(i * BLOCK).cast(), *row) };
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    pub(super) unsafe fn pair(rows: [*const bf16; 2], columns: usize, to: *mut bf16, second: usize) {
        const LOW: [u16; 32] = {
            let mut of = [0; 32];
            let mut i = 0;
            while i < 32 {
                of[i] = (i / 2 + i % 2 * 32) as u16;
                i += 1;
            }
            of
        };
        let mask = first(columns);
        let read = |row: *const bf16| match row.is_null() {
            true => _mm512_setzero_si512(),
            // SAFETY: the caller vouches for the numbers under the mask.
            false => unsafe { _mm512_maskz_loadu_epi16(mask, row.cast()) },
        };
        let [a, b] = rows.map(read);
        // SAFETY: the caller vouches for both places; the index array has 32 numbers of 16 bits.
        unsafe {
            let low = _mm512_loadu_si512(LOW.as_ptr().cast());
            let high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
            _mm512_storeu_si512(to.cast(), _mm512_permutex2var_epi16(a, low, b));
            _mm512_storeu_si512(to.add(second).cast(), _mm512_permutex2var_epi16(a, high, b));
        }
    }
}
