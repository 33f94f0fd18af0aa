//! The presets' values as `--help` shows them.

use super::settings::{OPTIONS, SWITCHED_OFF};
use serde_json::{Map, Value};

/// Places in a recipe that no option goes by in `settings.json`, and the options that set them.
const MORE: [(&str, &str); 2] =
    [("method.alignment.detached", "--align-detached"), ("method.alignment.cosines.centred", "--align-centred")];

/// What each of `presets` sets, by the options' names: its name, and its settings as [`super::settings::of_recipe`] has them.
pub fn table(presets: &[(&str, Map<String, Value>)]) -> String {
    let mut rows =
        vec![std::iter::once("preset").chain(presets.iter().map(|(name, _)| *name)).map(str::to_owned).collect()];
    let places = OPTIONS.iter().chain(&SWITCHED_OFF).chain(&MORE);
    for (place, option) in places {
        let values: Vec<Option<String>> = presets.iter().map(|(_, of)| value(of, place, option)).collect();
        if values.iter().any(Option::is_some) {
            let shown = values.into_iter().map(|v| v.unwrap_or_else(|| "-".to_owned()));
            rows.push(std::iter::once((*option).to_owned()).chain(shown).collect::<Vec<String>>());
        }
    }
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..=presets.len()).map(width).collect();
    let line = |row: &Vec<String>| -> String {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("  {cell:width$}"));
        cells.collect::<String>().trim_end().to_owned()
    };
    let lines: Vec<String> = rows.iter().map(line).collect();
    format!("What the presets set (--preset):\n{}", lines.join("\n"))
}

/// What a preset sets an option to.
fn value(of: &Map<String, Value>, place: &str, option: &str) -> Option<String> {
    let value = of.get(option).or_else(|| of.get(place));
    if option == "--w-align" && of.get("method.alignment").is_some_and(Value::is_null) {
        return Some("0".to_owned());
    }
    match value? {
        Value::Null if option == "--queue" => {
            Some(of.get("training.queue_cap").map_or("auto".to_owned(), |cap| format!("at most {cap}")))
        }
        Value::String(text) => Some(text.clone()),
        Value::Bool(on) => Some(if *on { "on" } else { "off" }.to_owned()),
        other => Some(other.to_string()),
    }
}
