//! Weights in files, of this program and of others.
//!
//! [`Source`] opens a file of named tensors, whatever its format: safetensors, or what `torch.save` writes. Files of PyTorch
//! are pickles, programs that build objects; here only tensors and plain containers are built, and everything else is refused
//! by name, so that no file can make this program do anything but read it.
//!
//! [`start_from`] fills the trunk of a network from such a file: it finds where the network lies in it ([`names`]), and inflates
//! an image network. [`load_weights`] and [`save_weights`] are for files with this crate's own names.

mod config;
mod export;
mod heads;
mod inflate;
mod input;
mod layout;
mod load;
pub mod names;
mod safetensors;
mod save;
mod start;
mod torch;

pub use config::{Config, Linear, NETWORKS, Networks, read_networks};
pub use export::{check_export, export};
pub use heads::Head;
pub use inflate::{ImageHead, inflate};
pub use input::{InputSpec, RgbInput};
pub use layout::{from_pytorch, to_pytorch};
pub use load::{Loaded, Matching, load_weights};
pub use save::save_weights;
pub use start::{Start, start_from};

pub(crate) use load::fill;
pub(crate) use safetensors::{Data, Entry, write};
pub(crate) use save::{check_finite, write_weights};

use crate::error::{Error, Result};
use crate::files;
use crate::nn::Role;
use crate::shape::Shape;
use crate::tensor::Tensor;
use half::{bf16, f16};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// The format of a file, recognised by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// Safetensors.
    Safetensors,
    /// What `torch.save` writes since PyTorch 1.6: a zip archive.
    TorchZip,
    /// What it wrote before: pickles, followed by the numbers.
    TorchStream,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Format::Safetensors => "safetensors",
            Format::TorchZip => "PyTorch (zip)",
            Format::TorchStream => "PyTorch (stream, before 1.6)",
        })
    }
}

/// The type of a tensor's elements in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of safetensors")]
#[non_exhaustive]
pub enum Dtype {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
    C64,
    C128,
    /// One that nothing here reads.
    Other,
}

impl Dtype {
    /// Bytes of an element; 0 of one that is not known.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Dtype::C128 => 16,
            Dtype::F64 | Dtype::I64 | Dtype::C64 => 8,
            Dtype::F32 | Dtype::I32 => 4,
            Dtype::F16 | Dtype::BF16 | Dtype::I16 => 2,
            Dtype::I8 | Dtype::U8 | Dtype::Bool => 1,
            Dtype::Other => 0,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(&format!("{self:?}"))
    }
}

/// A tensor in a file: its type, its extents, and where its elements are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its extents, of PyTorch's order.
    pub shape: Vec<usize>,
    /// Strides in elements; `None` if it is contiguous.
    strides: Option<Vec<usize>>,
    /// Byte offset of its first element in the file.
    at: u64,
}

impl Info {
    /// The number of elements. It was checked when the file was opened.
    #[must_use]
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// Elements from the first to the last in memory.
    fn span(&self) -> usize {
        match &self.strides {
            Some(strides) if self.numel() > 0 => {
                1 + self.shape.iter().zip(strides).map(|(n, s)| (n - 1) * s).sum::<usize>()
            }
            _ => self.numel(),
        }
    }
}

/// An opened file of named tensors. No size in it was believed: all tensors lie within the file.
pub struct Source {
    path: PathBuf,
    file: BufReader<File>,
    format: Format,
    tensors: BTreeMap<String, Info>,
    content: Content,
}

/// What a format needs besides its tensors.
enum Content {
    Safetensors(safetensors::Header),
    Torch(torch::Archive),
}

