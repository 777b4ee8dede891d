//! Adapters that PEFT made.

use super::folder as golden;
use super::models::{check_rows, check_sample, copy, row, set};
use crate::{gptkit, run};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

const ROWS: usize = 81;

/// The bases and adapters, where the tests may change them.
fn folders() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy(&golden().join("adapters"), folder.path());
    folder
}

#[test]
fn peft_and_gptkit_compute_the_same() {
    let folder = folders();
    check_rows("adapters", ROWS, |name, row| {
        let Some(of) = row["of"].as_str() else { return check_sample(folder.path(), name, row) };
        copy(&folder.path().join(of), &folder.path().join(name));
        set(&folder.path().join(name).join("adapter_config.json"), &row["set"]);
        check_sample(folder.path(), name, row)
    });
}

#[test]
fn merged_adapters_are_the_same_model() {
    let folder = folders();
    for name in
        ["rslora", "save-tokens", "adapted-output", "dora", "larger-vocabulary", "tokens-of-table", "gpt1-save-tokens"]
    {
        gptkit(folder.path(), &format!("merge --model {name} --out {name}-merged")).ok();
        check_sample(folder.path(), &format!("{name}-merged"), &row("adapters", ROWS, name))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    // Adapters of the token embeddings alone leave the output layer as it was.
    let config: Value =
        serde_json::from_str(&fs::read_to_string(folder.path().join("save-tokens-merged/config.json")).unwrap())
            .unwrap();
    assert_eq!(config["tie_word_embeddings"], json!(false));
}

#[test]
fn training_begins_with_what_the_adapters_make_of_their_base() {
    let folder = folders();
    let path = folder.path();
    fs::write(
        path.join("dialogues.jsonl"),
        (0..8).map(|i| format!("{{\"prompt\": \"{i}\", \"completion\": \"{i}\"}}\n")).collect::<String>(),
    )
    .unwrap();
    for name in ["rslora", "save-output"] {
        let few = "--set train.length=1steps --set train.batch_size=2 --set train.lr=1e-9 --set train.min_lr=1e-10";
        for (more, out) in [("", "whole"), (" --lora-rank 2", "more")] {
            let out = format!("{name}-{out}");
            let ran = gptkit(path, &format!("sft --init {name} --data dialogues.jsonl {few}{more} --out {out}")).ok();
            assert_eq!(ran.err.contains("PEFT would load only the new ones"), !more.is_empty(), "{}", ran.err);
            check_begun(path, &out, &row("adapters", ROWS, name)).unwrap_or_else(|error| panic!("{out}: {error}"));
        }
    }
}

/// After a step with a learning rate of almost nothing, the model computes what it did before, new tokens aside.
fn check_begun(folder: &Path, model: &str, row: &Value) -> Result<(), String> {
    let mut row = row.clone();
    row["tokens"] = json!([row["tokens"][0]]);
    let arguments = [
        "sample",
        "--model",
        model,
        "--prompt",
        row["prompt"].as_str().unwrap(),
        "--max-new-tokens",
        "1",
        "--temperature",
    ];
    let ran = run(folder, &[&arguments[..], &["0", "--json", "--dtype", "f32"]].concat(), b"").ok();
    let sample: Value = serde_json::from_str(&ran.out).unwrap();
    if sample["tokens"] == row["tokens"] { Ok(()) } else { Err(sample["tokens"].to_string()) }
}
