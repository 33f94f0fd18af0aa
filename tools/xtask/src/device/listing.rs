//! A minimal parser of PTX files, for the checks: entries, their bodies and their directives.

/// One `.entry`.
pub struct Entry<'a> {
    pub name: &'a str,
    /// The text between the parameters and the body: `.maxntid` and similar directives.
    pub directives: &'a str,
    /// The text between its braces.
    pub body: &'a str,
}

/// The entries of a PTX file, in order.
pub fn parse(ptx: &str) -> Vec<Entry<'_>> {
    let mut found = Vec::new();
    for (at, mark) in ptx.match_indices(".entry ") {
        let rest = &ptx[at + mark.len()..];
        let name = rest.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '$')).next().unwrap_or("");
        // A parameter list contains no parentheses, and a body ends at the first brace in column one.
        let after = rest.find(')').map_or("", |close| &rest[close + 1..]);
        let (directives, tail) = after.split_once("\n{").unwrap_or(("", ""));
        let body = tail.split("\n}").next().unwrap_or("");
        found.push(Entry { name, directives: directives.trim(), body });
    }
    found
}

/// The names of dynamically sized arrays in shared memory.
pub fn dynamic_shared(ptx: &str) -> Vec<&str> {
    let lines = ptx.lines().filter(|l| l.starts_with(".extern .shared"));
    lines.filter_map(|l| l.split_whitespace().last()?.split('[').next()).collect()
}

/// Instructions of a body: one per line, without labels, directives, predicates and comments.
pub fn instructions(body: &str) -> impl Iterator<Item = &str> {
    body.lines().filter_map(|line| {
        let line = line.split("//").next().unwrap_or("").trim().trim_start_matches(['{', '}']).trim();
        let line = if line.starts_with('@') { line.split_once(' ').map_or("", |(_, rest)| rest.trim()) } else { line };
        (line.starts_with(|c: char| c.is_ascii_lowercase()) && line.ends_with(';')).then_some(line)
    })
}

impl Entry<'_> {
    /// Maximum threads per block, from `.maxntid`.
    pub fn threads(&self) -> Option<u32> {
        let list = self.directives.split_once(".maxntid")?.1.lines().next()?;
        list.split(',').map(|n| n.trim().parse::<u32>().ok()).product()
    }

    /// Problems that a kernel of this crate should not have without a reason, by the name that allows them.
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        if self.threads().is_none() {
            found.push(("bounds", "has no __launch_bounds__".to_owned()));
        }
        if self.body.lines().any(|l| l.trim_start().starts_with(".local")) {
            found.push(("local", "uses local memory (.local)".to_owned()));
        }
        for instruction in instructions(self.body) {
            let op = instruction.split_whitespace().next().unwrap_or("");
            let parts: Vec<&str> = op.trim_end_matches(';').split('.').collect();
            match parts[..] {
                ["call", ..] => found.push(("call", format!("calls a function ({instruction})"))),
                ["div" | "rem", "s64" | "u64"] => found.push(("div64", format!("divides in 64 bits ({instruction})"))),
                _ => {}
            }
        }
        found.dedup_by_key(|(what, _)| *what);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PTX: &str = "\
.extern .shared .align 16 .b8 tiles[];

.visible .entry first(
\t.param .u64 first_param_0,
\t.param .u32 first_param_1
)
.maxntid 256, 1, 1
{
\t.reg .b32 \t%r<3>;
$L__BB0_1:
\t@%p1 bra \t$L__BB0_1;
\t// begin inline asm
\t{cvt.rn.bf16.f32 %rs1, %f1;}

\tret;

}
\t// .globl\tsecond
.visible .entry second()
{
\t.local .align 4 .b8 \t__local_depot0[16];
\t@%p2 rem.u64 \t%rd1, %rd2, %rd3;
\tdiv.u64 \t%rd1, %rd2, %rd3;
\tdiv.rn.f32 \t%f1, %f2, %f3;
\tret;
}
";

    #[test]
    fn entries_have_their_directives_and_bodies() {
        let entries = parse(PTX);
        let names: Vec<&str> = entries.iter().map(|e| e.name).collect();
        assert_eq!(names, ["first", "second"]);
        assert_eq!((entries[0].threads(), entries[1].threads()), (Some(256), None));
        assert_eq!(dynamic_shared(PTX), ["tiles"]);
        assert!(entries[0].body.contains("ret;") && !entries[0].body.contains("second"));
    }

    #[test]
    fn faults_are_found_once_each() {
        let faults = |i: usize| parse(PTX)[i].faults().into_iter().map(|(what, _)| what).collect::<Vec<_>>();
        assert!(faults(0).is_empty());
        assert_eq!(faults(1), ["bounds", "local", "div64"]);
    }
}
