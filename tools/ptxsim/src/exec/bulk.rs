//! Bulk copies between global and shared memory, of tensors (TMA) and of arrays.
//!
//! The bytes are copied when the instruction is executed. Who may read them, or overwrite those that a store reads, is decided by
//! the order of accesses (`shared::exact`): only a warp that has waited for the copy. So a missing wait is found in any order of
//! the warps.

use std::rc::Rc;

use super::asynchronous::{Landed, defined};
use super::cluster::Spot;
use super::control::Warp;
use super::load_store::trouble;
use super::regs::lanes;
use super::{Block, Result, site, unwritten};
use crate::asynchronous::{Address, Copy, Transfer};
use crate::fault::Fault;
use crate::ins::{Ins, Slot};
use crate::shared::clocks::{LOADS, store_agent};
use crate::tensor_map::window::Row;
use crate::tensor_map::{Fill, TensorMap};
use crate::types::{PARAM_WINDOW, Space, WINDOW_MASK};

/// Alignment of a tensor's window in shared memory, and of an array.
const TENSOR: u64 = 128;
const ARRAY: u64 = 16;

/// Bulk stores of a warp.
#[derive(Default)]
pub(crate) struct Groups {
    /// Groups that each lane has committed.
    committed: [u32; 32],
    pending: Vec<Store>,
}

struct Store {
    lane: usize,
    group: u32,
    /// When it read shared memory.
    time: u32,
    line: u32,
}

impl Groups {
    pub fn commit(&mut self, run: u32) {
        for l in lanes(run) {
            self.committed[l] += 1;
        }
    }

    /// The line of a store that was not waited for.
    pub fn left(&self) -> Option<u32> {
        self.pending.first().map(|s| s.line)
    }
}

/// A copy that writes shared memory, and where it completes.
struct Landing {
    to: Spot,
    n: u64,
    barrier: Spot,
    agent: u32,
}

/// 32-byte sectors of a range.
fn sectors(at: u64, n: u64) -> u64 {
    if n == 0 { 0 } else { ((at + n - 1) >> 5) - (at >> 5) + 1 }
}

