//! The operations on the pixels of one frame, with Pillow's rounding (`ImageOps`, `ImageEnhance`, `Image.transform`).

type Pixel = [u8; 3];

/// Replaces every byte `v` by `f(v)`.
pub fn map(frame: &mut [Pixel], f: impl Fn(u8) -> u8) {
    let table: [u8; 256] = std::array::from_fn(|v| f(v as u8));
    for v in frame.as_flattened_mut() {
        *v = table[usize::from(*v)];
    }
}

/// Replaces the bytes of each channel by a table that is made of the channel's histogram.
fn map_by_histogram(frame: &mut [Pixel], table: impl Fn(&[usize; 256]) -> [u8; 256]) {
    for channel in 0..3 {
        let mut counts = [0; 256];
        for pixel in &*frame {
            counts[usize::from(pixel[channel])] += 1;
        }
        let table = table(&counts);
        for pixel in &mut *frame {
            pixel[channel] = table[usize::from(pixel[channel])];
        }
    }
}

fn unchanged() -> [u8; 256] {
    std::array::from_fn(|v| v as u8)
}

/// Stretches each channel to 0..=255.
pub fn auto_contrast(frame: &mut [Pixel]) {
    map_by_histogram(frame, |counts| {
        let low = counts.iter().position(|&n| n > 0).unwrap_or(0);
        let high = counts.iter().rposition(|&n| n > 0).unwrap_or(0);
        if low == high {
            return unchanged();
        }
        let scale = 255.0 / (high - low) as f64;
        let offset = -(low as f64) * scale;
        std::array::from_fn(|v| (v as f64 * scale + offset) as u8)
    });
}

/// Makes the levels of each channel about equally frequent.
pub fn equalize(frame: &mut [Pixel]) {
    map_by_histogram(frame, |counts| {
        let brightest = counts.iter().rfind(|&&n| n > 0).unwrap_or(&0);
        let step = (counts.iter().sum::<usize>() - brightest) / 255;
        if step == 0 {
            return unchanged();
        }
        let mut below = step / 2;
        counts.map(|n| {
            let level = below / step;
            below += n;
            level.min(255) as u8
        })
    });
}

/// `from + factor · (to - from)`, truncated and clamped: `Image.blend`.
pub fn blend(from: u8, to: u8, factor: f32) -> u8 {
    let [from, to] = [from, to].map(f32::from);
    (from + factor * (to - from)) as u8
}

/// Luma in 16 bits of fraction: the conversion to Pillow's mode `L`.
fn luma([r, g, b]: Pixel) -> u8 {
    ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16) as u8
}

/// Blends each pixel with its luma.
pub fn color(frame: &mut [Pixel], factor: f32) {
    for pixel in frame {
        let grey = luma(*pixel);
        *pixel = pixel.map(|v| blend(grey, v, factor));
    }
}

/// Blends with the mean luma, rounded.
pub fn contrast(frame: &mut [Pixel], factor: f32) {
    let sum: u64 = frame.iter().map(|&pixel| u64::from(luma(pixel))).sum();
    let mean = (sum as f64 / frame.len() as f64 + 0.5) as u8;
    map(frame, |v| blend(mean, v, factor));
}

/// Blends with the mean of 3x3 pixels, the middle one counted five times. Pixels at the edges have none and stay.
pub fn sharpness(frame: &mut [Pixel], h: usize, w: usize, factor: f32) {
    const AROUND: f32 = 1.0 / 13.0;
    const MIDDLE: f32 = 5.0 / 13.0;
    let source = frame.to_vec();
    for y in 1..h.saturating_sub(1) {
        for x in 1..w.saturating_sub(1) {
            let at = y * w + x;
            frame[at] = std::array::from_fn(|channel| {
                let three = |at: usize, weight: f32| {
                    let [left, middle, right] = [at - 1, at, at + 1].map(|at| f32::from(source[at][channel]));
                    left * AROUND + middle * weight + right * AROUND
                };
                // Pillow's order of summation, from the lower row to the upper one.
                let smooth = 0.5 + three(at + w, AROUND) + three(at, MIDDLE) + three(at - w, AROUND);
                blend(smooth as u8, source[at][channel], factor)
            });
        }
    }
}

/// Fills the rows and columns from the first to the last one, as far as the frame has them.
pub fn fill(frame: &mut [Pixel], w: usize, rows: [usize; 2], columns: [usize; 2], colour: Pixel) {
    for row in frame.chunks_exact_mut(w).take(rows[1] + 1).skip(rows[0]) {
        for pixel in row.iter_mut().take(columns[1] + 1).skip(columns[0]) {
            *pixel = colour;
        }
    }
}

/// Rotation about the centre, anticlockwise.
pub fn rotate(frame: &mut [Pixel], h: usize, w: usize, degrees: f64) {
    // Pillow rounds sine and cosine to 15 decimals; so does a number's text.
    let rounded = |v: f64| format!("{v:.15}").parse().unwrap_or(v);
    let (sin, cos) = (-degrees.rem_euclid(360.0).to_radians()).sin_cos();
    let [sin, cos]: [f64; 2] = [sin, cos].map(rounded);
    let [x, y] = [w, h].map(|extent| extent as f64 / 2.0);
    let across = cos * -x + sin * -y + x;
    let down = -sin * -x + cos * -y + y;
    affine(frame, h, w, [cos, sin, across, -sin, cos, down]);
}

/// Takes the pixel at `x y` from column `a·x + b·y + c` and row `d·x + e·y + f`, the nearest one, black outside.
///
/// In 16.16 fixed point at pixel centres. (Pillow uses floating point instead where a coordinate may reach 32768.)
pub fn affine(frame: &mut [Pixel], h: usize, w: usize, [a, b, c, d, e, f]: [f64; 6]) {
    let fixed = |v: f64| (v * 65536.0 + 0.5).floor() as i64;
    let start = [c + a * 0.5 + b * 0.5, f + d * 0.5 + e * 0.5].map(fixed);
    let [a, b, d, e] = [a, b, d, e].map(fixed);
    take(frame, h, w, |y, x| {
        let [x, y] = [x as i64, y as i64];
        [start[1] + e * y + d * x, start[0] + b * y + a * x].map(|at| usize::try_from(at >> 16).ok())
    });
}

/// Moves the content by `dy` rows up and `dx` columns to the left, to the nearest pixel.
pub fn translate(frame: &mut [Pixel], h: usize, w: usize, [dy, dx]: [f64; 2]) {
    // Positions are sums of ones, like Pillow's: the product may round differently.
    let positions = |shift: f64, extent: usize| -> Vec<Option<usize>> {
        let centres = std::iter::successors(Some(shift + 0.5), |at| Some(at + 1.0));
        centres.map(|at| (at >= 0.0).then_some(at as usize)).take(extent).collect()
    };
    let (rows, columns) = (positions(dy, h), positions(dx, w));
    take(frame, h, w, |y, x| [rows[y], columns[x]]);
}

/// Takes each pixel from the row and column that `source` gives for its row and column; black where there is none.
fn take(frame: &mut [Pixel], h: usize, w: usize, source: impl Fn(usize, usize) -> [Option<usize>; 2]) {
    let from = frame.to_vec();
    for (y, row) in frame.chunks_exact_mut(w).enumerate() {
        for (x, pixel) in row.iter_mut().enumerate() {
            *pixel = match source(y, x) {
                [Some(y), Some(x)] if y < h && x < w => from[y * w + x],
                _ => [0; 3],
            };
        }
    }
}
