//! Communication between the lanes of a warp: shuffles, votes, matches, reductions.

use super::control::Warp;
use super::regs::lanes;
use super::{Block, Result, site, unwritten};
use crate::fault::Fault;
use crate::ins::{Ins, Op, Shuffle, Vote};

/// Fails unless the active lanes are exactly those in the mask of each of them.
pub(super) fn members(mask: &[u64; 32], def: u32, run: u32) -> Result<()> {
    if run & !def != 0 {
        return unwritten(run & !def, "it is a mask of lanes");
    }
    for l in lanes(run) {
        let named = mask[l] as u32;
        if named >> l & 1 == 0 {
            return Err(Box::new(Fault::Divergence(site(
                l,
                None,
                format!("the lane is not in its own mask {named:#010x}"),
            ))));
        }
        let absent = named & !run;
        if absent != 0 {
            let m = format!("lane {} is in the mask {named:#010x} and does not take part", absent.trailing_zeros());
            return Err(Box::new(Fault::Divergence(site(l, None, m))));
        }
    }
    Ok(())
}

impl Block<'_> {
    pub(super) fn together(&mut self, w: &mut Warp, ins: &Ins, run: u32) -> Result<()> {
        let r = &mut w.regs;
        match &ins.op {
            Op::ActiveMask => r.put(ins.d, run, &[run as u64; 32], !0),
            // The lanes of a warp reconverge where branches join, so there is nothing to wait for.
            Op::WarpSync => {
                let missing = run & !r.def(ins.b);
                if missing != 0 {
                    return unwritten(missing, "it is a mask of lanes");
                }
                let mask = r.fetch(ins.b);
                if let Some(l) = lanes(run).find(|l| mask[*l] >> l & 1 == 0) {
                    return Err(Box::new(Fault::Divergence(site(l, None, "the lane is not in its own mask"))));
                }
            }
            Op::Shuffle { mode, valid } => {
                members(&r.fetch(ins.e), r.def(ins.e), run)?;
                let missing = run & !(r.def(ins.b) & r.def(ins.c));
                if missing != 0 {
                    return unwritten(missing, "it says where to shuffle from");
                }
                let (v, vdef) = (r.fetch(ins.a), r.def(ins.a));
                let (b, c) = (r.fetch(ins.b), r.fetch(ins.c));
                let (mut out, mut def, mut ok) = ([0; 32], 0u32, 0u32);
                for l in lanes(run) {
                    let (by, clamp, segment) = (b[l] as u32 & 31, c[l] as u32 & 31, (c[l] >> 8) as u32 & 31);
                    let lane = l as u32;
                    let (min, max) = (lane & segment, (lane & segment) | (clamp & !segment));
                    let (from, inside) = match mode {
                        Shuffle::Up => (lane.wrapping_sub(by), lane as i64 - by as i64 >= max as i64),
                        Shuffle::Down => (lane + by, lane + by <= max),
                        Shuffle::Butterfly => (lane ^ by, lane ^ by <= max),
                        Shuffle::Index => (min | (by & !segment), min | (by & !segment) <= max),
                    };
                    let from = if inside { from } else { lane } & 31;
                    out[l] = v[from as usize];
                    // The value held by a lane that does not take part is undefined.
                    def |= (vdef & run) >> from << 31 >> 31 << l;
                    ok |= u32::from(inside) << l;
                }
                r.put(ins.d, run, &out, def);
                if let Some(p) = valid {
                    r.put_pred(p.i, run, ok, !0);
                }
            }
            Op::Vote { mode, invert } => {
                members(&r.fetch(ins.b), r.def(ins.b), run)?;
                let p = ins.a.i as usize;
                let missing = run & !r.pdef[p];
                if missing != 0 {
                    return unwritten(missing, "it is voted with");
                }
                let bits = r.p[p] ^ if *invert { !0 } else { 0 };
                let masks = r.fetch(ins.b);
                let out = std::array::from_fn(|l| {
                    let m = masks[l] as u32;
                    match mode {
                        Vote::All => u64::from(bits & m == m),
                        Vote::Any => u64::from(bits & m != 0),
                        Vote::Uniform => u64::from(bits & m == m || bits & m == 0),
                        Vote::Ballot => (bits & m) as u64,
                    }
                });
                r.put(ins.d, run, &out, !0);
            }
            Op::Match { all, pred } => {
                members(&r.fetch(ins.b), r.def(ins.b), run)?;
                let missing = run & !r.def(ins.a);
                if missing != 0 {
                    return unwritten(missing, "it is compared among lanes");
                }
                let (v, masks) = (r.fetch(ins.a), r.fetch(ins.b));
                let same: [u64; 32] = std::array::from_fn(|l| {
                    lanes(masks[l] as u32 & run).filter(|k| v[*k] == v[l]).fold(0, |m, k| m | 1 << k)
                });
                let agree: [bool; 32] = std::array::from_fn(|l| same[l] == masks[l]);
                let out = std::array::from_fn(|l| if *all && !agree[l] { 0 } else { same[l] });
                r.put(ins.d, run, &out, !0);
                if let Some(p) = pred {
                    r.put_pred(p.i, run, agree.iter().enumerate().fold(0, |m, (l, a)| m | u32::from(*a) << l), !0);
                }
            }
            Op::Redux(f) => {
                members(&r.fetch(ins.b), r.def(ins.b), run)?;
                let missing = run & !r.def(ins.a);
                if missing != 0 {
                    return unwritten(missing, "it is reduced over lanes");
                }
                let (v, masks) = (r.fetch(ins.a), r.fetch(ins.b));
                let out = std::array::from_fn(|l| {
                    lanes(masks[l] as u32 & run).map(|k| v[k]).reduce(|a, b| f(a, b, 0, 0)).unwrap_or(0)
                });
                r.put(ins.d, run, &out, !0);
            }
            op => unreachable!("{op:?} is executed elsewhere"),
        }
        Ok(())
    }
}
