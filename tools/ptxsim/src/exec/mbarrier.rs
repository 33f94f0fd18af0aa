//! mbarriers: phases that end when all arrivals have come and all expected bytes have been copied.

use super::cluster::Spot;
use super::control::Warp;
use super::regs::lanes;
use super::wait::{Reason, Wait};
use super::{Block, Next, Result, site, unwritten};
use crate::asynchronous::Address;
use crate::fault::Fault;
use crate::ins::Ins;
use crate::shared::clocks::{Clock, LOADS, MBARRIER};
use crate::types::{SHARED_WINDOW, Space, WINDOW_MASK};

/// Maximum number of arrivals, and of bytes that are expected or too many.
const MOST: i64 = (1 << 20) - 1;

/// An mbarrier.
pub(crate) struct Mbarrier {
    /// Arrivals of a phase, and those that this one still lacks.
    count: u32,
    pending: u32,
    /// Bytes that are expected, less those that have come.
    bytes: i64,
    /// Number of the present phase.
    phase: u64,
    /// When and by which warp it was initialised.
    made: u32,
    by: u32,
    /// Whether its initialisation is visible to the async proxy.
    fenced: bool,
    /// What the arrivals of this phase pass on, and what those of the last one have.
    collected: Clock,
    passed: Clock,
    /// The agent of the copies that complete here.
    agent: Option<u32>,
}

impl Mbarrier {
    fn fault(m: String) -> Box<Fault> {
        Box::new(Fault::Mbarrier(site(0, None, m)))
    }

    fn arrive(&mut self, n: u32) -> Result<()> {
        if n > self.pending {
            return Err(Self::fault(format!(
                "{n} arrivals where phase {} lacks {} of {}",
                self.phase, self.pending, self.count
            )));
        }
        self.pending -= n;
        self.end();
        Ok(())
    }

    fn expect(&mut self, n: i64) -> Result<()> {
        self.bytes += n;
        if self.bytes.abs() > MOST {
            return Err(Self::fault(format!("{} bytes are expected where {MOST} can be counted", self.bytes)));
        }
        Ok(())
    }

    fn collect(&mut self, clock: &[u32]) {
        self.collected.iter_mut().zip(clock).for_each(|(a, b)| *a = (*a).max(*b));
    }

    /// Ends the phase if nothing is missing.
    fn end(&mut self) {
        if self.pending == 0 && self.bytes == 0 {
            self.phase += 1;
            self.pending = self.count;
            std::mem::swap(&mut self.passed, &mut self.collected);
            self.collected.fill(0);
        }
    }
}

