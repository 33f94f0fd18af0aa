//! Each class of instruction by itself (`cuda/classes.cu`): what it computes against plain Rust, and, where the tests run on
//! a GPU, what hardware computes against the simulator, word for word.

use crate::support::sim::Sim;
use crate::support::skip::absent;
use ptxsim::Order;
use tubelet::driver::{Access, Arg, Gpu, Launch, Region, Spread};

const PTX: &str = include_str!("../../../ptx/classes.sm_80.ptx");

/// Threads of a block, and blocks.
const BLOCK: u32 = 128;
const BLOCKS: u32 = 64;
const THREADS: usize = (BLOCK * BLOCKS) as usize;

/// How two results of a class may differ.
#[derive(Clone, Copy)]
enum Rule {
    /// The same bits; one NaN is as good as another.
    Same,
    /// f32, by so many steps to the next number, or by so much.
    Near { steps: u32, apart: f32 },
    /// A sum of products: by so many units of 2⁻²³ of the sum of the terms' magnitudes.
    Sum { units: f32 },
}

use Rule::{Near, Same, Sum};

/// What plain Rust makes of three words.
type Host = fn(u32, u32, u32) -> u32;

/// One class.
struct Class {
    name: &'static str,
    rule: Rule,
    /// Numbers that a kernel of this class is made for, as opposed to any bits.
    inputs: Inputs,
    host: Option<Host>,
}

#[derive(Clone, Copy, PartialEq)]
enum Inputs {
    /// Any bits, with the special numbers of f32 among them.
    Bits,
    /// f32 between -8 and 8.
    Modest,
    /// Small integers as pairs of bf16: every sum is exact.
    SmallPairs,
    /// Pairs of bf16 between -2 and 2.
    Pairs,
}

const fn class(name: &'static str, rule: Rule, inputs: Inputs, host: Option<Host>) -> Class {
    Class { name, rule, inputs, host }
}

fn f(word: u32) -> f32 {
    f32::from_bits(word)
}

/// Rounds to the nearest bf16, ties to even.
fn bf16(x: f32) -> u32 {
    u32::from(half::bf16::from_f32(x).to_bits())
}

