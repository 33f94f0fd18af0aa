//! The command line of `cargo xtask protocol`, and the methods it knows.

use super::scores::SEEDS;
use super::set::short;
use anyhow::{Context, Result, bail, ensure};
use std::path::PathBuf;

/// A method: its name, the program that trains it, and its options; the random network has no program.
#[derive(Clone, Debug, PartialEq)]
pub struct Method {
    /// Its name on the command line.
    pub name: &'static str,
    /// What trains it.
    pub program: Option<&'static str>,
    /// Options of that program.
    pub options: Vec<String>,
}

/// Penalties of which the probe chooses one.
pub const PENALTIES: &str = "0.003,0.01,0.03,0.1,0.3,1,3";

/// All methods. The supervised reference is trained for 200 passes; on the training actors 60 are far from enough
/// (`docs/experiments.md`).
const METHODS: [(&str, Option<&str>, &str); 5] = [
    ("maclr", Some("pretrain_maclr"), "--preset long --no-flip"),
    ("mcl", Some("pretrain_mcl"), "--preset small --no-flip"),
    ("rgb", Some("pretrain_maclr"), "--preset small --no-flip --w-mm 0 --w-vm 0 --w-mv 0"),
    ("random", None, ""),
    ("supervised", Some("finetune"), "--no-flip --epochs 200"),
];

impl Method {
    /// What it is known by in the record: everything that its figures depend on but data, place and seed.
    #[must_use]
    pub fn recipe(&self) -> String {
        short(&format!("{} {} {}", self.name, self.identity(), if self.has_probe() { PENALTIES } else { "" }))
    }

    /// Its options but `--threads`, which changes no bit of a result.
    #[must_use]
    pub fn identity(&self) -> String {
        let (mut kept, mut options) = (Vec::new(), self.options.iter());
        while let Some(option) = options.next() {
            match option.as_str() {
                "--threads" => _ = options.next(),
                text if text.starts_with("--threads=") => {}
                text => kept.push(text),
            }
        }
        kept.join(" ")
    }

    /// Whether a linear probe is trained on its features; the supervised network classifies by itself.
    #[must_use]
    pub fn has_probe(&self) -> bool {
        self.program != Some("finetune")
    }

