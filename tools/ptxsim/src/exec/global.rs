//! Checks of global accesses: regions, access rights, initialisation, and races between blocks.

use std::sync::atomic::Ordering::SeqCst;

use super::regs::lanes;
use super::{Block, Region, Result, Tags, site};
use crate::fault::Fault;
use crate::machine::Access;
use crate::memory::pieces;
use crate::requests::strided;
use crate::types::Space;

/// The mark of a granule that several blocks have read.
const SEVERAL: u16 = 0xffff;
/// The mark of a granule that atomic operations have written.
const ATOMICALLY: u16 = 0xfffe;

/// The kind of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Touch {
    Load,
    Store,
    Atomic,
    /// A load that is ordered by its own memory semantics, without barriers.
    Strong,
}

impl Tags {
    /// Records an access; false if it races with another block's.
    fn touch(&self, off: u64, n: u32, tag: u16, how: Touch) -> bool {
        let (a, b) = (off >> self.granule, (off + n as u64 - 1) >> self.granule);
        (a as usize..=b as usize).all(|i| {
            let own = |t: u16| t == 0 || t == tag;
            match how {
                Touch::Strong => true,
                // Each side first writes its mark, then reads the other's: of two racing blocks, at least one sees the
                // race.
                Touch::Load => {
                    if self.reads[i].load(SeqCst) != tag {
                        let old = self.reads[i].swap(tag, SeqCst);
                        if !own(old) {
                            self.reads[i].store(SEVERAL, SeqCst);
                        }
                    }
                    own(self.writes[i].load(SeqCst))
                }
                Touch::Store => own(self.writes[i].swap(tag, SeqCst)) && own(self.reads[i].load(SeqCst)),
                Touch::Atomic => {
                    let old = self.writes[i].swap(ATOMICALLY, SeqCst);
                    (own(old) || old == ATOMICALLY) && own(self.reads[i].load(SeqCst))
                }
            }
        })
    }
}

impl Region {
    fn holds(&self, lo: u64, hi: u64, store: bool) -> bool {
        self.lo <= lo && hi <= self.hi && (!store || self.access != Access::Read)
    }
}

