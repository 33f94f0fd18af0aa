//! Where and when a video moves (`docs/papers/mcl.md` section 1.3): motion maps over time, a score for every start of a
//! clip, and the target map of the alignment loss. All three are means of the motion boundary ([`motion_boundary`]) of
//! summed flow.
//!
//! **Units.** Values are in pixels at the resolution of the flow, and are sums over the fields, not means. The released
//! code uses flow of 6.375 levels per pixel, so its values are larger by that factor.
//!
//! **Flow at every k-th frame.** Windows and spans are counted in frames of the video. With fields at every `k`-th
//! frame only, a window of `n` frames contains the `max(1, round(n / k))` fields that start within it, and sums fewer
//! terms accordingly. All windows of a video contain the same number of fields, so that they are comparable; a video
//! with fewer fields is one window.

use super::Flow;
use crate::error::{Error, Result};
use crate::ops::motion_map::motion_boundary;
use crate::shape::Shape;

/// Parameters of the maps and scores of a video's flow.
#[derive(Clone, Debug, PartialEq)]
pub struct MapSpec {
    /// Frames of the video whose flow is summed for the map of a frame. The release uses 8 at UCF101's 25 frames per
    /// second and 4 for Kinetics.
    pub window: usize,
    /// Cells of a map, rows and columns. Default 7 by 7.
    pub grid: [usize; 2],
    /// Fraction of the height at the top and bottom, and of the width at both sides, that is set to 0, because flow at
    /// the border is unreliable. Default 8 / 224.
    pub border: f64,
    /// Frames, at [`MapSpec::fps`], over which the score of a start sums: the span of a clip, 32 for 16 frames 2 apart.
    pub span: f64,
    /// Frames per second in which `span` is counted; `None` for the video's own rate.
    pub fps: Option<f64>,
}

impl MapSpec {
    /// The release's maps, for clips over `span` frames at `fps` (`None`: each video's own rate).
    #[must_use]
    pub fn new(span: f64, fps: Option<f64>) -> MapSpec {
        MapSpec { window: 8, grid: [7, 7], border: 8.0 / 224.0, span, fps }
    }

    /// Checks every field.
    ///
    /// # Errors
    /// `Param` naming the field that is out of range.
    pub fn check(&self) -> Result<()> {
        let bad = |name, value: String, rule: &str| Err(Error::param("motion maps", name, value, rule));
        let [rows, cols] = self.grid;
        if self.window == 0 {
            return bad("window", "0".into(), "it must be at least 1 frame");
        }
        if !(1..=256).contains(&rows) || !(1..=256).contains(&cols) {
            return bad("grid", format!("{rows} x {cols}"), "a map has 1 to 256 cells a side");
        }
        if !(0.0..0.5).contains(&self.border) {
            return bad("border", self.border.to_string(), "it must be a share of a side below one half");
        }
        if !(self.span >= 1.0 && self.span.is_finite()) {
            return bad("span", self.span.to_string(), "it must be at least 1 frame");
        }
        match self.fps {
            Some(fps) if !(fps.is_finite() && fps > 0.0) => bad("fps", fps.to_string(), "it must be positive"),
            _ => Ok(()),
        }
    }
}

/// The flow of a video, as input for maps.
pub struct Fields<'a, T> {
    /// Number of fields.
    pub count: usize,
    /// Rows and columns of each.
    pub size: [usize; 2],
    /// Frames of the video between the starts of two fields.
    pub every: usize,
    /// Frames per second of the video.
    pub fps: f64,
    /// `u` and `v` of a field, each `h w`.
    pub field: &'a dyn Fn(usize) -> [&'a [T]; 2],
}

/// Maps and scores of one video: at least one of each.
#[derive(Clone, Debug, PartialEq)]
pub struct Maps {
    grid: [usize; 2],
    every: usize,
    summed: usize,
    maps: Vec<f32>,
    scores: Vec<f32>,
}