    fn known(name: &str) -> Result<Method> {
        let Some((name, program, options)) = METHODS.into_iter().find(|(known, ..)| *known == name) else {
            bail!("--methods: there is no method {name}; there are maclr, mcl, rgb, random and supervised");
        };
        Ok(Method { name, program, options: words(options) })
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Command-line options.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The data set.
    pub data: PathBuf,
    /// Folder of caches, runs and results; what is there is not done again.
    pub out: PathBuf,
    /// At most so many folds; all by default.
    pub folds: Option<usize>,
    /// Seeds of the runs that are scored on the test set, from 0.
    pub seeds: u64,
    /// What is compared.
    pub methods: Vec<Method>,
    /// Whether the test set is left alone.
    pub folds_only: bool,
    /// Whether the networks of the folds are pre-trained once, on the videos of all training actors.
    pub once: bool,
    /// Seeds of the folds, from 0.
    pub fold_seeds: u64,
    /// Whether a recipe may be scored on the test set again.
    pub again: bool,
    /// Programs that are built already.
    pub programs: Option<PathBuf>,
    /// The record of what was scored.
    pub record: Option<PathBuf>,
}

impl Options {
    /// Parses the arguments after `protocol`.
    ///
    /// # Errors
    /// When a folder is missing, an option is unknown or its value invalid.
    pub fn parse(args: &[String]) -> Result<Self> {
        let [data, out, rest @ ..] = args else { bail!("protocol needs DATA and OUT") };
        ensure!(![data, out].iter().any(|path| path.starts_with('-')), "protocol needs DATA and OUT first");
        let methods = METHODS.into_iter().map(|(name, ..)| Method::known(name)).collect::<Result<_>>()?;
        let (data, out) = (data.into(), out.into());
        let (programs, record, folds) = (None, None, None);
        let mut o = Options {
            data,
            out,
            folds,
            seeds: 5,
            methods,
            folds_only: false,
            once: false,
            fold_seeds: 1,
            again: false,
            programs,
            record,
        };
        let (mut rest, mut more) = (rest.iter(), Vec::new());
        while let Some(name) = rest.next() {
            match name.as_str() {
                "--folds-only" => o.folds_only = true,
                "--once" => o.once = true,
                "--again" => o.again = true,
                "--folds" | "--seeds" | "--fold-seeds" | "--methods" | "--with" | "--programs" | "--record" => {
                    let value = rest.next().with_context(|| format!("{name} needs a value"))?;
                    let number = |least: u64, most: u64| match value.parse::<u64>() {
                        Ok(n) if (least..=most).contains(&n) => Ok(n),
                        _ => bail!("{name} is {value}; it must be a number from {least} to {most}"),
                    };
                    match name.as_str() {
                        "--folds" => o.folds = Some(usize::try_from(number(0, 1000)?)?),
                        "--seeds" => o.seeds = number(1, SEEDS)?,
                        "--fold-seeds" => o.fold_seeds = number(1, SEEDS)?,
                        "--methods" => o.methods = value.split(',').map(Method::known).collect::<Result<_>>()?,
                        "--with" => more.push(value),
                        "--programs" => o.programs = Some(value.into()),
                        _ => o.record = Some(value.into()),
                    }
                }
                _ => bail!("there is no option {name}"),
            }
        }
        for (i, method) in o.methods.iter().enumerate() {
            ensure!(o.methods[..i].iter().all(|m| m.name != method.name), "--methods names {} twice", method.name);
        }
        for value in more {
            let form = || format!("--with is {value}; it must be METHOD=OPTIONS");
            let (name, options) = value.split_once('=').with_context(form)?;
            let method = o
                .methods
                .iter_mut()
                .find(|m| m.name == name)
                .with_context(|| format!("--with: {name} is none of the methods that are compared"))?;
            ensure!(method.program.is_some(), "--with: {name} is not trained and has no options");
            method.options.extend(words(options));
        }
        ensure!(!o.folds_only || o.folds != Some(0), "--folds-only with --folds 0: there is nothing to do");
        ensure!(o.folds_only || !o.once, "--once is for screening recipes, and needs --folds-only");
        Ok(o)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_wrong_ones_refused() {
        let all = |text: &str| Options::parse(&text.split('|').map(str::to_owned).collect::<Vec<_>>());
        let plain = all("data|out").unwrap();
        assert_eq!((plain.methods.len(), plain.seeds, plain.folds, plain.folds_only), (5, 5, None, false));
        let some =
            all("data|out|--methods|maclr,random|--folds|2|--seeds|3|--with|maclr=--epochs 9|--folds-only").unwrap();
        assert_eq!(some.methods.iter().map(|m| m.name).collect::<Vec<_>>(), ["maclr", "random"]);
        assert!(some.methods[0].options.ends_with(&["--epochs".into(), "9".into()]) && some.folds_only);
        assert_ne!(some.methods[0].recipe(), plain.methods[0].recipe(), "other options are another recipe");
        assert_eq!(some.methods[1].recipe(), plain.methods[3].recipe());
        // The number of threads is given to the program, and is no part of the recipe.
        for threads in ["--threads 1", "--threads=1"] {
            let of = &all(&format!("data|out|--with|maclr={threads} --lr 1")).unwrap().methods[0];
            let same = &all("data|out|--with|maclr=--lr 1").unwrap().methods[0];
            assert_eq!((of.recipe(), of.identity()), (same.recipe(), same.options.join(" ")));
            assert!(of.options.iter().any(|option| option.starts_with("--threads")));
        }
        for (text, word) in [
            ("data", "DATA and OUT"),
            ("data|--seeds|3", "DATA and OUT"),
            ("data|out|--seeds|0", "--seeds"),
            ("data|out|--seeds|11", "1 to 10"),
            ("data|out|--methods|nope", "nope"),
            ("data|out|--methods|rgb,rgb", "twice"),
            ("data|out|--methods|rgb|--with|maclr=--lr 1", "--with"),
            ("data|out|--with|random=--lr 1", "not trained"),
            ("data|out|--what", "--what"),
            ("data|out|--once", "--folds-only"),
            ("data|out|--fold-seeds|0", "--fold-seeds"),
            ("data|out|--record", "needs a value"),
        ] {
            let e = all(text).unwrap_err().to_string();
            assert!(e.contains(word), "{text}: {e}");
        }
    }
}
