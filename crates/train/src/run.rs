//! The folder of a run.
//!
//! ```text
//! runs/small-1/
//!   config.toml        every setting, as it was obeyed
//!   metrics.jsonl      one object a step
//!   events.out.…       the same for TensorBoard, a file each sitting
//!   curves.svg         loss and learning rate over tokens, drawn when a sitting ends
//!   config.json …      the outcome, a Hugging Face folder: the weights with the best validation loss
//!   checkpoints/       the newest states of the run, Hugging Face folders too
//! ```

use crate::curves::{self, Curves};
use crate::events::Events;
use anyhow::{Context, Result, ensure};
use data::disk;
use data::tokenizer::Tokenizer;
use model::folder::save_description;
use model::{ModelConfig, Weights};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

pub(crate) const METRICS: &str = "metrics.jsonl";

/// A line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Updates made.
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

/// A run that is being written.
#[derive(Debug)]
pub struct Run {
    folder: PathBuf,
    metrics: File,
    events: Events,
    /// Held while this lives, so that no other process writes here.
    _lock: File,
}

/// `runs/NAME-1`, or the first number that is free.
pub fn free_folder(runs: &Path, name: &str) -> PathBuf {
    let numbered = |n: u32| runs.join(format!("{name}-{n}"));
    (1..).map(numbered).find(|folder| !folder.exists()).unwrap_or_else(|| numbered(0))
}

/// What the run in `folder` recorded, in order. A line that a crash cut short is no record.
///
/// # Errors
/// When its `metrics.jsonl` cannot be read.
pub fn records(folder: &Path) -> Result<Vec<Record>> {
    let path = folder.join(METRICS);
    let file = disk::open(&path).context("is this a run?")?;
    let mut records = Vec::new();
    for line in BufReader::new(file).lines() {
        let line = line.with_context(|| format!("{} cannot be read", path.display()))?;
        records.extend(serde_json::from_str::<Record>(&line));
    }
    Ok(records)
}

/// Says that this process writes the run in `folder`, until the result is dropped.
///
/// # Errors
/// When another process does.
pub fn locked(folder: &Path) -> Result<File> {
    let lock = disk::lock(folder)?;
    lock.with_context(|| format!("another process is writing the run in {}", folder.display()))
}

/// A folder for what is made before the run in `folder` begins, on the same disk; it goes when it is dropped.
///
/// # Errors
/// When it cannot be made.
pub fn folder_beside(folder: &Path) -> Result<TempDir> {
    let parent = folder.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    disk::create_dir(parent)?;
    Ok(tempfile::tempdir_in(parent)?)
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
        Self::open(folder, lock, 0)
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
                if serde_json::from_str::<Record>(&line).is_ok_and(|record| record.step <= step) {
                    writeln!(kept, "{line}")?;
                }
            }
            Ok(kept.flush()?)
        })?;
        Self::open(folder, lock, step)
    }

    fn open(folder: &Path, lock: File, step: u64) -> Result<Self> {
        let path = folder.join(METRICS);
        let metrics = disk::append(&path)?;
        let events = Events::create(folder, step)?;
        Ok(Self { folder: folder.to_owned(), metrics, events, _lock: lock })
    }

    /// Tokens that the records so far count.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn tokens(&self) -> Result<u64> {
        Ok(records(&self.folder)?.last().map_or(0, |record| record.tokens))
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Moves the files `names` here from the folder `from`.
    ///
    /// # Errors
    /// When one cannot be moved.
    pub fn take_in(&self, from: &Path, names: &[&str]) -> Result<()> {
        names.iter().try_for_each(|name| {
            let to = self.folder.join(name);
            std::fs::rename(from.join(name), &to).with_context(|| format!("{} cannot be written", to.display()))
        })
    }

    /// Adds a line to `metrics.jsonl`, and the same to TensorBoard's events.
    ///
    /// # Errors
    /// When one of them cannot be written.
    pub fn record(&mut self, record: &Record) -> Result<()> {
        let line = serde_json::to_string(record)? + "\n";
        self.metrics
            .write_all(line.as_bytes())
            .with_context(|| format!("{} cannot be written", self.folder.join(METRICS).display()))?;
        let mut scalars = vec![
            ("loss/train", record.train_loss),
            ("learning_rate", record.learning_rate),
            ("grad_norm", record.grad_norm),
            ("tokens_per_s", record.tokens_per_s),
        ];
        scalars.extend(record.val_loss.map(|loss| ("loss/val", loss)));
        let scores: Vec<(String, f64)> = record.scores.iter().map(|(name, &x)| (format!("val/{name}"), x)).collect();
        scalars.extend(scores.iter().map(|(name, x)| (name.as_str(), *x)));
        scalars.extend(record.figures.iter().map(|(name, x)| (name.as_str(), *x)));
        self.events.scalars(record.step, &scalars)
    }

    /// Draws the curves of the run so far into `curves.svg`.
    ///
    /// # Errors
    /// When they cannot be read or written.
    pub fn draw(&self) -> Result<()> {
        let svg = curves::svg(&[Curves::read(&self.folder)?])?;
        disk::write(&self.folder.join("curves.svg"), svg.as_bytes())
    }

    /// Saves `weights` as the outcome of the run so far.
    ///
    /// # Errors
    /// When the file cannot be written; the older one is then whole.
    pub fn save_best(&self, weights: &Weights) -> Result<()> {
        weights.save(&self.folder)
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
        let line = |step: u64| {
            let record = Record {
                step,
                tokens: 0,
                train_loss: if step == 2 { f64::NAN } else { 1.0 },
                learning_rate: 0.1,
                grad_norm: 1.0,
                tokens_per_s: 1.0,
                val_loss: None,
                scores: BTreeMap::new(),
                figures: BTreeMap::new(),
                skipped: false,
            };
            serde_json::to_string(&record).unwrap() + "\n"
        };
        let before = [line(1), line(2), line(3), "{\"st".to_owned()].concat();
        disk::write(&path, before.as_bytes()).unwrap();
        Run::resume(folder.path(), locked(folder.path()).unwrap(), 2).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), line(1) + &line(2));
    }
}
