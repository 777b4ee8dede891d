//! Resuming a run: its lock, its newest whole checkpoint, and a comparison of its settings with those of the checkpoint.
//!
//! A checkpoint contains the `config.toml` that it was made with. Later edits are either applied and printed, if they only
//! change the length of the run or how it is monitored ([`OBEYED`]), or refused by key: with a different seed, learning rate or
//! batch size the result would be that of a different run. Where the length changes, the decay of the learning rate still ends
//! where it did, so that the rate does not jump.

use crate::checkpoint;
use crate::checkpoint_folders;
use crate::request::RunRequest;
use crate::run::{CONFIG, locked, restore_description};
use crate::state::{DataSeen, State};
use anyhow::{Context, Result, bail, ensure};
use gptkit_config::{Difference, differences};
use gptkit_data::disk;
use gptkit_data::progress::{Progress, Silent};
use gptkit_data::shard::Manifest;
use gptkit_model::lora::is_adapter;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Keys of `config.toml` that may be edited while a run is interrupted.
const OBEYED: [&str; 10] = [
    "description",
    "samples.max_new_tokens",
    "samples.prompts",
    "samples.temperature",
    "train.eval_every",
    "train.keep_checkpoints",
    "train.length",
    "train.micro_batch",
    "train.patience",
    "train.recompute",
];

/// A run that can be resumed, locked by this process.
#[derive(Debug)]
pub struct Resumable {
    /// Its folder.
    pub folder: PathBuf,
    /// Its newest whole checkpoint.
    pub checkpoint: PathBuf,
    /// Where it stands there.
    pub state: State,
    /// The lock on its folder, which the first rank holds.
    pub lock: Option<File>,
    /// Whether the settings of its text were edited.
    text_edited: bool,
}

impl Resumable {
    /// Locks the run in `folder` and finds its newest whole checkpoint. Settings that begin with one of `verified` may be
    /// edited: what they lead to is compared with what the run began with.
    ///
    /// # Errors
    /// When another process writes the run, no checkpoint is whole, or its settings were edited so that it would be another
    /// run.
    pub fn open(folder: &Path, verified: &[&str], progress: &dyn Progress) -> Result<Self> {
        ensure!(
            folder.join(CONFIG).exists() || checkpoint_folders::has_checkpoint(folder),
            "{} is missing, so {} is not a run",
            folder.join(CONFIG).display(),
            folder.display()
        );
        let lock = locked(folder)?; // before a checkpoint is read that another process may be about to remove
        disk::sweep(folder);
        disk::sweep(disk::parent(folder));
        let (checkpoint, state) = checkpoint::newest(folder, progress)?;
        restore_description(folder, &checkpoint, progress)?;
        if is_adapter(&checkpoint) {
            RunRequest::read(folder).iter().try_for_each(RunRequest::check_base)?;
        }
        let edited = settings_edited(folder, &checkpoint, verified, progress)?;
        let text_edited = edited.iter().any(|key| verified.iter().any(|section| key.starts_with(section)));
        Ok(Self { folder: folder.to_owned(), checkpoint, state, lock: Some(lock), text_edited })
    }

    /// The run in `folder` as another rank than the first resumes it, after the first one has opened it.
    ///
    /// # Errors
    /// When no checkpoint is whole, or its settings cannot be read.
    pub fn follow(folder: &Path, verified: &[&str]) -> Result<Self> {
        let (checkpoint, state) = checkpoint::newest(folder, &Silent)?;
        let edited = settings_edited(folder, &checkpoint, verified, &Silent)?;
        let text_edited = edited.iter().any(|key| verified.iter().any(|section| key.starts_with(section)));
        Ok(Self { folder: folder.to_owned(), checkpoint, state, lock: None, text_edited })
    }

    /// What to set on top of the run's own `config.toml`: the text is taken from the shards it was trained on, from
    /// wherever the command is given. When they are gone or no longer the same (another run may have given their sources
    /// other weights), it is prepared again from its sources.
    pub fn settings(&self) -> Vec<String> {
        let DataSeen { folder, fingerprint } = &self.state.data;
        let there = Manifest::read(folder).map(|manifest| manifest.fingerprint()).ok();
        if self.text_edited || there.as_ref() != Some(fingerprint) {
            return Vec::new();
        }
        let path = serde_json::Value::from(folder.to_string_lossy());
        vec![format!("data.sources=[{{ path = {path} }}]"), "tokenizer={}".to_owned()]
    }
}

