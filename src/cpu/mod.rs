//! Which instruction sets the CPU kernels use.
//!
//! Determined once, on first use, from what the processor has (CPUID), what the operating system saves on a context
//! switch (XCR0), and, for the tiles of AMX, what the kernel permits this process to use. `TUBELET_ISA` (`portable`,
//! `avx2`, `avx512`, `avx512bf16` or `amx`) sets an upper bound, for tests and comparisons.

pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
mod pairs;
pub(crate) mod simd;
pub mod traffic;
pub(crate) mod widest;

use std::str::FromStr;
use std::sync::OnceLock;

/// Instruction sets that kernels are written for; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// Plain loops, as the compiler translates them.
    Portable,
    /// 256-bit vectors with fused multiply-add.
    Avx2,
    /// 512-bit vectors, also of bytes and 16-bit numbers.
    Avx512,
    /// Products of pairs of bf16 added to f32, in addition.
    Avx512Bf16,
    /// Tiles of bf16 multiplied into tiles of f32, in addition.
    Amx,
}

impl Isa {
    /// All instruction sets.
    pub const ALL: [Isa; 5] = [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Avx512Bf16, Isa::Amx];

    /// All that this process may use, up to the bound set by `TUBELET_ISA`. An invalid value sets no
    /// bound here: programs check [`Isa::bound`] first.
    pub fn available() -> &'static [Isa] {
        static AVAILABLE: OnceLock<Vec<Isa>> = OnceLock::new();
        AVAILABLE.get_or_init(|| {
            let bound = Isa::bound().ok().flatten().unwrap_or(Isa::Amx);
            Isa::ALL.into_iter().filter(|&isa| isa <= bound && isa.detected()).collect()
        })
    }

    /// The bound that `TUBELET_ISA` sets, if it is set.
    ///
    /// # Errors
    /// Its value, if that does not name an instruction set.
    pub fn bound() -> Result<Option<Isa>, UnknownIsa> {
        let name = std::env::var_os("TUBELET_ISA");
        name.map(|name| name.to_string_lossy().parse()).transpose()
    }

    /// The fastest that this process may use: the last one, but [`Isa::Avx512Bf16`] only if a measurement, once per process, shows
    /// that this processor multiplies pairs of bf16 faster than f32.
    #[must_use]
    pub fn best() -> Isa {
        let last = Isa::Amx.or_less();
        #[cfg(target_arch = "x86_64")]
        // SAFETY: what is available was detected.
        if last == Isa::Avx512Bf16 && !unsafe { pairs::pay() } {
            return Isa::Avx512;
        }
        last
    }

    /// This one if the process may use it, else the next below it.
    pub(crate) fn or_less(self) -> Isa {
        Isa::available().iter().copied().rfind(|&isa| isa <= self).unwrap_or(Isa::Portable)
    }

    /// `portable`, `avx2`, `avx512`, `avx512bf16` or `amx`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Avx512Bf16 => "avx512bf16",
            Isa::Amx => "amx",
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn detected(self) -> bool {
        match self {
            Isa::Portable => true,
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            Isa::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            Isa::Avx512Bf16 => Isa::Avx512.detected() && is_x86_feature_detected!("avx512bf16"),
            Isa::Amx => Isa::Avx512Bf16.detected() && tiles_permitted(),
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn detected(self) -> bool {
        self == Isa::Portable
    }
}

/// Runs `f` on a thread of rayon's current pool. There a parallel loop costs a microsecond: the calling thread starts
/// with the work while another is woken. Called from outside the pool, every loop of a training step would wake the
/// pool and wait for it.
pub fn in_pool<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| f())
}

/// A name that is not an instruction set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownIsa(pub String);

impl std::fmt::Display for UnknownIsa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} is none of portable, avx2, avx512, avx512bf16, amx", self.0)
    }
}

impl std::error::Error for UnknownIsa {}

impl FromStr for Isa {
    type Err = UnknownIsa;

    fn from_str(name: &str) -> Result<Isa, UnknownIsa> {
        Isa::ALL.into_iter().find(|isa| isa.name() == name).ok_or_else(|| UnknownIsa(name.to_owned()))
    }
}

/// Whether the processor has tiles and bf16 products, the system saves them, and the kernel permits this process to use
/// them. The permission has to be requested once, because the state takes 8 KiB per thread.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn tiles_permitted() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
    /// `arch_prctl`: request permission for a state component.
    const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
    /// The state component of the tiles' data; component 17 is their configuration.
    const XTILEDATA: libc::c_ulong = 18;

    let has = |bits: u32, bit: u32| bits >> bit & 1 == 1;
    let (basic, features) = (__cpuid(1), __cpuid_count(7, 0));
    let (osxsave, amx_bf16, amx_tile) = (has(basic.ecx, 27), has(features.edx, 22), has(features.edx, 24));
    if __cpuid(0).eax < 7 || !(osxsave && amx_bf16 && amx_tile) {
        return false;
    }
    #[target_feature(enable = "xsave")]
    fn saved() -> u64 {
        // SAFETY: the instruction reads a register that exists, according to OSXSAVE.
        unsafe { _xgetbv(0) }
    }
    // SAFETY: OSXSAVE was checked, which implies XSAVE.
    let saved = unsafe { saved() };
    if saved >> 17 & 3 != 3 {
        return false;
    }
    // SAFETY: the call has no pointers, and only gives this process a permission.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0 }
}

/// Other systems have other ways to request the permission, which have not been tried.
#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn tiles_permitted() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for isa in Isa::ALL {
            assert_eq!(isa.name().parse(), Ok(isa));
        }
        assert_eq!("sse".parse::<Isa>(), Err(UnknownIsa("sse".into())));
    }

    #[test]
    fn less_is_always_available() {
        assert_eq!(Isa::available().first(), Some(&Isa::Portable));
        assert_eq!(Isa::available().last(), Some(&Isa::Amx.or_less()));
        assert!(Isa::available().contains(&Isa::best()));
        assert_eq!(Isa::Portable.or_less(), Isa::Portable);
    }
}
