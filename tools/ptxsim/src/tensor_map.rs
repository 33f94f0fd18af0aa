//! Tensor maps: what `cuTensorMapEncodeTiled` and `cuTensorMapEncodeIm2col` describe, with their limits.
//!
//! NVIDIA does not document the 128 bytes of a map; the ones here are of this simulator's own format, with a checksum.

pub(crate) mod window;

use crate::fault::Fault;

/// `CUtensorMapDataType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Element {
    U8,
    U16,
    U32,
    I32,
    U64,
    I64,
    F16,
    F32,
    F64,
    Bf16,
}

impl Element {
    const ALL: [Element; 10] = {
        use Element::*;
        [U8, U16, U32, I32, U64, I64, F16, F32, F64, Bf16]
    };

    /// Bytes of an element.
    pub fn size(self) -> u64 {
        match self {
            Element::U8 => 1,
            Element::U16 | Element::F16 | Element::Bf16 => 2,
            Element::U32 | Element::I32 | Element::F32 => 4,
            Element::U64 | Element::I64 | Element::F64 => 8,
        }
    }

    fn float(self) -> bool {
        matches!(self, Element::F16 | Element::F32 | Element::F64 | Element::Bf16)
    }
}

/// `CUtensorMapSwizzle`: the span in which 16-byte chunks of shared memory are permuted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Swizzle {
    None,
    B32,
    B64,
    B128,
}

impl Swizzle {
    const ALL: [Swizzle; 4] = [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128];

    /// Bytes of a row of the pattern; 16 without swizzle.
    pub(crate) fn span(self) -> u64 {
        match self {
            Swizzle::None => 16,
            Swizzle::B32 => 32,
            Swizzle::B64 => 64,
            Swizzle::B128 => 128,
        }
    }

    /// Where the pattern puts the byte of an address of shared memory: address bits 7 and up are added without carry to the
    /// number of the 16-byte chunk in its row.
    #[inline]
    pub(crate) fn place(self, address: u64) -> u64 {
        address ^ (address >> 3 & (self.span() - 16))
    }
}

/// `CUtensorMapFloatOOBfill`: what is loaded from outside a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Fill {
    Zero,
    Nan,
}

/// The part of a tensor that one instruction transfers. Sizes are innermost first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Window {
    /// A box.
    Tiled {
        /// `boxDim`.
        extent: Vec<u32>,
    },
    /// A column of pixels.
    Im2col {
        /// `pixelBoxLowerCorner`: where the box of first pixels begins, per spatial dimension.
        lower: Vec<i32>,
        /// `pixelBoxUpperCorner`: where it ends, relative to the tensor's last pixel.
        upper: Vec<i32>,
        /// `channelsPerPixel`.
        channels: u32,
        /// `pixelsPerColumn`.
        pixels: u32,
    },
}

/// A tensor in global memory and the part of it that one instruction transfers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// Type of the elements.
    pub element: Element,
    /// `globalAddress`.
    pub address: u64,
    /// `globalDim`, innermost first.
    pub extents: Vec<u64>,
    /// `globalStrides`: bytes, one less than there are dimensions.
    pub strides: Vec<u64>,
    /// What one instruction transfers.
    pub window: Window,
    /// `elementStrides`.
    pub steps: Vec<u32>,
    /// Permutation of shared memory.
    pub swizzle: Swizzle,
    /// What is loaded from outside.
    pub fill: Fill,
}

/// Maximum dimensions of a tensor.
const MAX_RANK: usize = 5;
/// The least value of a corner of im2col is minus this, and the largest one less, for 3, 4 and 5 dimensions.
const CORNERS: [i32; 3] = [1 << 15, 1 << 7, 1 << 4];
const MAGIC: u8 = 0xa7;

impl TensorMap {
    pub(crate) fn rank(&self) -> usize {
        self.extents.len()
    }

    /// Bytes of a row of the window, and rows.
    pub(crate) fn rows(&self) -> (u64, u64) {
        let (inner, rows) = match &self.window {
            Window::Tiled { extent } => {
                let outer = extent.iter().zip(&self.steps).skip(1);
                (extent[0], outer.map(|(e, s)| u64::from(e.div_ceil(*s))).product())
            }
            Window::Im2col { channels, pixels, .. } => (*channels, u64::from(*pixels)),
        };
        (u64::from(inner) * self.element.size(), rows)
    }

    /// Bytes from the first element to the end of the last one.
    pub(crate) fn bytes(&self) -> u64 {
        let outer = self.extents[1..].iter().zip(&self.strides).map(|(e, s)| (e - 1) * s);
        outer.sum::<u64>() + self.extents[0] * self.element.size()
    }

