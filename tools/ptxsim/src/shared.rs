//! Shared memory of a block, with race detection.
//!
//! Time is a counter that every completed barrier advances. Accesses are recorded with their time; `seen[w][v]` is the
//! latest time of warp `v` that barriers have ordered before the present of warp `w`. An access races with an earlier
//! one of another warp if that one's time is later than this, and at least one of them is a write. Kernels with
//! asynchronous instructions of sm_90 are checked more exactly, as [`exact`] says.

pub(crate) mod clocks;
mod exact;

use std::cell::RefCell;
use std::rc::Rc;

use clocks::Clocks;
use exact::Exact;

/// What is wrong with an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    OutOfBounds,
    Uninitialised,
    /// A `cp.async` to these bytes was issued, but not waited for.
    Pending,
    /// Not ordered with an access of this warp or agent (or of several: `MANY`).
    Race(u32),
    /// The async proxy does not see what this warp stored.
    Proxy(u32),
}

const WARP: u32 = 63;
/// Several warps have read since the last relevant write.
pub(crate) const MANY: u32 = 63;
/// The last writer was an atomic operation.
const ATOMIC: u32 = 62;
/// The time of a write that is not complete.
const PENDING: u32 = u32::MAX >> 6;

pub(crate) struct Shared {
    data: Vec<u8>,
    /// Per granule: time and warp of the last write; 0 if there was none.
    writes: Vec<u32>,
    /// Per granule: time and warp of the last read.
    reads: Vec<u32>,
    /// Log2 of a granule's bytes.
    granule: u32,
    now: u32,
    seen: Vec<[u32; 32]>,
    /// For each warp the minimum of `seen` over the other warps.
    floor: [u32; 32],
    races: bool,
    /// In place of the last three where warps are not the only agents.
    exact: Option<Exact>,
}

impl Shared {
    /// Memory of a block; with the clocks of its cluster, and its rank there, where warps are not the only agents.
    pub fn new(
        bytes: u32,
        granule: u32,
        warps: usize,
        races: bool,
        cluster: Option<(Rc<RefCell<Clocks>>, usize)>,
    ) -> Shared {
        let n = (bytes as usize).div_ceil(1 << granule);
        let mut s = Shared {
            data: vec![0; bytes as usize],
            writes: vec![0; n],
            reads: vec![0; n],
            granule,
            now: 1,
            seen: vec![[0; 32]; warps],
            floor: [0; 32],
            races,
            exact: cluster.map(|(clocks, rank)| Exact::new(clocks, rank)),
        };
        s.reset();
        s
    }

    /// Resets all state, for the next block.
    pub fn reset(&mut self) {
        self.writes.fill(0);
        self.reads.fill(0);
        self.now = 1;
        self.seen.fill([0; 32]);
        self.floor = [if self.races && self.seen.len() > 1 { 0 } else { PENDING - 1 }; 32];
        if let Some(exact) = &mut self.exact {
            exact.clear();
        }
    }

    pub fn len(&self) -> u64 {
        self.data.len() as u64
    }

    #[inline]
    fn granules(&self, off: u64, n: u32) -> Result<std::ops::Range<usize>, Trouble> {
        if off.checked_add(n as u64).is_none_or(|e| e > self.len()) {
            return Err(Trouble::OutOfBounds);
        }
        Ok((off >> self.granule) as usize..((off + n as u64 - 1) >> self.granule) as usize + 1)
    }

    fn ordered(&self, stamp: u32, warp: u32) -> bool {
        let (time, by) = (stamp >> 6, stamp & WARP);
        time <= self.floor[warp as usize]
            || (by == warp && time != PENDING)
            || (by < 32 && time <= self.seen[warp as usize][by as usize])
    }

    /// Whether an earlier access is ordered before the warp's present, checked without looking up individual warps.
    #[inline(always)]
    fn plain(stamp: u32, warp: u32, floor: u32) -> bool {
        (stamp >> 6 <= floor) | ((stamp & WARP == warp) & (stamp >> 6 != PENDING))
    }

    /// The stamp of an access at present.
    #[inline(always)]
    pub fn stamp(&self, agent: u32) -> u32 {
        match &self.exact {
            None => self.now << 6 | agent,
            Some(exact) => exact.clocks.borrow().stamp(agent),
        }
    }

    /// Checks and records a read. `strong` reads are ordered by their own memory semantics.
    #[inline]
    pub fn read(&mut self, off: u64, n: u32, warp: u32, strong: bool) -> Result<(), Trouble> {
        let span = self.granules(off, n)?;
        if let Some(exact) = &mut self.exact {
            return exact.read((&self.writes[span.clone()], &mut self.reads[span]), warp, strong);
        }
        let (me, many, floor) = (self.now << 6 | warp, self.now << 6 | MANY, self.floor[warp as usize]);
        let mut ok = true;
        for w in &self.writes[span.clone()] {
            ok &= (*w != 0) & Self::plain(*w, warp, floor);
        }
        if !ok {
            for w in self.writes[span.clone()].iter().copied() {
                if w == 0 {
                    return Err(Trouble::Uninitialised);
                }
                if w >> 6 == PENDING {
                    return Err(Trouble::Pending);
                }
                if !strong && !self.ordered(w, warp) {
                    return Err(Trouble::Race(w & WARP));
                }
            }
        }
        for r in &mut self.reads[span] {
            let alone = (*r & WARP == warp) | (*r >> 6 <= floor);
            *r = if alone { me } else { many };
        }
        Ok(())
    }

