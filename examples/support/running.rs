//! Options that change how steps are computed or what is seen of it, and not what comes out.

use anyhow::{Result, ensure};
use std::path::PathBuf;
use tubelet::tensor::Device;

use super::output::warn;

/// The options.
#[derive(clap::Args)]
pub struct Running {
    /// Record a GPU's training step as a CUDA graph and replay it: the same numbers, one launch per step
    #[arg(long)]
    pub graph: bool,
    /// Use less memory and more time: recompute blocks in the backward pass. Results are equal up to rounding
    #[arg(long)]
    pub recompute: bool,
    /// Write a timeline of a few steps: loading, forward and backward pass, what ranks exchange, update. Perfetto
    /// (https://ui.perfetto.dev) displays it
    #[arg(long, value_name = "FILE.json")]
    pub trace: Option<PathBuf>,
}

impl Running {
    /// Refuses what cannot be done, and says what has no effect.
    pub fn check(&self, device: &Device) -> Result<()> {
        if self.graph && *device == Device::Cpu {
            warn("--graph records the steps of a GPU, and --device is the CPU here: it has no effect");
        }
        if let Some(file) = &self.trace {
            let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
            let there = folder.is_none_or(|folder| folder.is_dir()) && !file.is_dir();
            ensure!(there, "--trace {}: this is no file in a folder that exists", file.display());
        }
        Ok(())
    }
}
