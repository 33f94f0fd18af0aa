//! Cubins: whether a driver would take one, and which PTX it was assembled from.
//!
//! The device executes PTX, so a cubin stands for the PTX that has its kernels: `SIMCUDA_PTX` names the folder to look in.

use crate::device::{capability, release};
use crate::{INVALID_IMAGE, NO_BINARY_FOR_GPU};
use std::fs;

/// What an ELF file begins with.
const MAGIC: [u8; 4] = *b"\x7fELF";
/// Bytes of its header.
const HEADER: usize = 64;
/// The machine in the header of a cubin.
const CUDA: u16 = 190;
/// The version of the ABI from which the architecture is in the second byte of the flags: that of toolkits of CUDA 13.
const ABI_OF_13: u8 = 8;
/// A flag before that: the code is for one architecture alone (`sm_90a`). Later ones do not say so in their headers.
const ALONE: u32 = 0x800;

/// Whether an image is an ELF file.
///
/// # Safety
/// It has a zero byte, or four bytes.
pub unsafe fn is_elf(image: *const u8) -> bool {
    // SAFETY: a byte is read only if none before it was zero.
    (0..MAGIC.len()).all(|i| unsafe { *image.add(i) } == MAGIC[i])
}

/// The numbers of a header that are needed here.
struct Header {
    machine: u16,
    /// Before [`ABI_OF_13`] the release of the toolkit, 124 for 12.4.
    version: u32,
    abi: u8,
    flags: u32,
    /// Where each table begins, and how many entries of how many bytes it has.
    tables: [(usize, usize, usize); 2],
}

impl Header {
    fn read(bytes: &[u8; HEADER]) -> Header {
        let short = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let word = |at: usize| u32::from(short(at)) | u32::from(short(at + 2)) << 16;
        let long = |at: usize| word(at) as usize | (word(at + 4) as usize) << 32;
        let table = |at, size, count| (long(at), short(count) as usize, short(size) as usize);
        Header {
            machine: short(18),
            version: word(20),
            abi: bytes[8],
            flags: word(48),
            tables: [table(32, 54, 56), table(40, 58, 60)],
        }
    }

    /// The architecture, 90 for `sm_90`, and whether it is for that one alone.
    fn architecture(&self) -> (u32, bool) {
        if self.abi < ABI_OF_13 {
            (self.flags & 0xff, self.flags & ALONE != 0)
        } else {
            (self.flags >> 8 & 0xff, false)
        }
    }

    /// The major release of CUDA that made it.
    fn toolkit(&self) -> u32 {
        if self.abi < ABI_OF_13 { self.version / 10 } else { 13 }
    }

    /// The end of the file: ptxas writes the tables last.
    fn end(&self) -> usize {
        self.tables.iter().map(|(at, count, size)| at + count * size).max().unwrap_or(0).max(HEADER)
    }
}

/// The PTX that the cubin at `image` stands for, or the code with which a driver refuses it.
///
/// # Safety
/// `image` is an ELF file, whole.
pub unsafe fn ptx_of(image: *const u8) -> Result<String, i32> {
    // SAFETY: every ELF file has a header.
    let header = Header::read(unsafe { &*image.cast::<[u8; HEADER]>() });
    // A driver takes cubins of its own major release, and of those before.
    if header.machine != CUDA || header.toolkit() > release() / 1000 {
        return Err(INVALID_IMAGE);
    }
    let ((architecture, alone), (major, minor)) = (header.architecture(), capability());
    let (of, from) = (architecture / 10, architecture % 10);
    if of != major as u32 || from > minor as u32 || alone && from != minor as u32 {
        return Err(NO_BINARY_FOR_GPU);
    }
    // SAFETY: the file is whole, and ends there.
    let bytes = unsafe { std::slice::from_raw_parts(image, header.end()) };
    with_kernels_of(bytes).ok_or(INVALID_IMAGE)
}

/// The PTX whose first kernel is in a cubin, as the name of a section `.text.<kernel>`.
fn with_kernels_of(cubin: &[u8]) -> Option<String> {
    let files = fs::read_dir(std::env::var_os("SIMCUDA_PTX")?).ok()?.flatten().map(|entry| entry.path());
    let texts = files.filter(|path| path.extension().is_some_and(|e| e == "ptx")).flat_map(fs::read_to_string);
    texts.into_iter().find(|ptx| {
        let kernel = ptx.split(".entry ").nth(1).and_then(|rest| rest.split('(').next());
        kernel.is_some_and(|kernel| {
            let section = format!(".text.{}\0", kernel.trim());
            cubin.windows(section.len()).any(|bytes| bytes == section.as_bytes())
        })
    })
}
