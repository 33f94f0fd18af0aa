//! The kernels that measure a GPU's peaks (`cuda/peaks.cu`) in the simulator: the copy copies, and the sums are those of the
//! multiply-adds that the bench counts.

use crate::support::close::{assert_within, gamma};
use crate::support::sim::Sim;
use ptxsim::{Order, Sums};
use tubelet::driver::{Access, Arg, Gpu, Launch, Region, Spread, TensorMap, TensorWindow};
use tubelet::tensor::DType;

const PTX: &str = include_str!("../../../ptx/peaks.sm_80.ptx");
const HOPPER: &str = include_str!("../../../ptx/peaks_sm90.sm_90a.ptx");

/// Threads of a block.
const BLOCK: u32 = 256;

/// Runs an entry on `x` (where it reads any) and numbers; what it wrote, `words` long.
fn run(gpu: &Gpu, entry: &str, x: Option<&[u32]>, numbers: &[u32], words: usize, blocks: u32) -> Vec<u32> {
    // SAFETY: all addresses are those of memory allocated here.
    let driver = unsafe { gpu.raw_driver() };
    let function = driver.function(driver.load(PTX).unwrap(), entry, 0).unwrap();
    let (from, to) = (gpu.alloc(4 * x.map_or(1, <[u32]>::len)).unwrap(), gpu.alloc(4 * words).unwrap());
    let mut args = Vec::new();
    if let Some(x) = x {
        driver.upload(from.ptr(), bytemuck::cast_slice(x)).unwrap();
        args.push(Arg::Pointer(Region { ptr: from.ptr(), bytes: from.bytes(), access: Access::Read }));
    }
    args.push(Arg::Pointer(Region { ptr: to.ptr(), bytes: to.bytes(), access: Access::Write }));
    let numbers: Vec<[u8; 4]> = numbers.iter().map(|n| n.to_ne_bytes()).collect();
    args.extend(numbers.iter().map(|n| Arg::Value(n)));
    let launch = Launch { spread: Spread::line(blocks, BLOCK), args: &args, reached: &[] };
    // SAFETY: the arguments are those of the entry in cuda/peaks.cu, over memory of the lengths they name.
    unsafe { driver.launch(function, &launch) }.unwrap();
    let mut y = vec![0_u32; words];
    driver.download(to.ptr(), bytemuck::cast_slice_mut(&mut y)).unwrap();
    y
}

fn both_orders(run: impl Fn(&Sim) -> Vec<u32>) -> Vec<u32> {
    let (forward, reverse) = (run(&Sim::new(Order::Forward)), run(&Sim::new(Order::Reverse)));
    assert_eq!(forward, reverse);
    forward
}

#[test]
fn the_copy_copies() {
    let units = 4 * BLOCK + 77; // a second block, in part
    let x: Vec<u32> = (0..4 * units).map(|i| i.wrapping_mul(2_654_435_761)).collect();
    assert_eq!(both_orders(|sim| run(&sim.gpu, "peaks_copy_f32", Some(&x), &[units], x.len(), 2)), x);
}

/// Every block reads everything once a round: the sums of its threads are that of all numbers, which are small integers.
#[test]
fn reads_are_as_many_as_counted() {
    let (units, rounds, blocks) = (8 * BLOCK, 3_u32, 3);
    let x: Vec<u32> = (0..4 * units).map(|i| ((i * 7 % 61) as f32).to_bits()).collect();
    let y = both_orders(|sim| run(&sim.gpu, "peaks_read_f32", Some(&x), &[units, rounds], 3 * BLOCK as usize, blocks));
    let all: f32 = x.iter().map(|bits| f32::from_bits(*bits)).sum();
    for block in y.chunks(BLOCK as usize) {
        assert_eq!(block.iter().map(|bits| f32::from_bits(*bits)).sum::<f32>(), rounds as f32 * all);
    }
}

#[test]
fn multiply_adds_are_as_many_as_counted() {
    let (threads, rounds) = (2 * BLOCK, 5_u32);
    let y = both_orders(|sim| run(&sim.gpu, "peaks_fma_f32", None, &[rounds], threads as usize, 2));
    let mut sums: Vec<f32> = (0..16).map(|k| (k as f32).mul_add(0.01, 1.0)).collect();
    for _ in 0..rounds {
        sums.iter_mut().for_each(|s| *s = s.mul_add(0.999, 0.001));
    }
    let want = sums.iter().fold(0.0, |a, s| a + s);
    assert_eq!(f32::from_bits(y[0]), want, "thread 0 of the first block");
    assert_eq!(y[0], y[BLOCK as usize], "thread 0 of the second");
}

