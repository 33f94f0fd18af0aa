//! Which file of the library names which other one: only downwards between layers, and never in a circle.

use crate::source::Source;
use std::collections::{BTreeMap, BTreeSet};

/// The layers: files under a path (`*` stands for any part of it) may name their own module, these and no others. The first
/// row that fits counts, so narrower ones come first. An entry that nothing needs is a problem too.
const LAYERS: &[(&str, &str)] = &[
    ("src/error.rs", ""),
    ("src/rng.rs", ""),
    ("src/files.rs", "error"),
    ("src/shape.rs", "error"),
    ("src/driver/", "error files"),
    ("src/cpu/", ""),
    ("src/tensor/", "error shape driver cpu"),
    ("src/interop/", "error shape driver tensor"),
    ("src/tape.rs", "error shape tensor"),
    // Motion operations take and return pictures and flow fields.
    ("src/ops/tvl1/", "error driver cpu tensor flow"),
    ("src/ops/motion_map/", "error driver cpu tensor flow"),
    ("src/ops/*/grad.rs", "error shape tensor tape"),
    ("src/ops/", "error shape driver cpu tensor"),
    ("src/flow/", "error files shape ops::motion_map"),
    ("src/video/", "error files rng flow ops::motion_map"),
    ("src/augment/", "error driver cpu tensor"),
    ("src/nn/", "error shape rng tensor tape ops"),
    ("src/dist/", "error files shape driver tensor ops::arith ops::reduce"),
    ("src/ssl/", "error files shape driver cpu tensor tape ops nn dist"),
    ("src/eval/", "error rng tensor tape ops::l2_norm ops::matmul nn video"),
    ("src/weights/", "error files shape tensor nn"),
    ("src/train/", "error files shape rng tensor ops::sgd ops::tvl1 nn ssl dist video flow augment weights"),
    ("src/lib.rs", ""),
];

/// A module of the crate by its path: `ops::relu`, empty for the crate itself.
fn module(file: &str) -> String {
    let stem = file.trim_start_matches("src/").trim_end_matches(".rs");
    let stem = stem.strip_suffix("/mod").unwrap_or(stem);
    if stem == "lib" { String::new() } else { stem.replace('/', "::") }
}

/// Reads a path, or a tree of them, at the start of `text`: appends its paths to `found` and returns what follows.
fn tree<'a>(text: &'a str, above: &str, found: &mut Vec<String>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = tree(rest, above, found).trim_start();
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None => return rest.strip_prefix('}').unwrap_or(rest),
            }
        }
    }
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let (name, mut rest) = text.split_at(text.find(|c| !is_name(c)).unwrap_or(text.len()));
    let path = format!("{above}{name}");
    if let Some(below) = rest.strip_prefix("::").filter(|below| below.starts_with(|c| is_name(c) || c == '{')) {
        return tree(below, &format!("{path}::"), found);
    }
    if let Some(renamed) = rest.strip_prefix(" as ") {
        rest = renamed.trim_start_matches(is_name);
    }
    found.extend((!name.is_empty()).then_some(path));
    rest
}

/// The modules and items of the crate that a file names, each with its line. A path outside of `use` is cut to its module.
fn named(file: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let lines: Vec<(usize, &str)> = file.code().collect();
    for (i, (number, line)) in lines.iter().enumerate() {
        for at in ["crate::", "super::", "self::"].iter().flat_map(|root| line.match_indices(root)).map(|(at, _)| at) {
            if line[..at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | ':')) {
                continue;
            }
            let more = lines[i + 1..].iter().map(|(_, l)| *l);
            let text: String = std::iter::once(&line[at..]).chain(more.take(40)).collect::<Vec<_>>().join("\n");
            let mut paths = Vec::new();
            tree(&text, "", &mut paths);
            for path in paths {
                let whole = line[..at].trim_end().ends_with("use");
                let path = if whole { &path } else { path.rsplit_once("::").map_or("", |(module, _)| module) };
                let mut names: Vec<String> = module(&file.path).split("::").map(str::to_owned).collect();
                for name in path.split("::") {
                    match name {
                        "crate" => names.clear(),
                        "super" => drop(names.pop()),
                        "self" => {}
                        _ => names.push(name.to_owned()),
                    }
                }
                found.push((*number, names.join("::")));
            }
        }
    }
    found
}

