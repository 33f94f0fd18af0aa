//! Middlebury's `.flo`: the bytes `PIEH`, width and height as little-endian `i32`, then `h w 2` little-endian `f32`
//! (u, v by turns).

use super::Flow;
use crate::error::{Error, Result};
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;

/// The first four bytes; as an `f32` they are 202021.25.
const MAGIC: &[u8; 4] = b"PIEH";
const HEADER: u64 = 12;

/// Reads a `.flo` file. The size its header claims is held against the file's length before anything is allocated.
///
/// # Errors
/// `Io` when the file cannot be read; `Format` when it is not a whole `.flo` file.
pub fn read(path: impl AsRef<Path>) -> Result<Flow> {
    let path = path.as_ref();
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let length = file.metadata().map_err(Error::io("read", path))?.len();
    if length < HEADER {
        return Err(Error::format(path, length, format!("a .flo file starts with {HEADER} bytes of header")));
    }
    let mut header = [0u8; HEADER as usize];
    file.read_exact(&mut header).map_err(Error::io("read", path))?;
    if &header[..4] != MAGIC {
        return Err(Error::format(path, 0, "this is not a .flo file: it does not start with the bytes PIEH"));
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
    let (h, w) = (h as usize, w as usize);
    let mut bytes = vec![0u8; h * w * 8];
    file.read_exact(&mut bytes).map_err(Error::io("read", path))?;
    let number = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    let u = bytes.chunks_exact(8).map(|p| number(&p[..4])).collect();
    let v = bytes.chunks_exact(8).map(|p| number(&p[4..])).collect();
    Ok(Flow { h, w, u, v })
}

/// Writes a `.flo` file.
///
/// # Errors
/// `Param` when a side exceeds the format's `i32`; `Io` when the file cannot be written.
pub fn write(path: impl AsRef<Path>, flow: &Flow) -> Result<()> {
    let path = path.as_ref();
    let side = |name, n: usize| {
        i32::try_from(n).map_err(|_| Error::param("flo", name, n, format!("a .flo file holds at most {}", i32::MAX)))
    };
    let (w, h) = (side("w", flow.w)?, side("h", flow.h)?);
    let mut out = BufWriter::new(File::create(path).map_err(Error::io("create", path))?);
    let mut put = || {
        out.write_all(MAGIC)?;
        out.write_all(&w.to_le_bytes())?;
        out.write_all(&h.to_le_bytes())?;
        for (u, v) in flow.u.iter().zip(&flow.v) {
            out.write_all(&u.to_le_bytes())?;
            out.write_all(&v.to_le_bytes())?;
        }
        out.flush()
    };
    put().map_err(Error::io("write", path))
}