/// The sums of a thread after one round, and of their magnitudes: four elements of the product of its warp's operands, in each
/// of the eight fragments. Operands and sums lie in the lanes as PTX says for `mma.m16n8k16`.
fn product(thread: u32) -> (f64, f64) {
    let half =
        |word: u32, odd: usize| f64::from(f32::from_bits(if odd == 1 { word & 0xffff_0000 } else { word << 16 }));
    let first = thread / 32 * 32;
    let a = |row: usize, k: usize| {
        let (lane, register) = (row % 8 * 4 + k % 8 / 2, row / 8 + k / 8 * 2);
        let mixed = (first + lane as u32).wrapping_mul(2_654_435_761).wrapping_add(register as u32 * 40_503);
        half(mixed & 0x007f_007f | 0xbf00_3f00, k % 2)
    };
    let b = |k: usize, column: usize| {
        let (lane, register) = (column * 4 + k % 8 / 2, k / 8);
        let mixed = (first + lane as u32).wrapping_mul(2_246_822_519).wrapping_add(register as u32 * 30_011);
        half(mixed & 0x007f_007f | 0x3f00_bf00, k % 2)
    };
    let lane = (thread % 32) as usize;
    let (mut sum, mut magnitude) = (0.0, 0.0);
    for (row, column) in [(0, 0), (0, 1), (8, 0), (8, 1)].map(|(r, c)| (lane / 4 + r, lane % 4 * 2 + c)) {
        for k in 0..16 {
            let term = 8.0 * a(row, k) * b(k, column);
            (sum, magnitude) = (sum + term, magnitude + term.abs());
        }
    }
    (sum, magnitude)
}

#[test]
fn products_are_as_many_as_counted() {
    let (warps, rounds) = (2 * BLOCK / 32, 3_u32);
    let sim = Sim::new(Order::Forward);
    run(&sim.gpu, "peaks_mma_bf16", None, &[1], 2 * BLOCK as usize, 2);
    let products = sim.machine.totals()["peaks_mma_bf16"].tensor_instructions;
    assert_eq!(products, u64::from(8 * warps), "eight a warp and round");
    let y = both_orders(|sim| run(&sim.gpu, "peaks_mma_bf16", None, &[rounds], 2 * BLOCK as usize, 2));
    let y: Vec<f32> = y.into_iter().map(f32::from_bits).collect();
    let times = f64::from(rounds);
    let (want, off): (Vec<f64>, Vec<f64>) = (0..2 * BLOCK)
        .map(|thread| product(thread % BLOCK))
        // Sixteen products a round, then four sums of each of eight fragments.
        .map(|(sum, magnitude)| (times * sum, gamma(16 * rounds as usize + 32, DType::F32) * times * magnitude))
        .unzip();
    assert_within("products", &y, &want, &off);
}

fn hopper(order: Order) -> Sim {
    Sim::hopper(order, Sums::Nearest)
}

/// Runs an entry for Hopper; what it wrote.
fn run_on_hopper(gpu: &Gpu, entry: &str, spread: Spread, inputs: &[Arg], words: usize) -> Vec<u32> {
    // SAFETY: all addresses are those of memory allocated here or by the caller.
    let driver = unsafe { gpu.raw_driver() };
    let function = driver.function(driver.load(HOPPER).unwrap(), entry, spread.shared).unwrap();
    let to = gpu.alloc(4 * words).unwrap();
    let mut args = inputs.to_vec();
    let at = usize::from(matches!(inputs[0], Arg::TensorMap(_)));
    args.insert(at, Arg::Pointer(Region { ptr: to.ptr(), bytes: to.bytes(), access: Access::Write }));
    let launch = Launch { spread, args: &args, reached: &[] };
    // SAFETY: the arguments are those of the entry in cuda/peaks_sm90.cu, over memory of the lengths they name.
    unsafe { driver.launch(function, &launch) }.unwrap();
    let mut y = vec![0_u32; words];
    driver.download(to.ptr(), bytemuck::cast_slice_mut(&mut y)).unwrap();
    y
}

