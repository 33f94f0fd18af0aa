//! `atom` and `red`.

use super::control::Warp;
use super::global::Touch;
use super::regs::lanes;
use super::{Block, Result, site, unwritten};
use crate::fault::Fault;
use crate::ins::{AtomicOp, Ins, Op};
use crate::lane::float::{FloatKind, FloatOp};
use crate::machine::Order;
use crate::types::{Round, Space, Type};

/// The result that an atomic operation stores.
fn apply(op: AtomicOp, ty: Type, old: u64, b: u64, c: u64) -> u64 {
    use AtomicOp::*;
    let signed = ty.signed();
    let narrow = |x: u64| if ty.size() == 4 { x as i32 as i64 } else { x as i64 };
    let less = if signed { narrow(old) < narrow(b) } else { old < b };
    let v = match op {
        Add if ty.float() => {
            let add = FloatOp {
                kind: FloatKind::Add,
                ty,
                round: Round::Near,
                ftz: false,
                sat: false,
                relu: false,
                nan: false,
            };
            add.eval(old, b, 0)
        }
        Add => old.wrapping_add(b),
        Min => {
            if less {
                old
            } else {
                b
            }
        }
        Max => {
            if less {
                b
            } else {
                old
            }
        }
        And => old & b,
        Or => old | b,
        Xor => old ^ b,
        Exch => b,
        Cas => {
            if old == b {
                c
            } else {
                old
            }
        }
        Inc => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        Dec => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
    };
    if ty.size() == 8 { v } else { v & ((1 << ty.bits()) - 1) }
}

impl Block<'_> {
    pub(super) fn atomic(&mut self, w: &mut Warp, ins: &Ins, run: u32) -> Result<()> {
        let Op::Atomic { op, space, offset, ty } = ins.op else { unreachable!("only atomics come here") };
        let mut addr = self.addresses(w, ins, offset, run)?;
        let space = self.resolve(space, &mut addr, run)?;
        let missing = run & !(w.regs.def(ins.b) & w.regs.def(ins.c));
        if missing != 0 {
            return unwritten(missing, "it is an operand of an atomic operation");
        }
        let n = ty.size();
        let (b, c) = (w.regs.fetch(ins.b), w.regs.fetch(ins.c));
        let mut old = [0; 32];
        // Lanes with the same address are executed one after another; PTX does not specify the order.
        let mut order: Vec<usize> = lanes(run).collect();
        if self.job.order != Order::Forward {
            order.reverse();
        }
        match space {
            Space::Shared => {
                self.check_shared(w, &addr, run, n, Touch::Atomic)?;
                for l in order {
                    old[l] = self.shared.get(addr[l], n);
                    self.shared.set(addr[l], n, apply(op, ty, old[l], b[l], c[l]));
                }
            }
            Space::Cluster => {
                for l in order {
                    let what = "an atomic operation writes";
                    let spot =
                        self.check_cluster(w, (addr[l], n), l, ins.line, (what, |s, at| s.atomic(at, n, w.agent)))?;
                    let shared = self.peer(spot.rank).0;
                    old[l] = shared.get(spot.at, n);
                    shared.set(spot.at, n, apply(op, ty, old[l], b[l], c[l]));
                }
            }
            Space::Global => {
                self.check_global(&addr, run, n, Touch::Atomic)?;
                self.count_store(&addr, run, n);
                for l in order {
                    let i = self.check_one(addr[l], n, l, Touch::Atomic)?;
                    let buffer = &self.job.regions[i].buffer;
                    old[l] = buffer.update(addr[l] - buffer.base(), n, |v| apply(op, ty, v, b[l], c[l]));
                }
            }
            s => return Err(Box::new(Fault::Illegal(site(0, None, format!("an atomic operation on {s:?} memory"))))),
        }
        w.regs.put(ins.d, run, &old, !0);
        Ok(())
    }
}
