//! Tests of one instruction on many values: registers of each kind are loaded from memory and the result is stored.

use super::{Device, Rng};
use ptxsim::{Access::*, Order};

/// A kind of register: predicate, 16, 32, 64 bits, f32, f64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    P,
    H,
    W,
    X,
    F,
    D,
}

impl Kind {
    /// Truncates to the register's bits.
    pub fn cut(self, v: u64) -> u64 {
        match self {
            Kind::P => v & 1,
            Kind::H => v & 0xffff,
            Kind::W | Kind::F => v & 0xffff_ffff,
            Kind::X | Kind::D => v,
        }
    }

    fn register(self, i: usize) -> String {
        let name = ["%p", "%h", "%r", "%rd", "%f", "%d"][self as usize];
        format!("{name}{}", if matches!(self, Kind::W | Kind::X | Kind::F) { 10 + i } else { 1 + i })
    }

    /// Copies from the 64-bit register `%rd20`.
    fn fill(self, i: usize) -> String {
        let r = self.register(i);
        match self {
            Kind::P => format!("setp.ne.u64 {r}, %rd20, 0;"),
            Kind::H => format!("cvt.u16.u64 {r}, %rd20;"),
            Kind::W => format!("cvt.u32.u64 {r}, %rd20;"),
            Kind::X => format!("mov.u64 {r}, %rd20;"),
            Kind::F => format!("cvt.u32.u64 %r50, %rd20; mov.b32 {r}, %r50;"),
            Kind::D => format!("mov.b64 {r}, %rd20;"),
        }
    }

    /// Copies to `%rd20`.
    fn drain(self, i: usize) -> String {
        let r = self.register(i);
        match self {
            Kind::P => format!("selp.u64 %rd20, 1, 0, {r};"),
            Kind::H => format!("cvt.u64.u16 %rd20, {r};"),
            Kind::W => format!("cvt.u64.u32 %rd20, {r};"),
            Kind::X => format!("mov.u64 %rd20, {r};"),
            Kind::F => format!("mov.b32 %r50, {r}; cvt.u64.u32 %rd20, %r50;"),
            Kind::D => format!("mov.b64 %rd20, {r};"),
        }
    }

    fn values(self, rng: &mut Rng) -> Vec<u64> {
        let mut v: Vec<u64> = match self {
            Kind::P => vec![0, 1],
            Kind::F => {
                let special =
                    [0.0, 1.0, 0.5, 1.5, 2.5, f32::MAX, f32::MIN_POSITIVE, 1e-42, f32::INFINITY, 3e9, 255.5, 0.1];
                let nan = [0x7fc0_0000u64, 0x7f80_0001];
                special.iter().flat_map(|x| [x.to_bits() as u64, (-x).to_bits() as u64]).chain(nan).collect()
            }
            Kind::D => {
                let special =
                    [0.0, 1.0, 0.5, 2.5, f64::MAX, f64::MIN_POSITIVE, 1e-310, f64::INFINITY, 3e9, 1e19, 0.1, f64::NAN];
                special.iter().flat_map(|x| [x.to_bits(), (-x).to_bits()]).collect()
            }
            _ => {
                let small = [0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 128, 255, 256, 257];
                let edges = [15, 16, 31, 32, 63].map(|b| 1u64 << b);
                small
                    .into_iter()
                    .chain(edges)
                    .chain(edges.map(|e| e - 1))
                    .chain([u64::MAX, u64::MAX - 1, u64::MAX << 31])
                    .collect()
            }
        };
        for i in 0..40 {
            let r = rng.next();
            v.push(match self {
                // Numbers of similar magnitude, so that sums round and cancel.
                Kind::F if i % 2 == 0 => ((r >> 40) as f32 / 1e5 - 80.0).to_bits() as u64,
                Kind::D if i % 2 == 0 => ((r >> 20) as f64 / 1e9 - 8e3).to_bits(),
                Kind::X | Kind::D => r,
                _ => r >> 32 >> (r % 3 * 8),
            });
        }
        v.into_iter().map(|x| self.cut(x)).collect()
    }
}

/// Sources that combine every special value with every other, up to 2048 cases.
pub fn inputs(kinds: &[Kind]) -> Vec<[u64; 4]> {
    let mut rng = Rng(kinds.len() as u64);
    let lists: Vec<Vec<u64>> = kinds.iter().map(|k| k.values(&mut rng)).collect();
    let all = lists.iter().map(Vec::len).product::<usize>();
    (0..all.min(2048))
        .map(|i| {
            // All combinations if there are few enough, else a random selection of them.
            let mut at = if all <= 2048 { i } else { (rng.next() % all as u64) as usize };
            let mut c = [0; 4];
            for (x, list) in c.iter_mut().zip(&lists) {
                *x = list[at % list.len()];
                at /= list.len();
            }
            c
        })
        .collect()
}

/// Runs `text`, where `D` is the destination and `A`, `B`, `C`, `E` are the sources, on every case.
pub fn run(text: &str, d: Kind, s: &[Kind], cases: &[[u64; 4]]) -> Vec<u64> {
    let mut line = String::new();
    let words: Vec<char> = text.chars().collect();
    for (i, c) in words.iter().enumerate() {
        let alone =
            |j: Option<&char>| j.is_none_or(|c| !(c.is_ascii_alphanumeric() || *c == '.' || *c == '%' || *c == '_'));
        let slot =
            "DABCE".find(*c).filter(|_| alone(i.checked_sub(1).and_then(|j| words.get(j))) && alone(words.get(i + 1)));
        match slot {
            Some(0) => line += &d.register(5),
            Some(k) => line += &s[k - 1].register(k - 1),
            None => line.push(*c),
        }
    }
    let fills: String =
        s.iter().enumerate().map(|(i, k)| format!("ld.global.u64 %rd20, [%rd6+{}]; {}\n", 8 * i, k.fill(i))).collect();
    let drain = d.drain(5);
    let body = format!(
        "mov.u32 %r3, %ctaid.x; mov.u32 %r4, %ntid.x; mad.lo.s32 %r5, %r3, %r4, %r1; setp.ge.u32 %p8, %r5, %r2; @%p8 ret;
        mul.wide.u32 %rd7, %r5, 32; add.s64 %rd6, %rd1, %rd7; mul.wide.u32 %rd7, %r5, 8; add.s64 %rd8, %rd2, %rd7;
        {fills} {line} {drain} st.global.u64 [%rd8], %rd20;"
    );
    let dev = Device::text(&super::kernel(&body), Order::Forward);
    let bytes: Vec<u8> = cases.iter().flatten().flat_map(|v| v.to_le_bytes()).collect();
    let (a, b) = (dev.bytes(&bytes), dev.empty(8 * cases.len()));
    let grid = [cases.len().div_ceil(96) as u32, 1, 1];
    dev.launch("k", grid, [96, 1, 1], 0, &[a.p(Read), b.p(Write), super::int(cases.len())])
        .unwrap_or_else(|f| panic!("{text}: {f}"));
    dev.read_u64s(&b)
}
