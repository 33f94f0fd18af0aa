//! wgrad's sums of products of pairs: an element is a channel of two positions that follow each other.
//!
//! Both operands are copied, because pairs interleave two pixels: the gradients once per chunk of positions, the inputs
//! once per tap and stretch, with zeros for pixels that are outside. Pairs are counted from the start of a chunk and may
//! cross rows; those whose rows a tap does not read are left out.

use super::super::loop_nest::AxisTap;
use super::correlate::{CHUNK, Part, Task};
use super::kernel::{Correlate, Segment, Side};
use super::pairs::{Channels, LANES, pack};
use crate::tensor::Buffer;
use half::bf16;
use std::ops::Range;

/// Pairs per stretch.
const STRETCH: usize = 128;

/// A packed operand: for each tile or block in turn, its channels of one pair after another.
struct Packed {
    channels: Vec<Channels>,
    /// Where each tile or block begins, and numbers per pair.
    parts: Vec<[usize; 2]>,
    numbers: Buffer<bf16>,
}

impl Packed {
    /// Space for so many pairs. Of each tile or block: the first channel, how many, and how many as written, with zeros.
    fn new(parts: &[[usize; 3]], pairs: usize) -> Self {
        let (mut channels, mut places, mut at) = (Vec::new(), Vec::new(), 0);
        for &[first, len, width] in parts {
            let step = 2 * width;
            for i in (0..len).step_by(LANES) {
                let (len, written) = ((len - i).min(LANES), (width - i).min(LANES));
                channels.push(Channels { first: first + i, len, written, to: at + 2 * i, step });
            }
            places.push([at, step]);
            at += step * pairs;
        }
        Packed { channels, parts: places, numbers: Buffer::workspace(at) }
    }

    /// # Safety
    /// There are no more rows than space for them, all channels are readable in each, and the machine has
    /// [`Isa::Avx512Bf16`](crate::cpu::Isa).
    unsafe fn pack(&mut self, rows: &[*const bf16]) {
        // SAFETY: the caller's promise.
        unsafe { pack(rows, &self.channels, self.numbers.as_mut_slice().as_mut_ptr()) }
    }

    /// Tile or block `part`.
    fn side(&self, part: usize) -> Side<bf16> {
        let [at, step] = self.parts[part];
        Side { at: self.numbers.as_slice()[at..].as_ptr(), pixel: step, step }
    }
}

