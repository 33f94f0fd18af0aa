//! Loads, stores, atomics, asynchronous copies, fences.

use super::{Decoder, Mods, Result};
use crate::counters::Class;
use crate::ins::{AtomicOp, File, Ins, Memory, Op, Slot};
use crate::parse::Arg;
use crate::types::{Space, Type};

const SPACES: [(&str, Space); 8] = [
    ("global", Space::Global),
    ("const", Space::Global),
    ("shared", Space::Shared),
    ("shared::cta", Space::Shared),
    ("shared::cluster", Space::Cluster),
    ("local", Space::Local),
    ("param", Space::Param),
    ("param::entry", Space::Param),
];

impl Decoder<'_> {
    /// Decodes these instructions; false for all others.
    pub(super) fn memory(&mut self, root: &str, m: &mut Mods, args: &[Arg], ins: &mut Ins) -> Result<bool> {
        match root {
            "ld" | "ldu" | "st" => self.load_store(root == "st", m, args, ins)?,
            "atom" | "red" => self.atomic(root == "atom", m, args, ins)?,
            "cp" => self.copy_async(m, args, ins)?,
            "membar" | "fence" => {
                // Plain stores of a block are visible to others only after the launch, so a fence has nothing to order.
                if root == "fence" {
                    m.one(&[("sc", ()), ("acq_rel", ())]);
                }
                if m.one(&[("cta", ()), ("gl", ()), ("gpu", ()), ("sys", ()), ("cluster", ())]).is_none() {
                    return m.fail("a scope is missing");
                }
                self.arity(args, 0..=0)?;
                ins.class = Class::Sync;
            }
            "prefetch" | "prefetchu" => {
                m.take("global");
                m.one(&[("L1", ()), ("L2", ())]);
                self.arity(args, 1..=1)?;
                self.address(&args[0])?;
                ins.class = Class::Move;
            }
            "isspacep" => {
                let f: crate::ins::Pure = match m.one(&SPACES) {
                    Some(Space::Global) => |a, _, _, _| u64::from(a >> 60 == 0),
                    Some(Space::Shared) => |a, _, _, _| u64::from(a >> 60 == 1),
                    Some(Space::Local) => |a, _, _, _| u64::from(a >> 60 == 2),
                    _ => return m.fail("a state space is missing"),
                };
                self.arity(args, 2..=2)?;
                ins.d = self.dst(&args[0], Type::Pred)?;
                ins.a = self.src(&args[1], Type::U64)?;
                ins.op = Op::Pure(f);
                ins.class = Class::Compare;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The state space of an access: that of the modifier, which must agree with a symbol's.
    fn space(&self, m: &mut Mods, symbol: Option<Space>) -> Result<Space> {
        let space = m.one(&SPACES).unwrap_or(Space::Generic);
        if symbol.is_some_and(|s| s != space && (s, space) != (Space::Shared, Space::Cluster)) {
            return m.fail("the symbol lies in another state space");
        }
        Ok(space)
    }

    fn strong(m: &mut Mods) -> bool {
        m.take("weak");
        let order = m.one(&[("relaxed", ()), ("acquire", ()), ("release", ()), ("acq_rel", ())]).is_some();
        let scope = m.one(&[("cta", ()), ("gpu", ()), ("sys", ()), ("cluster", ())]).is_some();
        m.take("volatile") | order | scope
    }

    fn load_store(&mut self, store: bool, m: &mut Mods, args: &[Arg], ins: &mut Ins) -> Result<()> {
        self.arity(args, 2..=2)?;
        let (at, what) = if store { (&args[0], &args[1]) } else { (&args[1], &args[0]) };
        let (base, offset, symbol) = self.address(at)?;
        let strong = Self::strong(m);
        let space = self.space(m, symbol)?;
        m.take("nc");
        m.one(&[("ca", ()), ("cg", ()), ("cs", ()), ("lu", ()), ("cv", ()), ("wb", ()), ("wt", ())]);
        m.drop_matching(|w| w.starts_with("L1::") || w.starts_with("L2::"));
        let lanes = m.one(&[("v2", 2), ("v4", 4)]).unwrap_or(1);
        let ty = m.ty()?;
        if ty == Type::Pred || (lanes > 1) != matches!(what, Arg::Vector(_)) {
            return m.fail("operands and type disagree");
        }
        let list = Self::list(what);
        if list.len() != lanes || ty.size() as usize * lanes > 16 || (store && space == Space::Param) {
            return m.fail("operands and type disagree");
        }
        let regs: Vec<Slot> =
            list.iter().map(|a| if store { self.any(a, ty) } else { self.wide(a, ty) }).collect::<Result<_>>()?;
        if regs.iter().any(|r| r.file == File::P || (r.bits as u32) < ty.bits()) {
            return m.fail("a register is too narrow");
        }
        ins.a = base;
        ins.class = match (space, store) {
            (Space::Shared | Space::Cluster, false) => Class::SharedLoad,
            (Space::Shared | Space::Cluster, true) => Class::SharedStore,
            (Space::Local, _) => Class::Local,
            (Space::Param, _) => Class::Param,
            (_, false) => Class::GlobalLoad,
            (_, true) => Class::GlobalStore,
        };
        let memory = Box::new(Memory { space, offset, ty, regs, strong });
        ins.op = if store { Op::Store(memory) } else { Op::Load(memory) };
        Ok(())
    }

    fn atomic(&mut self, returns: bool, m: &mut Mods, args: &[Arg], ins: &mut Ins) -> Result<()> {
        use AtomicOp::*;
        let first = usize::from(returns);
        self.arity(args, first + 2..=first + 3)?;
        let (base, offset, symbol) = self.address(&args[first])?;
        Self::strong(m);
        let space = self.space(m, symbol)?;
        let op = m.one(&[
            ("add", Add),
            ("min", Min),
            ("max", Max),
            ("and", And),
            ("or", Or),
            ("xor", Xor),
            ("exch", Exch),
            ("cas", Cas),
            ("inc", Inc),
            ("dec", Dec),
        ]);
        let Some(op) = op else { return m.fail("no operation") };
        m.take("noftz");
        let ty = m.ty()?;
        let known = match op {
            Add => !matches!(ty, Type::B32 | Type::B64 | Type::TF32) && ty.size() >= 4,
            Min | Max => ty.size() >= 4 && !ty.float() && !matches!(ty, Type::B32 | Type::B64),
            And | Or | Xor | Exch => matches!(ty, Type::B32 | Type::B64),
            Cas => matches!(ty, Type::B32 | Type::B64 | Type::B16),
            Inc | Dec => ty == Type::U32,
        };
        if !known
            || !matches!(space, Space::Global | Space::Shared | Space::Cluster | Space::Generic)
            || (args.len() == first + 3) != (op == Cas)
        {
            return m.fail("this atomic operation is not known");
        }
        if returns {
            ins.d = self.dst(&args[0], ty)?;
        } else {
            ins.d = Slot { i: 1, ..self.constant_like(ty) };
        }
        ins.a = base;
        ins.b = self.src(&args[first + 1], ty)?;
        if op == Cas {
            ins.c = self.src(&args[first + 2], ty)?;
        }
        ins.op = Op::Atomic { op, space, offset, ty };
        ins.class = Class::Atomic;
        Ok(())
    }

    /// A slot of the register file that holds values of a type.
    fn constant_like(&self, ty: Type) -> Slot {
        let (file, bits) = super::home(ty);
        Slot { file, bits, i: 0 }
    }

    fn copy_async(&mut self, m: &mut Mods, args: &[Arg], ins: &mut Ins) -> Result<()> {
        if !m.take("async") {
            return m.fail("not simulated");
        }
        if m.take("bulk") {
            return self.bulk(m, args, ins);
        }
        ins.class = Class::Sync;
        if m.take("commit_group") {
            ins.op = Op::Commit;
            return self.arity(args, 0..=0);
        }
        if m.take("wait_all") {
            ins.op = Op::WaitAll;
            return self.arity(args, 0..=0);
        }
        if m.take("wait_group") {
            let [Arg::Int(n)] = args else { return m.fail("a number of groups is expected") };
            ins.op = Op::Wait(*n as u32);
            return Ok(());
        }
        let all = m.one(&[("ca", true), ("cg", false)]);
        let shared = m.take("shared") | m.take("shared::cta");
        if all.is_none() || !shared || !m.take("global") {
            return m.fail("not simulated");
        }
        m.drop_matching(|w| w.starts_with("L2::"));
        self.arity(args, 3..=5)?;
        let (to, to_offset, symbol) = self.address(&args[0])?;
        let (from, from_offset, _) = self.address(&args[1])?;
        if symbol.is_some_and(|s| s != Space::Shared) {
            return m.fail("the destination is not shared memory");
        }
        let Arg::Int(bytes) = args[2] else { return m.fail("the size is not a constant") };
        if !(bytes == 16 || all == Some(true) && matches!(bytes, 4 | 8)) {
            return m.fail("a size of 4, 8 or 16 is expected (16 for .cg)");
        }
        (ins.a, ins.b) = (to, from);
        let (mut partial, mut ignore) = (false, false);
        match args.get(3) {
            Some(Arg::Word(w)) if self.register(w).is_some_and(|r| r.file == File::P) => {
                ignore = true;
                ins.e = self.src(&args[3], Type::Pred)?;
            }
            Some(a) => {
                partial = true;
                ins.c = self.src(a, Type::U32)?;
            }
            None => {}
        }
        if args.len() == 5 {
            return m.fail("cache policies are not simulated");
        }
        ins.op = Op::CopyAsync { bytes: bytes as u8, to: to_offset, from: from_offset, partial, ignore };
        ins.class = Class::AsyncCopy;
        Ok(())
    }
}
