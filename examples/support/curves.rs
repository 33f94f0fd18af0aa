//! `curves.png`: the losses of a run and the accuracy of its features, over epochs, from `metrics.jsonl`.

use super::{FONT, paint};
use anyhow::{Context, Result, ensure};
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::Path;

const SIZE: (u32, u32) = (1200, 540);
/// Height of a line in a legend, and number of entries per line.
const LINE: u32 = 20;
const ENTRIES: usize = 2;
const INK: RGBColor = RGBColor(40, 44, 52);
const GRID: RGBColor = RGBColor(225, 228, 232);

/// Name in the log, name in the legend, colour.
const LOSSES: [(&str, &str, RGBColor); 9] = [
    ("loss", "all terms, weighted", INK),
    ("loss_vv", "RGB to RGB", RGBColor(31, 119, 180)),
    ("loss_mm", "motion to motion", RGBColor(230, 126, 34)),
    ("loss_vm", "RGB to motion", RGBColor(39, 158, 94)),
    ("loss_mv", "motion to RGB", RGBColor(176, 58, 140)),
    ("loss_inter", "other videos", RGBColor(31, 119, 180)),
    ("loss_intra", "other clips", RGBColor(230, 126, 34)),
    ("loss_order", "order", RGBColor(176, 58, 140)),
    ("loss_align", "alignment", RGBColor(39, 158, 94)),
];
const ACCURACIES: [(&str, &str, RGBColor); 3] = [
    ("probe_top1", "linear probe", RGBColor(31, 119, 180)),
    ("knn_top1", "1-NN", RGBColor(230, 126, 34)),
    (TRAIN, "clips of the step, with dropout", RGBColor(31, 119, 180)),
];
/// The accuracy of training with labels.
const TRAIN: &str = "train_top1";

type Points = Vec<(f64, f64)>;

/// Draws `out` from the lines of `metrics`: objects with `epoch` and `step` (both from 0), and any of [`LOSSES`] and
/// [`ACCURACIES`]. `baselines`, accuracies before training, are drawn as dashed lines in the colour of the
/// accuracy of that name; `start` describes the network before training, such as `random network`. Without any accuracy
/// losses take the whole picture.
pub fn draw(metrics: &Path, baselines: &[(&str, f64)], start: &str, out: &Path) -> Result<()> {
    let text = fs::read_to_string(metrics).with_context(|| format!("cannot read {}", metrics.display()))?;
    let (losses, mut accuracies) = (series(&text, &LOSSES), series(&text, &ACCURACIES));
    // Each accuracy begins with that before training, so that a run with a single probe shows more than a dot.
    for ((key, ..), points) in ACCURACIES.iter().zip(&mut accuracies).filter(|(_, points)| !points.is_empty()) {
        points.splice(..0, baselines.iter().find(|(name, _)| name == key).map(|(_, value)| (0.0, *value)));
    }
    ensure!(losses.iter().any(|l| !l.is_empty()), "{} holds no losses to draw", metrics.display());
    paint(out, SIZE, |picture| {
        picture.fill(&WHITE)?;
        let none = baselines.is_empty() && accuracies.iter().all(Vec::is_empty);
        let (left, right) = picture.split_horizontally(if none { SIZE.0 } else { SIZE.0 / 2 });
        let named = |names: &[(&'static str, &'static str, RGBColor)], points: Vec<Points>| {
            names
                .iter()
                .zip(points)
                .map(|(&(_, label, color), p)| Curve { label, color, points: p })
                .collect::<Vec<_>>()
        };
        let mut names = LOSSES;
        if losses[1..].iter().all(Vec::is_empty) {
            names[0].1 = "cross-entropy"; // training with labels has one term
        }
        panel(&left, "loss", &named(&names, losses), &[])?;
        if none {
            return Ok(());
        }
        let dashed: Vec<Baseline> = baselines
            .iter()
            .filter_map(|(name, value)| {
                let (_, label, color) = ACCURACIES.iter().find(|(key, ..)| key == name)?;
                Some(Baseline { label: format!("{label}, {start}"), color: *color, value: *value })
            })
            .collect();
        let trained = ACCURACIES.iter().zip(&accuracies).any(|((key, ..), points)| *key == TRAIN && !points.is_empty());
        let of = if trained { "training" } else { "held-out" };
        panel(&right, &format!("top-1 accuracy on {of} videos"), &named(&ACCURACIES, accuracies), &dashed)?;
        Ok(())
    })
}

struct Curve {
    label: &'static str,
    color: RGBColor,
    points: Points,
}

/// A horizontal line across the panel.
struct Baseline {
    label: String,
    color: RGBColor,
    value: f64,
}

/// For each name its values over epochs. A line truncated by a killed run is skipped, and for a step logged twice the
/// later line counts.
fn series(text: &str, names: &[(&str, &str, RGBColor)]) -> Vec<Points> {
    let lines: Vec<Value> = text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
    let most = |key: &str| lines.iter().filter_map(|l| l[key].as_u64()).max().map_or(1.0, |m| m as f64 + 1.0);
    let epochs_per_step = most("epoch") / most("step");
    let values = |name: &str| {
        let points = lines.iter().filter_map(|l| Some((l["step"].as_u64()?, l[name].as_f64()?)));
        let latest: BTreeMap<u64, f64> = points.collect();
        latest.into_iter().map(|(step, v)| ((step + 1) as f64 * epochs_per_step, v)).collect()
    };
    names.iter().map(|(name, ..)| values(name)).collect()
}

