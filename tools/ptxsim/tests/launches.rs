//! What a driver refuses before a block runs, and launches of which only a part is executed.

mod support;

use ptxsim::{Access::*, *};
use support::*;

/// An entry with these directives and this body; `s` is static shared memory, `d` dynamic.
fn entry(directives: &str, body: &str) -> String {
    format!(
        ".version 8.4\n.target sm_80\n.address_size 64\n.extern .shared .align 16 .b8 d[];
        .visible .entry k() {directives} {{ .reg .b32 %r<4>; {body} ret; }}"
    )
}

fn launch(machine: &Machine, module: &Module, grid: [u32; 3], block: [u32; 3], shared: u32) -> Result<(), Fault> {
    machine.launch(module, "k", &Launch { grid, block, shared, params: &[], extra: &[] }).map(|_| ())
}

#[test]
fn grids_and_blocks() {
    let machine = Machine::new(Config::default());
    let plain = machine.load(&entry("", "")).unwrap();
    let most = machine.load(&entry(".maxntid 96, 1, 1", "")).unwrap();
    let exactly = machine.load(&entry(".reqntid 32, 2, 1", "")).unwrap();
    let refused = |module: &Module, grid, block, says: &str| {
        let f = launch(&machine, module, grid, block, 0).unwrap_err();
        assert!(matches!(f, Fault::Geometry(_)) && f.to_string().contains(says), "{f}");
    };
    for grid in [[0, 1, 1], [1, 65536, 1], [1, 1, 65536], [1 << 31, 1, 1]] {
        refused(&plain, grid, [1; 3], "65535");
    }
    for block in [[0, 1, 1], [1025, 1, 1], [64, 32, 1], [1 << 16, 1 << 16, 1]] {
        refused(&plain, [1; 3], block, "at most 1024");
    }
    refused(&plain, [1; 3], [1, 1, 65], "at most 64");
    refused(&most, [1; 3], [128, 1, 1], "at most 96");
    refused(&exactly, [1; 3], [64, 1, 1], "[32, 2, 1]");
    launch(&machine, &plain, [3, 2, 2], [2, 8, 64], 0).unwrap();
    launch(&machine, &most, [1; 3], [3, 32, 1], 0).unwrap();
    launch(&machine, &exactly, [1; 3], [32, 2, 1], 0).unwrap();
    // As many blocks as there may be, of which one is executed.
    let machine = Machine::new(Config { last_blocks: Some(1), ..Config::default() });
    let plain = machine.load(&entry("", "")).unwrap();
    launch(&machine, &plain, [i32::MAX as u32, 1, 1], [32, 1, 1], 0).unwrap();
}

#[test]
fn shared_memory_above_48_kilobytes_is_granted_first() {
    let text = entry("", ".shared .align 16 .b8 s[1024]; st.shared.u32 [s], 1; st.shared.u32 [d], 1;");
    for (capability, kilobytes) in [((8, 0), 163), ((8, 6), 99), ((8, 9), 99), ((9, 0), 227), ((12, 0), 99)] {
        let machine = Machine::new(Config { capability, ..Config::default() });
        let module = machine.load(&text).unwrap();
        let run = |shared| launch(&machine, &module, [1; 3], [32, 1, 1], shared);
        // Static and dynamic memory together need no grant up to 48 KiB.
        run(47 << 10).unwrap();
        let f = run((47 << 10) + 16).unwrap_err();
        assert!(matches!(f, Fault::SharedMemory(_)) && f.to_string().contains("besides 1024 static"), "{f}");
        let f = machine.grant_shared(&module, "k", ((kilobytes - 1) << 10) + 1).unwrap_err();
        assert!(matches!(f, Fault::SharedMemory(_)) && f.to_string().contains("where a block has at most"), "{f}");
        machine.grant_shared(&module, "k", (kilobytes - 1) << 10).unwrap();
        run((kilobytes - 1) << 10).unwrap();
        assert!(matches!(run(kilobytes << 10), Err(Fault::SharedMemory(_))));
    }
}

