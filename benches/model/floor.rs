//! What the best kernels would take, operation by operation: the longer of arithmetic and memory traffic of each, for
//! several degrees of fusion. The layers are a network's own.

use super::device::Device;
use tubelet::error::Result;
use tubelet::nn::{Layer, Net, Shortcut};
use tubelet::shape::Window;

/// Bytes of a number: activations are bf16, and statistics are negligible.
const BYTES: f64 = 2.0;

/// How much is computed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fusion {
    /// Convolution, statistics, normalisation, ReLU and addition one by one, forward and backward.
    Eager,
    /// What a compiler fuses: one pass of statistics, one that normalises, adds and applies ReLU; backward two passes.
    Compiled,
    /// Statistics taken by the convolution before, sums of gradients by dgrad; one pass over memory in each direction.
    Epilogue,
    /// In addition normalisation is applied where the next convolution loads its operands, but not its gradient.
    Mainloop,
    /// In addition normalisation and its gradient are applied where the next convolution loads its operands.
    Full,
}

/// A layer's product, or a pass over memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Fprop,
    Dgrad,
    Wgrad,
    Traffic,
}

/// One operation of one clip.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Op {
    pub kind: Kind,
    /// Rows (pixels), columns (filters) and depth (taps and channels) of fprop's product.
    pub product: [usize; 3],
    /// Taps of a filter.
    pub taps: usize,
    pub flops: f64,
    pub bytes: f64,
}

/// A layer at its size.
struct Sized {
    x: f64,
    y: f64,
    product: [usize; 3],
    taps: usize,
    norm: bool,
    relu: bool,
    added: bool,
    stem: bool,
}

/// The layers of `net` for one clip of `clip`, and the elements before and after its pool.
struct Walk {
    layers: Vec<Sized>,
    pool: Option<[f64; 2]>,
}

fn out(layer: &Layer, input: [usize; 3]) -> Result<[usize; 3]> {
    Window { stride: layer.stride, pad: layer.pad, ..Window::same([1; 3]) }.out("floor", input, layer.kernel)
}

fn sized(layer: &Layer, input: [usize; 3], relu: bool, added: bool, stem: bool) -> Result<(Sized, [usize; 3])> {
    let to = out(layer, input)?;
    let product = [to.iter().product(), layer.to, layer.from * layer.kernel.iter().product::<usize>()];
    let size = |extents: [usize; 3], channels: usize| (extents.iter().product::<usize>() * channels) as f64 * BYTES;
    let norm = layer.norm.is_some();
    let sized = Sized {
        x: size(input, layer.from),
        y: size(to, layer.to),
        product,
        taps: layer.kernel.iter().product(),
        norm,
        relu: relu && norm,
        added,
        stem,
    };
    Ok((sized, to))
}

fn walk(net: &Net, clip: [usize; 3]) -> Result<Walk> {
    let all = net.layers();
    let mut found = Walk { layers: Vec::new(), pool: None };
    let (mut at, mut channels) = (clip, net.in_channels);
    for (i, layer) in all.stem.iter().enumerate() {
        let (sized, to) = sized(layer, at, true, false, i == 0)?;
        found.layers.push(sized);
        (at, channels) = (to, layer.to);
    }
    if let Some(pool) = &all.pool {
        let to = pool.window.out("floor", at, pool.kernel)?;
        let size = |extents: [usize; 3]| (extents.iter().product::<usize>() * channels) as f64 * BYTES;
        found.pool = Some([size(at), size(to)]);
        at = to;
    }
    for block in &all.blocks {
        let input = at;
        let last = block.path.len() - 1;
        if let Shortcut::Projection(layer) = &block.shortcut {
            found.layers.push(sized(layer, input, false, false, false)?.0);
        }
        for (i, layer) in block.path.iter().enumerate() {
            let added = i == last && block.shortcut != Shortcut::None;
            let (sized, to) = sized(layer, at, true, added, false)?;
            found.layers.push(sized);
            at = to;
        }
    }
    Ok(found)
}

