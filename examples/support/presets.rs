//! The presets' values as `--help` shows them.

use super::options::Preset as Named;
use super::settings::{OPTIONS, SWITCHED_OFF};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Parser, ValueEnum};
use serde_json::{Map, Value};

/// Paths in a recipe that are not option names in `settings.json`, and the options that set them.
const MORE: [(&str, &str); 2] =
    [("method.alignment.detached", "--align-detached"), ("method.alignment.cosines.centred", "--align-centred")];

/// A preset: its name, and its settings as returned by [`super::settings::of_recipe`].
pub type Preset = (&'static str, Map<String, Value>);

/// Parses the command line, where `--preset` is one of `presets`; the help ends with the values that they set for the program's
/// options.
pub fn parse<A: Parser>(presets: &[Preset]) -> A {
    let has = |preset: &&Named| presets.iter().any(|(name, _)| *name == preset.name());
    let names = Named::value_variants().iter().filter(has).filter_map(ValueEnum::to_possible_value);
    let preset = PossibleValuesParser::new(names).try_map(|name| Named::from_str(&name, false));
    let command = A::command().mut_arg("preset", |arg| arg.value_parser(preset));
    let known: Vec<String> = command.get_arguments().filter_map(|a| Some(format!("--{}", a.get_long()?))).collect();
    let matches = command.after_help(table(presets, &known)).get_matches();
    A::from_arg_matches(&matches).unwrap_or_else(|e| e.exit())
}

/// A table of the values that `presets` set for the options `known`.
fn table(presets: &[Preset], known: &[String]) -> String {
    let mut rows =
        vec![std::iter::once("preset").chain(presets.iter().map(|(name, _)| *name)).map(str::to_owned).collect()];
    let places = OPTIONS.iter().chain(&SWITCHED_OFF).chain(&MORE);
    for (place, option) in places.filter(|(_, option)| known.iter().any(|k| k == option)) {
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

/// The value that a preset sets for an option.
fn value(of: &Map<String, Value>, place: &str, option: &str) -> Option<String> {
    let value = of.get(option).or_else(|| of.get(place));
    if option == "--w-align" && of.get("method.alignment").is_some_and(Value::is_null) {
        return Some("0".to_owned());
    }
    match value? {
        Value::Null if option == "--queue" => {
            Some(of.get("training.queue_cap").map_or("auto".to_owned(), |cap| format!("at most {cap}")))
        }
        Value::Number(chance) if option == "--motion-sampling" => {
            Some(if chance.as_f64() > Some(0.0) { "on" } else { "off" }.to_owned())
        }
        Value::String(text) => Some(text.clone()),
        Value::Bool(on) => Some(if *on { "on" } else { "off" }.to_owned()),
        other => Some(other.to_string()),
    }
}
