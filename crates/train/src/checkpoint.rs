//! Everything a run is after an update, whole or absent.
//!
//! ```text
//! checkpoints/step-000500/
//!   config.json, model.safetensors, tokenizer.json …   a Hugging Face folder
//!   config.toml                                        the settings of the run
//!   metrics.jsonl                                      its records so far
//!   optimizer.safetensors                              AdamW's moments
//!   state.json                                         [`State`]
//!   checksums.json                                     size and checksum of each file
//! checkpoints/best-000400/
//!   config.json, model.safetensors, tokenizer.json …   the best weights, when their own checkpoint has been removed
//! ```
//!
//! Windows, dropout and the schedule are functions of the seed and the step, so that these are all there is to keep.

use crate::config::TrainConfig;
use crate::fit::Trainer;
use crate::guard::Guard;
use crate::objective::{Objective, Validation};
use crate::optimizer::Optimizer;
use crate::run::{METRICS, Run};
use anyhow::{Context, Result, bail};
use gptkit_data::disk;
use gptkit_data::progress::Progress;
use gptkit_model::Params;
use gptkit_model::folder::{is_of_model, save_tensors};
use gptkit_model::tensor_files::TensorFiles;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
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
    /// Their further figures, see [`Validation`].
    #[serde(default)]
    pub best_scores: BTreeMap<String, f64>,
    /// Step whose weights are the run's outcome so far: the best ones, or the newest without a validation part.
    #[serde(default)]
    pub saved: Option<u64>,
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
    /// Takes a validation; whether it is the best so far. Without a validation part the newest weights are, if the last
    /// update `was_finite`.
    pub(crate) fn is_best(&mut self, found: Option<&Validation>, was_finite: bool) -> bool {
        let best = match found {
            Some(found) => self.gains(found.chosen_by),
            None => was_finite,
        };
        if best {
            self.saved = Some(self.step);
            if let Some(found) = found {
                self.best = Some((found.loss, self.step));
                self.best_scores = found.scores.clone();
            }
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

    /// Whether nothing is left to do: the schedule or `train.patience` is at its end. A run goes on when one of them was made
    /// longer since.
    pub fn is_over(&self, config: &TrainConfig) -> bool {
        self.step >= self.n_steps || self.out_of_patience(config)
    }
}

/// Prepared text as a run found it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TextSeen {
    /// Folder of the shards, absolute.
    pub shards: PathBuf,
    /// [`gptkit_data::shard::Manifest::fingerprint`] of it.
    pub fingerprint: String,
}

pub(crate) const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";
/// The settings of a run, in its folder and in each checkpoint.
pub(crate) const CONFIG: &str = "config.toml";

fn folder_of(run: &Path) -> PathBuf {
    run.join("checkpoints")
}

fn name_of(step: u64) -> String {
    format!("step-{step:06}")
}

/// Adds a checkpoint to `run`; a crash at any point leaves the earlier ones as they were. The oldest go when more than
/// `keep` are there. `more` may write further files into it.
///
/// # Errors
/// When it cannot be written.
pub fn save<O: Objective>(
    run: &mut Run,
    trainer: &Trainer<O>,
    state: &State,
    keep: usize,
    more: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let folder = folder_of(run.folder());
    disk::create_dir(&folder)?;
    let metrics = run.folder().join(METRICS);
    disk::folder_with(&folder.join(name_of(state.step)), |made| {
        for (name, bytes) in run.description()? {
            disk::write(&made.join(name), bytes)?;
        }
        trainer.weights().save(made)?;
        save_tensors(&made.join(OPTIMIZER), trainer.optimizer().moments())?;
        disk::write(&made.join(STATE), (serde_json::to_string_pretty(state)? + "\n").as_bytes())?;
        disk::write_with(&made.join(METRICS), |aside| Ok(std::fs::copy(&metrics, aside).map(|_| ())?))?;
        more(made)?;
        disk::seal(made)
    })?;
    run.begun()?;
    prune(run.folder(), state, keep)
}

