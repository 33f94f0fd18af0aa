//! From statements to instructions: names are resolved, types checked, and constants placed in registers.

mod bulk;
mod entry;
mod float;
mod flow;
mod hot;
mod integer;
mod mbarrier;
mod memory;
mod warp;
mod wgmma;

use std::collections::HashMap;

use crate::ParseError;
use crate::counters::Class;
use crate::ins::{Constant, File as RegFile, Ins, Op, Order, RESERVED, Slot, Special};
use crate::parse::{Arg, Function, Statement};
use crate::types::{Space, Type};

pub(crate) use entry::load;

pub(crate) type Result<T> = std::result::Result<T, ParseError>;

/// The modifiers of an opcode; every one must be used.
pub(crate) struct Mods<'a> {
    words: Vec<&'a str>,
    line: u32,
    all: &'a str,
}

impl<'a> Mods<'a> {
    /// Consumes a modifier if it is there.
    pub fn take(&mut self, word: &str) -> bool {
        match self.words.iter().position(|w| *w == word) {
            Some(i) => {
                self.words.remove(i);
                true
            }
            None => false,
        }
    }

    /// Consumes one of several modifiers.
    pub fn one<T: Copy>(&mut self, of: &[(&str, T)]) -> Option<T> {
        of.iter().find(|(w, _)| self.take(w)).map(|(_, v)| *v)
    }

    /// Consumes the next type.
    pub fn ty(&mut self) -> Result<Type> {
        let i = self.words.iter().position(|w| Type::parse(w).is_some());
        let i = i.ok_or_else(|| ParseError::new(self.line, format!("`{}` has no type", self.all)))?;
        Ok(Type::parse(self.words.remove(i)).expect("just found"))
    }

    pub fn rest(&self) -> &[&'a str] {
        &self.words
    }

    pub fn drop_matching(&mut self, f: impl Fn(&str) -> bool) {
        self.words.retain(|w| !f(w));
    }

    pub fn end(&self) -> Result<()> {
        match self.words.first() {
            Some(w) => Err(ParseError::new(self.line, format!("modifier `.{w}` of `{}` is not known", self.all))),
            None => Ok(()),
        }
    }

    pub fn fail<T>(&self, m: impl std::fmt::Display) -> Result<T> {
        Err(ParseError::new(self.line, format!("`{}`: {m}", self.all)))
    }
}

pub(crate) struct Decoder<'a> {
    f: &'a Function,
    /// `.target` of the file.
    target: &'a str,
    symbols: HashMap<String, (Space, u64)>,
    single: HashMap<(usize, String), Slot>,
    ranges: HashMap<(usize, String), (Slot, u32)>,
    /// Registers allocated so far in each file, including the reserved ones.
    count: [u16; 3],
    constants: [Vec<Constant>; 3],
    line: u32,
    scope: usize,
}

fn home(ty: Type) -> (RegFile, u8) {
    match ty {
        Type::Pred => (RegFile::P, 1),
        t if t.size() == 8 => (RegFile::X, 64),
        t => (RegFile::W, t.bits() as u8),
    }
}

