//! How much a stage computed, from what its folder says.

use anyhow::{Context, Result};
use gptkit_data::disk::read_description;
use gptkit_model::load::load_config;
use gptkit_train::config::TrainConfig;
use gptkit_train::plan::Flops;
use serde::Deserialize;
use std::path::Path;

/// The section of `config.toml` that the work depends on.
#[derive(Debug, Deserialize)]
struct RunConfigFile {
    train: TrainConfig,
}

/// Operations for one token of training the model in `folder`, as [`Flops`] counts them; `None` for adapters alone.
pub(crate) fn flops_per_token(folder: &Path) -> Result<Option<f64>> {
    if !folder.join("config.json").exists() {
        return Ok(None);
    }
    let model = load_config(folder)?;
    let path = folder.join("config.toml");
    let RunConfigFile { train } = toml::from_str(&read_description(&path)?)
        .with_context(|| format!("{} is not the configuration of a run", path.display()))?;
    Ok(Some(Flops::of(&model, &train).total()))
}
