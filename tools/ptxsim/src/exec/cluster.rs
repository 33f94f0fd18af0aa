//! Blocks of a cluster: they run in turns, see each other's shared memory, and meet at the cluster's barrier.

use std::collections::BTreeMap;

use super::asynchronous::State;
use super::barrier::Barrier;
use super::control::Warp;
use super::load_store::{extend, trouble};
use super::regs::lanes;
use super::wait::{Reason, Wait};
use super::{Block, Next, Result, site, unwritten};
use crate::fault::Fault;
use crate::ins::{Ins, Memory};
use crate::shared::clocks::Clock;
use crate::shared::{Shared, Trouble};
use crate::types::Space;

/// Bits of an offset in a block's shared memory. Above them addresses have the block's rank plus one; without, they are
/// addresses of the executing block.
const OFFSET: u32 = 24;

/// What belongs to one block of a cluster.
pub(crate) struct Cta {
    pub id: [u32; 3],
    pub tag: u16,
    pub shared: Shared,
    pub barriers: [Barrier; 16],
    pub asynchronous: State,
}

/// The barrier of a cluster, and what its blocks do to each other.
#[derive(Default)]
pub(crate) struct Meeting {
    /// Warps that have arrived in this phase.
    arrived: Vec<u32>,
    phase: u64,
    collected: Clock,
    passed: Clock,
    /// The last access of each warp to another block's shared memory: when, and where in the text.
    visits: BTreeMap<(usize, u32), (u32, u32)>,
}

/// A place in the shared memory of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    pub rank: usize,
    pub at: u64,
}