impl Block<'_> {
    /// The tensor map at an address.
    fn map(&mut self, at: u64, lane: usize) -> Result<Rc<TensorMap>> {
        if let Some((_, map)) = self.asynchronous.maps.iter().find(|(a, _)| *a == at) {
            return Ok(map.clone());
        }
        let illegal = |m: &str| Err(Box::new(Fault::Illegal(site(lane, Some(at), m))));
        let param = at & WINDOW_MASK == PARAM_WINDOW;
        let off = at & !WINDOW_MASK;
        if !off.is_multiple_of(64) {
            return illegal("a tensor map that is not aligned to 64 bytes");
        }
        let mut bytes = [0; 128];
        if param {
            match self.job.params.get(off as usize..off as usize + 128) {
                Some(b) => bytes.copy_from_slice(b),
                None => return illegal("a tensor map beyond the parameters"),
            }
        } else if at & WINDOW_MASK == 0 {
            self.load_range(at, &mut bytes, lane)?;
        } else {
            return illegal("a tensor map in shared or local memory");
        }
        let Some(map) = TensorMap::decode(&bytes) else { return illegal("these 128 bytes are no tensor map") };
        let map = Rc::new(map);
        if param {
            self.asynchronous.maps.push((at, map.clone()));
        }
        Ok(map)
    }

    fn generic(w: &Warp, at: Address, run: u32) -> Result<[u64; 32]> {
        defined(w, &[at.base], run, "it is an address")?;
        Ok(w.regs.fetch(at.base).map(|a| a.wrapping_add(at.offset as u64)))
    }

    pub(super) fn prefetch(&mut self, w: &Warp, map: Address, run: u32) -> Result<()> {
        let at = Self::generic(w, map, run)?;
        lanes(run).try_for_each(|l| self.map(at[l], l).map(|_| ()))
    }

    /// The map and the rows that a lane transfers.
    fn window(&mut self, w: &Warp, t: &Transfer, at: u64, lane: usize) -> Result<(Rc<TensorMap>, Vec<Row>)> {
        let map = self.map(at, lane)?;
        let illegal = |m: String| Box::new(Fault::Illegal(site(lane, Some(at), m)));
        if map.rank() != t.coordinates.len() {
            return Err(illegal(format!(
                "{} coordinates in a tensor of {} dimensions",
                t.coordinates.len(),
                map.rank()
            )));
        }
        let value = |s: &Slot| w.regs.fetch(*s)[lane];
        let coordinates: Vec<i64> = t.coordinates.iter().map(|s| value(s) as i32 as i64).collect();
        // Offsets have 16 bits, of which the map's number of dimensions says how many count.
        let bits = 16 / (map.rank() as u32).saturating_sub(2).max(1);
        let offsets = t.offsets.as_ref().map(|o| o.iter().map(|s| value(s) as i64).collect::<Vec<_>>());
        if let Some(o) = offsets.iter().flatten().find(|o| **o >= 1 << bits) {
            return Err(illegal(format!("an offset of {o} where {bits} bits are possible")));
        }
        let (row, count) = map.rows();
        if row * count > self.shared.len() {
            let m = format!("a window of {} bytes in {} of shared memory", row * count, self.shared.len());
            return Err(Box::new(Fault::OutOfBounds(Space::Shared, site(lane, Some(at), m))));
        }
        if map.swizzle != crate::Swizzle::None && row != map.swizzle.span() {
            return Err(illegal(format!(
                "rows of {row} bytes are shorter than the swizzle's {}, which is not simulated",
                map.swizzle.span()
            )));
        }
        let rows = map.window_at(&coordinates, offsets.as_deref()).map_err(illegal)?;
        Ok((map, rows))
    }

    fn operands(w: &Warp, t: &Transfer, run: u32) -> Result<()> {
        let offsets = t.offsets.iter().flatten();
        let used: Vec<_> = t.coordinates.iter().chain(offsets).copied().collect();
        defined(w, &used, run, "it is a coordinate of a tensor")
    }

    fn aligned(at: u64, to: u64, lane: usize, space: Space, what: &str) -> Result<()> {
        if at.is_multiple_of(to) {
            return Ok(());
        }
        Err(Box::new(Fault::Misaligned(space, site(lane, Some(at), format!("{what}, which needs a multiple of {to}")))))
    }

    pub(super) fn load_tensor(&mut self, w: &mut Warp, ins: &Ins, t: &Transfer, run: u32) -> Result<()> {
        Self::operands(w, t, run)?;
        let maps = Self::generic(w, t.map, run)?;
        let (to, barriers) = (self.shared_addresses(w, t.shared, run)?, self.shared_addresses(w, t.barrier, run)?);
        for l in lanes(run) {
            let (map, rows) = self.window(w, t, maps[l], l)?;
            let row = map.rows().0 as usize;
            Self::aligned(to[l], TENSOR, l, Space::Shared, "a tensor's window")?;
            let landings =
                self.landings(w, ins, (to[l], row as u64 * rows.len() as u64), barriers[l], (t.multicast, l))?;
            let size = map.element.size() as usize;
            let mut fill = vec![if map.fill == Fill::Nan { 0xff } else { 0 }; row];
            fill.iter_mut().skip(size - 1).step_by(size).for_each(|b| *b &= 0x7f);
            let mut buffer = fill.clone();
            for (k, r) in rows.iter().enumerate() {
                buffer.copy_from_slice(&fill);
                if r.bytes > 0 {
                    let inside = r.skip as usize..(r.skip + r.bytes) as usize;
                    self.load_range(r.address, &mut buffer[inside], l)?;
                    self.counters.bulk_bytes_loaded += r.bytes;
                    self.counters.bulk_sectors_loaded += sectors(r.address, r.bytes);
                }
                for landing in &landings {
                    let shared = self.peer(landing.to.rank).0;
                    for (c, chunk) in buffer.chunks_exact(16).enumerate() {
                        let at = landing.to.at + (k * row + 16 * c) as u64;
                        shared.set_row(map.swizzle.place(at), chunk);
                    }
                }
            }
            self.land_all(w, &landings, l)?;
        }
        Ok(())
    }

    /// Checks and records that a copy writes `n` bytes of shared memory, of each block that a mask names if there is one.
    fn landings(
        &mut self,
        w: &Warp,
        ins: &Ins,
        (to, n): (u64, u64),
        barrier: u64,
        (multicast, lane): (Option<Slot>, usize),
    ) -> Result<Vec<Landing>> {
        let (to, barrier) = (self.spot(to, lane)?, self.spot(barrier, lane)?);
        if to.rank != barrier.rank {
            let m = format!("a copy to block {} of the cluster that completes in block {}", to.rank, barrier.rank);
            return Err(Box::new(Fault::Illegal(site(lane, Some(to.at), m))));
        }
        let mut ranks = vec![to.rank];
        if let Some(mask) = multicast {
            defined(w, &[mask], 1 << lane, "it says to which blocks a copy goes")?;
            let mask = w.regs.fetch(mask)[lane];
            ranks = (0..16).filter(|r| mask >> r & 1 == 1).collect();
            if mask == 0 || mask >> self.blocks() != 0 {
                let m = format!("a copy to blocks {mask:#x} of a cluster of {}", self.blocks());
                return Err(Box::new(Fault::Illegal(site(lane, Some(to.at), m))));
            }
        }
        ranks
            .into_iter()
            .map(|rank| self.landing(w, ins, (Spot { rank, ..to }, n), Spot { rank, ..barrier }, lane))
            .collect()
    }

    fn landing(&mut self, w: &Warp, ins: &Ins, (to, n): (Spot, u64), barrier: Spot, lane: usize) -> Result<Landing> {
        self.visit(w, to, lane, ins.line)?;
        let agent = self.load_agent(barrier, lane, w.agent)?;
        let now = self.clocks.borrow().now();
        let (shared, state) = self.peer(to.rank);
        let claimed = shared.write_async(to.at, n as u32, w.agent, agent);
        state.landed[(agent % 64 - LOADS) as usize] = Landed { time: now, warp: w.id, line: ins.line };
        claimed.map_err(|t| trouble(t, lane, to.at, "a bulk copy writes"))?;
        Ok(Landing { to, n, barrier, agent })
    }

    /// The ends of copies.
    fn land_all(&mut self, w: &Warp, landings: &[Landing], lane: usize) -> Result<()> {
        landings.iter().try_for_each(|l| self.complete(l.barrier, l.n, l.agent, lane, w.agent))
    }

    /// Checks and records that a copy reads shared memory.
    fn leaving(&mut self, w: &mut Warp, ins: &Ins, from: u64, n: u64, lane: usize) -> Result<()> {
        let read = self.shared.read_async(from, n as u32, w.agent, store_agent(w.agent), &mut Vec::new());
        read.map_err(|t| trouble(t, lane, from, "a bulk copy reads"))?;
        let time = self.clocks.borrow().now();
        self.clocks.borrow_mut().tick();
        w.bulk.pending.push(Store { lane, group: w.bulk.committed[lane], time, line: ins.line });
        Ok(())
    }

    pub(super) fn store_tensor(&mut self, w: &mut Warp, ins: &Ins, t: &Transfer, run: u32) -> Result<()> {
        Self::operands(w, t, run)?;
        let maps = Self::generic(w, t.map, run)?;
        let from = self.own_addresses(w, t.shared, run)?;
        for l in lanes(run) {
            let (map, rows) = self.window(w, t, maps[l], l)?;
            let row = map.rows().0 as usize;
            Self::aligned(from[l], TENSOR, l, Space::Shared, "a tensor's window")?;
            self.leaving(w, ins, from[l], row as u64 * rows.len() as u64, l)?;
            let mut buffer = vec![0; row];
            for (k, r) in rows.iter().enumerate().filter(|(_, r)| r.bytes > 0) {
                for (c, chunk) in buffer.chunks_exact_mut(16).enumerate() {
                    let at = from[l] + (k * row + 16 * c) as u64;
                    chunk.copy_from_slice(self.shared.row(map.swizzle.place(at)));
                }
                self.store_range(r.address, &buffer[r.skip as usize..(r.skip + r.bytes) as usize], l)?;
                self.counters.bulk_bytes_stored += r.bytes;
            }
        }
        Ok(())
    }

    /// The sizes that lanes copy: multiples of 16.
    fn sizes(w: &Warp, ins: &Ins, run: u32) -> Result<[u64; 32]> {
        let missing = run & !w.regs.def(ins.b);
        if missing != 0 {
            return unwritten(missing, "it is the size of a copy");
        }
        let n = w.regs.fetch(ins.b);
        match lanes(run).find(|l| !n[*l].is_multiple_of(ARRAY) || n[*l] == 0) {
            None => Ok(n),
            Some(l) => {
                let m = format!("a bulk copy of {} bytes, not a multiple of {ARRAY}", n[l]);
                Err(Box::new(Fault::Illegal(site(l, None, m))))
            }
        }
    }

    pub(super) fn load_bulk(&mut self, w: &mut Warp, ins: &Ins, c: &Copy, run: u32) -> Result<()> {
        let n = Self::sizes(w, ins, run)?;
        let from = match c.shared {
            true => self.own_addresses(w, c.from, run)?,
            false => Self::generic(w, c.from, run)?,
        };
        let (to, barriers) = (self.shared_addresses(w, c.to, run)?, self.shared_addresses(w, c.barrier, run)?);
        for l in lanes(run) {
            Self::aligned(to[l], ARRAY, l, Space::Shared, "a bulk copy")?;
            Self::aligned(from[l], ARRAY, l, if c.shared { Space::Shared } else { Space::Global }, "a bulk copy")?;
            let landings = self.landings(w, ins, (to[l], n[l]), barriers[l], (c.multicast, l))?;
            let mut buffer = vec![0; n[l] as usize];
            if c.shared {
                // The copy has read its source when it is complete at its destination.
                let read = self.shared.read_async(from[l], n[l] as u32, w.agent, landings[0].agent, &mut Vec::new());
                read.map_err(|t| trouble(t, l, from[l], "a bulk copy reads"))?;
                for (k, chunk) in buffer.chunks_exact_mut(16).enumerate() {
                    chunk.copy_from_slice(self.shared.row(from[l] + 16 * k as u64));
                }
            } else {
                self.load_range(from[l], &mut buffer, l)?;
                self.counters.bulk_bytes_loaded += n[l];
                self.counters.bulk_sectors_loaded += sectors(from[l], n[l]);
            }
            for landing in &landings {
                self.peer(landing.to.rank).0.set_row(landing.to.at, &buffer);
            }
            self.land_all(w, &landings, l)?;
        }
        Ok(())
    }

    pub(super) fn store_bulk(
        &mut self,
        w: &mut Warp,
        ins: &Ins,
        (to, from): (Address, Address),
        run: u32,
    ) -> Result<()> {
        let (n, to) = (Self::sizes(w, ins, run)?, Self::generic(w, to, run)?);
        let from = self.own_addresses(w, from, run)?;
        for l in lanes(run) {
            Self::aligned(from[l], ARRAY, l, Space::Shared, "a bulk copy")?;
            Self::aligned(to[l], ARRAY, l, Space::Global, "a bulk copy")?;
            self.leaving(w, ins, from[l], n[l], l)?;
            let bytes: Vec<u8> = (0..n[l]).step_by(16).flat_map(|k| *self.shared.row(from[l] + k)).collect();
            self.store_range(to[l], &bytes, l)?;
            self.counters.bulk_bytes_stored += n[l];
        }
        Ok(())
    }

    /// `cp.async.bulk.wait_group`: all groups of the lanes but their last `keep` have read shared memory.
    pub(super) fn complete_groups(&mut self, w: &mut Warp, keep: u32, run: u32) {
        let Warp { bulk: Groups { committed, pending }, agent, .. } = w;
        let mut clocks = self.clocks.borrow_mut();
        pending.retain(|s| {
            let done = run >> s.lane & 1 == 1 && s.group + keep < committed[s.lane];
            if done {
                clocks.observe(*agent, store_agent(*agent), s.time);
            }
            !done
        });
    }
}