/// Whether `path` is `module` or inside of it.
fn inside(path: &str, module: &str) -> bool {
    path.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Files name only what their row of [`LAYERS`] lists, and every entry of a row is needed.
pub fn upwards(files: &[Source]) -> Vec<String> {
    let (mut found, mut needed) = (Vec::new(), BTreeSet::new());
    let fits = |path: &str, row: &str| match row.split_once('*') {
        Some((start, end)) => path.starts_with(start) && path.ends_with(end),
        None => path.starts_with(row),
    };
    for file in files.iter().filter(|f| f.under("src")) {
        let Some((row, allowed)) = LAYERS.iter().find(|(row, _)| fits(&file.path, row)) else {
            found.push(format!("{} belongs to no layer that tidy knows", file.path));
            continue;
        };
        let own = module(&file.path);
        let own = own.split("::").next().unwrap_or_default();
        for (number, path) in named(file).into_iter().filter(|(_, path)| !path.is_empty() && !inside(path, own)) {
            match allowed.split(' ').find(|entry| inside(&path, entry)) {
                Some(entry) => drop(needed.insert((*row, entry))),
                None => found.push(format!("{}:{number}: this layer may not use crate::{path}", file.path)),
            }
        }
    }
    let seen = |row: &str| files.iter().any(|f| fits(&f.path, row));
    for (row, allowed) in LAYERS.iter().filter(|(row, _)| seen(row)) {
        let idle = allowed.split_whitespace().filter(|entry| !needed.contains(&(*row, *entry)));
        found.extend(idle.map(|entry| format!("tidy lets {row} use crate::{entry}, and no file of it does")));
    }
    found
}

/// Files of the library that name each other in a circle. That a module names its own children is none: they are parts of it.
pub fn circles(files: &[Source]) -> Vec<String> {
    let modules: BTreeMap<String, &str> =
        files.iter().filter(|f| f.under("src")).map(|f| (module(&f.path), f.path.as_str())).collect();
    // The file of a path is that of the longest part of it which is one, and the last in order.
    let file_of = |path: &str| modules.iter().rev().find(|(module, _)| inside(path, module));
    let mut left: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for file in files.iter().filter(|f| f.under("src")) {
        let own = module(&file.path);
        let paths = named(file);
        let others = paths.iter().filter_map(|(_, path)| file_of(path)).filter(|(module, _)| !inside(module, &own));
        left.insert(&file.path, others.map(|(_, path)| *path).collect());
    }
    let mut found = Vec::new();
    loop {
        // Who names no file that is left is in no circle.
        while let Some(end) = left.keys().copied().find(|f| !left[f].iter().any(|to| left.contains_key(to))) {
            left.remove(end);
        }
        let Some(mut at) = left.keys().next().copied() else { return found };
        let mut path = Vec::new();
        while !path.contains(&at) {
            path.push(at);
            at = left[at].iter().find(|to| left.contains_key(*to)).copied().unwrap_or(at);
        }
        let circle: Vec<&str> = path.into_iter().skip_while(|f| *f != at).collect();
        found.push(format!("{} name each other in a circle", circle.join(", ")));
        circle.iter().for_each(|f| drop(left.remove(f)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), lines: text.lines().map(str::to_owned).collect() }
    }

    #[test]
    fn a_name_upwards_is_found() {
        let grad = "use crate::tape::Tape;\nuse crate::{error::{self, Error as E},\n    nn::Params};";
        let at = |path: &str, text: &str| upwards(&[file(path, text)]).iter().filter(|p| p.contains("may not")).count();
        assert_eq!(at("src/ops/conv3d/grad.rs", grad), 1);
        assert_eq!(at("src/ops/conv3d/cpu.rs", grad), 2);
        assert_eq!(at("src/nn/mod.rs", grad), 0);
        assert_eq!(at("src/ops/relu/cpu.rs", "fn f() { crate::nn::run(super::super::lanes::LANES) }"), 1);
        assert_eq!(at("src/shape.rs", "// crate::nn\n#[cfg(test)]\nuse crate::nn::Params;"), 0);
        assert!(upwards(&[file("src/elsewhere.rs", "")])[0].contains("no layer"));
        assert!(upwards(&[file("src/files.rs", "")])[0].contains("no file of it does"));
    }

    #[test]
    fn a_circle_is_found_and_a_parent_is_none() {
        let a = file("src/x/a.rs", "use super::b::{self, B};\nuse super::X;");
        let parent = file("src/x/mod.rs", "mod a;\nmod b;\nuse self::a::A;\npub use b::B;");
        let found = circles(&[a, parent, file("src/x/b.rs", "fn f() { crate::x::a::run() }"), file("src/y.rs", "")]);
        assert_eq!(found, ["src/x/a.rs, src/x/b.rs name each other in a circle"]);
        let chain =
            [file("src/a.rs", "use crate::b::{B, c};"), file("src/b.rs", "use super::c;"), file("src/c.rs", "")];
        assert_eq!(circles(&chain), [""; 0]);
    }
}
