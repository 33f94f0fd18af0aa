//! Safetensors files: writing one atomically, and reading an untrusted one.
//!
//! Files have a checksum in their metadata, `"tubelet_crc32":"0123abcd"`: the CRC-32 of all bytes of the file with
//! these eight digits replaced by zeros. It detects every change within 32 consecutive bits. Other readers of the
//! format ignore it.

use super::sync_folder;
use crate::error::{Error, Result};
use crate::files;
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Serialize;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Bytes of the prefix, which holds the header's length.
const PREFIX: u64 = 8;
/// The longest header the format allows.
const MAX_HEADER: u64 = 100_000_000;
/// The key of the checksum in the metadata.
const CHECKSUM: &str = "tubelet_crc32";
/// What replaces the digits of the checksum when it is computed.
const ZEROS: &str = "00000000";

/// A header to be written: names in alphabetical order, so that the bytes of a file depend on its content alone.
#[derive(Serialize)]
struct Header<'a> {
    #[serde(rename = "__metadata__")]
    notes: BTreeMap<&'a str, &'a str>,
    #[serde(flatten)]
    tensors: BTreeMap<&'a str, &'a TensorInfo>,
}

/// A tensor to be written.
pub(super) struct Entry<'a> {
    pub shape: Vec<usize>,
    pub data: Data<'a>,
}

/// The two data types that are written.
pub(super) enum Data<'a> {
    F32(Cow<'a, [f32]>),
    I64(i64),
}

impl Data<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Data::F32(v) => bytemuck::cast_slice(v),
            Data::I64(v) => bytemuck::bytes_of(v),
        }
    }

    fn dtype(&self) -> Dtype {
        match self {
            Data::F32(_) => Dtype::F32,
            Data::I64(_) => Dtype::I64,
        }
    }
}

/// Writes `entries` to a temporary file in the folder of `path`, syncs it and renames it. `note` is an entry of the
/// metadata. Returns the file's checksum.
pub(super) fn write(path: &Path, entries: &BTreeMap<String, Entry>, note: (&str, &str)) -> Result<String> {
    // Wider types first, then by name: the order used by the format's own library, which keeps all data aligned.
    let mut order: Vec<(&String, &Entry)> = entries.iter().collect();
    order.sort_by_key(|(_, e)| std::cmp::Reverse(e.data.dtype()));
    let mut at = 0;
    let infos = order.iter().map(|(name, e)| {
        let begin = at;
        at += e.data.bytes().len();
        let info = TensorInfo { dtype: e.data.dtype(), shape: e.shape.clone(), data_offsets: (begin, at) };
        ((*name).clone(), info)
    });
    let metadata = Metadata::new(None, infos.collect()).map_err(|e| Error::data(path, e))?;
    let tensors = metadata.tensors();
    let tensors = tensors.iter().map(|(name, info)| (name.as_str(), *info)).collect();
    let header = Header { notes: BTreeMap::from([note, (CHECKSUM, ZEROS)]), tensors };
    let mut header = serde_json::to_vec(&header).map_err(|e| Error::data(path, e))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let prefix = (header.len() as u64).to_le_bytes();
    let mut sum = crc32fast::Hasher::new();
    [&prefix[..], &header].into_iter().chain(order.iter().map(|(_, e)| e.data.bytes())).for_each(|b| sum.update(b));
    let sum = format!("{:08x}", sum.finalize());
    if let Some(digits) = digits_of(&header) {
        header[digits].copy_from_slice(sum.as_bytes());
    }

    let temporary = path.with_extension("safetensors.writing");
    let result = (|| {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(&temporary)?);
        out.write_all(&prefix)?;
        out.write_all(&header)?;
        for (_, entry) in &order {
            out.write_all(entry.data.bytes())?;
        }
        out.into_inner().map_err(|e| e.into_error())?.sync_all()?;
        fs::rename(&temporary, path)
    })();
    result.map_err(|e| {
        let _ = fs::remove_file(&temporary); // ignore a second error; the first is returned
        Error::io("write", path)(e)
    })?;
    sync_folder(path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
    Ok(sum)
}

/// Where in a header the digits of the checksum are. Strings in the metadata cannot contain this key, because their
/// quotes are escaped.
fn digits_of(header: &[u8]) -> Option<Range<usize>> {
    let before = format!("\"{CHECKSUM}\":\"");
    let begin = header.windows(before.len()).position(|w| w == before.as_bytes())? + before.len();
    (header.get(begin + ZEROS.len()) == Some(&b'"')).then_some(begin..begin + ZEROS.len())
}

/// An opened file whose header is consistent with its size.
pub(super) struct Reader {
    path: PathBuf,
    file: BufReader<File>,
    header: Vec<u8>,
    data_begin: u64,
    metadata: Metadata,
}

