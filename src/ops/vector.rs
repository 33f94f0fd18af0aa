//! What a vector of sixteen numbers can do, whatever the instructions: see [`super::lanes`].

use half::bf16;

/// Numbers in a vector.
pub(in crate::ops) const LANES: usize = 16;

/// Sixteen numbers. Every function may be called only where the instruction set was detected, with pointers to as many
/// numbers as it moves: sixteen, or `n` where it takes that, in which case the other lanes are 0.
pub(in crate::ops) trait Lanes: Copy {
    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(p: *const f32, n: usize) -> Self;
    unsafe fn store(self, p: *mut f32, n: usize);
    unsafe fn load_half(p: *const bf16, n: usize) -> Self;
    /// Rounds to nearest even.
    unsafe fn store_half(self, p: *mut bf16, n: usize);
    /// As [`Lanes::store_half`] rounds.
    unsafe fn rounded(self) -> Self;
    unsafe fn add(self, o: Self) -> Self;
    unsafe fn sub(self, o: Self) -> Self;
    unsafe fn mul(self, o: Self) -> Self;
    unsafe fn div(self, o: Self) -> Self;
    /// These numbers where those of `of` are positive, 0 elsewhere.
    unsafe fn where_positive(self, of: Self) -> Self;
    /// 0 for what is 0 or below; a NaN stays.
    unsafe fn rectified(self) -> Self;

    /// Where sixteen numbers come from.
    type Places: Copy;
    unsafe fn places(place: u32) -> Self::Places;
    unsafe fn store_places(at: Self::Places, p: *mut u32, n: usize);
    /// The greater of these numbers, which are from `at`, and those of `x` from `place`, with their places. Of equals the first
    /// stays, and a NaN beats every number.
    unsafe fn greater(self, at: Self::Places, x: Self, place: u32) -> (Self, Self::Places);
    /// These numbers where the places at `p` are `place`, 0 elsewhere.
    unsafe fn where_from(self, p: *const u32, place: u32, n: usize) -> Self;
}
