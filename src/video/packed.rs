//! The files of the cache: a header that describes the content and its source, then the data, which is read through a
//! memory map.
//!
//! Little-endian throughout:
//!
//! | offset | type | content |
//! |---|---|---|
//! | 0 | 8 bytes | `TBVIDEO\n` frames, `TBVFLOW\n` flow, `TBVMAPS\n` maps |
//! | 8 | u32 | version of the format |
//! | 12 | u32 | length of the header in bytes, a multiple of 64: offset of the data |
//! | 16 | u32 x 6 | extents |
//! | | | frames: t, h, w, 0, 0, 0 |
//! | | | flow: fields n, h, w; distance k between the first frames of fields; frames from the first to the second image; 0 |
//! | | | maps: count, rows and columns, number of scores; frames between maps; fields summed per map |
//! | 40 | f64 | frames per second |
//! | 48 | u32 | CRC-32 of the data |
//! | 52 | u32 | CRC-32 of the source data: of the frames for flow, of the flow for maps; 0 for frames |
//! | 56 | u64 | hash of the key |
//! | 64 | u32 | CRC-32 of the header, with this field as 0 |
//! | 68 | u32 | length of the key, the text that describes source and settings |
//! | 72 | bytes | the key, then zeros |
//! | header length | u8 | frames: `t h w 3` |
//! | | f16 | flow: for each field the plane of u (`h w`), then of v, in pixels |
//! | | f32 | maps, then scores |
//!
//! The checksums (CRC-32 as in zip and PNG) detect every change of up to 32 adjacent bits.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use memmap2::{Advice, Mmap, MmapOptions};

use crate::error::{Error, Result};
use crate::files;

const _: () =
    assert!(cfg!(target_endian = "little"), "cache files are mapped as they are and hold little-endian numbers");

/// Increased when a file's layout changes, or when decoding or flow computation gives other data than before.
pub(super) const VERSION: u32 = 2;
const FIXED: usize = 72;
/// Entries of tar files begin at multiples of this, so that the numbers in them are aligned.
const ENTRY: u64 = 512;
/// Offset of the header's own checksum.
const HEADER_SUM: usize = 64;
/// Keys contain paths and some settings.
pub(super) const MAX_KEY: usize = 64 << 10;

/// Kind of content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The frames of a video (`.tbv`).
    Frames,
    /// Its flow (`.tbf`).
    Flow,
    /// Its motion maps and scores (`.tbm`).
    Maps,
}

impl Kind {
    /// All kinds, in the order in which they are created.
    pub const ALL: [Kind; 3] = [Kind::Frames, Kind::Flow, Kind::Maps];

    fn magic(self) -> &'static [u8; 8] {
        match self {
            Kind::Frames => b"TBVIDEO\n",
            Kind::Flow => b"TBVFLOW\n",
            Kind::Maps => b"TBVMAPS\n",
        }
    }

    /// The extension of such files.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Kind::Frames => "tbv",
            Kind::Flow => "tbf",
            Kind::Maps => "tbm",
        }
    }

    /// `frames`, `flow` or `maps`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Frames => "frames",
            Kind::Flow => "flow",
            Kind::Maps => "maps",
        }
    }

    /// Bytes of data with these extents; `None` if no file can have them.
    fn bytes(self, extents: [usize; 6]) -> Option<usize> {
        let ([a, b, c, d, e, f], some) = (extents, |n: &[usize]| n.iter().all(|&n| n > 0));
        let elements = a.checked_mul(b)?.checked_mul(c).filter(|&n| n > 0)?;
        match self {
            Kind::Frames if [d, e, f] == [0; 3] => elements.checked_mul(3),
            Kind::Flow if some(&[d, e]) && f == 0 => elements.checked_mul(4),
            Kind::Maps if some(&[d, e, f]) => elements.checked_add(d)?.checked_mul(4),
            _ => None,
        }
    }
}