impl Maps {
    /// Computes maps and scores with running sums in `f64`: each field is added and subtracted once. Fields of `f16`
    /// are multiples of 2^-24 below 2^16, so sums of up to 8192 of them are exact and a motionless video scores exactly
    /// 0.
    ///
    /// # Errors
    /// `Param` when `spec` is out of range; `Shape` when there is no field, or one is empty or has not the size that `fields`
    /// says.
    pub fn new<T: Copy + Into<f64>>(spec: &MapSpec, fields: &Fields<'_, T>) -> Result<Maps> {
        spec.check()?;
        let [h, w] = fields.size;
        let pixels = h.saturating_mul(w);
        let whole = |m: usize| (fields.field)(m).iter().all(|plane| plane.len() == pixels);
        if fields.count == 0 || pixels == 0 || fields.every == 0 || !(0..fields.count).all(whole) {
            let got = format!("{} fields of {h} x {w}, every {}", fields.count, fields.every);
            return Err(Error::shape("motion maps", "flow", "at least one field with pixels, and each of h x w", got));
        }
        let fields_in = |frames: f64| ((frames / fields.every as f64).round() as usize).clamp(1, fields.count);
        let summed = fields_in(spec.window as f64);
        let [rows, cols] = spec.grid;
        let mut windows = Vec::new();
        slide(fields, summed, |flow| {
            let map = boundary_mean(flow, spec.border);
            windows.extend(pooled(&map, [h, w], spec.grid));
        });
        let last = fields.count - summed;
        let window = |m: usize| m.saturating_sub((summed - 1) / 2).min(last);
        let maps =
            (0..fields.count).flat_map(|m| &windows[window(m) * rows * cols..][..rows * cols]).copied().collect();
        let frames = spec.span * spec.fps.map_or(1.0, |fps| fields.fps / fps);
        let mut scores = Vec::new();
        slide(fields, fields_in(frames), |flow| {
            let map = boundary_mean(flow, spec.border);
            scores.push((map.iter().map(|&v| f64::from(v)).sum::<f64>() / pixels as f64) as f32);
        });
        Maps::from_parts(spec.grid, fields.every, summed, maps, scores)
    }

    /// Maps and scores computed earlier, as returned by the accessors of the same names.
    ///
    /// # Errors
    /// `Shape` when `maps` are no whole number of maps with `rows cols` cells, at least one, or there is no score; `Param` when
    /// `every` or `summed` is 0.
    pub fn from_parts(grid: [usize; 2], every: usize, summed: usize, maps: Vec<f32>, scores: Vec<f32>) -> Result<Maps> {
        let [rows, cols] = grid;
        let cells = rows.checked_mul(cols).unwrap_or(0);
        if cells == 0 || maps.is_empty() || !maps.len().is_multiple_of(cells) || scores.is_empty() {
            let got = format!("{} numbers and {} scores", maps.len(), scores.len());
            return Err(Error::shape("motion maps", "maps", format!("maps of {rows} x {cols} cells, and scores"), got));
        }
        if every == 0 || summed == 0 {
            let value = format!("{every} frames and {summed} fields");
            return Err(Error::param("motion maps", "every", value, "neither may be 0"));
        }
        Ok(Maps { grid, every, summed, maps, scores })
    }

    /// Cells of a map, rows and columns.
    #[must_use]
    pub fn grid(&self) -> [usize; 2] {
        self.grid
    }

    /// Frames of the video between maps, and between scored starts.
    #[must_use]
    pub fn every(&self) -> usize {
        self.every
    }

    /// Number of fields summed for a map.
    #[must_use]
    pub fn summed(&self) -> usize {
        self.summed
    }

    /// For each flow field the map of the window around it, `fields rows cols`: `(M_u + M_v) / 2`, averaged over each
    /// cell.
    #[must_use]
    pub fn maps(&self) -> &[f32] {
        &self.maps
    }

    /// For each field at which a complete clip can start, the mean over the frame of `(M_u + M_v) / 2` of the sum of
    /// the clip's fields.
    #[must_use]
    pub fn scores(&self) -> &[f32] {
        &self.scores
    }

    /// The map nearest to frame `t` of the video, `rows cols`.
    #[must_use]
    pub fn map(&self, t: usize) -> &[f32] {
        let cells = self.grid[0] * self.grid[1];
        &self.maps[self.nearest(t, self.maps.len() / cells) * cells..][..cells]
    }

