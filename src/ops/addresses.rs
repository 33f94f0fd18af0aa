//! Device addresses of callers: what every `raw` module checks before it launches anything.

use crate::driver::{In, InOut, Out};
use crate::error::{Error, Result};
use crate::tensor::{DType, WIDE, aligned};

/// Working space that a caller lends to a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workspace {
    /// Device address, a multiple of 256.
    pub ptr: u64,
    /// Length in bytes.
    pub bytes: usize,
}

impl Workspace {
    /// For passes that need none.
    pub const NONE: Workspace = Workspace { ptr: 0, bytes: 0 };
}

/// Alignment of working space and of each array in it.
const ALIGNMENT: usize = 256;

/// Checks the addresses given to one operation.
#[derive(Clone, Copy)]
pub(super) struct Addresses(pub &'static str);

impl Addresses {
    /// The bytes of `elements` elements at `at`, which kernels access 16 bytes at a time and count in 32 bits.
    fn bytes(self, arg: &'static str, at: u64, elements: usize, size: usize) -> Result<usize> {
        if elements > 1 << 31 {
            return Err(Error::shape(self.0, arg, "at most 2³¹ elements on a GPU", elements));
        }
        if elements > 0 {
            aligned(self.0, arg, at, WIDE)?;
        }
        Ok(elements * size)
    }

    pub fn input(self, arg: &'static str, at: u64, elements: usize, dtype: DType) -> Result<In> {
        Ok(In(at, self.bytes(arg, at, elements, dtype.size())?))
    }

    pub fn output(self, arg: &'static str, at: u64, elements: usize, dtype: DType) -> Result<Out> {
        Ok(Out(at, self.bytes(arg, at, elements, dtype.size())?))
    }

    pub fn in_out(self, arg: &'static str, at: u64, elements: usize, dtype: DType) -> Result<InOut> {
        Ok(InOut(at, self.bytes(arg, at, elements, dtype.size())?))
    }

    /// 16-bit integers that are overwritten.
    pub fn output_u16(self, arg: &'static str, at: u64, elements: usize) -> Result<Out> {
        Ok(Out(at, self.bytes(arg, at, elements, 2)?))
    }

    /// 16-bit integers that are read.
    pub fn input_u16(self, arg: &'static str, at: u64, elements: usize) -> Result<In> {
        Ok(In(at, self.bytes(arg, at, elements, 2)?))
    }

    /// A bit for each of `elements` elements, that are read.
    pub fn input_bits(self, arg: &'static str, at: u64, elements: usize) -> Result<In> {
        Ok(In(at, self.bytes(arg, at, elements.div_ceil(8), 1)?))
    }

    /// A bit for each of `elements` elements, that are overwritten.
    pub fn output_bits(self, arg: &'static str, at: u64, elements: usize) -> Result<Out> {
        Ok(Out(at, self.bytes(arg, at, elements.div_ceil(8), 1)?))
    }

    /// The address of working space of at least `needed` bytes.
    pub fn workspace(self, given: Workspace, needed: usize) -> Result<u64> {
        if given.bytes < needed {
            let rule = format!("this pass needs {needed} bytes");
            return Err(Error::param(self.0, "workspace", format!("{} bytes", given.bytes), rule));
        }
        if needed > 0 && (given.ptr == 0 || !given.ptr.is_multiple_of(ALIGNMENT as u64)) {
            let rule = "working space on a GPU must begin at a multiple of 256, and not at null";
            return Err(Error::param(self.0, "workspace", format!("{:#x}", given.ptr), rule));
        }
        Ok(given.ptr)
    }
}

/// Arrays in working space, by their bytes, one after another.
pub(super) struct Spans<const N: usize>(pub [usize; N]);

impl<const N: usize> Spans<N> {
    /// Bytes of them all.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|bytes| bytes.next_multiple_of(ALIGNMENT)).sum()
    }

    /// Each as a target, in working space at `base`.
    pub fn at(&self, base: u64) -> [Out; N] {
        let mut next = base;
        self.0.map(|bytes| {
            let at = next;
            next += bytes.next_multiple_of(ALIGNMENT) as u64;
            Out(at, bytes)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_aligned_and_apart() {
        let spans = Spans([1, 0, 256, 300]);
        let at = spans.at(512).map(|Out(at, _)| at);
        assert_eq!(at, [512, 768, 768, 1024]);
        assert_eq!(spans.bytes(), 1024 + 512 - 512);
    }

    #[test]
    fn working_space_is_long_enough_and_aligned() {
        let check = Addresses("test");
        assert!(check.workspace(Workspace::NONE, 0).is_ok());
        assert_eq!(check.workspace(Workspace { ptr: 512, bytes: 8 }, 8).unwrap(), 512);
        for given in [Workspace { ptr: 512, bytes: 7 }, Workspace { ptr: 16, bytes: 8 }, Workspace { ptr: 0, bytes: 8 }]
        {
            assert!(check.workspace(given, 8).is_err(), "{given:?}");
        }
    }
}
