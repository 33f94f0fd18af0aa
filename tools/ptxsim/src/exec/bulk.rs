//! Bulk copies between global and shared memory, of tensors (TMA) and of arrays.
//!
//! The bytes are copied when the instruction is executed. Who may read them, or overwrite those that a store reads, is decided by
//! the order of accesses (`shared::exact`): only a warp that has waited for the copy. So a missing wait is found in any order of
//! the warps.

use std::rc::Rc;

use super::asynchronous::{Landed, defined};
use super::control::Warp;
use super::load_store::trouble;
use super::regs::lanes;
use super::{Block, Result, site, unwritten};
use crate::asynchronous::{Address, Transfer};
use crate::fault::Fault;
use crate::ins::Ins;
use crate::shared::exact::{LOADS, store_agent};
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
        let value = |s: &crate::ins::Slot| w.regs.fetch(*s)[lane];
        let coordinates: Vec<i64> = t.coordinates.iter().map(|s| value(s) as i32 as i64).collect();
        // Offsets have 16 bits, of which the map's number of dimensions says how many count.
        let bits = 16 / (map.rank() as u32).saturating_sub(2).max(1);
        let offsets = t.offsets.as_ref().map(|o| o.iter().map(|s| value(s) as i64).collect::<Vec<_>>());
        if let Some(o) = offsets.iter().flatten().find(|o| **o >= 1 << bits) {
            return Err(illegal(format!("an offset of {o} where {bits} bits are possible")));
        }
        let (row, _) = map.rows();
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
            let total = row as u64 * rows.len() as u64;
            let agent = self.landing(w, ins, (to[l], total), barriers[l], l)?;
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
                for (c, chunk) in buffer.chunks_exact(16).enumerate() {
                    let at = to[l] + (k * row + 16 * c) as u64;
                    self.shared.set_row(map.swizzle.place(at), chunk);
                }
            }
            self.complete(barriers[l], total, agent, l, w.id)?;
        }
        Ok(())
    }

    /// Checks and records that a copy writes shared memory, and returns its agent.
    fn landing(&mut self, w: &Warp, ins: &Ins, (to, n): (u64, u64), barrier: u64, lane: usize) -> Result<u32> {
        let agent = self.load_agent(barrier, lane, w.id)?;
        let claimed = self.shared.write_async(to, n as u32, w.id, agent);
        claimed.map_err(|t| trouble(t, lane, to, "a bulk copy writes"))?;
        let time = self.shared.stamp(0) >> 6;
        self.asynchronous.landed[(agent - LOADS) as usize] = Landed { time, warp: w.id, line: ins.line };
        Ok(agent)
    }

    /// Checks and records that a copy reads shared memory.
    fn leaving(&mut self, w: &mut Warp, ins: &Ins, from: u64, n: u64, lane: usize) -> Result<()> {
        let read = self.shared.read_async(from, n as u32, w.id, store_agent(w.id), &mut Vec::new());
        read.map_err(|t| trouble(t, lane, from, "a bulk copy reads"))?;
        let time = self.shared.stamp(0) >> 6;
        self.shared.tick();
        w.bulk.pending.push(Store { lane, group: w.bulk.committed[lane], time, line: ins.line });
        Ok(())
    }

    pub(super) fn store_tensor(&mut self, w: &mut Warp, ins: &Ins, t: &Transfer, run: u32) -> Result<()> {
        Self::operands(w, t, run)?;
        let maps = Self::generic(w, t.map, run)?;
        let from = self.shared_addresses(w, t.shared, run)?;
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

    pub(super) fn load_bulk(
        &mut self,
        w: &mut Warp,
        ins: &Ins,
        (to, from, barrier): (Address, Address, Address),
        run: u32,
    ) -> Result<()> {
        let (n, from) = (Self::sizes(w, ins, run)?, Self::generic(w, from, run)?);
        let (to, barriers) = (self.shared_addresses(w, to, run)?, self.shared_addresses(w, barrier, run)?);
        for l in lanes(run) {
            Self::aligned(to[l], ARRAY, l, Space::Shared, "a bulk copy")?;
            Self::aligned(from[l], ARRAY, l, Space::Global, "a bulk copy")?;
            let agent = self.landing(w, ins, (to[l], n[l]), barriers[l], l)?;
            let mut buffer = vec![0; n[l] as usize];
            self.load_range(from[l], &mut buffer, l)?;
            self.shared.set_row(to[l], &buffer);
            self.counters.bulk_bytes_loaded += n[l];
            self.counters.bulk_sectors_loaded += sectors(from[l], n[l]);
            self.complete(barriers[l], n[l], agent, l, w.id)?;
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
        let from = self.shared_addresses(w, from, run)?;
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
        let Warp { bulk: Groups { committed, pending }, id, .. } = w;
        let shared = &mut self.shared;
        pending.retain(|s| {
            let done = run >> s.lane & 1 == 1 && s.group + keep < committed[s.lane];
            if done {
                shared.observe(*id, store_agent(*id), s.time);
            }
            !done
        });
    }
}
