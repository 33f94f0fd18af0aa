//! Locating the pinned CUDA tools. They are NVIDIA's Python wheels, installed into `.cuda`, never part of the
//! repository.

use super::sha256;
use anyhow::{Context, Result, bail, ensure};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The commands that install the tools.
pub const INSTALL: &str = "python3 -m venv .cuda && .cuda/bin/pip install --no-cache-dir --no-deps --require-hashes \
                           -r tools/xtask/cuda-tools.txt";

/// The compiler whose output is committed.
pub const COMPILER: &str = "NVRTC 12.4.127";

/// The release of clang-format that `cuda-tools.txt` pins. Another one may format differently.
const CLANG_FORMAT: &str = "19.1.7";

/// The libraries that are loaded into this process, and their sha256.
const PINNED: [(&str, &str); 2] = [
    ("cuda_nvrtc/lib/libnvrtc.so.12", "466d6f14d6cfde99838a132cfa7a23f90ba08acfadaa4d9e4c9defe1277f7bf1"),
    ("cuda_nvrtc/lib/libnvrtc-builtins.so.12.4", "4425561a319da07bbde0dc180a90422e351b364c3dc4f6a3ea1e69925d62db72"),
];

/// The folder `nvidia` of the installed wheels.
pub struct Tools(PathBuf);

impl Tools {
    /// clang-format of the pinned release, if `cuda-tools.txt` is installed: in `$TUBELET_CUDA_TOOLS` if that is set,
    /// otherwise in `.cuda`.
    pub fn clang_format(root: &Path) -> Option<PathBuf> {
        let base = env::var_os("TUBELET_CUDA_TOOLS").map_or_else(|| root.join(".cuda"), PathBuf::from);
        let program = base.join("bin/clang-format");
        let output = Command::new(&program).arg("--version").output().ok()?;
        String::from_utf8_lossy(&output.stdout).contains(CLANG_FORMAT).then_some(program)
    }

    /// Finds the tools: in `$TUBELET_CUDA_TOOLS` if that is set, otherwise in `.cuda` of the repository. `None` if they
    /// are not there.
    pub fn find(root: &Path) -> Option<Tools> {
        let base = env::var_os("TUBELET_CUDA_TOOLS").map_or_else(|| root.join(".cuda"), PathBuf::from);
        let mut places = vec![base.clone(), base.join("nvidia")];
        for entry in fs::read_dir(base.join("lib")).into_iter().flatten().flatten() {
            places.push(entry.path().join("site-packages/nvidia"));
        }
        places.into_iter().find(|place| place.join(PINNED[0].0).is_file()).map(Tools)
    }

    /// As [`Tools::find`], with an error that says how to install them.
    pub fn require(root: &Path) -> Result<Tools> {
        Tools::find(root).with_context(|| {
            format!(
                "the pinned CUDA tools are neither in .cuda nor where TUBELET_CUDA_TOOLS says; to install: {INSTALL}"
            )
        })
    }

    /// The compiler's library, after checking that its hash, and those of the libraries it loads, are the pinned ones.
    pub fn nvrtc(&self) -> Result<PathBuf> {
        for (file, expected) in PINNED {
            let path = self.0.join(file);
            let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let found = sha256(&bytes);
            ensure!(
                found == expected,
                "{} is not the pinned file: its sha256 is {found}, not {expected}; to install the right one: {INSTALL}",
                path.display()
            );
        }
        Ok(self.0.join(PINNED[0].0))
    }

    /// A program in the wheels, by its path below `nvidia`.
    pub fn program(&self, path: &str) -> Result<PathBuf> {
        let program = self.0.join(path);
        if !program.is_file() {
            bail!("{} is absent; to install: {INSTALL}", program.display());
        }
        Ok(program)
    }
}