impl Block<'_> {
    pub(super) fn blocks(&self) -> usize {
        self.others.len()
    }

    /// Makes a block of the cluster the one that runs.
    pub(super) fn enter(&mut self, rank: usize) {
        for r in [self.rank, rank] {
            if self.rank != rank {
                let c = &mut self.others[r];
                std::mem::swap(&mut self.id, &mut c.id);
                std::mem::swap(&mut self.tag, &mut c.tag);
                std::mem::swap(&mut self.shared, &mut c.shared);
                std::mem::swap(&mut self.barriers, &mut c.barriers);
                std::mem::swap(&mut self.asynchronous, &mut c.asynchronous);
            }
        }
        self.rank = rank;
    }

    /// The shared memory and the mbarriers of a block of the cluster.
    pub(super) fn peer(&mut self, rank: usize) -> (&mut Shared, &mut State) {
        if rank == self.rank {
            return (&mut self.shared, &mut self.asynchronous);
        }
        let c = &mut self.others[rank];
        (&mut c.shared, &mut c.asynchronous)
    }

    /// The same, to look at.
    pub(super) fn peek(&self, rank: usize) -> (&Shared, &State) {
        if rank == self.rank {
            return (&self.shared, &self.asynchronous);
        }
        let c = &self.others[rank];
        (&c.shared, &c.asynchronous)
    }

    /// The block and the offset that an address of shared memory means.
    pub(super) fn spot(&self, address: u64, lane: usize) -> Result<Spot> {
        let at = address & ((1 << OFFSET) - 1);
        match (address >> OFFSET) as usize {
            0 => Ok(Spot { rank: self.rank, at }),
            n if n <= self.blocks() => Ok(Spot { rank: n - 1, at }),
            n => {
                let m = format!("block {} of a cluster of {}", n - 1, self.blocks());
                Err(Box::new(Fault::OutOfBounds(Space::Cluster, site(lane, Some(address), m))))
            }
        }
    }

    /// Records that a warp does something in another block: that one must have begun, and must not end before.
    pub(super) fn visit(&mut self, w: &Warp, spot: Spot, lane: usize, line: u32) -> Result<()> {
        if spot.rank == self.rank {
            return Ok(());
        }
        let clocks = self.clocks.borrow();
        if !clocks.knows(w.agent, spot.rank) && self.job.races {
            let m = format!("no barrier of the cluster says that block {} has begun", spot.rank);
            return Err(Box::new(Fault::Race(Space::Cluster, site(lane, Some(spot.at), m))));
        }
        self.meeting.visits.insert((spot.rank, w.agent), (clocks.now(), line));
        Ok(())
    }

    /// Fails if a block may have ended before another one's access to its shared memory.
    pub(super) fn check_visits(&mut self) -> Result<()> {
        let late = |((rank, by), (time, line)): (&(usize, u32), &(u32, u32))| {
            (self.clocks.borrow().observed(*rank, *by) < *time).then_some((*rank, *by, *line))
        };
        let Some((rank, by, line)) = self.meeting.visits.iter().find_map(late).filter(|_| self.job.races) else {
            return Ok(());
        };
        self.enter((by >> 6) as usize);
        let m = format!("block {rank} of the cluster may end before this access to its shared memory");
        Err(self.place(Box::new(Fault::InFlight(site(0, None, m))), line, by & 63))
    }

    /// `mapa`: the address in another block, or `getctarank`.
    pub(super) fn map_address(&mut self, w: &mut Warp, ins: &Ins, rank_of: bool, run: u32) -> Result<()> {
        let missing = run & !(w.regs.def(ins.a) & w.regs.def(ins.b));
        if missing != 0 {
            return unwritten(missing, "it is an address or a block of a cluster");
        }
        let (a, b) = (w.regs.fetch(ins.a), w.regs.fetch(ins.b));
        let mut out = [0; 32];
        for l in lanes(run) {
            let window = a[l] & crate::types::WINDOW_MASK;
            let spot = self.spot(a[l] & !window, l)?;
            out[l] = if rank_of { spot.rank as u64 } else { window | (b[l] + 1) << OFFSET | spot.at };
            if !rank_of {
                self.spot(out[l] & !window, l)?;
            }
        }
        w.regs.put(ins.d, run, &out, !0);
        Ok(())
    }

    pub(super) fn arrive_in_cluster(&mut self, w: &mut Warp, relaxed: bool, run: u32) -> Result<()> {
        if run != w.alive {
            let m = "some lanes of the warp do not arrive at the barrier of the cluster";
            return Err(Box::new(Fault::Divergence(site(run.trailing_zeros() as usize, None, m))));
        }
        if w.meeting.is_some() {
            let m = "the warp arrives a second time at the barrier of the cluster, without waiting";
            return Err(Box::new(Fault::Illegal(site(0, None, m))));
        }
        w.meeting = Some(self.meeting.phase);
        self.meeting.arrived.push(w.agent);
        if !relaxed {
            let clock = self.clocks.borrow_mut().release(w.agent);
            self.meeting.collected.resize(clock.len(), 0);
            self.meeting.collected.iter_mut().zip(&clock).for_each(|(a, b)| *a = (*a).max(*b));
        }
        Ok(())
    }

    pub(super) fn wait_in_cluster(&mut self, w: &mut Warp, ins: &Ins, run: u32) -> Result<Next> {
        if run != w.alive {
            let m = "some lanes of the warp do not wait at the barrier of the cluster";
            return Err(Box::new(Fault::Divergence(site(run.trailing_zeros() as usize, None, m))));
        }
        let Some(phase) = w.meeting else {
            let m = "the warp waits at the barrier of the cluster without having arrived";
            return Err(Box::new(Fault::Illegal(site(0, None, m))));
        };
        if self.meeting.phase == phase {
            w.wait = Some(Wait { reason: Reason::Cluster { phase }, line: ins.line });
            return Ok(Next::Retry);
        }
        w.meeting = None;
        self.clocks.borrow_mut().acquire(w.agent, &self.meeting.passed);
        Ok(Next::Go)
    }

    /// Ends the phase of the cluster's barrier if all warps that are left have arrived.
    pub(super) fn settle_cluster(&mut self, warps: &[Warp]) {
        let m = &mut self.meeting;
        if !m.arrived.is_empty() && warps.iter().all(|w| w.done() || m.arrived.contains(&w.agent)) {
            m.phase += 1;
            m.arrived.clear();
            m.passed = std::mem::take(&mut m.collected);
        }
    }

    pub(super) fn cluster_passed(&self, phase: u64) -> bool {
        self.meeting.phase > phase
    }

    pub(super) fn describe_cluster(&self) -> String {
        format!("the barrier of the cluster has {} warps", self.meeting.arrived.len())
    }

    /// Checks an access of a lane to the shared memory of a cluster, and returns where it is.
    #[inline(never)]
    pub(super) fn check_cluster(
        &mut self,
        w: &Warp,
        (address, n): (u64, u32),
        lane: usize,
        line: u32,
        (what, check): (&str, impl FnOnce(&mut Shared, u64) -> std::result::Result<(), Trouble>),
    ) -> Result<Spot> {
        let spot = self.spot(address, lane)?;
        if !spot.at.is_multiple_of(u64::from(n)) {
            let m = format!("an access of {n} bytes");
            return Err(Box::new(Fault::Misaligned(Space::Cluster, site(lane, Some(address), m))));
        }
        self.visit(w, spot, lane, line)?;
        check(self.peer(spot.rank).0, spot.at).map_err(|t| trouble(t, lane, address, what))?;
        Ok(spot)
    }

    #[inline(never)]
    pub(super) fn load_cluster(
        &mut self,
        w: &mut Warp,
        ins: &Ins,
        m: &Memory,
        addresses: &[u64; 32],
        run: u32,
    ) -> Result<()> {
        let size = m.ty.size();
        let n = size * m.regs.len() as u32;
        let mut values = [[0; 32]; 4];
        for l in lanes(run) {
            let check = |s: &mut Shared, at| s.read(at, n, w.agent, m.strong);
            let spot = self.check_cluster(w, (addresses[l], n), l, ins.line, ("a load reads", check))?;
            let shared = self.peek(spot.rank).0;
            for (k, v) in values.iter_mut().enumerate().take(m.regs.len()) {
                v[l] = shared.get(spot.at + k as u64 * u64::from(size), size);
            }
        }
        for (r, v) in m.regs.iter().zip(values) {
            w.regs.put(*r, run, &extend(v, m.ty), !0);
        }
        self.counters.shared_requests += 1;
        Ok(())
    }

    #[inline(never)]
    pub(super) fn store_cluster(
        &mut self,
        w: &Warp,
        ins: &Ins,
        m: &Memory,
        (addresses, values): (&[u64; 32], &[[u64; 32]; 4]),
        run: u32,
    ) -> Result<()> {
        let size = m.ty.size();
        let n = size * m.regs.len() as u32;
        for l in lanes(run) {
            let check = |s: &mut Shared, at| s.write(at, n, w.agent);
            let spot = self.check_cluster(w, (addresses[l], n), l, ins.line, ("a store writes", check))?;
            let shared = self.peer(spot.rank).0;
            for (k, v) in values.iter().enumerate().take(m.regs.len()) {
                shared.set(spot.at + k as u64 * u64::from(size), size, v[l]);
            }
        }
        self.counters.shared_requests += 1;
        Ok(())
    }
}