    /// The mean of the maps nearest to `frames`, `rows cols`; zeros for none.
    #[must_use]
    pub fn mean(&self, frames: &[usize]) -> Vec<f32> {
        let mut sum = vec![0.0f64; self.grid[0] * self.grid[1]];
        for &t in frames {
            sum.iter_mut().zip(self.map(t)).for_each(|(s, &v)| *s += f64::from(v));
        }
        sum.into_iter().map(|s| (s / frames.len().max(1) as f64) as f32).collect()
    }

    /// The score of a clip that starts at frame `start`: that of the nearest scored start.
    #[must_use]
    pub fn score(&self, start: usize) -> f32 {
        self.scores[self.nearest(start, self.scores.len())]
    }

    /// Which of `count` moments, `every` frames apart, is nearest to frame `t`.
    fn nearest(&self, t: usize, count: usize) -> usize {
        (t.saturating_add(self.every / 2) / self.every).min(count - 1)
    }
}

/// Calls back with the sum of every `length` consecutive fields, first to last.
fn slide<T: Copy + Into<f64>>(fields: &Fields<'_, T>, length: usize, mut each: impl FnMut(&Flow)) {
    let [h, w] = fields.size;
    let mut sums = [vec![0.0f64; h * w], vec![0.0f64; h * w]];
    let mut flow = Flow::zeros(h, w);
    for m in 0..fields.count {
        let enters = (fields.field)(m);
        for (sum, plane) in sums.iter_mut().zip(enters) {
            sum.iter_mut().zip(plane).for_each(|(s, &v)| *s += v.into());
        }
        if m + 1 < length {
            continue;
        }
        for (plane, sum) in flow.planes_mut().into_iter().zip(&sums) {
            plane.iter_mut().zip(sum).for_each(|(p, &s)| *p = s as f32);
        }
        each(&flow);
        let leaves = (fields.field)(m + 1 - length);
        for (sum, plane) in sums.iter_mut().zip(leaves) {
            sum.iter_mut().zip(plane).for_each(|(s, &v)| *s -= v.into());
        }
    }
}

/// `(M_u + M_v) / 2` with a border of `share` of each side set to 0.
fn boundary_mean(flow: &Flow, share: f64) -> Vec<f32> {
    let (h, w) = (flow.h(), flow.w());
    let [mut map, v] = motion_boundary(flow);
    map.iter_mut().zip(&v).for_each(|(a, b)| *a = 0.5 * (*a + b));
    let [down, across] = [h, w].map(|n| (n as f64 * share).round() as usize);
    for (y, row) in map.chunks_exact_mut(w).enumerate() {
        if y < down || y + down >= h {
            row.fill(0.0);
        }
        row[..across].fill(0.0);
        row[w - across..].fill(0.0);
    }
    map
}

/// Means over the cells of a grid: cell `i` of `k` covers `⌊i n / k⌋` to `⌈(i + 1) n / k⌉` (PyTorch's adaptive average
/// pooling), which is a block mean if `k` divides `n`. Sums are in `f64`.
fn pooled(map: &[f32], [h, w]: [usize; 2], [rows, cols]: [usize; 2]) -> Vec<f32> {
    let mut out = Vec::with_capacity(rows * cols);
    for r in 0..rows {
        let ys = part(r, h, rows);
        for c in 0..cols {
            let xs = part(c, w, cols);
            let line = |y: usize| map[y * w..][xs.clone()].iter().map(|&v| f64::from(v)).sum::<f64>();
            out.push((ys.clone().map(line).sum::<f64>() / (ys.len() * xs.len()) as f64) as f32);
        }
    }
    out
}