impl Task<'_, bf16> {
    /// The sums of a part, written to `to`.
    pub fn run_pairs(&self, part: Part, to: *mut f32) {
        let Task { k, nest, d, taps, channels, .. } = *self;
        let Part { group, rows, cuts, blocks } = part;
        let (blocks, w) = (&d.blocks[blocks], nest.axes[2].count);
        let tiles: Vec<[usize; 3]> = cuts.windows(2).map(|c| [c[0], c[1] - c[0], c[1] - c[0]]).collect();
        let vectors: Vec<[usize; 3]> = blocks.iter().map(|b| [b.first, b.len, b.vectors * k.lanes]).collect();
        let of_pair = |parts: &[[usize; 3]]| parts.iter().map(|part| part[2]).sum::<usize>();
        let of_chunk = (CHUNK / (of_pair(&tiles).max(of_pair(&vectors)) * w)).clamp(1, rows.len().max(1));
        let [of_x, of_dy] = if d.by_input { [&vectors, &tiles] } else { [&tiles, &vectors] };
        let mut inputs = Packed::new(of_x, STRETCH);
        let mut gradients = Packed::new(of_dy, (of_chunk * w).div_ceil(2));
        let zeros = vec![bf16::ZERO; nest.run.max(channels)];
        let mut stretch = Stretch::default();
        for chunk in rows.clone().step_by(of_chunk).map(|start| start..(start + of_chunk).min(rows.end)) {
            let positions = chunk.start * w..chunk.end * w;
            let dy = &self.dy[positions.start * nest.out_pitch + group * channels..];
            stretch.rows.clear();
            stretch.rows.extend((0..positions.len()).map(|i| dy[i * nest.out_pitch..].as_ptr()));
            stretch.rows.resize(positions.len().next_multiple_of(2), zeros.as_ptr());
            // SAFETY: the group's channels follow in each row, and are as many as there are zeros; the chunk has no more
            // positions than `of_chunk` rows, and `k` belongs to this machine.
            unsafe { gradients.pack(&stretch.rows) };
            for (i, tap) in taps.iter().enumerate() {
                let (result, step) = self.result(group, i);
                for first in (0..positions.len()).step_by(2 * STRETCH) {
                    let fresh = chunk.start == rows.start && first == 0;
                    let of_stretch = positions.start + first..positions.end.min(positions.start + first + 2 * STRETCH);
                    self.collect(group, *tap, of_stretch, first / 2, zeros.as_ptr(), &mut stretch);
                    if stretch.segments.is_empty() && !fresh {
                        continue;
                    }
                    // SAFETY: `collect` returns pixels inside of `x` that are followed by `run` numbers, and zeros.
                    unsafe { inputs.pack(&stretch.rows) };
                    for (b, block) in blocks.iter().enumerate() {
                        for (t, &[first, len, _]) in tiles.iter().enumerate() {
                            let (a, b) = if d.by_input {
                                (gradients.side(t), inputs.side(b))
                            } else {
                                (inputs.side(t), gradients.side(b))
                            };
                            let to = to.wrapping_add(result + first * step + block.first);
                            let from = if fresh { std::ptr::null() } else { to.cast_const() };
                            let (segments, last) = (stretch.segments.as_slice(), block.last);
                            let call = Correlate { segments, a, b, from, from_step: step, to, to_step: step, last };
                            // SAFETY: the segments' pairs were packed; `to` is this tile's place in an array as large as
                            // `dw`, which no other task writes. `k` belongs to this machine.
                            unsafe { k.correlate[block.vectors - 1][len - 1](&call) }
                        }
                    }
                }
            }
        }
    }

    /// The pixels that `tap` reads for some positions, which begin with pair `first` of their chunk.
    fn collect(
        &self,
        group: usize,
        tap: [&AxisTap; 3],
        positions: Range<usize>,
        first: usize,
        zeros: *const bf16,
        to: &mut Stretch,
    ) {
        let Task { nest, x, d, .. } = *self;
        let [t, h, w] = &nest.axes;
        let (inside, step) = (&tap[2].inside, w.step * nest.pitch);
        to.rows.clear();
        let mut at = positions.start;
        while at < positions.end {
            let (row, q) = (at / w.count, at % w.count);
            let (n, qt, qh) = (row / (t.count * h.count), row / h.count % t.count, row % h.count);
            let here = (w.count - q).min(positions.end - at);
            if tap[0].inside.contains(&qt) && tap[1].inside.contains(&qh) {
                let of_row = nest.input(n, [qt, qh, 0]).wrapping_add_signed(nest.offset(tap)) + group * nest.run;
                to.rows.extend((q..q + here).map(|q| match inside.contains(&q) {
                    true => x[of_row.wrapping_add(q * step)..].as_ptr(),
                    false => zeros,
                }));
            } else {
                to.rows.resize(to.rows.len() + here, std::ptr::null());
            }
            at += here;
        }
        to.rows.resize(to.rows.len().next_multiple_of(2), std::ptr::null());
        to.segments.clear();
        let mut kept = 0;
        for pair in 0..to.rows.len() / 2 {
            let rows = [to.rows[2 * pair], to.rows[2 * pair + 1]];
            if rows.iter().all(|row| row.is_null()) {
                continue;
            }
            to.rows[2 * kept..][..2].copy_from_slice(&rows.map(|row| if row.is_null() { zeros } else { row }));
            let (of_chunk, [a, b]) =
                (first + pair, if d.by_input { [first + pair, kept] } else { [kept, first + pair] });
            match to.segments.last_mut() {
                Some(s) if (if d.by_input { s.a } else { s.b }) + s.count == of_chunk => s.count += 1,
                _ => to.segments.push(Segment { a, b, count: 1 }),
            }
            kept += 1;
        }
        to.rows.truncate(2 * kept);
    }
}

/// The pixels that a tap reads in a stretch.
#[derive(Default)]
struct Stretch {
    /// Two rows for each pair.
    rows: Vec<*const bf16>,
    /// The same pairs: those of the input are counted in `rows`, those of the gradient in the chunk.
    segments: Vec<Segment>,
}
