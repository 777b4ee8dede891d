//! `gptkit predict`

use crate::device::ComputeArgs;
use crate::ui::{Ui, Usage};
use anyhow::{Context, Result};
use clap::Args;
use data::progress::grouped;
use data::source::OnBadRecord;
use sft::predict::Predicted;
use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Label texts with a model that `finetune` made
#[derive(Debug, Args)]
pub(crate) struct Predict {
    /// Model folder: a run of `finetune`
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Records: JSONL, CSV or TSV (each may be .gz or .zst), Parquet; `-` is JSONL on stdin, `-.csv` and `-.tsv` others
    #[arg(long, value_name = "PATH", default_value = "-")]
    data: String,
    /// File to write the records to, with their predictions, as JSONL [default: stdout]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// What to do with records that cannot be used
    #[arg(long, value_name = "fail|skip", default_value = "fail")]
    on_bad_record: String,
    #[command(flatten)]
    compute: ComputeArgs,
}

impl Predict {
    pub(crate) fn run(self, ui: &Ui) -> Result<()> {
        let on_bad: OnBadRecord = self.on_bad_record.parse().map_err(|way| Usage(format!("--on-bad-record: {way}")))?;
        let piped = self.data == "-";
        let path = PathBuf::from(if piped { "-.jsonl" } else { &self.data });
        if !self.data.starts_with('-') && !path.exists() {
            return Err(Usage(format!("--data {}: no such file", self.data)).into());
        }
        let (files, gpt) = self.compute.load(&self.model)?;
        let begun = Instant::now();
        let predict =
            |sink: &mut dyn FnMut(&str) -> Result<()>| sft::predict(&self.model, files, gpt, &path, on_bad, ui, sink);
        let predicted = match &self.out {
            None => predict(&mut |lines| ui.result(lines))?,
            Some(out) => into_file(out, predict)?,
        };
        say(&predicted, self.out.as_deref(), begun, ui);
        Ok(())
    }
}

/// Has `predict` write to `out`, which is whole afterwards or as it was.
fn into_file(
    out: &Path,
    predict: impl FnOnce(&mut dyn FnMut(&str) -> Result<()>) -> Result<Predicted>,
) -> Result<Predicted> {
    let mut predicted = None;
    data::disk::write_with(out, |aside| {
        let mut file = BufWriter::new(OpenOptions::new().create(true).write(true).truncate(true).open(aside)?);
        predicted = Some(predict(&mut |lines| Ok(file.write_all(lines.as_bytes())?))?);
        Ok(file.flush()?)
    })?;
    predicted.context("nothing was written")
}

fn say(predicted: &Predicted, out: Option<&Path>, begun: Instant, ui: &Ui) {
    let Predicted { n, truncated, report } = predicted;
    if *truncated > 0 {
        ui.say(&format!("warning: {} records are longer than the window and were cut", grouped(*truncated)));
    }
    if let Some(report) = report {
        ui.say(&format!("{} · loss {:.4} · {} records with labels", report.line(), report.loss, grouped(report.n)));
    }
    let seconds = begun.elapsed().as_secs_f64();
    let to = out.map(|out| format!(" to {}", out.display())).unwrap_or_default();
    ui.say(&format!("{} records{to} in {seconds:.1} s · {:.0} a second", grouped(*n), *n as f64 / seconds.max(1e-9)));
}
