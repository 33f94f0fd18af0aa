//! Control flow, and instructions in which the lanes of a warp cooperate.

use super::{Decoder, Mods, Result};
use crate::counters::Class;
use crate::ins::{Ins, Op, Pure, Reduce, Shuffle, Slot, Tensor, Vote};
use crate::parse::Arg;
use crate::types::{Space, Type};

impl Decoder<'_> {
    /// Decodes these instructions; false for all others.
    pub(super) fn warp(&mut self, root: &str, m: &mut Mods, args: &[Arg], ins: &mut Ins) -> Result<bool> {
        match root {
            "bra" => {
                m.take("uni");
                let [Arg::Word(l)] = args else { return m.fail("a label is expected") };
                ins.op = Op::Branch(self.label(l)?);
                ins.class = Class::Control;
            }
            "brx" => {
                m.take("idx");
                m.take("uni");
                let [i, Arg::Word(t)] = args else { return m.fail("an index and a table are expected") };
                ins.a = self.src(i, Type::U32)?;
                ins.op = Op::BranchTable(self.table(t)?.into());
                ins.class = Class::Control;
            }
            "ret" | "exit" => {
                m.take("uni");
                self.arity(args, 0..=0)?;
                ins.op = Op::Exit;
                ins.class = Class::Control;
            }
            "trap" => {
                self.arity(args, 0..=0)?;
                ins.op = Op::Trap;
                ins.class = Class::Control;
            }
            "nanosleep" => {
                m.ty()?;
                self.arity(args, 1..=1)?;
                ins.class = Class::Sync;
            }
            "bar" | "barrier" => self.barrier(m, args, ins)?,
            "shfl" => self.shuffle(m, args, ins)?,
            "vote" => {
                let mode =
                    m.one(&[("all", Vote::All), ("any", Vote::Any), ("uni", Vote::Uniform), ("ballot", Vote::Ballot)]);
                let (Some(mode), true) = (mode, m.take("sync")) else { return m.fail("not simulated") };
                let ty = m.ty()?;
                if ty != if mode == Vote::Ballot { Type::B32 } else { Type::Pred } {
                    return m.fail(format!("type {ty:?}"));
                }
                self.arity(args, 3..=3)?;
                ins.d = self.dst(&args[0], ty)?;
                let (p, invert) = self.pred(&args[1])?;
                ins.a = p;
                ins.b = self.src(&args[2], Type::B32)?;
                ins.op = Op::Vote { mode, invert };
                ins.class = Class::Warp;
            }
            "match" => {
                let all = m.one(&[("any", false), ("all", true)]);
                let (Some(all), true) = (all, m.take("sync")) else { return m.fail("not simulated") };
                let ty = m.ty()?;
                self.arity(args, 3..=3)?;
                let mut pred = None;
                ins.d = match &args[0] {
                    Arg::Pair(d, p) if all => {
                        pred = Some(self.dst(p, Type::Pred)?);
                        self.dst(d, Type::B32)?
                    }
                    d => self.dst(d, Type::B32)?,
                };
                ins.a = self.src(&args[1], ty)?;
                ins.b = self.src(&args[2], Type::B32)?;
                ins.op = Op::Match { all, pred };
                ins.class = Class::Warp;
            }
            "redux" => {
                if !m.take("sync") {
                    return m.fail("not simulated");
                }
                let op = m.one(&[
                    ("add", "add"),
                    ("min", "min"),
                    ("max", "max"),
                    ("and", "and"),
                    ("or", "or"),
                    ("xor", "xor"),
                ]);
                let ty = m.ty()?;
                let f: Pure = match (op, ty) {
                    (Some("add"), Type::S32 | Type::U32) => |a, b, _, _| a.wrapping_add(b),
                    (Some("min"), Type::U32) => |a, b, _, _| a.min(b),
                    (Some("max"), Type::U32) => |a, b, _, _| a.max(b),
                    (Some("min"), Type::S32) => |a, b, _, _| (a as i32).min(b as i32) as u32 as u64,
                    (Some("max"), Type::S32) => |a, b, _, _| (a as i32).max(b as i32) as u32 as u64,
                    (Some("and"), Type::B32) => |a, b, _, _| a & b,
                    (Some("or"), Type::B32) => |a, b, _, _| a | b,
                    (Some("xor"), Type::B32) => |a, b, _, _| a ^ b,
                    _ => return m.fail("this reduction is not known"),
                };
                self.arity(args, 3..=3)?;
                ins.d = self.dst(&args[0], ty)?;
                ins.a = self.src(&args[1], ty)?;
                ins.b = self.src(&args[2], Type::B32)?;
                ins.op = Op::Redux(f);
                ins.class = Class::Warp;
            }
            "activemask" => {
                m.ty()?;
                self.arity(args, 1..=1)?;
                ins.d = self.dst(&args[0], Type::B32)?;
                ins.op = Op::ActiveMask;
                ins.class = Class::Warp;
            }
            "ldmatrix" | "stmatrix" => self.matrix(root == "stmatrix", m, args, ins)?,
            "mma" => self.mma(m, args, ins)?,
            "wgmma" => self.wgmma(m, args, ins)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn barrier(&mut self, m: &mut Mods, args: &[Arg], ins: &mut Ins) -> Result<()> {
        ins.class = Class::Sync;
        if m.take("warp") {
            if !m.take("sync") {
                return m.fail("not simulated");
            }
            self.arity(args, 1..=1)?;
            ins.b = self.src(&args[0], Type::B32)?;
            ins.op = Op::WarpSync;
            return Ok(());
        }
        if m.take("cluster") {
            return self.cluster_barrier(m, args, ins);
        }
        m.take("cta");
        m.take("aligned");
        if m.take("red") {
            let op = m.one(&[("and", Reduce::And), ("or", Reduce::Or), ("popc", Reduce::Popc)]);
            let Some(reduce) = op else { return m.fail("no operation") };
            let ty = m.ty()?;
            self.arity(args, 3..=4)?;
            ins.d = self.dst(&args[0], ty)?;
            if (ty == Type::Pred) == (reduce == Reduce::Popc) {
                return m.fail(format!("type {ty:?}"));
            }
            ins.a = self.src(&args[1], Type::U32)?;
            if args.len() == 4 {
                ins.b = self.src(&args[2], Type::U32)?;
            }
            let (p, invert) = self.pred(&args[args.len() - 1])?;
            ins.c = p;
            ins.op = Op::Barrier { reduce, invert, arrive: false };
            return Ok(());
        }
        let Some(arrive) = m.one(&[("sync", false), ("arrive", true)]) else { return m.fail("not simulated") };
        self.arity(args, if arrive { 2..=2 } else { 1..=2 })?;
        ins.a = self.src(&args[0], Type::U32)?;
        if let Some(n) = args.get(1) {
            ins.b = self.src(n, Type::U32)?;
        }
        ins.op = Op::Barrier { reduce: Reduce::None, invert: false, arrive };
        Ok(())
    }

    fn shuffle(&mut self, m: &mut Mods, args: &[Arg], ins: &mut Ins) -> Result<()> {
        let sync = m.take("sync");
        let mode = m.one(&[
            ("up", Shuffle::Up),
            ("down", Shuffle::Down),
            ("bfly", Shuffle::Butterfly),
            ("idx", Shuffle::Index),
        ]);
        let (Some(mode), true) = (mode, sync) else { return m.fail("only `.sync` is simulated") };
        let ty = m.ty()?;
        self.arity(args, 5..=5)?;
        let mut valid = None;
        ins.d = match &args[0] {
            Arg::Pair(d, p) => {
                valid = Some(self.dst(p, Type::Pred)?);
                self.dst(d, ty)?
            }
            d => self.dst(d, ty)?,
        };
        ins.a = self.src(&args[1], ty)?;
        ins.b = self.src(&args[2], Type::B32)?;
        ins.c = self.src(&args[3], Type::B32)?;
        ins.e = self.src(&args[4], Type::B32)?;
        ins.op = Op::Shuffle { mode, valid };
        ins.class = Class::Warp;
        Ok(())
    }

    pub(super) fn registers(&mut self, a: &Arg, ty: Type, n: usize, write: bool) -> Result<Vec<Slot>> {
        let list = Self::list(a);
        if list.len() != n {
            return Err(self.error(format!("{} registers where {n} are expected", list.len())));
        }
        list.iter().map(|a| if write { self.dst(a, ty) } else { self.src(a, ty) }).collect()
    }

    fn matrix(&mut self, store: bool, m: &mut Mods, args: &[Arg], ins: &mut Ins) -> Result<()> {
        let plain = m.take("sync") & m.take("aligned") & m.take("m8n8") & m.take("b16");
        let n = m.one(&[("x1", 1), ("x2", 2), ("x4", 4)]);
        let trans = m.take("trans");
        let shared = m.take("shared") | m.take("shared::cta");
        let (Some(n), true) = (n, plain && shared) else { return m.fail("only m8n8 of 16 bits is simulated") };
        self.arity(args, 2..=2)?;
        let (at, what) = if store { (&args[0], &args[1]) } else { (&args[1], &args[0]) };
        let (base, offset, symbol) = self.address(at)?;
        if symbol.is_some_and(|s| s != Space::Shared) {
            return m.fail("the address is not in shared memory");
        }
        ins.a = base;
        let regs = self.registers(what, Type::B32, n, !store)?.into();
        ins.op = if store { Op::StoreMatrix { offset, trans, regs } } else { Op::LoadMatrix { offset, trans, regs } };
        ins.class = Class::Matrix;
        Ok(())
    }

    fn mma(&mut self, m: &mut Mods, args: &[Arg], ins: &mut Ins) -> Result<()> {
        let plain = m.take("sync") & m.take("aligned") & m.take("row") & m.take("col");
        let shape = m.one(&[("m16n8k16", 16), ("m16n8k8", 8), ("m16n8k4", 4)]);
        let (d, a, b, c) = (m.ty()?, m.ty()?, m.ty()?, m.ty()?);
        let kind = match (shape, a) {
            (Some(16), Type::BF16) => Tensor::Bf16K16,
            (Some(8), Type::BF16) => Tensor::Bf16K8,
            (Some(16), Type::F16) => Tensor::F16K16,
            (Some(8), Type::F16) => Tensor::F16K8,
            (Some(8), Type::TF32) => Tensor::Tf32K8,
            (Some(4), Type::TF32) => Tensor::Tf32K4,
            _ => return m.fail("this shape and type is not known"),
        };
        if !plain || a != b || (d, c) != (Type::F32, Type::F32) {
            return m.fail("this shape and type is not known");
        }
        self.arity(args, 4..=4)?;
        let (na, nb) = match kind {
            Tensor::Bf16K16 | Tensor::F16K16 | Tensor::Tf32K8 => (4, 2),
            _ => (2, 1),
        };
        let four = |v: Vec<Slot>| [v[0], v[1], v[2], v[3]];
        let d = four(self.registers(&args[0], Type::F32, 4, true)?);
        let a = self.registers(&args[1], Type::B32, na, false)?.into();
        let b = self.registers(&args[2], Type::B32, nb, false)?.into();
        let c = four(self.registers(&args[3], Type::F32, 4, false)?);
        ins.op = Op::Mma { kind, d, a, b, c };
        ins.class = Class::Tensor;
        Ok(())
    }
}
