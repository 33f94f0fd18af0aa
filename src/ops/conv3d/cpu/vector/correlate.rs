//! wgrad: products of the input with the gradient of the output, summed over positions.
//!
//! A tile is some channels of one operand, broadcast one by one, times some vectors of channels of the other. The
//! vectors are channels of the input, so that the tile's rows are contiguous in `dw`, unless the input has too few
//! channels to fill vectors. Each task computes a rectangle of the tiles, summed over some of the positions. It goes
//! through the positions in chunks, whose operands are copied into the order in which tiles read them, and through each
//! chunk in stretches that stay in the L1 cache. ([`super::correlate_pairs`] are the tasks for pairs of bf16 numbers.)

use super::super::loop_nest::{AxisTap, LoopNest};
use super::kernel::{Correlate, Kernels, Segment, Side, VECTORS};
use super::operand::Number;
use super::pack::{Pack, PackTiles, Packers};
use super::panels::{Block, Out, blocks};
use super::transpose::transpose;
use crate::cpu::simd::prefetch;
use crate::cpu::traffic::{self, Temporary, Work};
use crate::error::Result;
use crate::tensor::Buffer;
use rayon::prelude::*;
use std::ops::Range;

/// Positions per stretch.
const STRETCH: usize = 192;

/// Maximum numbers per chunk of either operand. The broadcast operand is copied completely and the blocks of vectors
/// are read one after another, so both should stay in the L2 cache.
pub(super) const CHUNK: usize = 1 << 16;

/// Minimum positions per set, so that adding up its sums pays, and maximum numbers of the sums of all sets.
const SET: usize = 2048;
const SUMS: usize = 1 << 22;

/// Target number of tasks.
const TASKS: usize = 8;

/// Packing pays from this many vectors and channels on that use each copied number.
const WORTH: usize = 64;

/// Which operand's channels fill the vectors, how the tiles are laid out, and how they are divided into tasks.
pub(super) struct Division {
    pub by_input: bool,
    /// Channels that are broadcast one by one, and how many tiles they make.
    singles: usize,
    tiles: usize,
    /// Channels in vectors.
    pub blocks: Vec<Block>,
    sets: usize,
    /// Parts into which the tiles and the blocks are divided.
    tile_parts: usize,
    block_parts: usize,
}

impl Division {
    fn new<N>(k: &Kernels<N>, nest: &LoopNest, groups: usize, channels: usize, taps: usize) -> Self {
        let by_input = nest.run >= 2 * k.lanes || nest.run >= channels;
        let (singles, vectors) = if by_input { (channels, nest.run) } else { (nest.run, channels) };
        let blocks = blocks(k, vectors, VECTORS);
        let tiles = singles.div_ceil(k.rows);
        let positions = nest.positions();
        let sets = (positions / SET).min(SUMS / (groups * singles * vectors * taps).max(1)).clamp(1, TASKS);
        let sets = sets.min(positions / nest.axes[2].count); // of whole rows
        let (mut tile_parts, mut block_parts) = (1, 1);
        while sets * groups * tile_parts * block_parts < TASKS {
            // Splitting the channels of one operand means that those of the other are copied once more.
            let (of_tiles, of_blocks) = (tiles / tile_parts, blocks.len() / block_parts);
            if of_blocks >= 2 && of_blocks * taps >= 8 && of_blocks * VECTORS * k.lanes * taps >= of_tiles * k.rows {
                block_parts *= 2;
            } else if of_tiles >= 8 {
                tile_parts *= 2;
            } else {
                break;
            }
        }
        Division { by_input, singles, tiles, blocks, sets, tile_parts, block_parts }
    }

    /// What the tasks read, apart from the sums of all sets. Where the channels of one operand are divided, those of the
    /// other are read once for each part. `own` sums are added to the first set's, which are in `dw`.
    fn work<N>(&self, x: &[N], dy: &[N], dw: &[f32], own: usize, parts: usize) -> Work {
        let [of_x, of_dy] = match self.by_input {
            true => [self.tile_parts, self.block_parts],
            false => [self.block_parts, self.tile_parts],
        };
        let again = if self.by_input && own > 0 { size_of_val(dw) } else { 0 };
        let read = of_x * size_of_val(x) + of_dy * size_of_val(dy);
        Work::moves(read + again, again, self.sets * parts)
    }
}

