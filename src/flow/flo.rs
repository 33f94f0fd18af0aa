//! Middlebury's `.flo`: the bytes `PIEH`, width and height as little-endian `i32`, then `h w 2` little-endian `f32` (u
//! and v interleaved).
//!
//! ```
//! use tubelet::flow::{Flow, flo};
//! let folder = std::env::temp_dir().join(format!("tubelet-{}", std::process::id()));
//! std::fs::create_dir_all(&folder)?;
//! let flow = Flow::new(1, 2, vec![1.0, 2.0], vec![0.0, -0.5])?; // u to the right, v downwards
//! flo::write(folder.join("a.flo"), &flow)?;
//! assert_eq!(flo::read(folder.join("a.flo"))?, flow);
//! std::fs::remove_dir_all(&folder)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use super::Flow;
use crate::error::{Error, Result};
use crate::files;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// The first four bytes; as an `f32` they are 202021.25.
const MAGIC: &[u8; 4] = b"PIEH";
const HEADER: u64 = 12;
/// Upper limit on the number of pixels: a gigabyte of flow.
const MAX_PIXELS: u64 = 1 << 27;

/// Reads a `.flo` file of at most 2^27 pixels. The size in its header is compared with the file's length before
/// anything is allocated.
///
/// # Errors
/// `Io` when the file cannot be read or there is no memory for it; `Data` when it is not a regular file; `Format` when
/// it is not a complete `.flo` file, or too large.
pub fn read(path: impl AsRef<Path>) -> Result<Flow> {
    let path = path.as_ref();
    let (file, length) = files::open_regular(path, "a .flo file")?;
    let mut file = BufReader::with_capacity(1 << 16, file);
    if length < HEADER {
        return Err(Error::format(path, length, format!("a .flo file starts with {HEADER} bytes of header")));
    }
    let mut header = [0u8; HEADER as usize];
    file.read_exact(&mut header).map_err(Error::io("read", path))?;
    if &header[..4] != MAGIC {
        return Err(Error::content(path, "this is not a .flo file: it does not start with the bytes PIEH"));
    }
    let field = |at: usize| i32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let (w, h) = (field(4), field(8));
    if w < 1 || h < 1 {
        return Err(Error::format(path, 4, format!("the header claims {w}x{h} pixels")));
    }
    let claimed = u128::from(HEADER) + w as u128 * h as u128 * 8; // up to 2^65
    if claimed != u128::from(length) {
        let what = format!("{w}x{h} pixels take {claimed} bytes, but the file has {length}");
        return Err(Error::format(path, 4, what));
    }
    if claimed > u128::from(HEADER + MAX_PIXELS * 8) {
        return Err(Error::format(path, 4, format!("{w}x{h} pixels are more than the {MAX_PIXELS} a field may have")));
    }
    let (h, w) = (h as usize, w as usize);
    let (mut u, mut v) = (files::with_room(path, h * w)?, files::with_room(path, h * w)?);
    let mut part = [[0f32; 2]; 1024];
    let mut left = h * w;
    while left > 0 {
        let n = left.min(part.len());
        file.read_exact(bytemuck::cast_slice_mut(&mut part[..n])).map_err(Error::io("read", path))?;
        let number = |value: f32| f32::from_bits(u32::from_le(value.to_bits()));
        u.extend(part[..n].iter().map(|p| number(p[0])));
        v.extend(part[..n].iter().map(|p| number(p[1])));
        left -= n;
    }
    Flow::new(h, w, u, v)
}

/// Writes a `.flo` file atomically: it appears complete under its name or not at all.
///
/// # Errors
/// `Param` when a side exceeds the format's `i32`; `Io` when the file cannot be written.
pub fn write(path: impl AsRef<Path>, flow: &Flow) -> Result<()> {
    let path = path.as_ref();
    let side = |name, n: usize| {
        i32::try_from(n).map_err(|_| Error::param("flo", name, n, format!("a .flo file holds at most {}", i32::MAX)))
    };
    let (w, h) = (side("w", flow.w())?, side("h", flow.h())?);
    let mut name = path.as_os_str().to_owned();
    name.push(".writing");
    let temporary = PathBuf::from(name);
    let put = || {
        let mut out = BufWriter::new(File::create(&temporary)?);
        out.write_all(MAGIC)?;
        out.write_all(&w.to_le_bytes())?;
        out.write_all(&h.to_le_bytes())?;
        for (u, v) in flow.u().iter().zip(flow.v()) {
            out.write_all(&u.to_le_bytes())?;
            out.write_all(&v.to_le_bytes())?;
        }
        out.into_inner().map_err(|e| e.into_error())?.sync_all()?;
        fs::rename(&temporary, path)
    };
    put().map_err(|e| {
        let _ = fs::remove_file(&temporary); // what could not be written is of no use; the reason is
        Error::io("write", path)(e)
    })
}