/// A number of the tile of `peaks_wgmma_sm90_bf16`: chunks of sixteen bytes of a row are permuted by the row's number.
fn of_tile(row: usize, k: usize) -> f64 {
    let word = row * 32 + ((k / 8) ^ (row % 8)) * 4 + k % 8 / 2;
    let mixed = (word as u32).wrapping_mul(2_654_435_761) & 0x007f_007f;
    let word = mixed | if word % 2 == 1 { 0x3f00_bf00 } else { 0xbf00_3f00 };
    f64::from(f32::from_bits(if k % 2 == 1 { word & 0xffff_0000 } else { word << 16 }))
}

#[test]
pub fn products_of_warpgroups_are_as_many_as_counted() {
    let (rounds, blocks) = (3_u32, 2);
    let spread = Spread::line(blocks, 256).with_shared(50176);
    let words = 256 * blocks as usize;
    let once = |order: Order| {
        let sim = hopper(order);
        let y = run_on_hopper(&sim.gpu, "peaks_wgmma_sm90_bf16", spread, &[Arg::Value(&rounds.to_ne_bytes())], words);
        // 64x256x64 of each of four warpgroups and each round.
        assert_eq!(sim.machine.totals()["peaks_wgmma_sm90_bf16"].wgmma_products, u64::from(rounds) * 4 * 64 * 256 * 64);
        y
    };
    let y = once(Order::Forward);
    assert_eq!(y, once(Order::Reverse));
    let y: Vec<f32> = y.into_iter().map(f32::from_bits).collect();
    // Of a thread: two rows and 64 pairs of columns.
    let sum = |thread: usize| {
        let (warp, lane) = (thread / 32 % 8, thread % 32);
        let (mut sum, mut magnitude) = (0.0, 0.0);
        for row in [warp * 16 + lane / 4, warp * 16 + lane / 4 + 8] {
            for column in (0..32).flat_map(|j| [8 * j + lane % 4 * 2, 8 * j + lane % 4 * 2 + 1]) {
                for k in 0..64 {
                    let term = f64::from(rounds) * of_tile(row, k) * of_tile(128 + column, k);
                    (sum, magnitude) = (sum + term, magnitude + term.abs());
                }
            }
        }
        (sum, gamma(64 * rounds as usize + 128, DType::F32) * magnitude)
    };
    let (want, off): (Vec<f64>, Vec<f64>) = (0..words).map(|thread| sum(thread % 256)).unzip();
    assert_within("products", &y, &want, &off);
}

/// Every block copies everything once a round, from another place on; a word of each copy is mixed in.
#[test]
pub fn copies_by_tma_are_as_many_as_counted() {
    const ROWS: u32 = 128;
    let (copies, rounds, blocks) = (5_u32, 3_u32, 3);
    let x: Vec<u32> = (0..copies * ROWS * 32).map(|i| i.wrapping_mul(2_654_435_761) ^ i).collect();
    let once = |order: Order| {
        let sim = hopper(order);
        // SAFETY: the address is that of memory allocated here.
        let driver = unsafe { sim.gpu.raw_driver() };
        let from = sim.gpu.alloc(4 * x.len()).unwrap();
        driver.upload(from.ptr(), bytemuck::cast_slice(&x)).unwrap();
        let extents = vec![64, u64::from(copies * ROWS)];
        let window = TensorWindow::Tiled(vec![64, ROWS]);
        let map = driver.tensor_map(&TensorMap { ptr: from.ptr(), extents, window }).unwrap();
        let numbers = [copies, rounds].map(u32::to_ne_bytes);
        let inputs = [Arg::TensorMap(&map), Arg::Value(&numbers[0]), Arg::Value(&numbers[1])];
        let spread = Spread::line(blocks, 32).with_shared(132_096);
        let y = run_on_hopper(&sim.gpu, "peaks_tma_sm90_bf16", spread, &inputs, 32 * blocks as usize);
        let loaded = sim.machine.totals()["peaks_tma_sm90_bf16"].bulk_bytes_loaded;
        assert_eq!(loaded, u64::from(blocks * rounds * copies * ROWS) * 128);
        y
    };
    let y = once(Order::Forward);
    assert_eq!(y, once(Order::Reverse));
    // Rounds are odd in number: each word once.
    for block in y.chunks(32) {
        for (lane, mixed) in block.iter().enumerate() {
            assert_eq!(*mixed, (0..copies).fold(0, |all, copy| all ^ x[(copy * ROWS * 32) as usize + lane]));
        }
    }
}
