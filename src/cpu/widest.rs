//! Plain loops compiled for the widest vectors of the machine.

/// Runs `f`, which must be an `#[inline(always)]` closure of plain loops, compiled for AVX-512 or AVX2 if available.
/// The compiler does not fuse separate products and sums, so the bits are the same on every machine.
#[inline(always)]
pub(crate) fn widest<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        let isa = super::Isa::best();
        if isa >= super::Isa::Avx512 {
            // SAFETY: the machine has these instructions, as was detected.
            return unsafe { with_avx512(f) };
        }
        if isa == super::Isa::Avx2 {
            // SAFETY: as above.
            return unsafe { with_avx2(f) };
        }
    }
    f()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn with_avx512<R>(f: impl FnOnce() -> R) -> R {
    f()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn with_avx2<R>(f: impl FnOnce() -> R) -> R {
    f()
}
