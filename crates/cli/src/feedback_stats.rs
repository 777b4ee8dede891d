//! `gptkit feedback stats`: counts, agreement and win rates.

use crate::data_args::shell;
use crate::ui::{Ui, unusable};
use anyhow::Result;
use clap::Args;
use gptkit_data::printable::printable_line;
use gptkit_feedback::FeedbackStore;
use gptkit_feedback::figures::FeedbackFigures;
use gptkit_stats::Strength;
use std::path::{Path, PathBuf};

/// Show counts, agreement between people and win rates
#[derive(Debug, Args)]
pub(crate) struct StatsCommand {
    /// Folder of `gptkit serve --feedback`, or of `gptkit compare`
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Only feedback of this person
    #[arg(long, value_name = "NAME")]
    person: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl StatsCommand {
    pub(crate) fn run(self, ui: &Ui) -> Result<()> {
        let store = FeedbackStore::open(&self.folder).map_err(unusable)?;
        let figures = store.figures(self.person.as_deref())?;
        if self.json {
            return ui.json(&(serde_json::to_string_pretty(&figures)? + "\n"));
        }
        ui.result(&lines(&figures))?;
        ui.next(&export_command(&self.folder));
        Ok(())
    }
}

/// Lines for the newest days and the people of each.
const DAYS: usize = 30;

/// The command that exports the rankings in `folder`.
pub(crate) fn export_command(folder: &Path) -> String {
    format!("gptkit feedback export {} --comparisons comparisons.jsonl", shell(folder))
}

/// The figures, a line each.
pub(crate) fn lines(figures: &FeedbackFigures) -> String {
    let FeedbackFigures { counts, people, days, agreement, models, longer_preferred } = figures;
    let mut lines = vec![format!(
        "answers {} · rankings {} · ratings {} · demonstrations {} · skipped {} · tasks that wait {}",
        counts.completions,
        counts.rankings,
        counts.ratings,
        counts.demonstrations,
        counts.skipped,
        counts.tasks_waiting
    )];
    for person in people {
        let notes = [(person.consent, " · agrees to training"), (person.excluded, " · excluded")];
        let notes: String = notes.into_iter().filter(|(holds, _)| *holds).map(|(_, note)| note).collect();
        let known = person.known_best.map_or_else(String::new, |share| {
            format!(" · puts the known best answer first in {share} of {} tasks", share.n)
        });
        lines.push(format!(
            "{} ({}): rankings {} · ratings {} · demonstrations {}{known}{notes}",
            printable_line(&person.name),
            person.role,
            person.rankings,
            person.ratings,
            person.demonstrations
        ));
    }
    for day in days.iter().take(DAYS) {
        lines.push(format!(
            "{} {}: rankings {} · ratings {} · demonstrations {}",
            printable_line(&day.day),
            printable_line(&day.person),
            day.rankings,
            day.ratings,
            day.demonstrations
        ));
    }
    if let Some(share) = agreement {
        lines.push(format!("people agree on {share} of {} pairs (InstructGPT's labelers: 72.6% ± 1.5)", share.n));
    }
    for model in models {
        let (wins, losses, ties) = (model.wins, model.losses, model.ties);
        let name = printable_line(&model.name);
        let Strength { value, low, high } = model.strength;
        lines.push(format!(
            "{name} wins {} · wins {wins} · losses {losses} · ties {ties} · strength {value:.0} [{low:.0}, {high:.0}]",
            model.win_rate
        ));
    }
    if let Some(share) = longer_preferred {
        lines.push(format!("the longer answer is preferred in {share} of {} pairs", share.n));
    }
    lines.join("\n") + "\n"
}
