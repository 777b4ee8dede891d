//! The runs below a folder, at a glance.

use crate::checkpoint::last_state;
use crate::metrics::{METRICS, Record, SCORE};
use crate::request::RunRequest;
use crate::state::{BestValidation, State};
use anyhow::{Context, Result, ensure};
use gptkit_data::disk;
use serde::Serialize;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What goes on in a run's folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Activity {
    /// A process writes it.
    Running,
    /// Its schedule or its patience is at its end.
    Finished,
    /// It can be resumed.
    Stopped,
    /// It has no checkpoint.
    Empty,
}

/// A run, as `gptkit runs` lists it.
#[derive(Debug, Clone, PartialEq)]
pub struct Overview {
    /// Its folder.
    pub folder: PathBuf,
    /// The subcommand that made it; none in folders of earlier versions.
    pub command: Option<String>,
    /// What goes on there.
    pub activity: Activity,
    /// Steps done, by its newest record.
    pub step: u64,
    /// Steps of the whole schedule; 0 when unknown.
    pub n_steps: u64,
    /// The figure of its newest record; none before the first step.
    pub newest: Option<NewestFigure>,
    /// Its best validation.
    pub best: Option<BestValidation>,
    /// Seconds of training, over all processes that trained it, until the newest checkpoint.
    pub elapsed_s: f64,
    /// When it was last written to.
    pub modified: SystemTime,
}

/// The figure that shows how a run is doing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NewestFigure {
    /// `loss`, or `score` in PPO, whose loss is no measure of progress.
    pub metric: &'static str,
    /// Its value; not a number where the step was not finite.
    pub value: f64,
}

impl NewestFigure {
    fn of(record: &Record) -> Self {
        match record.figures.get(SCORE) {
            Some(&value) => Self { metric: "score", value },
            None => Self { metric: "loss", value: record.train_loss },
        }
    }
}

/// The runs in `folder`, last written first.
///
/// # Errors
/// When the folder cannot be read.
pub fn runs(folder: &Path) -> Result<Vec<Overview>> {
    ensure!(folder.is_dir(), "there is no folder {}; `gptkit pretrain` creates one in runs/", folder.display());
    let entries = folder.read_dir().with_context(|| format!("{} cannot be read", folder.display()))?;
    let folders = entries.flatten().map(|entry| entry.path());
    let mut runs: Vec<Overview> = folders.filter(|path| path.join(METRICS).exists()).map(overview).collect();
    runs.sort_by_key(|run| std::cmp::Reverse(run.modified));
    Ok(runs)
}

fn overview(folder: PathBuf) -> Overview {
    let state = last_state(&folder);
    let record = last_record(&folder.join(METRICS));
    let activity = match &state {
        _ if disk::is_locked(&folder) => Activity::Running,
        Some(state) if state.finished => Activity::Finished,
        Some(_) => Activity::Stopped,
        None => Activity::Empty,
    };
    let modified = folder.join(METRICS).metadata().and_then(|metadata| metadata.modified());
    Overview {
        command: RunRequest::read(&folder).map(|request| request.command),
        activity,
        step: record.as_ref().map_or(0, |record| record.step),
        n_steps: state.as_ref().map_or(0, |state| state.n_steps),
        newest: record.as_ref().map(NewestFigure::of),
        best: state.as_ref().and_then(State::best_validation),
        elapsed_s: state.map_or(0.0, |state| state.elapsed_s),
        modified: modified.unwrap_or(SystemTime::UNIX_EPOCH),
        folder,
    }
}

/// Bytes at the end of a file that hold its last line many times over.
const TAIL: u64 = 8192;

/// The last record, whatever the file's length.
fn last_record(metrics: &Path) -> Option<Record> {
    let mut file = disk::open(metrics).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail).ok()?;
    // The first line may begin within a character.
    String::from_utf8_lossy(&tail).lines().rev().find_map(|line| serde_json::from_str(line).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn the_newest_figure_is_the_loss_and_in_ppo_the_score() {
        let supervised = Record { train_loss: 2.5, ..Record::default() };
        assert_eq!(NewestFigure::of(&supervised), NewestFigure { metric: "loss", value: 2.5 });
        let figures = BTreeMap::from([(SCORE.to_owned(), 1.25)]);
        let ppo = Record { figures, ..supervised };
        assert_eq!(NewestFigure::of(&ppo), NewestFigure { metric: "score", value: 1.25 });
    }
}
