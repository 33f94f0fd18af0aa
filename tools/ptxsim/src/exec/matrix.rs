//! `ldmatrix`, `stmatrix` and `mma.sync`.

use super::control::Warp;
use super::load_store::trouble;
use super::regs::Regs;
use super::{Block, Result, site, truncated, unwritten};
use crate::fault::Fault;
use crate::ins::{Ins, Op, Slot, Tensor};
use crate::lane::format::f16_value;
use crate::machine::Sums;
use crate::requests::conflicts;
use crate::types::Space;

impl Block<'_> {
    pub(super) fn matrix(&mut self, w: &mut Warp, ins: &Ins, run: u32) -> Result<()> {
        if run != !0 {
            let m = format!("lane {} does not take part in an instruction of the whole warp", (!run).trailing_zeros());
            return Err(Box::new(Fault::Divergence(site(run.trailing_zeros() as usize, None, m))));
        }
        match &ins.op {
            Op::LoadMatrix { offset, trans, regs } => self.load_matrix(w, ins, *offset, *trans, regs),
            Op::StoreMatrix { offset, trans, regs } => self.store_matrix(w, ins, *offset, *trans, regs),
            Op::Mma { kind, d, a, b, c } => {
                self.counters.tensor_instructions += 1;
                mma(w, *kind, self.job.sums, d, a, b, c)
            }
            op => unreachable!("{op:?} is executed elsewhere"),
        }
    }

    /// The addresses of the rows: lane `8 i + r` holds that of row `r` of matrix `i`.
    fn rows(&mut self, w: &Warp, ins: &Ins, offset: i64, n: usize, store: bool) -> Result<[u64; 32]> {
        let used = if n == 4 { !0 } else { (1 << (8 * n)) - 1 };
        let addr = self.addresses(w, ins, offset, used)?;
        for (l, &a) in addr.iter().enumerate().take(8 * n) {
            if a % 16 != 0 {
                return Err(Box::new(Fault::Misaligned(Space::Shared, site(l, Some(a), "a row of a matrix"))));
            }
            let (r, what) = if store {
                (self.shared.write(a, 16, w.agent), "stmatrix writes")
            } else {
                (self.shared.read(a, 16, w.agent, false), "ldmatrix reads")
            };
            r.map_err(|t| trouble(t, l, a, what))?;
        }
        self.counters.shared_requests += n as u64;
        // Eight rows of 16 bytes are one phase, like the lanes of a quarter-warp.
        self.counters.bank_conflict_cycles += conflicts(&addr, used, 16);
        Ok(addr)
    }

    fn load_matrix(&mut self, w: &mut Warp, ins: &Ins, offset: i64, trans: bool, regs: &[Slot]) -> Result<()> {
        let addr = self.rows(w, ins, offset, regs.len(), false)?;
        for (i, r) in regs.iter().enumerate() {
            let mut m = [[0u16; 8]; 8];
            for (row, a) in m.iter_mut().zip(&addr[8 * i..]) {
                let bytes = self.shared.row(*a);
                for (v, b) in row.iter_mut().zip(bytes.chunks_exact(2)) {
                    *v = u16::from_le_bytes([b[0], b[1]]);
                }
            }
            let v = std::array::from_fn(|l| {
                let (g, t) = (l / 4, l % 4 * 2);
                let pair = if trans { (m[t][g], m[t + 1][g]) } else { (m[g][t], m[g][t + 1]) };
                pair.0 as u64 | (pair.1 as u64) << 16
            });
            w.regs.put(*r, !0, &v, !0);
        }
        Ok(())
    }

    fn store_matrix(&mut self, w: &mut Warp, ins: &Ins, offset: i64, trans: bool, regs: &[Slot]) -> Result<()> {
        let missing = regs.iter().fold(0, |m, r| m | !w.regs.def(*r));
        if missing != 0 {
            return unwritten(missing, "it is stored");
        }
        let addr = self.rows(w, ins, offset, regs.len(), true)?;
        for (i, r) in regs.iter().enumerate() {
            for (l, v) in w.regs.fetch(*r).iter().enumerate() {
                for (k, half) in [*v & 0xffff, *v >> 16 & 0xffff].into_iter().enumerate() {
                    let (g, t) = (l / 4, l % 4 * 2 + k);
                    let (row, column) = if trans { (t, g) } else { (g, t) };
                    self.shared.set(addr[8 * i + row] + 2 * column as u64, 2, half);
                }
            }
        }
        Ok(())
    }
}

