//! Machines where no GPU can be used: each is one sentence, and the CPU serves. The driver's library is played by stubs
//! made here, so the test needs no driver and, where there is one, does not find it.

use std::path::Path;
use std::process::Command;
use tubelet::error::ErrorKind;
use tubelet::ops::arith;
use tubelet::tensor::{Device, Tensor};

/// Set for the process that looks for a GPU.
const CHILD: &str = "TUBELET_TEST_LOOK_FOR_GPU";

/// What was found, held against itself: a GPU that computes, or the CPU with one sentence. A process with [`CHILD`] finds stubs
/// alone, and says that sentence to [`said`].
#[test]
fn looks_for_a_gpu() {
    let (device, reason) = Device::auto();
    match Device::cuda(0) {
        Ok(gpu) => {
            assert!(std::env::var_os(CHILD).is_none(), "no stub has a device");
            assert!(reason.is_none() && matches!(device, Device::Cuda(_)), "{device:?}: {reason:?}");
            let x = Tensor::full([3], 2.0).to(&gpu).unwrap();
            assert_eq!(arith::scale_forward(&x, 0.5).unwrap().load().unwrap()[..], [1.0; 3]);
        }
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::NoDriver { .. }), "{error}");
            assert_eq!(device, Device::Cpu);
            assert_eq!(reason.unwrap().to_string(), error.to_string());
            println!("SAID {error}");
        }
    }
}

/// What a process says that looks for its driver in `library` only.
fn said(library: &Path) -> String {
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "device::no_gpu::looks_for_a_gpu", "--nocapture"])
        .env(CHILD, "1")
        .env("LD_LIBRARY_PATH", library)
        .output()
        .unwrap();
    let (text, errors) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && !errors.contains("panicked"), "{text}{errors}");
    let line = text.lines().find_map(|l| l.split_once("SAID ")).expect("the child says what it found");
    line.1.to_owned()
}

/// Every function of the driver that the library calls, so that a stub can have them all.
fn needed() -> Vec<&'static str> {
    let probe = include_str!("../../../src/driver/cuda/probe.rs");
    let quoted = |line: &'static str| line.trim().strip_prefix("\"cu")?.strip_suffix("\",");
    probe.lines().filter_map(|line| quoted(line).map(|_| line.trim().trim_matches(['"', ',']))).collect()
}

/// A library with `functions`, all of which return 999, and these that return something else.
fn stub(dir: &Path, functions: &[&str], odd: &[(&str, i32)]) {
    let mut source = String::new();
    for name in functions {
        source += &format!("#[unsafe(no_mangle)] pub extern \"C\" fn {name}() -> i32 {{ 999 }}\n");
    }
    for (name, code) in odd {
        source += &format!("#[unsafe(no_mangle)] pub extern \"C\" fn {name}() -> i32 {{ {code} }}\n");
    }
    let path = dir.join("stub.rs");
    std::fs::write(&path, source).unwrap();
    let built = Command::new(std::env::var("RUSTC").unwrap_or("rustc".into()))
        .args(["--edition=2024", "--crate-type=cdylib", "-A", "warnings", "-o"])
        .arg(dir.join("libcuda.so"))
        .arg(&path)
        .output()
        .expect("rustc");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
}

#[test]
#[cfg(target_os = "linux")]
fn no_driver_is_one_sentence_and_the_cpu_serves() {
    let functions = needed();
    assert!(functions.len() > 30 && functions.contains(&"cuLaunchKernel"), "{functions:?}");
    let whole: Vec<&str> = functions.iter().copied().chain(["cuEventElapsedTime", "cuDeviceGetCount"]).collect();
    let partial: Vec<&str> = whole.iter().copied().filter(|f| *f != "cuLaunchKernel").collect();
    /// Functions of the stub, those that return something odd, and what is said then.
    type Row<'a> = (&'a [&'a str], &'a [(&'a str, i32)], &'a str);
    let rows: [Row; 4] = [
        (&partial, &[("cuInit", 0)], "lacks cuLaunchKernel"),
        (&whole, &[("cuInit", 34)], "cuInit returned 34"),
        (&whole, &[("cuInit", 100)], "finds no device"),
        (&whole[..whole.len() - 1], &[("cuInit", 0), ("cuDeviceGetCount", 0)], "finds no device"),
    ];
    for (functions, odd, expected) in rows {
        let dir = tempfile::tempdir().unwrap();
        stub(dir.path(), functions, odd);
        let sentence = said(dir.path());
        assert!(sentence.contains(expected), "{sentence}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn no_library_at_all_is_one_sentence() {
    // Where a driver is installed, files of its names that are no libraries hide it.
    let dir = tempfile::tempdir().unwrap();
    for name in ["libcuda.so", "libcuda.so.1"] {
        std::fs::write(dir.path().join(name), "no library").unwrap();
    }
    let sentence = said(dir.path());
    assert!(sentence.contains("there is no libcuda.so on this machine"), "{sentence}");
}
