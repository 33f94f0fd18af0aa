//! What a launched convolution loads and multiplies: its implicit product, cut into the kernel's tiles.

use super::ptx::Loop;
use super::recorder::Launch;
use super::stem;
use tubelet::ops::conv3d::{Launched, Operator};

/// A pass of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    Fprop,
    Dgrad,
    Wgrad,
}

/// The pass that a kernel computes, by its name.
pub fn pass(name: &str) -> Option<Pass> {
    let rest = name.strip_prefix("conv3d_")?;
    let all = [("fprop", Pass::Fprop), ("dgrad", Pass::Dgrad), ("wgrad", Pass::Wgrad)];
    all.into_iter().find_map(|(word, pass)| rest.starts_with(word).then_some(pass))
}

/// The problem of a launch of one of these passes.
pub fn problem(launch: &Launch) -> Option<(Pass, Launched)> {
    Some((pass(&launch.name)?, launch.values.iter().find_map(|value| Launched::read(value))?))
}

/// Whether the kernel's operands come by TMA: in k-blocks of 64 channels of a tap, past the first-level cache, to warps of
/// their own that do not multiply.
pub fn by_tma(name: &str) -> bool {
    name.contains("_sm90_")
}

/// The share of the result that a launch writes: dgrad by TMA has one for each residue class, which is its last but one
/// argument.
pub fn share(launch: &Launch, pass: Pass, p: &Launched) -> f64 {
    let all = products(pass, p);
    let rows: usize = all.iter().map(|product| product.rows).sum();
    of_launch(launch, pass, &all).iter().map(|product| product.rows as f64).sum::<f64>() / rows.max(1) as f64
}

/// The products that a launch computes.
fn of_launch<'a>(launch: &Launch, pass: Pass, all: &'a [Product]) -> &'a [Product] {
    if pass != Pass::Dgrad || !by_tma(&launch.name) || launch.name.contains("_halo_") {
        return all;
    }
    let [.., class, _] = &launch.values[..] else { return all };
    let class = word(class);
    all.get(class..class + 1).unwrap_or(all)
}

/// One of the products of a pass: dgrad has one for each residue class of inputs modulo the stride.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Product {
    rows: usize,
    columns: usize,
    depth: usize,
}

/// A pass on the tiles of its kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tiled {
    /// Blocks that have products.
    pub blocks: f64,
    /// k-blocks of one of them, in the mean.
    pub k_blocks: f64,
    /// Bytes of operands that all blocks request; what lies outside of the arrays is filled with zeros instead.
    pub operands: f64,
    /// Those of them that an earlier tap of the same block has brought to the first-level cache.
    pub again: f64,
    /// Bytes that a block writes to shared memory per k-block.
    pub stage: f64,
}

