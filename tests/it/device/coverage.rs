//! Every kernel that ships is executed by a test that checks its result, in both orders of the warps.

use super::{
    alignment, augment, conv3d, conv3d_affine_sm90, conv3d_norm_sm90, conv3d_sm90, conv3d_stem_sm90, infonce,
    infonce_sm90, instructions, layers, matmul, motion_map, over, peaks, tensors, tvl1,
};
use crate::kernels::{batch_norm, batch_norm_moments, batch_norm_shared, in_order, losses, pool3d, updates};
use crate::support::sim::REGISTERS;
use ptxsim::{Access::*, Config, Launch, Machine, Order, Param, Region};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

thread_local! {
    /// Entries that ran to their end, with the orders in which they did.
    static EXECUTED: RefCell<BTreeMap<String, BTreeSet<&'static str>>> = const { RefCell::new(BTreeMap::new()) };
}

/// Notes a launch without a fault.
pub fn note(entry: &str, order: Order) {
    let order = match order {
        Order::Forward => "forward",
        Order::Reverse => "reverse",
        Order::Shuffled(_) => "shuffled",
    };
    EXECUTED.with_borrow_mut(|e| e.entry(entry.to_owned()).or_default().insert(order));
}

/// How many entries whose names contain `part` have run on this thread.
pub fn executed(part: &str) -> usize {
    EXECUTED.with_borrow(|e| e.keys().filter(|entry| entry.contains(part)).count())
}

/// Tests that hold kernels against their references. Between them they launch everything.
const TESTS: &[fn()] = &[
    alignment::alignment_losses_on_a_device,
    alignment::channel_maps_on_a_device,
    augment::clips_on_a_gpu_are_those_of_the_cpu,
    augment::motion_follows_its_clip_on_a_gpu,
    batch_norm::cases_meet_the_definition_on_a_device,
    instructions::a_class_computes_what_its_name_says_whatever_the_order_of_the_warps,
    conv3d::a_chain_of_gradients_in_one_launch,
    conv3d::every_tile,
    conv3d::statistics_leave_with_the_result,
    conv3d::table_first,
    conv3d::table_second,
    conv3d_sm90::every_tile_of_hopper,
    conv3d_affine_sm90::every_tile_forms_as_a_pass_before_it,
    conv3d_norm_sm90::every_tile_normalises_as_a_pass_before_it,
    conv3d_stem_sm90::clips_are_rounded_as_they_are_packed,
    conv3d_stem_sm90::every_tile_of_stems,
    tensors::arithmetic_on_a_device_is_that_of_the_cpu_to_the_bit,
    tensors::conversion_scaling_and_rows_on_a_device,
    infonce::every_kernel_of_infonce_meets_the_reference,
    infonce_sm90::infonce_of_hopper_meets_the_reference,
    in_order::rows_are_added_one_after_another_on_a_device,
    layers::a_queue_on_a_device_holds_what_one_on_the_cpu_holds,
    layers::functions_on_a_device,
    layers::sums_on_a_device,
    layers::the_rectifier_on_a_device,
    layers::unit_rows_have_gradients_of_gradients_on_a_device,
    layers::unit_rows_on_a_device,
    losses::cross_entropy_on_a_device,
    matmul::affine_layers,
    matmul::products,
    motion_map::frame_differences_meet_the_definition_on_a_gpu,
    motion_map::maps_of_flow_meet_the_definition_on_a_gpu,
    motion_map::unknown_flow_is_unknown_on_both_devices,
    over::backgrounds_on_a_device_have_the_bits_of_the_cpu,
    over::patches_on_a_device_have_the_bits_of_the_cpu,
    peaks::copies_by_tma_are_as_many_as_counted,
    peaks::products_of_warpgroups_are_as_many_as_counted,
    pool3d::cases_meet_the_definition_on_a_device,
    batch_norm_moments::sums_taken_elsewhere_give_the_same_statistics,
    batch_norm_shared::layers_of_processes_meet_the_definition_on_the_whole_batch,
    tvl1::tvl1_on_a_gpu_meets_the_definition,
    updates::updates_on_a_device_are_those_of_the_cpu_to_the_bit,
];

/// Kernels that no operation launches, since they only measure: a copy, and arithmetic whose sums are written.
fn alone(order: Order) {
    let machine = Machine::new(Config { order, registers: REGISTERS.clone(), ..Config::default() });
    let peaks = machine.load(include_str!("../../../ptx/peaks.sm_80.ptx")).unwrap();
    let run = |entry: &str, from: Option<Region>, bytes: u64, numbers: &[u32]| {
        let to = Region { ptr: machine.alloc(bytes).unwrap(), bytes, access: Write };
        let numbers: Vec<[u8; 4]> = numbers.iter().map(|n| n.to_ne_bytes()).collect();
        let pointers = from.into_iter().chain([to]).map(Param::Pointer);
        let params: Vec<Param> = pointers.chain(numbers.iter().map(|n| Param::Bytes(n))).collect();
        let launch = Launch { grid: [2, 1, 1], block: [256, 1, 1], shared: 0, params: &params, extra: &[] };
        machine.launch(&peaks, entry, &launch).unwrap_or_else(|f| panic!("{f}"));
        note(entry, order);
        let mut out = vec![0; bytes as usize];
        machine.read(to.ptr, &mut out).unwrap();
        out
    };
    let bytes: Vec<u8> = (0..32000).map(|i| (i % 251) as u8).collect();
    let from = Region { ptr: machine.alloc(32000).unwrap(), bytes: 32000, access: Read };
    machine.write(from.ptr, &bytes).unwrap();
    assert_eq!(run("peaks_copy_f32", Some(from), 32000, &[2000]), bytes);
    run("peaks_read_f32", Some(from), 2048, &[2000, 1]);
    run("peaks_fma_f32", None, 2048, &[3]);
    run("peaks_mma_bf16", None, 2048, &[3]);
}

#[test]
fn every_entry_is_executed() {
    // Who counts launches is the simulator.
    if std::env::var_os("TUBELET_TEST_DEVICE").is_some() {
        crate::support::skip::absent(
            "the simulator, where TUBELET_TEST_DEVICE names a GPU",
            "which kernels are launched",
        );
        return;
    }
    TESTS.iter().for_each(|test| test());
    alone(Order::Forward);
    alone(Order::Reverse);
    let executed = EXECUTED.take();
    let folder = crate::root().join("ptx");
    let mut missing = vec![];
    let mut all = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|e| e == "ptx") {
            let text = std::fs::read_to_string(&path).unwrap();
            for entry in text.split(".visible .entry ").skip(1).filter_map(|e| e.split('(').next()) {
                all += 1;
                // Each launch was refused if its block had more registers than a multiprocessor.
                assert!(REGISTERS.contains_key(entry.trim()), "{entry}: no manifest says how many registers it has");
                let orders = executed.get(entry.trim()).cloned().unwrap_or_default();
                if !(orders.contains("forward") && orders.contains("reverse")) {
                    missing.push(format!("{entry}: {orders:?}"));
                }
            }
        }
    }
    assert!(
        missing.is_empty(),
        "{} of {all} entries are not executed in both orders:\n{}",
        missing.len(),
        missing.join("\n")
    );
}
