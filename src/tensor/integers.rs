//! Integers used with tensors: owners of keys, orders of rows.

use super::Device;
use crate::driver::{In, Memory};
use crate::error::{Error, Result};
use std::sync::Arc;

/// A list of integers in main memory and, after [`Integers::to`], on a GPU too.
#[derive(Clone, Debug)]
pub struct Integers {
    values: Vec<u32>,
    there: Option<Arc<Memory>>,
}

impl Integers {
    /// These integers, in main memory.
    #[must_use]
    pub fn new(values: Vec<u32>) -> Self {
        Integers { values, there: None }
    }

    /// The same integers for `device`, copied there if they are not there already.
    ///
    /// # Errors
    /// On a GPU `OutOfMemory` and `Driver`.
    pub fn to(&self, device: &Device) -> Result<Self> {
        let Device::Cuda(gpu) = device else { return Ok(Self::new(self.values.clone())) };
        if self.there.as_ref().is_some_and(|m| m.gpu() == gpu) {
            return Ok(self.clone());
        }
        let memory = gpu.alloc(4 * self.values.len())?;
        let there = Integers { values: self.values.clone(), there: Some(Arc::new(memory)) };
        there.upload()?;
        Ok(there)
    }

    /// The same integers in memory that is not shared.
    pub(crate) fn apart(&self) -> Result<Self> {
        let device = self.there.as_ref().map_or(Device::Cpu, |m| Device::Cuda(m.gpu().clone()));
        Self::new(self.values.clone()).to(&device)
    }

    /// Replaces them by as many others, in the same memory: a recorded graph then reads the new ones.
    ///
    /// # Errors
    /// `Shape` when their number differs; on a GPU `Driver`.
    pub fn set(&mut self, values: &[u32]) -> Result<()> {
        if values.len() != self.values.len() {
            return Err(Error::shape("integers", "values", format!("{} numbers", self.values.len()), values.len()));
        }
        self.values.copy_from_slice(values);
        self.upload()
    }

    fn upload(&self) -> Result<()> {
        match &self.there {
            Some(m) if m.bytes() > 0 => m.gpu().driver().upload(m.ptr(), bytemuck::cast_slice(&self.values)),
            _ => Ok(()),
        }
    }

    /// The integers.
    #[must_use]
    pub fn values(&self) -> &[u32] {
        &self.values
    }

    /// Their number.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Their memory on a GPU.
    pub(crate) fn memory(&self) -> Option<&Memory> {
        self.there.as_deref()
    }

    /// The integers as a kernel's input.
    pub(crate) fn input(&self) -> Option<In> {
        self.there.as_ref().map(|m| In(m.ptr(), m.bytes()))
    }
}

impl From<&[u32]> for Integers {
    fn from(values: &[u32]) -> Self {
        Integers::new(values.to_vec())
    }
}

impl<const N: usize> From<[u32; N]> for Integers {
    fn from(values: [u32; N]) -> Self {
        Integers::new(values.to_vec())
    }
}

impl FromIterator<u32> for Integers {
    fn from_iter<I: IntoIterator<Item = u32>>(values: I) -> Self {
        Integers::new(values.into_iter().collect())
    }
}
