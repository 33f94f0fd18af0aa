//! Warps: groups of lanes that share a program counter.
//!
//! The group at the lowest rank (see `decode::flow`) runs until it reaches the program counter of another one; the two
//! are then merged. This reconverges where branches join and after loops.

use super::bulk::Groups;
use super::copy::Copies;
use super::regs::{Place, Regs, lanes};
use super::wait::Wait;
use super::wgmma::Flight;
use super::{Block, FUEL, Result, site, unwritten};
use crate::fault::Fault;
use crate::ins::{Ins, Op};
use crate::module::Entry;
use std::sync::atomic::Ordering::Relaxed;

pub(crate) struct Warp {
    /// Its number in the block, and in the clocks of the cluster.
    pub id: u32,
    pub agent: u32,
    pub regs: Regs,
    /// Lanes that have not left the kernel.
    pub alive: u32,
    /// Lanes that exist.
    pub lanes: u32,
    /// Groups that are not running: program counter and lanes.
    groups: Vec<(u32, u32)>,
    pub wait: Option<Wait>,
    /// What it has only tested since it ran last, again in vain.
    pub idle: Option<Wait>,
    pub copies: Copies,
    pub bulk: Groups,
    pub flight: Flight,
    /// The last `mbarrier.try_wait` that was in vain: where, on which mbarrier, for which phase.
    pub tried: Option<(u32, u64, u64)>,
    /// The phase of the cluster's barrier at which it has arrived.
    pub meeting: Option<u64>,
    /// Local memory: all of lane 0, then all of lane 1, ...; and whether a byte was written.
    pub local: Vec<u8>,
    pub local_init: Vec<u8>,
    pub clock: u64,
}

impl Warp {
    /// Warp `id` of the block with a rank in its cluster, with so many lanes.
    pub fn new(e: &Entry, (rank, id): (u32, u32), count: u32) -> Warp {
        let bytes = e.local as usize * 32;
        Warp {
            id,
            agent: rank << 6 | id,
            regs: Regs::new(e),
            alive: 0,
            lanes: if count == 32 { !0 } else { (1 << count) - 1 },
            groups: Vec::new(),
            wait: None,
            idle: None,
            copies: Copies::default(),
            bulk: Groups::default(),
            flight: Flight::new(e),
            tried: None,
            meeting: None,
            local: vec![0; bytes],
            local_init: vec![0; bytes],
            clock: 0,
        }
    }

    pub fn reset(&mut self, e: &Entry, place: &Place) {
        self.regs.reset(e, place);
        self.alive = self.lanes;
        self.groups.clear();
        self.groups.push((0, self.lanes));
        (self.wait, self.idle) = (None, None);
        self.copies = Copies::default();
        self.bulk = Groups::default();
        self.flight.reset();
        self.tried = None;
        self.meeting = None;
        self.local_init.fill(0);
        self.clock = 0;
    }

    pub fn ready(&self) -> bool {
        self.alive != 0 && self.wait.is_none()
    }

    pub fn done(&self) -> bool {
        self.alive == 0
    }

    pub fn park(&mut self, pc: u32, mask: u32) {
        match self.groups.iter_mut().find(|g| g.0 == pc) {
            Some(g) => g.1 |= mask,
            None => self.groups.push((pc, mask)),
        }
    }

    /// Takes the group of the least rank, and the next rank at which another one waits.
    fn take(&mut self, code: &[Ins]) -> Option<(u32, u32, u32)> {
        if let [one] = self.groups[..] {
            self.groups.clear();
            return Some((one.0, one.1, u32::MAX));
        }
        let rank = |g: &(u32, u32)| code.get(g.0 as usize).map_or(u32::MAX, |i| i.rank);
        let i = (0..self.groups.len()).min_by_key(|&i| rank(&self.groups[i]))?;
        let (pc, mask) = self.groups.swap_remove(i);
        let stop = self.groups.iter().map(rank).min().unwrap_or(u32::MAX);
        Some((pc, mask, stop))
    }
}