/// The alignment target of a clip's flow `n s s 2` (`u v` interleaved, as written by `augment::apply_motion`), on a
/// grid `t h w`: the fields in `t` groups, each group summed, `M_u + M_v` of the sum, averaged over each cell
/// (`docs/papers/mcl.md` section 1.6; no border is set to 0). Groups are divided like cells; where they overlap, a sum
/// is scaled as if it had `n / t` fields.
///
/// # Errors
/// `Shape` when `flow` has not the extents it says or none, `Param` when the grid has an extent of 0,
/// or more than 2^24 cells.
pub fn target(flow: &[f32], [n, side]: [usize; 2], [t, h, w]: [usize; 3]) -> Result<Vec<f32>> {
    let pixels = check_clip("alignment target", flow, [n, side], [t, h, w])?;
    let mut out = Vec::new();
    for group in 0..t {
        let range = part(group, n, t);
        let scale = n as f64 / (t * range.len()) as f64;
        let mut sums = [vec![0.0f64; pixels], vec![0.0f64; pixels]];
        for field in flow[range.start * pixels * 2..range.end * pixels * 2].chunks_exact(pixels * 2) {
            for (i, at) in field.chunks_exact(2).enumerate() {
                sums[0][i] += f64::from(at[0]);
                sums[1][i] += f64::from(at[1]);
            }
        }
        let [u, v] = sums.map(|sum| sum.into_iter().map(|s| (s * scale) as f32).collect());
        let [mut map, other] = motion_boundary(&Flow::new(side, side, u, v)?);
        map.iter_mut().zip(&other).for_each(|(a, b)| *a += b);
        out.extend(pooled(&map, [side, side], [h, w]));
    }
    Ok(out)
}

/// How fast a clip moves in each cell of a grid `t h w`, apart from what the whole frame does, in pixels of the clip:
/// the distance of the flow `n s s 2` (as for [`target`]) from its median in the frame, averaged over the fields of a
/// group and over the cell. Unlike the motion boundary it is as large inside of what moves as at its rim. A camera that
/// pans leaves nothing of the ground.
///
/// # Errors
/// As [`target`].
pub fn speed(flow: &[f32], [n, side]: [usize; 2], [t, h, w]: [usize; 3]) -> Result<Vec<f32>> {
    let pixels = check_clip("speed", flow, [n, side], [t, h, w])?;
    let mut out = Vec::new();
    for group in 0..t {
        let range = part(group, n, t);
        let mut sums = vec![0.0f32; pixels];
        for field in flow[range.start * pixels * 2..range.end * pixels * 2].chunks_exact(pixels * 2) {
            let median = |c: usize| {
                let mut plane: Vec<f32> = field.iter().skip(c).step_by(2).copied().collect();
                *plane.select_nth_unstable_by(pixels / 2, f32::total_cmp).1
            };
            let (u, v) = (median(0), median(1));
            let apart = |at: &[f32]| (at[0] - u).hypot(at[1] - v) / range.len() as f32;
            sums.iter_mut().zip(field.chunks_exact(2)).for_each(|(sum, at)| *sum += apart(at));
        }
        out.extend(pooled(&sums, [side, side], [h, w]));
    }
    Ok(out)
}

/// Which cells of a clip move, by their [`speed`]: those above a quarter of the largest, and above `still`. At a
/// quarter, cells that something small covers in part count, too.
#[must_use]
pub fn moving(speed: &[f32], still: f32) -> Vec<bool> {
    let least = speed.iter().fold(0.0f32, |most, &v| most.max(v)) / 4.0;
    speed.iter().map(|&v| v > least && v > still).collect()
}

/// Cell `i` of `k` over `n`: `⌊i n / k⌋` to `⌈(i + 1) n / k⌉`.
fn part(i: usize, n: usize, k: usize) -> std::ops::Range<usize> {
    i * n / k..((i + 1) * n).div_ceil(k)
}

/// The pixels of a field, if the clip's flow has the extents `n s s 2` and the grid is one.
fn check_clip(op: &'static str, flow: &[f32], [n, side]: [usize; 2], [t, h, w]: [usize; 3]) -> Result<usize> {
    let (pixels, numbers) = (side.saturating_mul(side), Shape::new(&[n, side, side, 2]).checked_len());
    if flow.is_empty() || numbers != Some(flow.len()) {
        let rule = format!("{n} x {side} x {side} x 2 numbers, none zero");
        return Err(Error::shape(op, "flow", rule, flow.len()));
    }
    let cells = Shape::new(&[t, h, w]).checked_len();
    if !cells.is_some_and(|n| (1..=1 << 24).contains(&n)) {
        let rule = "every extent must be at least 1, and there may be 2^24 cells";
        return Err(Error::param(op, "grid", format!("{t} x {h} x {w}"), rule));
    }
    Ok(pixels)
}
