//! The figure: one panel per extent, with logarithmic axes.

use super::Line;
use anyhow::{Result, ensure};
use plotters::coord::Shift;
use plotters::prelude::*;
use std::path::Path;
use tubelet::nn::Precision;

const SIZE: (u32, u32) = (1200, 840);
const FONT: &str = "dejavu";
const INK: RGBColor = RGBColor(40, 44, 52);
const GRID: RGBColor = RGBColor(225, 228, 232);

/// Draws `lines` into `out`, one panel for each of `axes`.
pub fn draw(axes: &[&str], lines: &[Line], out: &Path) -> Result<()> {
    let font = plotters::style::register_font(FONT, FontStyle::Normal, dejavu::sans::regular());
    ensure!(font.is_ok(), "the built-in font cannot be read");
    let mut bytes = vec![0; 3 * SIZE.0 as usize * SIZE.1 as usize];
    let mut drawn = || -> Result<(), Box<dyn std::error::Error>> {
        let picture = BitMapBackend::with_buffer(&mut bytes, SIZE).into_drawing_area();
        picture.fill(&WHITE)?;
        for (area, axis) in picture.split_evenly((2, 2)).iter().zip(axes) {
            let here: Vec<&Line> = lines.iter().filter(|l| l.axis == *axis).collect();
            panel(area, axis, &here)?;
        }
        picture.present()?;
        drop(picture);
        let (rgb, png) = (image::ExtendedColorType::Rgb8, image::ImageFormat::Png);
        Ok(image::save_buffer_with_format(out, &bytes, SIZE.0, SIZE.1, rgb, png)?)
    };
    drawn().map_err(|e| anyhow::anyhow!("cannot draw {}: {e}", out.display()))
}

type Drawn<T> = Result<T, Box<dyn std::error::Error>>;

fn panel(area: &DrawingArea<BitMapBackend, Shift>, axis: &str, lines: &[&Line]) -> Drawn<()> {
    let all = || lines.iter().flat_map(|l| &l.points);
    let first = all().map(|p| p.0).min().unwrap_or(1) as f64;
    // Doublings of the extent; powers of ten of milliseconds.
    let place = |&(x, ms): &(usize, f64)| ((x as f64 / first).log2(), ms.log10());
    let right = all().map(|p| place(p).0).fold(1.0, f64::max);
    let ends = all().map(|p| place(p).1).fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), y| (a.min(y), b.max(y)));
    let text = |size: i32| (FONT, size).into_font().color(&INK);
    let mut chart = ChartBuilder::on(area)
        .margin(14)
        .margin_right(24)
        .caption(axis, text(20))
        .x_label_area_size(30)
        .y_label_area_size(64)
        .build_cartesian_2d(-0.1..right + 0.1, (ends.0 - 0.1)..(ends.1 + 0.1))?;
    chart
        .configure_mesh()
        .y_desc("ms a step")
        .x_labels(right as usize + 1)
        .y_labels(5)
        .label_style(text(14))
        .axis_style(GRID)
        .bold_line_style(GRID)
        .light_line_style(WHITE)
        .x_label_formatter(&|x| format!("{:.0}", first * x.exp2()))
        .y_label_formatter(&|y| milliseconds(10f64.powf(*y)))
        .draw()?;
    for line in lines {
        let color = if line.precision == Precision::F32 { RGBColor(31, 119, 180) } else { RGBColor(230, 126, 34) };
        let color = color.mix(if line.threads == 1 { 0.45 } else { 1.0 });
        let points: Vec<(f64, f64)> = line.points.iter().map(place).collect();
        chart.draw_series(points.iter().map(|&p| Circle::new(p, 4, color.filled())))?;
        let threads = if line.threads == 1 { "1 thread" } else { "2 threads" };
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)))?
            .label(format!("{}, {threads}: exponent {:.2}", line.precision, line.exponent()))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.85))
        .border_style(GRID)
        .label_font(text(14))
        .draw()?;
    Ok(())
}

/// Rounds to two digits.
fn milliseconds(ms: f64) -> String {
    let unit = 10f64.powf(ms.log10().floor() - 1.0);
    let rounded = (ms / unit).round() * unit;
    if rounded < 10.0 { format!("{rounded:.1}") } else { format!("{rounded:.0}") }
}
