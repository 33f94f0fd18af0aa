//! Loads and stores of every state space.

use super::control::Warp;
use super::global::Touch;
use super::regs::lanes;
use super::{Block, Result, site, unwritten};
use crate::fault::Fault;
use crate::ins::{Ins, Memory, Op};
use crate::requests::{conflicts, request, strided};
use crate::shared::Trouble;
use crate::shared::clocks::who;
use crate::types::{Space, Type, WINDOW_MASK};

/// Translates an error of shared memory into a fault.
pub(super) fn trouble(t: Trouble, lane: usize, address: u64, what: &str) -> Box<Fault> {
    let s = |m: String| site(lane, Some(address), m);
    Box::new(match t {
        Trouble::OutOfBounds => Fault::OutOfBounds(Space::Shared, s(what.into())),
        Trouble::Uninitialised => Fault::Uninitialised(Space::Shared, s(what.into())),
        Trouble::Pending if what.ends_with("reads") => {
            Fault::Uninitialised(Space::Shared, s(format!("{what} what a cp.async has not yet brought")))
        }
        Trouble::Pending => Fault::Race(Space::Shared, s(format!("{what} where a cp.async is under way"))),
        Trouble::Race(w) => Fault::Race(Space::Shared, s(format!("{what}, and no barrier since {}", who(w)))),
        Trouble::Proxy(w) => {
            let m =
                format!("{what} through the async proxy, and no fence.proxy.async of warp {} since it stored", w & 63);
            Fault::Proxy(s(m))
        }
    })
}

/// Two lanes of a store that overlap with different values; `None` if there are none.
fn clash(addr: &[u64; 32], run: u32, n: u32, same: impl Fn(usize, usize) -> bool) -> Option<usize> {
    // Ascending addresses, the usual case, cannot overlap.
    let mut meet = false;
    for l in 1..32 {
        meet |= addr[l] < addr[l - 1].wrapping_add(n as u64);
    }
    if !meet {
        return None;
    }
    let mut order: Vec<usize> = lanes(run).collect();
    order.sort_by_key(|l| addr[*l]);
    let bad = order
        .windows(2)
        .find(|w| addr[w[1]] - addr[w[0]] < n as u64 && !(addr[w[0]] == addr[w[1]] && same(w[0], w[1])));
    bad.map(|w| w[1])
}

