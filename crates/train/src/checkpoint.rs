//! Everything a run is after an update, whole or absent.
//!
//! ```text
//! checkpoints/step-000500/
//!   config.json, model.safetensors, tokenizer.json …   a Hugging Face folder
//!   config.toml                                        the settings of the run
//!   metrics.jsonl, samples.jsonl                       its records and samples so far
//!   optimizer.safetensors                              the optimizer's moments
//!   state.json                                         [`State`]
//!   checksums.json                                     size and checksum of each file
//! checkpoints/best-000400/
//!   config.json, model.safetensors, tokenizer.json …   the best weights, when their own checkpoint has been removed
//! ```
//!
//! Windows, dropout and the schedule are functions of the seed and the step, so that these are all there is to keep.

use crate::checkpoint_folders as folders;
use crate::metrics::METRICS;
use crate::optimizer::Optimizer;
use crate::run::{Run, is_description};
use crate::samples::SAMPLES;
use crate::state::State;
use anyhow::{Context, Result, bail};
use candle_core::Tensor;
use gptkit_data::disk;
use gptkit_data::progress::Progress;
use gptkit_model::Params;
use gptkit_model::folder::{is_of_model, is_whole, save_tensors, seal};
use gptkit_model::tensor_files::TensorFiles;
use std::path::{Path, PathBuf};

/// Name of the file with the optimizer's moments in a checkpoint.
pub const MOMENTS: &str = "optimizer.safetensors";
const STATE: &str = "state.json";