/// `dw` (`group channel tap run`) for `channels` outputs per group. The division of positions depends on the extents
/// alone, and the sums of the sets are added in order. `sum` takes the sums of one set of positions over one part of a group's
/// tiles, and writes them to a place in an array like `dw`.
pub(super) fn run<N: Number>(
    k: &Kernels<N>,
    nest: &LoopNest,
    [x, dy]: [&[N]; 2],
    groups: usize,
    channels: usize,
    dw: &mut [f32],
    sum: impl Fn(&Task<N>, Part, *mut f32) + Sync,
) -> Result<()> {
    let taps: Vec<[&AxisTap; 3]> = nest.taps().collect();
    if nest.positions() == 0 || dw.is_empty() {
        dw.fill(0.0);
        return Ok(());
    }
    let d = Division::new(k, nest, groups, channels, taps.len());
    let task = Task { k, nest, x, dy, channels, taps: &taps, d: &d };
    // If vectors are of the input, the first set's sums are computed in `dw` itself; otherwise all sets have arrays of
    // their own, in another order.
    let own = d.sets - usize::from(d.by_input);
    let mut sums = Buffer::arbitrary(own * dw.len())?;
    let parts = groups * d.tile_parts * d.block_parts;
    traffic::more(|| d.work(x, dy, dw, own, parts));
    let of_sums = size_of_val(sums.as_slice());
    traffic::temporary(Temporary::Sums, of_sums, of_sums);
    let len = dw.len();
    let out = Out::new(dw);
    let others = Out::new(sums.as_mut_slice());
    (0..d.sets * parts).into_par_iter().with_max_len(1).for_each(|i| {
        let (set, part) = (i / parts, i % parts);
        let to = match set.checked_sub(usize::from(d.by_input)) {
            Some(set) => others.at(set * len),
            None => out.at(0),
        };
        sum(&task, task.part(set, part), to);
    });
    let sums = sums.as_slice();
    if d.by_input {
        if own > 0 {
            dw.par_chunks_mut(ADDED).enumerate().for_each(|(i, dw)| {
                for other in sums.chunks_exact(len) {
                    dw.iter_mut().zip(&other[i * ADDED..]).for_each(|(dw, v)| *dw += v);
                }
            });
        }
        return Ok(());
    }
    let mut sum = Vec::new();
    for (group, dw) in dw.chunks_exact_mut(channels * taps.len() * nest.run).enumerate() {
        let first = group * dw.len();
        sum.clear();
        sum.extend_from_slice(&sums[first..first + dw.len()]);
        for other in sums.chunks_exact(len).skip(1) {
            sum.iter_mut().zip(&other[first..]).for_each(|(sum, v)| *sum += v);
        }
        transpose(&sum, channels, dw, taps.len() * nest.run, taps.len() * nest.run, channels);
    }
    Ok(())
}

/// Numbers of the result added up at a time.
const ADDED: usize = 1 << 14;

/// What all tasks share.
pub(super) struct Task<'a, N: 'static> {
    pub k: &'a Kernels<N>,
    pub nest: &'a LoopNest,
    pub x: &'a [N],
    pub dy: &'a [N],
    pub channels: usize,
    pub taps: &'a [[&'a AxisTap; 3]],
    pub d: &'a Division,
}

/// What one of them computes.
pub(super) struct Part {
    pub group: usize,
    /// Rows of positions.
    pub rows: Range<usize>,
    /// First channel of each tile, and the end of the last.
    pub cuts: Vec<usize>,
    pub blocks: Range<usize>,
}

impl<N> Task<'_, N> {
    /// The rows of a set, and part `part` of the tiles and blocks of all groups.
    fn part(&self, set: usize, part: usize) -> Part {
        let d = self.d;
        let parts = d.tile_parts * d.block_parts;
        let (group, tile_part, block_part) = (part / parts, part % parts / d.block_parts, part % d.block_parts);
        let tiles = d.tiles * tile_part / d.tile_parts..d.tiles * (tile_part + 1) / d.tile_parts;
        let rows = self.nest.positions() / self.nest.axes[2].count;
        Part {
            group,
            rows: rows * set / d.sets..rows * (set + 1) / d.sets,
            cuts: (tiles.start..=tiles.end).map(|i| d.singles * i / d.tiles).collect(),
            blocks: d.blocks.len() * block_part / d.block_parts..d.blocks.len() * (block_part + 1) / d.block_parts,
        }
    }

    /// Where the results of a group and tap begin in an array like `dw` whose rows are in the order of the tiles' rows, and the
    /// distance of these rows.
    pub fn result(&self, group: usize, tap: usize) -> (usize, usize) {
        let Task { nest, taps, channels, .. } = self;
        let index = nest.index(taps[tap]);
        if self.d.by_input {
            ((group * channels * taps.len() + index) * nest.run, taps.len() * nest.run)
        } else {
            ((group * taps.len() + index) * nest.run * channels, *channels)
        }
    }
}

