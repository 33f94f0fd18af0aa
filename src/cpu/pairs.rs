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
    *PAY.get_or_init(|| pays(unsafe { times() }))
}

/// Whether pairs are worth it when as many operations take these times, of f32 multiply-adds and of pairs. An operation on pairs has
/// two products for each of the other's.
fn pays([multiply_adds, pairs]: [Duration; 2]) -> bool {
    2.0 * multiply_adds.as_secs_f64() > PAYS * pairs.as_secs_f64()
}

/// The least times of as many f32 multiply-adds and operations on pairs.
///
/// # Safety
/// As [`pay`].
unsafe fn times() -> [Duration; 2] {
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
    best
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
    fn twice_the_products_pay_and_as_many_do_not() {
        let of = |multiply_adds, pairs| pays([multiply_adds, pairs].map(Duration::from_micros));
        assert!(of(10, 10) && of(10, 12), "as many operations, also with a fifth of noise");
        assert!(!of(10, 20) && !of(12, 20) && !of(10, 40), "half as many operations, and fewer");
    }

    /// Both chains are executed, and the decision is made once.
    #[test]
    fn the_decision_does_not_change() {
        if Isa::Avx512Bf16.detected() {
            // SAFETY: the instructions were detected.
            let (times, first) = unsafe { (times(), pay()) };
            assert!(times.iter().all(|time| !time.is_zero() && *time < Duration::MAX), "{times:?}");
            // SAFETY: as above.
            assert!((0..3).all(|_| unsafe { pay() } == first));
        }
    }
}