impl Block<'_> {
    /// Addresses of shared memory, also where they are given in the generic address space.
    pub(super) fn shared_addresses(&self, w: &Warp, at: Address, run: u32) -> Result<[u64; 32]> {
        let missing = run & !w.regs.def(at.base);
        if missing != 0 {
            return unwritten(missing, "it is an address");
        }
        let mut a = w.regs.fetch(at.base);
        for x in &mut a {
            *x = x.wrapping_add(at.offset as u64);
            if at.base.bits == 32 {
                *x &= 0xffff_ffff;
            }
            if *x & WINDOW_MASK == SHARED_WINDOW {
                *x &= !WINDOW_MASK;
            }
        }
        Ok(a)
    }

    /// The same, if they are in the block itself.
    pub(super) fn own_addresses(&self, w: &Warp, at: Address, run: u32) -> Result<[u64; 32]> {
        let mut a = self.shared_addresses(w, at, run)?;
        for l in lanes(run) {
            let spot = self.spot(a[l], l)?;
            if spot.rank != self.rank {
                let m = "only another block's memory can be used in this way by that block";
                return Err(Box::new(Fault::Illegal(site(l, Some(a[l]), m))));
            }
            a[l] = spot.at;
        }
        Ok(a)
    }

    /// Fails unless there is an mbarrier that the warp knows of.
    fn known(&self, Spot { rank, at }: Spot, lane: usize, warp: u32) -> Result<()> {
        let (shared, state) = self.peek(rank);
        if !at.is_multiple_of(8) {
            return Err(Box::new(Fault::Misaligned(Space::Shared, site(lane, Some(at), "an mbarrier"))));
        }
        if at.checked_add(8).is_none_or(|end| end > shared.len()) {
            return Err(Box::new(Fault::OutOfBounds(Space::Shared, site(lane, Some(at), "an mbarrier"))));
        }
        let Some(b) = state.mbarriers.get(&at) else {
            return Err(Box::new(Fault::Mbarrier(site(lane, Some(at), "no mbarrier was initialised here"))));
        };
        if !self.clocks.borrow().before(b.made, warp) {
            let m = format!("nothing orders its initialisation by warp {} before this use", b.by & 63);
            return Err(Box::new(Fault::Race(Space::Shared, site(lane, Some(at), m))));
        }
        Ok(())
    }

    /// Does something to an mbarrier, and adds its address to a fault.
    fn at_barrier<T>(
        &mut self,
        spot: Spot,
        lane: usize,
        warp: u32,
        f: impl FnOnce(&mut Mbarrier) -> Result<T>,
    ) -> Result<T> {
        self.known(spot, lane, warp)?;
        let b = self.peer(spot.rank).1.mbarriers.get_mut(&spot.at).expect("just found");
        f(b).map_err(|mut f| {
            if let Some(s) = f.site_mut() {
                (s.lane, s.address) = (lane as u32, Some(spot.at));
            }
            f
        })
    }

    pub(super) fn init(&mut self, w: &Warp, ins: &Ins, at: Address, run: u32) -> Result<()> {
        let addresses = self.own_addresses(w, at, run)?;
        let missing = run & !w.regs.def(ins.b);
        if missing != 0 {
            return unwritten(missing, "it is the number of arrivals of an mbarrier");
        }
        let counts = w.regs.fetch(ins.b);
        for l in lanes(run) {
            let (at, count) = (addresses[l], counts[l]);
            if !at.is_multiple_of(8) {
                return Err(Box::new(Fault::Misaligned(Space::Shared, site(l, Some(at), "an mbarrier"))));
            }
            if !(1..=MOST as u64).contains(&count) {
                let m = format!("an mbarrier for {count} arrivals, not 1 to {MOST}");
                return Err(Box::new(Fault::Mbarrier(site(l, Some(at), m))));
            }
            if self.asynchronous.mbarriers.contains_key(&at) {
                let m = "an mbarrier is already here, and was not invalidated";
                return Err(Box::new(Fault::Mbarrier(site(l, Some(at), m))));
            }
            let taken = self.shared.occupy(at, w.agent, true);
            taken.map_err(|t| super::load_store::trouble(t, l, at, "mbarrier.init writes"))?;
            let b = Mbarrier {
                count: count as u32,
                pending: count as u32,
                bytes: 0,
                phase: 0,
                made: self.shared.stamp(w.agent),
                by: w.agent,
                fenced: false,
                collected: self.clocks.borrow().empty(),
                passed: self.clocks.borrow().empty(),
                agent: None,
            };
            self.asynchronous.mbarriers.insert(at, b);
        }
        self.clocks.borrow_mut().tick();
        Ok(())
    }

    pub(super) fn invalidate(&mut self, w: &Warp, at: Address, run: u32) -> Result<()> {
        let addresses = self.own_addresses(w, at, run)?;
        for l in lanes(run) {
            self.known(Spot { rank: self.rank, at: addresses[l] }, l, w.agent)?;
            self.asynchronous.mbarriers.remove(&addresses[l]);
            let free = self.shared.occupy(addresses[l], w.agent, false);
            free.map_err(|t| super::load_store::trouble(t, l, addresses[l], "mbarrier.inval writes"))?;
        }
        Ok(())
    }

    /// `arrive` (for `b` arrivals; whether it may complete the phase, and whether it orders nothing) after `expect_tx` (of `c`
    /// bytes), or the latter alone.
    pub(super) fn arrive_at(
        &mut self,
        w: &mut Warp,
        ins: &Ins,
        at: Address,
        arrive: Option<(bool, bool)>,
        run: u32,
    ) -> Result<()> {
        let addresses = self.shared_addresses(w, at, run)?;
        let missing = run & !(w.regs.def(ins.b) & w.regs.def(ins.c));
        if missing != 0 {
            return unwritten(missing, "it is an operand of an mbarrier's operation");
        }
        let (counts, bytes) = (w.regs.fetch(ins.b), w.regs.fetch(ins.c));
        let mut spots = [Spot { rank: 0, at: 0 }; 32];
        for l in lanes(run) {
            spots[l] = self.spot(addresses[l], l)?;
            self.visit(w, spots[l], l, ins.line)?;
        }
        let clock = self.clocks.borrow_mut().release(w.agent);
        let mut states = [0; 32];
        for l in lanes(run) {
            let spot = spots[l];
            states[l] = self.at_barrier(spot, l, w.agent, |b| {
                let state = b.phase;
                b.expect(bytes[l] as i64)?;
                let Some((may_complete, relaxed)) = arrive else { return Ok(0) };
                if !relaxed {
                    b.collect(&clock);
                }
                b.arrive(counts[l] as u32)?;
                if !may_complete && b.phase != state {
                    return Err(Mbarrier::fault("`arrive.noComplete` completes the phase".into()));
                }
                Ok(state)
            })?;
        }
        if arrive.is_some() {
            w.regs.put(ins.d, run, &states, !0);
        }
        Ok(())
    }

    /// Tests, or waits for, the end of a phase.
    pub(super) fn test_phase(
        &mut self,
        w: &mut Warp,
        ins: &Ins,
        at: Address,
        (parity, suspend, acquire): (bool, bool, bool),
        (run, pc): (u32, u32),
    ) -> Result<Next> {
        let addresses = self.own_addresses(w, at, run)?;
        let missing = run & !w.regs.def(ins.b);
        if missing != 0 {
            return unwritten(missing, "it says which phase of an mbarrier is waited for");
        }
        let states = w.regs.fetch(ins.b);
        let (mut done, mut phase) = (0u32, 0);
        for l in lanes(run) {
            let at = addresses[l];
            self.known(Spot { rank: self.rank, at }, l, w.agent)?;
            let b = &self.asynchronous.mbarriers[&at];
            phase = b.phase;
            let over = if parity { b.phase & 1 != states[l] & 1 } else { b.phase > states[l] };
            if !parity && !(states[l]..=states[l] + 1).contains(&b.phase) {
                let m = format!("a state of phase {} in phase {}", states[l], b.phase);
                return Err(Box::new(Fault::Mbarrier(site(l, Some(at), m))));
            }
            if over {
                done |= 1 << l;
                if acquire {
                    self.clocks.borrow_mut().acquire(w.agent, &b.passed);
                }
            }
        }
        // `try_wait` may give up: it does at first, so that a missing loop is noticed.
        let at = addresses[run.trailing_zeros() as usize];
        if done == 0 && w.tried.replace((pc, at, phase)) == Some((pc, at, phase)) {
            let wait = Wait { reason: Reason::Phase { at, phase }, line: ins.line };
            if suspend {
                w.wait = Some(wait);
                return Ok(Next::Retry);
            }
            w.idle = Some(wait);
        }
        w.regs.put_pred(ins.d.i, run, done, !0);
        Ok(if done == 0 { Next::Yield } else { Next::Go })
    }

    /// Whether a phase is over; a fault if the next one is over, too, so that its parity is the one that is waited for.
    pub(super) fn passed(&self, at: u64, phase: u64) -> Result<bool> {
        let fault = |m: String| Err(Box::new(Fault::Mbarrier(site(0, Some(at), m))));
        match self.asynchronous.mbarriers.get(&at) {
            None => fault("the mbarrier was invalidated while a warp waited".into()),
            Some(b) if b.phase > phase + 1 => fault(format!(
                "phases {phase} and {} have ended while a warp waited for the first, and it may miss both",
                phase + 1
            )),
            Some(b) => Ok(b.phase > phase),
        }
    }

    pub(super) fn describe_phase(&self, at: u64, phase: u64) -> String {
        match self.asynchronous.mbarriers.get(&at) {
            Some(b) => format!(
                "phase {phase} of the mbarrier at {at:#x} lacks {} of {} arrivals and {} bytes",
                b.pending, b.count, b.bytes
            ),
            None => format!("there is no mbarrier at {at:#x}"),
        }
    }

    /// A fence by a warp: the async proxy sees the mbarriers that it has initialised.
    pub(super) fn fence_barriers(&mut self, warp: u32) {
        for b in self.asynchronous.mbarriers.values_mut().filter(|b| b.by == warp) {
            b.fenced = true;
        }
    }

    /// The agent of copies that complete at an mbarrier.
    pub(super) fn load_agent(&mut self, spot: Spot, lane: usize, warp: u32) -> Result<u32> {
        let next = (LOADS + self.peek(spot.rank).1.agents).min(MBARRIER - 1);
        let next = (spot.rank as u32) << 6 | next;
        let (agent, new) = self.at_barrier(spot, lane, warp, |b| {
            if !b.fenced {
                let m = format!("no proxy fence of warp {} since it initialised the mbarrier", b.by & 63);
                return Err(Box::new(Fault::Proxy(site(0, None, m))));
            }
            let new = b.agent.is_none();
            Ok((*b.agent.get_or_insert(next), new))
        })?;
        self.peer(spot.rank).1.agents += u32::from(new);
        Ok(agent)
    }

    /// The end of a copy: some bytes, written at present by the agent.
    pub(super) fn complete(&mut self, spot: Spot, bytes: u64, agent: u32, lane: usize, warp: u32) -> Result<()> {
        let clocks = self.clocks.clone();
        self.at_barrier(spot, lane, warp, |b| {
            clocks.borrow().add(&mut b.collected, agent);
            b.expect(-(bytes as i64))?;
            b.end();
            Ok(())
        })?;
        clocks.borrow_mut().tick();
        Ok(())
    }
}