impl Block<'_> {
    /// Runs a warp until it waits at a barrier or is done.
    pub(super) fn advance(&mut self, w: &mut Warp) -> Result<()> {
        let code = &self.job.entry.code;
        while let Some((mut pc, mask, stop)) = w.take(code) {
            loop {
                let Some(ins) = code.get(pc as usize) else {
                    let f = Fault::Illegal(site(0, None, "the code ends without `ret`"));
                    return Err(self.place(Box::new(f), code.last().map_or(0, |i| i.line), w.id));
                };
                if ins.rank >= stop {
                    w.park(pc, mask);
                    break;
                }
                self.counters.warp_instructions += 1;
                self.counters.classes[ins.class as usize] += 1;
                w.clock += 1;
                let g = ins.guard as usize;
                let missing = mask & !w.regs.pdef[g];
                if missing != 0 {
                    let f = unwritten::<()>(missing, "it decides whether the instruction is executed");
                    return f.map_err(|f| self.place(f, ins.line, w.id));
                }
                let run = mask & (w.regs.p[g] ^ ins.negate);
                match &ins.op {
                    Op::Branch(to) => {
                        if run == 0 {
                            pc += 1;
                            continue;
                        }
                        if *to <= pc {
                            self.burn(w).map_err(|f| self.place(f, ins.line, w.id))?;
                        }
                        if run == mask {
                            pc = *to;
                            continue;
                        }
                        w.park(*to, run);
                        w.park(pc + 1, mask & !run);
                        break;
                    }
                    Op::BranchTable(table) => {
                        self.table(w, ins, table, run).map_err(|f| self.place(f, ins.line, w.id))?;
                        if mask != run {
                            w.park(pc + 1, mask & !run);
                        }
                        break;
                    }
                    Op::Exit => {
                        w.alive &= !run;
                        if run == mask {
                            break;
                        }
                        w.park(pc + 1, mask & !run);
                        break;
                    }
                    Op::Barrier { .. } => {
                        self.arrive(w, ins, run).map_err(|f| self.place(f, ins.line, w.id))?;
                        w.park(pc + 1, mask);
                        if w.wait.is_some() {
                            return Ok(());
                        }
                        break;
                    }
                    Op::Async(op) => {
                        if self.pauses(w, ins, op, (run, mask), pc)? {
                            return Ok(());
                        }
                        pc += 1;
                    }
                    _ => {
                        if run != 0 {
                            self.step(w, ins, run).map_err(|f| self.place(f, ins.line, w.id))?;
                        }
                        pc += 1;
                    }
                }
            }
        }
        Ok(())
    }

    /// Looks at the launch's budget every now and then.
    fn burn(&mut self, w: &Warp) -> Result<()> {
        let done = self.counters.warp_instructions;
        if done < self.fuel {
            return Ok(());
        }
        self.fuel = done + FUEL;
        let used = self.job.used.fetch_add(FUEL, Relaxed);
        if used > self.job.limit {
            let first = w.alive.trailing_zeros() as usize;
            let m = format!("more than {} warp instructions", self.job.limit);
            return Err(Box::new(Fault::Runaway(site(first, None, m))));
        }
        Ok(())
    }

    fn table(&mut self, w: &mut Warp, ins: &Ins, table: &[u32], run: u32) -> Result<()> {
        let missing = run & !w.regs.def(ins.a);
        if missing != 0 {
            return unwritten(missing, "it is the index of a branch");
        }
        let index = w.regs.fetch(ins.a);
        for l in lanes(run) {
            let Some(&to) = table.get(index[l] as usize) else {
                return Err(Box::new(Fault::Illegal(site(
                    l,
                    None,
                    format!("index {} of a table of {}", index[l], table.len()),
                ))));
            };
            w.park(to, 1 << l);
        }
        self.burn(w)
    }
}
