//! Instructions of sm_90: dispatch, registers per thread, `elect`, and what must not be left when a block ends.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::control::Warp;
use super::mbarrier::Mbarrier;
use super::wait::{Reason, Wait};
use super::wgmma::Group;
use super::{Block, Next, Result, site, unwritten};
use crate::asynchronous::Async;
use crate::fault::Fault;
use crate::ins::{Ins, Slot};
use crate::machine::Order;
use crate::shared::clocks::{LOADS, MBARRIER};
use crate::tensor_map::TensorMap;

/// Warps of a warpgroup.
pub(super) const GROUP: u32 = 4;
/// The fewest registers per thread.
const LEAST: u32 = 24;

/// A bulk copy that has written shared memory.
#[derive(Clone, Copy, Default)]
pub(super) struct Landed {
    pub time: u32,
    pub warp: u32,
    pub line: u32,
}

/// The asynchronous side of a running block.
#[derive(Default)]
pub(crate) struct State {
    pub mbarriers: BTreeMap<u64, Mbarrier>,
    /// Agents given to mbarriers so far, and the last copy of each.
    pub agents: u32,
    pub landed: [Landed; (MBARRIER - LOADS) as usize],
    /// One per warpgroup.
    pub groups: Vec<Group>,
    /// Registers per thread of each warp, those that its `setmaxnreg` have asked for, and those that no warp has.
    registers: Vec<u32>,
    requests: Vec<Vec<u32>>,
    free: i64,
    /// Tensor maps by address.
    pub maps: Vec<(u64, Rc<TensorMap>)>,
}

impl State {
    pub fn new(warps: usize, registers: u32) -> State {
        State {
            groups: (0..warps.div_ceil(GROUP as usize)).map(|_| Group::default()).collect(),
            registers: vec![registers; warps],
            requests: vec![Vec::new(); warps],
            ..State::default()
        }
    }
}

/// Fails unless a whole warp, of a whole warpgroup, executes an instruction together.
pub(super) fn whole(w: &Warp, run: u32) -> Result<()> {
    if run == !0 {
        return Ok(());
    }
    let m = format!("lane {} does not take part in an instruction of the whole warpgroup", (!run).trailing_zeros());
    Err(Box::new(Fault::Divergence(site(run.trailing_zeros() as usize, None, format!("{m} (warp {})", w.id)))))
}

/// The value of a register that must be the same in all lanes.
pub(super) fn uniform(w: &Warp, s: Slot, what: &str) -> Result<u64> {
    let missing = !w.regs.def(s);
    if missing != 0 {
        return unwritten(missing, what);
    }
    let v = w.regs.fetch(s);
    match v.iter().position(|x| *x != v[0]) {
        None => Ok(v[0]),
        Some(l) => Err(Box::new(Fault::Divergence(site(l, None, format!("{what}, and lanes differ in it"))))),
    }
}

