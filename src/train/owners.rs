//! Whose keys a step of several ranks adds to the queues.

use super::method::At;
use super::order::Order;
use super::pretrain::steps_per_epoch;
use crate::dist::Collective;
use crate::error::{Error, Result};
use crate::tensor::Integers;

/// The videos of each step of all ranks, which are the owners of its keys: a rank has samples of some of them alone.
pub(super) struct Owners {
    videos: usize,
    batch: usize,
    order: Option<Order>,
}

impl Owners {
    /// Of a run on `videos` videos, with `batch` of them in each step.
    pub fn new(videos: usize, batch: usize) -> Owners {
        Owners { videos, batch, order: None }
    }

    /// Completes the owners of a rank's samples by those of the other ranks.
    ///
    /// # Errors
    /// `Param` when the samples are not those of this step.
    pub fn complete(&mut self, owners: &mut Integers, at: At, ranks: &dyn Collective) -> Result<()> {
        let (videos, batch) = (self.videos, self.batch);
        if ranks.size() == 1 || owners.len() == batch {
            return Ok(());
        }
        let per_epoch = steps_per_epoch(videos, batch)?;
        let order = self.order.get_or_insert_with(|| Order::new(at.seed, videos, per_epoch, batch));
        let all: Vec<u32> = (0..batch as u64).map(|i| order.at(at.step * batch as u64 + i).1 as u32).collect();
        let own = batch / ranks.size() * ranks.rank();
        if all.get(own..own + owners.len()) != Some(owners.values()) {
            let rule = format!("these are not the videos of step {} of this rank", at.step);
            return Err(Error::param("settings", "samples", owners.len(), rule));
        }
        *owners = Integers::new(all);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dist::threads;

    #[test]
    fn the_owners_of_all_ranks_are_the_videos_of_the_batch() {
        let order = Order::new(3, 13, 2, 6);
        for (rank, ranks) in threads::ranks(2).into_iter().enumerate() {
            let mut all = Owners::new(13, 6);
            for step in [0, 3, 1] {
                let videos: Vec<u32> = (0..6).map(|i| order.at(step * 6 + i).1 as u32).collect();
                let at = At { seed: 3, epoch: step / 2, step, epochs: 2 };
                let mut owners = Integers::new(videos[3 * rank..][..3].to_vec());
                for _ in 0..2 {
                    all.complete(&mut owners, at, &ranks).unwrap();
                    assert_eq!(owners.values(), videos, "step {step}, rank {rank}");
                }
                let mut wrong = Integers::new(vec![videos[3 * rank]; 3]);
                let e = all.complete(&mut wrong, at, &ranks).unwrap_err().to_string();
                assert!(e.contains(&format!("not the videos of step {step}")), "{e}");
            }
        }
    }
}
