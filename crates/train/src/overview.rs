//! The runs below a folder, at a glance.

use crate::checkpoint::last_state;
use crate::metrics::{METRICS, Record};
use anyhow::{Context, Result, ensure};
use gptkit_data::disk;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The status of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// Its status.
    pub activity: Activity,
    /// Steps done, by its newest record.
    pub step: u64,
    /// Steps of the whole schedule; 0 when unknown.
    pub n_steps: u64,
    /// Newest training loss.
    pub train_loss: Option<f64>,
    /// Lowest validation loss.
    pub best: Option<f64>,
    /// Seconds of training, over all processes that trained it, until the newest checkpoint.
    pub elapsed_s: f64,
    /// When it was last written to.
    pub modified: SystemTime,
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
        activity,
        step: record.as_ref().map_or(0, |record| record.step),
        n_steps: state.as_ref().map_or(0, |state| state.n_steps),
        train_loss: record.map(|record| record.train_loss),
        best: state.as_ref().and_then(|state| state.best).map(|(loss, _)| loss),
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
    let mut tail = String::new();
    file.take(TAIL).read_to_string(&mut tail).ok()?;
    tail.lines().rev().find_map(|line| serde_json::from_str(line).ok())
}