/// A pass with products of tensor cores; `warps` of a block multiply.
pub fn tiled(pass: Pass, p: &Launched, launch: &Launch, main: &Loop, warps: f64) -> Option<Tiled> {
    if let Some(tiled) = stem::tiled(pass, p, launch) {
        return Some(tiled);
    }
    let everything = products(pass, p);
    let products = of_launch(launch, pass, &everything);
    let (first, splits) = (*products.first()?, splits(pass, p));
    // Operations of a block in a pass of the loop: products and k-block together.
    let operations = main.mma as f64 * warps + main.wgmma as f64 * warps / 4.0;
    let [m, n] = named(&launch.name).or_else(|| solved(main, operations, warps, &first, launch.spread.grid[0]))?;
    let k = (operations / (2 * m * n) as f64).round().max(16.0) as usize;
    // Where the pixels of a tile are copied with their halo: positions of all frames, and pixels copied for each tap.
    let halo = launch.values.iter().find(|value| value.len() == 20).filter(|_| launch.name.contains("_halo_"));
    let halo = halo.map(|value| [0, 1, 2, 3].map(|i| word(&value[4 * i..])));
    let of_taps = halo.map(|[pitch, lines, ..]| (pitch * lines).div_ceil(p.kernel[1] * p.kernel[2]));
    // Of wgrad: lines of dy that such a unit has, its positions, and the units of a frame.
    let unit = halo.filter(|_| pass == Pass::Wgrad).map(|[pitch, lines, parts, units]| {
        let of_dy = lines - (p.kernel[1] - 1) * p.dilation[1];
        (lines as f64 / of_dy as f64, pitch * of_dy, parts * units)
    });
    let inside = inside(pass, p, &everything);
    // dgrad that forms its gradient reads two tensors for it.
    let of_rows = if launch.name.contains("_affine_") { 2 } else { 1 };
    let mut all = Tiled {
        blocks: 0.0,
        k_blocks: 0.0,
        operands: 0.0,
        again: 0.0,
        stage: ((of_taps.unwrap_or(m) * of_rows + n) * k * 2) as f64,
    };
    let operator = match pass {
        Pass::Fprop => Operator::Fprop,
        Pass::Dgrad => Operator::Dgrad,
        Pass::Wgrad => Operator::Wgrad,
    };
    let tma = by_tma(&launch.name);
    // Blocks of a cluster compute tiles one above the other, and read the other operand once.
    let cluster = if launch.name.contains("_pair_") { 2 } else { 1 };
    let again = if tma { 0.0 } else { 1.0 - p.gather(operator).fresh([m, n]) };
    // Channels of a tap, and what they are filled up to: in a k-block, of which tiles with halos multiply what is not only
    // filling, and in a block of columns.
    let channels = p.of_row[usize::from(pass == Pass::Dgrad)].max(1);
    let whole = if halo.is_some() { 16 } else { 64 };
    let filled =
        |extent: usize, to: usize| if tma { extent / channels * channels.next_multiple_of(to) } else { extent };
    for product in products.iter().filter(|product| product.depth > 0) {
        let wgrad = pass == Pass::Wgrad;
        // Of wgrad with halos, a tile has the taps of a frame of the filter.
        let of_tile = if unit.is_some() { n / (p.kernel[1] * p.kernel[2]) } else { 64 };
        let columns = if wgrad { filled(product.columns, of_tile) } else { product.columns };
        let depth = if wgrad { product.depth } else { filled(product.depth, whole) };
        let frames = if pass == Pass::Dgrad { p.input[0] } else { p.out[0] };
        let down = match halo {
            Some([_, _, parts, tiles]) if !wgrad => p.n * frames * parts * tiles,
            _ => product.rows.div_ceil(m),
        };
        // Of a cluster the last tile may be nothing but zeros.
        let down = down.next_multiple_of(cluster as usize);
        let across = columns.div_ceil(n);
        let blocks = (down * across * splits) as f64;
        let (rows, columns) = ((product.rows * across) as f64, (product.columns * down / cluster as usize) as f64);
        if let Some((of_x, positions, units)) = unit {
            let (all_units, tiles) = (p.n * p.out[0] * units, down * across);
            let splits = all_units.div_ceil(p.split.max(1));
            all.blocks += (tiles * splits) as f64;
            // Units whose frame of x is outside are left out.
            let pairs = frames_inside(pass, p);
            let share = pairs as f64 / (p.out[0] * p.kernel[0]) as f64;
            all.k_blocks += (tiles * all_units * positions.div_ceil(k)) as f64 * share;
            let [pitch, lines, parts, units] = halo.unwrap_or_default();
            let of_dy = positions / pitch.max(1);
            let pad = p.pad.map(|pad| -(pad as i64));
            let gradient = Copies { pitch, lines: of_dy, parts, tiles: units };
            let dy = gradient.pixels(p.out, [0; 3], |unit| unit * of_dy) * across / p.kernel[0].max(1) * product.rows;
            // Blocks of 64 channels; those of a tile of 144 reach into the next tile's.
            let blocks = of_tile.next_multiple_of(64);
            let of_tiles = (0..channels).step_by(of_tile).map(|c| blocks.min(channels - c)).sum::<usize>();
            let x = Copies { lines, ..gradient }.pixels(p.input, pad, |unit| unit * of_dy) * down * of_tiles;
            all.operands += (2 * p.n * pairs * (dy + x)) as f64;
            all.stage = (k * 2) as f64 * (m as f64 + blocks as f64 * of_x);
            continue;
        }
        if let Some([pitch, lines, parts, tiles]) = halo {
            let (grid, lowest) = match pass {
                Pass::Dgrad => (p.out, [0, 1, 2].map(|a| p.pad[a] as i64 - ((p.kernel[a] - 1) * p.dilation[a]) as i64)),
                _ => (p.input, p.pad.map(|pad| -(pad as i64))),
            };
            // Taps whose frame is outside are left out, lines and filters.
            let pairs = frames_inside(pass, p);
            let share = pairs as f64 / (frames * p.kernel[0]) as f64;
            let pixels = Copies { pitch, lines, parts, tiles }.pixels(grid, lowest, |tile| tile * m / pitch);
            let of_filters = (parts * tiles * p.kernel[1] * p.kernel[2] * product.columns) as f64 / f64::from(cluster);
            all.blocks += blocks;
            all.k_blocks += (down * across * depth) as f64 / k as f64 * share;
            all.operands += (2 * p.n * pairs * channels) as f64 * ((across * pixels) as f64 + of_filters);
            continue;
        }
        // Four numbers of f32 for each channel that is normalised on load: once for a block, in wgrad once for a tile.
        if launch.name.contains("_norm_sm90_") {
            let times = if wgrad { down * splits } else { launch.spread.grid[0] as usize };
            all.operands += (16 * channels * times) as f64;
        }
        // Five where it forms the gradient of a norm, which each of eight warps reads for a tile, the first from L2.
        if of_rows == 2 {
            let numbers = 20.0 * channels as f64 * blocks;
            all.operands += 8.0 * numbers;
            all.again += 7.0 * numbers;
        }
        // The gathered operand is the columns' in wgrad, otherwise the rows'.
        let (gathered, other) = if pass == Pass::Wgrad { (columns * inside, rows) } else { (rows * inside, columns) };
        all.blocks += blocks;
        // Parts of the depth are whole k-blocks; the last one may be shorter.
        all.k_blocks += (down * across * depth.div_ceil(k)) as f64;
        all.operands += (gathered * of_rows as f64 + other) * product.depth as f64 * 2.0;
        all.again += again * gathered * product.depth as f64 * 2.0;
    }
    all.k_blocks /= all.blocks.max(1.0);
    Some(all)
}

