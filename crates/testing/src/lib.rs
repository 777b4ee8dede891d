//! What unit tests of several crates share: files of golden numbers, and comparisons with them. Never a dependency of what is
//! shipped.

pub mod stub_hub;

use serde_json::Value;
use std::path::{Path, PathBuf};

/// The file or folder `name` in `tests/golden`.
#[must_use]
pub fn golden_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

/// The JSON in `tests/golden/FILE`.
///
/// # Panics
/// When it cannot be read.
#[must_use]
pub fn golden_json(file: &str) -> Value {
    let path = golden_path(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The cases called `name` in `tests/golden/FILE`, at least one.
///
/// # Panics
/// When there are none.
#[must_use]
pub fn golden_cases(file: &str, name: &str) -> Vec<Value> {
    match golden_json(file).get_mut(name).map(Value::take) {
        Some(Value::Array(cases)) if !cases.is_empty() => cases,
        _ => panic!("{file} has no cases of {name}"),
    }
}

/// The file or folder `name` below the folder that `GPTKIT_TEST_DATA` names: published data, and further golden cases
/// in `parity`, that are not in the repository.
/// Tests that need it are `#[ignore]`d; `cargo test -- --ignored` runs them.
///
/// # Panics
/// When the variable is not set, or the file is not there.
#[must_use]
pub fn published(name: &str) -> PathBuf {
    let Some(folder) = std::env::var_os("GPTKIT_TEST_DATA") else {
        panic!("GPTKIT_TEST_DATA is not set; it names a folder that has {name}")
    };
    let path = Path::new(&folder).join(name);
    assert!(path.exists(), "{} does not exist; GPTKIT_TEST_DATA names the folder that should have it", path.display());
    path
}

/// A JSON list of strings.
///
/// # Panics
/// When it is something else.
#[must_use]
pub fn strings(list: &Value) -> Vec<String> {
    items(list).map(|item| item.as_str().unwrap_or_else(|| panic!("{item} is not a string")).to_owned()).collect()
}

/// A JSON list of numbers.
///
/// # Panics
/// When it is something else.
#[must_use]
pub fn numbers(list: &Value) -> Vec<f64> {
    items(list).map(number).collect()
}

/// A JSON list of numbers, as f32.
///
/// # Panics
/// When it is something else.
#[must_use]
pub fn narrow(list: &Value) -> Vec<f32> {
    numbers(list).into_iter().map(|x| x as f32).collect()
}

/// A JSON number.
///
/// # Panics
/// When it is something else.
#[must_use]
pub fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is not a number"))
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().unwrap_or_else(|| panic!("{list} is not a list")).iter()
}

/// Panics unless there are as many numbers as expected and each is within `tolerance`, relative to numbers over 1; NaN fails.
#[track_caller]
pub fn assert_close(what: &str, found: impl IntoIterator<Item = f64>, expected: &[f64], tolerance: f64) {
    let found: Vec<f64> = found.into_iter().collect();
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let close = (found - expected).abs() <= tolerance * expected.abs().max(1.0); // false for NaN
        assert!(close, "{what} {i}: {found}, expected {expected}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_differ_and_nan_are_not_close() {
        assert_close("same", [1.0, 1e6], &[1.0 + 1e-10, 1e6 + 1e-4], 1e-9);
        for found in [1.1, f64::NAN] {
            assert!(std::panic::catch_unwind(|| assert_close("one", [found], &[1.0], 1e-3)).is_err(), "{found}");
        }
        assert!(std::panic::catch_unwind(|| assert_close("fewer", [], &[1.0], 1e-3)).is_err());
    }
}
