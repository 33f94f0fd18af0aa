//! Registers of a warp, and for each register a mask of the lanes in which it is initialised.

use crate::ins::{Constant, File, Order, RESERVED, Slot, Special};
use crate::module::Entry;

/// The lanes in a mask.
pub(crate) fn lanes(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let l = mask.trailing_zeros();
        mask &= mask.wrapping_sub(1);
        (l < 32).then_some(l as usize)
    })
}

/// Register files hold values, and masks of the lanes that are initialised. Initialisation follows the data flow: a
/// value computed from an uninitialised register is uninitialised itself. It is a fault only if it determines an
/// address or a branch, or leaves the thread.
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Regs {
    pub p: Vec<u32>,
    pub pdef: Vec<u32>,
    pub w: Vec<[u32; 32]>,
    pub wdef: Vec<u32>,
    pub x: Vec<[u64; 32]>,
    pub xdef: Vec<u32>,
    /// Registers, including reserved ones; constants follow them.
    own: [usize; 3],
}

/// The values from which special registers are computed.
pub(crate) struct Place {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub id: [u32; 3],
    pub warp: u32,
    pub dynamic: u32,
    pub shared: u32,
    /// Blocks of a cluster, and the block's rank there.
    pub cluster: [u32; 3],
    pub rank: u32,
}

impl Place {
    fn special(&self, s: Special, lane: u32) -> u64 {
        let t = self.warp * 32 + lane;
        let b = self.block;
        (match s {
            Special::Tid(0) => t % b[0],
            Special::Tid(1) => t / b[0] % b[1],
            Special::Tid(_) => t / b[0] / b[1],
            Special::Ntid(a) => b[a as usize],
            Special::Ctaid(a) => self.id[a as usize],
            Special::Nctaid(a) => self.grid[a as usize],
            Special::Lane => lane,
            Special::Warp => self.warp,
            Special::Warps => b.iter().product::<u32>().div_ceil(32),
            Special::LaneMask(o) => match o {
                Order::Eq => 1 << lane,
                Order::Lt => (1 << lane) - 1,
                Order::Le => !0 >> (31 - lane),
                Order::Gt => !(!0 >> (31 - lane)),
                Order::Ge => !((1 << lane) - 1),
            },
            Special::DynamicShared => self.dynamic,
            Special::TotalShared => self.shared,
            Special::InCluster(a) => self.id[a as usize] % self.cluster[a as usize],
            Special::OfCluster(a) => self.cluster[a as usize],
            Special::Cluster(a) => self.id[a as usize] / self.cluster[a as usize],
            Special::Clusters(a) => self.grid[a as usize] / self.cluster[a as usize],
            Special::Rank => self.rank,
            Special::Ranks => self.cluster.iter().product(),
        }) as u64
    }
}

impl Regs {
    /// The given number of registers of each file, uninitialised.
    #[cfg(test)]
    pub fn empty(n: [usize; 3]) -> Regs {
        let [p, w, x] = n;
        Regs {
            p: vec![0; p],
            pdef: vec![0; p],
            w: vec![[0; 32]; w],
            wdef: vec![0; w],
            x: vec![[0; 32]; x],
            xdef: vec![0; x],
            own: n,
        }
    }

    pub fn new(e: &Entry) -> Regs {
        let n: [usize; 3] = std::array::from_fn(|f| e.registers[f] + e.constants[f].len());
        let mut r = Regs {
            p: vec![0; n[0]],
            pdef: vec![!0; n[0]],
            w: vec![[0; 32]; n[1]],
            wdef: vec![!0; n[1]],
            x: vec![[0; 32]; n[2]],
            xdef: vec![!0; n[2]],
            own: e.registers,
        };
        r.p[0] = !0;
        r.fill(e, |c, _| if let Constant::Value(v) = c { Some(v) } else { None });
        r
    }

    /// Writes constants into their slots.
    fn fill(&mut self, e: &Entry, value: impl Fn(Constant, u32) -> Option<u64>) {
        for (f, file) in [File::P, File::W, File::X].into_iter().enumerate() {
            for (k, c) in e.constants[f].iter().enumerate() {
                if value(*c, 0).is_none() {
                    continue;
                }
                let slot = Slot { file, bits: 64, i: (self.own[f] + k) as u16 };
                self.put(slot, !0, &std::array::from_fn(|l| value(*c, l as u32).unwrap_or(0)), !0);
            }
        }
    }

    /// Marks all registers as uninitialised, and sets the special registers of a block.
    pub fn reset(&mut self, e: &Entry, place: &Place) {
        let first = RESERVED as usize;
        self.pdef[first..self.own[0]].fill(0);
        self.wdef[first..self.own[1]].fill(0);
        self.xdef[first..self.own[2]].fill(0);
        self.fill(e, |c, l| if let Constant::Special(s) = c { Some(place.special(s, l)) } else { None });
    }

    /// Values of all lanes, zero-extended.
    #[inline]
    pub fn fetch(&self, s: Slot) -> [u64; 32] {
        match s.file {
            File::P => {
                let p = self.p[s.i as usize];
                std::array::from_fn(|l| (p >> l & 1) as u64)
            }
            File::W => self.w[s.i as usize].map(u64::from),
            File::X => self.x[s.i as usize],
        }
    }

    /// Lanes in which the slot is initialised.
    #[inline]
    pub fn def(&self, s: Slot) -> u32 {
        match s.file {
            File::P => self.pdef[s.i as usize],
            File::W => self.wdef[s.i as usize],
            File::X => self.xdef[s.i as usize],
        }
    }

    /// Writes the lanes of a mask; `def` is the mask of those that are initialised.
    #[inline]
    pub fn put(&mut self, s: Slot, mask: u32, v: &[u64; 32], def: u32) {
        let i = s.i as usize;
        let old = match s.file {
            File::P => {
                let bits = v.iter().enumerate().fold(0, |b, (l, v)| b | ((*v & 1) as u32) << l);
                self.p[i] = self.p[i] & !mask | bits & mask;
                &mut self.pdef[i]
            }
            File::W => {
                let cut = if s.bits >= 32 { !0 } else { (1 << s.bits) - 1 };
                for (l, (d, v)) in self.w[i].iter_mut().zip(v).enumerate() {
                    *d = if mask >> l & 1 == 1 { *v as u32 & cut } else { *d };
                }
                &mut self.wdef[i]
            }
            File::X => {
                for (l, (d, v)) in self.x[i].iter_mut().zip(v).enumerate() {
                    *d = if mask >> l & 1 == 1 { *v } else { *d };
                }
                &mut self.xdef[i]
            }
        };
        *old = *old & !mask | def & mask;
    }

    /// Writes a predicate.
    #[inline]
    pub fn put_pred(&mut self, i: u16, mask: u32, bits: u32, def: u32) {
        let i = i as usize;
        self.p[i] = self.p[i] & !mask | bits & mask;
        self.pdef[i] = self.pdef[i] & !mask | def & mask;
    }
}