/// A header whose sizes were checked against the length of its file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Head {
    pub extents: [usize; 6],
    pub fps: f64,
    /// Checksum of the data.
    pub sum: u32,
    /// Checksum of the source data.
    pub made_of: u32,
    pub key_hash: u64,
    key_length: usize,
    /// Offset of the data.
    begin: usize,
}

impl Head {
    /// Parses and checks the header of a file of `kind` with these bytes. Its content is used only after the lengths
    /// were found to add up to that of the file. The error has the offset where it was detected.
    pub(super) fn parse(kind: Kind, bytes: &[u8]) -> Result<Head, (u64, String)> {
        let bad = |offset: usize, what: String| Err((offset as u64, what));
        if bytes.len() < FIXED || &bytes[..8] != kind.magic() {
            return bad(0, format!("this is no cache file of {}", kind.name()));
        }
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        if u32_at(8) != VERSION {
            return bad(8, format!("this cache file has format {}, this program reads {VERSION}", u32_at(8)));
        }
        let (begin, key_length) = (u32_at(12) as usize, u32_at(68) as usize);
        if key_length > MAX_KEY || begin != header_length(key_length) || begin > bytes.len() {
            return bad(12, "the lengths in the header of this cache file do not fit".into());
        }
        if header_sum(&bytes[..begin]) != u32_at(HEADER_SUM) {
            return bad(HEADER_SUM, "the header of this cache file is damaged".into());
        }
        let extents = std::array::from_fn(|i| u32_at(16 + 4 * i) as usize);
        let fps = f64::from_bits(u64_at(40));
        let end = kind.bytes(extents).and_then(|n| n.checked_add(begin));
        if end != Some(bytes.len()) || !(fps.is_finite() && fps > 0.0) {
            return bad(16, "the sizes in the header of this cache file do not fit its length".into());
        }
        let (sum, made_of, key_hash) = (u32_at(48), u32_at(52), u64_at(56));
        Ok(Head { extents, fps, sum, made_of, key_hash, key_length, begin })
    }

    /// The key in the file with these bytes.
    pub(super) fn key<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[FIXED..FIXED + self.key_length]
    }

    /// The data in the file with these bytes.
    pub(super) fn numbers<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.begin..]
    }

    /// Verifies the checksum of the data.
    pub(super) fn verify(&self, kind: Kind, bytes: &[u8]) -> Result<(), (u64, String)> {
        if crc32fast::hash(self.numbers(bytes)) != self.sum {
            return Err((
                self.begin as u64,
                format!("the {} in this cache file are not those of its checksum", kind.name()),
            ));
        }
        Ok(())
    }
}

/// A mapped file of the cache. No file stays open.
#[derive(Debug)]
pub(super) struct Mapped {
    map: Mmap,
    pub head: Head,
}

impl Mapped {
    /// Maps `path` after checking its header and all sizes against its length; with `verify`, the checksum of the data
    /// is verified too.
    pub(super) fn open(path: &Path, kind: Kind, verify: bool) -> Result<Mapped> {
        let (file, _) = files::open_regular(path, "a cache file")?;
        // SAFETY: cache files appear complete by a rename and are never modified; replacing or removing one unlinks its
        // name and leaves this mapping intact.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io("map", path))?;
        Mapped::of(map, path, 0, kind, verify)
    }

    /// Maps the `bytes` at `offset` in the file at `path`, which hold a cache file: an entry of a tar file. It is checked as
    /// [`Mapped::open`] checks a whole file.
    pub(super) fn open_in(path: &Path, [offset, bytes]: [u64; 2], kind: Kind, verify: bool) -> Result<Mapped> {
        let (file, length) = files::open_regular(path, "a packed file")?;
        // Memory beyond the end of a file can be mapped, and reading it would end the program.
        let end = offset.checked_add(bytes).filter(|end| *end <= length && offset.is_multiple_of(ENTRY));
        let (Some(_), Ok(size)) = (end, usize::try_from(bytes)) else {
            let what = format!("no {bytes} bytes of {} can be here in a file of {length}", kind.name());
            return Err(Error::format(path, offset, what));
        };
        // SAFETY: packed files appear complete by a rename and are never modified; replacing or removing one unlinks its
        // name and leaves this mapping intact.
        let map = unsafe { MmapOptions::new().offset(offset).len(size).map(&file) };
        Mapped::of(map.map_err(Error::io("map", path))?, path, offset, kind, verify)
    }

