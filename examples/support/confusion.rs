//! The picture of a confusion matrix: a row for each true class, a column for each predicted one.

use super::{Drawn, FONT, font, paint};
use anyhow::{Result, ensure};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::path::Path;

const MARGIN: i32 = 16;
/// Height of the lines above the matrix.
const HEAD: i32 = 66;
/// Largest and smallest side of a cell.
const CELLS: [i32; 2] = [40, 3];
/// The side of the matrix where there are more classes than cells of the largest side fit.
const SIDE: i32 = 900;
/// Longest name that is drawn in full, in letters.
const LETTERS: usize = 24;
const INK: RGBColor = RGBColor(40, 44, 52);
const GRID: RGBColor = RGBColor(214, 218, 226);
/// The colour of a share of 1; 0 is white.
const FULL: [f64; 3] = [16.0, 64.0, 140.0];

/// A name that fits, with `…` where it was cut.
fn fitting(name: &str) -> String {
    if name.chars().count() <= LETTERS {
        return name.to_owned();
    }
    name.chars().take(LETTERS - 1).chain(['…']).collect()
}

fn colour(share: f64) -> RGBColor {
    let [r, g, b] = FULL.map(|full| (255.0 + (full - 255.0) * share).round() as u8);
    RGBColor(r, g, b)
}

/// Draws `counts [c c]` (true class, predicted class) of classes with these names into the PNG `out`. `title` says what
/// it is of. Colours are shares of a true class's videos.
pub fn draw(out: &Path, title: &str, names: &[&str], counts: &[usize]) -> Result<()> {
    let c = names.len();
    ensure!(c > 0 && counts.len() == c * c, "a confusion matrix of {c} classes has {} numbers", counts.len());
    let cell = (SIDE / c as i32).clamp(CELLS[1], CELLS[0]);
    let names: Vec<String> = names.iter().map(|name| fitting(name)).collect();
    let size = (cell - 2).clamp(9, 14);
    // Names of every class where a line of text fits into a cell, of every second, third, … otherwise.
    let every = (f64::from(size + 1) / f64::from(cell)).ceil().max(1.0) as usize;
    font()?;
    let wide = |name: &String| (FONT, size).into_font().box_size(name).map_or(0, |(wide, _)| wide as i32);
    let room = names.iter().map(wide).max().unwrap_or(0) + 12;
    let (left, top) = (MARGIN + room + 20, MARGIN + HEAD + room + 20);
    let side = cell * c as i32;
    let (width, height) = ((left + side + MARGIN).max(520), top + side + MARGIN);
    let text = |size: i32| (FONT, size).into_font().color(&INK);
    let right = Pos::new(HPos::Right, VPos::Center);
    paint(out, (u32::try_from(width)?, u32::try_from(height)?), |picture| {
        picture.fill(&WHITE)?;
        picture.draw(&Text::new(title, (MARGIN, MARGIN), text(17)))?;
        scale(picture, every)?;
        let upwards = |style: TextStyle<'static>| style.transform(FontTransform::Rotate270);
        let centre = Pos::new(HPos::Center, VPos::Center);
        picture.draw(&Text::new("predicted class", (left + side / 2, MARGIN + HEAD + 6), text(13).pos(centre)))?;
        // Rotated text is anchored as it was before the rotation.
        picture.draw(&Text::new("true class", (MARGIN + 6, top + side / 2), upwards(text(13)).pos(centre)))?;
        for (i, row) in counts.chunks_exact(c).enumerate() {
            let all = row.iter().sum::<usize>().max(1) as f64;
            let y = top + i as i32 * cell;
            if i.is_multiple_of(every) {
                let at = (left - 6, y + cell / 2);
                picture.draw(&Text::new(names[i].as_str(), at, text(size).pos(right)))?;
                let at = (left + i as i32 * cell + cell / 2, top - 6);
                let from_below = Pos::new(HPos::Left, VPos::Center);
                picture.draw(&Text::new(names[i].as_str(), at, upwards(text(size)).pos(from_below)))?;
            }
            for (j, &n) in row.iter().enumerate() {
                let (x, share) = (left + j as i32 * cell, n as f64 / all);
                let corners = [(x, y), (x + cell - 1, y + cell - 1)];
                picture.draw(&Rectangle::new(corners, colour(share).filled()))?;
                if cell >= 22 && n > 0 {
                    let ink = if share > 0.5 { WHITE } else { INK };
                    let style = (FONT, 12).into_font().color(&ink).pos(centre);
                    picture.draw(&Text::new(n.to_string(), (x + cell / 2, y + cell / 2), style))?;
                }
            }
        }
        let lines = if cell >= 8 { 1 } else { 0 };
        for i in (0..=c as i32).filter(|i| lines == 1 || *i == 0 || *i == c as i32) {
            let (x, y) = (left + i * cell, top + i * cell);
            picture.draw(&PathElement::new([(x, top), (x, top + side)], GRID))?;
            picture.draw(&PathElement::new([(left, y), (left + side, y)], GRID))?;
        }
        Ok(())
    })
}

/// The scale of colours, and that only every so many classes are named.
fn scale(picture: &DrawingArea<BitMapBackend, Shift>, every: usize) -> Drawn {
    let (y, wide) = (MARGIN + 28, 120);
    for x in 0..wide {
        let place = [(MARGIN + 24 + x, y), (MARGIN + 25 + x, y + 12)];
        picture.draw(&Rectangle::new(place, colour(f64::from(x) / f64::from(wide - 1)).filled()))?;
    }
    let frame = [(MARGIN + 24, y), (MARGIN + 24 + wide, y + 12)];
    picture.draw(&Rectangle::new(frame, GRID))?;
    let text = || (FONT, 13).into_font().color(&INK);
    picture.draw(&Text::new("0 %", (MARGIN - 4, y), text()))?;
    let named = if every > 1 { format!("; one class in {every} is named") } else { String::new() };
    let most = format!("100 % of the true class's videos{named}");
    picture.draw(&Text::new(most, (MARGIN + 30 + wide, y), text()))?;
    Ok(())
}
