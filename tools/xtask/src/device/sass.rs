//! Machine code as printed by `nvdisasm`: the instruction mix of a kernel, and its main loop.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// Classes of instructions, in the order in which the page lists them. An instruction belongs to the first that
/// matches: its name up to the first dot, and a substring of the rest (such as a width).
const CLASSES: [(&str, &[&str], &str); 26] = [
    ("HGMMA", &["HGMMA"], ""),
    ("HMMA", &["HMMA"], ""),
    ("UTMALDG", &["UTMALDG"], ""),
    ("UTMASTG/UBLKCP", &["UTMASTG", "UBLKCP"], ""),
    ("LDGSTS.128", &["LDGSTS"], ".128"),
    ("LDGSTS", &["LDGSTS"], ""),
    ("LDSM", &["LDSM"], ""),
    ("FFMA", &["FFMA", "FFMA2"], ""),
    ("FADD/FMUL", &["FADD", "FMUL", "FADD2", "FMUL2"], ""),
    ("DFMA", &["DFMA", "DADD", "DMUL"], ""),
    ("MUFU", &["MUFU"], ""),
    ("LDG.128", &["LDG"], ".128"),
    ("LDG.64", &["LDG"], ".64"),
    ("LDG", &["LDG", "LD"], ""),
    ("LDS.128", &["LDS"], ".128"),
    ("LDS", &["LDS"], ""),
    ("STS.128", &["STS"], ".128"),
    ("STS", &["STS"], ""),
    ("STG.128", &["STG"], ".128"),
    ("STG.64", &["STG"], ".64"),
    ("STG", &["STG", "ST"], ""),
    ("ATOM/RED", &["ATOM", "ATOMG", "ATOMS", "RED", "REDG"], ""),
    ("LDL/STL", &["LDL", "STL"], ""),
    ("SHFL", &["SHFL"], ""),
    ("BAR", &["BAR"], ""),
    ("CALL", &["CALL"], ""),
];

/// The count of each class, by its index in [`CLASSES`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mix(BTreeMap<usize, u32>);

/// One kernel.
#[derive(Debug, Default)]
pub struct Code {
    pub instructions: usize,
    pub mix: Mix,
    /// The innermost loop that does most of the work, if there is one.
    pub main_loop: Option<Loop>,
}

#[derive(Debug, Default)]
pub struct Loop {
    pub instructions: usize,
    pub mix: Mix,
    /// The sum of the stall counts encoded in its instructions: a lower bound for the cycles per warp and iteration.
    pub cycles: u32,
    /// Bytes of global memory that a thread loads per iteration.
    pub loaded: u32,
}

struct Instruction<'a> {
    /// The full name, without predicate: `LDG.E.128`.
    name: &'a str,
    /// Guarded by a predicate that is never true: padding by the assembler.
    idle: bool,
    /// The target label of a branch.
    target: Option<&'a str>,
    stall: u32,
}

/// Disassembles a cubin: the code of each kernel, by name.
pub fn disassemble(nvdisasm: &Path, cubin: &Path) -> Result<BTreeMap<String, Code>> {
    let mut command = Command::new(nvdisasm);
    command.args(["-c", "-hex"]).arg(cubin);
    let output = command.output().with_context(|| format!("cannot run {}", nvdisasm.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "nvdisasm refuses {}: {}", cubin.display(), said.trim());
    Ok(parse(&String::from_utf8_lossy(&output.stdout)))
}

fn parse(text: &str) -> BTreeMap<String, Code> {
    let sections = text.split("\t.section\t.text.").skip(1);
    sections.map(|s| (s.split([',', '"']).next().unwrap_or("").to_owned(), code(s))).collect()
}

/// The code of one section.
fn code(section: &str) -> Code {
    let mut body: Vec<Instruction> = Vec::new();
    let mut labels = BTreeMap::new();
    for line in section.lines() {
        if let Some(label) = line.strip_suffix(':').filter(|l| l.starts_with('.')) {
            labels.insert(label, body.len());
        } else if let Some(read) = instruction(line) {
            body.push(read);
        } else if let (Some(last), Some(word)) = (body.last_mut(), control(line)) {
            last.stall = word;
        }
    }
    // Exclude the padding at the end: a branch to itself and what follows.
    let end = body.iter().rposition(|i| i.name == "EXIT" || i.name.starts_with("RET")).map_or(body.len(), |e| e + 1);
    let back = |(at, i): (usize, &Instruction)| {
        let start = *labels.get(i.target?)?;
        (start < at).then_some((start, at + 1))
    };
    let loops: Vec<(usize, usize)> = body.iter().enumerate().filter_map(back).collect();
    let innermost = loops.iter().filter(|(a, z)| !loops.iter().any(|(c, d)| (c, d) != (a, z) && a <= c && d <= z));
    let measured = innermost.map(|(a, z)| measure(&body[*a..*z]));
    let main_loop =
        measured.max_by_key(|l| (l.mix.count("HGMMA") + l.mix.count("HMMA"), l.mix.count("FFMA"), l.instructions));
    Code { instructions: end, mix: Mix::of(&body[..end]), main_loop }
}

fn measure(body: &[Instruction]) -> Loop {
    let loads = body.iter().filter(|i| matches!(root(i.name), "LDG" | "LDGSTS"));
    Loop {
        instructions: body.len(),
        mix: Mix::of(body),
        cycles: body.iter().map(|i| i.stall).sum(),
        loaded: loads.map(|i| width(i.name)).sum(),
    }
}

/// `/*0040*/   @P0 LDG.E R0, [R2.64] ;   /* 0x0000000602007981 */`
fn instruction(line: &str) -> Option<Instruction<'_>> {
    let (address, rest) = line.trim_start().strip_prefix("/*")?.split_once("*/")?;
    if !address.chars().all(|c| c.is_ascii_hexdigit()) {
        return None;
    }
    let text = rest.split(" ;").next()?.trim();
    let idle = text.starts_with("@!PT ");
    let text = if text.starts_with('@') { text.split_once(' ')?.1.trim_start() } else { text };
    let name = text.split_whitespace().next()?;
    let target = if root(name) == "BRA" { text.split(['(', ')']).nth(1) } else { None };
    Some(Instruction { name, idle, target, stall: 0 })
}

