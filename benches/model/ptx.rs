//! What the text of a kernel's PTX says about its cost: launch bounds, shared memory, and the instructions of its main
//! loop. The assembler folds address arithmetic: in the main loops of convolutions, PTX has 1.10 to 1.30 times as many
//! instructions as the machine code of sm_90a.

use std::collections::BTreeMap;

/// One `.entry`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kernel {
    pub name: String,
    /// Most threads of a block (`.maxntid`).
    pub threads: u32,
    /// Blocks that a multiprocessor must hold at once (`.minnctapersm`); 1 where nothing is said.
    pub resident: u32,
    /// Bytes of static shared memory.
    pub shared: u32,
    /// Instructions of the longest way through the body that enters every loop once.
    pub instructions: u32,
    /// The innermost loop with most products, then most loads, then most multiply-adds.
    pub main: Option<Loop>,
    /// The innermost loop with most instructions.
    pub longest: Option<Loop>,
}

/// One pass of a loop, per thread or warp.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loop {
    /// Instructions of the longest way through it.
    pub instructions: u32,
    /// Operations of `mma.sync` of one warp, two per multiply-add.
    pub mma: u64,
    /// Operations of `wgmma` of one warpgroup.
    pub wgmma: u64,
    /// Multiply-adds of f32 of one thread.
    pub fma: u32,
    /// Bytes that a warp loads from shared memory by `ldmatrix`, or its share of those of a warpgroup's `wgmma`.
    pub fragments: u32,
    /// Bytes that a thread copies from global to shared memory (`cp.async`).
    pub copied: u32,
    /// Bytes that a thread loads from global memory into registers.
    pub loaded: u32,
}

/// The entries of a PTX module.
pub fn parse(ptx: &str) -> Vec<Kernel> {
    let mut found = Vec::new();
    for (at, mark) in ptx.match_indices(".entry ") {
        let rest = &ptx[at + mark.len()..];
        let name = rest.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '$')).next().unwrap_or("");
        // A parameter list has no parentheses within, and a body ends at the first brace in column one.
        let after = rest.split_once(')').map_or("", |(_, after)| after);
        let (directives, tail) = after.split_once("\n{").unwrap_or(("", ""));
        let body: Vec<&str> = tail.split("\n}").next().unwrap_or("").lines().map(str::trim).collect();
        let number = |word: &str| -> Option<u32> {
            let list = directives.split_once(word)?.1.lines().next()?;
            list.split(',').map(|n| n.trim().parse::<u32>().ok()).product()
        };
        found.push(Kernel {
            name: name.to_owned(),
            threads: number(".maxntid").unwrap_or(1024),
            resident: number(".minnctapersm").unwrap_or(1),
            shared: body.iter().filter_map(|line| shared(line)).sum(),
            instructions: longest(&body, &labels(&body), 0),
            main: innermost(&body).into_iter().max_by_key(Loop::weight),
            longest: innermost(&body).into_iter().max_by_key(|l| l.instructions),
        });
    }
    found
}

/// Bytes of an array declared by `.shared .align 16 .b8 name[4096];`.
fn shared(line: &str) -> Option<u32> {
    let (_, array) = line.strip_prefix(".shared")?.split_once('[')?;
    let count: u32 = array.split(']').next()?.parse().ok()?;
    let width = [(".b64", 8), (".f64", 8), (".b32", 4), (".f32", 4), (".u32", 4), (".b16", 2)];
    Some(count * width.iter().find(|(kind, _)| line.contains(kind)).map_or(1, |(_, bytes)| *bytes))
}

/// The name of the instruction in this line, without its predicate.
fn operation(line: &str) -> Option<&str> {
    let line = line.split("//").next()?.trim().trim_start_matches(['{', '}']).trim_start();
    let line = if line.starts_with('@') { line.split_once(char::is_whitespace)?.1.trim_start() } else { line };
    let name = line.split([' ', '\t', ';']).next()?;
    (line.ends_with([';', '}']) && name.starts_with(|c: char| c.is_ascii_lowercase())).then_some(name)
}

type Labels = BTreeMap<String, usize>;

/// The lines of labels.
fn labels(body: &[&str]) -> Labels {
    let label = |line: &str| line.strip_suffix(':').filter(|l| l.starts_with('$')).map(str::to_owned);
    body.iter().enumerate().filter_map(|(at, line)| Some((label(line)?, at))).collect()
}

