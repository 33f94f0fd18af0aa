//! From files to modules: the addresses of variables, and the resources of entries.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use super::{Decoder, Result};
use crate::ParseError;
use crate::asynchronous::{Async, Factor};
use crate::device::{SHARED_BY_DEFAULT, most_parameters};
use crate::ins::{Ins, Op};
use crate::memory::Buffer;
use crate::module::{Entry, Module, ParamType};
use crate::parse::{Arg, File, Function, MAX_BYTES, Variable, parse};
use crate::types::Space;

/// Parses and checks a file. `place` allocates memory of a given size.
pub(crate) fn load(src: &str, mut place: impl FnMut(u64) -> Arc<Buffer>) -> Result<Module> {
    let file = parse(src)?;
    let mut symbols = HashMap::new();
    let mut variables = Vec::new();
    let mut total = 0;
    for (list, writable) in [(&file.constant, false), (&file.global, true)] {
        for v in list {
            let bytes = v.bytes.filter(|_| !v.external);
            let bytes = bytes.ok_or_else(|| ParseError::new(v.line, format!("`{}` is defined elsewhere", v.name)))?;
            total = limited(total + bytes, v)?;
            let buffer = place(bytes);
            let mut image = v.init.clone();
            // Variables without an initialiser are zero.
            image.resize(bytes as usize, 0);
            buffer.write(0, &image);
            symbols.insert(v.name.clone(), (Space::Global, buffer.base()));
            variables.push((buffer, writable));
        }
    }
    let entries = file.functions.iter().map(|f| entry(&file, f, symbols.clone())).collect::<Result<_>>()?;
    Ok(Module { entries, version: file.version.clone(), target: file.target.clone(), variables })
}

/// `bytes`, or an error if the variables up to `v` take more than the limit.
fn limited(bytes: u64, v: &Variable) -> Result<u64> {
    match bytes <= MAX_BYTES {
        true => Ok(bytes),
        false => Err(ParseError::new(v.line, format!("with `{}` variables take more than {MAX_BYTES} bytes", v.name))),
    }
}

fn round_up(v: u64, to: u64) -> u64 {
    v.div_ceil(to.max(1)) * to.max(1)
}

/// Assigns consecutive offsets to variables, and returns the end.
fn layout<'a>(
    vars: impl Iterator<Item = &'a Variable>,
    space: Space,
    symbols: &mut HashMap<String, (Space, u64)>,
    from: u64,
) -> Result<u64> {
    let mut at = from;
    for v in vars {
        at = round_up(at, v.align);
        symbols.insert(v.name.clone(), (space, at));
        let bytes = v.bytes.ok_or_else(|| ParseError::new(v.line, format!("`{}` has no size", v.name)))?;
        at = limited(at + bytes, v)?;
    }
    Ok(at)
}

