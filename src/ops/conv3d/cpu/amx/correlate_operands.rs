//! Operands of wgrad on AMX tiles: bf16 as stored, or f32 to be split into bf16 terms.

use super::Input;
use crate::ops::batch_norm::Lines;
use crate::tensor::{DType, Element, Tensor};
use half::bf16;
use std::ops::Range;

/// An operand.
#[derive(Clone, Copy)]
pub(in super::super) enum Numbers<'a> {
    Bf16(&'a [bf16]),
    /// To be split into 2 or 3 bf16 terms.
    F32(&'a [f32], usize),
}

impl<'a> Numbers<'a> {
    /// The numbers of a tensor in main memory.
    pub(in super::super) fn of(tensor: &'a Tensor, parts: usize) -> Self {
        match tensor.dtype() {
            DType::BF16 => Numbers::Bf16(bf16::of(tensor)),
            DType::F32 => Numbers::F32(f32::of(tensor), parts),
        }
    }

    /// Bytes of all numbers.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Numbers::Bf16(all) => size_of_val(*all),
            Numbers::F32(all, _) => size_of_val(*all),
        }
    }

    pub(super) fn parts(&self) -> usize {
        match self {
            Numbers::Bf16(_) => 1,
            Numbers::F32(_, parts) => *parts,
        }
    }

    /// Address range of `len` numbers from `first` on.
    pub(super) fn place(&self, first: usize, len: usize) -> Range<*const u8> {
        match self {
            Numbers::Bf16(all) => bytemuck::cast_slice::<bf16, u8>(&all[first..first + len]).as_ptr_range(),
            Numbers::F32(all, _) => bytemuck::cast_slice::<f32, u8>(&all[first..first + len]).as_ptr_range(),
        }
    }

    /// Copies the numbers from `first` on, as bf16 terms stored `pitch` apart. With a prologue, the numbers are
    /// complete pixels of one sample, and its result is copied.
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
