//! Connects the ranks by what they have.

use super::tcp::{Patience, Tcp};
use super::{Alone, Collective, World, agree};
use crate::error::Result;
use crate::tensor::Device;
use std::sync::Arc;

/// Connects the processes of `world`; a single one is [`Alone`]. All of them must call it. Where this build has MPI (feature
/// `mpi`), and the launcher is mpirun or an srun that starts programs of MPI, MPI connects them, else TCP does. They exchange
/// tensors of processors; [`on_device`] is for those of GPUs. While TCP waits for ranks, `waiting` is told again and again for
/// whom, and ends the wait by an error.
///
/// # Errors
/// `Peer` when they do not find each other in time, one of them ends meanwhile, or they say different things about who they are;
/// those of `waiting`.
pub fn join(world: &World, patience: Patience, waiting: &dyn Fn(&str) -> Result<()>) -> Result<Arc<dyn Collective>> {
    if world.size == 1 {
        return Ok(Arc::new(Alone));
    }
    #[cfg(feature = "mpi")]
    if starts_mpi(world.launcher, |name| std::env::var_os(name).is_some()) {
        return Ok(Arc::new(super::Mpi::connect(world, patience)?));
    }
    Ok(Arc::new(Tcp::connect(world, patience, waiting)?))
}

/// The same ranks for tensors on `device`: those of GPUs are moved by NCCL. All of them must call it.
///
/// # Errors
/// `Peer` when some are on GPUs and others are not; on GPUs also when there is no NCCL, or two ranks have the same GPU.
pub fn on_device(ranks: Arc<dyn Collective>, device: &Device, patience: Patience) -> Result<Arc<dyn Collective>> {
    if ranks.size() == 1 {
        return Ok(ranks);
    }
    let kind = if *device == Device::Cpu { "cpu" } else { "cuda" };
    agree(&*ranks, &[("its kind of device (--device)".to_owned(), kind.to_owned())])?;
    #[cfg(feature = "cuda")]
    if let Device::Cuda(gpu) = device {
        return Ok(Arc::new(super::Nccl::connect(ranks, gpu, patience)?));
    }
    let _ = patience; // of NCCL alone
    Ok(ranks)
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
