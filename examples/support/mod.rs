//! Shared code of the examples: options, progress, summary, images. Include it with `mod support;`.

#![allow(dead_code)] // Each example uses its part.

pub mod activation;
pub mod animation;
pub mod args;
pub mod checks;
pub mod classified;
pub mod confusion;
pub mod curves;
pub mod evaluate;
pub mod evaluation;
pub mod extract;
pub mod focus;
pub mod heat;
pub mod init;
pub mod motion;
pub mod options;
pub mod output;
pub mod plan;
pub mod presets;
pub mod pretrain;
pub mod progress;
pub mod protocol;
pub mod ranks;
pub mod run;
pub mod running;
pub mod saliency;
pub mod settings;
pub mod sheet;
pub mod similarity;
pub mod stop;
pub mod summary;
pub mod table;
pub mod videos;

use anyhow::Context;
use plotters::coord::Shift;
use plotters::prelude::{BitMapBackend, DrawingArea, IntoDrawingArea};
use plotters::style::{FontStyle, register_font};
use std::path::Path;
use std::sync::OnceLock;
use tubelet::train::folder::write_atomic;

/// Name of the built-in font (DejaVu Sans), so that images need no system font.
pub const FONT: &str = "dejavu";

/// Registers [`FONT`] at the first call.
pub fn font() -> anyhow::Result<()> {
    static DONE: OnceLock<bool> = OnceLock::new();
    let done = *DONE.get_or_init(|| register_font(FONT, FontStyle::Normal, dejavu::sans::regular()).is_ok());
    anyhow::ensure!(done, "the built-in font cannot be read");
    Ok(())
}

/// The result of drawing.
pub type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Draws a picture of this width and height into the PNG `out`.
pub fn paint(
    out: &Path,
    size: (u32, u32),
    draw: impl FnOnce(&DrawingArea<BitMapBackend, Shift>) -> Drawn,
) -> anyhow::Result<()> {
    let bytes = painted(size, draw).with_context(|| format!("cannot draw {}", out.display()))?;
    save_png(out, &bytes, size)
}

/// The RGB pixels of a picture of this width and height.
pub fn painted(
    size: (u32, u32),
    draw: impl FnOnce(&DrawingArea<BitMapBackend, Shift>) -> Drawn,
) -> anyhow::Result<Vec<u8>> {
    font()?;
    let mut bytes = vec![0; 3 * size.0 as usize * size.1 as usize];
    let area = BitMapBackend::with_buffer(&mut bytes, size).into_drawing_area();
    let drawn = draw(&area).and_then(|()| Ok(area.present()?));
    drop(area);
    drawn.map_err(|e| anyhow::anyhow!("{e}"))?;
    Ok(bytes)
}

/// Writes RGB pixels of this width and height as the PNG `out`, atomically.
pub fn save_png(out: &Path, rgb: &[u8], (w, h): (u32, u32)) -> anyhow::Result<()> {
    let mut png = std::io::Cursor::new(Vec::new());
    image::write_buffer_with_format(&mut png, rgb, w, h, image::ColorType::Rgb8, image::ImageFormat::Png)?;
    Ok(write_atomic(out, png.get_ref())?)
}
