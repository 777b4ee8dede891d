//! The data of a stage, as the loop reads it.

use crate::config::TrainConfig;
use crate::state::DataSeen;
use anyhow::{Result, ensure};
use gptkit_data::examples::Records;
use std::path::{Path, PathBuf};

/// Training and validation data of a run.
pub struct TrainingData<B> {
    /// Where it lies.
    pub folder: PathBuf,
    /// Fingerprint of the training part, by which a resumed run knows its data.
    pub fingerprint: String,
    /// Rows of the training part, which are one epoch.
    pub n_rows: u64,
    /// Tokens of a row, on average.
    pub tokens_per_row: usize,
    /// Makes the batch of so many rows from the given row of the run, a pure function.
    pub batch: Box<dyn FnMut(u64, usize) -> B + Send>,
    /// The validation set.
    pub validation: Vec<B>,
}

impl<T: Send + 'static> TrainingData<Vec<T>> {
    /// Trains on `records`, which lie in `folder` and have `tokens_per_row` tokens on average, and validates on a sample of
    /// `validation`.
    pub fn of_records(
        folder: &Path,
        records: Records<T>,
        tokens_per_row: usize,
        validation: &Records<T>,
        train: &TrainConfig,
    ) -> Self {
        Self {
            folder: folder.to_owned(),
            fingerprint: records.fingerprint(),
            n_rows: records.len(),
            tokens_per_row,
            validation: validation.all(train.micro_batch(), train.eval_windows),
            batch: Box::new(move |first, rows| records.batch(first, rows)),
        }
    }
}

impl<B> TrainingData<B> {
    /// Compares it with what the run began with; `path` is named where they differ.
    ///
    /// # Errors
    /// When they differ.
    pub fn check_unchanged(&self, seen: &DataSeen, path: &Path) -> Result<()> {
        ensure!(
            self.fingerprint == seen.fingerprint,
            "{} has changed since this run started; start a new run",
            path.display()
        );
        Ok(())
    }
}
