//! Safetensors files: writing one atomically, and reading an untrusted one.
//!
//! Files have a checksum in their metadata, `"tubelet_crc32":"0123abcd"`: the CRC-32 of all bytes of the file with
//! these eight digits replaced by zeros. It detects every change within 32 consecutive bits. Other readers of the
//! format ignore it.

use super::Info;
use crate::error::{Error, Result};
use crate::files::{sync_folder, with_room};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Serialize;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

/// Bytes of the prefix, which holds the header's length.
const PREFIX: u64 = 8;
/// The longest header the format allows.
const MAX_HEADER: u64 = 100_000_000;
/// The key of the checksum in the metadata.
pub(super) const CHECKSUM: &str = "tubelet_crc32";
/// What replaces the digits of the checksum when it is computed.
const ZEROS: &str = "00000000";

/// A header to be written: names in alphabetical order, so that the bytes of a file depend on its content alone.
#[derive(Serialize)]
struct Written<'a> {
    #[serde(rename = "__metadata__")]
    notes: BTreeMap<&'a str, &'a str>,
    #[serde(flatten)]
    tensors: BTreeMap<&'a str, &'a TensorInfo>,
}

/// A tensor to be written.
pub(crate) struct Entry<'a> {
    pub shape: Vec<usize>,
    pub data: Data<'a>,
}

/// The two data types that are written.
pub(crate) enum Data<'a> {
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
pub(crate) fn write(path: &Path, entries: &BTreeMap<String, Entry>, note: (&str, &str)) -> Result<String> {
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
    let header = Written { notes: BTreeMap::from([note, (CHECKSUM, ZEROS)]), tensors };
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

/// The header of an opened file, consistent with its size.
pub(super) struct Header {
    bytes: Vec<u8>,
    data_begin: u64,
    metadata: Metadata,
}

impl Header {
    /// Reads the header of a file of `size` bytes, and what it says of its tensors.
    pub(super) fn read(path: &Path, file: &mut BufReader<File>, size: u64) -> Result<(Header, BTreeMap<String, Info>)> {
        let io = |e| Error::io("read", path)(e);
        if size < PREFIX {
            return Err(Error::format(path, size, "the file is cut: it has no room for a safetensors header"));
        }
        let mut prefix = [0; PREFIX as usize];
        file.read_exact(&mut prefix).map_err(io)?;
        let length = u64::from_le_bytes(prefix);
        // Checked before any allocation, so that a malicious length cannot cause one.
        if length > MAX_HEADER || length > size - PREFIX {
            let what = format!(
                "a header of {length} bytes is announced in a file of {size}: cut, or neither safetensors nor of PyTorch"
            );
            return Err(Error::content(path, what));
        }
        let mut bytes = with_room(path, length as usize)?;
        bytes.resize(length as usize, 0);
        file.read_exact(&mut bytes).map_err(io)?;
        let wrong = |e| Error::content(path, format!("the safetensors header does not hold: {e}"));
        let Distinct = serde_json::from_slice(&bytes).map_err(wrong)?;
        let metadata: Metadata = serde_json::from_slice(&bytes).map_err(wrong)?;
        let data_begin = PREFIX + length;
        let expected = data_begin + metadata.data_len() as u64;
        if size != expected {
            let what = format!("the file has {size} bytes where its header announces {expected}: it is cut or damaged");
            return Err(Error::format(path, size, what));
        }
        let info = |info: &TensorInfo| Info {
            dtype: known(info.dtype),
            shape: info.shape.clone(),
            strides: None,
            at: data_begin + info.data_offsets.0 as u64, // inside the file, as checked by `Metadata`
        };
        let tensors = metadata.tensors().into_iter().map(|(name, i)| (name, info(i))).collect();
        Ok((Header { bytes, data_begin, metadata }, tensors))
    }

    /// Compares the file with its checksum, and returns that; `None` if the file, from another program, has none.
    pub(super) fn verify(&self, path: &Path, file: &mut BufReader<File>) -> Result<Option<String>> {
        let Some(want) = self.note(CHECKSUM).map(str::to_owned) else { return Ok(None) };
        let mut header = self.bytes.clone();
        if let Some(digits) = digits_of(&header) {
            header[digits].copy_from_slice(ZEROS.as_bytes());
        }
        let mut sum = crc32fast::Hasher::new();
        sum.update(&(header.len() as u64).to_le_bytes());
        sum.update(&header);
        let read = (|| {
            file.seek(SeekFrom::Start(self.data_begin))?;
            let mut piece = vec![0; 1 << 20];
            loop {
                match file.read(&mut piece)? {
                    0 => return Ok(()),
                    n => sum.update(&piece[..n]),
                }
            }
        })();
        read.map_err(Error::io("read", path))?;
        let got = format!("{:08x}", sum.finalize());
        if got != want {
            let what = format!("the file is damaged: its bytes have the CRC-32 {got} instead of {want}");
            return Err(Error::format(path, self.data_begin, what));
        }
        Ok(Some(want))
    }

    /// An entry of the metadata.
    pub(super) fn note(&self, key: &str) -> Option<&str> {
        self.metadata.metadata().as_ref()?.get(key).map(String::as_str)
    }
}

/// Any JSON in which no object has a key twice: of two tensors with one name, readers would take different ones.
struct Distinct;

impl<'de> Deserialize<'de> for Distinct {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Distinct, D::Error> {
        deserializer.deserialize_any(Distinct)
    }
}

impl<'de> Visitor<'de> for Distinct {
    type Value = Distinct;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Distinct, A::Error> {
        let mut keys = BTreeSet::new();
        while let Some((key, Distinct)) = map.next_entry::<String, _>()? {
            if let Some(twice) = keys.replace(key) {
                return Err(A::Error::custom(format_args!("it has two entries `{}`", twice.escape_debug())));
            }
        }
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> std::result::Result<Distinct, A::Error> {
        while all.next_element::<Distinct>()?.is_some() {}
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> std::result::Result<Distinct, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> std::result::Result<Distinct, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> std::result::Result<Distinct, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> std::result::Result<Distinct, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> std::result::Result<Distinct, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> std::result::Result<Distinct, E> {
        Ok(self)
    }
}

fn known(dtype: Dtype) -> super::Dtype {
    match dtype {
        Dtype::F64 => super::Dtype::F64,
        Dtype::F32 => super::Dtype::F32,
        Dtype::F16 => super::Dtype::F16,
        Dtype::BF16 => super::Dtype::BF16,
        Dtype::I64 => super::Dtype::I64,
        Dtype::I32 => super::Dtype::I32,
        Dtype::I16 => super::Dtype::I16,
        Dtype::I8 => super::Dtype::I8,
        Dtype::U8 => super::Dtype::U8,
        Dtype::BOOL => super::Dtype::Bool,
        Dtype::C64 => super::Dtype::C64,
        _ => super::Dtype::Other,
    }
}
