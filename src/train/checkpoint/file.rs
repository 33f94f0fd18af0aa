//! A safetensors file: writing one whole, and reading one that nobody vouches for.

use super::sync_folder;
use crate::error::{Error, Result};
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Length of the header's length.
const PREFIX: u64 = 8;
/// The longest header the format allows.
const MAX_HEADER: u64 = 100_000_000;

/// A tensor to be written.
pub(super) struct Entry<'a> {
    pub shape: Vec<usize>,
    pub data: Data<'a>,
}

/// The two types written.
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

/// Writes `entries` to a temporary file beside `path`, syncs it and renames it. `note` is the one line of metadata: with
/// a single one the bytes of the file depend on its content alone.
pub(super) fn write(path: &Path, entries: &BTreeMap<String, Entry>, note: (&str, String)) -> Result<()> {
    // Wider types first, then by name: the order of the format's own library, which keeps all data aligned.
    let mut order: Vec<(&String, &Entry)> = entries.iter().collect();
    order.sort_by_key(|(_, e)| std::cmp::Reverse(e.data.dtype()));
    let mut at = 0;
    let infos = order.iter().map(|(name, e)| {
        let begin = at;
        at += e.data.bytes().len();
        let info = TensorInfo { dtype: e.data.dtype(), shape: e.shape.clone(), data_offsets: (begin, at) };
        ((*name).clone(), info)
    });
    let metadata = Metadata::new(Some(HashMap::from([(note.0.to_owned(), note.1)])), infos.collect());
    let header = metadata.map_err(|e| Error::data(path, e)).and_then(|m| {
        let mut header = serde_json::to_vec(&m).map_err(|e| Error::data(path, e))?;
        header.resize(header.len().next_multiple_of(8), b' ');
        Ok(header)
    })?;

    let temporary = path.with_extension("safetensors.writing");
    let result = (|| {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(&temporary)?);
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        for (_, entry) in &order {
            out.write_all(entry.data.bytes())?;
        }
        out.into_inner().map_err(|e| e.into_error())?.sync_all()?;
        fs::rename(&temporary, path)
    })();
    result.map_err(|e| {
        let _ = fs::remove_file(&temporary); // what could not be written is of no use; the reason is
        Error::io("write", path)(e)
    })?;
    sync_folder(path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))
}

/// An opened file whose header has been checked against its size.
pub(super) struct Reader {
    path: PathBuf,
    file: BufReader<File>,
    data_begin: u64,
    metadata: Metadata,
}

impl Reader {
    pub(super) fn open(path: &Path) -> Result<Reader> {
        let io = |e| Error::io("read", path)(e);
        let mut file = File::open(path).map_err(io)?;
        let size = file.metadata().map_err(io)?.len();
        if size < PREFIX {
            return Err(Error::format(path, size, "the file is cut: it has no room for a safetensors header"));
        }
        let mut prefix = [0; PREFIX as usize];
        file.read_exact(&mut prefix).map_err(io)?;
        let length = u64::from_le_bytes(prefix);
        // Before any memory is asked for: a hostile length must not become an allocation.
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
        Ok(Reader { path: path.to_owned(), file: BufReader::new(file), data_begin, metadata })
    }

    /// A line of metadata.
    pub(super) fn note(&self, key: &str) -> Option<&str> {
        self.metadata.metadata().as_ref()?.get(key).map(String::as_str)
    }

    /// Names and infos of all tensors, by name.
    pub(super) fn infos(&self) -> BTreeMap<String, TensorInfo> {
        self.metadata.tensors().into_iter().map(|(name, info)| (name, info.clone())).collect()
    }

    /// The numbers of a tensor as f32.
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

    /// The number of an I64 scalar.
    pub(super) fn i64(&mut self, name: &str, info: &TensorInfo) -> Result<i64> {
        let bytes = self.bytes(info)?;
        match (info.dtype, <[u8; 8]>::try_from(bytes.as_slice())) {
            (Dtype::I64, Ok(b)) => Ok(i64::from_le_bytes(b)),
            _ => Err(self.wrong(info, format!("`{name}` must be one number of type I64"))),
        }
    }

    fn bytes(&mut self, info: &TensorInfo) -> Result<Vec<u8>> {
        let (begin, end) = info.data_offsets; // inside the file: checked by `open`
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
