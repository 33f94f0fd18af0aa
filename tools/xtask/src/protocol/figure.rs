//! The table and the figure of `protocol.json`.

use serde_json::Value;
use std::fmt::Write;

const COLOURS: [(&str, &str); 5] =
    [("maclr", "#1f77b4"), ("mcl", "#e67e22"), ("rgb", "#b03a8c"), ("random", "#555555"), ("supervised", "#2a9d5b")];

fn pair(value: &Value) -> Option<[f64; 2]> {
    Some([value[0].as_f64()?, value[1].as_f64()?])
}

/// A figure with its interval, as text.
fn shown(figure: &Value, interval: &Value) -> String {
    match (figure.as_f64(), pair(interval)) {
        (Some(f), Some([low, high])) => format!("{f:.3} ({low:.3} to {high:.3})"),
        (Some(f), None) => format!("{f:.3}"),
        _ => String::new(),
    }
}

/// The methods with their figures as Markdown.
pub fn table(all: &Value) -> String {
    let mut text = String::from(
        "| | folds: balanced | folds: top-1 | test: balanced, over actors and tracks | test: balanced, over seeds | test: top-1, over \
         actors and tracks | above RGB only (balanced) |\n|---|---|---|---|---|---|---|\n",
    );
    for (name, of) in all["methods"].as_object().into_iter().flatten() {
        let (folds, test) = (&of["folds"], &of["test"]);
        let _ = writeln!(
            text,
            "| {name} | {} | {} | {} | {} | {} | {} |",
            shown(&folds["mean_class"], &folds["mean_class_over_actors"]),
            shown(&folds["top1"], &folds["top1_over_actors"]),
            shown(&test["mean_class"], &test["mean_class_over_actors"]),
            shown(&test["mean_class"], &test["mean_class_over_seeds"]),
            shown(&test["top1"], &test["top1_over_actors"]),
            if name == "rgb" {
                String::new()
            } else {
                shown(&test["mean_class_above_rgb"], &test["mean_class_above_rgb_over_actors"])
            },
        );
    }
    text
}

/// What was run, in words, and the options that these do not say: by the method's name and its options.
fn label(name: &str, of: &Value) -> [String; 2] {
    let title = match name {
        "maclr" => "MaCLR",
        "mcl" => "MCL",
        "rgb" => "RGB only",
        "random" => "random weights",
        "supervised" => "with labels",
        other => other,
    };
    let (mut preset, mut epochs, mut others) = (String::new(), String::new(), Vec::new());
    let mut words = of["options"].as_str().unwrap_or_default().split_whitespace().peekable();
    while let Some(option) = words.next() {
        let value = words.next_if(|word| !word.starts_with("--")).unwrap_or_default();
        match option {
            // The last of an option that is there twice counts.
            "--preset" => preset = format!(", preset {value}"),
            "--epochs" => epochs = format!(", {value} epochs"),
            "--no-flip" => {}
            "--w-mm" | "--w-vm" | "--w-mv" if name == "rgb" && value == "0" => {}
            _ => others.push(format!("{option} {value}").trim().to_owned()),
        }
    }
    [format!("{title}{preset}{epochs}"), others.join(" ").replace('&', "&amp;").replace('<', "&lt;")]
}