const CLASSES: &[Class] = &[
    class("add", Same, Inputs::Bits, Some(|p, q, _| (f(p) + f(q)).to_bits())),
    class("mul", Same, Inputs::Bits, Some(|p, q, _| (f(p) * f(q)).to_bits())),
    class("fma", Same, Inputs::Bits, Some(|p, q, r| f(p).mul_add(f(q), f(r)).to_bits())),
    class("div", Same, Inputs::Bits, Some(|p, q, _| (f(p) / f(q)).to_bits())),
    class("sqrt", Same, Inputs::Bits, Some(|p, _, _| f(p).sqrt().to_bits())),
    class("rcp", Same, Inputs::Bits, Some(|p, _, _| (1.0 / f(p)).to_bits())),
    class("min", Same, Inputs::Modest, Some(|p, q, _| f(p).min(f(q)).to_bits())),
    class("max", Same, Inputs::Modest, Some(|p, q, _| f(p).max(f(q)).to_bits())),
    class("floor", Same, Inputs::Bits, Some(|p, _, _| f(p).floor().to_bits())),
    class("round", Same, Inputs::Bits, Some(|p, _, _| f(p).round_ties_even().to_bits())),
    class("saturate", Same, Inputs::Modest, Some(|p, _, _| f(p).clamp(0.0, 1.0).to_bits())),
    class("less", Same, Inputs::Bits, Some(less)),
    class("ex2", Near { steps: 4, apart: 0.0 }, Inputs::Modest, Some(|p, _, _| exact(p, f64::exp2))),
    class("lg2", Near { steps: 4, apart: LITTLE }, Inputs::Modest, Some(|p, _, _| exact(p, f64::log2))),
    class("rcp_approx", Near { steps: 2, apart: 0.0 }, Inputs::Modest, Some(|p, _, _| exact(p, f64::recip))),
    class("rsqrt_approx", Near { steps: 4, apart: 0.0 }, Inputs::Modest, Some(|p, _, _| exact(p, |x| 1.0 / x.sqrt()))),
    class("sqrt_approx", Near { steps: 4, apart: 0.0 }, Inputs::Modest, Some(|p, _, _| exact(p, f64::sqrt))),
    class("sin_approx", Near { steps: 4, apart: SMALL }, Inputs::Modest, Some(|p, _, _| exact(p, f64::sin))),
    class("cos_approx", Near { steps: 4, apart: SMALL }, Inputs::Modest, Some(|p, _, _| exact(p, f64::cos))),
    class("tanh_approx", Near { steps: 1 << 13, apart: 0.0 }, Inputs::Modest, Some(|p, _, _| exact(p, f64::tanh))),
    class("div_approx", Near { steps: 4, apart: 0.0 }, Inputs::Modest, Some(|p, q, _| (f(p) / f(q)).to_bits())),
    class("to_bf16", Same, Inputs::Modest, Some(|p, q, _| bf16(f(p)) | bf16(f(q)) << 16)),
    class("to_signed", Same, Inputs::Modest, Some(|p, _, _| f(p) as i32 as u32)),
    class("to_nearest", Same, Inputs::Modest, Some(|p, _, _| f(p).round_ties_even() as i32 as u32)),
    class("to_unsigned", Same, Inputs::Modest, Some(|p, _, _| f(p) as u32)),
    class("from_signed", Same, Inputs::Bits, Some(|p, _, _| (p as i32 as f32).to_bits())),
    class("from_unsigned", Same, Inputs::Bits, Some(|p, _, _| (p as f32).to_bits())),
    class("multiply_high", Same, Inputs::Bits, Some(|p, q, _| ((u64::from(p) * u64::from(q)) >> 32) as u32)),
    class("multiply_add", Same, Inputs::Bits, Some(|p, q, r| p.wrapping_mul(q).wrapping_add(r))),
    class(
        "wide",
        Same,
        Inputs::Bits,
        Some(|p, q, r| ((u64::from(p) * u64::from(q)).wrapping_add(r.into()) >> 20) as u32),
    ),
    class("divide", Same, Inputs::Bits, Some(|p, q, r| (p / (q | 1)).wrapping_add(p % (r | 1)))),
    class("divide_signed", Same, Inputs::Bits, Some(divide_signed)),
    class("minmax", Same, Inputs::Bits, Some(minmax)),
    class("logic", Same, Inputs::Bits, Some(|p, q, r| (p & q) ^ (!r | q) ^ (p & !r))),
    class("count", Same, Inputs::Bits, Some(count)),
    class("permute", Same, Inputs::Bits, Some(permute)),
    class(
        "funnel",
        Same,
        Inputs::Bits,
        Some(|p, q, r| (((u64::from(q) << 32 | u64::from(p)) << (r & 31)) >> 32) as u32),
    ),
    class("shift", Same, Inputs::Bits, Some(shift)),
    class("field", Same, Inputs::Bits, None),
    class("shuffle", Same, Inputs::Bits, None),
    class("vote", Same, Inputs::Bits, None),
    class("barrier_count", Same, Inputs::Bits, None),
    class("matrix", Same, Inputs::Bits, None),
    class("copy", Same, Inputs::Bits, None),
    class("mma_bf16", Same, Inputs::SmallPairs, None),
    class("mma_bf16", Sum { units: 32.0 }, Inputs::Pairs, None),
    class("mma_tf32", Sum { units: 32.0 }, Inputs::Modest, None),
];

/// 2⁻²⁰: what sine and cosine may be off between -π and π, with room for the doubled range.
const SMALL: f32 = 1.0 / (1 << 18) as f32;
/// 2⁻²²: the logarithm near one.
const LITTLE: f32 = 1.0 / (1 << 21) as f32;

/// `function` in f64, rounded once.
fn exact(p: u32, function: impl Fn(f64) -> f64) -> u32 {
    (function(f64::from(f(p))) as f32).to_bits()
}

fn less(p: u32, q: u32, _: u32) -> u32 {
    let (p, q) = (f(p), f(q));
    u32::from(p < q) + 2 * u32::from(p <= q) + 4 * u32::from(p == q) + 8 * u32::from(p != q)
}

fn divide_signed(p: u32, q: u32, r: u32) -> u32 {
    let (p, q, r) = (p as i32, (q >> 8) as i32 + 2, (r >> 8) as i32 + 2);
    ((p / q) as u32).wrapping_add((p % r) as u32)
}

