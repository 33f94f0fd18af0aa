//! The cost model of `cargo xtask model`: what it records, what a launch costs, the floors, and what others measured.

#[path = "../../../benches/model/mod.rs"]
#[allow(dead_code, reason = "the bench uses the rest")]
mod model;

use super::counters::{COMMITTED, HopperTile, cases};
use crate::support::close::assert_near;
use model::cost::{self, Demand, Resource};
use model::device::Device;
use model::floor::{self, Fusion};
use model::gemm::Tile;
use model::recorder::{self, Launch};
use model::report::{self, Predicted};
use model::{calibrate, known, nets, ptx, ranks, single, steps};
use serde_json::json;
use tubelet::nn::SmallR3d;
use tubelet::ops::{conv3d, tvl1};
use tubelet::shape::Window;
use tubelet::tensor::{DType, Tensor};

fn h100() -> Device {
    Device::named("h100").unwrap()
}

/// Clips per second of a training step by degree of fusion, computed by another program from the networks' published
/// tables, for an H200 at 790 TFLOP/s and 4.3 TB/s.
const FLOORS: [(&str, [f64; 4]); 5] = [
    ("r2plus1d_18", [1356.0, 1684.0, 1964.0, 2558.0]),
    ("slow_r50", [959.0, 1158.0, 1466.0, 1724.0]),
    ("cvrl_r3d50", [1888.0, 2272.0, 2862.0, 3367.0]),
    ("p3d_a50", [1942.0, 2349.0, 2954.0, 3447.0]),
    ("r3d_18", [2162.0, 2408.0, 2691.0, 3019.0]),
];

#[test]
fn floors_are_those_of_the_layers_by_another_program() {
    let h200 = &Device::all()[0];
    for ((name, net, clip), (other, rates)) in nets::nets().into_iter().zip(FLOORS) {
        assert_eq!(name, other);
        for (fusion, rate) in [Fusion::Eager, Fusion::Compiled, Fusion::Epilogue, Fusion::Full].into_iter().zip(rates) {
            let seconds = floor::seconds(&net, clip, fusion, true, 1, h200).unwrap();
            assert_near(&format!("{name} {fusion:?}"), 1.0 / seconds, rate, 2e-3);
        }
    }
}

#[test]
fn the_busiest_multiprocessor_and_the_slowest_resource_decide() {
    let device = h100();
    // One block more than there are multiprocessors: one of them has two.
    let products = Demand { blocks: 133.0, resident: 2, mma: 1e9, ..Demand::default() };
    let cost = products.on(&device);
    assert_eq!(cost.bound, Resource::Tensor);
    assert_near("tensor", cost.seconds * 1e6, (2.0 * 1e9 * 132.0 / 613e12 + 1.5e-6) * 1e6, 1e-12);
    assert_near("waves", cost.waves, 133.0 / 264.0, 1e-12);
    // 3 GB at 3.0 TB/s are a millisecond, longer than these products.
    let cost = Demand { hbm: 3e9, ..products }.on(&device);
    assert_eq!(cost.bound, Resource::Hbm);
    assert_near("HBM", cost.seconds * 1e3, 1.0 + 1.5e-3, 1e-12);
    // 128 bytes and four instructions a cycle, at 1.83 GHz.
    let cost = Demand { blocks: 132.0, shared: 128.0 * 1830.0, issued: 4.0 * 915.0, ..Demand::default() }.on(&device);
    assert_near("shared", cost.by[4] * 1e6, 1.0, 1e-12);
    assert_near("issue", cost.by[5] * 1e6, 0.5, 1e-12);
    assert_eq!(Demand { blocks: 1.0, hbm: 1.0, ..Demand::default() }.on(&device).bound, Resource::Latency);
}