/// The line that a branch goes to.
fn target(line: &str, labels: &Labels) -> Option<usize> {
    operation(line).filter(|name| name.starts_with("bra"))?;
    labels.get(line.trim_end_matches(';').rsplit(char::is_whitespace).next()?).copied()
}

/// Instructions of the longest way through `lines`, the first of which is line `first` of the body, without going back.
/// Moves between registers and changes of address space are left out: they mostly vanish.
fn longest(lines: &[&str], labels: &Labels, first: usize) -> u32 {
    let mut from = vec![0_u32; lines.len() + 1];
    for (at, line) in lines.iter().enumerate().rev() {
        let name = operation(line).unwrap_or("");
        let counts = !name.is_empty() && !name.starts_with("mov.") && !name.starts_with("cvta.");
        let jump = target(line, labels).and_then(|to| to.checked_sub(first)).filter(|to| *to > at);
        let ends = !line.starts_with('@') && (name.starts_with("bra") || name == "ret" || name == "exit");
        let next = if ends { 0 } else { from[at + 1] };
        let jumped = jump.map_or(0, |to| from[to.min(lines.len())]);
        from[at] = u32::from(counts) + next.max(jumped);
    }
    from[0]
}

/// All loops without a loop in them.
fn innermost(body: &[&str]) -> Vec<Loop> {
    let labels = labels(body);
    let back = |(at, line): (usize, &&str)| target(line, &labels).filter(|to| *to < at).map(|to| (to, at));
    let loops: Vec<(usize, usize)> = body.iter().enumerate().filter_map(back).collect();
    let innermost = loops.iter().filter(|(a, z)| !loops.iter().any(|(c, d)| (c, d) != (a, z) && a <= c && d <= z));
    innermost
        .map(|(a, z)| Loop { instructions: longest(&body[*a..=*z], &labels, *a), ..Loop::of(&body[*a..=*z]) })
        .collect()
}

impl Loop {
    /// By which the main loop is found.
    fn weight(&self) -> (u64, bool, u32, u32) {
        (self.mma + self.wgmma, self.copied + self.loaded > 0, self.fma, self.instructions)
    }

    fn of(lines: &[&str]) -> Loop {
        let mut all = Loop::default();
        for line in lines {
            let Some(name) = operation(line) else { continue };
            let has = |part: &str| name.split('.').any(|p| p == part);
            match name.split('.').next().unwrap_or("") {
                "mma" => all.mma += product(name),
                "wgmma" if has("mma_async") => {
                    all.wgmma += product(name);
                    all.fragments += operands(name, line.contains("}, {")) / 4;
                }
                "fma" if has("f32") => all.fma += 1,
                "ldmatrix" => {
                    all.fragments += 128
                        * if has("x4") {
                            4
                        } else if has("x2") {
                            2
                        } else {
                            1
                        }
                }
                "cp" if has("global") && !has("bulk") => {
                    let size = line.split(',').nth(2).and_then(|n| n.trim().trim_end_matches(';').parse().ok());
                    all.copied += size.unwrap_or(16); // address, address, bytes, and bytes that exist
                }
                "ld" if has("global") => all.loaded += width(name),
                _ => {}
            }
        }
        all
    }
}

/// Operations of a product whose name has its extents: `m16n8k16`.
fn product(name: &str) -> u64 {
    extents(name).map_or(0, |[m, n, k]| 2 * m * n * k)
}

/// Bytes of both operands of such a product, of two bytes a number; of the second one alone if the first is in registers.
fn operands(name: &str, first_in_registers: bool) -> u32 {
    extents(name).map_or(0, |[m, n, k]| 2 * k * (n + if first_in_registers { 0 } else { m })) as u32
}

fn extents(name: &str) -> Option<[u64; 3]> {
    name.split('.').find_map(|part| {
        let (m, rest) = part.strip_prefix('m')?.split_once('n')?;
        let (n, k) = rest.split_once('k')?;
        Some([m.parse().ok()?, n.parse().ok()?, k.parse().ok()?])
    })
}

/// Bytes per thread of `ld.global.v4.f32`.
fn width(name: &str) -> u32 {
    let parts: Vec<&str> = name.split('.').collect();
    let has = |part: &str| parts.contains(&part);
    let times = if has("v4") {
        4
    } else if has("v2") {
        2
    } else {
        1
    };
    let digits = parts.last().map_or("", |kind| kind.trim_start_matches(|c: char| c.is_ascii_lowercase()));
    times * digits.parse::<u32>().unwrap_or(32) / 8
}
