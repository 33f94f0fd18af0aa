//! The part of zip that `torch.save` uses: records that are stored as they are, in a file of any size.
//!
//! Written here because a general reader hides what matters in a file from outside (two records of one name, sizes that
//! disagree) and brings decompression and encryption, which PyTorch does not use.

use super::bytes;
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::ops::Range;
use std::path::Path;

/// Length of the record at the end of the file, without its comment.
const END: usize = 22;
/// The longest list of records.
const LONGEST_LIST: u64 = 64 << 20;
/// Stands in a field of 32 bits whose value is in a field of 64 bits elsewhere.
const ELSEWHERE: u64 = 0xffff_ffff;

/// The records of an archive by name.
pub(super) struct Zip {
    records: BTreeMap<String, Record>,
    size: u64,
}

/// One record, as the list at the end of the file describes it.
pub(super) struct Record {
    pub crc: u32,
    method: u16,
    flags: u16,
    length: u64,
    header: u64,
}

/// Little-endian number of `N` bytes at `at`.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<u64> {
    let mut wide = [0; 8];
    wide[..N].copy_from_slice(bytes.get(at..at.checked_add(N)?)?);
    Some(u64::from_le_bytes(wide))
}

impl Zip {
    /// Reads the list of records of a file of `size` bytes.
    pub(super) fn open(path: &Path, file: &mut BufReader<File>, size: u64) -> Result<Zip> {
        let wrong = |at: u64, what: &str| Error::format(path, at, what);
        let tail_begin = size.saturating_sub(END as u64 + 0xffff);
        let tail = bytes(path, file, tail_begin..size, size)?;
        let cut = "the archive is cut: it has no list of its records";
        let end = (0..tail.len().saturating_sub(END - 1)).rev().find(|at| tail[*at..].starts_with(b"PK\x05\x06"));
        let end = end.ok_or_else(|| wrong(size, cut))?;
        let field = |at, wide: bool| if wide { number::<4>(&tail, end + at) } else { number::<2>(&tail, end + at) };
        let mut list = (field(10, false), field(12, true), field(16, true));
        if let Some(locator) = end.checked_sub(20).filter(|at| tail[*at..].starts_with(b"PK\x06\x07")) {
            let at = number::<8>(&tail, locator + 8).unwrap_or(size);
            let stop = at.checked_add(56).filter(|stop| *stop <= size).ok_or_else(|| wrong(size, cut))?;
            let wide = bytes(path, file, at..stop, 56)?;
            if !wide.starts_with(b"PK\x06\x06") {
                return Err(wrong(at, cut));
            }
            list = (number::<8>(&wide, 32), number::<8>(&wide, 40), number::<8>(&wide, 48));
        }
        let (Some(count), Some(length), Some(begin)) = list else { return Err(wrong(size, cut)) };
        let stop = begin.checked_add(length).filter(|stop| *stop <= size);
        let stop = stop.ok_or_else(|| {
            wrong(
                begin.min(size),
                &format!("the list of the archive's records, {length} bytes at {begin}, is not within the file"),
            )
        })?;
        let list = bytes(path, file, begin..stop, LONGEST_LIST)?;
        let (mut records, mut at) = (BTreeMap::new(), 0);
        for _ in 0..count {
            let here = begin + at as u64;
            let entry = list.get(at..).filter(|entry| entry.starts_with(b"PK\x01\x02")).and_then(entry);
            let (name, record, length) =
                entry.ok_or_else(|| wrong(here, "the list of the archive's records is damaged"))?;
            at += length;
            if records.contains_key(&name) {
                return Err(wrong(here, &format!("the archive has two records `{name}`")));
            }
            records.insert(name, record);
        }
        Ok(Zip { records, size })
    }

    /// The record called `name`.
    pub(super) fn find(&self, name: &str) -> Option<&Record> {
        self.records.get(name)
    }

    /// The folder of the pickle, with the slash; a sentence if there is none.
    pub(super) fn folder(&self) -> Result<&str, String> {
        let top = |name: &'_ str| {
            name.strip_suffix("data.pkl").filter(|f| f.ends_with('/') && f.matches('/').count() == 1).map(str::len)
        };
        let mut folders = self.records.keys().filter_map(|name| Some(&name[..top(name)?]));
        let Some(folder) = folders.next() else {
            return Err("this zip archive was not written by `torch.save`: it has no data.pkl".into());
        };
        if folders.next().is_some() {
            return Err("the archive has two folders with a data.pkl".into());
        }
        if self.records.contains_key(&format!("{folder}constants.pkl")) {
            return Err("this is a TorchScript program, not weights: save the module's state_dict()".into());
        }
        Ok(folder)
    }

    /// Where the bytes of a record are.
    pub(super) fn locate(
        &self,
        path: &Path,
        file: &mut BufReader<File>,
        name: &str,
        record: &Record,
    ) -> Result<Range<u64>> {
        let wrong = |what: String| Error::format(path, record.header, what);
        if record.method != 0 {
            let what = "is compressed, which `torch.save` does not do: unpack the archive and store it uncompressed";
            return Err(wrong(format!("the record `{name}` {what}")));
        }
        if record.flags & 1 != 0 {
            return Err(wrong(format!("the record `{name}` is encrypted")));
        }
        let outside = || wrong(format!("the record `{name}` of {} bytes is not within the file", record.length));
        let begin = record.header.checked_add(30).filter(|b| *b <= self.size).ok_or_else(outside)?;
        let header = bytes(path, file, record.header..begin, 30)?;
        let names =
            header.starts_with(b"PK\x03\x04").then(|| Some(number::<2>(&header, 26)? + number::<2>(&header, 28)?));
        let names =
            names.flatten().ok_or_else(|| wrong(format!("the record `{name}` does not begin where the list says")))?;
        let begin = begin + names;
        let end = begin.checked_add(record.length).filter(|end| *end <= self.size).ok_or_else(outside)?;
        Ok(begin..end)
    }
}

/// An entry of the list, at the start of `bytes`: name, record, length of the entry.
fn entry(bytes: &[u8]) -> Option<(String, Record, usize)> {
    let [names, extras, comments] = [28, 30, 32].map(|at| number::<2>(bytes, at));
    let (names, extras, comments) = (names? as usize, extras? as usize, comments? as usize);
    let name = std::str::from_utf8(bytes.get(46..46 + names)?).ok().filter(|name| !name.contains(char::is_control))?;
    let mut extra = bytes.get(46 + names..46 + names + extras)?;
    let (mut packed, mut length, mut header) =
        (number::<4>(bytes, 20)?, number::<4>(bytes, 24)?, number::<4>(bytes, 42)?);
    while let (Some(tag), Some(size)) = (number::<2>(extra, 0), number::<2>(extra, 2)) {
        let field = extra.get(4..4 + size as usize)?;
        if tag == 1 {
            // The wide values of those fields that have none, in this order.
            let mut values = field.as_chunks().0.iter().map(|wide| u64::from_le_bytes(*wide));
            for narrow in [&mut length, &mut packed, &mut header].into_iter().filter(|narrow| **narrow == ELSEWHERE) {
                *narrow = values.next()?;
            }
        }
        extra = &extra[4 + size as usize..];
    }
    let record = Record {
        crc: number::<4>(bytes, 16)? as u32,
        method: number::<2>(bytes, 10)? as u16,
        flags: number::<2>(bytes, 8)? as u16,
        length,
        header,
    };
    let whole = 46 + names + extras + comments;
    bytes.get(..whole).map(|_| (name.to_owned(), record, whole))
}
