//! The accuracy of a fine-tuned classifier on records that are in memory.

use crate::predict::predict;
use anyhow::{Context, Result};
use gptkit_data::disk;
use gptkit_data::progress::Progress;
use gptkit_data::source::OnBadRecord;
use gptkit_model::Gpt;
use gptkit_model::load::ModelFolder;
use serde_json::{Map, Value};
use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Share of records whose label was predicted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClassifierAccuracy {
    /// From 0 to 1.
    pub share: f64,
    /// Of the share: √(p (1 − p) / n).
    pub standard_error: f64,
    /// Records.
    pub n: u64,
}

/// Takes the fields of a record.
pub type RecordSink<'a> = &'a mut dyn FnMut(&Map<String, Value>) -> Result<()>;

/// Measures the model in `folder` on the labeled records that `records` hands to its sink. `files` and `gpt` were read from
/// the folder.
///
/// # Errors
/// When the folder is not a classifier's, or the records have no labels that it knows.
pub fn accuracy(
    folder: &Path,
    files: ModelFolder,
    gpt: Gpt,
    records: impl Fn(RecordSink) -> Result<()>,
    progress: &dyn Progress,
) -> Result<ClassifierAccuracy> {
    let temporary = tempfile::tempdir()?;
    let path = temporary.path().join("records.jsonl");
    disk::write_with(&path, |aside| {
        let mut file = BufWriter::new(OpenOptions::new().create(true).write(true).truncate(true).open(aside)?);
        records(&mut |fields| Ok(writeln!(file, "{}", serde_json::to_string(fields)?)?))?;
        Ok(file.flush()?)
    })?;
    let predicted = predict(folder, files, gpt, &path, OnBadRecord::Fail, progress, &mut |_| Ok(()))?;
    let report = predicted.report.context("the records have no labels that the classifier knows")?;
    let share = report.scores.get("accuracy").copied();
    let share = share.with_context(|| format!("{} is not a classifier", folder.display()))?;
    let standard_error = (share * (1.0 - share) / report.n as f64).sqrt();
    Ok(ClassifierAccuracy { share, standard_error, n: report.n })
}
