//! Peaks of this machine's arithmetic units and memory, measured in the process of the benchmark.

use crate::clock::Clock;
use rayon::prelude::*;
use std::hint::black_box;
use tubelet::cpu::Isa;

/// Operations and bytes per second of all threads together, the best of several measurements.
#[derive(Clone, Copy)]
pub struct Peaks {
    /// f32 multiply-adds, each counted twice.
    pub f32: f64,
    /// bf16 matrix products accumulated in f32, likewise; that of f32 if the machine has no unit for them.
    pub bf16: f64,
    /// Bytes read and written by a copy that exceeds all caches.
    pub copy: f64,
}

impl Peaks {
    /// Measures all three, in about a second; per second of `clock`.
    pub fn probe(clock: Clock) -> Self {
        let f32 = best(clock, 10, 4_000_000, f32_operations);
        let bf16 = match Isa::best() {
            Isa::Amx => best(clock, 10, 400_000, tiles::multiply),
            Isa::Avx512Bf16 => best(clock, 10, 4_000_000, |rounds| 2 * rounds * pairs(rounds)),
            _ => f32,
        };
        Peaks { f32, bf16, copy: Buffers::new(128 << 20).copy(clock, 5) }
    }
}

/// Does `rounds` rounds of multiply-adds; returns the operations.
pub fn f32_operations(rounds: usize) -> usize {
    2 * rounds * multiply_adds(rounds)
}

/// Operations per second, the best of `runs`; `probe` takes a number of rounds and returns the operations it did. A run
/// should take milliseconds: threads that start on the same core are not moved apart sooner.
pub fn best(clock: Clock, runs: u32, rounds: usize, probe: fn(usize) -> usize) -> f64 {
    let run = || {
        let start = clock.seconds();
        let done: usize = rayon::broadcast(|_| probe(black_box(rounds))).iter().sum();
        done as f64 / (clock.seconds() - start)
    };
    (0..runs).map(|_| run()).fold(0.0, f64::max)
}

/// Memory to copy from and to.
pub struct Buffers {
    from: Vec<u8>,
    to: Vec<u8>,
}

impl Buffers {
    /// So many bytes each.
    pub fn new(bytes: usize) -> Self {
        let from = vec![1u8; bytes];
        Buffers { to: from.clone(), from }
    }

    /// Bytes read and written per second, the best of `runs`.
    pub fn copy(&mut self, clock: Clock, runs: u32) -> f64 {
        let mut run = || {
            let start = clock.seconds();
            let chunks = self.to.par_chunks_mut(1 << 20).zip(self.from.par_chunks(1 << 20));
            chunks.for_each(|(to, from)| to.copy_from_slice(from));
            black_box(&mut self.to);
            (2 * self.from.len()) as f64 / (clock.seconds() - start)
        };
        (0..runs).map(|_| run()).fold(0.0, f64::max)
    }
}

/// Independent sums: enough to fill two pipelines of latency four.
const SUMS: usize = 16;

/// `rounds` fused multiply-adds in each of [`SUMS`] registers.
#[cfg(target_arch = "x86_64")]
mod chains {
    use super::SUMS;
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f")]
    pub fn avx512(rounds: usize) -> f32 {
        let factor = _mm512_set1_ps(0.999);
        let mut sums = [factor; SUMS];
        for _ in 0..rounds {
            sums.iter_mut().for_each(|sum| *sum = _mm512_fmadd_ps(*sum, factor, factor));
        }
        sums.iter().map(|&sum| _mm512_reduce_add_ps(sum)).sum()
    }

    /// As many products of pairs.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub fn pairs(rounds: usize) -> f32 {
        // SAFETY: both are registers of 512 bits; all numbers are 0.5.
        let factor: __m512bh = unsafe { std::mem::transmute(_mm512_set1_epi16(0x3f00)) };
        let mut sums = [_mm512_set1_ps(0.5); SUMS];
        for _ in 0..rounds {
            sums.iter_mut().for_each(|sum| *sum = _mm512_dpbf16_ps(*sum, factor, factor));
        }
        sums.iter().map(|&sum| _mm512_reduce_add_ps(sum)).sum()
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn avx2(rounds: usize) -> f32 {
        let factor = _mm256_set1_ps(0.999);
        let mut sums = [factor; SUMS];
        for _ in 0..rounds {
            sums.iter_mut().for_each(|sum| *sum = _mm256_fmadd_ps(*sum, factor, factor));
        }
        sums.iter().map(|&sum| _mm256_cvtss_f32(sum)).sum()
    }
}

/// Runs `rounds` of multiply-adds; returns the number of multiply-adds per round.
fn multiply_adds(rounds: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        if Isa::best() >= Isa::Avx512 {
            // SAFETY: the process may use these instructions.
            black_box(unsafe { chains::avx512(rounds) });
            return 16 * SUMS;
        }
        if Isa::best() >= Isa::Avx2 {
            // SAFETY: the process may use these instructions.
            black_box(unsafe { chains::avx2(rounds) });
            return 8 * SUMS;
        }
    }
    let mut sums = [0.5f32; 4 * SUMS];
    for _ in 0..rounds {
        sums.iter_mut().for_each(|sum| *sum = *sum * 0.999 + 0.999);
    }
    black_box(sums);
    4 * SUMS
}

/// Runs `rounds` of products of pairs, where the process may use them; returns the number of multiply-adds per round.
fn pairs(rounds: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    if Isa::available().contains(&Isa::Avx512Bf16) {
        // SAFETY: the process may use these instructions.
        black_box(unsafe { chains::pairs(rounds) });
    }
    let _ = rounds;
    2 * 16 * SUMS
}

#[cfg(target_arch = "x86_64")]
mod tiles {
    use std::arch::asm;

    #[repr(C, align(64))]
    struct Config([u8; 64]);

    /// Four products of 16x32 by 32x16 per round, into four tiles of sums; returns the operations done. Only where the
    /// process may use [`Isa::Amx`](tubelet::cpu::Isa).
    pub fn multiply(rounds: usize) -> usize {
        let mut config = Config([0; 64]);
        config.0[0] = 1;
        for tile in 0..8 {
            config.0[16 + 2 * tile] = 64;
            config.0[48 + tile] = 16;
        }
        // SAFETY: the caller has checked that the process may use AMX. All tiles are configured, cleared, used and
        // released inside; only the memory at `config` is read.
        unsafe {
            asm!(
                "ldtilecfg [{config}]",
                "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                "tilezero tmm4", "tilezero tmm5", "tilezero tmm6", "tilezero tmm7",
                "2:",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "dec {rounds}",
                "jnz 2b",
                "tilerelease",
                config = in(reg) &config, rounds = inout(reg) rounds.max(1) => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, readonly),
            );
        }
        4 * 2 * 16 * 16 * 32 * rounds
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod tiles {
    pub fn multiply(_: usize) -> usize {
        0
    }
}