/// The stall count, in an instruction's second word: bits 105 to 108 of the encoding.
fn control(line: &str) -> Option<u32> {
    let word = line.trim().strip_prefix("/* 0x")?.strip_suffix(" */")?;
    let word = u64::from_str_radix(word, 16).ok()?;
    Some((word >> 41 & 15) as u32)
}

fn root(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

/// Bytes per thread.
fn width(name: &str) -> u32 {
    let part = |p: &str| name.split('.').any(|x| x == p);
    match () {
        () if part("128") => 16,
        () if part("64") => 8,
        () if part("U16") || part("S16") => 2,
        () if part("U8") || part("S8") => 1,
        () => 4,
    }
}

impl Mix {
    fn of(body: &[Instruction]) -> Mix {
        let mut mix = BTreeMap::new();
        for i in body.iter().filter(|i| !i.idle) {
            let fits =
                |(_, roots, part): &(&str, &[&str], &str)| roots.contains(&root(i.name)) && i.name.contains(part);
            if let Some(class) = CLASSES.iter().position(fits) {
                *mix.entry(class).or_insert(0) += 1;
            }
        }
        Mix(mix)
    }

    /// One of each of these classes.
    #[cfg(test)]
    pub fn with(classes: &[&str]) -> Mix {
        let place = |class: &&str| CLASSES.iter().position(|(name, ..)| name == class).expect("it is a class");
        Mix(classes.iter().map(|class| (place(class), 1)).collect())
    }

    /// The count of a class.
    pub fn count(&self, class: &str) -> u32 {
        let place = CLASSES.iter().position(|(name, ..)| *name == class);
        place.and_then(|p| self.0.get(&p)).copied().unwrap_or(0)
    }
}

impl std::fmt::Display for Mix {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let words: Vec<String> = self.0.iter().map(|(place, n)| format!("{} {n}", CLASSES[*place].0)).collect();
        f.write_str(&words.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
\t.section\t.text.k,\"ax\",@progbits
k:
.text.k:
        /*0000*/                   LDG.E.128 R4, [R2.64] ;                 /* 0x0000000602047981 */
                                                                           /* 0x000fe400078e00ff */
.L_x_1:
        /*0010*/              @!P0 LDGSTS.E.BYPASS.128 [R3], [R2.64] ;     /* 0x0000000602047981 */
                                                                           /* 0x000fc400078e00ff */
        /*0020*/                   HMMA.16816.F32.BF16 R4, R4, R8, R4 ;    /* 0x0000000602047981 */
                                                                           /* 0x000fe200078e00ff */
        /*0028*/              @!PT LDS RZ, [RZ] ;                          /* 0x0000000602047981 */
                                                                           /* 0x000fe000078e00ff */
        /*0030*/               @P0 BRA `(.L_x_1) ;                         /* 0x0000000602047981 */
                                                                           /* 0x000fea000383ffff */
        /*0040*/                   EXIT ;                                  /* 0x000000000000794d */
                                                                           /* 0x000fea0003800000 */
.L_x_2:
        /*0050*/                   BRA `(.L_x_2);                          /* 0xfffffff000007947 */
                                                                           /* 0x000fc0000383ffff */
        /*0060*/                   NOP;                                    /* 0x0000000000007918 */
                                                                           /* 0x000fc00000000000 */
";

    #[test]
    fn a_loop_is_found_and_measured() {
        let read = parse(TEXT);
        let code = &read["k"];
        assert_eq!(code.instructions, 6);
        assert_eq!(code.mix.to_string(), "HMMA 1, LDGSTS.128 1, LDG.128 1");
        let main = code.main_loop.as_ref().unwrap();
        assert_eq!((main.instructions, main.loaded), (4, 16));
        assert_eq!(main.cycles, 2 + 1 + 5);
        assert_eq!(main.mix.count("LDG.128"), 0);
    }

    #[test]
    fn tensor_copies_and_products_of_warpgroups_are_counted() {
        let text = TEXT.replace("HMMA.16816.F32.BF16", "HGMMA.64x256x16.F32.BF16").replace("LDG.E.128", "UTMALDG.5D");
        let code = &parse(&text)["k"];
        assert_eq!(["HGMMA", "UTMALDG", "HMMA", "LDL/STL"].map(|class| code.mix.count(class)), [1, 1, 0, 0]);
    }

    #[test]
    fn widths_are_parts_of_names() {
        assert_eq!(["LDG.E.128.CONSTANT", "LDG.E.U16", "LDG.E.64", "LDG.E"].map(width), [16, 2, 8, 4]);
    }
}