impl Source {
    /// Opens a file of any [`Format`].
    ///
    /// A tensor of a PyTorch file that lies in a container has the path to it as its name: `state_dict.conv1.weight`,
    /// `optimizer.state.0.momentum_buffer`.
    ///
    /// # Errors
    /// `Io` when it cannot be read; `Data` when it is no regular file; `Format` when it is cut, damaged or of another
    /// format, or holds something besides tensors and plain containers.
    pub fn open(path: &Path) -> Result<Source> {
        let (mut file, size) = files::open_regular(path, "a file of weights or of a run's state")?;
        let mut first = Vec::new();
        let read = (&mut file).take(512).read_to_end(&mut first).and_then(|_| file.rewind());
        read.map_err(Error::io("read", path))?;
        let mut file = BufReader::new(file);
        let (format, tensors, content) = match torch::recognise(&first) {
            None => {
                let (header, tensors) = safetensors::Header::read(path, &mut file, size)?;
                (Format::Safetensors, tensors, Content::Safetensors(header))
            }
            Some(Ok(format)) => {
                let (archive, tensors) = torch::Archive::open(path, &mut file, size, format)?;
                (format, tensors, Content::Torch(archive))
            }
            Some(Err(what)) => return Err(Error::content(path, what)),
        };
        Ok(Source { path: path.to_owned(), file, format, tensors, content })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its format.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// All tensors by name.
    #[must_use]
    pub fn tensors(&self) -> &BTreeMap<String, Info> {
        &self.tensors
    }

    /// Compares the file with its checksums, those of this project's files or of a zip archive, as far as it has any. Returns
    /// the checksum of a file of this project.
    ///
    /// # Errors
    /// `Format` when they differ; `Io` when it cannot be read.
    pub fn verify(&mut self) -> Result<Option<String>> {
        match &self.content {
            Content::Safetensors(header) => header.verify(&self.path, &mut self.file),
            Content::Torch(archive) => archive.verify(&self.path, &mut self.file).map(|()| None),
        }
    }

    /// Whether it is a file of this program, by the checksum that no other has.
    fn is_of_this_program(&self) -> bool {
        self.note(safetensors::CHECKSUM).is_some()
    }

    /// An entry of the metadata of a safetensors file.
    pub(crate) fn note(&self, key: &str) -> Option<&str> {
        match &self.content {
            Content::Safetensors(header) => header.note(key),
            Content::Torch(_) => None,
        }
    }

    /// The elements of the tensor `name`, row by row, as f32; it must be of type F64, F32, F16 or BF16.
    ///
    /// # Errors
    /// `Data` when there is no such tensor; `Format` when it has another type or holds a number that is not finite; `Io`.
    pub fn f32(&mut self, name: &str) -> Result<Vec<f32>> {
        let info = self.info(name)?;
        let values: Vec<f32> = match info.dtype {
            Dtype::F32 => self.rows(&info, f32::from_le_bytes)?,
            Dtype::F64 => self.rows(&info, |b| f64::from_le_bytes(b) as f32)?,
            Dtype::BF16 => self.rows(&info, |b| bf16::from_le_bytes(b).to_f32())?,
            Dtype::F16 => self.rows(&info, |b| f16::from_le_bytes(b).to_f32())?,
            other => return Err(self.wrong(format!("`{name}` is of type {other}, but must be floating point"))),
        };
        match values.iter().position(|v| !v.is_finite()) {
            None => Ok(values),
            Some(i) => Err(self.wrong(format!("`{name}` holds {} at place {i}", values[i]))),
        }
    }

    /// The tensor `name` as a parameter of this shape (this crate's).
    ///
    /// # Errors
    /// As [`Source::f32`]; `Format` when a running variance is negative, with which features would be no numbers.
    pub(crate) fn parameter(&mut self, name: &str, role: Role, shape: Shape) -> Result<Tensor> {
        from_pytorch(role, shape, &self.values(name, role)?)
    }

    /// The elements of the tensor `name` for a parameter of this role.
    fn values(&mut self, name: &str, role: Role) -> Result<Vec<f32>> {
        let values = self.f32(name)?;
        match values.iter().find(|v| role == Role::RunningVar && **v < 0.0) {
            None => Ok(values),
            Some(v) => Err(self.wrong(format!("`{name}` holds the variance {v}, and none is below 0"))),
        }
    }

    /// The value of the tensor `name`, which must be one number of type I64.
    ///
    /// # Errors
    /// As [`Source::f32`].
    pub fn i64(&mut self, name: &str) -> Result<i64> {
        let info = self.info(name)?;
        if (info.dtype, info.numel()) == (Dtype::I64, 1) {
            return Ok(self.rows(&info, i64::from_le_bytes)?[0]);
        }
        Err(self.wrong(format!("`{name}` must be one number of type I64")))
    }

    fn info(&self, name: &str) -> Result<Info> {
        let found = self.tensors.get(name).cloned();
        found.ok_or_else(|| Error::data(&self.path, format!("there is no tensor `{name}` in this file")))
    }

    /// The elements of a tensor in row-major order.
    fn rows<const N: usize, T: Copy>(&mut self, info: &Info, number: impl Fn([u8; N]) -> T) -> Result<Vec<T>> {
        let (span, numel) = (info.span(), info.numel()); // inside the file, as checked when it was opened
        let mut bytes = files::with_room(&self.path, span * N)?;
        bytes.resize(span * N, 0);
        let start = SeekFrom::Start(info.at);
        let read = self.file.seek(start).and_then(|_| self.file.read_exact(&mut bytes));
        read.map_err(Error::io("read", &self.path))?;
        let stored = bytes.as_chunks::<N>().0;
        let mut values = files::with_room(&self.path, numel)?;
        let Some(strides) = &info.strides else {
            values.extend(stored.iter().map(|b| number(*b)));
            return Ok(values);
        };
        let (mut index, mut place) = (vec![0; info.shape.len()], 0);
        for _ in 0..numel {
            values.push(number(stored[place]));
            // The next index: the last axis that has one moves on, those after it begin again.
            for axis in (0..index.len()).rev() {
                if index[axis] + 1 < info.shape[axis] {
                    index[axis] += 1;
                    place += strides[axis];
                    break;
                }
                place -= index[axis] * strides[axis];
                index[axis] = 0;
            }
        }
        Ok(values)
    }

    fn wrong(&self, what: String) -> Error {
        Error::content(&self.path, what)
    }
}
