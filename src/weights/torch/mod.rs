//! What `torch.save` writes: a pickle that describes objects, and storages, the numbers of tensors.

mod calls;
mod objects;
mod pickle;
mod stream;
mod tree;
mod zip;

use super::{Format, Info};
use crate::error::{Error, Result};
use crate::files::with_room;
use objects::Objects;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

/// The longest pickle that is read. That of a network of a thousand tensors has some 100 kB.
const LONGEST_PICKLE: u64 = 64 << 20;

/// What the first bytes of a file say: a format of PyTorch, the reason why it is not read, or `None` for other files.
pub(super) fn recognise(first: &[u8]) -> Option<Result<Format, &'static str>> {
    if first.starts_with(b"PK\x03\x04") || first.starts_with(b"PK\x05\x06") {
        return Some(Ok(Format::TorchZip));
    }
    if stream::magic(first).is_some() {
        return Some(Ok(Format::TorchStream));
    }
    if first.get(257..262) == Some(b"ustar") {
        return Some(Err("this is a tar archive, as PyTorch wrote before 0.1.10: save it again with a newer PyTorch"));
    }
    // A safetensors file begins with the length of its header, and that with a brace.
    let pickle = matches!(first, [0x80, 2..=5, ..]) && first.get(8) != Some(&b'{');
    pickle.then_some(Err("this is a pickle that `torch.save` did not write (of Caffe2 or NumPy?), or one that is cut"))
}

/// The parts of a file with checksums: byte ranges and their CRC-32.
pub(super) struct Archive(Vec<(Range<u64>, u32)>);

/// A fault in a file: the byte where it was noticed, and a sentence about it.
struct Fault {
    at: u64,
    what: String,
}

impl Archive {
    /// Reads what a file of `size` bytes says of its tensors.
    pub(super) fn open(
        path: &Path,
        file: &mut BufReader<File>,
        size: u64,
        format: Format,
    ) -> Result<(Archive, BTreeMap<String, Info>)> {
        let (objects, places, sums) = match format {
            Format::TorchZip => in_archive(path, file, size)?,
            _ => in_stream(path, file, size)?,
        };
        for (storage, place) in objects.storages().iter().zip(&places) {
            let (has, needs) = (place.end - place.start, storage.bytes());
            if needs.is_none_or(|needs| needs > has) {
                let (key, numel, dtype) = (&storage.key, storage.numel, storage.dtype);
                let what = format!("the storage `{key}` has {numel} numbers of type {dtype} in {has} bytes: too few");
                return Err(Error::format(path, place.start, what));
            }
        }
        let tensors = tree::tensors(&objects, &places, size).map_err(|what| Error::content(path, what))?;
        Ok((Archive(sums), tensors))
    }

    /// Compares the file with its checksums.
    pub(super) fn verify(&self, path: &Path, file: &mut BufReader<File>) -> Result<()> {
        for (range, want) in &self.0 {
            let (mut sum, mut left) = (crc32fast::Hasher::new(), range.end - range.start);
            let read = (|| {
                file.seek(SeekFrom::Start(range.start))?;
                let mut piece = vec![0; left.min(1 << 20) as usize];
                while left > 0 {
                    let n = left.min(piece.len() as u64) as usize;
                    file.read_exact(&mut piece[..n])?;
                    sum.update(&piece[..n]);
                    left -= n as u64;
                }
                Ok(())
            })();
            read.map_err(Error::io("read", path))?;
            let got = sum.finalize();
            if got != *want {
                let what = format!("the file is damaged: a part of it has the CRC-32 {got:08x} instead of {want:08x}");
                return Err(Error::format(path, range.start, what));
            }
        }
        Ok(())
    }
}

/// The objects of a file, the place of each storage, and checksums.
type Parts = (Objects, Vec<Range<u64>>, Vec<(Range<u64>, u32)>);

fn in_archive(path: &Path, file: &mut BufReader<File>, size: u64) -> Result<Parts> {
    let wrong = |what: String| Error::content(path, what);
    let zip = zip::Zip::open(path, file, size)?;
    let folder = zip.folder().map_err(wrong)?;
    let mut sums = Vec::new();
    let mut place = |file: &mut BufReader<File>, name: &str| {
        let name = format!("{folder}{name}");
        let Some(record) = zip.find(&name) else { return Err(wrong(format!("the archive has no `{name}`"))) };
        let range = zip.locate(path, file, &name, record)?;
        if record.crc != 0 {
            sums.push((range.clone(), record.crc)); // 0: PyTorch was told not to compute them
        }
        Ok(range)
    };
    if zip.find(&format!("{folder}byteorder")).is_some() {
        let range = place(file, "byteorder")?;
        if bytes(path, file, range, 16)? != b"little" {
            return Err(wrong("its numbers are not little-endian: it comes from another kind of machine".into()));
        }
    }
    let pickle = place(file, "data.pkl")?;
    let begin = pickle.start;
    let text = bytes(path, file, pickle, LONGEST_PICKLE)?;
    let objects = pickle::read(&text, begin).map_err(|f| Error::format(path, f.at, f.what))?.0;
    let places = objects.storages().iter().map(|s| place(file, &format!("data/{}", s.key))).collect::<Result<_>>()?;
    Ok((objects, places, sums))
}

fn in_stream(path: &Path, file: &mut BufReader<File>, size: u64) -> Result<Parts> {
    let text = bytes(path, file, 0..size.min(LONGEST_PICKLE), LONGEST_PICKLE)?;
    let (objects, keys, mut at) = stream::read(&text).map_err(|f| Error::format(path, f.at, f.what))?;
    let mut places = vec![None; objects.storages().len()];
    for key in keys {
        let Some(index) = objects.storage(&key) else {
            return Err(Error::format(path, at, format!("the storage `{key}` belongs to no tensor")));
        };
        let storage = &objects.storages()[index];
        let cut = |at| Error::format(path, at, format!("the file is cut in the storage `{key}`"));
        let count = bytes(path, file, at..at.checked_add(8).filter(|end| *end <= size).ok_or_else(|| cut(at))?, 8)?;
        let count = i64::from_le_bytes(count.try_into().unwrap_or([0; 8]));
        if u64::try_from(count) != Ok(storage.numel) {
            let what = format!("the storage `{key}` has {count} numbers, and its tensors say {}", storage.numel);
            return Err(Error::format(path, at, what));
        }
        let end = storage.bytes().and_then(|n| (at + 8).checked_add(n)).filter(|end| *end <= size);
        let end = end.ok_or_else(|| cut(at))?;
        places[index] = Some(at + 8..end);
        at = end;
    }
    let missing = objects.storages().iter().zip(&places).find(|(_, place)| place.is_none());
    if let Some((storage, _)) = missing {
        return Err(Error::format(path, at, format!("the storage `{}` is missing", storage.key)));
    }
    Ok((objects, places.into_iter().flatten().collect(), Vec::new()))
}

/// The bytes of `range`, which lies within the file; at most `most`.
fn bytes(path: &Path, file: &mut BufReader<File>, range: Range<u64>, most: u64) -> Result<Vec<u8>> {
    let length = range.end - range.start;
    if length > most {
        let what = format!("a description of {length} bytes is too long: at most {most} are read");
        return Err(Error::format(path, range.start, what));
    }
    let mut bytes = with_room(path, length as usize)?;
    bytes.resize(length as usize, 0);
    let read = file.seek(SeekFrom::Start(range.start)).and_then(|_| file.read_exact(&mut bytes));
    read.map_err(Error::io("read", path))?;
    Ok(bytes)
}
