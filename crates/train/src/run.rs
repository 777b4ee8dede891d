//! The folder of a run.
//!
//! ```text
//! runs/small-1/
//!   config.toml        every setting, as it was obeyed
//!   metrics.jsonl      one object a step
//!   config.json …      the outcome, a Hugging Face folder: the weights with the best validation loss
//!   last/              the newest weights, a Hugging Face folder too
//! ```

use anyhow::{Context, Result, ensure};
use data::disk;
use data::tokenizer::Tokenizer;
use model::folder::{save_description, save_weights};
use model::{ModelConfig, Params};
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A line of `metrics.jsonl`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Record {
    /// Updates made.
    pub step: u64,
    /// Tokens predicted in all of them.
    pub tokens: u64,
    /// Mean loss of this update's batch, nats a token.
    pub train_loss: f64,
    /// Learning rate of this update.
    pub learning_rate: f64,
    /// Norm of its gradient before clipping.
    pub grad_norm: f64,
    /// Speed of this update.
    pub tokens_per_s: f64,
    /// Mean loss on the validation windows after this update, where it was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f64>,
}

/// A run that is being written.
#[derive(Debug)]
pub struct Run {
    folder: PathBuf,
    metrics: File,
}

/// `runs/NAME-1`, or the first number that is free.
pub fn free_folder(runs: &Path, name: &str) -> PathBuf {
    let numbered = |n: u32| runs.join(format!("{name}-{n}"));
    (1..).map(numbered).find(|folder| !folder.exists()).unwrap_or_else(|| numbered(0))
}

impl Run {
    /// Makes `folder` with the resolved configuration and the model's description in it.
    ///
    /// # Errors
    /// When there is a run in it already, or it cannot be written.
    pub fn create(folder: &Path, resolved: &str, config: &ModelConfig, tokenizer: &Tokenizer) -> Result<Self> {
        let taken = folder.read_dir().is_ok_and(|mut entries| entries.next().is_some());
        ensure!(!taken, "{} is not empty; choose another folder with --out", folder.display());
        disk::create_dir(folder)?;
        disk::write(&folder.join("config.toml"), resolved.as_bytes())?;
        save_description(folder, config, tokenizer)?;
        save_description(&folder.join("last"), config, tokenizer)?;
        let path = folder.join("metrics.jsonl");
        let metrics = OpenOptions::new().create(true).append(true).open(&path);
        let metrics = metrics.with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(Self { folder: folder.to_owned(), metrics })
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Adds a line to `metrics.jsonl`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn record(&mut self, record: &Record) -> Result<()> {
        let line = serde_json::to_string(record)? + "\n";
        self.metrics
            .write_all(line.as_bytes())
            .with_context(|| format!("{} cannot be written", self.folder.join("metrics.jsonl").display()))
    }

    /// Saves the newest weights, and as the outcome too when they are the `best` so far.
    ///
    /// # Errors
    /// When a file cannot be written; the older one is then whole.
    pub fn save(&self, params: &Params, best: bool) -> Result<()> {
        save_weights(&self.folder.join("last"), params)?;
        if best { save_weights(&self.folder, params) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_numbered_from_the_first_that_is_free() {
        let runs = tempfile::tempdir().unwrap();
        assert_eq!(free_folder(runs.path(), "small"), runs.path().join("small-1"));
        std::fs::create_dir(runs.path().join("small-1")).unwrap();
        assert_eq!(free_folder(runs.path(), "small"), runs.path().join("small-2"));
    }
}
