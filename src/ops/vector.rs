//! The operations on a vector of sixteen numbers, for every instruction set: see [`super::lanes`].

use half::bf16;

/// Numbers in a vector.
pub(in crate::ops) const LANES: usize = 16;

/// A vector of sixteen numbers. Every function may be called only where the instruction set was detected, with pointers
/// to as many numbers as it accesses: sixteen, or `n` where it takes that, in which case the other lanes are 0.
pub(in crate::ops) trait Lanes: Copy {
    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(p: *const f32, n: usize) -> Self;
    unsafe fn store(self, p: *mut f32, n: usize);
    unsafe fn load_half(p: *const bf16, n: usize) -> Self;
    /// Rounds to nearest even.
    unsafe fn store_half(self, p: *mut bf16, n: usize);
    /// Rounds to bf16 as [`Lanes::store_half`] does.
    unsafe fn rounded(self) -> Self;
    unsafe fn add(self, o: Self) -> Self;
    unsafe fn sub(self, o: Self) -> Self;
    unsafe fn mul(self, o: Self) -> Self;
    unsafe fn div(self, o: Self) -> Self;
    /// These numbers where those of `of` are positive, 0 elsewhere.
    unsafe fn where_positive(self, of: Self) -> Self;
    /// ReLU: 0 where the number is at most 0; NaN is propagated.
    unsafe fn relu(self) -> Self;

    /// An index per lane: where each number comes from.
    type Places: Copy;
    unsafe fn places(place: u32) -> Self::Places;
    unsafe fn store_places(at: Self::Places, p: *mut u32, n: usize);
    /// The larger of these numbers, whose indices are `at`, and those of `x`, whose index is `place`, with their
    /// indices. Of equal numbers the first is kept, and NaN wins over every number.
    unsafe fn greater(self, at: Self::Places, x: Self, place: u32) -> (Self, Self::Places);
    /// These numbers where the indices at `p` equal `place`, 0 elsewhere.
    unsafe fn where_from(self, p: *const u32, place: u32, n: usize) -> Self;
}
