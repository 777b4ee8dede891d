//! Folders of models and adapters, and what `gptkit sample` makes of them.

use super::{none_differ, rows};
use crate::run;
use serde_json::Value;
use std::path::Path;

/// Copies `folder` and the folders in it to `to`.
pub(super) fn copy(folder: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(folder).unwrap() {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            std::fs::copy(&from, &to).unwrap();
        }
    }
}

/// Sets keys of the JSON file `path`; null removes them.
pub(super) fn set(path: &Path, changes: &Value) {
    let mut json: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(json.as_object_mut().unwrap().remove(key)),
            value => json[key] = value.clone(),
        }
    }
    std::fs::write(path, json.to_string()).unwrap();
}

/// What `gptkit sample` makes of the model in `model`, against the tokens and log-probabilities of `row`, or its refusal.
pub(super) fn check_sample(folder: &Path, model: &str, row: &Value) -> Result<(), String> {
    let n = row["tokens"].as_array().map_or(1, Vec::len);
    let prompt = row["prompt"].as_str().unwrap_or("a");
    let numbers =
        ["--max-new-tokens", &n.to_string(), "--temperature", "0", "--log-probs", "1", "--dtype", "f32", "--json"];
    let arguments = [&["sample", "--model", model, "--prompt", prompt][..], &numbers].concat();
    let ran = run(folder, &arguments, b"");
    if let Some(refused) = row["refused"].as_str() {
        let said = ran.code == Some(2) && ran.err.contains(refused);
        return if said { Ok(()) } else { Err(format!("{:?}, and not {refused:?}: {}", ran.code, ran.err)) };
    }
    if ran.code != Some(0) {
        return Err(ran.err);
    }
    let sample: Value = serde_json::from_str(&ran.out).unwrap();
    if sample["tokens"] != row["tokens"] {
        return Err(format!("{} instead of {}", sample["tokens"], row["tokens"]));
    }
    let places = sample["log_probs"].as_array().unwrap();
    for (place, expected) in places.iter().zip(row["log_probs"].as_array().unwrap()) {
        let off = place["log_prob"].as_f64().unwrap() - expected.as_f64().unwrap();
        if off.abs() > 1e-4 {
            return Err(format!("{} instead of {expected}", place["log_prob"]));
        }
    }
    Ok(())
}

/// Checks each of the `n` rows of `kind`.
pub(super) fn check_rows(kind: &str, n: usize, check: impl Fn(&str, &Value) -> Result<(), String>) {
    let wrong = |row: &Value| {
        let name = row["name"].as_str().unwrap();
        check(name, row).err().map(|error| format!("{name}: {error}"))
    };
    none_differ(&rows(kind, n).iter().filter_map(wrong).collect::<Vec<_>>());
}

/// The row `name` of the `n` rows of `kind`.
pub(super) fn row(kind: &str, n: usize, name: &str) -> Value {
    rows(kind, n).into_iter().find(|row| row["name"] == name).unwrap()
}