    #[inline]
    fn claim(&mut self, off: u64, n: u32, warp: u32, stamp: u32) -> Result<(), Trouble> {
        let span = self.granules(off, n)?;
        self.claim_granules(span, warp, stamp)
    }

    #[inline]
    fn claim_granules(&mut self, span: std::ops::Range<usize>, warp: u32, stamp: u32) -> Result<(), Trouble> {
        if let Some(exact) = &self.exact {
            return exact.claim((&mut self.writes[span.clone()], &mut self.reads[span]), warp, stamp);
        }
        let floor = self.floor[warp as usize];
        let mut ok = true;
        for (w, r) in self.writes[span.clone()].iter().zip(&self.reads[span.clone()]) {
            ok &= Self::plain(*w, warp, floor) & Self::plain(*r, warp, floor);
        }
        if !ok {
            for i in span.clone() {
                let (w, r) = (self.writes[i], self.reads[i]);
                if w >> 6 == PENDING {
                    return Err(Trouble::Pending);
                }
                let atomic = stamp & WARP == ATOMIC && w & WARP == ATOMIC;
                if !atomic && !self.ordered(w, warp) {
                    return Err(Trouble::Race(w & WARP));
                }
                if !self.ordered(r, warp) {
                    return Err(Trouble::Race(r & WARP));
                }
            }
        }
        self.writes[span].fill(stamp);
        Ok(())
    }

    /// Checks and records a write.
    #[inline]
    pub fn write(&mut self, off: u64, n: u32, warp: u32) -> Result<(), Trouble> {
        self.claim(off, n, warp, self.stamp(warp))
    }

    /// Checks and records an atomic operation: a read and a write that does not race with other atomics.
    pub fn atomic(&mut self, off: u64, n: u32, warp: u32) -> Result<(), Trouble> {
        if self.granules(off, n)?.any(|i| self.writes[i] == 0) {
            return Err(Trouble::Uninitialised);
        }
        if let Some(exact) = &mut self.exact {
            let span = (off >> self.granule) as usize..((off + n as u64 - 1) >> self.granule) as usize + 1;
            return exact.atomic((&mut self.writes[span.clone()], &mut self.reads[span]), warp);
        }
        self.claim(off, n, warp, self.now << 6 | ATOMIC)
    }

    /// Checks a write by `cp.async`, and forbids accesses to its bytes until it completes.
    pub fn issue(&mut self, off: u64, n: u32, warp: u32) -> Result<(), Trouble> {
        let stamp = self.exact.as_ref().map_or(PENDING << 6 | warp, |e| e.pending(warp));
        self.claim(off, n, warp, stamp)
    }

    /// Completes a copy that was announced by `issue`.
    pub fn land(&mut self, off: u64, bytes: &[u8], warp: u32) {
        self.data[off as usize..off as usize + bytes.len()].copy_from_slice(bytes);
        let stamp = self.stamp(warp);
        let (a, b) = (off >> self.granule, (off + bytes.len() as u64 - 1) >> self.granule);
        self.writes[a as usize..=b as usize].fill(stamp);
    }

    /// Orders the accesses of the warps `from` before the later ones of the warps `to` (bit sets).
    pub fn join(&mut self, from: u32, to: u32) {
        if let Some(exact) = &self.exact {
            return exact.clocks.borrow_mut().join(exact.rank, from, to);
        }
        let warps = self.seen.len();
        let mut known = [0; 32];
        for v in (0..warps).filter(|v| from >> v & 1 == 1) {
            for (k, s) in known.iter_mut().zip(&self.seen[v]) {
                *k = (*k).max(*s);
            }
            known[v] = self.now;
        }
        for w in (0..warps).filter(|w| to >> w & 1 == 1) {
            for (s, k) in self.seen[w].iter_mut().zip(&known) {
                *s = (*s).max(*k);
            }
            if self.races && warps > 1 {
                self.floor[w] = (0..warps).filter(|v| *v != w).map(|v| self.seen[w][v]).min().unwrap_or(0);
            }
        }
        self.now += 1;
    }

    /// A value of 1, 2, 4 or 8 bytes; the caller has checked the access.
    #[inline]
    pub fn get(&self, off: u64, n: u32) -> u64 {
        let o = off as usize;
        match n {
            4 => u32::from_le_bytes(self.data[o..o + 4].try_into().expect("four bytes")) as u64,
            8 => u64::from_le_bytes(self.data[o..o + 8].try_into().expect("eight bytes")),
            2 => u16::from_le_bytes(self.data[o..o + 2].try_into().expect("two bytes")) as u64,
            _ => self.data[o] as u64,
        }
    }

    /// Stores a value; the caller has checked the access.
    #[inline]
    pub fn set(&mut self, off: u64, n: u32, v: u64) {
        let n = n as usize;
        self.data[off as usize..off as usize + n].copy_from_slice(&v.to_le_bytes()[..n]);
    }

    /// Sixteen bytes; the caller has checked the access.
    #[inline]
    pub fn row(&self, off: u64) -> &[u8; 16] {
        self.data[off as usize..off as usize + 16].try_into().expect("sixteen bytes")
    }
}