impl<'a> Decoder<'a> {
    fn new(f: &'a Function, target: &'a str, symbols: HashMap<String, (Space, u64)>) -> Result<Decoder<'a>> {
        let mut d = Decoder {
            f,
            target,
            symbols,
            single: HashMap::new(),
            ranges: HashMap::new(),
            count: [RESERVED; 3],
            constants: Default::default(),
            line: f.line,
            scope: 0,
        };
        for r in &f.registers {
            let (file, bits) = home(r.ty);
            let count = &mut d.count[file as usize];
            let first = Slot { file, bits, i: *count };
            let n = r.count.unwrap_or(1);
            let end = *count as u32 + n;
            *count = u16::try_from(end).map_err(|_| ParseError::new(f.line, "more than 65,000 registers"))?;
            let key = (r.scope, r.name.clone());
            let twice = match r.count {
                Some(n) => d.ranges.insert(key, (first, n)).is_some(),
                None => d.single.insert(key, first).is_some(),
            };
            if twice {
                return Err(ParseError::new(f.line, format!("register `{}` is declared twice", r.name)));
            }
        }
        Ok(d)
    }

    pub fn error(&self, m: impl Into<String>) -> ParseError {
        ParseError::new(self.line, m)
    }

    /// Looks a name up from the innermost scope outwards.
    fn scoped<T>(&self, find: impl Fn(usize) -> Option<T>) -> Option<T> {
        let mut scope = self.scope;
        loop {
            if let Some(v) = find(scope) {
                return Some(v);
            }
            if scope == 0 {
                return None;
            }
            scope = self.f.parents[scope];
        }
    }

    fn register(&self, name: &str) -> Option<Slot> {
        let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count();
        let (prefix, number) = name.split_at(name.len() - digits);
        let number = number.parse::<u32>().ok();
        self.scoped(|s| {
            if let Some(slot) = self.single.get(&(s, name.to_string())) {
                return Some(*slot);
            }
            let (first, n) = self.ranges.get(&(s, prefix.to_string()))?;
            let k = number.filter(|k| k < n)?;
            Some(Slot { i: first.i + k as u16, ..*first })
        })
    }

    pub fn label(&self, name: &str) -> Result<u32> {
        let at = self.scoped(|s| self.f.labels.get(&(s, name.to_string())).copied());
        at.map(|i| i as u32).ok_or_else(|| self.error(format!("there is no label `{name}`")))
    }

    pub fn table(&self, name: &str) -> Result<Vec<u32>> {
        let t = self.scoped(|s| self.f.tables.get(&(s, name.to_string())));
        let t = t.ok_or_else(|| self.error(format!("there is no table `{name}`")))?;
        t.iter().map(|l| self.label(l)).collect()
    }

    /// A register that holds a constant.
    pub fn constant(&mut self, file: RegFile, bits: u8, value: Constant) -> Slot {
        let list = &mut self.constants[file as usize];
        let at = list.iter().position(|c| *c == value).unwrap_or_else(|| {
            list.push(value);
            list.len() - 1
        });
        // Overflow is detected at the end, when all registers and constants are known.
        Slot { file, bits, i: self.count[file as usize].wrapping_add(at as u16) }
    }

    fn special(&self, name: &str) -> Option<Special> {
        let axis = |s: &str| ["x", "y", "z"].iter().position(|a| *a == s).map(|i| i as u8);
        if let Some((base, a)) = name.split_once('.') {
            let a = axis(a)?;
            return Some(match base {
                "%tid" => Special::Tid(a),
                "%ntid" => Special::Ntid(a),
                "%ctaid" => Special::Ctaid(a),
                "%nctaid" => Special::Nctaid(a),
                "%cluster_ctaid" => Special::InCluster(a),
                "%cluster_nctaid" => Special::OfCluster(a),
                "%clusterid" => Special::Cluster(a),
                "%nclusterid" => Special::Clusters(a),
                _ => return None,
            });
        }
        Some(match name {
            "%laneid" => Special::Lane,
            "%warpid" => Special::Warp,
            "%nwarpid" => Special::Warps,
            "%lanemask_eq" => Special::LaneMask(Order::Eq),
            "%lanemask_lt" => Special::LaneMask(Order::Lt),
            "%lanemask_le" => Special::LaneMask(Order::Le),
            "%lanemask_gt" => Special::LaneMask(Order::Gt),
            "%lanemask_ge" => Special::LaneMask(Order::Ge),
            "%dynamic_smem_size" => Special::DynamicShared,
            "%total_smem_size" => Special::TotalShared,
            "%cluster_ctarank" => Special::Rank,
            "%cluster_nctarank" => Special::Ranks,
            _ => return None,
        })
    }

    /// A source of exactly the type's width.
    pub fn src(&mut self, a: &Arg, ty: Type) -> Result<Slot> {
        let (file, bits) = home(ty);
        let s = self.any(a, ty)?;
        if s.file != file || (s.bits != bits && file != RegFile::P) {
            return Err(self.error(format!("{a:?} has {} bits where {ty:?} is expected", s.bits)));
        }
        Ok(s)
    }

    /// A source of at least the type's width.
    pub fn any(&mut self, a: &Arg, ty: Type) -> Result<Slot> {
        let (file, bits) = home(ty);
        let mask = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
        match a {
            Arg::Int(v) => Ok(self.constant(file, bits, Constant::Value(v & mask))),
            Arg::Float(v, wide) => {
                let v = match (ty, wide) {
                    (Type::F64, true) | (Type::F32, false) | (Type::B64, true) | (Type::B32, false) => *v,
                    (Type::F32, true) => (f64::from_bits(*v) as f32).to_bits() as u64,
                    _ => return Err(self.error(format!("a float literal where {ty:?} is expected"))),
                };
                Ok(self.constant(file, bits, Constant::Value(v)))
            }
            Arg::Word(w) => {
                if let Some(s) = self.register(w) {
                    return Ok(s);
                }
                if let Some(s) = self.special(w) {
                    return Ok(self.constant(file, bits, Constant::Special(s)));
                }
                let value = match w.as_str() {
                    "%smid" | "%gridid" => 0,
                    "WARP_SZ" => 32,
                    _ => self.symbols.get(w).ok_or_else(|| self.error(format!("there is no `{w}`")))?.1,
                };
                Ok(self.constant(file, bits, Constant::Value(value & mask)))
            }
            _ => Err(self.error(format!("{a:?} cannot be read here"))),
        }
    }

    /// A destination of exactly the type's width.
    pub fn dst(&mut self, a: &Arg, ty: Type) -> Result<Slot> {
        let (file, bits) = home(ty);
        let s = self.wide(a, ty)?;
        if s.file != file || s.bits != bits {
            return Err(self.error(format!("{a:?} has {} bits where {ty:?} is written", s.bits)));
        }
        Ok(s)
    }

    /// A destination of at least the type's width.
    pub fn wide(&mut self, a: &Arg, ty: Type) -> Result<Slot> {
        let (file, bits) = home(ty);
        let Arg::Word(w) = a else { return Err(self.error(format!("{a:?} cannot be written"))) };
        if w == "_" {
            return Ok(Slot { file, bits, i: 1 });
        }
        let s = self.register(w).ok_or_else(|| self.error(format!("there is no register `{w}`")))?;
        if (s.file == RegFile::P) != (file == RegFile::P) || s.bits < bits {
            return Err(self.error(format!("`{w}` has {} bits where {ty:?} is written", s.bits)));
        }
        Ok(s)
    }

    /// A predicate source, possibly negated.
    pub fn pred(&mut self, a: &Arg) -> Result<(Slot, bool)> {
        match a {
            Arg::Not(p) => Ok((self.src(p, Type::Pred)?, true)),
            Arg::Int(v) => Ok((Slot { file: RegFile::P, bits: 1, i: 0 }, *v == 0)),
            p => Ok((self.src(p, Type::Pred)?, false)),
        }
    }

    /// An address: base register (a zero if there is none), offset, and the state space of a symbol.
    pub fn address(&mut self, a: &Arg) -> Result<(Slot, i64, Option<Space>)> {
        let Arg::Memory(base, offset) = a else { return Err(self.error(format!("{a:?} is no address"))) };
        let zero = Slot { file: RegFile::X, bits: 64, i: 0 };
        match &**base {
            Arg::Int(v) => Ok((zero, (*v as i64).wrapping_add(*offset), None)),
            Arg::Word(w) => {
                if let Some(s) = self.register(w) {
                    if s.bits < 32 {
                        return Err(self.error(format!("`{w}` is too narrow for an address")));
                    }
                    return Ok((s, *offset, None));
                }
                let found = self.symbols.get(w).copied();
                let (space, at) = found.ok_or_else(|| self.error(format!("there is no `{w}`")))?;
                Ok((zero, (at as i64).wrapping_add(*offset), Some(space)))
            }
            b => Err(self.error(format!("{b:?} is no address"))),
        }
    }

    /// The elements of a vector operand, or the operand itself.
    pub fn list(a: &Arg) -> Vec<Arg> {
        match a {
            Arg::Vector(v) => v.clone(),
            a => vec![a.clone()],
        }
    }

    fn statement(&mut self, s: &Statement) -> Result<Ins> {
        self.line = s.line;
        self.scope = s.scope;
        let (guard, negate) = match &s.guard {
            Some((p, n)) => (self.src(&Arg::Word(p.clone()), Type::Pred)?.i, if *n { !0 } else { 0 }),
            None => (0, 0),
        };
        let mut words = s.opcode.split('.');
        let root = words.next().unwrap_or_default();
        let mut m = Mods { words: words.collect(), line: s.line, all: &s.opcode };
        let mut ins = Ins {
            op: Op::Fence,
            guard,
            negate,
            d: Slot::SINK,
            a: Slot::NONE,
            b: Slot::NONE,
            c: Slot::NONE,
            e: Slot::NONE,
            class: Class::Integer,
            line: s.line,
            rank: 0,
        };
        let known = self.integer(root, &mut m, &s.args, &mut ins)?
            || self.float(root, &mut m, &s.args, &mut ins)?
            || self.order(root, &mut m, &s.args, &mut ins)?
            || self.memory(root, &mut m, &s.args, &mut ins)?
            || self.warp(root, &mut m, &s.args, &mut ins)?;
        if !known {
            return Err(self.error(format!("unknown opcode `{}`", s.opcode)));
        }
        m.end()?;
        hot::heat(&mut ins);
        Ok(ins)
    }

    /// Fails unless there are `n` operands.
    pub fn arity(&self, args: &[Arg], n: std::ops::RangeInclusive<usize>) -> Result<()> {
        if n.contains(&args.len()) {
            Ok(())
        } else {
            Err(self.error(format!("{} operands where {n:?} are expected", args.len())))
        }
    }
}
