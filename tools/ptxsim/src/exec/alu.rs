//! Instructions that compute lane by lane, one at a time: the definition of each. The frequent ones also have
//! vectorised forms in `hot`.

use super::control::Warp;
use super::regs::lanes;
use crate::ins::{Ins, Logic, Op};

/// Applies a function to the active lanes.
fn map(w: &mut Warp, ins: &Ins, run: u32, f: impl Fn(u64, u64, u64, u64) -> u64) {
    let r = &mut w.regs;
    let def = r.def(ins.a) & r.def(ins.b) & r.def(ins.c) & r.def(ins.e);
    let (a, b, c, e) = (r.fetch(ins.a), r.fetch(ins.b), r.fetch(ins.c), r.fetch(ins.e));
    let mut v = [0; 32];
    for l in lanes(run) {
        v[l] = f(a[l], b[l], c[l], e[l]);
    }
    r.put(ins.d, run, &v, def);
}

/// A logical operation on predicates and on whether they are initialised: `false and uninitialised` is false.
fn logic(op: Logic, (a, adef): (u32, u32), (b, bdef): (u32, u32)) -> (u32, u32) {
    match op {
        Logic::And => (a & b, (adef & bdef) | (adef & !a) | (bdef & !b)),
        Logic::Or => (a | b, (adef & bdef) | (adef & a) | (bdef & b)),
        Logic::Xor => (a ^ b, adef & bdef),
    }
}

/// Executes one instruction.
pub(super) fn run(w: &mut Warp, ins: &Ins, run: u32) {
    match &ins.op {
        Op::Pure(f) => map(w, ins, run, f),
        Op::Float(f) => map(w, ins, run, |a, b, c, _| f.eval(a, b, c)),
        Op::Convert(f) => map(w, ins, run, |a, b, _, _| f.eval(a, b)),
        Op::Compare { cmp, combine, invert, second } => {
            let r = &mut w.regs;
            let def = r.def(ins.a) & r.def(ins.b);
            let (a, b) = (r.fetch(ins.a), r.fetch(ins.b));
            let bits = lanes(run).fold(0, |m, l| m | u32::from(cmp.eval(a[l], b[l])) << l);
            let c = (r.p[ins.c.i as usize] ^ if *invert { !0 } else { 0 }, r.pdef[ins.c.i as usize]);
            let with = |x: (u32, u32)| combine.map_or(x, |op| logic(op, x, c));
            let (p, q) = (with((bits, def)), with((!bits, def)));
            r.put_pred(ins.d.i, run, p.0, p.1);
            if let Some(s) = second {
                r.put_pred(s.i, run, q.0, q.1);
            }
        }
        Op::Select => {
            let r = &mut w.regs;
            let (p, pdef) = (r.p[ins.c.i as usize], r.pdef[ins.c.i as usize]);
            let def = pdef & ((p & r.def(ins.a)) | (!p & r.def(ins.b)));
            let (a, b) = (r.fetch(ins.a), r.fetch(ins.b));
            let v = std::array::from_fn(|l| if p >> l & 1 == 1 { a[l] } else { b[l] });
            r.put(ins.d, run, &v, def);
        }
        Op::PredLogic(op) => {
            let r = &mut w.regs;
            let (a, b) = (ins.a.i as usize, ins.b.i as usize);
            let (v, def) = logic(*op, (r.p[a], r.pdef[a]), (r.p[b], r.pdef[b]));
            r.put_pred(ins.d.i, run, v, def);
        }
        Op::PredNot | Op::PredMove => {
            let r = &mut w.regs;
            let a = ins.a.i as usize;
            let v = if matches!(ins.op, Op::PredNot) { !r.p[a] } else { r.p[a] };
            r.put_pred(ins.d.i, run, v, r.pdef[a]);
        }
        Op::Unpack(parts) => {
            let (v, def) = (w.regs.fetch(ins.a), w.regs.def(ins.a));
            for (k, d) in parts.iter().enumerate() {
                w.regs.put(*d, run, &v.map(|x| x >> (k as u32 * d.bits as u32)), def);
            }
        }
        Op::Pack(parts) => {
            let (mut v, mut def) = ([0; 32], !0);
            for (k, s) in parts.iter().enumerate() {
                def &= w.regs.def(*s);
                for (v, x) in v.iter_mut().zip(w.regs.fetch(*s)) {
                    *v |= x << (k as u32 * s.bits as u32);
                }
            }
            w.regs.put(ins.d, run, &v, def);
        }
        Op::Clock => {
            let now = w.clock;
            w.regs.put(ins.d, run, &[now; 32], !0);
        }
        Op::Fence => {}
        op => unreachable!("{op:?} is executed elsewhere"),
    }
}
