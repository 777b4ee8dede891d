//! Model folders as other people have them.

use super::folder as golden;
use super::models::{check_rows, check_sample, copy, row, set};
use crate::gptkit;
use serde_json::Value;
use std::fs;
use std::path::Path;

const ROWS: usize = 53;

/// Copies the model of `row` to `folder`, with the tokenizer that all have.
fn model(folder: &Path, name: &str, row: &Value) {
    copy(&golden().join("weights").join(row["of"].as_str().unwrap_or(name)), &folder.join(name));
    copy(&golden().join("weights/tokenizer"), &folder.join(name));
    if row["of"].is_string() {
        set(&folder.join(name).join("config.json"), &row["set"]);
    }
}

#[test]
fn transformers_and_gptkit_compute_the_same() {
    let folder = tempfile::tempdir().unwrap();
    check_rows("weights", ROWS, |name, row| {
        model(folder.path(), name, row);
        check_sample(folder.path(), name, row)
    });
}

/// Pretraining, fine-tuning and saving keep an output layer of its own and an MLP of another width.
#[test]
fn models_of_other_shapes_are_trained_and_saved() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::write(path.join("text.txt"), "a fox ran to a den and slept there. ".repeat(60)).unwrap();
    for (name, file) in [("untied", "lm_head.weight"), ("narrow-mlp", "wte.weight"), ("nanogpt", "h.0.ln_1.bias")] {
        let row = &row("weights", ROWS, name);
        model(path, name, row);
        let few = "--set train.min_lr=1e-10 --set train.eval_windows=1 --set train.length=2steps --set train.batch_size=2 --set train.lr=1e-9";
        gptkit(path, &format!("pretrain --init {name} --data text.txt {few} --out {name}-again")).ok();
        let saved = fs::read(path.join(format!("{name}-again/model.safetensors"))).unwrap();
        assert!(String::from_utf8_lossy(&saved[..4000]).contains(file), "{name}");
        check_sample(path, &format!("{name}-again"), row).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}
