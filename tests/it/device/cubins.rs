//! Modules from cubins, on a driver library whose device is the simulator (`tools/simcuda`): it takes a cubin, or refuses it, as its
//! header says, and executes the PTX that has the cubin's kernels. The cubins here have a header and the name of a kernel.

use super::host::{Ran, tests};
use std::fs;
use std::path::Path;
use tempfile::TempDir;
use tubelet::driver::{Gpu, Origin, architecture};
use tubelet::error::ErrorKind;
use tubelet::ops::arith;
use tubelet::tensor::{Device, Tensor};
use xtask::device::{architectures, families, line, ptx_path, read_manifest};

/// Releases of the toolkit.
#[derive(Clone, Copy)]
enum Toolkit {
    Cuda12,
    Cuda13,
}
use Toolkit::*;

/// A cubin with the first kernel of a module, for an architecture such as `sm_90a`, made by a release of the toolkit.
fn cubin(module: &str, arch: &str, toolkit: Toolkit) -> Vec<u8> {
    let number = arch["sm_".len()..].trim_end_matches('a').parse::<u32>().unwrap();
    // ptxas 12.4 states its release, the architecture, and whether the code is for that alone; 13.0 the architecture.
    let (system, abi, version, flags) = match toolkit {
        Cuda12 => (0x33, 7, 124, number | if arch.ends_with('a') { 0x800 } else { 0 }),
        Cuda13 => (0x41, 8, 1, number << 8),
    };
    let kernel = &read_manifest(crate::root(), module).unwrap().entries[0];
    let names = format!("\0.text.{kernel}\0");
    let mut bytes = vec![0; 64];
    bytes[..9].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, system, abi]);
    bytes[18..20].copy_from_slice(&190_u16.to_le_bytes());
    bytes[20..24].copy_from_slice(&u32::to_le_bytes(version));
    // The table of sections has none, and lies at the end.
    bytes[40..48].copy_from_slice(&(64 + names.len() as u64).to_le_bytes());
    bytes[48..52].copy_from_slice(&u32::to_le_bytes(flags));
    bytes.extend(names.as_bytes());
    bytes
}

/// Writes cubins of modules for `arch` into a folder, with their list. What they contain may be for another architecture.
fn write(folder: &Path, modules: &[&str], arch: &str, content: impl Fn(&str) -> Vec<u8>) {
    let mut list = "# module, bytes, hash of the file, hash of its PTX\n".to_owned();
    for module in modules {
        let (cubin, ptx) = (content(module), fs::read(crate::root().join(ptx_path(module))).unwrap());
        fs::write(folder.join(format!("{module}.{arch}.cubin")), &cubin).unwrap();
        list += &line(module, &cubin, &ptx);
    }
    fs::write(folder.join(format!("{arch}.txt")), list).unwrap();
}

/// Runs the test `inside::NAME`, which is ignored otherwise.
fn inside(name: &str, settings: &[(&str, &str)]) -> Ran {
    let ptx = crate::root().join("ptx");
    let settings = [settings, &[("SIMCUDA_PTX", ptx.to_str().unwrap())]].concat();
    tests(&["--exact", &format!("device::cubins::inside::{name}"), "--ignored"], &settings)
}

/// How often the driver was asked for a module, and how often it loaded one.
fn loads(ran: &Ran) -> [usize; 2] {
    [ran.count("cuModuleLoadDataEx"), ran.count("cuModuleLoadDataEx -> 0")]
}

#[test]
fn a_module_comes_from_its_cubin_and_needs_no_compiler() {
    let ran = inside("a_cubin", &[("SIMCUDA_PTX_COMPILER", "0")]);
    assert_eq!(loads(&ran), [2, 1], "that of arith, and relu, which the folder does not have: {}", ran.log);
}

#[test]
fn the_architecture_with_an_a_is_for_one_device() {
    inside("on_a_hopper", &[("SIMCUDA_CAPABILITY", "9.0")]);
}

#[test]
fn a_cubin_that_the_driver_refuses_is_compiled_from_ptx() {
    let ran = inside("refused_cubins", &[]);
    assert_eq!(loads(&ran), [4, 2], "{}", ran.log);
    let ran = inside("taken_by_a_newer_driver", &[("SIMCUDA_VERSION", "13000")]);
    assert_eq!(loads(&ran), [1, 1], "{}", ran.log);
    inside("refused_without_a_compiler", &[("SIMCUDA_PTX_COMPILER", "0")]);
}

