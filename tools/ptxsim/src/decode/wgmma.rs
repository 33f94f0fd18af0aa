//! `wgmma`: products of matrices by four warps together.

use super::{Decoder, Mods, Result};
use crate::asynchronous::{Async, Factor, Multiply};
use crate::counters::Class;
use crate::ins::{Ins, Slot};
use crate::parse::Arg;
use crate::types::Type;

impl Decoder<'_> {
    pub(super) fn wgmma(&mut self, m: &mut Mods, args: &[Arg], ins: &mut Ins) -> Result<()> {
        self.needs(m, true)?;
        if !(m.take("sync") & m.take("aligned")) {
            return m.fail("`.sync.aligned` is expected");
        }
        let what = m.one(&[("fence", 0), ("commit_group", 1), ("wait_group", 2), ("mma_async", 3)]);
        let op = match (what, args) {
            (Some(0), []) => Async::FenceRegisters,
            (Some(1), []) => Async::CommitProducts,
            (Some(2), [Arg::Int(keep)]) => Async::WaitProducts { keep: *keep as u32 },
            (Some(3), _) => {
                let op = self.multiply(m, args)?;
                Self::asynchronous(ins, Class::Tensor, Async::Multiply(Box::new(op)));
                return Ok(());
            }
            _ => return m.fail("not simulated"),
        };
        Self::asynchronous(ins, Class::Sync, op);
        Ok(())
    }

    fn multiply(&mut self, m: &mut Mods, args: &[Arg]) -> Result<Multiply> {
        let shape = m.rest().iter().find_map(|w| w.strip_prefix("m64n")?.strip_suffix("k16")?.parse::<usize>().ok());
        let Some(columns) = shape.filter(|n| n % 8 == 0 && (8..=256).contains(n)) else {
            return m.fail("this shape is not known");
        };
        m.drop_matching(|w| w.starts_with("m64n"));
        let (d, a, b) = (m.ty()?, m.ty()?, m.ty()?);
        if d != Type::F32 || a != b || !matches!(a, Type::BF16 | Type::F16) {
            return m.fail("only sums in f32 of bf16 or f16 are simulated");
        }
        let registers = matches!(args.get(1), Some(Arg::Vector(_)));
        let n = if registers { 7 } else { 8 };
        self.arity(args, n..=n)?;
        let d = self.registers(&args[0], Type::F32, columns / 2, true)?;
        let mut sorted: Vec<Slot> = d.clone();
        sorted.sort_unstable_by_key(|s| s.i);
        if sorted.windows(2).any(|w| w[0] == w[1]) {
            return m.fail("an accumulator is there twice");
        }
        let factor = if registers {
            let v = self.registers(&args[1], Type::B32, 4, false)?;
            Factor::Registers([v[0], v[1], v[2], v[3]])
        } else {
            Factor::Shared(self.src(&args[1], Type::B64)?)
        };
        let second = self.src(&args[2], Type::B64)?;
        let add = self.pred(&args[3])?;
        let scale = |a: &Arg| match a {
            Arg::Int(1) => Some(false),
            Arg::Int(v) if *v as i64 == -1 || *v as i32 == -1 => Some(true),
            _ => None,
        };
        let flag = |a: &Arg| match a {
            Arg::Int(v @ 0..=1) => Some(*v == 1),
            _ => None,
        };
        let (Some(na), Some(nb)) = (scale(&args[4]), scale(&args[5])) else {
            return m.fail("factors of 1 or -1 are expected");
        };
        let transposed = match &args[6..] {
            [b] => flag(b).map(|b| [false, b]),
            [a, b] => flag(a).zip(flag(b)).map(|(a, b)| [a, b]),
            _ => None,
        };
        let Some(transposed) = transposed else { return m.fail("0 or 1 is expected for each transposition") };
        Ok(Multiply { bf16: a == Type::BF16, columns, d, a: factor, b: second, add, negative: [na, nb], transposed })
    }
}