/// Distributes 16-bit operands over their matrices.
#[inline(always)]
fn halves(
    r: &Regs,
    a: &[Slot],
    b: &[Slot],
    am: &mut [[f32; 16]; 16],
    bm: &mut [[f32; 8]; 16],
    value: impl Fn(u32) -> f32,
) {
    for (i, s) in a.iter().enumerate() {
        for (l, v) in r.w[s.i as usize].iter().enumerate() {
            let row = &mut am[l / 4 + i % 2 * 8];
            row[l % 4 * 2 + i / 2 * 8] = value(v & 0xffff);
            row[l % 4 * 2 + 1 + i / 2 * 8] = value(v >> 16);
        }
    }
    for (i, s) in b.iter().enumerate() {
        for (l, v) in r.w[s.i as usize].iter().enumerate() {
            bm[l % 4 * 2 + i * 8][l / 4] = value(v & 0xffff);
            bm[l % 4 * 2 + 1 + i * 8][l / 4] = value(v >> 16);
        }
    }
}

/// A matrix multiplication: products in f32, exact for bf16, f16 and tf32 operands, added in the order of `k` with a rounding
/// to f32 after each, or as [`Sums::Truncated`] says.
fn mma(w: &mut Warp, kind: Tensor, sums: Sums, d: &[Slot; 4], a: &[Slot], b: &[Slot], c: &[Slot; 4]) -> Result<()> {
    let r = &mut w.regs;
    let missing = a.iter().chain(b).chain(c).fold(0, |m, s| m | !r.def(*s));
    if missing != 0 {
        return unwritten(missing, "it is an operand of mma");
    }
    let mut am = [[0f32; 16]; 16];
    // Transposed, so that eight columns are a vector.
    let mut bm = [[0f32; 8]; 16];
    let depth = match kind {
        Tensor::Bf16K16 | Tensor::F16K16 => 16,
        Tensor::Bf16K8 | Tensor::F16K8 | Tensor::Tf32K8 => 8,
        Tensor::Tf32K4 => 4,
    };
    if matches!(kind, Tensor::Tf32K8 | Tensor::Tf32K4) {
        let value = |v: u32| f32::from_bits(v & !0x1fff);
        for (i, s) in a.iter().enumerate() {
            for (l, v) in r.w[s.i as usize].iter().enumerate() {
                am[l / 4 + i % 2 * 8][l % 4 + i / 2 * 4] = value(*v);
            }
        }
        for (i, s) in b.iter().enumerate() {
            for (l, v) in r.w[s.i as usize].iter().enumerate() {
                bm[l % 4 + i * 4][l / 4] = value(*v);
            }
        }
    } else {
        match kind {
            Tensor::Bf16K16 | Tensor::Bf16K8 => halves(r, a, b, &mut am, &mut bm, |v| f32::from_bits(v << 16)),
            _ => halves(r, a, b, &mut am, &mut bm, |v| f16_value(v as u64) as f32),
        }
    }
    let mut acc = [[0f32; 8]; 16];
    let place = |i: usize, l: usize| (l / 4 + i / 2 * 8, l % 4 * 2 + i % 2);
    for (i, s) in c.iter().enumerate() {
        for (l, v) in r.w[s.i as usize].iter().enumerate() {
            let (row, column) = place(i, l);
            acc[row][column] = f32::from_bits(*v);
        }
    }
    match (sums, kind) {
        (Sums::Nearest, _) => multiply(&mut acc, &am, &bm, depth),
        (Sums::Truncated, Tensor::Tf32K8 | Tensor::Tf32K4) => truncated::multiply(&mut acc, &am, &bm, depth, 4),
        (Sums::Truncated, _) => truncated::multiply(&mut acc, &am, &bm, depth, 8),
    }
    for (i, s) in d.iter().enumerate() {
        r.wdef[s.i as usize] = !0;
        for (l, v) in r.w[s.i as usize].iter_mut().enumerate() {
            let (row, column) = place(i, l);
            *v = acc[row][column].to_bits();
        }
    }
    Ok(())
}

/// `acc += a b`, in vectors of eight.
fn multiply(acc: &mut [[f32; 8]; 16], a: &[[f32; 16]; 16], b: &[[f32; 8]; 16], depth: usize) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        #[target_feature(enable = "avx2")]
        fn wide(acc: &mut [[f32; 8]; 16], a: &[[f32; 16]; 16], b: &[[f32; 8]; 16], depth: usize) {
            product(acc, a, b, depth);
        }
        // SAFETY: the processor has the instructions, as was just checked.
        return unsafe { wide(acc, a, b, depth) };
    }
    product(acc, a, b, depth);
}

#[inline(always)]
fn product(acc: &mut [[f32; 8]; 16], a: &[[f32; 16]; 16], b: &[[f32; 8]; 16], depth: usize) {
    // Four rows at a time, whose sums are independent of each other.
    for (out, rows) in acc.chunks_exact_mut(4).zip(a.chunks_exact(4)) {
        for (k, column) in b.iter().enumerate().take(depth) {
            for (o, row) in out.iter_mut().zip(rows) {
                for (s, y) in o.iter_mut().zip(column) {
                    *s += row[k] * y;
                }
            }
        }
    }
}