/// Balanced accuracy of each method, the best first: on the test actors with both intervals and the seeds, and on the folds.
pub fn draw(all: &Value) -> String {
    let mut methods: Vec<(&String, &Value)> = all["methods"].as_object().into_iter().flatten().collect();
    let figure = |of: &Value| ["test", "folds"].iter().find_map(|part| of[part]["mean_class"].as_f64());
    methods.sort_by(|(_, a), (_, b)| figure(b).unwrap_or(-1.0).total_cmp(&figure(a).unwrap_or(-1.0)));
    let has_folds = methods.iter().any(|(_, of)| of["folds"]["mean_class"].is_number());
    // Folds take a second line in the key, and a second one beside each method.
    let (top, step) = if has_folds { (64.0, 56.0) } else { (40.0, 34.0) };
    let (w, left, right) = (830.0, 200.0, 20.0);
    let h = top + step * methods.len() as f64 + 46.0;
    let x = |v: f64| left + v.clamp(0.0, 1.0) * (w - left - right);
    let mut s = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {w} {h}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{w}\" height=\"{h}\" fill=\"white\"/>\n"
    );
    for tenth in 0..=10 {
        let (at, value) = (x(f64::from(tenth) / 10.0), f64::from(tenth) / 10.0);
        let _ = writeln!(
            s,
            "<path d=\"M{at:.1} {top}V{:.1}\" stroke=\"#e0e3e7\"/><text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{value:.1}</text>",
            h - 46.0,
            h - 28.0
        );
    }
    let _ = writeln!(
        s,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">balanced accuracy on actors that were not trained on</text>",
        (left + w - right) / 2.0,
        h - 8.0
    );
    // The key.
    let grey = "#444";
    let _ = writeln!(
        s,
        "<circle cx=\"16\" cy=\"20\" r=\"5\" fill=\"{grey}\"/><text x=\"28\" y=\"24\">test actors, mean of the seeds</text>\
         <path d=\"M246 13V27\" stroke=\"{grey}\"/><text x=\"254\" y=\"24\">one seed</text>\
         <path d=\"M335 20H371\" stroke=\"{grey}\" stroke-width=\"2\"/><text x=\"379\" y=\"24\">95 % over actors and tracks</text>\
         <path d=\"M590 20H626\" stroke=\"{grey}\" stroke-width=\"7\" opacity=\"0.35\"/><text x=\"634\" y=\"24\">95 % over seeds</text>"
    );
    if has_folds {
        let _ = writeln!(
            s,
            "<path d=\"M11 44L16 39L21 44L16 49Z\" fill=\"none\" stroke=\"{grey}\" stroke-width=\"1.5\"/>\
             <text x=\"28\" y=\"48\">training actors, each left out in turn, with 95 % over actors and tracks</text>"
        );
    }
    for (i, (name, of)) in methods.into_iter().enumerate() {
        let y = top + step * (i as f64 + 0.5);
        let [on_test, on_folds] = if has_folds { [y - 9.0, y + 11.0] } else { [y; 2] };
        let colour = COLOURS.iter().find(|(known, _)| known == name).map_or("black", |(_, colour)| colour);
        let ([what, more], at) = (label(name, of), left - 12.0);
        let lift = if more.is_empty() { 4.0 } else { -2.0 };
        let _ =
            writeln!(s, "<text x=\"{at}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"{colour}\">{what}</text>", y + lift);
        if !more.is_empty() {
            let _ =
                writeln!(s, "<text x=\"{at}\" y=\"{:.1}\" text-anchor=\"end\" font-size=\"9\">{more}</text>", y + 11.0);
        }
        let mut line = |interval: &Value, y: f64, wide: f64, opacity: f64| {
            if let Some([low, high]) = pair(interval) {
                let (low, high) = (x(low), x(high));
                let _ = writeln!(
                    s,
                    "<path d=\"M{low:.1} {y:.1}H{high:.1}\" stroke=\"{colour}\" stroke-width=\"{wide}\" opacity=\"{opacity}\"/>"
                );
            }
        };
        let (test, folds) = (&of["test"], &of["folds"]);
        line(&test["mean_class_over_seeds"], on_test, 7.0, 0.35);
        line(&test["mean_class_over_actors"], on_test, 2.0, 1.0);
        line(&folds["mean_class_over_actors"], on_folds, 1.0, 1.0);
        for value in test["mean_class_seeds"].as_array().into_iter().flatten().filter_map(Value::as_f64) {
            let (at, from, to) = (x(value), on_test - 7.0, on_test + 7.0);
            let _ = writeln!(s, "<path d=\"M{at:.1} {from:.1}V{to:.1}\" stroke=\"{colour}\"/>");
        }
        if let Some(mean) = test["mean_class"].as_f64() {
            let _ = writeln!(s, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"5\" fill=\"{colour}\"/>", x(mean), on_test);
        }
        if let Some(mean) = folds["mean_class"].as_f64() {
            let (at, y) = (x(mean), on_folds);
            let _ = writeln!(
                s,
                "<path d=\"M{:.1} {y:.1}L{at:.1} {:.1}L{:.1} {y:.1}L{at:.1} {:.1}Z\" fill=\"white\" stroke=\"{colour}\" stroke-width=\"1.5\"/>",
                at - 5.0,
                y - 5.0,
                at + 5.0,
                y + 5.0
            );
        }
    }
    s + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_table_and_the_figure_show_what_there_is() {
        let part = json!({"top1": 0.5, "mean_class": 0.45, "top1_over_actors": [0.3, 0.7], "mean_class_over_actors": [0.25, 0.65],
            "mean_class_over_seeds": [0.4, 0.5], "mean_class_seeds": [0.43, 0.47], "mean_class_above_rgb": 0.3,
            "mean_class_above_rgb_over_actors": [0.1, 0.4]});
        let all = json!({"methods": {"maclr": {"folds": part, "test": part}, "random": {"folds": part}}});
        let text = table(&all);
        assert!(text.contains("| maclr | 0.450 (0.250 to 0.650) | 0.500 (0.300 to 0.700) | 0.450 (0.250 to 0.650) | 0.450 (0.400 to 0.500) |"), "{text}");
        assert!(
            text.contains("| 0.300 (0.100 to 0.400) |")
                && text.contains("| random | 0.450 (0.250 to 0.650) | 0.500 (0.300 to 0.700) |  |"),
            "{text}"
        );
        let svg = draw(&all);
        assert!(svg.contains(">one seed</text>"), "{svg}");
        // The best first, by what was run.
        let of = |options: &str, mean: f64| json!({"options": options, "test": {"mean_class": mean}});
        let rows = draw(&json!({"methods": {
            "maclr": of("--preset long --no-flip --preset small --w-steps 1", 0.6), "supervised": of("--no-flip --epochs 200", 0.8),
            "rgb": of("--preset small --no-flip --w-mm 0 --w-vm 0 --w-mv 0", 0.1)}}));
        let places =
            [">with labels, 200 epochs<", ">MaCLR, preset small<", ">--w-steps 1<", ">RGB only, preset small<"];
        let places = places.map(|text| rows.find(text).unwrap_or_else(|| panic!("{text}: {rows}")));
        assert!(places.is_sorted(), "{rows}");
        assert!(
            svg.matches("<circle").count() == 2 && svg.contains(">random weights</text>") && !svg.contains("NaN"),
            "{svg}"
        );
        assert!(svg.matches("fill=\"white\" stroke").count() == 2, "both have folds");
        let key = "each left out in turn";
        let without = draw(&json!({"methods": {"maclr": {"test": all["methods"]["maclr"]["test"]}}}));
        assert!(svg.contains(key) && !without.contains(key) && without.matches("<circle").count() == 2, "{without}");
    }
}
