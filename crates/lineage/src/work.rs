//! How much a stage computed, from what its folder says.

use anyhow::{Context, Result};
use gptkit_data::disk::read_description;
use gptkit_train::config::TrainConfig;
use gptkit_train::plan::Flops;
use serde::Deserialize;
use serde_json::Value;
use std::io::Read;
use std::path::Path;

/// Weights in the folder's `model.safetensors`; nothing where there is none.
pub(crate) fn n_params(folder: &Path) -> Result<Option<u64>> {
    const LARGEST_HEADER: u64 = 100 << 20;
    let path = folder.join("model.safetensors");
    if !path.exists() {
        return Ok(None);
    }
    let read = || -> Result<u64> {
        let mut file = gptkit_data::disk::open(&path)?;
        let mut length = [0; 8];
        file.read_exact(&mut length)?;
        let mut header = Vec::new();
        file.take(u64::from_le_bytes(length).min(LARGEST_HEADER)).read_to_end(&mut header)?;
        let header: Value = serde_json::from_slice(&header)?;
        let tensors = header.as_object().context("its header is no object")?;
        let shapes = tensors.values().filter_map(|tensor| tensor["shape"].as_array());
        Ok(shapes.map(|shape| shape.iter().filter_map(Value::as_u64).product::<u64>()).sum())
    };
    read().map(Some).with_context(|| format!("{} cannot be read", path.display()))
}

/// What `config.toml` says that work follows from.
#[derive(Debug, Deserialize)]
struct RunConfigFile {
    train: TrainConfig,
}

/// What `config.json` says of a model that is no GPT.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct BaselineConfigFile {
    model_type: String,
    n_layer: u64,
    n_embd: u64,
    n_positions: u64,
}

/// Operations for one token of training the model in `folder`: for a GPT as [`Flops`] counts them; else six a weight, and
/// for a model that sees both sides the scores of its whole window.
pub(crate) fn flops_per_token(folder: &Path, n_params: Option<u64>) -> Result<Option<f64>> {
    let path = folder.join("config.json");
    if !path.exists() {
        return Ok(None); // an adapter alone
    }
    let text = read_description(&path)?;
    let sizes: BaselineConfigFile = serde_json::from_str(&text).with_context(|| format!("in {}", folder.display()))?;
    if ["gpt2", "openai-gpt"].contains(&sizes.model_type.as_str()) {
        let model = gptkit_model::folder::load_config(folder)?;
        let path = folder.join("config.toml");
        let RunConfigFile { train } = toml::from_str(&read_description(&path)?)
            .with_context(|| format!("{} is no configuration of a run", path.display()))?;
        return Ok(Some(Flops::of(&model, &train).total()));
    }
    let attention = match sizes.model_type.as_str() {
        "gptkit-bert" => (12 * sizes.n_layer * sizes.n_embd * sizes.n_positions) as f64,
        _ => 0.0,
    };
    Ok(n_params.map(|n| 6.0 * n as f64 + attention))
}
