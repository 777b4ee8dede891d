//! Golden numbers for tests: what `scripts/metrics_reference.py` had other implementations compute.

use serde_json::Value;
use std::path::Path;

/// The cases called `name`.
pub(crate) fn golden(name: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/metrics.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let all: Value = serde_json::from_str(&text).unwrap();
    let cases = all[name].as_array().unwrap_or_else(|| panic!("no cases of {name}")).clone();
    assert!(!cases.is_empty());
    cases
}

/// A list of strings.
pub(crate) fn strings(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// Panics unless `found` is `expected` within 1e-9; NaN never is.
#[track_caller]
pub(crate) fn assert_close(what: &str, found: f64, expected: &Value) {
    let expected = expected.as_f64().unwrap();
    assert!((found - expected).abs() <= 1e-9, "{what}: {found}, expected {expected}");
}
