//! Vectors of sixteen numbers, stored as f32 or bf16 and computed in f32, for memory-bound kernels.
//!
//! A kernel is written once, generic over [`Lanes`], as the `run` of a [`Vectorized`]; [`run`] compiles it for AVX-512,
//! AVX2 and plain loops, and selects the widest that this machine has. There are sixteen lanes and no fused
//! multiply-add on every machine, so the bits are the same on every machine.

pub(in crate::ops) use super::vector::{LANES, Lanes};
#[cfg(target_arch = "x86_64")]
use super::{ymm::Ymm, zmm::Zmm};
use crate::cpu::Isa;
use crate::cpu::simd::{narrow, prefetch};
use crate::tensor::Element;
use half::bf16;
use rayon::prelude::*;

/// A data type that vectors are loaded from and stored to.
pub(in crate::ops) trait Stored: Element {
    /// # Safety
    /// As [`Lanes`].
    unsafe fn get<V: Lanes>(p: *const Self, n: usize) -> V;
    /// Returns the numbers after rounding.
    ///
    /// # Safety
    /// As [`Lanes`].
    unsafe fn put<V: Lanes>(p: *mut Self, v: V, n: usize) -> V;
}

// SAFETY (both impls): the trait's conditions are those of `Lanes`.
impl Stored for f32 {
    #[inline(always)]
    unsafe fn get<V: Lanes>(p: *const f32, n: usize) -> V {
        unsafe { V::load(p, n) }
    }

    #[inline(always)]
    unsafe fn put<V: Lanes>(p: *mut f32, v: V, n: usize) -> V {
        unsafe { v.store(p, n) };
        v
    }
}

impl Stored for bf16 {
    #[inline(always)]
    unsafe fn get<V: Lanes>(p: *const bf16, n: usize) -> V {
        unsafe { V::load_half(p, n) }
    }

    #[inline(always)]
    unsafe fn put<V: Lanes>(p: *mut bf16, v: V, n: usize) -> V {
        unsafe {
            v.store_half(p, n);
            v.rounded()
        }
    }
}

/// A computation written once for all instruction sets.
pub(in crate::ops) trait Vectorized {
    /// # Safety
    /// The instruction set of `V` must be available. Must be `#[inline(always)]`, or it is compiled without that set.
    unsafe fn run<V: Lanes>(self);
}