/// Removes all but the newest `keep` checkpoints of `run`, and keeps the best weights when their checkpoint goes.
///
/// # Errors
/// When one cannot be removed.
pub fn prune(run: &Path, state: &State, keep: usize) -> Result<()> {
    for (step, old) in all(run).into_iter().skip(keep) {
        if state.saved == Some(step) {
            keep_weights(&old, &best_of(run, step))?;
        }
        disk::remove_folder(&old)?;
    }
    for (step, best) in numbered(run, BEST) {
        if state.saved != Some(step) || folder_of(run).join(name_of(step)).exists() {
            disk::remove_folder(&best)?;
        }
    }
    Ok(())
}

/// Puts the model of the checkpoint in `from` into the folder `to`, without taking room a second time where the file
/// system can do that.
fn keep_weights(from: &Path, to: &Path) -> Result<()> {
    disk::folder_with(to, |made| {
        for entry in std::fs::read_dir(from)? {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|name| is_of_model(name)) else {
                continue;
            };
            let to = made.join(name);
            if std::fs::hard_link(&path, &to).is_err() {
                std::fs::copy(&path, &to).with_context(|| format!("{} cannot be copied", path.display()))?;
            }
        }
        disk::seal(made)
    })
}

const BEST: &str = "best-";

fn best_of(run: &Path, step: u64) -> PathBuf {
    folder_of(run).join(format!("{BEST}{step:06}"))
}

/// The whole folder among the checkpoints of `run` that holds its best weights, as they were trained; nothing where there
/// is none.
pub fn best(run: &Path, state: &State) -> Option<PathBuf> {
    let step = state.saved?;
    let places = [folder_of(run).join(name_of(step)), best_of(run, step)];
    places.into_iter().find(|folder| disk::check_seal(folder).is_ok())
}

/// The newest whole checkpoint of `run` and its folder; says which damaged ones were passed over.
///
/// # Errors
/// When there is none.
pub fn newest(run: &Path, progress: &dyn Progress) -> Result<(PathBuf, State)> {
    disk::sweep(&folder_of(run));
    for (_, folder) in all(run) {
        match read(&folder) {
            Ok(state) => return Ok((folder, state)),
            Err(e) => progress.warn(&format!("{e:#}: the checkpoint before it is taken")),
        }
    }
    bail!("{} holds no whole checkpoint: there is nothing to resume", run.display())
}

/// Whether `run` has a checkpoint, whole or not.
pub fn exists(run: &Path) -> bool {
    !all(run).is_empty()
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
    numbered(run, "step-")
}

/// Folders among the checkpoints of `run` whose names are `prefix` and a step, newest first.
fn numbered(run: &Path, prefix: &str) -> Vec<(u64, PathBuf)> {
    let entries = folder_of(run).read_dir().into_iter().flatten().flatten();
    let mut found: Vec<(u64, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            Some((name.to_str()?.strip_prefix(prefix)?.parse().ok()?, entry.path()))
        })
        .collect();
    found.sort_by_key(|(step, _)| std::cmp::Reverse(*step));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_weights_outlive_their_checkpoint() {
        let run = tempfile::tempdir().unwrap();
        let add = |step: u64| {
            let folder = folder_of(run.path()).join(name_of(step));
            disk::create_dir(&folder).unwrap();
            disk::write(&folder.join("model.safetensors"), step.to_string().as_bytes()).unwrap();
            disk::write(&folder.join(OPTIMIZER), b"moments").unwrap();
            disk::seal(&folder).unwrap();
        };
        let weights = |state: &State| {
            let folder = best(run.path(), state).unwrap();
            assert!(!folder.join(OPTIMIZER).exists() || folder.ends_with(name_of(state.saved.unwrap())));
            std::fs::read_to_string(folder.join("model.safetensors")).unwrap()
        };
        let mut state = State { saved: Some(10), ..State::default() };
        for step in [10, 20, 30, 40] {
            add(step);
            prune(run.path(), &state, 2).unwrap();
            assert_eq!(weights(&state), "10");
        }
        assert_eq!(all(run.path()).len(), 2);
        state.saved = Some(50);
        add(50);
        prune(run.path(), &state, 2).unwrap();
        assert_eq!(weights(&state), "50");
        assert!(numbered(run.path(), BEST).is_empty());
    }
}