#[test]
fn a_described_tile_asks_for_its_operands() {
    // 512x512x128: 4x2 tiles of 128x256, two k-blocks of 64.
    let demand = Tile::hopper(128, 256).demand([512, 512, 128], 1, 7.0, 0.0);
    assert_eq!(demand.blocks as usize, 8);
    assert_eq!(demand.wgmma as u64, 2 * 128 * 256 * 128);
    // Each block of a cluster of two loads its rows, and half of the columns.
    assert_eq!(demand.l2 as u64, 8 * 2 * (128 + 256 / 2) * 64 * 2);
    let demand = Tile::ampere(128, 128).demand([128, 128, 32], 1, 7.0, 0.0);
    // Four warps read 64 rows and 64 columns for each of two steps of 16; the block's copy is written once.
    assert_eq!(demand.shared as u64, 4 * 2 * (64 + 64) * 32 + (128 + 128) * 64);
}

const PTX: &str = "\
.visible .entry first(
\t.param .u64 first_param_0
)
.maxntid 128, 1, 1
.minnctapersm 3
{
\t.shared .align 16 .b8 tiles[4096];
\tmov.u32 \t%r1, %tid.x;
\tsetp.ge.u32 \t%p1, %r1, 7;
\t@%p1 bra \t$L__BB0_3;

$L__BB0_1:
\t// begin inline asm
\tcp.async.ca.shared.global [%r2], [%rd1], 8, %r3;
\t// end inline asm
\tldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r4,%r5,%r6,%r7}, [%r8];
\tmma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f1,%f2,%f3,%f4}, {%r4,%r5,%r6,%r7}, {%r9,%r10}, {%f1,%f2,%f3,%f4};
\tld.global.nc.v4.u32 \t{%r11, %r12, %r13, %r14}, [%rd2];
\t@%p2 bra \t$L__BB0_1;

\tsetp.eq.s32 \t%p3, %r1, 0;
\t@%p3 bra \t$L__BB0_2;
\tadd.s32 \t%r1, %r1, 1;
\tadd.s32 \t%r1, %r1, 1;
\tbra.uni \t$L__BB0_3;

$L__BB0_2:
\tadd.s32 \t%r1, %r1, 2;

$L__BB0_3:
\tret;

}
";

#[test]
fn ptx_says_what_a_loop_does() {
    let [kernel] = &ptx::parse(PTX)[..] else { panic!("one entry") };
    assert_eq!((kernel.name.as_str(), kernel.threads, kernel.resident, kernel.shared), ("first", 128, 3, 4096));
    let main = kernel.main.unwrap();
    assert_eq!((main.instructions, main.mma, main.fragments), (5, 2 * 16 * 8 * 16, 512));
    assert_eq!((main.copied, main.loaded), (8, 16));
    // Two before the loop, five in it, then the longer of two branches, and the return.
    assert_eq!(kernel.instructions, 2 + 5 + 2 + 3 + 1);
}

/// What one operation launches, on zeros of these shapes.
fn recorded(run: impl FnOnce(&[Tensor]), shapes: &[&[usize]]) -> Vec<Launch> {
    let (device, log) = recorder::device();
    let zeros = |shape: &&[usize]| {
        let shape = tubelet::shape::Shape::new(shape);
        Tensor::zeros_on(&device, shape).unwrap().cast(DType::BF16).unwrap()
    };
    let tensors: Vec<Tensor> = shapes.iter().map(zeros).collect();
    drop(log.take());
    run(&tensors);
    log.take()
}

