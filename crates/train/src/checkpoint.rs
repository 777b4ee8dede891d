//! Everything a run is after an update, whole or absent.
//!
//! ```text
//! checkpoints/step-000500/
//!   config.json, model.safetensors, tokenizer.json …   a Hugging Face folder
//!   optimizer.safetensors                              AdamW's moments
//!   state.json                                         [`State`]
//!   manifest.json                                      size and checksum of each file
//! ```
//!
//! Windows, dropout and the schedule are functions of the seed and the step, so that these are all there is to keep.

use crate::config::TrainConfig;
use crate::fit::Trainer;
use crate::guard::Guard;
use crate::objective::{Objective, Validation};
use crate::optimizer::Optimizer;
use anyhow::{Context, Result, bail};
use data::disk;
use data::progress::Progress;
use model::Params;
use model::folder::save_tensors;
use model::tensor_files::TensorFiles;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Where a run stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Steps of the schedule that are done.
    pub step: u64,
    /// Steps of the whole schedule.
    pub n_steps: u64,
    /// Whether nothing is left to do: the schedule or patience is at its end.
    pub finished: bool,
    /// Updates of the optimizer.
    pub n_updates: u64,
    /// Validation loss of the best weights and the step it was measured after.
    pub best: Option<(f64, u64)>,
    /// The figure of theirs by which they were chosen, see [`Validation`].
    pub best_by: Option<f64>,
    /// Validations since then.
    pub without_gain: u32,
    /// Losses that the next one is judged by.
    pub guard: Guard,
    /// Seconds of training, over all sittings.
    pub elapsed_s: f64,
    /// The text it is trained on.
    pub text: TextSeen,
}

impl State {
    /// Takes a validation; whether it is the best so far. Without a validation part the newest weights are.
    pub(crate) fn is_best(&mut self, found: Option<&Validation>) -> bool {
        let Some(found) = found else { return true };
        let best = self.gains(found.chosen_by);
        if best {
            self.best = Some((found.loss, self.step));
        }
        best
    }

    /// Takes the figure of a validation by which the best weights are chosen, the lowest; whether it is the best so far.
    pub fn gains(&mut self, chosen_by: f64) -> bool {
        let best = chosen_by < self.best_by.unwrap_or(f64::INFINITY);
        if best {
            self.best_by = Some(chosen_by);
        }
        self.without_gain = if best { 0 } else { self.without_gain + 1 };
        best
    }

    /// Whether `train.patience` is at its end.
    pub fn out_of_patience(&self, config: &TrainConfig) -> bool {
        config.patience.is_some_and(|patience| self.without_gain >= patience)
    }

    /// Whether nothing is left to do in a schedule of `n_steps`. One made longer since the run ended goes on.
    pub fn is_over(&self, n_steps: u64) -> bool {
        self.finished && n_steps <= self.n_steps
    }
}

/// Prepared text as a run found it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TextSeen {
    /// Folder of the shards, absolute.
    pub shards: PathBuf,
    /// [`data::shard::Manifest::fingerprint`] of it.
    pub fingerprint: String,
}

pub(crate) const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";

fn folder_of(run: &Path) -> PathBuf {
    run.join("checkpoints")
}

/// Adds a checkpoint to `run`; a crash at any point leaves the earlier ones as they were. The oldest go when more than
/// `keep` are there. `more` may write further files into it.
///
/// # Errors
/// When it cannot be written.
pub fn save<O: Objective>(
    run: &Path,
    trainer: &Trainer<O>,
    state: &State,
    keep: usize,
    more: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let done = folder_of(run).join(format!("step-{:06}", state.step));
    disk::folder_with(&done, |made| {
        for name in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"] {
            let path = run.join(name);
            let bytes = std::fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))?;
            disk::write(&made.join(name), &bytes)?;
        }
        trainer.weights().save(made)?;
        save_tensors(&made.join(OPTIMIZER), trainer.optimizer().moments())?;
        disk::write(&made.join(STATE), (serde_json::to_string_pretty(state)? + "\n").as_bytes())?;
        more(made)?;
        disk::seal(made)
    })?;
    for (_, old) in all(run).into_iter().skip(keep) {
        std::fs::remove_dir_all(&old).with_context(|| format!("{} cannot be removed", old.display()))?;
    }
    disk::clear_leftovers(&folder_of(run))
}

/// The newest whole checkpoint of `run` and its folder; says which damaged ones were passed over.
///
/// # Errors
/// When there is none.
pub fn newest(run: &Path, progress: &dyn Progress) -> Result<(PathBuf, State)> {
    for (_, folder) in all(run) {
        match read(&folder) {
            Ok(state) => return Ok((folder, state)),
            Err(e) => progress.warn(&format!("{e:#}: the checkpoint before it is taken")),
        }
    }
    bail!("{} holds no whole checkpoint: there is nothing to resume", run.display())
}

/// Where `run` stands by its newest checkpoint whose state can be read; the weights beside it are not looked at.
pub fn last_state(run: &Path) -> Option<State> {
    all(run).iter().find_map(|(_, folder)| read_state(folder).ok())
}

fn read(folder: &Path) -> Result<State> {
    disk::check_seal(folder)?;
    read_state(folder)
}

fn read_state(folder: &Path) -> Result<State> {
    let path = folder.join(STATE);
    let text = disk::read_description(&path)?;
    serde_json::from_str(&text).with_context(|| format!("{} is not of this version", path.display()))
}

/// Takes the optimizer's moments from the file `path`, which was written after `n_updates` updates.
///
/// # Errors
/// When they cannot be read, or are those of a model of another shape.
pub(crate) fn restore(path: &Path, optimizer: &mut Optimizer, n_updates: u64) -> Result<()> {
    let stored = TensorFiles::open(&[path])?;
    optimizer
        .restore(|name, device| stored.load(name, device), n_updates)
        .with_context(|| format!("{} does not fit the model", path.display()))
}

/// Takes the values of `params` from the file `path`.
///
/// # Errors
/// When one is missing there, or has another shape.
pub fn load_into(params: &Params, path: &Path) -> Result<()> {
    let stored = TensorFiles::open(&[path])?;
    for (name, parameter) in params.iter() {
        let set = stored.load(name, parameter.var().device()).and_then(|values| parameter.set(&values));
        set.with_context(|| format!("{} does not fit the model", path.display()))?;
    }
    Ok(())
}

/// Checkpoints of `run` by step, newest first.
fn all(run: &Path) -> Vec<(u64, PathBuf)> {
    let entries = folder_of(run).read_dir().into_iter().flatten().flatten();
    let mut found: Vec<(u64, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            Some((name.to_str()?.strip_prefix("step-")?.parse().ok()?, entry.path()))
        })
        .collect();
    found.sort_by_key(|(step, _)| std::cmp::Reverse(*step));
    found
}
