//! Several processes that train one network: who they are, and what they exchange.
//!
//! A *rank* is one of the processes, numbered from 0. Launchers that people have (torchrun, srun, mpirun) start them and
//! say by environment variables who is who ([`World::from_env`]). [`join`] connects them, [`on_device`] their GPUs.
//!
//! ```
//! use tubelet::dist::{Alone, Collective, sum};
//! let alone = Alone; // a run of one process has the same code
//! let gradients = [tubelet::Tensor::full([3], 2.0)];
//! assert_eq!(sum::over_ranks(&alone, &gradients, sum::Wire::F32)?[0].f32()?, [2.0, 2.0, 2.0]);
//! # Ok::<(), tubelet::Error>(())
//! ```

mod alone;
#[cfg(feature = "train")]
mod join;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(all(feature = "cuda", feature = "train"))]
pub mod nccl;
mod ordered;
mod spans;
pub mod sum;
#[cfg(feature = "train")]
mod tcp;
#[cfg(any(test, feature = "testing"))]
pub mod threads;
mod together;
mod world;

#[cfg(feature = "mpi")]
pub use self::mpi::Mpi;
pub use alone::Alone;
#[cfg(feature = "train")]
pub use join::{join, on_device};
#[cfg(all(feature = "cuda", feature = "train"))]
pub use nccl::Nccl;
pub use ordered::{Ordered, Started};
pub use spans::{Span, Spans};
#[cfg(feature = "train")]
pub use tcp::{Patience, Tcp};
pub use together::{agree, together};
pub use world::{Launcher, World};

use crate::error::Result;
use crate::tensor::Tensor;

/// What connected ranks can do together. All of them must make the same calls in the same order, each from one thread at a
/// time (not always the same one; [`Ordered`] sees to it).
pub trait Collective: Send + Sync {
    /// The number of this process, from 0.
    fn rank(&self) -> usize;

    /// The number of processes.
    fn size(&self) -> usize;

    /// What connects them, for messages: `tcp`, `mpi`, `nccl`.
    fn name(&self) -> &'static str;

    /// Short notes of all ranks, in the order of ranks. Also a barrier: nobody returns before all have called.
    ///
    /// # Errors
    /// `Peer` when a rank has ended, does not answer in time, or makes another call.
    fn share(&self, note: &[u8]) -> Result<Vec<Vec<u8>>>;

    /// Sends row `i` of `rows [size ..]` to rank `i`, and returns what was sent here, `[size ..]`: row `i` is from rank
    /// `i`.
    ///
    /// # Errors
    /// As [`Collective::share`]; `Shape` when there are not `size` rows; `Device` when the tensor is where this
    /// collective cannot read it.
    fn all_to_all(&self, rows: &Tensor) -> Result<Tensor>;

    /// The tensors of all ranks, `[size ..]`, each of which has the shape of `part`.
    ///
    /// # Errors
    /// As [`Collective::all_to_all`].
    fn all_gather(&self, part: &Tensor) -> Result<Tensor>;

    /// Whether this rank knows of another one that has ended, without waiting for anybody.
    ///
    /// # Errors
    /// `Peer` naming that rank.
    fn check(&self) -> Result<()>;

    /// Bytes of tensors and notes that this rank has sent to others so far, without what frames them on their way.
    fn sent(&self) -> u64;

    /// Tells the other ranks that this one ends because of an error, so that they name it and end too.
    fn fail(&self, why: &str);

    /// Leaves without an error: the other ranks do not take the end of this process for a failure.
    fn finish(&self);
}
