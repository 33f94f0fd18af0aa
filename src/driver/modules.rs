//! Modules of a device: each is loaded once, at its first launch, from a cubin if there is one, otherwise from PTX.

use super::cubins::Cubins;
use super::{Driver, FunctionId, ModuleId};
use crate::error::{Error, ErrorKind, Result};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A module that was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedModule {
    /// Its name: that of its file in `ptx/`, without the architecture.
    pub name: &'static str,
    /// What the driver was given.
    pub origin: Origin,
    /// How long it took to load that, with reading the file of a cubin, and without a refusal before.
    pub took: Duration,
}

/// What a driver was given of a module.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// PTX, which it compiled, or had in its cache.
    Ptx,
    /// The cubin in this file.
    Cubin(PathBuf),
    /// PTX, after it had refused the cubin.
    Refused {
        /// The cubin.
        file: PathBuf,
        /// The driver's reason.
        why: String,
    },
}

/// What was loaded on a device, for all its streams.
#[derive(Default)]
pub(super) struct Loaded {
    modules: HashMap<&'static str, (ModuleId, LoadedModule)>,
    /// Entry points, with the dynamic shared memory each was granted.
    functions: HashMap<&'static str, (FunctionId, u32)>,
    cubins: Option<Cubins>,
}

impl Loaded {
    /// Takes modules from the cubins in `folder` from now on.
    ///
    /// # Errors
    /// `Param` when a module was loaded before, or there is a folder already; those of [`Cubins::open`].
    pub fn take_cubins(&mut self, folder: &Path, compute_capability: (u32, u32)) -> Result<()> {
        if self.cubins.is_some() || !self.modules.is_empty() {
            let rule = "a device has one folder of cubins, which it is given before its first module is loaded";
            return Err(Error::param("with_cubins", "folder", folder.display(), rule));
        }
        self.cubins = Some(Cubins::open(folder, compute_capability)?);
        Ok(())
    }

    /// A module, loaded if it is not.
    pub fn module(&mut self, driver: &dyn Driver, name: &'static str, ptx: &'static str) -> Result<ModuleId> {
        if let Some((id, _)) = self.modules.get(name) {
            return Ok(*id);
        }
        let mut start = Instant::now();
        let cubin = self.cubins.as_ref().map_or(Ok(None), |cubins| cubins.of(name, ptx))?;
        let (id, origin) = match cubin {
            None => (driver.load(ptx)?, Origin::Ptx),
            Some((file, code)) => {
                // SAFETY: the file is the one that the folder's list describes; that this is ptxas's, of this PTX, was
                // promised for the folder.
                match unsafe { driver.load_cubin(&code) } {
                    Ok(id) => (id, Origin::Cubin(file)),
                    Err(refusal) => {
                        start = Instant::now();
                        after_refusal(driver, ptx, file, reason(&refusal))?
                    }
                }
            }
        };
        self.modules.insert(name, (id, LoadedModule { name, origin, took: start.elapsed() }));
        Ok(id)
    }

    /// An entry point of a module, with `shared` bytes of dynamic shared memory.
    pub fn function(
        &mut self,
        driver: &dyn Driver,
        (name, ptx): (&'static str, &'static str),
        entry: &'static str,
        shared: u32,
    ) -> Result<FunctionId> {
        match self.functions.get(entry) {
            Some((function, allowed)) if *allowed >= shared => return Ok(*function),
            _ => {}
        }
        let module = self.module(driver, name, ptx)?;
        let function = driver.function(module, entry, shared)?;
        self.functions.insert(entry, (function, shared));
        Ok(function)
    }

    /// What was loaded, by name.
    pub fn list(&self) -> Vec<LoadedModule> {
        let mut all: Vec<LoadedModule> = self.modules.values().map(|(_, module)| module.clone()).collect();
        all.sort_unstable_by_key(|module| module.name);
        all
    }
}

/// Loads PTX in place of the cubin in `file`, which the driver refused for the reason `why`.
fn after_refusal(driver: &dyn Driver, ptx: &'static str, file: PathBuf, why: String) -> Result<(ModuleId, Origin)> {
    match driver.load(ptx) {
        Ok(id) => Ok((id, Origin::Refused { file, why })),
        Err(error) => {
            let (reason, file) = (reason(&error), file.display());
            let what = format!("{reason}; the driver also refused {file}, which is the same module assembled: {why}");
            Err(Error::driver("load a module", what))
        }
    }
}

/// A driver's own words.
fn reason(error: &Error) -> String {
    match error.kind() {
        ErrorKind::Driver { what, .. } => what.clone(),
        _ => error.to_string(),
    }
}