#[test]
fn a_cubin_of_other_ptx_is_refused_before_the_driver_sees_it() {
    let ran = inside("stale_cubins", &[]);
    assert_eq!(loads(&ran), [0, 0], "{}", ran.log);
}

#[test]
fn all_streams_of_a_device_have_one_folder() {
    let ran = inside("streams", &[]);
    assert_eq!(loads(&ran), [2, 2], "{}", ran.log);
}

/// As `run.sh` of a bundle runs tests.
#[test]
fn tests_of_the_device_take_cubins_of_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let all = families(crate::root()).unwrap();
    let portable: Vec<&str> = all.iter().map(String::as_str).filter(|name| !name.ends_with("_sm90")).collect();
    write(folder.path(), &portable, "sm_80", |module| cubin(module, "sm_80", Cuda12));
    let ptx = crate::root().join("ptx");
    let settings = [
        ("TUBELET_TEST_DEVICE", "cuda:0"),
        ("TUBELET_TEST_CUBINS", folder.path().to_str().unwrap()),
        ("SIMCUDA_PTX", ptx.to_str().unwrap()),
        ("SIMCUDA_PTX_COMPILER", "0"),
    ];
    let ran = tests(&["device::matmul::"], &settings);
    let [asked, loaded] = loads(&ran);
    assert!(asked == loaded && loaded > 0 && ran.count("cuLaunchKernel -> 0") > 0, "{}", ran.log);
}

#[test]
fn every_architecture_of_a_device_is_one_that_cubins_are_made_for() {
    let of_devices = (8..13).flat_map(|major| (0..10).filter_map(move |minor| architecture((major, minor))));
    let mut of_devices: Vec<&str> = of_devices.collect();
    of_devices.dedup();
    assert_eq!(of_devices, architectures());
}

mod inside {
    use super::*;

