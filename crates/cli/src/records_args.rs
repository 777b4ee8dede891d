//! Arguments of every command that reads records and writes them again with something added.

use crate::ui::{Ui, Usage};
use anyhow::{Context, Result};
use clap::Args;
use gptkit_data::source::OnBadRecord;
use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Records in and out
#[derive(Debug, Args)]
pub(crate) struct RecordsArgs {
    /// Records: JSONL, JSON, CSV or TSV (each may be .gz or .zst), Parquet; `-` is JSONL on stdin, `-.csv` is CSV and
    /// `-.tsv` is TSV
    #[arg(long, value_name = "PATH", default_value = "-")]
    data: String,
    /// JSONL file for the records with their results [default: stdout]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// What to do with invalid records
    #[arg(long, value_name = "fail|skip", default_value = "fail")]
    on_bad_record: String,
}

/// Takes lines that are to be written.
pub(crate) type Sink<'a> = &'a mut dyn FnMut(&str) -> Result<()>;

impl RecordsArgs {
    /// Where the records are, and what becomes of bad ones, unless that cannot be obeyed.
    pub(crate) fn checked(&self) -> Result<(PathBuf, OnBadRecord)> {
        let on_bad: OnBadRecord =
            self.on_bad_record.parse().map_err(|way| Usage::new(format!("--on-bad-record: {way}")))?;
        let path = PathBuf::from(if self.data == "-" { "-.jsonl" } else { &self.data });
        if !self.data.starts_with('-') && !path.exists() {
            return Err(Usage::new(format!("--data {}: no such file", self.data)).into());
        }
        Ok((path, on_bad))
    }

    /// Has `work` write to where the records go; a file is whole afterwards or as it was.
    pub(crate) fn write<T>(&self, ui: &Ui, work: impl FnOnce(Sink) -> Result<T>) -> Result<T> {
        let Some(out) = &self.out else { return work(&mut |lines| ui.json(lines)) };
        let mut done = None;
        gptkit_data::disk::write_with(out, |aside| {
            let mut file = BufWriter::new(OpenOptions::new().create(true).write(true).truncate(true).open(aside)?);
            done = Some(work(&mut |lines| Ok(file.write_all(lines.as_bytes())?))?);
            Ok(file.flush()?)
        })?;
        done.context("nothing was written")
    }

    /// ` to FILE`, when there is one.
    pub(crate) fn to(&self) -> String {
        self.out.as_deref().map(|out: &Path| format!(" to {}", out.display())).unwrap_or_default()
    }
}