impl Block<'_> {
    /// The region that contains a range and permits loading from or storing to it.
    fn region(&mut self, lo: u64, hi: u64, store: bool) -> Option<usize> {
        let regions = &self.job.regions;
        if regions.get(self.near).is_some_and(|r| r.holds(lo, hi, store)) {
            return Some(self.near);
        }
        self.near = regions.iter().position(|r| r.holds(lo, hi, store))?;
        Some(self.near)
    }

    /// The fault for a range that is in no region.
    fn outside(&self, lo: u64, n: u32, lane: usize, store: bool) -> Box<Fault> {
        let regions = &self.job.regions;
        if store && regions.iter().any(|r| r.holds(lo, lo + n as u64, false)) {
            return Box::new(Fault::ReadOnly(site(lane, Some(lo), format!("{n} bytes"))));
        }
        let near = regions.iter().min_by_key(|r| if lo < r.lo { r.lo - lo } else { lo - r.hi.min(lo) });
        let what = if store { "a store" } else { "a load" };
        let m = match near {
            Some(r) if lo >= r.hi => {
                format!("{what} of {n} bytes, {} past a region of {} bytes", lo - r.hi, r.hi - r.lo)
            }
            Some(r) if lo >= r.lo => {
                format!("{what} of {n} bytes that begins in a region of {} bytes and ends beyond it", r.hi - r.lo)
            }
            Some(r) => format!("{what} of {n} bytes, {} before a region of {} bytes", r.lo - lo, r.hi - r.lo),
            None => format!("{what} of {n} bytes in a launch without memory"),
        };
        Box::new(Fault::OutOfBounds(Space::Global, site(lane, Some(lo), m)))
    }

    /// Checks one lane's access, and returns its region.
    pub(super) fn check_one(&mut self, addr: u64, n: u32, lane: usize, how: Touch) -> Result<usize> {
        let store = matches!(how, Touch::Store | Touch::Atomic);
        let found = self.region(addr, addr.wrapping_add(n as u64), store);
        let i = found.ok_or_else(|| self.outside(addr, n, lane, store))?;
        self.check_in(i, addr, n, lane, how)?;
        Ok(i)
    }

    /// The checks other than bounds.
    #[inline]
    fn check_in(&self, i: usize, addr: u64, n: u32, lane: usize, how: Touch) -> Result<()> {
        let r = &self.job.regions[i];
        if r.full {
            return Ok(());
        }
        let off = addr - r.buffer.base();
        if let Some(tags) = &r.tags
            && !tags.touch(addr - (r.lo & !15), n, self.tag, how)
        {
            let m = "another block of the launch has stored or loaded these bytes";
            return Err(Box::new(Fault::Race(Space::Global, site(lane, Some(addr), m))));
        }
        if how != Touch::Store {
            let step = n.min(8);
            if (0..n / step).any(|k| !r.buffer.initialised(off + (k * step) as u64, step)) {
                return Err(Box::new(Fault::Uninitialised(
                    Space::Global,
                    site(lane, Some(addr), format!("{n} bytes")),
                )));
            }
        }
        Ok(())
    }

    /// Checks a range of up to 16 bytes for reading; returns its region and the offset in the region's buffer.
    pub(super) fn readable(&mut self, addr: u64, n: u32, lane: usize) -> Result<(usize, u64)> {
        let found = self.region(addr, addr.wrapping_add(n as u64), false);
        let i = found.ok_or_else(|| self.outside(addr, n, lane, false))?;
        let base = self.job.regions[i].buffer.base();
        let mut at = 0;
        while at < n {
            let step = (1 << (at | 8).trailing_zeros()).min(1 << (n - at).ilog2());
            self.check_in(i, addr + at as u64, step, lane, Touch::Load)?;
            at += step;
        }
        Ok((i, addr - base))
    }

    /// Checks and reads a range.
    pub(super) fn load_range(&mut self, addr: u64, out: &mut [u8], lane: usize) -> Result<()> {
        let n = out.len() as u64;
        let i = self.range(addr, n, lane, Touch::Load)?;
        let buffer = &self.job.regions[i].buffer;
        buffer.load_range(addr - buffer.base(), out);
        Ok(())
    }

    /// Checks and stores a range.
    pub(super) fn store_range(&mut self, addr: u64, bytes: &[u8], lane: usize) -> Result<()> {
        let i = self.range(addr, bytes.len() as u64, lane, Touch::Store)?;
        let buffer = &self.job.regions[i].buffer;
        buffer.store_range(addr - buffer.base(), bytes);
        Ok(())
    }

    fn range(&mut self, addr: u64, n: u64, lane: usize, how: Touch) -> Result<usize> {
        let store = how == Touch::Store;
        let found = self.region(addr, addr.wrapping_add(n), store);
        let i = found.ok_or_else(|| self.outside(addr, n as u32, lane, store))?;
        if !self.job.regions[i].full {
            for (at, step) in pieces(addr, n) {
                self.check_in(i, at, step as u32, lane, how)?;
            }
        }
        Ok(i)
    }

    /// Checks an access of `n` bytes per lane, and returns the region if all lanes are in the same one.
    pub(super) fn check_global(&mut self, addr: &[u64; 32], run: u32, n: u32, how: Touch) -> Result<Option<usize>> {
        let (mut lo, mut hi, mut low) = (u64::MAX, 0, 0);
        if run == !0 && strided(addr, n as u64) {
            (lo, hi, low) = (addr[0], addr[31], addr[0]);
        } else {
            for l in lanes(run) {
                lo = lo.min(addr[l]);
                hi = hi.max(addr[l]);
                low |= addr[l];
            }
        }
        if low & (n as u64 - 1) != 0 {
            let l = lanes(run).find(|l| !addr[*l].is_multiple_of(n as u64)).unwrap_or(0);
            return Err(Box::new(Fault::Misaligned(
                Space::Global,
                site(l, Some(addr[l]), format!("an access of {n} bytes")),
            )));
        }
        let store = matches!(how, Touch::Store | Touch::Atomic);
        match self.region(lo, hi.wrapping_add(n as u64), store) {
            Some(i) => {
                if !self.job.regions[i].full {
                    for l in lanes(run) {
                        self.check_in(i, addr[l], n, l, how)?;
                    }
                }
                Ok(Some(i))
            }
            None => {
                for l in lanes(run) {
                    self.check_one(addr[l], n, l, how)?;
                }
                Ok(None)
            }
        }
    }
}
