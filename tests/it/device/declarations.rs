//! What the library believes of its kernels, held against the PTX it ships.

use std::collections::{BTreeMap, BTreeSet};
use tubelet::augment;
use tubelet::driver::Parameter;
use tubelet::ops;

/// The parameters of an `.entry` by its text: `.param .u64 name`, `.param .align 4 .b8 name[60]`.
fn parameters(list: &str) -> Vec<Parameter> {
    let parse = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [".param", ".u64", _] => Parameter::Pointer,
            [".param", ".u32", _] => Parameter::U32,
            [".param", ".f32", _] => Parameter::F32,
            [".param", ".align", align, ".b8", name] => {
                let bytes = name.split_once('[').and_then(|(_, n)| n.strip_suffix(']')).expect("a length");
                Parameter::Struct { bytes: bytes.parse().unwrap(), align: align.parse().unwrap() }
            }
            _ => panic!("{line}"),
        }
    };
    list.split(',').map(str::trim).filter(|l| !l.is_empty()).map(parse).collect()
}

/// Every `.entry` of a module with its parameters.
fn entries(ptx: &str) -> BTreeMap<&str, Vec<Parameter>> {
    ptx.split(".visible .entry ")
        .skip(1)
        .map(|entry| {
            let (name, rest) = entry.split_once('(').expect("a list of parameters");
            let (list, _) = rest.split_once(')').expect("its end");
            (name.trim(), parameters(list))
        })
        .collect()
}

#[test]
fn declared_kernels_are_those_of_the_ptx() {
    let declared = [ops::kernels(), augment::kernels()].concat();
    let mut modules: BTreeMap<&str, (&str, BTreeSet<&str>)> = BTreeMap::new();
    for kernel in &declared {
        let found = entries(kernel.ptx);
        let (_, names) = modules.entry(kernel.module).or_insert((kernel.ptx, BTreeSet::new()));
        for entry in kernel.entries {
            let params = found.get(entry).unwrap_or_else(|| panic!("{}.ptx has no entry {entry}", kernel.module));
            assert_eq!(params, kernel.parameters, "{entry}");
            names.insert(entry);
        }
    }
    for (module, (ptx, names)) in modules {
        let shipped: BTreeSet<&str> = entries(ptx).into_keys().collect();
        assert_eq!(shipped, names, "entries of {module}.ptx that nobody launches, or the other way round");
    }
}

/// Shared memory of a block is 163 KiB on compute capability 8.0, and 99 KiB on 8.6, 8.9 and 12.0. What a launch asks for is
/// in the manifests, from the sources; the CUDA driver grants it where it is above 48 KiB, without the static memory.
#[test]
fn shared_memory_is_granted_on_every_device() {
    for capability in [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)] {
        let machine = ptxsim::Machine::new(ptxsim::Config { capability, ..Default::default() });
        for name in xtask::device::families(crate::root()).unwrap() {
            if name.ends_with("_sm90") && capability != (9, 0) {
                continue;
            }
            let text = std::fs::read_to_string(crate::root().join(xtask::device::ptx_path(&name))).unwrap();
            let module = machine.load(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
            for (entry, bytes) in xtask::device::read_manifest(crate::root(), &name).unwrap().shared {
                machine.grant_shared(&module, &entry, bytes).unwrap();
                let all = bytes + module.entry(&entry).unwrap().static_shared();
                assert!(bytes > 48 << 10 || all <= 48 << 10, "{entry}: {all} bytes, which nobody grants");
            }
        }
    }
}

/// Modules that tests and benches load by themselves.
const NOT_OF_THE_LIBRARY: [&str; 3] = ["classes", "peaks", "peaks_sm90"];

/// Every committed module is declared by somebody.
#[test]
fn every_module_is_used() {
    let ours = [ops::kernels(), augment::kernels()].concat();
    let declared: BTreeSet<&str> = ours.iter().map(|k| k.module).chain(NOT_OF_THE_LIBRARY).collect();
    let folder = crate::root().join("ptx");
    let shipped: BTreeSet<String> = std::fs::read_dir(folder)
        .unwrap()
        .filter_map(|f| Some(f.unwrap().file_name().to_str()?.strip_suffix(".ptx")?.to_owned()))
        .filter_map(|file| Some(xtask::device::family_of(&format!("{file}.ptx"))?.to_owned()))
        .collect();
    assert_eq!(shipped, declared.iter().map(|m| (*m).to_owned()).collect());
}

/// One pattern for all kernels, that of CONTRIBUTING.md: operation, step, form, types. Where the operation runs forward and
/// backward, the step says which in whole words, or by a convolution's operator.
#[test]
fn kernels_are_named_by_operation_step_form_and_type() {
    let families = ["augment", "cast", "queue", "rows"];
    for kernel in [ops::kernels(), augment::kernels()].concat() {
        let operation = |name: &str| crate::root().join("src/ops").join(name).is_dir() || families.contains(&name);
        for entry in kernel.entries {
            let words: Vec<&str> = entry.split('_').collect();
            let of = (1..words.len()).map(|n| words[..n].join("_")).find(|name| operation(name));
            let of = of.unwrap_or_else(|| panic!("{entry} begins with no operation"));
            assert!(kernel.module.starts_with(&of), "{entry} is of {of}, in {}.ptx", kernel.module);
            let types = ["f32", "bf16", "u8", "u32"];
            assert!(types.contains(words.last().unwrap()), "{entry} ends with no type");
            let short = ["fwd", "bwd", "back", "grad"].iter().find(|short| words.contains(short));
            assert_eq!(short, None, "{entry}");
        }
    }
}
