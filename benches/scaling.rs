//! How the cost of a training step grows with clips, frames, side length and channels, with one and two threads, in f32
//! and bf16: R3D-18 of half the width on clips of 8x56x56, with one of the four changed at a time.
//!
//!     cargo bench --bench scaling [-- [--quick] DIR]        DIR receives scaling.json and scaling.png
//!
//! `--quick` uses the two smallest values of each, and the smallest of all others: a quick test.
//!
//! Each line has an exponent, fitted to the logarithms. In proportion to the number of products, it would be 1 for
//! clips and frames and 2 for side and channels.

#[path = "scaling/figure.rs"]
mod figure;
#[path = "scaling/home.rs"]
mod home;
#[path = "versus/noise.rs"]
mod noise;
#[path = "versus/step.rs"]
mod step;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};
use step::Step;
use tubelet::nn::{Net, Precision};

/// Clips, frames, side, channels of the first stage.
const BASE: [usize; 4] = [2, 8, 56, 32];

/// The extents to change, and their values.
const AXES: [(&str, [usize; 4]); 4] = [
    ("clips", [1, 2, 4, 8]),
    ("frames", [4, 8, 16, 32]),
    ("side length", [28, 56, 112, 224]),
    ("channels", [16, 32, 64, 128]),
];

/// The lines of a panel.
const LINES: [(Precision, usize); 4] =
    [(Precision::F32, 1), (Precision::F32, 2), (Precision::Bf16, 1), (Precision::Bf16, 2)];

/// One line: milliseconds per step at each value of an axis.
pub struct Line {
    /// The axis.
    pub axis: &'static str,
    /// The precision of the network.
    pub precision: Precision,
    /// Threads.
    pub threads: usize,
    /// Value and milliseconds.
    pub points: Vec<(usize, f64)>,
}

impl Line {
    /// The slope of the logarithms, by least squares.
    pub fn exponent(&self) -> f64 {
        let points: Vec<(f64, f64)> = self.points.iter().map(|&(x, ms)| ((x as f64).ln(), ms.ln())).collect();
        let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / points.len() as f64;
        let (x, y) = (mean(|p| p.0), mean(|p| p.1));
        let (rise, run) =
            points.iter().fold((0.0, 0.0), |(rise, run), p| (rise + (p.0 - x) * (p.1 - y), run + (p.0 - x).powi(2)));
        rise / run
    }

    fn json(&self) -> Value {
        let points: Vec<Value> = self.points.iter().map(|(x, ms)| json!([x, (ms * 100.0).round() / 100.0])).collect();
        json!({
            "axis": self.axis, "precision": self.precision.name(), "threads": self.threads, "value_and_ms": points,
            "exponent": (self.exponent() * 1e3).round() / 1e3,
        })
    }
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if args.len() > 2 || args.iter().any(|a| a.starts_with('-') && a != "--quick") {
        println!("cargo bench --bench scaling -- [--quick] [DIR]: DIR gets the record and the picture");
        return Ok(());
    }
    home::go()?;
    let folder = std::env::args().skip(1).find(|a| !a.starts_with('-'));
    let quick = std::env::args().any(|a| a == "--quick");
    let base = if quick { AXES.map(|(_, values)| values[0]) } else { BASE };
    let mut lines = Vec::new();
    for (i, (axis, values)) in AXES.into_iter().enumerate() {
        let values = &values[..if quick { 2 } else { values.len() }];
        for (precision, threads) in LINES {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
            let at = |&value| {
                let mut extents = base;
                extents[i] = value;
                Ok((value, pool.install(|| step_ms(extents, precision))?))
            };
            let line = Line { axis, precision, threads, points: values.iter().map(at).collect::<Result<_>>()? };
            let points: Vec<String> = line.points.iter().map(|(x, ms)| format!("{x}: {ms:.1} ms")).collect();
            println!("{axis}, {precision}, {threads} threads: {}; exponent {:.2}", points.join(", "), line.exponent());
            lines.push(line);
        }
    }
    let Some(folder) = folder.as_deref().map(Path::new) else { return Ok(()) };
    std::fs::create_dir_all(folder)?;
    let [clips, frames, side, channels] = base;
    let record = json!({
        "how": "cargo bench --bench scaling; a training step of R3D-18 of another width, best of several, one extent changed at a time",
        "base": {"clips": clips, "frames": frames, "side": side, "channels of the first stage": channels},
        "lines": lines.iter().map(Line::json).collect::<Vec<_>>(),
    });
    let path = folder.join("scaling.json");
    std::fs::write(&path, format!("{record:#}\n")).with_context(|| format!("cannot write {}", path.display()))?;
    figure::draw(&AXES.map(|(axis, _)| axis), &lines, &folder.join("scaling.png"))
}

/// Milliseconds per step, the best of several.
fn step_ms([clips, frames, side, channels]: [usize; 4], precision: Precision) -> Result<f64> {
    let mut net = Net::r3d_18();
    net.stem[0].out = channels;
    for (i, stage) in net.stages.iter_mut().enumerate() {
        stage.out = channels << i;
    }
    let mut step = Step::new(&net, noise::noise([clips, frames, side, side, 3], 1), precision)?;
    step.run()?; // allocates the buffers
    let (begin, mut best, mut runs) = (Instant::now(), Duration::MAX, 0);
    while runs < 2 || begin.elapsed() < Duration::from_millis(250) {
        let start = Instant::now();
        step.run()?;
        best = best.min(start.elapsed());
        runs += 1;
    }
    Ok(best.as_secs_f64() * 1e3)
}
