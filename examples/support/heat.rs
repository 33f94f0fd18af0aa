//! Maps drawn over frames as heat, and the outline of a region of cells.

use image::{Rgb, RgbImage};

/// The colour of half of the maximum.
pub const HOT: [u8; 3] = [255, 115, 0];

/// The frame in grey with heat over it: transparent where there is none, yellow to red where there is more. `heat` is 0
/// to 1 at a place `y x`, both from 0 to 1 over the picture.
pub fn heated(mut picture: RgbImage, heat: impl Fn([f32; 2]) -> f32) -> RgbImage {
    let (width, height) = picture.dimensions();
    for (x, y, pixel) in picture.enumerate_pixels_mut() {
        let [r, g, b] = pixel.0.map(f32::from);
        let grey = 0.6 * (0.299 * r + 0.587 * g + 0.114 * b);
        let heat = heat([(y as f32 + 0.5) / height as f32, (x as f32 + 0.5) / width as f32]).clamp(0.0, 1.0);
        let colour = [255.0, 230.0 * (1.0 - heat), 0.0];
        *pixel = Rgb(colour.map(|c| (grey + 0.85 * heat * (c - grey)) as u8));
    }
    picture
}

/// Draws a line of `width` along the border of a region, the cells that are set of `rows cols`, inside of it, and darkens
/// what is outside: a line alone does not say on which side the region is.
pub fn outlined(
    mut picture: RgbImage,
    region: &[bool],
    [rows, cols]: [usize; 2],
    width: i64,
    colour: [u8; 3],
) -> RgbImage {
    let (w, h) = picture.dimensions();
    let inside = |x: i64, y: i64| {
        // What lies outside of the picture counts as its edge does.
        let (x, y) = (x.clamp(0, i64::from(w) - 1) as usize, y.clamp(0, i64::from(h) - 1) as usize);
        region[y * rows / h as usize * cols + x * cols / w as usize]
    };
    for (x, y, pixel) in picture.enumerate_pixels_mut() {
        let (x, y) = (i64::from(x), i64::from(y));
        let near = || (-width..=width).flat_map(|dy| (-width..=width).map(move |dx| (x + dx, y + dy)));
        if inside(x, y) && near().any(|(x, y)| !inside(x, y)) {
            *pixel = Rgb(colour);
        } else if !inside(x, y) {
            *pixel = Rgb(pixel.0.map(|v| v / 2));
        }
    }
    picture
}

/// The value of maps `t h w` at a place `t y x`, each from 0 to 1 over its extent: linear between the middles of cells,
/// and constant beyond the last.
pub fn at(maps: &[f32], extents: [usize; 3], place: [f32; 3]) -> f32 {
    let axis = |i: usize| {
        let (n, at) = (extents[i], place[i] * extents[i] as f32 - 0.5);
        let at = at.clamp(0.0, n as f32 - 1.0);
        let first = at as usize;
        (first, (first + 1).min(n - 1), at - first as f32)
    };
    let [_, rows, cols] = extents;
    let ((t0, t1, dt), (y0, y1, dy), (x0, x1, dx)) = (axis(0), axis(1), axis(2));
    let value = |t: usize, y: usize, x: usize| maps[(t * rows + y) * cols + x];
    let mix = |a: f32, b: f32, by: f32| a + by * (b - a);
    let row = |t: usize, y: usize| mix(value(t, y, x0), value(t, y, x1), dx);
    let frame = |t: usize| mix(row(t, y0), row(t, y1), dy);
    mix(frame(t0), frame(t1), dt)
}
