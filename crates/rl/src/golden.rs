//! Golden numbers for tests: what `scripts/ppo_reference.py` worked out with NumPy.

use serde_json::Value;
use std::path::Path;

/// The cases called `name`.
pub(crate) fn golden(name: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/ppo.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let all: Value = serde_json::from_str(&text).unwrap();
    let cases = all[name].as_array().unwrap_or_else(|| panic!("no cases of {name}")).clone();
    assert!(!cases.is_empty());
    cases
}

/// A list of numbers.
pub(crate) fn numbers(list: &Value) -> Vec<f64> {
    list.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

/// The same as f32.
pub(crate) fn narrow(list: &Value) -> Vec<f32> {
    numbers(list).into_iter().map(|x| x as f32).collect()
}

/// Panics unless all are within `tolerance`, relative to numbers over 1.
#[track_caller]
pub(crate) fn close(what: &str, found: impl IntoIterator<Item = f64>, expected: &[f64], tolerance: f64) {
    let found: Vec<f64> = found.into_iter().collect();
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let close = (found - expected).abs() <= tolerance * expected.abs().max(1.0); // false for NaN
        assert!(close, "{what} {i}: {found}, expected {expected}");
    }
}