/// The pixels of a stretch at which a tap is inside. `a` counts pixels of the broadcast operand, `b` those of the one
/// in vectors; gradients are counted from the first of the chunk, inputs from the start of the array.
#[derive(Default)]
struct Stretch {
    plain: Vec<Segment>,
    /// The same where `b` counts only the pixels inside.
    dense: Vec<Segment>,
}

impl Task<'_, f32> {
    /// The sums of a part, written to `to`.
    pub fn run(&self, packers: &Packers, part: Part, to: *mut f32) {
        let Task { k, nest, d, taps, channels, .. } = *self;
        let Part { group, rows, cuts, blocks } = part;
        let tiles = cuts.len() - 1;
        let (first, singles) = (cuts[0], cuts[tiles] - cuts[0]);
        let vectors: usize = d.blocks[blocks.clone()].iter().map(|b| b.len).sum();
        let width = VECTORS * k.lanes;

        // Rows of positions: of this set, of a stretch, of a chunk. Without packing there are stretches only.
        let w = nest.axes[2].count;
        let of_stretch = (STRETCH / w).max(1);
        let (packs_tiles, packs) = (d.by_input && vectors * taps.len() >= WORTH, d.by_input && singles >= WORTH);
        let of_chunk = if packs_tiles { (CHUNK / (singles.max(vectors) * w)).max(1) } else { 1 };
        let of_chunk = of_chunk.next_multiple_of(of_stretch);
        let pixels = of_chunk.min(rows.len()) * w;
        let mut dealt = Buffer::<f32>::workspace(if packs_tiles { pixels * singles } else { 0 });
        let mut packed = Buffer::<f32>::workspace(if packs { of_stretch * w * width } else { 0 });
        let mut sums = Buffer::<f32>::workspace(tiles * k.rows * width);
        let (dealt, packed, sums) = (dealt.as_mut_slice(), packed.as_mut_slice(), sums.as_mut_slice());

        let x = self.x.as_ptr().wrapping_add(group * nest.run);
        let x = Side { at: x, pixel: nest.pitch, step: nest.axes[2].step * nest.pitch };
        let mut stretches: Vec<Stretch> = Vec::new();
        for chunk in rows.clone().step_by(of_chunk).map(|start| start..(start + of_chunk).min(rows.end)) {
            let dy = &self.dy[chunk.start * w * nest.out_pitch + group * channels..];
            let dy = Side { at: dy.as_ptr(), pixel: nest.out_pitch, step: nest.out_pitch };
            let count = chunk.len().div_ceil(of_stretch);
            stretches.resize_with(taps.len() * count, Stretch::default);
            for (i, stretch) in stretches.iter_mut().enumerate() {
                let from = chunk.start + i % count * of_stretch;
                let rows = from..(from + of_stretch).min(chunk.end);
                stretch.collect(nest, taps[i / count], chunk.start, rows, d.by_input);
            }
            if packs_tiles {
                let (count, to) = (chunk.len() * w, dealt.as_mut_ptr());
                let pack_tiles = PackTiles { from: dy.at, step: dy.step, count, cuts: &cuts, to, pixels };
                // SAFETY: the chunk's pixels follow each other in `dy`, with this group's channels at each; there are no
                // more of them than `pixels`, and as many numbers as `pixels` times the tiles' channels. `k` belongs to
                // this machine.
                unsafe { (packers.pack_tiles)(&pack_tiles) }
            }
            let (a, b) = if d.by_input { (dy, x) } else { (x, dy) };
            let all =
                blocks.clone().flat_map(|b| stretches.iter().enumerate().map(move |(i, stretch)| (b, i, stretch)));
            let mut all = all.peekable();
            while let Some((index, i, stretch)) = all.next() {
                let (block, tap, s) = (&d.blocks[index], i / count, i % count);
                let mut b = Side { at: b.at.wrapping_add(block.first), ..b };
                let mut segments = &stretch.plain;
                let mut ahead = None;
                if packs {
                    let (to, width) = (packed.as_mut_ptr(), block.vectors * k.lanes);
                    let pack = Pack { segments, from: b, to, width, last: block.last };
                    // SAFETY: `collect` returns only positions whose tap is inside of `x`, where `run` numbers follow,
                    // including the block's; a stretch has at most as many as there is space for. `k` belongs to this
                    // machine.
                    unsafe { (packers.pack[block.vectors - 1])(&pack) }
                    (b, segments) = (Side { at: to, pixel: width, step: width }, &stretch.dense);
                    ahead = all.peek().map(|(next, _, stretch)| {
                        let side = Side { at: x.at.wrapping_add(d.blocks[*next].first), ..x };
                        Prefetcher::new(side, &stretch.plain, tiles)
                    });
                }
                let (result, step) = self.result(group, tap);
                for (i, cut) in cuts.windows(2).enumerate() {
                    if let Some(ahead) = &mut ahead {
                        ahead.prefetch();
                    }
                    let len = cut[1] - cut[0];
                    let a = if packs_tiles {
                        Side { at: dealt[(cut[0] - first) * pixels..].as_ptr(), pixel: len, step: len }
                    } else {
                        Side { at: a.at.wrapping_add(cut[0]), ..a }
                    };
                    let (result, part) =
                        (to.wrapping_add(result + cut[0] * step + block.first), &mut sums[i * k.rows * width..]);
                    let (from, from_step) = match s {
                        0 if chunk.start == rows.start => (std::ptr::null(), 0),
                        0 => (result.cast_const(), step),
                        _ => (part.as_ptr(), width),
                    };
                    let (to, to_step) = if s + 1 == count { (result, step) } else { (part.as_mut_ptr(), width) };
                    let call = Correlate { segments, a, b, from, from_step, to, to_step, last: block.last };
                    // SAFETY: the pixels of the segments are inside of both operands, as above or as copied, with the
                    // channels of the tile and the block; `result` is this tile's place in an array as large as `dw`,
                    // which no other task writes, and `sums` has space for each tile. `k` belongs to this machine.
                    unsafe { k.correlate[block.vectors - 1][len - 1](&call) }
                }
            }
        }
    }
}

