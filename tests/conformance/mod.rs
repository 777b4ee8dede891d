//! What gptkit makes of files that other people made, beside what the reference libraries make of them. The rows are made by
//! `scripts/conformance`, with the versions that each file states.

mod adapters;
mod evaluation;
mod models;
mod records;
mod runs;
mod templates;
mod text;
mod tokenizers;
mod tokens;
mod weights;

use serde_json::Value;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/conformance")
}

/// The rows of `kind`, of which there are `n`.
fn rows(kind: &str, n: usize) -> Vec<Value> {
    let text = std::fs::read_to_string(folder().join(kind).with_extension("json")).unwrap();
    let Value::Array(rows) = serde_json::from_str::<Value>(&text).unwrap()["rows"].take() else { panic!("no rows") };
    assert_eq!(rows.len(), n, "rows of {kind}");
    rows
}

/// Panics with all that differ.
#[track_caller]
fn none_differ(differences: &[String]) {
    assert!(differences.is_empty(), "{} rows differ\n{}", differences.len(), differences.join("\n"));
}
