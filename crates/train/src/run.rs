//! The folder of a run.
//!
//! ```text
//! runs/small-1/
//!   config.toml        every setting, as it was obeyed
//!   metrics.jsonl      one object a step
//!   config.json …      the outcome, a Hugging Face folder: the weights with the best validation loss
//!   checkpoints/       the newest two states of the run, Hugging Face folders too
//! ```

use anyhow::{Context, Result, ensure};
use data::disk;
use data::tokenizer::Tokenizer;
use model::folder::{save_description, save_weights};
use model::{ModelConfig, Params};
use serde::Serialize;
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

const METRICS: &str = "metrics.jsonl";

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
    /// Held while this lives, so that no other process writes here.
    _lock: File,
}

/// `runs/NAME-1`, or the first number that is free.
pub fn free_folder(runs: &Path, name: &str) -> PathBuf {
    let numbered = |n: u32| runs.join(format!("{name}-{n}"));
    (1..).map(numbered).find(|folder| !folder.exists()).unwrap_or_else(|| numbered(0))
}

/// Says that this process writes the run in `folder`, until the result is dropped.
///
/// # Errors
/// When another process does.
pub fn locked(folder: &Path) -> Result<File> {
    let lock = disk::lock(folder)?;
    lock.with_context(|| format!("another process is writing the run in {}", folder.display()))
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
        let lock = locked(folder)?;
        disk::write(&folder.join("config.toml"), resolved.as_bytes())?;
        save_description(folder, config, tokenizer)?;
        Self::open(folder, lock)
    }

    /// Goes on in `folder`, which is `lock`ed, after `step`; records of later steps, which will be made again, are dropped.
    ///
    /// # Errors
    /// When `metrics.jsonl` cannot be read or written.
    pub fn resume(folder: &Path, lock: File, step: u64) -> Result<Self> {
        let path = folder.join(METRICS);
        let old = File::open(&path).with_context(|| format!("{} cannot be read", path.display()))?;
        disk::write_with(&path, |aside| {
            let mut kept = BufWriter::new(OpenOptions::new().create(true).write(true).truncate(true).open(aside)?);
            for line in BufReader::new(old).lines() {
                let line = line?;
                // A line that a crash cut short is no record.
                let number = serde_json::from_str::<Value>(&line).ok().and_then(|r| r["step"].as_u64());
                if number.is_some_and(|number| number <= step) {
                    writeln!(kept, "{line}")?;
                }
            }
            Ok(kept.flush()?)
        })?;
        Self::open(folder, lock)
    }

    fn open(folder: &Path, lock: File) -> Result<Self> {
        let path = folder.join(METRICS);
        let metrics = OpenOptions::new().create(true).append(true).open(&path);
        let metrics = metrics.with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(Self { folder: folder.to_owned(), metrics, _lock: lock })
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
            .with_context(|| format!("{} cannot be written", self.folder.join(METRICS).display()))
    }

    /// Saves `params` as the outcome of the run so far.
    ///
    /// # Errors
    /// When the file cannot be written; the older one is then whole.
    pub fn save_best(&self, params: &Params) -> Result<()> {
        save_weights(&self.folder, params)
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

    #[test]
    fn a_resumed_run_keeps_the_records_up_to_its_step() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(METRICS);
        disk::write(&path, b"{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n{\"st").unwrap();
        Run::resume(folder.path(), locked(folder.path()).unwrap(), 2).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"step\":1}\n{\"step\":2}\n");
    }
}