#[test]
fn static_shared_memory_above_48_kilobytes_is_no_ptx() {
    let machine = Machine::new(Config::default());
    let text = |bytes: u32| entry("", &format!(".shared .align 16 .b8 s[{bytes}]; st.shared.u32 [s], 1;"));
    machine.load(&text(49152)).unwrap();
    let e = machine.load(&text(49156)).unwrap_err();
    assert!(e.to_string().contains("49156 bytes of static shared memory"), "{e}");
}

#[test]
fn parameters_are_limited_by_the_version_and_the_target() {
    let machine = Machine::new(Config::default());
    let load = |version: &str, target: &str, bytes: u32| {
        let head = format!(".version {version}\n.target {target}\n.address_size 64\n");
        machine.load(&format!("{head}.visible .entry k(.param .align 4 .b8 p[{bytes}], .param .u64 q) {{ ret; }}"))
    };
    for (version, target, most) in [
        ("8.1", "sm_70", 32764),
        ("8.4", "sm_80", 32764),
        ("9.0", "sm_90a", 32764),
        ("8.0", "sm_80", 4096),
        ("7.8", "sm_80", 4096),
        ("8.4", "sm_61", 4096),
    ] {
        load(version, target, (most - 8) / 8 * 8).unwrap();
        let e = load(version, target, most / 8 * 8).unwrap_err();
        let says = format!("PTX {} for {target} allows {most}", version.trim_end_matches(".0"));
        assert!(e.to_string().contains(&says), "{e}");
    }
}

#[test]
fn registers_times_threads_are_limited() {
    let with = |registers: u32| {
        let registers = std::sync::Arc::new([("k".to_owned(), registers)].into());
        Machine::new(Config { registers, ..Config::default() })
    };
    // Registers of a thread, and the most threads: a warp is given its registers in units of 256, from one of four
    // partitions of 16384.
    for (registers, most) in [(64, 1024), (65, 896), (72, 896), (128, 512), (129, 384), (255, 256)] {
        let machine = with(registers);
        let module = machine.load(&entry("", "")).unwrap();
        launch(&machine, &module, [1; 3], [most, 1, 1], 0).unwrap();
        if most < 1024 {
            let f = launch(&machine, &module, [1; 3], [most + 1, 1, 1], 0).unwrap_err();
            assert!(matches!(f, Fault::Registers(_)) && f.to_string().contains("do not fit"), "{f}");
        }
    }
}

#[test]
fn only_the_last_blocks_run_on_memory_that_is_zero() {
    let text = kernel(
        "mov.u32 %r3, %ctaid.x; mov.u32 %r4, %ntid.x; mad.lo.s32 %r5, %r3, %r4, %r1; mul.wide.u32 %rd6, %r5, 4;
        add.s64 %rd7, %rd1, %rd6; add.s64 %rd8, %rd2, %rd6; ld.global.u32 %r6, [%rd7]; add.s32 %r6, %r6, 1;
        st.global.u32 [%rd8], %r6;",
    );
    for order in ORDERS {
        let machine = Machine::new(Config { order, last_blocks: Some(2), ..Config::default() });
        let module = machine.load(&text).unwrap();
        // Two arrays of 6 GB, of which a few pages are touched.
        let (blocks, bytes) = (3 << 20, 3u64 << 31);
        let (a, b) = (machine.alloc(bytes).unwrap(), machine.alloc(bytes).unwrap());
        machine.write(a + bytes - 4, &7u32.to_le_bytes()).unwrap();
        let region = |ptr, access| Param::Pointer(Region { ptr, bytes, access });
        let params = [region(a, Read), region(b, Write), int(0)];
        let l = Launch { grid: [blocks, 1, 1], block: [512, 1, 1], shared: 0, params: &params, extra: &[] };
        let counters = machine.launch(&module, "k", &l).unwrap();
        assert_eq!(counters.blocks, 2);
        let word = |back: u64| {
            let mut word = [0; 4];
            machine.read(b + bytes - back, &mut word).unwrap();
            u32::from_le_bytes(word)
        };
        assert_eq!([word(4), word(8), word(4096), word(4100)], [8, 1, 1, 0]);
    }
}
