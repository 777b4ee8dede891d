//! Names of the folders in which a run keeps its checkpoints.

use std::path::{Path, PathBuf};

/// The folder of the checkpoints of `run`.
pub(crate) fn parent(run: &Path) -> PathBuf {
    run.join("checkpoints")
}

/// The checkpoint of `run` after `step`.
pub(crate) fn checkpoint(run: &Path, step: u64) -> PathBuf {
    parent(run).join(format!("{CHECKPOINT}{step:06}"))
}

/// The weights of `run` after `step`, kept as the best ones when their checkpoint has been removed.
pub(crate) fn best(run: &Path, step: u64) -> PathBuf {
    parent(run).join(format!("{BEST}{step:06}"))
}

const CHECKPOINT: &str = "step-";
const BEST: &str = "best-";

/// All checkpoints of `run` with their steps, newest first.
pub(crate) fn checkpoints(run: &Path) -> Vec<(u64, PathBuf)> {
    numbered(run, CHECKPOINT)
}

/// All folders of best weights of `run` with their steps, newest first.
pub(crate) fn bests(run: &Path) -> Vec<(u64, PathBuf)> {
    numbered(run, BEST)
}

/// Whether `run` has a checkpoint, whole or damaged.
pub fn has_checkpoint(run: &Path) -> bool {
    !checkpoints(run).is_empty()
}

fn numbered(run: &Path, prefix: &str) -> Vec<(u64, PathBuf)> {
    let entries = parent(run).read_dir().into_iter().flatten().flatten();
    let mut folders: Vec<(u64, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            Some((name.to_str()?.strip_prefix(prefix)?.parse().ok()?, entry.path()))
        })
        .collect();
    folders.sort_by_key(|(step, _)| std::cmp::Reverse(*step));
    folders
}