fn entry(file: &File, f: &Function, mut symbols: HashMap<String, (Space, u64)>) -> Result<Entry> {
    let mut at = 0;
    let mut params = Vec::new();
    for v in &f.params {
        let size = v.bytes.unwrap_or(0);
        at = round_up(at, v.align);
        symbols.insert(v.name.clone(), (Space::Param, at));
        params.push(ParamType {
            name: v.name.clone(),
            ty: v.ty,
            array: size != v.ty.size() as u64,
            size: size as u32,
            align: v.align as u32,
            offset: at as u32,
        });
        at = limited(at + size, v)?;
    }
    let most = most_parameters(&file.version, &file.target);
    if at > most.into() {
        let (name, version, target) = (&f.name, &file.version, &file.target);
        let m = format!("`{name}` has {at} bytes of parameters where PTX {version} for {target} allows {most}");
        return Err(ParseError::new(f.line, m));
    }
    let names = |v: &&Variable| f.statements.iter().any(|s| s.args.iter().any(|a| mentions(a, &v.name)));
    let (fixed, open): (Vec<_>, Vec<_>) =
        file.shared.iter().filter(names).chain(&f.shared).partition(|v| v.bytes.is_some());
    let shared = layout(fixed.into_iter(), Space::Shared, &mut symbols, 0)?;
    let local = layout(f.local.iter(), Space::Local, &mut symbols, 0)?;
    let align = open.iter().map(|v| v.align).max().unwrap_or(1).max(16);
    let static_shared = if open.is_empty() { shared } else { round_up(shared, align) };
    for v in &open {
        symbols.insert(v.name.clone(), (Space::Shared, static_shared));
    }
    if static_shared > SHARED_BY_DEFAULT.into() {
        let m = format!("`{}` has {static_shared} bytes of static shared memory where 49152 are allowed", f.name);
        return Err(ParseError::new(f.line, m));
    }
    let mut d = Decoder::new(f, &file.target, symbols)?;
    let mut code = f.statements.iter().map(|s| d.statement(s)).collect::<Result<Vec<_>>>()?;
    let full = (0..3).any(|file| usize::from(d.count[file]) + d.constants[file].len() > usize::from(u16::MAX));
    if full || !super::flow::rank(&mut code) {
        return Err(ParseError::new(f.line, format!("`{}` has too many registers, constants or branches", f.name)));
    }
    Ok(Entry {
        name: f.name.clone(),
        line: f.line,
        params,
        static_shared: static_shared as u32,
        dynamic_shared: !open.is_empty(),
        granted: AtomicU32::new(0),
        local: round_up(local, 16) as u32,
        max_threads: f.max_threads,
        exact_threads: f.exact_threads,
        cluster: f.cluster,
        registers: d.count.map(usize::from),
        constants: d.constants,
        granule: granules(&code),
        asynchronous: f.cluster.is_some() || code.iter().any(asynchronous),
        fragments: fragments(&code),
        code,
    })
}

fn mentions(a: &Arg, name: &str) -> bool {
    match a {
        Arg::Word(w) => w == name,
        Arg::Vector(v) => v.iter().any(|a| mentions(a, name)),
        Arg::Memory(a, _) | Arg::Not(a) => mentions(a, name),
        Arg::Tensor(a, v) => mentions(a, name) || v.iter().any(|a| mentions(a, name)),
        Arg::Pair(a, b) => mentions(a, name) || mentions(b, name),
        Arg::Int(_) | Arg::Float(..) => false,
    }
}

/// Whether an instruction needs the order of accesses to be checked exactly.
fn asynchronous(i: &Ins) -> bool {
    match &i.op {
        Op::Async(_) => true,
        Op::Load(m) | Op::Store(m) => m.space == Space::Cluster,
        Op::Atomic { space, .. } => *space == Space::Cluster,
        _ => false,
    }
}

/// The registers that `wgmma` reads or writes.
fn fragments(code: &[Ins]) -> Vec<u16> {
    let mut all = BTreeSet::new();
    for i in code {
        let Op::Async(op) = &i.op else { continue };
        let Async::Multiply(m) = &**op else { continue };
        all.extend(m.d.iter().map(|s| s.i));
        if let Factor::Registers(a) = m.a {
            all.extend(a.map(|s| s.i));
        }
    }
    all.into_iter().collect()
}

/// Log2 of the narrowest access of global and of shared memory, 4 bytes at most.
fn granules(code: &[Ins]) -> [u32; 2] {
    let mut g = [2, 2];
    for i in code {
        let (space, size) = match &i.op {
            Op::Load(m) | Op::Store(m) => (m.space, m.ty.size()),
            Op::Atomic { space, ty, .. } => (*space, ty.size()),
            _ => continue,
        };
        let log = size.trailing_zeros().min(2);
        if matches!(space, Space::Global | Space::Generic) {
            g[0] = g[0].min(log);
        }
        if matches!(space, Space::Shared | Space::Cluster | Space::Generic) {
            g[1] = g[1].min(log);
        }
    }
    g
}