/// How lines are copied with their halo: boxes of `lines` lines of `pitch` pixels, for each part of the lines and each tile
/// of a frame.
#[derive(Clone, Copy)]
struct Copies {
    pitch: usize,
    lines: usize,
    parts: usize,
    tiles: usize,
}

impl Copies {
    /// Pixels of a frame that are inside of `grid`, over all copies of the frame: the first line of a tile and the first pixel
    /// of a part are moved by `lowest`.
    fn pixels(&self, grid: [usize; 3], lowest: [i64; 3], line: impl Fn(usize) -> usize) -> usize {
        let within = |from: i64, count: usize, extent: usize| {
            let inside = |at: i64| at.clamp(0, extent as i64);
            (inside(from + count as i64) - inside(from)) as usize
        };
        let down = (0..self.tiles).map(|tile| within(line(tile) as i64 + lowest[1], self.lines, grid[1]));
        let along = (0..self.parts).map(|part| within((part * self.pitch) as i64 + lowest[2], self.pitch, grid[2]));
        down.sum::<usize>() * along.sum::<usize>()
    }
}

/// Pairs of a frame of the rows (of dy in wgrad) and a frame of the filter that meet inside of the gathered array.
fn frames_inside(pass: Pass, p: &Launched) -> usize {
    let (pad, taps) = (p.pad[0] as i64, 0..p.kernel[0]);
    let far = |tap: usize| (tap * p.dilation[0]) as i64 - pad;
    let (frames, extent) = if pass == Pass::Dgrad { (p.input[0], p.out[0]) } else { (p.out[0], p.input[0]) };
    let at = |frame: usize, tap: usize| frame as i64 + if pass == Pass::Dgrad { -far(tap) } else { far(tap) };
    let of = |frame: usize| taps.clone().filter(|tap| (0..extent as i64).contains(&at(frame, *tap))).count();
    (0..frames).map(of).sum()
}

/// A number of an argument.
fn word(bytes: &[u8]) -> usize {
    bytes.first_chunk().map_or(0, |four| u32::from_le_bytes(*four)) as usize
}

