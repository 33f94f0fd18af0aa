//! Connects the ranks by what they have.

use super::tcp::{Patience, Tcp};
use super::{Alone, Collective, World};
use crate::error::Result;
use crate::tensor::Device;
use std::sync::Arc;

/// Connects the processes of `world`, whose tensors are on `device`; a single one is [`Alone`]. All of them must call it.
/// Where this build has MPI (feature `mpi`), and the launcher is mpirun or an srun that starts programs of MPI, MPI connects
/// them, else TCP does. Tensors on GPUs are moved by NCCL besides.
///
/// # Errors
/// `Peer` when they do not find each other in time, or say different things about who they are; on GPUs also when there is
/// no NCCL, or two ranks have the same one.
pub fn join(world: &World, device: &Device, patience: Patience) -> Result<Arc<dyn Collective>> {
    if world.size == 1 {
        return Ok(Arc::new(Alone));
    }
    let hosts = processes(world, patience)?;
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(gpu) => Ok(Arc::new(super::Nccl::connect(hosts, gpu, patience)?)),
        _ => Ok(hosts),
    }
}

/// Connects the processes themselves.
fn processes(world: &World, patience: Patience) -> Result<Arc<dyn Collective>> {
    #[cfg(feature = "mpi")]
    if starts_mpi(world.launcher, |name| std::env::var_os(name).is_some()) {
        return Ok(Arc::new(super::Mpi::connect(world, patience)?));
    }
    Ok(Arc::new(Tcp::connect(world, patience)?))
}

/// Whether programs of MPI find each other under this launcher, whose variables `set` knows: srun does it with `--mpi=pmi2`
/// and `--mpi=pmix`.
#[cfg(any(test, feature = "mpi"))]
fn starts_mpi(launcher: super::Launcher, set: impl Fn(&str) -> bool) -> bool {
    use super::Launcher;
    match launcher {
        Launcher::OpenMpi | Launcher::Mpich => true,
        Launcher::Srun => set("PMI_RANK") || set("PMIX_RANK"),
        Launcher::None | Launcher::Torchrun => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Launcher;
    use super::*;

    #[test]
    fn mpi_is_used_where_the_launcher_starts_it() {
        let starts = |launcher, variable: &str| starts_mpi(launcher, |name| name == variable);
        assert!(starts(Launcher::OpenMpi, "") && starts(Launcher::Mpich, ""));
        assert!(starts(Launcher::Srun, "PMIX_RANK") && starts(Launcher::Srun, "PMI_RANK"));
        assert!(!starts(Launcher::Srun, "") && !starts(Launcher::Torchrun, "PMI_RANK"));
    }
}
