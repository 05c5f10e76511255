//! Figures for people, and the same as JSON for scripts. Each figure carries its unit in its name.

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;

/// The figures of one mode.
pub fn figures(result: Result<impl Serialize>) -> Result<Value> {
    Ok(serde_json::to_value(result?)?)
}

/// One figure a line, under its full name.
pub fn print(figures: &Value) {
    let mut lines = Vec::new();
    flatten(figures, "", &mut lines);
    let width = lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    for (name, value) in lines {
        println!("{name:width$}  {value}");
    }
}

fn flatten(value: &Value, name: &str, lines: &mut Vec<(String, String)>) {
    let below = |key: &str| if name.is_empty() { key.into() } else { format!("{name} {key}") };
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(key, value)| flatten(value, &below(key), lines));
        }
        Value::Array(items) => {
            let places = items.iter().enumerate();
            places.for_each(|(place, item)| flatten(item, &below(&place.to_string()), lines));
        }
        Value::Null => {}
        Value::Number(number) => lines.push((name.into(), rounded(number.as_f64()))),
        Value::String(text) => lines.push((name.into(), text.clone())),
        Value::Bool(claim) => lines.push((name.into(), claim.to_string())),
    }
}

/// As many digits as mean something.
fn rounded(number: Option<f64>) -> String {
    match number {
        Some(number) if number.fract() == 0.0 || number.abs() >= 1_000.0 => format!("{number:.0}"),
        Some(number) => format!("{number:.2}"),
        None => "?".into(),
    }
}
