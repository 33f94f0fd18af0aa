//! From tokens to functions: declarations, labels and statements, with unresolved names.

use crate::ParseError;
use crate::lex::{Kind, Token, lex};
use crate::types::Type;

pub(crate) use crate::syntax::{Arg, File, Function, Registers, Statement, Variable};

type Result<T> = std::result::Result<T, ParseError>;

struct Parser {
    t: Vec<Token>,
    i: usize,
    /// Current nesting depth of operands and initialisers.
    depth: usize,
}

/// Maximum nesting depth of operands and initialisers, to protect the stack.
const DEPTH: usize = 16;
/// Maximum size and alignment of a variable.
pub(crate) const MAX_BYTES: u64 = 1 << 26;
const MAX_ALIGN: u64 = 4096;

/// Parses a file.
pub(crate) fn parse(src: &str) -> Result<File> {
    let mut p = Parser { t: lex(src)?, i: 0, depth: 0 };
    let mut file = File::default();
    while p.i < p.t.len() {
        p.module(&mut file)?;
    }
    if file.version.is_empty() || file.target.is_empty() {
        return Err(ParseError::new(1, "`.version` or `.target` is missing"));
    }
    Ok(file)
}

impl Parser {
    fn line(&self) -> u32 {
        self.t.get(self.i).or(self.t.last()).map_or(1, |t| t.line)
    }

    fn fail<T>(&self, m: impl Into<String>) -> Result<T> {
        Err(ParseError::new(self.line(), m))
    }

    fn peek(&self) -> Option<&Kind> {
        self.t.get(self.i).map(|t| &t.kind)
    }

    fn is(&self, c: char) -> bool {
        self.peek() == Some(&Kind::Mark(c))
    }

    fn accept(&mut self, c: char) -> bool {
        let yes = self.is(c);
        self.i += usize::from(yes);
        yes
    }

    fn expect(&mut self, c: char) -> Result<()> {
        if self.accept(c) { Ok(()) } else { self.fail(format!("`{c}` expected, not {:?}", self.peek())) }
    }

    fn word(&mut self) -> Result<String> {
        match self.peek() {
            Some(Kind::Word(w)) => {
                let w = w.clone();
                self.i += 1;
                Ok(w)
            }
            k => self.fail(format!("a name expected, not {k:?}")),
        }
    }

    fn int(&mut self) -> Result<u64> {
        let negative = self.accept('-');
        match self.peek() {
            Some(&Kind::Int(v)) => {
                self.i += 1;
                Ok(if negative { v.wrapping_neg() } else { v })
            }
            k => self.fail(format!("an integer expected, not {k:?}")),
        }
    }

    /// An integer of at most `most`.
    fn small(&mut self, most: u64) -> Result<u64> {
        let v = self.int()?;
        if v > most { self.fail(format!("{v} is more than {most}")) } else { Ok(v) }
    }

    /// The value of `.align`.
    fn align(&mut self) -> Result<u64> {
        let v = self.small(MAX_ALIGN)?;
        if v.is_power_of_two() { Ok(v) } else { self.fail(format!("an alignment of {v}")) }
    }