#[test]
fn a_convolution_is_recorded_and_priced_by_its_tile() {
    let launches = recorded(
        |t| drop(conv3d::fprop(&t[0], &t[1], &Window::same([1, 3, 3]).into()).unwrap()),
        &[&[2, 4, 16, 16, 64], &[128, 1, 3, 3, 64]],
    );
    let [launch] = &launches[..] else { panic!("one launch, not {launches:?}") };
    let tile = launch.name.split('_').find_map(|part| part.split_once('x')).expect("the name has the tile");
    let [m, n]: [usize; 2] = [tile.0.parse().unwrap(), tile.1.parse().unwrap()];
    let blocks = (2048_usize.div_ceil(m) * 128_usize.div_ceil(n)) as u32;
    assert_eq!(launch.spread.grid, [blocks, 1, 1]);
    let demand = cost::demand(launch, &h100());
    let (depth, [x, w, y]) = (9 * 64, [2048 * 64 * 2, 9 * 64 * 128 * 2, 2048 * 128 * 2]);
    assert_eq!(demand.hbm as usize, x + w + y);
    assert_eq!(demand.mma as usize, 2 * m * n * depth);
    // Windows lie outside at two of sixteen rows, for one of three taps, and likewise columns: 46 of 48 are inside.
    let inside = 46.0 * 46.0 / (48.0 * 48.0);
    let (down, across) = (2048_usize.div_ceil(m) as f64, 128_usize.div_ceil(n) as f64);
    let operands = (2048.0 * across * inside + 128.0 * down) * (depth * 2) as f64;
    assert_near("requested", demand.requested, operands + y as f64, 1e-12);
    // Of nine taps of a tile, most pixels are read by an earlier one.
    assert!(demand.l2 < demand.requested && demand.l2 > demand.requested / 9.0);
    // Every operand is read as often as warps share it: at least once.
    assert!(demand.shared as usize >= 2 * (m + n) * depth * 2);
}

#[test]
fn strides_leave_blocks_of_dgrad_and_parts_of_the_input_alone() {
    let geometry = Window::UNIT.strided([1, 2, 2]);
    let x = tubelet::shape::Shape::from([2, 4, 16, 16, 64]);
    let launches = recorded(
        |t| {
            drop(conv3d::dgrad(&t[0], &t[1], x, &geometry.into()).unwrap());
            drop(conv3d::fprop(&t[2], &t[1], &geometry.into()).unwrap());
        },
        &[&[2, 4, 8, 8, 128], &[128, 1, 1, 1, 64], x.dims()],
    );
    let [dgrad, fprop] = &launches[..] else { panic!("two launches, not {launches:?}") };
    // One of four residue classes has a tap.
    let blocks: u32 = dgrad.spread.grid.iter().product();
    assert_eq!(4 * cost::demand(dgrad, &h100()).blocks as u32, blocks);
    let [quarter, w, y] = [x.len() / 4 * 2, 128 * 64 * 2, 2 * 4 * 8 * 8 * 128 * 2];
    assert_eq!(cost::demand(fprop, &h100()).hbm as usize, quarter + w + y);
}

/// Launches beside the large ones, in a step of each method: more than this was not needed when it was written. And no
/// convolution that normalises what it reads, or forms a gradient of it, is bound by the instructions that this takes.
#[test]
fn steps_take_few_small_launches_and_move_little_more_than_the_floor() {
    let mut normalising = 0;
    for step in steps::all().unwrap() {
        let predicted = Predicted::of(&step, &Device::all()[0]).unwrap();
        println!("{}", report::table(std::slice::from_ref(&predicted), &Device::all()[0]));
        let prologue = |name: &str| ["_norm_sm90_", "_affine_sm90_"].iter().any(|sort| name.contains(sort));
        for l in predicted.launches.iter().filter(|l| prologue(&l.launch.name)) {
            assert_ne!(l.cost.bound, Resource::Issue, "{} in {}: {:?}", l.launch.name, step.name, l.cost);
            normalising += 1;
        }
        let of = |kind: &str| predicted.launches.iter().filter(|l| report::kind(&l.launch.name) == kind).count();
        let [update, cast, padding] = ["update", "cast", "conv padding"].map(of);
        // The passes that the floor has move at most 3 % more than it has; docs/gpu.md names the rest.
        let kinds = ["conv fprop", "conv dgrad", "conv wgrad", "batch norm forward", "batch norm backward", "pool"];
        let by_kind = report::by_kind(&predicted.launches);
        let moved: f64 = kinds.iter().map(|kind| by_kind[*kind].hbm).sum();
        assert!(moved <= 1.03 * predicted.floor_bytes, "{}: {moved:.3e} of {:.3e}", step.name, predicted.floor_bytes);
        // Running statistics are updated where those of a batch are formed, the weights of a pass are rounded together,
        // and a stem's clips are padded once.
        let most = match step.name.as_str() {
            "step/maclr" => [8, 23, 8],
            "step/mcl" => [6, 62, 10],
            _ => continue,
        };
        assert!(
            update <= most[0] && cast <= most[1] && padding <= most[2],
            "{}: {update}, {cast}, {padding}",
            step.name
        );
    }
    assert!(normalising > 0);
}

