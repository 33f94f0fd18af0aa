//! Maps and scores of a video as a file of their own beside the packed one: they change with settings of sampling, which
//! shall not cost the flow again, and a cache that was made without them is only added to.
//!
//! Little-endian throughout:
//!
//! | offset | type | content |
//! |---|---|---|
//! | 0 | 8 bytes | `TBVMAPS\n` |
//! | 8 | u32 | version of the format |
//! | 12 | u32 | length of the header in bytes, a multiple of 64: where the maps begin |
//! | 16 | u32 x 4 | number of maps, rows and columns of each, number of scores |
//! | 32 | u32 x 2 | frames of the video from one map to the next; fields summed for each |
//! | 40 | u64 | checksum of maps and scores |
//! | 48 | u64 | hash of the key |
//! | 56 | u64 | checksum of the header, this field taken as 0 |
//! | 64 | u32 | length of the key: that of the packed video, and the settings of the maps |
//! | 68 | bytes | the key, then zeros |
//! | header length | f32 | maps, then scores |

use std::io::Write;
use std::path::Path;

use super::packed::{self, MAX_KEY, header_sum, sum};
use crate::error::{Error, Result};
use crate::flow::maps::{MapSpec, Maps};

const MAGIC: &[u8; 8] = b"TBVMAPS\n";
const VERSION: u32 = 1;
const FIXED: usize = 68;
/// Where the header's checksum is.
const HEADER_SUM: usize = 56;
/// No file of maps is longer: a day of video at 60 frames a second takes half of it.
const MAX_BYTES: u64 = 2 << 30;

/// What a file of maps depends on, where `video` is what the packed video does.
pub(super) fn key(video: &[u8], spec: &MapSpec) -> Vec<u8> {
    let mut key = video.to_vec();
    key.extend(format!("maps format {VERSION}, {spec:?}\n").as_bytes());
    key
}

/// Reads the file at `path`, all checksums included. `key`, where given, is what it must be made of.
pub(super) fn read(path: &Path, key_hash: u64, key: Option<&[u8]>) -> Result<Maps> {
    let length = std::fs::metadata(path).map_err(Error::io("read", path))?.len();
    if length > MAX_BYTES {
        return Err(Error::format(path, 0, format!("{length} bytes are too many for the maps of a video")));
    }
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    parse(&bytes, key_hash, key).map_err(|(offset, what)| Error::format(path, offset, what))
}

fn parse(bytes: &[u8], key_hash: u64, key: Option<&[u8]>) -> Result<Maps, (u64, String)> {
    let bad = |offset: usize, what: &str| Err((offset as u64, what.to_owned()));
    if bytes.len() < FIXED || &bytes[..8] != MAGIC {
        return bad(0, "this is no file of maps");
    }
    let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
    let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
    let size_at = |at: usize| u32_at(at) as usize;
    if u32_at(8) != VERSION {
        return Err((8, format!("this file of maps has format {}, this program reads {VERSION}", u32_at(8))));
    }
    let (begin, key_length) = (size_at(12), size_at(64));
    if key_length > MAX_KEY || begin != packed::header_length(FIXED, key_length) || begin > bytes.len() {
        return bad(12, "the lengths in the header of this file of maps do not fit");
    }
    if header_sum(&bytes[..begin], HEADER_SUM) != u64_at(HEADER_SUM) {
        return bad(HEADER_SUM, "the header of this file of maps is damaged");
    }
    let [count, rows, cols, starts, every, summed] = std::array::from_fn(|i| size_at(16 + 4 * i));
    let numbers = [rows, cols].iter().try_fold(count, |n, &d| n.checked_mul(d));
    let end = numbers.and_then(|n| n.checked_add(starts)?.checked_mul(4)?.checked_add(begin));
    let split = match (numbers, end) {
        (Some(n), Some(end)) if end == bytes.len() && n > 0 && starts > 0 && every > 0 && summed > 0 => n,
        _ => return bad(16, "the sizes in the header of this file of maps do not fit its length"),
    };
    if u64_at(48) != key_hash || key.is_some_and(|key| bytes.get(FIXED..FIXED + key_length) != Some(key)) {
        return bad(48, "this file of maps was made of something else");
    }
    if sum(&bytes[begin..]) != u64_at(40) {
        return bad(begin, "the maps in this file are damaged");
    }
    let number = |b: &[u8]| f32::from_le_bytes(std::array::from_fn(|i| b[i]));
    let mut maps: Vec<f32> = bytes[begin..].chunks_exact(4).map(number).collect();
    let scores = maps.split_off(split);
    Maps::from_parts([rows, cols], every, summed, maps, scores).map_err(|e| (16, e.to_string()))
}

/// Writes maps to `file`, all of them, and waits until they are on the disk.
pub(super) fn write(file: &mut std::fs::File, key: &[u8], key_hash: u64, maps: &Maps) -> std::io::Result<()> {
    let small = |n: usize| u32::try_from(n).map_err(|_| std::io::Error::other("too large for a file of maps"));
    if key.len() > MAX_KEY {
        return Err(std::io::Error::other("the settings are too long for a file of maps"));
    }
    let body: Vec<u8> = maps.maps().iter().chain(maps.scores()).flat_map(|v| v.to_le_bytes()).collect();
    let [rows, cols] = maps.grid();
    let mut header = vec![0u8; packed::header_length(FIXED, key.len())];
    let length = small(header.len())?;
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, MAGIC);
    put(8, &VERSION.to_le_bytes());
    put(12, &length.to_le_bytes());
    let count = maps.maps().len() / (rows * cols).max(1);
    for (i, n) in [count, rows, cols, maps.scores().len(), maps.every(), maps.summed()].into_iter().enumerate() {
        put(16 + 4 * i, &small(n)?.to_le_bytes());
    }
    put(40, &sum(&body).to_le_bytes());
    put(48, &key_hash.to_le_bytes());
    put(64, &small(key.len())?.to_le_bytes());
    put(FIXED, key);
    let checksum = header_sum(&header, HEADER_SUM);
    header[HEADER_SUM..HEADER_SUM + 8].copy_from_slice(&checksum.to_le_bytes());
    file.write_all(&header)?;
    file.write_all(&body)?;
    file.sync_all()
}