    fn of(map: Mmap, path: &Path, begin: u64, kind: Kind, verify: bool) -> Result<Mapped> {
        let format = |(offset, what)| Error::format(path, begin + offset, what);
        let head = Head::parse(kind, &map).map_err(format)?;
        if verify {
            // Advice only: an error does not matter.
            let _ = map.advise(Advice::Sequential);
            head.verify(kind, &map).map_err(format)?;
            let _ = map.advise(Advice::Normal);
        }
        Ok(Mapped { map, head })
    }

    /// The data.
    pub(super) fn numbers(&self) -> &[u8] {
        self.head.numbers(&self.map)
    }

    /// The key.
    pub(super) fn key(&self) -> &[u8] {
        self.head.key(&self.map)
    }

    /// Refuses a file that does not match `key`, or whose source data does not have checksum `made_of`, if given.
    pub(super) fn expect(&self, path: &Path, key: &Named, made_of: Option<u32>) -> Result<()> {
        if self.head.key_hash != key.hash || self.key() != key.text {
            return Err(Error::format(path, 56, "this cache file was made of something else"));
        }
        if made_of.is_some_and(|sum| sum != self.head.made_of) {
            return Err(Error::format(path, 52, "what this cache file was made of has changed"));
        }
        Ok(())
    }
}

/// A key as stored in a file, and the hash that names the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub text: Vec<u8>,
    pub hash: u64,
}

/// Content to write to a file.
pub(super) struct Content<'a> {
    pub extents: [usize; 6],
    pub fps: f64,
    /// Checksum of the source data.
    pub made_of: u32,
    pub numbers: &'a [u8],
}

/// Writes a complete file and waits until it is on disk.
pub(super) fn write(file: &mut File, kind: Kind, key: &Named, content: &Content) -> std::io::Result<()> {
    file.write_all(&header(kind, key, content)?.0)?;
    file.write_all(content.numbers)?;
    file.sync_all()
}

/// The header of a file, and the checksum of its data, which follows.
pub(super) fn header(kind: Kind, key: &Named, content: &Content) -> std::io::Result<(Vec<u8>, u32)> {
    let small = |n: usize| u32::try_from(n).map_err(|_| std::io::Error::other("too large for a cache file"));
    if key.text.len() > MAX_KEY || kind.bytes(content.extents) != Some(content.numbers.len()) {
        return Err(std::io::Error::other("this does not fit into a cache file"));
    }
    let mut header = vec![0u8; header_length(key.text.len())];
    let length = small(header.len())?;
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, kind.magic());
    put(8, &VERSION.to_le_bytes());
    put(12, &length.to_le_bytes());
    for (i, n) in content.extents.into_iter().enumerate() {
        put(16 + 4 * i, &small(n)?.to_le_bytes());
    }
    put(40, &content.fps.to_le_bytes());
    let data_sum = crc32fast::hash(content.numbers);
    put(48, &data_sum.to_le_bytes());
    put(52, &content.made_of.to_le_bytes());
    put(56, &key.hash.to_le_bytes());
    put(68, &small(key.text.len())?.to_le_bytes());
    put(FIXED, &key.text);
    let sum = header_sum(&header);
    header[HEADER_SUM..HEADER_SUM + 4].copy_from_slice(&sum.to_le_bytes());
    Ok((header, data_sum))
}

/// Length of a header with a key of `key` bytes.
fn header_length(key: usize) -> usize {
    (FIXED + key).next_multiple_of(64)
}

/// Checksum of a header with its own field as 0.
fn header_sum(header: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&header[..HEADER_SUM]);
    sum.update(&[0; 4]);
    sum.update(&header[HEADER_SUM + 4..]);
    sum.finalize()
}