/// TV-L1 of a batch: as many launches for sixteen pairs as for one, several iterations in each, the median among them.
#[test]
fn the_flow_of_a_batch_takes_few_launches() {
    let p = tvl1::Tvl1::default();
    for (side, most) in [(224, 664), (112, 564), (64, 314)] {
        let [one, sixteen] = [1, 16].map(|pairs| {
            let (device, log) = recorder::device();
            let images = Tensor::zeros_on(&device, [pairs, side, side]).unwrap();
            drop(log.take());
            tvl1::flow_batch(&images, &images, &p).unwrap();
            log.take().len()
        });
        println!("{side}x{side}: {one} launches for a pair, {sixteen} for sixteen");
        // Of each level: its warps, the iterations between medians in at least one launch, and one that ends a warp.
        let levels = tvl1::Plan::new(16, side, side, &p).unwrap().levels.len();
        assert!(
            one.max(sixteen) <= most && sixteen > levels * p.warps * (2 + p.outer_iterations),
            "{one} and {sixteen}"
        );
    }
}

/// What is asked of an H200: in a graph, 25 µs for the loss of 512 queries and 45 more for its gradient, and 5000 flows a
/// second.
#[test]
fn single_kernels_are_predicted_to_reach_their_goals() {
    let device = Device::named("h200").unwrap();
    let all = single::all(&device).unwrap();
    println!("{}", single::table(&all, &device));
    let micros = |i: usize| 1e6 * cost::total(&all[i].launches, &device).graph;
    assert!(micros(0) <= 25.0 && micros(1) <= 25.0 + 45.0);
    assert!(1e6 * tvl1::PAIRS as f64 / micros(2) >= 5000.0);
    // The sweep multiplies whole tiles: all rows and keys, twice where there is a gradient.
    let sweep = |i: usize| all[i].launches.iter().find(|l| l.launch.name.starts_with("infonce_sweep_sm90")).unwrap();
    for (i, products) in [(0, 1.0), (1, 2.0)] {
        let wanted = products * 2.0 * 512.0 * 65536.0 * 128.0;
        let demand = sweep(i).demand;
        assert_near("products of the sweep", demand.blocks * demand.wgmma, wanted, 1e-12);
    }
}

/// The simulator executes each of these launches and counts: the model's demand is what it counts.
#[test]
fn demands_are_what_the_simulator_counts() {
    let mut compared = 0;
    for case in cases::all(1).into_iter().filter(|c| c.name.starts_with("conv3d/") && c.name.ends_with("/bf16")) {
        let counts = |kernel: &str| -> Option<Vec<f64>> {
            let line = COMMITTED.lines().find_map(|l| l.strip_prefix(&format!("{kernel},{},", case.name)))?;
            Some(line.split(',').map(|n| n.parse().unwrap()).collect())
        };
        if !COMMITTED.contains(&format!(",{},", case.name)) {
            continue;
        }
        let (device, log) = recorder::device();
        let timed = (case.make)(&device).unwrap()().unwrap();
        drop(log.take());
        timed().unwrap();
        for launch in log.take() {
            let Some(counted) = counts(&launch.name).filter(|_| launch.name.ends_with("_bf16")) else { continue };
            let [instructions, tensor, _, _, bytes, ..] = counted[..] else { panic!("seven counters") };
            let demand = cost::demand(&launch, &h100());
            let what = |kind: &str| format!("{} in {}: {kind}", launch.name, case.name);
            assert_near(&what("products"), demand.blocks * demand.mma / 4096.0, tensor, 1e-12);
            assert_near(&what("bytes"), demand.requested, bytes, 1e-9);
            // The longest way through an epilogue is not the one that a launch takes, and the committed count may be that of a
            // kernel before it became shorter: counts may not grow, but they need not be written anew.
            assert_near(&what("instructions"), demand.blocks * demand.issued, instructions, 0.4);
            compared += 1;
        }
    }
    assert!(compared >= 5, "{compared} launches");
}