    /// The limits in the comments of `cuda.h`.
    fn check(&self) -> Result<(), String> {
        let rank = self.rank();
        let ensure = |ok: bool, message: String| if ok { Ok(()) } else { Err(message) };
        let least = if matches!(self.window, Window::Tiled { .. }) { 1 } else { 3 };
        ensure(
            (least..=MAX_RANK).contains(&rank),
            format!("{rank} dimensions where {least} to {MAX_RANK} are possible"),
        )?;
        ensure(self.strides.len() + 1 == rank, format!("{} strides for {rank} dimensions", self.strides.len()))?;
        ensure(self.steps.len() == rank, format!("{} element strides for {rank} dimensions", self.steps.len()))?;
        ensure(self.address.is_multiple_of(16), format!("address {:#x} is not a multiple of 16", self.address))?;
        for (i, e) in self.extents.iter().enumerate() {
            ensure((1..=1 << 32).contains(e), format!("extent {e} of dimension {i} is not between 1 and 2^32"))?;
        }
        for (i, s) in self.strides.iter().enumerate() {
            let ok = s.is_multiple_of(16) && *s < 1 << 40;
            ensure(ok, format!("stride {s} of dimension {} is not a multiple of 16 below 2^40", i + 1))?;
        }
        for (i, s) in self.steps.iter().enumerate() {
            ensure((1..=8).contains(s), format!("element stride {s} of dimension {i} is not between 1 and 8"))?;
        }
        ensure(
            self.fill == Fill::Zero || self.element.float(),
            format!("{:?} elements cannot be filled with NaN", self.element),
        )?;
        self.check_window(&ensure)?;
        let (row, _) = self.rows();
        ensure(row.is_multiple_of(16), format!("rows of {row} bytes in shared memory are not a multiple of 16"))?;
        let span = self.swizzle.span();
        ensure(
            self.swizzle == Swizzle::None || row <= span,
            format!("rows of {row} bytes in shared memory are longer than the swizzle's {span}"),
        )
    }

    fn check_window(&self, ensure: &dyn Fn(bool, String) -> Result<(), String>) -> Result<(), String> {
        let rank = self.rank();
        match &self.window {
            Window::Tiled { extent } => {
                ensure(extent.len() == rank, format!("a box of {} dimensions in {rank}", extent.len()))?;
                for (i, e) in extent.iter().enumerate() {
                    ensure(
                        (1..=256).contains(e),
                        format!("extent {e} of dimension {i} of the box is not between 1 and 256"),
                    )?;
                }
            }
            Window::Im2col { lower, upper, channels, pixels } => {
                let most = CORNERS[rank - 3];
                for (name, corner) in [("lower", lower), ("upper", upper)] {
                    ensure(
                        corner.len() == rank - 2,
                        format!("the {name} corner has {} numbers for {} spatial dimensions", corner.len(), rank - 2),
                    )?;
                    let ok = corner.iter().all(|c| (-most..most).contains(c));
                    ensure(ok, format!("the {name} corner {corner:?} is not between {} and {}", -most, most - 1))?;
                }
                let boxes = self.extents[1..].iter().zip(lower).zip(upper);
                let empty = |((e, l), u): ((&u64, &i32), &i32)| *e as i64 + i64::from(*u) - i64::from(*l) < 1;
                ensure(!boxes.into_iter().any(empty), format!("the box from {lower:?} to {upper:?} is empty"))?;
                ensure((1..=256).contains(channels), format!("{channels} channels per pixel, not 1 to 256"))?;
                ensure((1..=1024).contains(pixels), format!("{pixels} pixels per column, not 1 to 1024"))?;
            }
        }
        Ok(())
    }

    /// The 128 bytes of a map, after checking the limits of `cuda.h`.
    pub fn encode(&self) -> Result<[u8; 128], Fault> {
        self.check().map_err(Fault::TensorMap)?;
        let mut out = vec![
            MAGIC,
            self.rank() as u8,
            self.element as u8,
            self.swizzle as u8,
            self.fill as u8,
            u8::from(matches!(self.window, Window::Im2col { .. })),
        ];
        out.extend(self.address.to_le_bytes());
        self.extents.iter().for_each(|e| out.extend(((e - 1) as u32).to_le_bytes()));
        self.strides.iter().for_each(|s| out.extend(&s.to_le_bytes()[..5]));
        self.steps.iter().for_each(|s| out.push(*s as u8));
        match &self.window {
            Window::Tiled { extent } => extent.iter().for_each(|e| out.extend((*e as u16).to_le_bytes())),
            Window::Im2col { lower, upper, channels, pixels } => {
                lower.iter().chain(upper).for_each(|c| out.extend((*c as i16).to_le_bytes()));
                out.extend((*channels as u16).to_le_bytes());
                out.extend((*pixels as u16).to_le_bytes());
            }
        }
        let mut bytes = [0; 128];
        bytes[..out.len()].copy_from_slice(&out);
        let sum = checksum(&bytes[..120]);
        bytes[120..].copy_from_slice(&sum.to_le_bytes());
        Ok(bytes)
    }

    /// The map in 128 bytes; `None` where they are none.
    pub(crate) fn decode(bytes: &[u8]) -> Option<TensorMap> {
        let (body, sum) = bytes.split_at_checked(120)?;
        if checksum(body).to_le_bytes() != sum || body[0] != MAGIC {
            return None;
        }
        let mut at = 6;
        let mut number = |n: usize| {
            let v = body[at..at + n].iter().rev().fold(0u64, |v, b| v << 8 | u64::from(*b));
            at += n;
            v
        };
        let rank = body[1] as usize;
        let address = number(8);
        let extents = (0..rank).map(|_| number(4) + 1).collect();
        let strides = (1..rank).map(|_| number(5)).collect();
        let steps = (0..rank).map(|_| number(1) as u32).collect();
        let window = if body[5] == 0 {
            Window::Tiled { extent: (0..rank).map(|_| number(2) as u32).collect() }
        } else {
            let mut corner = || (2..rank).map(|_| i32::from(number(2) as i16)).collect();
            let (lower, upper) = (corner(), corner());
            Window::Im2col { lower, upper, channels: number(2) as u32, pixels: number(2) as u32 }
        };
        Some(TensorMap {
            element: *Element::ALL.get(body[2] as usize)?,
            address,
            extents,
            strides,
            window,
            steps,
            swizzle: *Swizzle::ALL.get(body[3] as usize)?,
            fill: if body[4] == 0 { Fill::Zero } else { Fill::Nan },
        })
    }
}

/// FNV-1a.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3))
}
