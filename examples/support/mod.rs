//! What the examples share: options, progress, the summary, pictures. Include it with `mod support;`.

#![allow(dead_code)] // Each example uses its part.

pub mod args;
pub mod checks;
pub mod curves;
pub mod extract;
pub mod focus;
pub mod motion;
pub mod output;
pub mod presets;
pub mod pretrain;
pub mod progress;
pub mod run;
pub mod saliency;
pub mod settings;
pub mod sheet;
pub mod stop;
pub mod summary;

use plotters::style::{FontStyle, register_font};
use std::sync::OnceLock;

/// The name of the built-in font (DejaVu Sans), so that pictures need no font of the system.
pub const FONT: &str = "dejavu";

/// Registers [`FONT`]; the first call does the work.
pub fn font() -> anyhow::Result<()> {
    static DONE: OnceLock<bool> = OnceLock::new();
    let done = *DONE.get_or_init(|| register_font(FONT, FontStyle::Normal, dejavu::sans::regular()).is_ok());
    anyhow::ensure!(done, "the built-in font cannot be read");
    Ok(())
}