/// Rows and columns of a block's tile, if the kernel's name has them: `128x64`.
fn named(name: &str) -> Option<[usize; 2]> {
    name.split('_').find_map(|part| {
        let (m, n) = part.split_once('x')?;
        Some([m.parse().ok()?, n.parse().ok()?])
    })
}

/// The tile of a loop over k-blocks of 32, from its operations and the bytes it copies: the product and the sum of rows and
/// columns. Of the two ways round, the one that gives this grid.
fn solved(main: &Loop, operations: f64, warps: f64, of: &Product, grid: u32) -> Option<[usize; 2]> {
    let (product, sum) = (operations / 64.0, warps * 32.0 * f64::from(main.copied) / 64.0);
    let root = (sum * sum / 4.0 - product).max(0.0).sqrt();
    let (long, short) = ((sum / 2.0 + root).round() as usize, (sum / 2.0 - root).round() as usize);
    let fits = |[m, n]: &[usize; 2]| of.rows.div_ceil(*m) * of.columns.div_ceil(*n) == grid as usize;
    if short == 0 {
        return None;
    }
    let ways = [[long, short], [short, long]];
    ways.into_iter().find(fits).or(Some(ways[0]))
}

/// Parts of wgrad's depth that different blocks add up.
fn splits(pass: Pass, p: &Launched) -> usize {
    match pass {
        Pass::Wgrad => pixels(p).div_ceil(p.split.max(1)).max(1),
        _ => 1,
    }
}

fn pixels(p: &Launched) -> usize {
    p.n * p.out.iter().product::<usize>()
}

fn products(pass: Pass, p: &Launched) -> Vec<Product> {
    let taps = p.kernel.iter().product::<usize>();
    match pass {
        Pass::Fprop => vec![Product { rows: pixels(p), columns: p.of_group[1], depth: taps * p.of_row[0] }],
        Pass::Wgrad => vec![Product { rows: p.of_group[1], columns: taps * p.of_row[0], depth: pixels(p) }],
        Pass::Dgrad => {
            let [t, h, w] = [0, 1, 2].map(|a| classes(p, a));
            let mut all = Vec::new();
            for a in &t {
                for b in &h {
                    for c in &w {
                        let [inputs, taps] = [0, 1].map(|i| a[i] * b[i] * c[i]);
                        all.push(Product { rows: p.n * inputs, columns: p.of_group[0], depth: taps * p.of_row[1] });
                    }
                }
            }
            all
        }
    }
}

/// The inputs of each residue class modulo the stride along an axis, and the taps that meet them.
fn classes(p: &Launched, axis: usize) -> Vec<[usize; 2]> {
    let stride = p.stride[axis];
    let distance = |r: usize, tap: usize| (r + p.pad[axis]) as i64 - (tap * p.dilation[axis]) as i64;
    let taps = |r: usize| (0..p.kernel[axis]).filter(|tap| distance(r, *tap) % stride as i64 == 0).count();
    (0..stride).map(|r| [(p.input[axis] + stride - 1 - r) / stride, taps(r)]).collect()
}

/// The share of the gathered operand that is inside of its array.
fn inside(pass: Pass, p: &Launched, products: &[Product]) -> f64 {
    let hits = |a: usize| {
        let of = |o: usize| {
            let at = |tap: usize| (o * p.stride[a] + tap * p.dilation[a]) as i64 - p.pad[a] as i64;
            (0..p.kernel[a]).filter(|tap| (0..p.input[a] as i64).contains(&at(*tap))).count()
        };
        (0..p.out[a]).map(of).sum::<usize>() as f64
    };
    let pairs = p.n as f64 * [0, 1, 2].map(hits).iter().product::<f64>();
    let asked: f64 = match pass {
        Pass::Fprop | Pass::Wgrad => (pixels(p) * p.kernel.iter().product::<usize>()) as f64,
        Pass::Dgrad => products.iter().map(|q| q.rows as f64 * (q.depth / p.of_row[1].max(1)) as f64).sum(),
    };
    if asked > 0.0 { pairs / asked } else { 0.0 }
}

/// The part of the input that the windows of a convolution touch: a kernel smaller than its stride leaves gaps.
pub fn touched(p: &Launched) -> f64 {
    (0..3).map(|a| (p.kernel[a] as f64 / p.stride[a] as f64).min(1.0)).product()
}
