//! Hashes of the content of video files, which stay the same when files are moved, copied or mounted elsewhere.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files::{self, fnv1a, fnv1a_on};

/// Bytes of each piece of a file that is hashed.
const PIECE: u64 = 64 << 10;

/// Size of a file and a hash of its first, middle and last 64 KiB, or of all of it if it is shorter than these. Another encoding
/// of a video differs in its size, and in the tables of its container at the start or the end.
pub(super) fn of_file(path: &Path) -> Result<(u64, u64)> {
    let (mut file, bytes) = files::open_regular(path, "a video")?;
    let pieces = if bytes <= 3 * PIECE {
        vec![(0, bytes)]
    } else {
        [0, (bytes - PIECE) / 2, bytes - PIECE].map(|at| (at, PIECE)).to_vec()
    };
    let mut hash = fnv1a(&bytes.to_le_bytes());
    let mut piece = Vec::new();
    for (at, length) in pieces {
        piece.clear();
        let read = file.seek(SeekFrom::Start(at)).and_then(|_| (&mut file).take(length).read_to_end(&mut piece));
        read.map_err(Error::io("read", path))?;
        hash = fnv1a_on(&piece, hash);
    }
    Ok((bytes, hash))
}

/// A hash of the names and contents of files, in their order.
pub(super) fn of_files(paths: &[PathBuf]) -> Result<u64> {
    let mut text = Vec::new();
    for path in paths {
        text.extend(path.file_name().unwrap_or_default().as_encoded_bytes());
        let (bytes, hash) = of_file(path)?;
        text.extend(format!("/{bytes}/{hash:016x}/").as_bytes());
    }
    Ok(fnv1a(&text))
}
