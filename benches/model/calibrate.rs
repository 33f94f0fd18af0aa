//! From a record of `benches/gpu.rs` to a calibration file: the rates that it measured replace the table's.

use serde_json::{Map, Value, json};

/// Peaks of a record, and what they are called in a calibration.
const PEAKS: [(&str, &str); 6] = [
    ("copy_tb_per_s", "hbm_tb_per_s"),
    ("l2_tb_per_s", "l2_tb_per_s"),
    ("bf16_tflops", "mma_tflops"),
    ("wgmma_tflops", "wgmma_tflops"),
    ("f32_tflops", "fma_tflops"),
    ("launch_us", "launch_us"),
];

/// The calibration of a record: of one that `benches/gpu.rs` wrote, or of the bundle's `record.json`.
///
/// # Errors
/// When it has no measured peaks.
pub fn from_record(record: &Value) -> Result<Value, String> {
    let measured = |(key, name): (&str, &str)| {
        let value = record["peaks"][key].as_f64().filter(|v| v.is_finite() && *v > 0.0)?;
        Some((name.to_owned(), json!(value)))
    };
    let mut found: Map<String, Value> = PEAKS.into_iter().filter_map(measured).collect();
    if found.is_empty() {
        let keys = PEAKS.map(|(key, _)| key).join(", ");
        return Err(format!("the record has none of the peaks {keys}"));
    }
    let machine = [&record["machine"], &record["device"]].into_iter().find(|v| v.is_string()).cloned();
    found.insert("machine".to_owned(), machine.unwrap_or_default());
    Ok(Value::Object(found))
}