fn minmax(p: u32, q: u32, r: u32) -> u32 {
    (p as i32).min(q as i32) as u32 ^ (q as i32).max(r as i32) as u32 ^ p.min(r)
}

fn count(p: u32, q: u32, r: u32) -> u32 {
    p.count_ones().wrapping_add(q.leading_zeros() << 8).wrapping_add(r.reverse_bits())
}

fn permute(p: u32, q: u32, r: u32) -> u32 {
    let bytes = (u64::from(q) << 32 | u64::from(p)).to_le_bytes();
    u32::from_le_bytes([0, 4, 8, 12].map(|at| bytes[(r >> at & 7) as usize]))
}

fn shift(p: u32, q: u32, _: u32) -> u32 {
    let by = q & 63;
    let (left, right) = (p.checked_shl(by).unwrap_or(0), p.checked_shr(by).unwrap_or(0));
    left ^ right.reverse_bits() ^ ((p as i32 >> by.min(31)) as u32).wrapping_mul(3)
}

impl Class {
    /// Words that each thread reads of each input and writes.
    fn width(&self) -> usize {
        if matches!(self.name, "matrix" | "copy") || self.name.starts_with("mma") { 4 } else { 1 }
    }

    /// The three inputs.
    fn inputs(&self) -> [Vec<u32>; 3] {
        let special =
            [0, 1 << 31, 0x3f80_0000, 0x7f80_0000, 0xff80_0000, 0x7fc0_0000, 1, 0x8000_0001, 0x007f_ffff, 0x7f7f_ffff];
        let mut state = 0x1234_5678_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 32) as u32
        };
        let mut word = |i: usize, input: usize| match self.inputs {
            // Every special number meets every other one.
            Inputs::Bits if i < 1000 => special[[i % 10, i / 10 % 10, i / 100][input]],
            Inputs::Bits => next(),
            Inputs::SmallPairs if input == 2 => ((next() % 17) as f32 - 8.0).to_bits(),
            Inputs::SmallPairs => [0, 16].map(|at| bf16((next() % 9) as f32 - 4.0) << at).into_iter().sum(),
            Inputs::Pairs if input < 2 => {
                [0, 16].map(|at| bf16(next() as f32 / (1 << 30) as f32 - 2.0) << at).into_iter().sum()
            }
            Inputs::Modest | Inputs::Pairs => (next() as f32 / (1 << 28) as f32 - 8.0).to_bits(),
        };
        [0, 1, 2].map(|input| (0..THREADS * self.width()).map(|i| word(i, input)).collect())
    }

    /// Runs it on a GPU, simulated or not.
    fn run(&self, gpu: &Gpu, inputs: &[Vec<u32>; 3]) -> Vec<u32> {
        // SAFETY: all addresses are those of memory allocated here.
        let driver = unsafe { gpu.raw_driver() };
        let module = driver.load(PTX).unwrap();
        let function = driver.function(module, &format!("classes_{}", self.name), 0).unwrap();
        let memory = [0; 4].map(|_| gpu.alloc(4 * inputs[0].len()).unwrap());
        let regions = [0, 1, 2, 3].map(|i| {
            let access = if i < 3 { Access::Read } else { Access::Write };
            Arg::Pointer(Region { ptr: memory[i].ptr(), bytes: memory[i].bytes(), access })
        });
        for (words, to) in inputs.iter().zip(&memory) {
            driver.upload(to.ptr(), bytemuck::cast_slice(words)).unwrap();
        }
        let launch = Launch { spread: Spread::line(BLOCKS, BLOCK), args: &regions, reached: &[] };
        // SAFETY: four pointers, as every entry of cuda/classes.cu has, to as many words as its threads read and write.
        unsafe { driver.launch(function, &launch) }.unwrap();
        let mut y = vec![0_u32; inputs[0].len()];
        driver.download(memory[3].ptr(), bytemuck::cast_slice_mut(&mut y)).unwrap();
        y
    }

    /// Whether two results agree, word number `i`.
    fn agree(&self, a: u32, b: u32, magnitude: f32) -> bool {
        let (x, y) = (f(a), f(b));
        let same = a == b || (self.is_f32() && x.is_nan() && y.is_nan());
        match self.rule {
            Same => same,
            Near { steps: most, apart } => same || steps(a, b) <= most || (x - y).abs() <= apart,
            Sum { units } => same || (x - y).abs() <= units * magnitude / (1 << 23) as f32,
        }
    }

    /// Whether its words are numbers, in which one NaN is as good as another.
    fn is_f32(&self) -> bool {
        let words =
            ["less", "to_", "multiply", "wide", "divide", "minmax", "logic", "count", "permute", "funnel", "shift"];
        let more = ["field", "shuffle", "vote", "barrier", "matrix", "copy"];
        !words.iter().chain(&more).any(|w| self.name.starts_with(w))
    }

    /// The sum of the magnitudes of the terms of a product's result, generously: of the whole warp's operands.
    fn magnitudes(&self, inputs: &[Vec<u32>; 3]) -> f32 {
        let largest = |words: &[u32]| -> f32 {
            let halves = words.iter().flat_map(|w| [f(w << 16), f(w & 0xffff_0000)]);
            halves.map(f32::abs).fold(0.0, f32::max)
        };
        match self.rule {
            Sum { .. } => 16.0 * largest(&inputs[0]) * largest(&inputs[1]) + largest(&inputs[2]),
            _ => 0.0,
        }
    }
}