/// Returns the keys of the settings in `folder` that were edited after `checkpoint` was made, and prints each change.
fn settings_edited(
    folder: &Path,
    checkpoint: &Path,
    verified: &[&str],
    progress: &dyn Progress,
) -> Result<Vec<String>> {
    let (path, sealed) = (folder.join(CONFIG), checkpoint.join(CONFIG));
    let before = disk::read_description(&sealed)?;
    if !path.exists() {
        progress.warn(&format!("{} was missing; restored it from {}", path.display(), checkpoint.display()));
        disk::write(&path, before.as_bytes())?;
    }
    let damaged =
        || format!("{} is damaged; delete it to resume with the settings in {}", path.display(), checkpoint.display());
    let sealed = Sealed::read(&before).with_context(damaged)?;
    let now = disk::read_description(&path)?;
    let mut found = differences(&before, &now).with_context(damaged)?;
    let fixed = sealed.keep_decay(&found, &now);
    if let Some(fixed) = &fixed {
        found = differences(&before, fixed).with_context(damaged)?;
    }
    let may_change = |difference: &&Difference| {
        let key = difference.key.as_str();
        sealed.may_change(difference) || verified.iter().any(|section| key.starts_with(section))
    };
    let (obeyed, refused): (Vec<_>, Vec<_>) = found.iter().partition(may_change);
    if !refused.is_empty() {
        let what: Vec<String> = refused.iter().map(|difference| difference.to_string()).collect();
        bail!(
            "{} was edited after the run started: {}; this would make it a different run\n  hint: undo the change to \
             resume, or start a new run from these weights with --init {}",
            path.display(),
            what.join(", "),
            checkpoint.display()
        );
    }
    if let Some(fixed) = fixed {
        disk::write(&path, fixed.as_bytes())?;
    }
    obeyed.iter().for_each(|difference| progress.note(&format!("{}: {difference}", path.display())));
    Ok(obeyed.into_iter().map(|difference| difference.key.clone()).collect())
}

/// Settings of a checkpoint that decide which others may be edited.
struct Sealed {
    /// As TOML.
    length: Option<String>,
    /// Whether the learning rate falls until the end of the run.
    decays_to_end: bool,
    /// Whether the batch grows, in multiples of the micro-batch.
    ramps: bool,
}

impl Sealed {
    fn read(config: &str) -> Result<Self> {
        let all = differences("", config)?;
        let value = |key: &str| all.iter().find(|value| value.key == key).and_then(|value| value.now.clone());
        Ok(Self {
            length: value("train.length"),
            decays_to_end: value("train.decay").as_deref() != Some("\"constant\"")
                && value("train.decay_end").is_none(),
            ramps: value("train.batch_ramp").is_some(),
        })
    }

    /// The settings `now`, in which only the length was changed, with an end of the decay where it was; nothing where that is
    /// not needed.
    fn keep_decay(&self, found: &[Difference], now: &str) -> Option<String> {
        let changed = |key: &str| found.iter().any(|difference| difference.key == key);
        if !self.decays_to_end || !changed("train.length") || changed("train.decay_end") || changed("train.decay") {
            return None;
        }
        let length = self.length.as_ref()?;
        let (mut lines, mut in_train): (Vec<String>, bool) = (Vec::new(), false);
        for line in now.lines() {
            lines.push(line.to_owned());
            if line.trim_start().starts_with('[') {
                in_train = line.trim() == "[train]";
            }
            if in_train && line.split('=').next().is_some_and(|key| key.trim() == "length") {
                lines.push(format!("decay_end = {length}"));
            }
        }
        Some(lines.join("\n") + "\n")
    }

    /// Whether a resumed run obeys an edit.
    fn may_change(&self, Difference { key, before, now }: &Difference) -> bool {
        match key.as_str() {
            // Rows of a growing batch are multiples of it.
            "train.micro_batch" => !self.ramps,
            "train.decay_end" => self.decays_to_end && before.is_none() && *now == self.length,
            key => OBEYED.contains(&key),
        }
    }
}