    /// Runs `parse` on something that may contain others of its kind.
    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth == DEPTH {
            return self.fail(format!("operands nest deeper than {DEPTH}"));
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    /// Bytes of an array of `n` elements of `bytes` each.
    fn array(&self, bytes: u64, n: u64) -> Result<u64> {
        match bytes.checked_mul(n).filter(|&all| all <= MAX_BYTES) {
            Some(all) => Ok(all),
            None => self.fail(format!("{n} elements of {bytes} bytes are more than {MAX_BYTES} bytes")),
        }
    }

    fn module(&mut self, file: &mut File) -> Result<()> {
        let (line, mut w) = (self.line(), self.word()?);
        let mut external = false;
        while matches!(w.as_str(), ".visible" | ".extern" | ".weak") {
            external |= w == ".extern";
            w = self.word()?;
        }
        match w.as_str() {
            ".version" => match self.peek().cloned() {
                Some(Kind::Float(bits, _)) => {
                    self.i += 1;
                    file.version = f64::from_bits(bits).to_string();
                }
                k => return self.fail(format!("a version expected, not {k:?}")),
            },
            ".target" => {
                file.target = self.word()?;
                while self.accept(',') {
                    self.word()?;
                }
            }
            ".address_size" => {
                if self.int()? != 64 {
                    return self.fail("only addresses of 64 bits are simulated");
                }
            }
            ".shared" => file.shared.extend(self.variables(line, external)?),
            ".global" => file.global.extend(self.variables(line, external)?),
            ".const" => file.constant.extend(self.variables(line, external)?),
            ".entry" => {
                let f = self.entry(line)?;
                if file.functions.iter().any(|g| g.name == f.name) {
                    return Err(ParseError::new(line, format!("two entries are called `{}`", f.name)));
                }
                file.functions.push(f);
            }
            ".func" => {
                return Err(ParseError::new(line, "functions other than kernels are not simulated: inline them"));
            }
            _ => return Err(ParseError::new(line, format!("unknown directive `{w}`"))),
        }
        Ok(())
    }

    /// `[.align n] .type name[len] [= {..}], ...;` after the state space.
    fn variables(&mut self, line: u32, external: bool) -> Result<Vec<Variable>> {
        let (mut align, mut ty, mut lanes) = (None, None, 1);
        let mut out = Vec::new();
        let mut name = loop {
            let w = self.word()?;
            match w.as_str() {
                ".align" => align = Some(self.align()?),
                ".v2" => lanes = 2,
                ".v4" => lanes = 4,
                _ => match w.strip_prefix('.') {
                    Some(t) => {
                        ty = Some(Type::parse(t).ok_or_else(|| ParseError::new(line, format!("unknown type `{w}`")))?)
                    }
                    None => break w,
                },
            }
        };
        let Some(ty) = ty else { return self.fail("a type expected") };
        let size = ty.size() as u64 * lanes;
        loop {
            let mut bytes = Some(size);
            while self.accept('[') {
                if self.accept(']') {
                    bytes = None;
                } else {
                    let n = self.int()?;
                    self.expect(']')?;
                    bytes = bytes.map(|b| self.array(b, n)).transpose()?;
                }
            }
            let mut init = Vec::new();
            if self.accept('=') {
                self.initialiser(ty, &mut init)?;
                bytes = bytes.or(Some(init.len() as u64));
            }
            out.push(Variable { name, ty, align: align.unwrap_or(size), bytes, init, line, external });
            if !self.accept(',') {
                break;
            }
            name = self.word()?;
        }
        self.expect(';')?;
        Ok(out)
    }

    fn initialiser(&mut self, ty: Type, out: &mut Vec<u8>) -> Result<()> {
        if self.accept('{') {
            while !self.accept('}') {
                self.nested(|p| p.initialiser(ty, out))?;
                self.accept(',');
            }
            return Ok(());
        }
        let bits = match self.peek().cloned() {
            Some(Kind::Float(bits, _)) => {
                self.i += 1;
                bits
            }
            _ => self.int()?,
        };
        out.extend(&bits.to_le_bytes()[..ty.size() as usize]);
        Ok(())
    }

    fn entry(&mut self, line: u32) -> Result<Function> {
        let mut f = Function { name: self.word()?, line, parents: vec![0], ..Function::default() };
        if self.accept('(') {
            while !self.accept(')') {
                f.params.push(self.parameter()?);
                self.accept(',');
            }
        }
        while !self.accept('{') {
            match self.word()?.as_str() {
                ".maxntid" => f.max_threads = Some(self.triple()?.iter().product()),
                ".reqntid" => f.exact_threads = Some(self.triple()?),
                ".reqnctapercluster" => f.cluster = Some(self.triple()?),
                ".explicitcluster" => {}
                ".minnctapersm" | ".maxnreg" | ".maxnctapersm" | ".maxclusterrank" => {
                    self.int()?;
                }
                w => return self.fail(format!("unknown directive `{w}` of an entry")),
            }
        }
        self.body(&mut f)?;
        Ok(f)
    }

    fn triple(&mut self) -> Result<[u32; 3]> {
        // Their product fits into u32, too.
        let mut v = [self.small(1024)? as u32, 1, 1];
        for x in &mut v[1..] {
            if self.accept(',') {
                *x = self.small(1024)? as u32;
            }
        }
        Ok(v)
    }

    fn parameter(&mut self) -> Result<Variable> {
        let line = self.line();
        let (mut align, mut ty) = (None, None);
        let name = loop {
            let w = self.word()?;
            match w.as_str() {
                ".param" | ".ptr" | ".global" => {}
                ".align" => align = Some(self.align()?),
                _ => match w.strip_prefix('.') {
                    Some(t) => {
                        ty = Some(Type::parse(t).ok_or_else(|| ParseError::new(line, format!("unknown type `{w}`")))?)
                    }
                    None => break w,
                },
            }
        };
        let Some(ty) = ty else { return self.fail("a parameter without a type") };
        let mut bytes = ty.size() as u64;
        if self.accept('[') {
            let n = self.int()?;
            bytes = self.array(bytes, n)?;
            self.expect(']')?;
        }
        let align = align.unwrap_or(ty.size() as u64);
        Ok(Variable { name, ty, align, bytes: Some(bytes), init: vec![], line, external: false })
    }

    fn body(&mut self, f: &mut Function) -> Result<()> {
        let mut scopes = vec![0];
        loop {
            let (line, scope) = (self.line(), *scopes.last().expect("the body's own scope"));
            if self.accept('{') {
                f.parents.push(scope);
                scopes.push(f.parents.len() - 1);
                continue;
            }
            if self.accept('}') {
                scopes.pop();
                if scopes.is_empty() {
                    return Ok(());
                }
                continue;
            }
            if self.accept(';') {
                continue;
            }
            let mut guard = None;
            if self.accept('@') {
                let negative = self.accept('!');
                guard = Some((self.word()?, negative));
            }
            let w = self.word()?;
            if self.accept(':') {
                if self.peek() == Some(&Kind::Word(".branchtargets".into())) {
                    self.i += 1;
                    let mut labels = vec![self.word()?];
                    while self.accept(',') {
                        labels.push(self.word()?);
                    }
                    self.expect(';')?;
                    f.tables.insert((scope, w), labels);
                } else if f.labels.insert((scope, w.clone()), f.statements.len()).is_some() {
                    return Err(ParseError::new(line, format!("label `{w}` is there twice")));
                }
                continue;
            }
            match w.as_str() {
                ".reg" => self.registers(f, scope)?,
                ".shared" => f.shared.extend(self.variables(line, false)?),
                ".local" => f.local.extend(self.variables(line, false)?),
                ".pragma" => {
                    self.i += 1;
                    self.expect(';')?;
                }
                ".loc" => {
                    while self.i < self.t.len() && self.line() == line && !self.is('}') {
                        self.i += 1;
                    }
                }
                _ if w.starts_with('.') => return Err(ParseError::new(line, format!("unknown directive `{w}`"))),
                _ => {
                    let args = self.args()?;
                    f.statements.push(Statement { line, guard, opcode: w, args, scope });
                }
            }
        }
    }

    fn registers(&mut self, f: &mut Function, scope: usize) -> Result<()> {
        let t = self.word()?;
        let Some(ty) = t.strip_prefix('.').and_then(Type::parse) else {
            return self.fail(format!("unknown type `{t}` of registers"));
        };
        loop {
            let name = self.word()?;
            let mut count = None;
            if self.accept('<') {
                count = Some(self.small(u64::from(u16::MAX))? as u32);
                self.expect('>')?;
            }
            f.registers.push(Registers { scope, name, count, ty });
            if !self.accept(',') {
                return self.expect(';');
            }
        }
    }

    fn args(&mut self) -> Result<Vec<Arg>> {
        let mut out = Vec::new();
        while !self.accept(';') {
            if !out.is_empty() {
                self.expect(',')?;
            }
            out.push(self.arg()?);
        }
        Ok(out)
    }

    fn arg(&mut self) -> Result<Arg> {
        let a = self.simple()?;
        if self.accept('|') {
            return Ok(Arg::Pair(Box::new(a), Box::new(self.simple()?)));
        }
        Ok(a)
    }

    fn simple(&mut self) -> Result<Arg> {
        self.nested(Self::operand)
    }

    fn operand(&mut self) -> Result<Arg> {
        if self.accept('{') {
            let mut v = Vec::new();
            while !self.accept('}') {
                v.push(self.simple()?);
                self.accept(',');
            }
            return Ok(Arg::Vector(v));
        }
        if self.accept('[') {
            let base = self.simple()?;
            let mut offset = 0i64;
            while self.is('+') || self.is('-') {
                self.accept('+');
                offset = offset.wrapping_add(self.int()? as i64);
            }
            if self.accept(',') {
                let Arg::Vector(at) = self.simple()? else { return self.fail("coordinates expected") };
                self.expect(']')?;
                return Ok(Arg::Tensor(Box::new(Arg::Memory(Box::new(base), offset)), at));
            }
            self.expect(']')?;
            return Ok(Arg::Memory(Box::new(base), offset));
        }
        if self.accept('!') {
            return Ok(Arg::Not(Box::new(self.simple()?)));
        }
        match self.peek().cloned() {
            Some(Kind::Float(bits, wide)) => {
                self.i += 1;
                Ok(Arg::Float(bits, wide))
            }
            Some(Kind::Word(w)) => {
                self.i += 1;
                Ok(Arg::Word(w))
            }
            _ => Ok(Arg::Int(self.int()?)),
        }
    }
}
