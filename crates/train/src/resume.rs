//! A run that goes on: locked, with its newest whole checkpoint, and with the settings that the checkpoint was made with.
//!
//! A checkpoint keeps the `config.toml` that it was made with. What has been edited since is either obeyed and said, where it
//! changes how long the run is and how it is watched ([`OBEYED`]), or refused by name: with another seed, learning rate or
//! batch size the rest of the run would belong to another run.

use crate::checkpoint::{self, CONFIG, State, TextSeen};
use crate::run::{locked, restore_description};
use ::config::{Difference, differences};
use anyhow::{Context, Result, bail, ensure};
use data::disk;
use data::progress::Progress;
use data::shard::Manifest;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Keys of `config.toml` that may be edited while a run is interrupted.
const OBEYED: [&str; 7] = [
    "description",
    "train.eval_every",
    "train.keep_checkpoints",
    "train.length",
    "train.micro_batch",
    "train.patience",
    "train.recompute",
];

/// A run that can go on, held by this process.
#[derive(Debug)]
pub struct Resumable {
    /// Its folder.
    pub folder: PathBuf,
    /// Its newest whole checkpoint.
    pub checkpoint: PathBuf,
    /// Where it stands there.
    pub state: State,
    /// That nobody else goes on with it.
    pub lock: File,
    /// Whether its text is described otherwise than when it began.
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
            folder.join(CONFIG).exists() || checkpoint::exists(folder),
            "{} does not exist: {} is no run",
            folder.join(CONFIG).display(),
            folder.display()
        );
        let lock = locked(folder)?; // before a checkpoint is read that another process may be about to remove
        disk::sweep(folder);
        let (checkpoint, state) = checkpoint::newest(folder, progress)?;
        restore_description(folder, &checkpoint, progress)?;
        let edited = settings_edited(folder, &checkpoint, verified, progress)?;
        let text_edited = edited.iter().any(|key| verified.iter().any(|section| key.starts_with(section)));
        Ok(Self { folder: folder.to_owned(), checkpoint, state, lock, text_edited })
    }

    /// What to set on top of the run's own `config.toml`: the text is taken from the shards it was trained on, from
    /// wherever the command is given. When they are gone or no longer the same (another run may have given their sources
    /// other weights), it is prepared again from its sources.
    pub fn settings(&self) -> Vec<String> {
        let TextSeen { shards, fingerprint } = &self.state.text;
        let there = Manifest::read(shards).map(|manifest| manifest.fingerprint()).ok();
        if self.text_edited || there.as_ref() != Some(fingerprint) {
            return Vec::new();
        }
        let path = serde_json::Value::from(shards.to_string_lossy());
        vec![format!("data.sources=[{{ path = {path} }}]"), "tokenizer={}".to_owned()]
    }
}

/// The keys of the settings in `folder` that were edited since `checkpoint` was made; each is said.
fn settings_edited(
    folder: &Path,
    checkpoint: &Path,
    verified: &[&str],
    progress: &dyn Progress,
) -> Result<Vec<String>> {
    let (path, sealed) = (folder.join(CONFIG), checkpoint.join(CONFIG));
    let before = disk::read_description(&sealed)?;
    if !path.exists() {
        progress.warn(&format!("{} was missing: it is written again from {}", path.display(), checkpoint.display()));
        disk::write(&path, before.as_bytes())?;
    }
    let now = disk::read_description(&path)?;
    let found = differences(&before, &now).with_context(|| {
        format!("{} is damaged; delete it to go on with the settings in {}", path.display(), checkpoint.display())
    })?;
    let may_change = |difference: &&Difference| {
        let key = difference.key.as_str();
        OBEYED.contains(&key) || verified.iter().any(|section| key.starts_with(section))
    };
    let (obeyed, refused): (Vec<_>, Vec<_>) = found.iter().partition(may_change);
    if !refused.is_empty() {
        let what: Vec<String> = refused.iter().map(|difference| difference.to_string()).collect();
        bail!(
            "{} was edited after the run began: {}; with that it would be another run\n  hint: set it back to go on, or start a \
             new run from these weights with --init {}",
            path.display(),
            what.join(", "),
            checkpoint.display()
        );
    }
    obeyed.iter().for_each(|difference| progress.note(&format!("{}: {difference}", path.display())));
    Ok(obeyed.into_iter().map(|difference| difference.key.clone()).collect())
}
