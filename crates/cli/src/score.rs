//! `gptkit score` and `gptkit rank`

use crate::device::ComputeArgs;
use crate::records_args::{RecordsArgs, Sink};
use crate::ui::{Ui, unusable};
use anyhow::Result;
use clap::Args;
use gptkit_data::progress::{counted, grouped};
use gptkit_reward::model::Scorer;
use gptkit_reward::score::{ScoringCounts, ScoringOutput, score};
use std::path::PathBuf;
use std::time::Instant;

/// Compute the rewards of completions with a reward model
///
/// Records are dialogues in any form that `sft` accepts, and get a `reward`; records with several completions, or with chosen
/// and rejected ones, get `rewards`.
#[derive(Debug, Args)]
pub(crate) struct ScoreCommand {
    #[command(flatten)]
    read: ReadArgs,
}

/// Rank the completions of each prompt with a reward model
///
/// Records with `prompt` and `completions` (or chosen and rejected) get `rewards`, and `ranking` with the rank of each
/// completion: 1 is the best.
#[derive(Debug, Args)]
pub(crate) struct RankCommand {
    #[command(flatten)]
    read: ReadArgs,
}

/// Reward model and records
#[derive(Debug, Args)]
struct ReadArgs {
    /// Reward model: a run of `train-rm`
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    #[command(flatten)]
    records: RecordsArgs,
    #[command(flatten)]
    compute: ComputeArgs,
}

impl ScoreCommand {
    pub(crate) fn run(self, ui: &Ui) -> Result<()> {
        self.read.run(ScoringOutput::Rewards, ui)
    }
}

impl RankCommand {
    pub(crate) fn run(self, ui: &Ui) -> Result<()> {
        self.read.run(ScoringOutput::Ranking, ui)
    }
}

impl ReadArgs {
    fn run(self, wanted: ScoringOutput, ui: &Ui) -> Result<()> {
        let (path, on_bad) = self.records.checked()?;
        let (files, gpt) = self.compute.load(&self.model)?;
        let scorer = Scorer::new(&self.model, files, gpt).map_err(unusable)?;
        let begun = Instant::now();
        let scored = |sink: Sink| score((&scorer, ui.ranks()), wanted, &path, on_bad, ui, sink);
        if !ui.ranks().is_first() {
            return scored(&mut |_| Ok(())).map(drop);
        }
        let counts = self.records.write(ui, scored)?;
        say(counts, &self.records.to(), begun, ui);
        Ok(())
    }
}

fn say(ScoringCounts { n, cut, too_long }: ScoringCounts, to: &str, begun: Instant, ui: &Ui) {
    if cut > 0 {
        let what = "prompts are longer than the context window; their oldest turns were dropped";
        ui.say(&format!("warning: {} {what}", grouped(cut)));
    }
    if too_long > 0 {
        ui.say(&format!("warning: {} records do not fit in the context window and get no reward", grouped(too_long)));
    }
    let seconds = begun.elapsed().as_secs_f64();
    let (records, rate) = (counted(n, "record"), n as f64 / seconds.max(1e-9));
    ui.say(&format!("{records}{to} in {seconds:.1} s · {rate:.0} per second"));
}
