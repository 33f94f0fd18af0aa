//! Floating-point arithmetic and conversions.

use super::{Decoder, Mods, Result};
use crate::counters::Class;
use crate::ins::{Hot, Ins, Op, Slot};
use crate::lane::float::{Convert, FloatKind, FloatOp};
use crate::parse::Arg;
use crate::types::{LOCAL_WINDOW, PARAM_WINDOW, Round, SHARED_WINDOW, Type, WINDOW_MASK};

const ROUNDS: [(&str, Round); 4] = [("rn", Round::Near), ("rz", Round::Zero), ("rm", Round::Down), ("rp", Round::Up)];

impl Decoder<'_> {
    /// Decodes floating-point instructions; false for all others.
    pub(super) fn float(&mut self, root: &str, m: &mut Mods, args: &[Arg], ins: &mut Ins) -> Result<bool> {
        use FloatKind::*;
        let (kind, sources) = match root {
            "add" => (Add, 2),
            "sub" => (Sub, 2),
            "mul" => (Mul, 2),
            "fma" | "mad" => (Fma, 3),
            "div" => (Div, 2),
            "rcp" => (Rcp, 1),
            "sqrt" => (Sqrt, 1),
            "rsqrt" => (Rsqrt, 1),
            "sin" => (Sin, 1),
            "cos" => (Cos, 1),
            "ex2" => (Ex2, 1),
            "lg2" => (Lg2, 1),
            "tanh" => (Tanh, 1),
            "min" => (Min, 2),
            "max" => (Max, 2),
            "neg" => (Neg, 1),
            "abs" => (Abs, 1),
            "copysign" => (CopySign, 2),
            "cvt" => {
                self.cvt(m, args, ins)?;
                return Ok(true);
            }
            "cvta" => {
                self.cvta(m, args, ins)?;
                return Ok(true);
            }
            _ => return Ok(false),
        };
        let approx = m.take("approx") | (root == "div" && m.take("full"));
        let round = m.one(&ROUNDS);
        let (ftz, sat, relu, nan) = (m.take("ftz"), m.take("sat"), m.take("relu"), m.take("NaN"));
        m.take("noftz");
        let ty = m.ty()?;
        let half = ty.size() == 2 || matches!(ty, Type::F16x2 | Type::BF16x2);
        if !ty.float() || ty == Type::TF32 {
            return m.fail(format!("type {ty:?}"));
        }
        let fits = match kind {
            Add | Sub | Mul => !approx,
            // A fused f64 in another rounding would need more than two words.
            Fma => !approx && round.is_some() && (ty != Type::F64 || round == Some(Round::Near)),
            Div | Rcp | Sqrt => !half && (approx != round.is_some()),
            Rsqrt | Sin | Cos | Ex2 | Lg2 | Tanh => approx && round.is_none(),
            _ => !approx && round.is_none(),
        };
        // f64 has `.ftz` in approximations only, and no other f64 approximation.
        let wide = ty == Type::F64 && (ftz || approx) && !(matches!(kind, Rcp | Rsqrt) && approx);
        let ext = matches!(kind, Sin | Cos | Lg2) && ty != Type::F32 || matches!(kind, Tanh | Ex2) && ty == Type::F64;
        if !fits
            || ext
            || wide
            || (nan && !matches!(kind, Min | Max))
            || (relu && !half)
            || (half && round.is_some_and(|r| r != Round::Near))
        {
            return m.fail("this combination of modifiers is not known");
        }
        self.arity(args, sources + 1..=sources + 1)?;
        ins.d = self.dst(&args[0], ty)?;
        let mut slots = [Slot::NONE; 3];
        for (s, a) in slots.iter_mut().zip(&args[1..]) {
            *s = self.src(a, ty)?;
        }
        [ins.a, ins.b, ins.c] = slots;
        ins.class = match (kind, ty) {
            (Div | Rcp | Sqrt | Rsqrt | Sin | Cos | Ex2 | Lg2 | Tanh, _) => Class::Special,
            (_, Type::F64) => Class::Double,
            _ if half => Class::Half,
            _ => Class::Float,
        };
        let round = round.unwrap_or(Round::Near);
        ins.op = Op::Float(FloatOp { kind, ty, round, ftz, sat, relu, nan });
        Ok(true)
    }

    fn cvt(&mut self, m: &mut Mods, args: &[Arg], ins: &mut Ins) -> Result<()> {
        let round = m.one(&ROUNDS).or(m.one(&[("rna", Round::Away)]));
        let to_int = m.one(&[("rni", Round::Near), ("rzi", Round::Zero), ("rmi", Round::Down), ("rpi", Round::Up)]);
        let (ftz, sat, relu) = (m.take("ftz"), m.take("sat"), m.take("relu"));
        let (to, from) = (m.ty()?, m.ty()?);
        let packed = matches!(to, Type::F16x2 | Type::BF16x2);
        self.arity(args, if packed { 3..=3 } else { 2..=2 })?;
        let narrows = to.float() && (!from.float() || to.size() < from.size() || to == Type::TF32 || packed);
        let asks_integral = from.float() && !to.float();
        if round.is_some() && to_int.is_some()
            || narrows && round.is_none() && !(to == from)
            || asks_integral && to_int.is_none()
            || !from.float() && to_int.is_some()
            || round == Some(Round::Away) && to != Type::TF32
            || relu && !matches!(to, Type::F16 | Type::BF16 | Type::F16x2 | Type::BF16x2 | Type::TF32)
            || packed && from != Type::F32
        {
            return m.fail("this combination of modifiers is not known");
        }
        ins.d = self.wide(&args[0], to)?;
        ins.a = self.any(&args[1], from)?;
        if packed {
            ins.b = self.src(&args[2], from)?;
        }
        let integral = to_int.is_some();
        let round = round.or(to_int).unwrap_or(Round::Near);
        ins.op = Op::Convert(Convert { to, from, round, integral, sat, relu, ftz, packed });
        ins.class = Class::Convert;
        Ok(())
    }

    fn cvta(&mut self, m: &mut Mods, args: &[Arg], ins: &mut Ins) -> Result<()> {
        let back = m.take("to");
        let window =
            m.one(&[("global", 0), ("const", 0), ("shared", 1), ("shared::cta", 1), ("local", 2), ("param", 3)]);
        let Some(window) = window else { return m.fail("a state space is missing") };
        let ty = m.ty()?;
        if ty != Type::U64 {
            return m.fail("addresses have 64 bits");
        }
        self.arity(args, 2..=2)?;
        ins.d = self.dst(&args[0], ty)?;
        ins.a = self.src(&args[1], ty)?;
        ins.op = match (window, back) {
            (0, _) => Op::Hot(Hot::Mov64),
            (_, true) => Op::Pure(|a, _, _, _| a & !WINDOW_MASK),
            (1, false) => Op::Pure(|a, _, _, _| a.wrapping_add(SHARED_WINDOW)),
            (2, false) => Op::Pure(|a, _, _, _| a.wrapping_add(LOCAL_WINDOW)),
            _ => Op::Pure(|a, _, _, _| a.wrapping_add(PARAM_WINDOW)),
        };
        ins.class = Class::Move;
        Ok(())
    }
}
