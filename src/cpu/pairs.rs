//! Whether products of bf16 pairs are faster than f32 multiply-adds on this processor.

use std::arch::x86_64::*;
use std::mem::transmute;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// From how many times the rate of f32 multiply-adds on pairs are used. Processors whose units for multiply-adds also take pairs
/// (AMD since Zen 4, Cooper Lake) have a ratio of 2; on those that execute the instruction more slowly (Intel since Sapphire Rapids) it
/// is 1 or less.
const PAYS: f64 = 1.3;

/// Whether they are, by a measurement of less than a millisecond, once per process.
///
/// # Safety
/// The machine has AVX-512 with bf16 products.
pub(super) unsafe fn pay() -> bool {
    static PAY: OnceLock<bool> = OnceLock::new();
    // SAFETY: the caller's promise.
    *PAY.get_or_init(|| unsafe { rate() > PAYS })
}

/// Products per second by pairs, relative to those by f32 multiply-adds.
///
/// # Safety
/// As [`pay`].
unsafe fn rate() -> f64 {
    /// Operations per chain: some microseconds.
    const ROUNDS: usize = 512;
    let mut best = [Duration::MAX; 2];
    for _ in 0..32 {
        // SAFETY: the caller's promise.
        let probes: [unsafe fn(usize) -> f32; 2] = [multiply_adds, pairs];
        for (best, probe) in best.iter_mut().zip(probes) {
            let start = Instant::now();
            // SAFETY: the caller's promise.
            std::hint::black_box(unsafe { probe(std::hint::black_box(ROUNDS)) });
            *best = start.elapsed().min(*best);
        }
    }
    2.0 * best[0].as_secs_f64() / best[1].as_secs_f64()
}

/// Independent sums: enough for two units with a latency of six.
const SUMS: usize = 16;

#[target_feature(enable = "avx512f")]
fn multiply_adds(rounds: usize) -> f32 {
    let factor = _mm512_set1_ps(0.5);
    let mut sums = [factor; SUMS];
    for _ in 0..rounds {
        sums.iter_mut().for_each(|sum| *sum = _mm512_fmadd_ps(factor, factor, *sum));
    }
    sums.iter().map(|sum| _mm512_cvtss_f32(*sum)).sum()
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn pairs(rounds: usize) -> f32 {
    let half = _mm512_set1_epi32(0x3f00_3f00);
    // SAFETY: both are registers of 512 bits.
    let factor: __m512bh = unsafe { transmute(half) };
    let mut sums = [_mm512_set1_ps(0.5); SUMS];
    for _ in 0..rounds {
        sums.iter_mut().for_each(|sum| *sum = _mm512_dpbf16_ps(*sum, factor, factor));
    }
    sums.iter().map(|sum| _mm512_cvtss_f32(*sum)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Isa;

    #[test]
    fn the_choice_is_not_close() {
        if Isa::Avx512Bf16.detected() {
            // SAFETY: the instructions were detected.
            let rate = unsafe { rate() };
            println!("pairs multiply {rate:.2} times as fast as f32");
            assert!((0.2..0.9 * PAYS).contains(&rate) || (1.1 * PAYS..3.0).contains(&rate), "{rate}");
        }
    }
}
