//! `gptkit predict`

use crate::data_args::shell;
use crate::device::ComputeArgs;
use crate::records_args::RecordsArgs;
use crate::ui::{Ui, Usage, unusable};
use anyhow::Result;
use clap::Args;
use gptkit_data::progress::{counted, grouped};
use gptkit_model::HeadDescription;
use gptkit_sft::predict::Predicted;
use std::path::PathBuf;
use std::time::Instant;

/// Classify texts with a model from `finetune`
#[derive(Debug, Args)]
pub(crate) struct PredictCommand {
    /// Model folder: a run of `finetune`
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    #[command(flatten)]
    records: RecordsArgs,
    #[command(flatten)]
    compute: ComputeArgs,
}

impl PredictCommand {
    pub(crate) fn run(self, ui: &Ui) -> Result<()> {
        let (path, on_bad) = self.records.checked()?;
        if HeadDescription::load(&self.model).map_err(unusable)?.task == HeadDescription::REWARD {
            let what = format!("{} is a reward model; it scores answers and has no labels", self.model.display());
            return Err(Usage::new(what).hint(format!("gptkit score --model {}", shell(&self.model))).into());
        }
        let (files, gpt) = self.compute.load_reader(&self.model)?;
        let begun = Instant::now();
        let predicted =
            self.records.write(ui, |sink| gptkit_sft::predict(&self.model, files, gpt, &path, on_bad, ui, sink))?;
        say(&predicted, &self.records.to(), begun, ui);
        Ok(())
    }
}

fn say(predicted: &Predicted, to: &str, begun: Instant, ui: &Ui) {
    let Predicted { n, truncated, report } = predicted;
    if *truncated > 0 {
        ui.say(&format!(
            "warning: {} records are longer than the context window and were truncated",
            grouped(*truncated)
        ));
    }
    if let Some(report) = report {
        ui.say(&format!("{} · loss {:.4} · {} records with labels", report.line(), report.loss, grouped(report.n)));
    }
    let seconds = begun.elapsed().as_secs_f64();
    let (records, rate) = (counted(*n, "record"), *n as f64 / seconds.max(1e-9));
    ui.say(&format!("{records}{to} in {seconds:.1} s · {rate:.0} per second"));
}