/// Runs a kernel with the widest instruction set of this machine.
#[inline]
pub(in crate::ops) fn run(kernel: impl Vectorized) {
    match Isa::best() {
        // SAFETY: the process may use these instructions.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => unsafe { with_avx512(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { with_avx2(kernel) },
        // SAFETY: plain loops have no requirements.
        _ => unsafe { kernel.run::<Plain>() },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn with_avx512(kernel: impl Vectorized) {
    // SAFETY: this function's own condition.
    unsafe { kernel.run::<Zmm>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn with_avx2(kernel: impl Vectorized) {
    // SAFETY: this function's own condition.
    unsafe { kernel.run::<Ymm>() }
}

/// Prefetches a little ahead of `p` in a sequential read: the hardware prefetcher does not run far ahead, and stops at
/// page boundaries. Addresses past the end are harmless.
#[inline(always)]
pub(in crate::ops) fn prefetch_ahead<T>(p: *const T) {
    prefetch(p.cast::<u8>().wrapping_add(AHEAD));
}

/// Distance from the address being read to the one prefetched, in bytes.
const AHEAD: usize = 2048;

/// Calls `f(at, n)` for consecutive ranges of `n` numbers from `at` that cover `0..len`: sixteen each, but for the
/// last.
#[inline(always)]
pub(in crate::ops) fn each(len: usize, mut f: impl FnMut(usize, usize)) {
    let whole = len / LANES * LANES;
    for at in (0..whole).step_by(LANES) {
        f(at, LANES);
    }
    if whole < len {
        f(whole, len - whole);
    }
}

/// A function of `N` numbers, applied to sixteen at once.
pub(in crate::ops) trait Map<const N: usize>: Sync {
    /// # Safety
    /// As [`Lanes`]. Must be `#[inline(always)]`.
    unsafe fn at<V: Lanes>(&self, x: [V; N]) -> V;
}

/// Elements per task: enough to hide the cost of scheduling it.
pub(in crate::ops) const CHUNK: usize = 1 << 15;

/// `y = f(x...)` element by element; all slices have the same length.
pub(in crate::ops) fn map<T: Stored, const N: usize>(x: [&[T]; N], y: &mut [T], f: impl Map<N>) {
    y.par_chunks_mut(CHUNK).enumerate().for_each(|(task, y)| {
        let x = x.map(|x| &x[task * CHUNK..][..y.len()]);
        run(Mapped { x, y, f: &f });
    });
}

struct Mapped<'a, T, F, const N: usize> {
    x: [&'a [T]; N],
    y: &'a mut [T],
    f: &'a F,
}

impl<T: Stored, F: Map<N>, const N: usize> Vectorized for Mapped<'_, T, F, N> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        // SAFETY: all are as long as `y`; the instruction set is the caller's promise.
        each(
            self.y.len(),
            #[inline(always)]
            |at, n| unsafe {
                let mut x = [V::splat(0.0); N];
                for (v, x) in x.iter_mut().zip(&self.x) {
                    *v = T::get(x.as_ptr().add(at), n);
                }
                T::put(self.y.as_mut_ptr().add(at), self.f.at(x), n);
            },
        );
    }
}

/// `len` rounded up to whole vectors.
pub(in crate::ops) fn whole(len: usize) -> usize {
    len.next_multiple_of(LANES)
}

/// In plain Rust, for other machines: whether it becomes vector instructions is up to the compiler.
#[derive(Clone, Copy)]
struct Plain([f32; LANES]);

impl Plain {
    #[inline(always)]
    fn map(self, o: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Plain(std::array::from_fn(|i| f(self.0[i], o.0[i])))
    }
}

// SAFETY (the whole block): the trait's conditions.
impl Lanes for Plain {
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Plain([x; LANES])
    }
    #[inline(always)]
    unsafe fn load(p: *const f32, n: usize) -> Self {
        if n == LANES {
            return Plain(unsafe { p.cast::<[f32; LANES]>().read_unaligned() });
        }
        Plain(std::array::from_fn(|i| if i < n { unsafe { *p.add(i) } } else { 0.0 }))
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, n: usize) {
        if n == LANES {
            return unsafe { p.cast::<[f32; LANES]>().write_unaligned(self.0) };
        }
        self.0.iter().take(n).enumerate().for_each(|(i, v)| unsafe { *p.add(i) = *v });
    }
    #[inline(always)]
    unsafe fn load_half(p: *const bf16, n: usize) -> Self {
        let mut bits = [0u16; LANES];
        if n == LANES {
            bits = unsafe { p.cast::<[u16; LANES]>().read_unaligned() };
        } else {
            bits.iter_mut().take(n).enumerate().for_each(|(i, b)| *b = unsafe { (*p.add(i)).to_bits() });
        }
        Plain(bits.map(|b| f32::from_bits(u32::from(b) << 16)))
    }
    #[inline(always)]
    unsafe fn store_half(self, p: *mut bf16, n: usize) {
        let half = self.0.map(narrow);
        if n == LANES {
            return unsafe { p.cast::<[bf16; LANES]>().write_unaligned(half) };
        }
        half.iter().take(n).enumerate().for_each(|(i, b)| unsafe { *p.add(i) = *b });
    }
    #[inline(always)]
    unsafe fn rounded(self) -> Self {
        Plain(self.0.map(|x| f32::from_bits(u32::from(narrow(x).to_bits()) << 16)))
    }
    #[inline(always)]
    unsafe fn add(self, o: Self) -> Self {
        self.map(o, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(self, o: Self) -> Self {
        self.map(o, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(self, o: Self) -> Self {
        self.map(o, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(self, o: Self) -> Self {
        self.map(o, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn where_positive(self, of: Self) -> Self {
        self.map(of, |a, of| if of > 0.0 { a } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn relu(self) -> Self {
        Plain(self.0.map(|x| if x <= 0.0 { 0.0 } else { x }))
    }

    type Places = [u32; LANES];
    #[inline(always)]
    unsafe fn places(place: u32) -> [u32; LANES] {
        [place; LANES]
    }
    #[inline(always)]
    unsafe fn store_places(at: [u32; LANES], p: *mut u32, n: usize) {
        at.iter().take(n).enumerate().for_each(|(i, at)| unsafe { *p.add(i) = *at });
    }
    #[inline(always)]
    unsafe fn greater(mut self, mut at: [u32; LANES], x: Self, place: u32) -> (Self, [u32; LANES]) {
        for ((most, at), x) in self.0.iter_mut().zip(&mut at).zip(x.0) {
            // NaN wins once and is then kept: nothing compares greater than it.
            let wins = (x > *most) | (x.is_nan() & !most.is_nan());
            *most = if wins { x } else { *most };
            *at = if wins { place } else { *at };
        }
        (self, at)
    }
    #[inline(always)]
    unsafe fn where_from(self, p: *const u32, place: u32, n: usize) -> Self {
        let from = |i: usize| i < n && unsafe { *p.add(i) } == place;
        Plain(std::array::from_fn(|i| if from(i) { self.0[i] } else { 0.0 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All operations of a vector, as bits.
    struct All<'a>(&'a [f32], &'a mut Vec<u32>);

    impl Vectorized for All<'_> {
        #[inline(always)]
        unsafe fn run<V: Lanes>(self) {
            let All(x, out) = self;
            let (mut halves, mut out_places) = (vec![bf16::ZERO; x.len()], Vec::new());
            let mut put = |v: V, n: usize| {
                let mut wide = [7.0; LANES];
                // SAFETY: there is space for sixteen numbers.
                unsafe { v.store(wide.as_mut_ptr(), n) };
                out.extend(wide.iter().map(|v| v.to_bits()));
            };
            each(x.len(), |at, n| {
                // SAFETY: `each` stays inside.
                unsafe {
                    let (a, b) = (V::load(x.as_ptr().add(at), n), V::splat(0.3));
                    a.store_half(halves.as_mut_ptr().add(at), n);
                    put(V::load_half(halves.as_ptr().add(at), n), LANES);
                    [a.rounded(), a.add(b), a.sub(b), a.mul(a), b.div(a), b.where_positive(a), a.relu()]
                        .into_iter()
                        .for_each(|v| put(v, n));
                    let mut places = [5; LANES];
                    let (most, at) = b.greater(V::places(3), a, 4);
                    V::store_places(at, places.as_mut_ptr(), n);
                    [most, a.greater(at, a, 6).0, a.where_from(places.as_ptr(), 4, n)]
                        .into_iter()
                        .for_each(|v| put(v, n));
                    put(V::splat(0.0).where_from(places.as_ptr(), 4, n), n);
                    out_places.extend(places);
                }
            });
            out.extend(out_places);
            out.extend(halves.iter().map(|h| u32::from(h.to_bits())));
        }
    }

    #[test]
    fn all_instruction_sets_have_the_same_bits() {
        let corners =
            [0.0, -0.0, 1.0, -1.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-40, 1.0 + 1.0 / 256.0, 3.3e38];
        let mut x: Vec<f32> = (0..300u32).map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b1))).collect();
        x.extend(corners);
        for len in [1, 15, 16, 17, x.len()] {
            let (mut here, mut plain) = (Vec::new(), Vec::new());
            run(All(&x[x.len() - len..], &mut here));
            // SAFETY: plain loops have no requirements.
            unsafe { All(&x[x.len() - len..], &mut plain).run::<Plain>() };
            let same = here
                .iter()
                .zip(&plain)
                .all(|(a, b)| a == b || (f32::from_bits(*a).is_nan() && f32::from_bits(*b).is_nan()));
            assert!(same && here.len() == plain.len(), "{len} numbers");
            let halves = x[x.len() - len..].iter().map(|x| u32::from(bf16::from_f32(*x).to_bits()));
            assert!(halves.eq(here[here.len() - len..].iter().copied()), "{len} numbers rounded");
        }
    }
}