/// Prefetches the inputs of the next block or tap, some before each tile.
struct Prefetcher<'a> {
    side: Side<f32>,
    segments: &'a [Segment],
    segment: usize,
    pixel: usize,
    each: usize,
}

impl<'a> Prefetcher<'a> {
    fn new(side: Side<f32>, segments: &'a [Segment], tiles: usize) -> Self {
        let pixels: usize = segments.iter().map(|s| s.count).sum();
        Prefetcher { side, segments, segment: 0, pixel: 0, each: pixels.div_ceil(tiles) }
    }

    fn prefetch(&mut self) {
        let mut left = self.each;
        while let Some(s) = self.segments.get(self.segment) {
            let here = left.min(s.count - self.pixel);
            let at = self.side.at.wrapping_add(s.b * self.side.pixel + self.pixel * self.side.step);
            for i in 0..here {
                let at = at.wrapping_add(i * self.side.step);
                prefetch(at);
                prefetch(at.wrapping_add(16));
            }
            (left, self.pixel) = (left - here, self.pixel + here);
            if left == 0 {
                return;
            }
            (self.segment, self.pixel) = (self.segment + 1, 0);
        }
    }
}

impl Stretch {
    /// The pixels of some rows of positions at which `tap` is inside. Gradients are counted from the first pixel of row
    /// `first`.
    fn collect(&mut self, nest: &LoopNest, tap: [&AxisTap; 3], first: usize, rows: Range<usize>, by_input: bool) {
        let [t, h, w] = &nest.axes;
        self.plain.clear();
        self.dense.clear();
        let inside = tap[2].inside.clone();
        if inside.is_empty() {
            return;
        }
        let mut seen = 0;
        for row in rows {
            let (n, qt, qh) = (row / (t.count * h.count), row / h.count % t.count, row % h.count);
            if !tap[0].inside.contains(&qt) || !tap[1].inside.contains(&qh) {
                continue;
            }
            let a = (row - first) * w.count + inside.start;
            // The pixel that the tap reads for the first position of the row that is inside.
            let b = nest.input(n, [qt, qh, inside.start]).wrapping_add_signed(nest.offset(tap)) / nest.pitch;
            let count = inside.len();
            match self.plain.last_mut() {
                Some(s) if s.b + s.count * w.step == b && s.a + s.count == a => s.count += count,
                _ => self.plain.push(Segment { a, b, count }),
            }
            match self.dense.last_mut() {
                Some(s) if s.a + s.count == a => s.count += count,
                _ => self.dense.push(Segment { a, b: seen, count }),
            }
            seen += count;
        }
        if !by_input {
            self.plain.iter_mut().for_each(|s| std::mem::swap(&mut s.a, &mut s.b));
        }
    }
}