impl Reader {
    pub(super) fn open(path: &Path) -> Result<Reader> {
        let io = |e| Error::io("read", path)(e);
        let (mut file, size) = files::open_regular(path, "a file of weights or of a run's state")?;
        if size < PREFIX {
            return Err(Error::format(path, size, "the file is cut: it has no room for a safetensors header"));
        }
        let mut prefix = [0; PREFIX as usize];
        file.read_exact(&mut prefix).map_err(io)?;
        let length = u64::from_le_bytes(prefix);
        // Checked before any allocation, so that a malicious length cannot cause one.
        if length > MAX_HEADER || length > size - PREFIX {
            let what = format!("a header of {length} bytes is announced in a file of {size}: cut, or not safetensors");
            return Err(Error::format(path, 0, what));
        }
        let mut header = vec![0; length as usize];
        file.read_exact(&mut header).map_err(io)?;
        let metadata: Metadata = serde_json::from_slice(&header)
            .map_err(|e| Error::format(path, PREFIX, format!("the safetensors header does not hold: {e}")))?;
        let data_begin = PREFIX + length;
        let expected = data_begin + metadata.data_len() as u64;
        if size != expected {
            let what = format!("the file has {size} bytes where its header announces {expected}: it is cut or damaged");
            return Err(Error::format(path, size, what));
        }
        Ok(Reader { path: path.to_owned(), file: BufReader::new(file), header, data_begin, metadata })
    }

    /// Compares the file with its checksum, and returns that; `None` if the file, from another program, has none.
    pub(super) fn verify(&mut self) -> Result<Option<String>> {
        let Some(want) = self.note(CHECKSUM).map(str::to_owned) else { return Ok(None) };
        let mut header = self.header.clone();
        if let Some(digits) = digits_of(&header) {
            header[digits].copy_from_slice(ZEROS.as_bytes());
        }
        let mut sum = crc32fast::Hasher::new();
        sum.update(&(header.len() as u64).to_le_bytes());
        sum.update(&header);
        let read = (|| {
            self.file.seek(SeekFrom::Start(self.data_begin))?;
            let mut piece = vec![0; 1 << 20];
            loop {
                match self.file.read(&mut piece)? {
                    0 => return Ok(()),
                    n => sum.update(&piece[..n]),
                }
            }
        })();
        read.map_err(Error::io("read", &self.path))?;
        let got = format!("{:08x}", sum.finalize());
        if got != want {
            let what = format!("the file is damaged: its bytes have the CRC-32 {got} instead of {want}");
            return Err(Error::format(&self.path, self.data_begin, what));
        }
        Ok(Some(want))
    }

    /// An entry of the metadata.
    pub(super) fn note(&self, key: &str) -> Option<&str> {
        self.metadata.metadata().as_ref()?.get(key).map(String::as_str)
    }

    /// Names and infos of all tensors, by name.
    pub(super) fn infos(&self) -> BTreeMap<String, TensorInfo> {
        self.metadata.tensors().into_iter().map(|(name, info)| (name, info.clone())).collect()
    }

    /// The elements of a tensor as f32.
    pub(super) fn f32(&mut self, name: &str, info: &TensorInfo) -> Result<Vec<f32>> {
        let bytes = self.bytes(info)?;
        let values: Vec<f32> = match info.dtype {
            Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::F64 => bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
            Dtype::BF16 => bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            other => return Err(self.wrong(info, format!("`{name}` is of type {other}, but must be floating point"))),
        };
        match values.iter().position(|v| !v.is_finite()) {
            None => Ok(values),
            Some(i) => Err(self.wrong(info, format!("`{name}` holds {} at place {i}", values[i]))),
        }
    }

    /// The value of an I64 scalar.
    pub(super) fn i64(&mut self, name: &str, info: &TensorInfo) -> Result<i64> {
        let bytes = self.bytes(info)?;
        match (info.dtype, <[u8; 8]>::try_from(bytes.as_slice())) {
            (Dtype::I64, Ok(b)) => Ok(i64::from_le_bytes(b)),
            _ => Err(self.wrong(info, format!("`{name}` must be one number of type I64"))),
        }
    }

    fn bytes(&mut self, info: &TensorInfo) -> Result<Vec<u8>> {
        let (begin, end) = info.data_offsets; // inside the file, as checked by `open`
        let mut bytes = vec![0; end - begin];
        let start = SeekFrom::Start(self.data_begin + begin as u64);
        let read = self.file.seek(start).and_then(|_| self.file.read_exact(&mut bytes));
        read.map_err(Error::io("read", &self.path))?;
        Ok(bytes)
    }

    fn wrong(&self, info: &TensorInfo, what: String) -> Error {
        Error::format(&self.path, self.data_begin + info.data_offsets.0 as u64, what)
    }
}
