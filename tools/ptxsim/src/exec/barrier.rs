//! Barriers of a block: `bar.sync`, `bar.arrive`, `bar.red`.

use super::control::Warp;
use super::wait::{Reason, Wait};
use super::{Block, Result, site, unwritten};
use crate::fault::Fault;
use crate::ins::{Ins, Op, Reduce, Slot};

/// One of a block's sixteen barriers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Barrier {
    /// Warps that have arrived, and those of them that wait.
    arrived: u32,
    waiting: u32,
    /// Threads that have arrived, and the number expected.
    threads: u32,
    expected: u32,
    reduce: Option<Reduce>,
    /// Reduction over the threads so far: all, any, count.
    all: bool,
    any: bool,
    count: u32,
    line: u32,
}

impl Barrier {
    pub fn describe(&self, id: usize) -> String {
        format!("barrier {id} has {} of {} threads", self.threads, self.expected)
    }
}

impl Block<'_> {
    /// A warp arrives at a barrier.
    pub(super) fn arrive(&mut self, w: &mut Warp, ins: &Ins, run: u32) -> Result<()> {
        let Op::Barrier { reduce, invert, arrive } = ins.op else { unreachable!("only barriers come here") };
        if run == 0 {
            return Ok(());
        }
        if run != w.lanes {
            let away = (w.lanes & !run).trailing_zeros() as usize;
            let why = if w.lanes & !w.alive != 0 { "has left the kernel" } else { "takes another way" };
            let m = format!("lane {away} {why} while others of its warp are at the barrier");
            return Err(Box::new(Fault::Divergence(site(run.trailing_zeros() as usize, None, m))));
        }
        for s in [ins.a, ins.b, ins.c] {
            let missing = run & !w.regs.def(s);
            if missing != 0 {
                return unwritten(missing, "it is an operand of a barrier");
            }
        }
        let uniform = |s: Slot| {
            let v = w.regs.fetch(s);
            let first = v[run.trailing_zeros() as usize];
            super::regs::lanes(run).all(|l| v[l] == first).then_some(first as u32)
        };
        let illegal = |m: String| Err(Box::new(Fault::Illegal(site(0, None, m))));
        let (Some(id), Some(n)) = (uniform(ins.a), uniform(ins.b)) else {
            return illegal("lanes of a warp name different barriers".into());
        };
        let threads = self.job.block.iter().product::<u32>();
        if id > 15 || (n != 0 && (n % 32 != 0 || n > threads.next_multiple_of(32))) {
            return illegal(format!("barrier {id} with {n} threads"));
        }
        let expected = if n == 0 { threads.div_ceil(32) * 32 } else { n };
        let b = &mut self.barriers[id as usize];
        if b.arrived == 0 {
            *b = Barrier {
                expected,
                reduce: (!arrive).then_some(reduce),
                all: true,
                line: ins.line,
                ..Barrier::default()
            };
        }
        if b.expected != expected || (!arrive && b.reduce.is_some_and(|r| r != reduce)) || b.arrived >> w.id & 1 == 1 {
            let m = format!("barrier {id} is used in another way at PTX line {}", b.line);
            return Err(Box::new(Fault::Divergence(site(0, None, m))));
        }
        if !arrive {
            b.reduce = Some(reduce);
        }
        b.arrived |= 1 << w.id;
        b.threads += 32;
        if reduce != Reduce::None {
            let p = w.regs.p[ins.c.i as usize] ^ if invert { !0 } else { 0 };
            b.all &= p & run == run;
            b.any |= p & run != 0;
            b.count += (p & run).count_ones();
        }
        if !arrive {
            b.waiting |= 1 << w.id;
            w.wait = Some(Wait { reason: Reason::Barrier { id: id as usize, to: ins.d, reduce }, line: ins.line });
        }
        Ok(())
    }

    /// Releases the barriers that are complete.
    pub(super) fn settle_barriers(&mut self, warps: &mut [Warp]) {
        for id in 0..16 {
            let b = self.barriers[id];
            if b.arrived == 0 || b.threads < b.expected {
                continue;
            }
            for w in warps.iter_mut() {
                let Some(Wait { reason: Reason::Barrier { id: of, to, reduce }, .. }) = w.wait else { continue };
                if of != id {
                    continue;
                }
                let value = match reduce {
                    Reduce::None => 0,
                    Reduce::And => u64::from(b.all),
                    Reduce::Or => u64::from(b.any),
                    Reduce::Popc => b.count as u64,
                };
                if reduce != Reduce::None {
                    w.regs.put(to, w.lanes, &[value; 32], !0);
                }
                w.wait = None;
            }
            self.shared.join(b.arrived, b.waiting);
            self.barriers[id] = Barrier::default();
        }
    }
}