/// One panel: the points, drawn faintly if there are many, and their running mean.
fn panel<DB: DrawingBackend>(
    area: &DrawingArea<DB, plotters::coord::Shift>,
    title: &str,
    curves: &[Curve],
    dashed: &[Baseline],
) -> Result<(), Box<dyn std::error::Error>>
where
    DB::ErrorType: 'static,
{
    let all = || curves.iter().flat_map(|c| &c.points);
    let epochs = all().map(|p| p.0).fold(1.0f64, f64::max);
    let top = all().map(|p| p.1).chain(dashed.iter().map(|d| d.value)).fold(0.0f64, f64::max);
    let (across, up) = (step(epochs, 1.0), step(if top > 0.0 { top } else { 1.0 }, 0.0));
    let top = (top / up - 1e-9).ceil().max(1.0) * up;
    let text = |size: i32| (FONT, size).into_font().color(&INK);
    // The legend is below the plot, where it covers no line.
    let shown = curves.iter().filter(|c| !c.points.is_empty());
    let lines =
        shown.clone().map(|c| (c.label, c.color, false)).chain(dashed.iter().map(|d| (&*d.label, d.color, true)));
    let entries: Vec<(&str, RGBColor, bool)> = lines.collect();
    let (width, height) = area.dim_in_pixel();
    let below = LINE * entries.len().div_ceil(ENTRIES) as u32 + LINE / 2;
    let (plot, legend) = area.split_vertically(height.saturating_sub(below));
    let mut chart = ChartBuilder::on(&plot)
        .margin(14)
        .margin_right(24)
        .caption(title, text(20))
        .x_label_area_size(38)
        .y_label_area_size(48)
        .build_cartesian_2d(
            Axis { end: epochs, step: across },
            Axis { end: top * 1.02, step: up }, // room for a dot at the last tick
        )?;
    chart
        .configure_mesh()
        .x_desc("epochs")
        .label_style(text(14))
        .axis_style(GRID)
        .bold_line_style(GRID)
        .light_line_style(WHITE)
        .x_label_formatter(&|x| tick(*x, across))
        .y_label_formatter(&|y| tick(*y, up))
        .draw()?;
    for curve in shown {
        let color = curve.color;
        let many = curve.points.len() > 100;
        let smooth = if many {
            chart.draw_series(LineSeries::new(curve.points.iter().copied(), color.mix(0.18)))?;
            running_mean(&curve.points, curve.points.len() / 40)
        } else {
            curve.points.clone()
        };
        if smooth.len() <= 40 {
            chart.draw_series(smooth.iter().map(|&p| Circle::new(p, 4, color.filled())))?;
        }
        chart.draw_series(LineSeries::new(smooth, color.stroke_width(2)))?;
    }
    for Baseline { color, value, .. } in dashed {
        let (line, color) = ([(0.0, *value), (epochs, *value)], *color);
        chart.draw_series(DashedLineSeries::new(line, 7, 5, color.stroke_width(2)))?;
    }
    if entries.is_empty() {
        let at = (width as i32 / 2 - 80, height as i32 / 2);
        area.draw(&Text::new("not measured in this run", at, text(16)))?;
    }
    // The first column begins where the plot does.
    let (left, column) = (62, (width as i32 - 62 - 14) / ENTRIES as i32);
    for (i, (label, color, dashed)) in entries.into_iter().enumerate() {
        let (x, y) = (left + (i % ENTRIES) as i32 * column, (i / ENTRIES) as i32 * LINE as i32 + 10);
        let (line, style) = ([(x, y), (x + 26, y)], color.stroke_width(2));
        if dashed {
            legend.draw(&DashedPathElement::new(line, 6, 4, style))?;
        } else {
            legend.draw(&PathElement::new(line, style))?;
        }
        legend.draw(&Text::new(label, (x + 34, y - 5), text(14)))?;
    }
    Ok(())
}

/// An axis from 0 to `end` with a tick at every multiple of `step`.
struct Axis {
    end: f64,
    step: f64,
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        from + (value / self.end * f64::from(to - from)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        (0..=(self.end / self.step + 1e-9) as usize).map(|i| i as f64 * self.step).collect()
    }

    fn range(&self) -> Range<f64> {
        0.0..self.end
    }
}

/// The distance of the ticks on an axis from 0 to `most`: 1, 2 or 5 times a power of ten and at least `least`, for 4 to 10
/// ticks.
fn step(most: f64, least: f64) -> f64 {
    let rough = (most / 10.0).max(least);
    let power = 10f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0].map(|n| n * power).into_iter().find(|step| *step >= rough * (1.0 - 1e-9)).unwrap_or(10.0 * power)
}

/// The label of a tick on an axis with ticks `step` apart.
fn tick(value: f64, step: f64) -> String {
    let places = (-step.log10() - 1e-9).ceil().max(0.0) as usize;
    format!("{value:.places$}")
}

/// The mean over up to `half` points on either side. At the ends one side is shorter, so that the line does not end in the
/// value of a single step.
fn running_mean(points: &[(f64, f64)], half: usize) -> Points {
    let mut sums = vec![0.0];
    for p in points {
        sums.push(sums[sums.len() - 1] + p.1);
    }
    let mean = |i: usize| {
        let (from, to) = (i.saturating_sub(half), (i + half + 1).min(points.len()));
        (sums[to] - sums[from]) / (to - from) as f64
    };
    (0..points.len()).map(|i| (points[i].0, mean(i))).collect()
}