impl Block<'_> {
    /// Executes an instruction of sm_90, and returns whether the warp is parked after it. Not inlined, because other kernels have
    /// none.
    #[inline(never)]
    pub(super) fn pauses(
        &mut self,
        w: &mut Warp,
        ins: &Ins,
        op: &Async,
        (run, mask): (u32, u32),
        pc: u32,
    ) -> Result<bool> {
        if run == 0 {
            return Ok(false);
        }
        let next = self.execute(w, ins, op, run, pc).map_err(|f| self.place(f, ins.line, w.id))?;
        if next != Next::Go {
            w.park(pc + u32::from(next == Next::Yield), mask);
        }
        Ok(next != Next::Go)
    }

    fn execute(&mut self, w: &mut Warp, ins: &Ins, op: &Async, run: u32, pc: u32) -> Result<Next> {
        match op {
            Async::Init { at } => self.init(w, ins, *at, run)?,
            Async::Invalidate { at } => self.invalidate(w, *at, run)?,
            Async::Arrive { at, complete, relaxed } => self.arrive_at(w, ins, *at, Some((*complete, *relaxed)), run)?,
            Async::Expect { at } => self.arrive_at(w, ins, *at, None, run)?,
            Async::Wait { at, parity, suspend, acquire } => {
                return self.test_phase(w, ins, *at, (*parity, *suspend, *acquire), (run, pc));
            }
            Async::LoadTensor(t) => self.load_tensor(w, ins, t, run)?,
            Async::StoreTensor(t) => self.store_tensor(w, ins, t, run)?,
            Async::LoadBulk(c) => self.load_bulk(w, ins, c, run)?,
            Async::StoreBulk { to, from } => self.store_bulk(w, ins, (*to, *from), run)?,
            Async::Commit => w.bulk.commit(run),
            Async::Complete { keep } => self.complete_groups(w, *keep, run),
            Async::Fence => {
                self.clocks.borrow_mut().fence(w.agent);
                self.fence_barriers(w.agent);
            }
            Async::FenceInit => self.fence_barriers(w.agent),
            Async::ArriveCluster { relaxed } => self.arrive_in_cluster(w, *relaxed, run)?,
            Async::WaitCluster => return self.wait_in_cluster(w, ins, run),
            Async::MapAddress { rank_of } => self.map_address(w, ins, *rank_of, run)?,
            Async::Prefetch { map } => self.prefetch(w, *map, run)?,
            Async::FenceRegisters => {
                whole(w, run)?;
                w.flight.fence(&w.regs);
            }
            Async::CommitProducts => {
                whole(w, run)?;
                w.flight.commit();
            }
            Async::WaitProducts { keep } => return self.wait_products(w, ins, *keep, run),
            Async::Multiply(m) => self.multiply(w, m, run, pc)?,
            Async::Registers { count, increase } => return self.set_registers(w, ins, *count, *increase, run),
            Async::Elect { p } => {
                super::votes::members(&w.regs.fetch(ins.a), w.regs.def(ins.a), run)?;
                // PTX does not say which lane it is.
                let leader = match self.job.order {
                    Order::Forward => run.trailing_zeros(),
                    _ => 31 - run.leading_zeros(),
                };
                w.regs.put(ins.d, run, &[u64::from(leader); 32], !0);
                w.regs.put_pred(p.i, run, 1 << leader, !0);
            }
        }
        Ok(Next::Go)
    }

    /// Registers per thread that a warp has or could have at once.
    pub(super) fn registers_left(&self, warp: u32) -> i64 {
        self.asynchronous.free + i64::from(self.asynchronous.registers[warp as usize])
    }

    /// `setmaxnreg`: gives registers back, or takes some that other warps have given back, as soon as there are enough.
    fn set_registers(&mut self, w: &mut Warp, ins: &Ins, count: u32, increase: bool, run: u32) -> Result<Next> {
        whole(w, run)?;
        let illegal = |m: String| Err(Box::new(Fault::Illegal(site(0, None, m))));
        let warps = self.asynchronous.registers.len() as u32;
        let first = w.id / GROUP * GROUP;
        if first + GROUP > warps {
            return illegal(format!("the last warpgroup of a block of {warps} warps is not whole"));
        }
        let has = self.asynchronous.registers[w.id as usize];
        if (increase && count < has) || (!increase && count > has) {
            let what = if increase { "more" } else { "fewer" };
            return illegal(format!("{count} registers per thread are not {what} than {has}"));
        }
        let total = self.asynchronous.registers.iter().map(|r| i64::from(*r)).sum::<i64>() + self.asynchronous.free;
        let most = (total - i64::from(LEAST * (warps - GROUP))) / i64::from(GROUP);
        if i64::from(count) > most {
            return illegal(format!(
                "{count} registers per thread, of which a warpgroup can have {most} if all others have {LEAST}"
            ));
        }
        if i64::from(count) > self.registers_left(w.id) {
            w.wait = Some(Wait { reason: Reason::Registers { count }, line: ins.line });
            return Ok(Next::Retry);
        }
        self.asynchronous.free += i64::from(has) - i64::from(count);
        self.asynchronous.registers[w.id as usize] = count;
        let mine = &mut self.asynchronous.requests[w.id as usize];
        mine.push(count);
        let k = mine.len() - 1;
        let others = (first..first + GROUP).map(|v| (v, &self.asynchronous.requests[v as usize]));
        if let Some((v, r)) = others.filter_map(|(v, r)| Some((v, r.get(k)?))).find(|(_, r)| **r != count) {
            let m = format!("{count} registers per thread where warp {v} of the same warpgroup has asked for {r}");
            return Err(Box::new(Fault::Divergence(site(0, None, m))));
        }
        Ok(Next::Go)
    }

    /// Fails if a block ends before its asynchronous operations are complete.
    pub(super) fn left_in_flight(&self, warps: &[Warp]) -> Result<()> {
        if !self.job.entry.asynchronous {
            return Ok(());
        }
        let fault = |line, warp, m: &str| Err(self.place(Box::new(Fault::InFlight(site(0, None, m))), line, warp));
        for w in warps {
            if let Some(line) = w.bulk.left() {
                return fault(line, w.id, "the block ends while this copy may still read its shared memory");
            }
            if w.flight.pending() {
                let line = self.job.entry.code[w.flight.first() as usize].line;
                return fault(line, w.id, "the block ends before this product is complete");
            }
        }
        for (local, landed) in (LOADS..).zip(&self.asynchronous.landed) {
            if self.clocks.borrow().observed(self.rank, (self.rank as u32) << 6 | local) < landed.time {
                let m = "the block ends while this copy may still write its shared memory";
                return fault(landed.line, landed.warp, m);
            }
        }
        for (group, of) in self.asynchronous.requests.chunks(GROUP as usize).enumerate() {
            if of.iter().any(|r| r.len() != of[0].len()) {
                let m = format!("not all warps of warpgroup {group} have executed every setmaxnreg");
                let f = Fault::Divergence(site(0, None, m));
                return Err(self.place(Box::new(f), self.job.entry.line, group as u32 * GROUP));
            }
        }
        Ok(())
    }
}

/// A mask's lanes for which something is missing, as a fault.
pub(super) fn defined(w: &Warp, used: &[Slot], run: u32, what: &str) -> Result<()> {
    let missing = used.iter().fold(0, |m, s| m | run & !w.regs.def(*s));
    if missing != 0 { unwritten(missing, what) } else { Ok(()) }
}
