//! What a warp waits for, and when it goes on.

use super::control::Warp;
use super::{Block, Result, site};
use crate::fault::Fault;
use crate::ins::{Reduce, Slot};

/// What a warp waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wait {
    pub reason: Reason,
    pub line: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Reason {
    /// One of the block's sixteen barriers; the result of its reduction goes to a register.
    Barrier { id: usize, to: Slot, reduce: Reduce },
    /// The end of a phase of the mbarrier at an address.
    Phase { at: u64, phase: u64 },
    /// That the other warps of its warpgroup have issued a product.
    Products { number: u64 },
    /// Registers per thread.
    Registers { count: u32 },
    /// A phase of the cluster's barrier.
    Cluster { phase: u64 },
}

impl Block<'_> {
    /// Lets warps go on whose wait is over; `per` of them belong to each block of the cluster.
    pub(super) fn settle(&mut self, warps: &mut [Warp], per: usize) -> Result<()> {
        if self.blocks() == 1 && !self.job.entry.asynchronous {
            self.settle_barriers(warps);
            return Ok(());
        }
        self.settle_cluster(warps);
        for (rank, of) in warps.chunks_mut(per).enumerate() {
            self.enter(rank);
            self.settle_barriers(of);
            self.settle_others(of)?;
        }
        Ok(())
    }

    fn settle_others(&mut self, warps: &mut [Warp]) -> Result<()> {
        for w in warps {
            let Some(Wait { reason, line }) = w.wait else { continue };
            let over = match reason {
                Reason::Barrier { .. } => Ok(false),
                Reason::Phase { at, phase } => self.passed(at, phase),
                Reason::Products { number } => Ok(self.issued_by_all(w.id, number)),
                Reason::Registers { count } => Ok(self.registers_left(w.id) >= i64::from(count)),
                Reason::Cluster { phase } => Ok(self.cluster_passed(phase)),
            };
            if over.map_err(|f| self.place(f, line, w.id))? {
                w.wait = None;
            }
        }
        Ok(())
    }

    fn describe(&mut self, w: &Warp, reason: Reason) -> String {
        self.enter((w.agent >> 6) as usize);
        match reason {
            Reason::Cluster { .. } => self.describe_cluster(),
            Reason::Barrier { id, .. } => self.barriers[id].describe(id),
            Reason::Phase { at, phase } => self.describe_phase(at, phase),
            Reason::Products { .. } => {
                format!("the other warps of warpgroup {} have not issued the wgmma that it waits for", w.id / 4)
            }
            Reason::Registers { count } => {
                format!("{count} registers per thread where {} are free", self.registers_left(w.id))
            }
        }
    }

    /// No warp can continue: the fault that says why.
    pub(super) fn deadlock(&mut self, warps: &[Warp]) -> Box<Fault> {
        let mut waiting: Vec<(&Warp, Wait)> = warps.iter().filter_map(|w| Some((w, w.wait.or(w.idle)?))).collect();
        let (first, wait) = waiting[0];
        let gone = warps.iter().filter(|w| w.done()).count();
        let mut m = self.describe(first, wait.reason);
        let barrier = waiting.iter().all(|(_, x)| matches!(x.reason, Reason::Barrier { .. }));
        // One sentence per thing that is waited for.
        let same = |(w, x): (&Warp, Wait), (v, y): (&Warp, Wait)| x.reason == y.reason && w.agent >> 6 == v.agent >> 6;
        waiting.retain(|v| !same(*v, (first, wait)));
        while let Some((w, x)) = waiting.first().copied() {
            let block = if self.blocks() > 1 { format!(" of block {}", w.agent >> 6) } else { String::new() };
            m += &format!("; warp {}{block} at PTX line {}: {}", w.id, x.line, self.describe(w, x.reason));
            waiting.retain(|v| !same(*v, (w, x)));
        }
        self.enter((first.agent >> 6) as usize);
        let f = if gone > 0 && barrier {
            Fault::Divergence(site(0, None, format!("{m}, and {gone} warps have left the kernel")))
        } else {
            Fault::Deadlock(site(0, None, m))
        };
        self.place(Box::new(f), wait.line, first.id)
    }
}
