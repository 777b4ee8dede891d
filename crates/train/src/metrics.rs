//! The records of a run: a line of `metrics.jsonl` for each step.

use anyhow::{Context, Result};
use gptkit_data::disk;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Name of the file in the folder of a run and in each checkpoint.
pub(crate) const METRICS: &str = "metrics.jsonl";

/// Names of PPO's figures that show how a run is doing: the reward model's score, the KL divergence from the initial model,
/// and the gold score where it is known.
pub const SCORE: &str = "objective/score";
/// See [`SCORE`].
pub const KL: &str = "objective/kl";
/// See [`SCORE`].
pub const GOLD: &str = "objective/gold";

/// A line of `metrics.jsonl`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Number of the step, from 1; an iteration in PPO.
    pub step: u64,
    /// Tokens predicted in all of them.
    pub tokens: u64,
    /// Mean loss of this update's batch, nats a token.
    #[serde(deserialize_with = "number")]
    pub train_loss: f64,
    /// Learning rate of this update.
    pub learning_rate: f64,
    /// Norm of its gradient before clipping.
    #[serde(deserialize_with = "number")]
    pub grad_norm: f64,
    /// Speed of this update.
    pub tokens_per_s: f64,
    /// Mean loss on the validation windows after this update, where it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f64>,
    /// Further figures of that validation, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub scores: BTreeMap<String, f64>,
    /// Further figures of this step, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub figures: BTreeMap<String, f64>,
    /// Whether this step made no update: see [`crate::guard`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skipped: bool,
}

/// JSON has no NaN and no infinity: they are written as null.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// The records of the run in `folder`, in order. A line that a crash cut short is left out.
///
/// # Errors
/// When its `metrics.jsonl` cannot be read.
pub fn records(folder: &Path) -> Result<Vec<Record>> {
    let path = folder.join(METRICS);
    let bytes = disk::read(&path).context("cannot read the metrics; is this the folder of a run?")?;
    Ok(lines(&bytes).map(|(record, _)| record).collect())
}

/// The records of a file, each with its line.
pub(crate) fn lines(bytes: &[u8]) -> impl Iterator<Item = (Record, &[u8])> {
    bytes.split(|&byte| byte == b'\n').filter_map(|line| Some((serde_json::from_slice(line).ok()?, line)))
}
