//! Connects the ranks by what they have.

use super::tcp::{Patience, Tcp};
use super::{Alone, Collective, World};
use crate::error::Result;
use std::sync::Arc;

/// Connects the processes of `world`; a single one is [`Alone`]. All of them must call it.
///
/// # Errors
/// `Peer` when they do not find each other in time, or say different things about who they are.
pub fn join(world: &World, patience: Patience) -> Result<Arc<dyn Collective>> {
    if world.size == 1 {
        return Ok(Arc::new(Alone));
    }
    Ok(Arc::new(Tcp::connect(world, patience)?))
}
