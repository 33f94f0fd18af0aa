//! A pathway in a checkpoint: its key network, velocity and queue. The query network is in the file of weights.

use super::checkpoint::State;
use crate::error::Result;
use crate::ssl::pathway::Pathway;
use crate::ssl::queue::Queue;

/// Adds everything that later steps of the pathway called `name` depend on to `state`.
pub(super) fn save<E>(state: &mut State, name: &str, pathway: &Pathway<E>) {
    for (network, params) in pathway.followers() {
        state.put_params(&format!("{name}.{network}."), params);
    }
    let queue = pathway.queue();
    state.tensors.insert(format!("{name}.queue"), queue.keys().clone());
    state.counters.insert(format!("{name}.queue.at"), queue.at() as u64);
    let owners: Vec<String> = queue.owners().iter().map(u32::to_string).collect();
    state.texts.insert(format!("{name}.queue.owners"), owners.join(" "));
}

/// Restores it, on the device of the pathway's networks.
///
/// # Errors
/// `Data` when something is missing or of another shape.
pub(super) fn restore<E>(state: &State, name: &str, pathway: &mut Pathway<E>) -> Result<()> {
    let device = pathway.query().device();
    let (networks, queue) = pathway.followers_mut();
    for (network, params) in networks {
        state.get_params(&format!("{name}.{network}."), params)?;
    }
    let keys = state.tensor(&format!("{name}.queue"), queue.keys().shape())?.to(&device)?;
    let at = state.counter(&format!("{name}.queue.at"))? as usize;
    let owners = state.texts.get(&format!("{name}.queue.owners")).map_or("", String::as_str);
    let owners: Option<Vec<u32>> = owners.split_whitespace().map(|o| o.parse().ok()).collect();
    *queue = Queue::restore(keys, owners.unwrap_or_default(), at)?;
    Ok(())
}
