//! `cp.async`: copies that become visible when their group is waited for, and not before.

use super::control::Warp;
use super::load_store::trouble;
use super::regs::lanes;
use super::{Block, Result, site, unwritten};
use crate::fault::Fault;
use crate::ins::{Ins, Op};
use crate::requests::request;
use crate::types::Space;

/// Copies of a warp that are not complete.
#[derive(Default)]
pub(crate) struct Copies {
    pending: Vec<Copy>,
    /// Groups that each lane has committed.
    committed: [u32; 32],
}

struct Copy {
    lane: usize,
    /// The group it belongs to, numbered per lane.
    group: u32,
    to: u64,
    /// The region and offset of the source.
    from: (usize, u64),
    bytes: u32,
    /// Bytes that are read; the remaining ones become zero.
    read: u32,
}

impl Block<'_> {
    pub(super) fn copy_async(&mut self, w: &mut Warp, ins: &Ins, run: u32) -> Result<()> {
        let Op::CopyAsync { bytes, to, from, partial, ignore } = ins.op else { unreachable!("only copies come here") };
        let n = bytes as u32;
        let used = [ins.a, ins.b, ins.c, ins.e];
        let missing = used.iter().fold(0, |m, s| m | run & !w.regs.def(*s));
        if missing != 0 {
            return unwritten(missing, "it is an operand of an asynchronous copy");
        }
        let mut dst = w.regs.fetch(ins.a);
        let mut src = w.regs.fetch(ins.b);
        for l in 0..32 {
            dst[l] = dst[l].wrapping_add(to as u64);
            src[l] = src[l].wrapping_add(from as u64);
        }
        let (size, skip) = (w.regs.fetch(ins.c), w.regs.fetch(ins.e));
        let mut reads = 0;
        for l in lanes(run) {
            let (d, s) = (dst[l], src[l]);
            let read = if ignore && skip[l] != 0 {
                0
            } else if partial {
                size[l] as u32
            } else {
                n
            };
            if d % n as u64 != 0 {
                return Err(Box::new(Fault::Misaligned(
                    Space::Shared,
                    site(l, Some(d), format!("a copy of {n} bytes")),
                )));
            }
            if read > n {
                return Err(Box::new(Fault::Illegal(site(l, Some(s), format!("{read} bytes to read into {n}")))));
            }
            self.shared.issue(d, n, w.agent).map_err(|t| trouble(t, l, d, "an asynchronous copy writes"))?;
            let mut found = (0, 0);
            if read > 0 {
                reads |= 1 << l;
                if s % n as u64 != 0 {
                    return Err(Box::new(Fault::Misaligned(
                        Space::Global,
                        site(l, Some(s), format!("a copy of {n} bytes")),
                    )));
                }
                found = self.readable(s, read, l)?;
            }
            w.copies.pending.push(Copy { lane: l, group: w.copies.committed[l], to: d, from: found, bytes: n, read });
        }
        self.counters.shared_requests += 1;
        self.counters.bank_conflict_cycles += crate::requests::conflicts(&dst, run, n);
        if reads != 0 {
            let r = request(&src, reads, n);
            self.counters.global_requests += 1;
            self.counters.global_sectors_loaded += r.sectors;
            self.counters.global_bytes_loaded += r.bytes;
            self.counters.ideal_sectors += r.ideal;
        }
        Ok(())
    }

    pub(super) fn commit(&mut self, w: &mut Warp, run: u32) {
        for l in lanes(run) {
            w.copies.committed[l] += 1;
        }
    }

    /// Completes all copies of the lanes except those of their last `keep` groups; all of them without `keep`.
    pub(super) fn land(&mut self, w: &mut Warp, run: u32, keep: Option<u32>) {
        let Warp { copies, agent, .. } = w;
        let Copies { pending, committed } = copies;
        let (shared, regions) = (&mut self.shared, &self.job.regions);
        pending.retain(|c| {
            let due = match keep {
                Some(k) => c.group + k < committed[c.lane],
                None => true,
            };
            if run >> c.lane & 1 == 0 || !due {
                return true;
            }
            let mut bytes = [0u8; 16];
            let mut at = 0;
            while at < c.read {
                let o = c.from.1 + at as u64;
                let n = (1 << (o | 8).trailing_zeros()).min(1 << (c.read - at).ilog2());
                let v = regions[c.from.0].buffer.get(o, n);
                bytes[at as usize..(at + n) as usize].copy_from_slice(&v.to_le_bytes()[..n as usize]);
                at += n;
            }
            shared.land(c.to, &bytes[..c.bytes as usize], *agent);
            false
        });
    }
}