/// How many steps of f32 lie between two numbers.
fn steps(a: u32, b: u32) -> u32 {
    let place = |w: u32| if w >> 31 == 1 { -((w & 0x7fff_ffff) as i64) } else { i64::from(w) };
    (place(a) - place(b)).unsigned_abs().min(u32::MAX.into()) as u32
}

#[test]
pub fn a_class_computes_what_its_name_says_whatever_the_order_of_the_warps() {
    let (forward, reverse) = (Sim::new(Order::Forward), Sim::new(Order::Reverse));
    for class in CLASSES {
        let inputs = class.inputs();
        let y = class.run(&forward.gpu, &inputs);
        assert_eq!(y, class.run(&reverse.gpu, &inputs), "{}", class.name);
        let Some(host) = class.host else { continue };
        for (i, &got) in y.iter().enumerate() {
            let [p, q, r] = [0, 1, 2].map(|k| inputs[k][i]);
            let want = host(p, q, r);
            let name = class.name;
            assert!(class.agree(got, want, 0.0), "{name} of {p:#x} {q:#x} {r:#x}: {got:#x}, want {want:#x}");
        }
    }
}

/// Runs only where `TUBELET_TEST_DEVICE` names a GPU; prints a line for each class.
#[test]
fn hardware_agrees_with_the_simulator() {
    let Ok(name) = std::env::var("TUBELET_TEST_DEVICE") else {
        absent("a GPU in TUBELET_TEST_DEVICE", "instructions on hardware");
        return;
    };
    let ordinal = name.strip_prefix("cuda:").and_then(|n| n.parse().ok()).expect("TUBELET_TEST_DEVICE is cuda:N");
    let (hardware, sim) = (Gpu::cuda(ordinal).unwrap(), Sim::new(Order::Forward));
    let mut wrong = Vec::new();
    for class in CLASSES {
        let inputs = class.inputs();
        let (a, b) = (class.run(&hardware, &inputs), class.run(&sim.gpu, &inputs));
        let magnitude = class.magnitudes(&inputs);
        let pairs = || a.iter().zip(&b).map(|(a, b)| (*a, *b));
        let differ = pairs().filter(|(a, b)| !Class { rule: Same, ..*class }.agree(*a, *b, 0.0)).count();
        let furthest = pairs().map(|(a, b)| steps(a, b)).max().unwrap_or(0);
        let refused = pairs().filter(|(a, b)| !class.agree(*a, *b, magnitude)).count();
        let steps =
            if class.is_f32() && differ > 0 { format!(", at most {furthest} steps of f32") } else { String::new() };
        println!("class {}: {} words, {differ} differ{steps}, {refused} more than allowed", class.name, a.len());
        if refused > 0 {
            wrong.push(class.name);
        }
    }
    assert!(wrong.is_empty(), "hardware and simulator differ: {wrong:?}");
}
