//! What `cargo xtask versus` understands.

use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use xtask::versus::{Options, described, machine};

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
    let options = parsed("--drift 5 --tries 2 --scirs2").unwrap();
    assert_eq!((options.drift, options.tries, options.scirs2), (5.0, 2, true));
}

#[test]
fn options_that_cannot_be_are_refused_by_name() {
    for line in [
        "--rounds 0",
        "--rounds",
        "--threads two",
        "--seconds NaN",
        "--seconds -1",
        "--onyl conv3d",
        "--drift -1",
        "--tries 0",
        "--before a --scirs2",
        "--scirs2 --processor-time",
    ] {
        let error = parsed(line).unwrap_err().to_string();
        assert!(error.contains(line.split(' ').next().unwrap()), "{line}: {error}");
    }
}

/// A file system with these files.
fn files(of: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in of {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    root
}

#[test]
fn a_record_names_the_processor_its_caches_and_cores() {
    let cpu = "sys/devices/system/cpu";
    let info = "processor : 0\ncpu family : 6\nmodel : 143\nmodel name : A processor\nstepping : 8\n\nprocessor : 1\n";
    let root = files(&[
        ("proc/cpuinfo", info),
        ("proc/self/status", "Name: it\nCpus_allowed_list:\t0-1\n"),
        (&format!("{cpu}/cpu0/topology/thread_siblings_list"), "0-1\n"),
        (&format!("{cpu}/cpu1/topology/thread_siblings_list"), "0-1\n"),
        (&format!("{cpu}/cpu0/cache/index0/level"), "1\n"),
        (&format!("{cpu}/cpu0/cache/index0/type"), "Data\n"),
        (&format!("{cpu}/cpu0/cache/index0/size"), "48K\n"),
        (&format!("{cpu}/cpu0/cache/index0/shared_cpu_list"), "0-1\n"),
        (&format!("{cpu}/cpu0/cache/index3/level"), "3\n"),
        (&format!("{cpu}/cpu0/cache/index3/type"), "Unified\n"),
        (&format!("{cpu}/cpu0/cache/index3/size"), "300M\n"),
    ]);
    let found = machine(root.path());
    assert_eq!(found["processor"], "A processor");
    assert_eq!(found["family_model_stepping"], json!(["6", "143", "8"]));
    assert_eq!((&found["threads"], &found["cores"], &found["allowed"]), (&json!(2), &json!(1), &json!("0-1")));
    assert_eq!(found["siblings"], json!(["0-1"]));
    assert_eq!(found["caches"]["L1d"], json!({"size": "48K", "shared_by": "0-1"}));
    assert_eq!(found["cpu_quota"], Value::Null);
    assert_eq!(described(&found), "A processor, 2 threads on 1 cores, L1d 48K L3 300M");
    // Where nothing is known, nothing is said that could be wrong.
    let empty = machine(Path::new("/nowhere"));
    assert_eq!((&empty["processor"], &empty["cores"], &empty["cpu_quota"]), (&Value::Null, &Value::Null, &Value::Null));
}

#[test]
fn a_quota_of_a_container_is_found_in_both_versions_of_control_groups() {
    let quota = |of: &[(&str, &str)]| machine(files(of).path())["cpu_quota"].as_f64();
    let two = [("proc/self/cgroup", "0::/jobs/one\n"), ("sys/fs/cgroup/jobs/one/cpu.max", "150000 100000\n")];
    assert_eq!(quota(&two), Some(1.5));
    // The group above allows less; a path of the host leaves the root alone.
    let above = [two[0], two[1], ("sys/fs/cgroup/jobs/cpu.max", "100000 100000\n")];
    assert_eq!(quota(&above), Some(1.0));
    assert_eq!(
        quota(&[("proc/self/cgroup", "0::/host/path\n"), ("sys/fs/cgroup/cpu.max", "50000 100000\n")]),
        Some(0.5)
    );
    assert_eq!(quota(&[two[0], ("sys/fs/cgroup/jobs/one/cpu.max", "max 100000\n")]), None);
    let one = |quota| {
        [
            ("proc/self/cgroup", "5:memory:/job\n4:cpu,cpuacct:/job\n"),
            ("sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", quota),
            ("sys/fs/cgroup/cpu/job/cpu.cfs_period_us", "100000\n"),
        ]
    };
    assert_eq!(quota(&one("200000\n")), Some(2.0));
    assert_eq!(quota(&one("-1\n")), None);
}
