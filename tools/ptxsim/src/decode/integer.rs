//! Integer arithmetic, logic, moves, comparisons of all types, and integer conversions.

use super::{Decoder, Mods, Result};
use crate::counters::Class;
use crate::ins::{File, Hot, Ins, Logic, Op, Pure, Slot};
use crate::lane::bits::{dot, field, insert, permute};
use crate::lane::float::{Compare, Relation};
use crate::parse::Arg;
use crate::types::Type;

/// A function written for the signedness and width of a type.
macro_rules! typed {
    ($m:expr, $ty:expr, $T:ident => $f:expr) => {{
        use Type::*;
        let f: Pure = match $ty {
            S16 => {
                type $T = i16;
                $f
            }
            U16 | B16 => {
                type $T = u16;
                $f
            }
            S32 => {
                type $T = i32;
                $f
            }
            U32 | B32 => {
                type $T = u32;
                $f
            }
            S64 => {
                type $T = i64;
                $f
            }
            U64 | B64 => {
                type $T = u64;
                $f
            }
            t => return $m.fail(format!("type {t:?}")),
        };
        f
    }};
}

impl Decoder<'_> {
    /// Decodes these instructions; false for all others.
    pub(super) fn integer(&mut self, root: &str, m: &mut Mods, args: &[Arg], ins: &mut Ins) -> Result<bool> {
        match root {
            "mov" => self.mov(m, args, ins)?,
            "setp" | "set" => self.setp(root, m, args, ins)?,
            "selp" => {
                let ty = m.ty()?;
                self.arity(args, 4..=4)?;
                ins.d = self.dst(&args[0], ty)?;
                ins.a = self.src(&args[1], ty)?;
                ins.b = self.src(&args[2], ty)?;
                ins.c = self.src(&args[3], Type::Pred)?;
                ins.op = Op::Select;
                ins.class = Class::Move;
            }
            "slct" => {
                let (ty, by) = (m.ty()?, m.ty()?);
                self.arity(args, 4..=4)?;
                ins.d = self.dst(&args[0], ty)?;
                ins.a = self.src(&args[1], ty)?;
                ins.b = self.src(&args[2], ty)?;
                ins.c = self.src(&args[3], by)?;
                ins.op = Op::Pure(match by {
                    Type::S32 => |a, b, c, _| if c as i32 >= 0 { a } else { b },
                    Type::F32 => |a, b, c, _| if f32::from_bits(c as u32) >= 0.0 { a } else { b },
                    t => return m.fail(format!("type {t:?}")),
                });
                ins.class = Class::Move;
            }
            "and" | "or" | "xor" | "not" if m.rest().contains(&"pred") => {
                m.ty()?;
                self.arity(args, if root == "not" { 2..=2 } else { 3..=3 })?;
                ins.d = self.dst(&args[0], Type::Pred)?;
                ins.a = self.src(&args[1], Type::Pred)?;
                if root != "not" {
                    ins.b = self.src(&args[2], Type::Pred)?;
                }
                ins.op = match root {
                    "and" => Op::PredLogic(Logic::And),
                    "or" => Op::PredLogic(Logic::Or),
                    "xor" => Op::PredLogic(Logic::Xor),
                    _ => Op::PredNot,
                };
                ins.class = Class::Compare;
            }
            _ => return self.arithmetic(root, m, args, ins),
        }
        Ok(true)
    }

    fn mov(&mut self, m: &mut Mods, args: &[Arg], ins: &mut Ins) -> Result<()> {
        let ty = m.ty()?;
        self.arity(args, 2..=2)?;
        ins.class = Class::Move;
        let part = |n: usize| match (ty.size() as usize, n) {
            (8, 2) => Ok(Type::B32),
            (8, 4) | (4, 2) => Ok(Type::B16),
            (4, 4) | (2, 2) => Ok(Type::B8),
            _ => m.fail("a vector of this length"),
        };
        match (&args[0], &args[1]) {
            (Arg::Vector(v), s) => {
                let t = part(v.len())?;
                ins.a = self.src(s, ty)?;
                ins.op = Op::Unpack(v.iter().map(|a| self.dst(a, t)).collect::<Result<_>>()?);
            }
            (d, Arg::Vector(v)) => {
                let t = part(v.len())?;
                ins.d = self.dst(d, ty)?;
                ins.op = Op::Pack(v.iter().map(|a| self.src(a, t)).collect::<Result<_>>()?);
            }
            (d, Arg::Word(w))
                if matches!(w.as_str(), "%clock" | "%clock_hi" | "%clock64" | "%globaltimer" | "%globaltimer_lo") =>
            {
                ins.d = self.dst(d, ty)?;
                ins.op = Op::Clock;
            }
            (d, s) => {
                ins.d = self.dst(d, ty)?;
                ins.a = self.src(s, ty)?;
                ins.op = match ins.d.file {
                    File::P => Op::PredMove,
                    File::W => Op::Hot(Hot::Mov32),
                    File::X => Op::Hot(Hot::Mov64),
                };
            }
        }
        Ok(())
    }

    fn setp(&mut self, root: &str, m: &mut Mods, args: &[Arg], ins: &mut Ins) -> Result<()> {
        use Relation::*;
        let relation = m.one(&[
            ("eq", (Eq, false)),
            ("ne", (Ne, false)),
            ("lt", (Lt, false)),
            ("le", (Le, false)),
            ("gt", (Gt, false)),
            ("ge", (Ge, false)),
            ("lo", (Lt, false)),
            ("ls", (Le, false)),
            ("hi", (Gt, false)),
            ("hs", (Ge, false)),
            ("equ", (Eq, true)),
            ("neu", (Ne, true)),
            ("ltu", (Lt, true)),
            ("leu", (Le, true)),
            ("gtu", (Gt, true)),
            ("geu", (Ge, true)),
            ("num", (Number, false)),
            ("nan", (Nan, true)),
        ]);
        let Some((relation, unordered)) = relation else { return m.fail("no comparison") };
        let combine = m.one(&[("and", Logic::And), ("or", Logic::Or), ("xor", Logic::Xor)]);
        let ftz = m.take("ftz");
        if root == "set" {
            return m.fail("not simulated");
        }
        let ty = m.ty()?;
        self.arity(args, 3..=4)?;
        if (args.len() == 4) != combine.is_some() {
            return m.fail("a third source belongs to `.and`, `.or`, `.xor`");
        }
        let mut second = None;
        match &args[0] {
            Arg::Pair(p, q) => {
                ins.d = self.dst(p, Type::Pred)?;
                second = Some(self.dst(q, Type::Pred)?);
            }
            p => ins.d = self.dst(p, Type::Pred)?,
        }
        ins.a = self.src(&args[1], ty)?;
        ins.b = self.src(&args[2], ty)?;
        let mut invert = false;
        if let Some(p) = args.get(3) {
            (ins.c, invert) = self.pred(p)?;
        }
        ins.op = Op::Compare { cmp: Compare { relation, ty, unordered, ftz }, combine, invert, second };
        ins.class = Class::Compare;
        Ok(())
    }

    // A cast that is needed for one type of `typed` is not for another.
    #[allow(clippy::unnecessary_cast)]
    /// All instructions that are functions of the lane's sources, except floating-point ones, which are decoded in
    /// `float`.
    fn arithmetic(&mut self, root: &str, m: &mut Mods, args: &[Arg], ins: &mut Ins) -> Result<bool> {
        let float = m.rest().iter().any(|w| Type::parse(w).is_some_and(Type::float));
        if float && !matches!(root, "testp") {
            return Ok(false);
        }
        let sources;
        let (mut result, mut half) = (None, None);
        let mut widths: [Option<Type>; 4] = [None; 4];
        let (ty, f): (Type, Pure) = match root {
            "add" | "sub" | "mul" | "mad" | "div" | "rem" | "min" | "max" | "neg" | "abs" | "and" | "or" | "xor"
            | "not" | "cnot" | "shl" | "shr" | "popc" | "clz" | "brev" | "bfe" | "bfi" | "sad" => {
                half = m.one(&[("lo", "lo"), ("hi", "hi"), ("wide", "wide")]);
                if m.take("sat") {
                    return m.fail("saturation of integers is not simulated");
                }
                let ty = m.ty()?;
                let f: Pure = match (root, half.unwrap_or("")) {
                    ("add", "") => |a, b, _, _| a.wrapping_add(b),
                    ("sub", "") => |a, b, _, _| a.wrapping_sub(b),
                    ("mul", "lo") => |a, b, _, _| a.wrapping_mul(b),
                    ("mad", "lo") => |a, b, c, _| a.wrapping_mul(b).wrapping_add(c),
                    ("mul", "hi") => {
                        typed!(m, ty, T => |a, b, _, _| ((a as T as i128).wrapping_mul(b as T as i128) >> T::BITS) as u64)
                    }
                    ("mad", "hi") => {
                        typed!(m, ty, T => |a, b, c, _| (((a as T as i128).wrapping_mul(b as T as i128) >> T::BITS) as u64).wrapping_add(c))
                    }
                    ("mul" | "mad", "wide") => {
                        let w = match ty {
                            Type::S32 => Type::S64,
                            Type::U32 => Type::U64,
                            Type::S16 => Type::S32,
                            Type::U16 => Type::U32,
                            t => return m.fail(format!("type {t:?}")),
                        };
                        result = Some(w);
                        widths[2] = Some(w);
                        // A multiplication has no third source: it reads the constant 0.
                        typed!(m, ty, T => |a, b, c, _| ((a as T as i64).wrapping_mul(b as T as i64) as u64).wrapping_add(c))
                    }
                    ("div", "") => {
                        typed!(m, ty, T => |a, b, _, _| if b as T == 0 { !0 } else { (a as T).wrapping_div(b as T) as u64 })
                    }
                    ("rem", "") => {
                        typed!(m, ty, T => |a, b, _, _| if b as T == 0 { a } else { (a as T).wrapping_rem(b as T) as u64 })
                    }
                    ("min", "") => typed!(m, ty, T => |a, b, _, _| (a as T).min(b as T) as u64),
                    ("max", "") => typed!(m, ty, T => |a, b, _, _| (a as T).max(b as T) as u64),
                    ("neg", "") => |a, _, _, _| a.wrapping_neg(),
                    ("abs", "") => match ty {
                        Type::S16 => |a, _, _, _| (a as i16).unsigned_abs() as u64,
                        Type::S32 => |a, _, _, _| (a as i32).unsigned_abs() as u64,
                        Type::S64 => |a, _, _, _| (a as i64).unsigned_abs(),
                        t => return m.fail(format!("type {t:?}")),
                    },
                    ("and", "") => |a, b, _, _| a & b,
                    ("or", "") => |a, b, _, _| a | b,
                    ("xor", "") => |a, b, _, _| a ^ b,
                    ("not", "") => |a, _, _, _| !a,
                    ("cnot", "") => |a, _, _, _| u64::from(a == 0),
                    ("shl", "") => {
                        widths[1] = Some(Type::U32);
                        typed!(m, ty, T => |a, b, _, _| if b >= T::BITS as u64 { 0 } else { a << b })
                    }
                    ("shr", "") => {
                        widths[1] = Some(Type::U32);
                        typed!(m, ty, T => |a, b, _, _| {
                            let a = a as T;
                            (if b >= T::BITS as u64 { a >> (T::BITS - 1) >> 1 } else { a >> b }) as u64
                        })
                    }
                    ("popc", "") => {
                        result = Some(Type::U32);
                        |a, _, _, _| a.count_ones() as u64
                    }
                    ("clz", "") => {
                        result = Some(Type::U32);
                        typed!(m, ty, T => |a, _, _, _| (a as T).leading_zeros() as u64)
                    }
                    ("brev", "") => typed!(m, ty, T => |a, _, _, _| (a as T).reverse_bits() as u64),
                    ("sad", "") => {
                        typed!(m, ty, T => |a, b, c, _| c.wrapping_add((a as T as i128 - b as T as i128).unsigned_abs() as u64))
                    }
                    ("bfe", "") => {
                        widths[1] = Some(Type::U32);
                        widths[2] = Some(Type::U32);
                        typed!(m, ty, T => |a, b, c, _| field::<{ T::BITS }>(a, b, c, T::MIN != 0))
                    }
                    ("bfi", "") => {
                        widths[2] = Some(Type::U32);
                        widths[3] = Some(Type::U32);
                        typed!(m, ty, T => |a, b, c, e| insert::<{ T::BITS }>(a, b, c, e))
                    }
                    (r, h) => return m.fail(format!("`{r}` with `{h}`")),
                };
                sources = match root {
                    "neg" | "abs" | "not" | "cnot" | "popc" | "clz" | "brev" => 1,
                    "mad" | "bfe" | "sad" => 3,
                    "bfi" => 4,
                    _ => 2,
                };
                (ty, f)
            }
            "bfind" => {
                let shift = m.take("shiftamt");
                let ty = m.ty()?;
                sources = 1;
                result = Some(Type::U32);
                let f: Pure = match (ty, shift) {
                    (Type::U32, false) => |a, _, _, _| 31u64.wrapping_sub((a as u32).leading_zeros() as u64),
                    (Type::U32, true) => |a, _, _, _| if a == 0 { !0 } else { (a as u32).leading_zeros() as u64 },
                    (Type::S32, false) => {
                        |a, _, _, _| 31u64.wrapping_sub((a as i32 ^ (a as i32 >> 31)).leading_zeros() as u64)
                    }
                    (Type::S32, true) => |a, _, _, _| match (a as i32 ^ (a as i32 >> 31)).leading_zeros() {
                        32 => !0,
                        n => n as u64,
                    },
                    (Type::U64, false) => |a, _, _, _| 63u64.wrapping_sub(a.leading_zeros() as u64),
                    (Type::U64, true) => |a, _, _, _| if a == 0 { !0 } else { a.leading_zeros() as u64 },
                    (t, _) => return m.fail(format!("type {t:?}")),
                };
                (ty, f)
            }
            "shf" => {
                let mode = (m.one(&[("l", true), ("r", false)]), m.one(&[("wrap", true), ("clamp", false)]));
                sources = 3;
                let f: Pure = match mode {
                    (Some(true), Some(true)) => |a, b, c, _| ((b << 32 | a) << (c & 31)) >> 32,
                    (Some(true), Some(false)) => |a, b, c, _| ((b << 32 | a) << c.min(32)) >> 32,
                    (Some(false), Some(true)) => |a, b, c, _| (b << 32 | a) >> (c & 31),
                    (Some(false), Some(false)) => |a, b, c, _| (b << 32 | a) >> c.min(32),
                    _ => return m.fail("a direction or mode is missing"),
                };
                (m.ty()?, f)
            }
            "prmt" => {
                sources = 3;
                let mode = m.one(&[("f4e", 1), ("b4e", 2), ("rc8", 3), ("ecl", 4), ("ecr", 5), ("rc16", 6)]);
                if mode.is_some() {
                    return m.fail("only the plain mode is simulated");
                }
                (m.ty()?, permute)
            }
            "lop3" => {
                sources = 4;
                (m.ty()?, |a, b, c, e| {
                    (0..8).filter(|i| e >> i & 1 == 1).fold(0, |r, i| {
                        let pick = |x: u64, k: u64| if i >> k & 1 == 1 { x } else { !x };
                        r | (pick(a, 2) & pick(b, 1) & pick(c, 0))
                    })
                })
            }
            "dp4a" => {
                sources = 3;
                let (x, y) = (m.ty()?, m.ty()?);
                let f: Pure = match (x, y) {
                    (Type::S32, Type::S32) => |a, b, c, _| dot(a, b, c, |v| v as i8 as i64, |v| v as i8 as i64),
                    (Type::S32, Type::U32) => |a, b, c, _| dot(a, b, c, |v| v as i8 as i64, |v| v as i64),
                    (Type::U32, Type::S32) => |a, b, c, _| dot(a, b, c, |v| v as i64, |v| v as i8 as i64),
                    _ => |a, b, c, _| dot(a, b, c, |v| v as i64, |v| v as i64),
                };
                (x, f)
            }
            _ => return Ok(false),
        };
        self.arity(args, sources + 1..=sources + 1)?;
        ins.d = self.dst(&args[0], result.unwrap_or(ty))?;
        let mut slots = [Slot::NONE; 4];
        for (i, s) in slots.iter_mut().enumerate().take(sources) {
            *s = self.src(&args[i + 1], widths[i].unwrap_or(ty))?;
        }
        [ins.a, ins.b, ins.c, ins.e] = slots;
        ins.op = super::hot::integer(root, half.unwrap_or(""), ty).map_or(Op::Pure(f), Op::Hot);
        Ok(true)
    }
}