impl Block<'_> {
    /// Addresses of all lanes, checked to be initialised for the active ones.
    pub(super) fn addresses(&self, w: &Warp, ins: &Ins, offset: i64, run: u32) -> Result<[u64; 32]> {
        let missing = run & !w.regs.def(ins.a);
        if missing != 0 {
            return unwritten(missing, "it is an address");
        }
        let mut a = w.regs.fetch(ins.a);
        for x in &mut a {
            *x = x.wrapping_add(offset as u64);
        }
        // Shared addresses in 32-bit registers wrap around.
        if ins.a.bits == 32 {
            for x in &mut a {
                *x &= 0xffff_ffff;
            }
        }
        Ok(a)
    }

    /// The state space of a generic access, which must be the same for all lanes. The window's base is subtracted from
    /// the addresses.
    pub(super) fn resolve(&self, space: Space, addr: &mut [u64; 32], run: u32) -> Result<Space> {
        if space != Space::Generic {
            return Ok(space);
        }
        let first = run.trailing_zeros() as usize;
        let window = addr[first] & WINDOW_MASK;
        if let Some(l) = lanes(run).find(|l| addr[*l] & WINDOW_MASK != window) {
            let m = "lanes of one generic access point into different state spaces";
            return Err(Box::new(Fault::Illegal(site(l, Some(addr[l]), m))));
        }
        for a in addr.iter_mut() {
            *a &= !WINDOW_MASK;
        }
        Ok(match window >> 60 {
            1 if lanes(run).any(|l| addr[l] >> 24 != 0) => Space::Cluster,
            1 => Space::Shared,
            2 => Space::Local,
            3 => Space::Param,
            _ => Space::Global,
        })
    }

    pub(super) fn load(&mut self, w: &mut Warp, ins: &Ins, m: &Memory, run: u32) -> Result<()> {
        let mut addr = self.addresses(w, ins, m.offset, run)?;
        let space = self.resolve(m.space, &mut addr, run)?;
        let size = m.ty.size();
        let n = size * m.regs.len() as u32;
        match space {
            Space::Shared => {
                self.check_shared(w, &addr, run, n, if m.strong { Touch::Strong } else { Touch::Load })?;
                for (k, r) in m.regs.iter().enumerate() {
                    let mut v = [0; 32];
                    for l in lanes(run) {
                        v[l] = self.shared.get(addr[l] + k as u64 * size as u64, size);
                    }
                    w.regs.put(*r, run, &extend(v, m.ty), !0);
                }
            }
            Space::Local => self.local(w, m, &addr, run, false)?,
            Space::Cluster => self.load_cluster(w, ins, m, &addr, run)?,
            Space::Param => {
                for (k, r) in m.regs.iter().enumerate() {
                    let mut v = [0; 32];
                    for l in lanes(run) {
                        let at = addr[l] as usize + k * size as usize;
                        let Some(b) = self.job.params.get(at..at + size as usize) else {
                            return Err(Box::new(Fault::OutOfBounds(Space::Param, site(l, Some(addr[l]), "a load"))));
                        };
                        v[l] = b.iter().rev().fold(0, |v, b| v << 8 | *b as u64);
                    }
                    w.regs.put(*r, run, &extend(v, m.ty), !0);
                }
            }
            _ => {
                let how = if m.strong { Touch::Strong } else { Touch::Load };
                let one = self.check_global(&addr, run, n, how)?;
                let r = request(&addr, run, n);
                self.counters.global_requests += 1;
                self.counters.global_sectors_loaded += r.sectors;
                self.counters.global_bytes_loaded += r.bytes;
                self.counters.ideal_sectors += r.ideal;
                for (k, reg) in m.regs.iter().enumerate() {
                    let mut v = [0; 32];
                    for l in lanes(run) {
                        let i = match one {
                            Some(i) => i,
                            None => self.check_one(addr[l], n, l, how)?,
                        };
                        let b = &self.job.regions[i].buffer;
                        v[l] = b.get(addr[l] - b.base() + k as u64 * size as u64, size);
                    }
                    w.regs.put(*reg, run, &extend(v, m.ty), !0);
                }
            }
        }
        Ok(())
    }

    pub(super) fn store(&mut self, w: &mut Warp, ins: &Ins, m: &Memory, run: u32) -> Result<()> {
        let mut addr = self.addresses(w, ins, m.offset, run)?;
        let space = self.resolve(m.space, &mut addr, run)?;
        let missing = m.regs.iter().fold(0, |x, r| x | run & !w.regs.def(*r));
        if missing != 0 && space != Space::Local {
            return unwritten(missing, "it is stored");
        }
        let size = m.ty.size();
        let n = size * m.regs.len() as u32;
        if space == Space::Local {
            return self.local(w, m, &addr, run, true);
        }
        let values: [[u64; 32]; 4] = std::array::from_fn(|k| m.regs.get(k).map_or([0; 32], |r| w.regs.fetch(*r)));
        let cut = if size == 8 { u64::MAX } else { (1 << (8 * size)) - 1 };
        let same = |a: usize, b: usize| values.iter().all(|v| v[a] & cut == v[b] & cut);
        let apart = || match clash(&addr, run, n, same) {
            Some(l) => {
                let m = "two lanes of one store write different values to one address";
                Err(Box::new(Fault::Race(space, site(l, Some(addr[l]), m))))
            }
            None => Ok(()),
        };
        match space {
            Space::Shared => {
                self.check_shared(w, &addr, run, n, Touch::Store)?;
                apart()?;
                for (k, v) in values.iter().take(m.regs.len()).enumerate() {
                    for l in lanes(run) {
                        self.shared.set(addr[l] + k as u64 * size as u64, size, v[l]);
                    }
                }
            }
            Space::Cluster => {
                apart()?;
                self.store_cluster(w, ins, m, (&addr, &values), run)?;
            }
            Space::Param => {
                return Err(Box::new(Fault::ReadOnly(site(run.trailing_zeros() as usize, None, "a parameter"))));
            }
            _ => {
                let one = self.check_global(&addr, run, n, Touch::Store)?;
                apart()?;
                self.count_store(&addr, run, n);
                for l in lanes(run) {
                    let i = match one {
                        Some(i) => i,
                        None => self.check_one(addr[l], n, l, Touch::Store)?,
                    };
                    let b = &self.job.regions[i].buffer;
                    for (k, v) in values.iter().take(m.regs.len()).enumerate() {
                        b.set(addr[l] - b.base() + k as u64 * size as u64, size, v[l]);
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn count_store(&mut self, addr: &[u64; 32], run: u32, n: u32) {
        let r = request(addr, run, n);
        self.counters.global_requests += 1;
        self.counters.global_sectors_stored += r.sectors;
        self.counters.global_bytes_stored += r.bytes;
        self.counters.ideal_sectors += r.ideal;
    }

    /// Checks a shared access of `n` bytes per lane, and counts it.
    pub(super) fn check_shared(&mut self, w: &Warp, addr: &[u64; 32], run: u32, n: u32, how: Touch) -> Result<()> {
        // A warp that accesses consecutive addresses is checked as one range; only after a failure is it checked lane
        // by lane.
        if run == !0 && addr[0] & (n as u64 - 1) == 0 && strided(addr, n as u64) {
            let whole = match how {
                Touch::Load => self.shared.read(addr[0], 32 * n, w.agent, false),
                Touch::Store => self.shared.write(addr[0], 32 * n, w.agent),
                _ => Err(Trouble::OutOfBounds),
            };
            if whole.is_ok() {
                self.counters.shared_requests += 1;
                return Ok(());
            }
        }
        for l in lanes(run) {
            let a = addr[l];
            if a & (n as u64 - 1) != 0 {
                return Err(Box::new(Fault::Misaligned(
                    Space::Shared,
                    site(l, Some(a), format!("an access of {n} bytes")),
                )));
            }
            let (r, what) = match how {
                Touch::Load => (self.shared.read(a, n, w.agent, false), "a load reads"),
                Touch::Strong => (self.shared.read(a, n, w.agent, true), "a load reads"),
                Touch::Store => (self.shared.write(a, n, w.agent), "a store writes"),
                Touch::Atomic => (self.shared.atomic(a, n, w.agent), "an atomic operation writes"),
            };
            r.map_err(|t| trouble(t, l, a, what))?;
        }
        self.counters.shared_requests += 1;
        self.counters.bank_conflict_cycles += conflicts(addr, run, n);
        Ok(())
    }

    fn local(&mut self, w: &mut Warp, m: &Memory, addr: &[u64; 32], run: u32, store: bool) -> Result<()> {
        let size = m.ty.size() as u64;
        let per = w.local.len() as u64 / 32;
        let n = size * m.regs.len() as u64;
        for l in lanes(run) {
            let a = addr[l];
            if a.checked_add(n).is_none_or(|e| e > per) {
                return Err(Box::new(Fault::OutOfBounds(
                    Space::Local,
                    site(l, Some(a), format!("{n} bytes of {per}")),
                )));
            }
            if !a.is_multiple_of(n) {
                return Err(Box::new(Fault::Misaligned(
                    Space::Local,
                    site(l, Some(a), format!("an access of {n} bytes")),
                )));
            }
        }
        for (k, r) in m.regs.iter().enumerate() {
            let (def, mut v) = (w.regs.def(*r), w.regs.fetch(*r));
            let mut read = !0;
            for l in lanes(run) {
                let at = (l as u64 * per + addr[l] + k as u64 * size) as usize;
                let span = at..at + size as usize;
                if store {
                    w.local[span.clone()].copy_from_slice(&v[l].to_le_bytes()[..size as usize]);
                    w.local_init[span].fill((def >> l & 1) as u8);
                } else {
                    v[l] = w.local[span.clone()].iter().rev().fold(0, |v, b| v << 8 | *b as u64);
                    if w.local_init[span].contains(&0) {
                        read &= !(1 << l);
                    }
                }
            }
            // Spilled registers may be uninitialised: the state is preserved through local memory.
            if !store {
                w.regs.put(*r, run, &extend(v, m.ty), read);
            }
        }
        Ok(())
    }
}

/// Sign-extends loaded values of signed types.
pub(super) fn extend(mut v: [u64; 32], ty: Type) -> [u64; 32] {
    match ty {
        Type::S8 => v.iter_mut().for_each(|x| *x = *x as i8 as u64),
        Type::S16 => v.iter_mut().for_each(|x| *x = *x as i16 as u64),
        Type::S32 => v.iter_mut().for_each(|x| *x = *x as i32 as u64),
        _ => {}
    }
    v
}

impl Block<'_> {
    /// Executes an instruction other than control flow.
    pub(super) fn step(&mut self, w: &mut Warp, ins: &Ins, run: u32) -> Result<()> {
        match &ins.op {
            Op::Load(m) => self.load(w, ins, m, run),
            Op::Store(m) => self.store(w, ins, m, run),
            Op::Atomic { .. } => self.atomic(w, ins, run),
            Op::CopyAsync { .. } => self.copy_async(w, ins, run),
            Op::Commit => {
                self.commit(w, run);
                Ok(())
            }
            Op::Wait(keep) => {
                self.land(w, run, Some(*keep));
                Ok(())
            }
            Op::WaitAll => {
                self.land(w, run, None);
                Ok(())
            }
            Op::Shuffle { .. } | Op::Vote { .. } | Op::Match { .. } | Op::Redux(_) | Op::ActiveMask | Op::WarpSync => {
                self.together(w, ins, run)
            }
            Op::LoadMatrix { .. } | Op::StoreMatrix { .. } | Op::Mma { .. } => self.matrix(w, ins, run),
            Op::Trap => Err(Box::new(Fault::Trap(site(run.trailing_zeros() as usize, None, "")))),
            Op::Hot(h) => {
                super::hot::run(&mut w.regs, *h, ins, run);
                Ok(())
            }
            _ => {
                super::alu::run(w, ins, run);
                Ok(())
            }
        }
    }
}
