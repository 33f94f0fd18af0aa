//! Writing weights with PyTorch's names and layout.

use super::layout::{batches_name, to_pytorch};
use super::safetensors::{Data, Entry, write};
use crate::error::{Error, Result};
use crate::nn::{Params, Role};
use std::collections::BTreeMap;
use std::path::Path;

/// Refuses to write values that could not be read back.
pub(crate) fn check_finite(path: &Path, name: &str, data: &[f32]) -> Result<()> {
    match data.iter().find(|v| !v.is_finite()) {
        None => Ok(()),
        Some(v) => Err(Error::data(path, format!("`{name}` holds {v}; nothing was written"))),
    }
}

/// Writes `networks`, each with a prefix for its names, to `path` by way of a temporary file in the same folder.
/// PyTorch reads it with `safetensors.torch.load_file` and `load_state_dict`.
///
/// # Errors
/// `Data` when a value is not finite; `Param` when two tensors would have the same name; `Io` when it cannot be
/// written.
pub fn save_weights(path: &Path, networks: &[(&str, &Params)]) -> Result<()> {
    write_weights(path, networks).map(|_| ())
}

/// As [`save_weights`]; returns the file's checksum.
pub(crate) fn write_weights(path: &Path, networks: &[(&str, &Params)]) -> Result<String> {
    let mut entries = BTreeMap::new();
    let mut put = |name: String, entry| {
        let rule = "two networks need different prefixes";
        match entries.insert(name.clone(), entry) {
            None => Ok(()),
            Some(_) => Err(Error::param("save_weights", "name", name, rule)),
        }
    };
    for (prefix, params) in networks {
        for (_, p) in params.iter() {
            let name = format!("{prefix}{}", p.name);
            let (shape, data) = to_pytorch(p.role, &p.value)?;
            check_finite(path, &name, &data)?;
            if p.role == Role::RunningVar {
                let data = Data::I64(params.batches as i64);
                put(batches_name(&name), Entry { shape: Vec::new(), data })?;
            }
            put(name, Entry { shape, data: Data::F32(data) })?;
        }
    }
    write(path, &entries, ("format", "pt"))
}