    /// Device 0, with a folder that has cubins of `modules` for `arch`.
    fn with(modules: &[&str], arch: &str, content: impl Fn(&str) -> Vec<u8>) -> (Gpu, TempDir) {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), modules, arch, content);
        // SAFETY: the driver is tools/simcuda, which reads the header and the name of a kernel, and the files have both.
        (unsafe { Gpu::cuda(0).unwrap().with_cubins(folder.path()) }.unwrap(), folder)
    }

    /// Three numbers doubled on a GPU.
    fn doubled(gpu: &Gpu) -> tubelet::error::Result<Vec<f32>> {
        let x = Tensor::full([3], 2.0).to(&Device::Cuda(gpu.clone()))?;
        Ok(arith::scale_forward(&x, 2.0)?.load()?.into_owned())
    }

    /// What the module of [`doubled`] was loaded from.
    fn origin(gpu: &Gpu) -> Origin {
        gpu.modules().into_iter().find(|module| module.name == "arith").unwrap().origin
    }

    #[test]
    #[ignore = "run by a_module_comes_from_its_cubin_and_needs_no_compiler"]
    fn a_cubin() {
        let (gpu, folder) = with(&["arith"], "sm_80", |module| cubin(module, "sm_80", Cuda12));
        assert_eq!(gpu.modules(), []);
        assert_eq!(doubled(&gpu).unwrap(), [4.0; 3]);
        assert_eq!(origin(&gpu), Origin::Cubin(folder.path().join("arith.sm_80.cubin")));
        let x = Tensor::full([3], 2.0).to(&Device::Cuda(gpu.clone())).unwrap();
        let said = tubelet::ops::relu::forward(&x).unwrap_err().to_string();
        assert!(said.contains("use cubins"), "{said}");
    }

    #[test]
    #[ignore = "run by the_architecture_with_an_a_is_for_one_device"]
    fn on_a_hopper() {
        let (gpu, _folder) = with(&["arith"], "sm_90a", |module| cubin(module, "sm_90a", Cuda12));
        assert_eq!(doubled(&gpu).unwrap(), [4.0; 3]);
        assert!(matches!(origin(&gpu), Origin::Cubin(_)));
    }

    #[test]
    #[ignore = "run by a_cubin_that_the_driver_refuses_is_compiled_from_ptx"]
    fn refused_cubins() {
        let refused = |arch: &str, toolkit| {
            let (gpu, _folder) = with(&["arith"], "sm_80", |module| cubin(module, arch, toolkit));
            assert_eq!(doubled(&gpu).unwrap(), [4.0; 3], "the PTX computes");
            match origin(&gpu) {
                Origin::Refused { file, why } if file.ends_with("arith.sm_80.cubin") => why,
                other => panic!("{other:?}"),
            }
        };
        assert!(refused("sm_86", Cuda12).contains("no kernel image is available"), "of a later minor version");
        assert!(refused("sm_80", Cuda13).contains("device kernel image is invalid"), "of a later release");
    }

    #[test]
    #[ignore = "run by a_cubin_that_the_driver_refuses_is_compiled_from_ptx"]
    fn taken_by_a_newer_driver() {
        let (gpu, _folder) = with(&["arith"], "sm_80", |module| cubin(module, "sm_80", Cuda13));
        assert_eq!(doubled(&gpu).unwrap(), [4.0; 3]);
        assert!(matches!(origin(&gpu), Origin::Cubin(_)));
    }

    #[test]
    #[ignore = "run by a_cubin_that_the_driver_refuses_is_compiled_from_ptx"]
    fn refused_without_a_compiler() {
        let (gpu, _folder) = with(&["arith"], "sm_80", |module| cubin(module, "sm_120", Cuda12));
        let error = doubled(&gpu).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Driver { .. }), "{error}");
        let said = error.to_string();
        assert!(said.contains("is not on this machine") && said.contains("arith.sm_80.cubin"), "{said}");
    }

    #[test]
    #[ignore = "run by a_cubin_of_other_ptx_is_refused_before_the_driver_sees_it"]
    fn stale_cubins() {
        let (gpu, folder) = with(&["arith"], "sm_80", |module| cubin(module, "sm_80", Cuda12));
        fs::write(folder.path().join("arith.sm_80.cubin"), cubin("relu", "sm_80", Cuda12)).unwrap();
        let refused = |gpu: &Gpu| match doubled(gpu).unwrap_err().kind() {
            ErrorKind::Format { path, what, .. } => (path.clone(), what.clone()),
            other => panic!("{other:?}"),
        };
        let (file, what) = refused(&gpu);
        assert!(file.ends_with("arith.sm_80.cubin") && what.contains("not the file of its list"), "{what}");
        // The list is of before the PTX changed.
        let code = cubin("arith", "sm_80", Cuda12);
        fs::write(folder.path().join("arith.sm_80.cubin"), &code).unwrap();
        fs::write(folder.path().join("sm_80.txt"), line("arith", &code, b"other PTX")).unwrap();
        // SAFETY: the cubins are not given to the driver.
        let gpu = unsafe { Gpu::cuda(0).unwrap().with_cubins(folder.path()) }.unwrap();
        let (file, what) = refused(&gpu);
        assert!(file.ends_with("arith.sm_80.cubin") && what.contains("other PTX than this program has"), "{what}");
    }

    #[test]
    #[ignore = "run by all_streams_of_a_device_have_one_folder"]
    fn streams() {
        let (gpu, folder) = with(&["arith"], "sm_80", |module| cubin(module, "sm_80", Cuda12));
        let fork = gpu.fork().unwrap();
        assert_eq!((doubled(&fork).unwrap(), doubled(&gpu).unwrap()), (vec![4.0; 3], vec![4.0; 3]));
        assert!(matches!(origin(&gpu), Origin::Cubin(_)));
        assert_eq!(fork.modules(), gpu.modules());
        // SAFETY: as above.
        let again = |gpu: Gpu| unsafe { gpu.with_cubins(folder.path()) }.unwrap_err().to_string();
        assert!(again(fork).contains("before its first module is loaded"));
        let other = Gpu::cuda(0).unwrap();
        assert_eq!(doubled(&other).unwrap(), [4.0; 3]);
        assert_eq!(origin(&other), Origin::Ptx);
        assert!(again(other).contains("before its first module is loaded"));
    }
}
