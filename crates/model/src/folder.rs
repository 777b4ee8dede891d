//! Hugging Face model folders: their files, written so that `transformers` loads them.
//!
//! A folder holds `config.json`, `model.safetensors` (or the parts that `model.safetensors.index.json` names),
//! `tokenizer.json` and `generation_config.json`.

use crate::config::ModelConfig;
use crate::hf_config::config_json;
use crate::params::Params;
use anyhow::{Context, Result};
use candle_core::Tensor;
use gptkit_data::adapter::is_adapter;
use gptkit_data::disk;
use gptkit_data::tokenizer::Tokenizer;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fmt::Display;
use std::path::Path;

/// The file of all weights.
pub(crate) const WEIGHTS: &str = "model.safetensors";

/// Whether a file called `name` is part of a model.
pub fn is_of_model(name: &str) -> bool {
    const OTHERS: [&str; 6] = [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "adapter_config.json",
        "adapter_model.safetensors",
    ];
    name == WEIGHTS || OTHERS.contains(&name)
}

/// Whether the model in `folder` is as gptkit wrote it, where it wrote checksums.
///
/// # Errors
/// Says which file was damaged or edited.
pub(crate) fn check(folder: &Path) -> Result<()> {
    disk::check_files(folder, &is_of_model)
}

/// Whether `folder` holds weights, and those that gptkit wrote checksums of.
pub fn is_whole(folder: &Path) -> bool {
    disk::check_seal(folder).is_ok() && (folder.join(WEIGHTS).exists() || is_adapter(folder))
}

/// Writes the checksums of the model in `folder`.
///
/// # Errors
/// When a file cannot be read, or the checksums written.
pub fn seal(folder: &Path) -> Result<()> {
    disk::seal_files(folder, &is_of_model)
}

/// Writes all of a model's folder but the weights: what does not change while it is trained.
///
/// # Errors
/// When a file cannot be written.
pub fn save_description(folder: &Path, config: &ModelConfig, tokenizer: &Tokenizer) -> Result<()> {
    disk::create_dir(folder)?;
    disk::unseal(folder)?;
    tokenizer.save(folder)?;
    let uses = [
        ("bos_token_id", tokenizer.bos()),
        ("eos_token_id", tokenizer.end_of_text()),
        ("pad_token_id", tokenizer.pad()),
    ];
    let mut description = config_json(config);
    let mut generation = Value::Object(tokenizer.generation().clone());
    for (key, id) in uses {
        description[key] = json!(id);
        if generation.get(key).is_none_or(Value::is_null) {
            generation[key] = json!(id);
        }
    }
    write_json(&folder.join("config.json"), &description)?;
    write_json(&folder.join("generation_config.json"), &generation)
}

/// Writes the tokens at which a text, or an answer, ends.
///
/// # Errors
/// When the file cannot be written.
pub fn save_ends(folder: &Path, ends: &[u32]) -> Result<()> {
    let path = folder.join("generation_config.json");
    let mut generation = read_json(&path)?;
    generation["eos_token_id"] = json!(ends);
    write_json(&path, &generation)
}

/// Writes the weights, and the checksums of the model; the file that was there stays whole until the new one is.
///
/// # Errors
/// When the file cannot be written.
pub fn save_weights(folder: &Path, params: &Params) -> Result<()> {
    disk::unseal(folder)?;
    save_tensors(&folder.join(WEIGHTS), params.iter().map(|(name, parameter)| (name, parameter.var().as_tensor())))?;
    seal(folder)
}

/// Writes tensors by name; the file that was there stays whole until the new one is.
///
/// # Errors
/// When the file cannot be written.
pub fn save_tensors<'a, N: AsRef<str> + Ord + Display>(
    path: &Path,
    tensors: impl Iterator<Item = (N, &'a Tensor)>,
) -> Result<()> {
    let tensors: Vec<(N, &Tensor)> = tensors.collect();
    // `transformers` reads no file without this entry.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    disk::write_with(path, |path| {
        safetensors::serialize_to_file(tensors, Some(metadata), path).context("the tensors cannot be written")
    })
}

/// Writes a description of a model, and removes the folder's checksums, which it invalidates.
pub(crate) fn write_json(path: &Path, value: &Value) -> Result<()> {
    disk::unseal(disk::parent(path))?;
    disk::write_json(path, value)
}

/// Reads a JSON file of at most the size of a description.
///
/// # Errors
/// When it is missing, too large or not JSON.
pub(crate) fn read_json(path: &Path) -> Result<Value> {
    let text = disk::read_description(path)?;
    serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))
}
