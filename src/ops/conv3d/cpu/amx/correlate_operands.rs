//! What wgrad in tiles multiplies: numbers of bf16 as they are stored, or of f32 as sums of several.

use super::Input;
use crate::ops::batch_norm::Lines;
use crate::tensor::{DType, Element, Tensor};
use half::bf16;
use std::ops::Range;

/// An operand.
#[derive(Clone, Copy)]
pub(in super::super) enum Numbers<'a> {
    Bf16(&'a [bf16]),
    /// To be split into so many parts, 2 or 3.
    F32(&'a [f32], usize),
}

impl<'a> Numbers<'a> {
    /// Those of a tensor in main memory.
    pub(in super::super) fn of(tensor: &'a Tensor, parts: usize) -> Self {
        match tensor.dtype() {
            DType::BF16 => Numbers::Bf16(bf16::of(tensor)),
            DType::F32 => Numbers::F32(f32::of(tensor), parts),
        }
    }

    pub(super) fn parts(&self) -> usize {
        match self {
            Numbers::Bf16(_) => 1,
            Numbers::F32(_, parts) => *parts,
        }
    }

    /// Where `len` numbers from `first` on are.
    pub(super) fn place(&self, first: usize, len: usize) -> Range<*const u8> {
        match self {
            Numbers::Bf16(all) => bytemuck::cast_slice::<bf16, u8>(&all[first..first + len]).as_ptr_range(),
            Numbers::F32(all, _) => bytemuck::cast_slice::<f32, u8>(&all[first..first + len]).as_ptr_range(),
        }
    }

    /// The numbers from `first` on, as parts that are `pitch` apart. With a prologue they are whole pixels of one sample, and its
    /// result is copied.
    ///
    /// # Safety
    /// `Isa::Amx` is available.
    pub(super) unsafe fn copy(
        &self,
        first: usize,
        len: usize,
        prologue: Option<&Lines>,
        to: &mut [bf16],
        pitch: usize,
    ) {
        // SAFETY: as the caller vouches.
        unsafe {
            match *self {
                Numbers::Bf16(numbers) => Input { numbers, prologue }.spread(first, len, to, pitch, 1),
                Numbers::F32(numbers, parts) => Input { numbers, prologue }.spread(first, len, to, pitch, parts),
            }
        }
    }
}