/// The same of every tile with TMA and wgmma. Bytes are those of TMA's copies, without zeros, and of the stores.
#[test]
fn demands_on_a_hopper_are_what_the_simulator_counts() {
    let mut compared = 0;
    for tile in HopperTile::all() {
        let (device, log) = recorder::device();
        let operands = tile.operands(&device);
        drop(log.take());
        tile.run(&operands);
        // dgrad has a launch for each residue class.
        let launches: Vec<Launch> = log.take().into_iter().filter(|l| l.name.contains("_sm90_")).collect();
        let Some(name) = launches.first().map(|launch| launch.name.clone()) else { continue };
        let demands: Vec<Demand> = launches.iter().map(|launch| cost::demand(launch, &h100())).collect();
        let line = COMMITTED.lines().find_map(|l| l.strip_prefix(&format!("{name},{},", tile.name)));
        let line = line.unwrap_or_else(|| panic!("{name} in {} is not counted", tile.name));
        let counted: Vec<f64> = line.split(',').map(|n| n.parse().unwrap()).collect();
        let [_, tensor, _, _, bytes, ..] = counted[..] else { panic!("seven counters") };
        let products: f64 = demands.iter().map(|d| d.blocks * d.wgmma / 4096.0).sum();
        let requested: f64 = demands.iter().map(|d| d.requested).sum();
        for (what, got, want) in [("products", products, tensor), ("bytes", requested, bytes)] {
            assert_near(&format!("{name} in {}: {what}", tile.name), got, want, 1e-9);
        }
        compared += 1;
    }
    assert!(compared > 60, "{compared} compared");
}

#[test]
fn a_step_is_recorded_whole_and_keeps_the_contract() {
    let net = SmallR3d::default().net().unwrap();
    let step = steps::network("small", net, [8, 32, 32], 4);
    let predicted = Predicted::of(&step, &h100()).unwrap();
    let of = |kind: &str| predicted.launches.iter().filter(|l| report::kind(&l.launch.name) == kind).count();
    // Four convolutions and the classifier's product; the clips have no gradient.
    assert_eq!([of("conv fprop"), of("conv dgrad"), of("conv wgrad")], [5, 4, 5]);
    assert!(of("update") > 0, "the step ends with the update of the weights");
    let json = report::json(std::slice::from_ref(&predicted));
    let row = &json["train_step/small/b4/bf16"];
    for key in ["ms", "floor_epi_ms", "floor_full_ms", "peer_ms"] {
        assert!(row[key].as_f64().is_some_and(|ms| ms > 0.0), "{key} in {row}");
    }
    assert_eq!(row["launches"], predicted.launches.len());
    // A host that takes a millisecond per launch decides alone.
    let slow = h100().calibrated(&json!({"launch_us": 1000.0})).unwrap();
    let total = cost::total(&predicted.launches, &slow);
    assert_near("host", total.stream * 1e3, predicted.launches.len() as f64, 1e-12);
    assert!(predicted.total.reusing <= predicted.total.graph && predicted.total.graph < predicted.total.stream);
    let names: Vec<String> = steps::all().unwrap().into_iter().map(|step| step.name).collect();
    let networks = FLOORS.map(|(name, _)| format!("train_step/{name}/b64/bf16"));
    assert_eq!(names, [&networks[..], &["step/maclr".to_owned(), "step/mcl".to_owned()]].concat());
}