/// The operations of one clip: of a training step, or of the forward pass alone.
///
/// # Errors
/// When a kernel does not fit the clip.
pub fn ops(net: &Net, clip: [usize; 3], fusion: Fusion, training: bool) -> Result<Vec<Op>> {
    let found = walk(net, clip)?;
    let mut all = Vec::new();
    for layer in &found.layers {
        forward(layer, fusion, &mut all);
        if training {
            backward(layer, fusion, &mut all);
        }
    }
    if let Some([from, to]) = found.pool {
        all.push(traffic(from + to));
        if training {
            all.push(traffic(from + 2.0 * to));
        }
    }
    Ok(all)
}

fn traffic(bytes: f64) -> Op {
    Op { kind: Kind::Traffic, product: [0; 3], taps: 0, flops: 0.0, bytes }
}

fn product(layer: &Sized, kind: Kind, bytes: f64) -> Op {
    let flops = 2.0 * layer.product.iter().map(|n| *n as f64).product::<f64>();
    Op { kind, product: layer.product, taps: layer.taps, flops, bytes }
}

// Without training the statistics are those of the batch too: that is how key networks run.
fn forward(l: &Sized, fusion: Fusion, all: &mut Vec<Op>) {
    let (y, added) = (l.y, if l.added { l.y } else { 0.0 });
    all.push(product(l, Kind::Fprop, l.x + y));
    if !l.norm {
        return;
    }
    match fusion {
        Fusion::Eager => {
            all.push(traffic(3.0 * y));
            all.extend(l.added.then(|| traffic(3.0 * y)));
            all.extend(l.relu.then(|| traffic(2.0 * y)));
        }
        Fusion::Compiled => {
            all.push(traffic(y));
            all.push(traffic(2.0 * y + added));
        }
        Fusion::Epilogue => all.push(traffic(2.0 * y + added)),
        Fusion::Mainloop | Fusion::Full => all.extend(l.added.then(|| traffic(3.0 * y))),
    }
}

fn backward(l: &Sized, fusion: Fusion, all: &mut Vec<Op>) {
    let (x, y, added) = (l.x, l.y, if l.added { l.y } else { 0.0 });
    let gradients = |dgrad: f64, wgrad: f64, all: &mut Vec<Op>| {
        all.extend((!l.stem).then(|| product(l, Kind::Dgrad, dgrad)));
        all.push(product(l, Kind::Wgrad, wgrad));
    };
    if !l.norm {
        return gradients(x + y, x + y, all);
    }
    match fusion {
        Fusion::Eager => {
            all.extend(l.relu.then(|| traffic(3.0 * y)));
            all.push(traffic(5.0 * y));
            gradients(x + y, x + y, all);
            all.extend(l.added.then(|| traffic(3.0 * y)));
        }
        Fusion::Compiled => {
            all.push(traffic(2.0 * y + added));
            all.push(traffic(3.0 * y + added));
            gradients(x + y, x + y, all);
            all.extend(l.added.then(|| traffic(3.0 * y)));
        }
        // dgrad also reads the input of the normalisation before it, of the size of `x`, and writes a masked gradient.
        Fusion::Epilogue | Fusion::Mainloop => {
            all.push(traffic(3.0 * y));
            gradients(2.0 * x + y, x + y, all);
            all.extend(l.added.then(|| traffic(y)));
        }
        // The gradient of `y` is formed from two arrays where it is loaded, and `x` from its normalisation's input.
        Fusion::Full => {
            gradients(2.0 * (x + y), x + 2.0 * y, all);
            all.extend(l.added.then(|| traffic(y)));
        }
    }
}

/// Seconds of `clips` clips of a large batch, to which weights add nothing.
///
/// # Errors
/// As [`ops`].
pub fn seconds(
    net: &Net,
    clip: [usize; 3],
    fusion: Fusion,
    training: bool,
    clips: usize,
    device: &Device,
) -> Result<f64> {
    let all = ops(net, clip, fusion, training)?;
    let of_clip: f64 = all.iter().map(|op| (op.flops / device.wgmma).max(op.bytes / device.hbm)).sum();
    Ok(of_clip * clips as f64)
}

/// Bytes that the best kernels with `fusion` read and write for `clips` clips.
///
/// # Errors
/// As [`ops`].
pub fn bytes(net: &Net, clip: [usize; 3], fusion: Fusion, training: bool, clips: usize) -> Result<f64> {
    Ok(ops(net, clip, fusion, training)?.iter().map(|op| op.bytes).sum::<f64>() * clips as f64)
}