/// Adds a checkpoint to `run`; a crash at any point leaves the earlier ones as they were. The oldest ones are removed so that
/// `keep` are left. `write` writes the weights, the moments and what else the learner needs, and completes `state`.
///
/// # Errors
/// When it cannot be written.
pub fn save(
    run: &mut Run,
    state: &mut State,
    keep: usize,
    write: impl FnOnce(&Path, &mut State) -> Result<()>,
) -> Result<()> {
    disk::create_dir(&folders::parent(run.folder()))?;
    let folder = run.folder().to_owned();
    disk::folder_with(&folders::checkpoint(run.folder(), state.step), |made| {
        for (name, bytes) in run.description()? {
            disk::write(&made.join(name), bytes)?;
        }
        write(made, state)?;
        disk::write_json(&made.join(STATE), state)?;
        for (name, is_due) in [(METRICS, true), (SAMPLES, folder.join(SAMPLES).exists())] {
            if is_due {
                let copy = |aside: &Path| Ok(std::fs::copy(folder.join(name), aside).map(|_| ())?);
                disk::write_with(&made.join(name), copy)?;
            }
        }
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
    for (step, old) in folders::checkpoints(run).into_iter().skip(keep) {
        if state.saved == Some(step) {
            keep_weights(&old, &folders::best(run, step))?;
        }
        disk::remove_folder(&old)?;
    }
    for (step, best) in folders::bests(run) {
        if state.saved != Some(step) || folders::checkpoint(run, step).exists() {
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

/// The whole folder among the checkpoints of `run` that holds its best weights, as they were trained; nothing where there
/// is none.
pub fn best(run: &Path, state: &State) -> Option<PathBuf> {
    let step = state.saved?;
    let places = [folders::checkpoint(run, step), folders::best(run, step)];
    places.into_iter().find(|folder| disk::check_seal(folder).is_ok())
}

/// The newest whole checkpoint of `run` and its folder; says which damaged ones were passed over.
///
/// # Errors
/// When there is none.
pub fn newest(run: &Path, progress: &dyn Progress) -> Result<(PathBuf, State)> {
    disk::sweep(&folders::parent(run));
    for (_, folder) in folders::checkpoints(run) {
        match read(&folder) {
            Ok(state) => return Ok((folder, state)),
            Err(e) => progress.warn(&format!("{e:#}; using the previous checkpoint")),
        }
    }
    bail!("{} contains no complete checkpoint, so the run cannot be resumed", run.display())
}

/// Where `run` stands by its newest checkpoint whose state can be read; the weights beside it are not looked at.
pub fn last_state(run: &Path) -> Option<State> {
    folders::checkpoints(run).iter().find_map(|(_, folder)| read_state(folder).ok())
}

fn read(folder: &Path) -> Result<State> {
    disk::check_seal(folder)?;
    read_state(folder)
}

fn read_state(folder: &Path) -> Result<State> {
    let path = folder.join(STATE);
    let text = disk::read_description(&path)?;
    serde_json::from_str(&text).with_context(|| format!("{} was written by another version of gptkit", path.display()))
}

/// Writes the optimizer's moments to the file `path`.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn save_moments(path: &Path, moments: &[(String, Tensor)]) -> Result<()> {
    save_tensors(path, moments.iter().map(|(name, moment)| (name, moment)))
}

/// Reads the optimizer's moments from the file `path`, which was written after `n_updates` updates.
///
/// # Errors
/// When they cannot be read, or belong to a model of another shape.
pub(crate) fn restore_moments(path: &Path, optimizer: &mut Optimizer, n_updates: u64) -> Result<()> {
    let stored = TensorFiles::open(&[path])?;
    optimizer
        .restore(|name, device| stored.load(name, device), n_updates)
        .with_context(|| format!("{} does not match the model", path.display()))
}

/// Takes the values of `params` from the file `path`.
///
/// # Errors
/// When one is missing there, or has another shape.
pub fn load_into(params: &Params, path: &Path) -> Result<()> {
    let stored = TensorFiles::open(&[path])?;
    for (name, parameter) in params.iter() {
        let set = stored.load(name, parameter.var().device()).and_then(|values| parameter.set(&values));
        set.with_context(|| format!("{} does not match the model", path.display()))?;
    }
    Ok(())
}

/// Puts the best weights into the run in `folder` again when they are missing or damaged there.
pub fn restore_outcome(folder: &Path, state: &State, progress: &dyn Progress) -> Result<()> {
    let Some(step) = state.saved else { return Ok(()) };
    if is_whole(folder) {
        return Ok(());
    }
    let Some(best) = best(folder, state) else {
        progress.warn(&format!(
            "the best weights (step {step}) are missing or damaged in {} and in its checkpoints",
            folder.display()
        ));
        return Ok(());
    };
    progress.note(&format!("restored the weights in {} from {}", folder.display(), best.display()));
    disk::unseal(folder)?;
    for entry in best.read_dir()? {
        let (from, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        if name.to_str().is_some_and(|name| is_of_model(name) && !is_description(name)) {
            disk::write_with(&folder.join(&name), |aside| Ok(std::fs::copy(&from, aside).map(|_| ())?))?;
        }
    }
    seal(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_weights_outlive_their_checkpoint() {
        let run = tempfile::tempdir().unwrap();
        let add = |step: u64| {
            let folder = folders::checkpoint(run.path(), step);
            disk::create_dir(&folder).unwrap();
            disk::write(&folder.join("model.safetensors"), step.to_string().as_bytes()).unwrap();
            disk::write(&folder.join(MOMENTS), b"moments").unwrap();
            disk::seal(&folder).unwrap();
        };
        let weights = |state: &State| {
            let folder = best(run.path(), state).unwrap();
            assert!(!folder.join(MOMENTS).exists() || folder == folders::checkpoint(run.path(), state.saved.unwrap()));
            std::fs::read_to_string(folder.join("model.safetensors")).unwrap()
        };
        let mut state = State { saved: Some(10), ..State::default() };
        for step in [10, 20, 30, 40] {
            add(step);
            prune(run.path(), &state, 2).unwrap();
            assert_eq!(weights(&state), "10");
        }
        assert_eq!(folders::checkpoints(run.path()).len(), 2);
        state.saved = Some(50);
        add(50);
        prune(run.path(), &state, 2).unwrap();
        assert_eq!(weights(&state), "50");
        assert!(folders::bests(run.path()).is_empty());
    }
}