#[test]
fn the_model_says_where_it_is_wrong() {
    let all = known::all().unwrap();
    let missed: Vec<&str> = all.iter().filter(|k| !k.reproduced()).map(|k| k.name).collect();
    assert_eq!(
        missed,
        [
            "fprop 3x3 c128 k128 224², CUTLASS 2.x",
            "stem wgrad n128 224² c4 k64 7x7/2, CUTLASS",
            "ResNet-50 training, MLPerf v3.0",
            "ResNet-50 training, PyTorch",
        ],
        "what is reproduced has changed: docs/gpu.md has the table"
    );
    for k in &all {
        assert!(k.reproduced() == k.why.is_empty(), "{}: a reason belongs to a miss", k.name);
    }
}

#[test]
fn a_record_calibrates_the_device() {
    let record = json!({
        "machine": "a GPU", "cases": {},
        "peaks": {"copy_tb_per_s": 4.1, "bf16_tflops": 600.0, "f32_tflops": 60.0, "l2_tb_per_s": 6.0, "launch_us": 2.0},
    });
    let file = calibrate::from_record(&record).unwrap();
    let device = h100().calibrated(&file).unwrap();
    let rates = [device.hbm, device.mma, device.fma, device.l2].map(|rate| rate * 1e-12);
    for ((what, got), want) in ["HBM", "mma", "FMA", "L2"].into_iter().zip(rates).zip([4.1, 600.0, 60.0, 6.0]) {
        assert_near(what, got, want, 1e-12);
    }
    assert_near("host", device.host * 1e6, 2.0, 1e-12);
    assert_near("gap", device.gap * 1e6, 1.5, 1e-12);
    assert_eq!(device.processors, h100().processors);
    assert!(calibrate::from_record(&json!({"peaks": {}})).unwrap_err().contains("copy_tb_per_s"));
    assert!(h100().calibrated(&json!({"hbm_tb_per_s": -1.0})).unwrap_err().contains("hbm_tb_per_s"));
    assert!(h100().calibrated(&json!({"hbm": 4.0})).unwrap_err().contains("hbm"));
}

#[test]
fn steps_of_many_gpus_hide_what_they_exchange_while_there_is_something_to_compute() {
    let device = &Device::all()[0];
    let all = ranks::json(&ranks::all(device).unwrap(), device);
    for (method, millions) in [("maclr", 37.3), ("mcl", 40.7)] {
        let of = |ranks: usize, wire: &str, what: &str| all[method][ranks.to_string()][wire][what].as_f64().unwrap();
        let step = |ranks| of(ranks, "f32", "step_ms");
        assert_eq!((step(1), of(1, "f32", "bytes")), (of(1, "f32", "alone_ms"), 0.0));
        assert!(step(1) < step(8) && step(8) < step(64) && step(64) < step(512), "{method}");
        for ranks in [8, 64, 512] {
            let parts = ["alone_ms", "exposed_ms", "keys_ms", "notes_ms"];
            let micros = |ms: f64| (ms * 1e3).round() as u64;
            let sum: u64 = parts.iter().map(|part| micros(of(ranks, "f32", part))).sum();
            assert!(micros(step(ranks)).abs_diff(sum) < 3, "{method}: the parts are rounded to a microsecond each");
            // Exchanges are made during the backward pass, but not all: the last bucket is complete at its end. Among 512
            // GPUs they take longer than that pass.
            let [gradients, exposed] = ["gradients_ms", "exposed_ms"].map(|what| of(ranks, "f32", what));
            let most = if ranks < 512 { 0.5 } else { 1.0 };
            assert!(0.0 < exposed && exposed < most * gradients, "{method} on {ranks}: {exposed} of {gradients}");
            // What a ring sends of the gradients, and little else.
            let least = 2.0 * (ranks - 1) as f64 / ranks as f64 * 4e6 * millions;
            let bytes = of(ranks, "f32", "bytes");
            assert!(0.99 * least < bytes && bytes < 1.4 * least, "{method} on {ranks}: {bytes}, {least}");
            assert!(of(ranks, "bf16", "bytes") < 0.75 * bytes && of(ranks, "bf16", "step_ms") <= step(ranks));
        }
    }
}
