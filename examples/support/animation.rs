//! Sheets that move: an animated PNG, which browsers show, from one sheet for each moment.

use super::sheet::{self, Legend, Sample};
use anyhow::{Context, Result, ensure};
use png::{BitDepth, BlendOp, ColorType, Compression, DisposeOp, Encoder};
use std::path::Path;
use tubelet::eval::GoOn;
use tubelet::train::folder::write_atomic;

/// Milliseconds that a moment is shown.
const SHOWN: u16 = 200;

/// Draws the animated PNG `out`: for each moment its samples, below the legend; as long as `go_on` says so.
pub fn draw(out: &Path, legend: &Legend, moments: &[Vec<Sample>], go_on: GoOn) -> Result<()> {
    let drawn = |samples: &Vec<Sample>| go_on().map_err(Into::into).and_then(|()| sheet::drawn(legend, samples));
    let sheets = moments.iter().map(drawn).collect::<Result<Vec<_>>>()?;
    let bytes = encoded(&sheets, go_on).with_context(|| format!("cannot draw {}", out.display()))?;
    Ok(write_atomic(out, &bytes)?)
}

/// The pictures of one size as an animated PNG that repeats for ever. Of each but the first only the rectangle that
/// differs from the one before is stored.
fn encoded(pictures: &[(Vec<u8>, (u32, u32))], go_on: GoOn) -> Result<Vec<u8>> {
    let Some((first, size)) = pictures.first() else { anyhow::bail!("an animation needs a picture") };
    ensure!(pictures.iter().all(|(_, other)| other == size), "the pictures of an animation have several sizes");
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, size.0, size.1);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_compression(Compression::Balanced);
    encoder.set_animated(u32::try_from(pictures.len())?, 0)?;
    encoder.set_frame_delay(SHOWN, 1000)?;
    encoder.set_blend_op(BlendOp::Source)?;
    encoder.set_dispose_op(DisposeOp::None)?;
    let mut writer = encoder.write_header()?;
    writer.write_image_data(first)?;
    for pair in pictures.windows(2) {
        go_on()?;
        let [x, y, w, h] = changed(&pair[0].0, &pair[1].0, size.0 as usize);
        writer.reset_frame_position()?;
        writer.set_frame_dimension(w as u32, h as u32)?;
        writer.set_frame_position(x as u32, y as u32)?;
        let row = |row: usize| &pair[1].0[3 * (row * size.0 as usize + x)..][..3 * w];
        writer.write_image_data(&(y..y + h).flat_map(row).copied().collect::<Vec<u8>>())?;
    }
    writer.finish()?;
    Ok(bytes)
}

/// The smallest rectangle `x y w h` with all pixels in which two pictures of this width differ; one pixel if none does.
fn changed(a: &[u8], b: &[u8], width: usize) -> [usize; 4] {
    let pixels = a.chunks_exact(3).zip(b.chunks_exact(3)).enumerate();
    let places = pixels.filter(|(_, (a, b))| a != b).map(|(i, _)| (i % width, i / width));
    let bounds = places.fold(None, |bounds, (x, y)| {
        let [left, top, right, bottom] = bounds.unwrap_or([x, y, x, y]);
        Some([x.min(left), y.min(top), x.max(right), y.max(bottom)])
    });
    let [left, top, right, bottom] = bounds.unwrap_or_default();
    [left, top, right + 1 - left, bottom + 1 - top]
}
