//! What `cargo xtask versus` understands.

use xtask::versus::Options;

fn parsed(line: &str) -> anyhow::Result<Options> {
    Options::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
}

#[test]
fn options_choose_cases() {
    let options = parsed("--only conv3d/fprop --only /bf16/ --rounds 7 --json out.json --processor-time").unwrap();
    assert_eq!((options.rounds, options.processor_time), (7, true));
    assert_eq!(options.json.as_deref(), Some("out.json".as_ref()));
    assert!(options.keeps("conv3d/fprop/net/layer/bf16/cpu", false));
    assert!(!options.keeps("conv3d/fprop/net/layer/bf16x3/cpu", false)); // one of the texts
    assert!(!options.keeps("conv3d/fprop/net/layer/bf16/cpu", true)); // doubles another
    assert!(parsed("--all").unwrap().keeps("conv3d/fprop/net/layer/bf16x6/cpu", true));
    assert_eq!(parsed("").unwrap(), Options::default());
}

#[test]
fn options_that_cannot_be_are_refused_by_name() {
    for line in ["--rounds 0", "--rounds", "--threads two", "--seconds NaN", "--seconds -1", "--onyl conv3d"] {
        let error = parsed(line).unwrap_err().to_string();
        assert!(error.contains(line.split(' ').next().unwrap()), "{line}: {error}");
    }
}
