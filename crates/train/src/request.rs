//! What a run was started with: `run.json` in its folder. With it the same command can resume its run, and a run that was
//! killed before its first checkpoint can be started again.

use crate::checkpoint_folders;
use crate::model_used::ModelUsed;
use anyhow::{Context, Result, ensure};
use gptkit_config::Usage;
use gptkit_data::disk::{self, Claim, LOCK};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub(crate) const REQUEST: &str = "run.json";

/// What a run was started with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRequest {
    /// The subcommand.
    pub command: String,
    /// The working folder, from which relative paths lead.
    pub working_folder: PathBuf,
    /// The configuration, before anything was filled in.
    pub config: serde_json::Value,
    /// The model folders that the command names, by the argument that names them.
    pub models: BTreeMap<String, ModelUsed>,
    /// The files of records that the configuration names, with their BLAKE3 hashes: `gptkit feedback trace` finds exports by
    /// them. They are no part of the request: a run notices by its tokens when its records have changed.
    #[serde(default)]
    pub files: BTreeMap<PathBuf, String>,
    /// Whether the run has had a checkpoint.
    pub begun: bool,
}

/// What is in the folder of a run that a command is to write.
#[derive(Debug)]
pub enum RunFolder {
    /// A new folder, or one whose run has no checkpoint: the run begins here.
    New(Claim),
    /// The run of the same request, which has a checkpoint.
    Same,
}

impl RunRequest {
    /// The request of the subcommand `command` with `config` and the model folders `models`.
    ///
    /// # Errors
    /// When a model cannot be read.
    pub fn new<C: Serialize>(command: &str, config: &C, models: &[(&str, &Path)]) -> Result<Self> {
        let used = |&(name, folder): &(&str, &Path)| anyhow::Ok((name.to_owned(), ModelUsed::of(folder)?));
        let working_folder = std::env::current_dir().context("cannot determine the working directory")?;
        let config = serde_json::to_value(config)?;
        Ok(Self {
            command: command.to_owned(),
            files: record_files(&config, &working_folder)?,
            working_folder,
            config,
            models: models.iter().map(used).collect::<Result<_>>()?,
            begun: false,
        })
    }

    /// The request that the run in `folder` was started with; nothing where there is none that can be read.
    pub fn read(folder: &Path) -> Option<Self> {
        let text = disk::read_description(&folder.join(REQUEST)).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Whether `run.json` in `folder` says what the copy `kept` does. Only the run's own file says that the run has begun.
    pub(crate) fn is_as(kept: &[u8], folder: &Path) -> bool {
        let kept = serde_json::from_slice::<Self>(kept).ok();
        let same = |now: Self| kept.is_some_and(|kept| Self { begun: now.begun, ..kept } == now);
        Self::read(folder).is_some_and(same)
    }

    /// The configuration.
    ///
    /// # Errors
    /// When it is not one of this command.
    pub fn config<C: DeserializeOwned>(&self) -> Result<C> {
        serde_json::from_value(self.config.clone())
            .with_context(|| format!("{REQUEST} was written by another version of gptkit"))
    }

    /// The folder of the model that the argument `name` named.
    ///
    /// # Errors
    /// When there is none.
    pub fn model(&self, name: &str) -> Result<&Path> {
        let used = self.models.get(name).with_context(|| format!("{REQUEST} has no --{name}"))?;
        Ok(&used.folder)
    }

    /// Compares the model that `--init` named with what it was when the run began: adapters belong to its weights.
    ///
    /// # Errors
    /// When it has other weights now.
    pub(crate) fn check_base(&self) -> Result<()> {
        let Some(base) = self.models.get("init") else { return Ok(()) };
        ensure!(
            base.is_unchanged()?,
            "the weights in {} have changed since this run started, and its adapters only fit the old ones; start a \
             new run",
            base.folder.display()
        );
        Ok(())
    }

    /// Keeps this in the folder of `claim`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, claim: &Claim) -> Result<()> {
        self.write(claim.folder())
    }

    fn write(&self, folder: &Path) -> Result<()> {
        disk::write_json(&folder.join(REQUEST), self)
    }

    /// Records in `run.json` in `folder`, if it exists, that the run has a checkpoint.
    pub(crate) fn begun(folder: &Path) -> Result<()> {
        let request = Self::read(folder).filter(|request| !request.begun);
        request.map_or(Ok(()), |request| Self { begun: true, ..request }.write(folder))
    }

    /// Decides whether the run of this request begins in `folder` or is there already.
    ///
    /// # Errors
    /// When it holds something else, or another process is writing there.
    pub fn place(&self, folder: &Path) -> Result<RunFolder> {
        let before = Self::read(folder).filter(|_| folder.is_dir());
        let other = || format!("{} is not empty; use another folder with --out", folder.display());
        let Some(before) = before else {
            let claim = Claim::new(folder, &|_| false)?;
            let held = || format!("another process is writing the run in {}", folder.display());
            return Ok(RunFolder::New(claim.with_context(|| if disk::is_locked(folder) { held() } else { other() })?));
        };
        let same = Self { begun: before.begun, files: before.files.clone(), ..self.clone() } == before;
        if !same {
            let what = format!("{}: it contains a run that was started with {}", other(), before.difference(self));
            let hint = format!("gptkit {} --resume {} continues that run", before.command, folder.display());
            return Err(Usage::new(what).hint(hint).into());
        }
        if before.begun || checkpoint_folders::has_checkpoint(folder) {
            return Ok(RunFolder::Same);
        }
        Ok(RunFolder::New(Self::claim_again(folder)?))
    }

    /// Claims `folder`, which holds a run without a checkpoint, to start it again.
    ///
    /// # Errors
    /// When another process is writing there.
    pub fn claim_again(folder: &Path) -> Result<Claim> {
        let claim = Claim::new(folder, &|name| name != LOCK)?;
        claim.with_context(|| format!("another process is writing the run in {}", folder.display()))
    }

    /// Describes the first difference between this request and `now`.
    fn difference(&self, now: &Self) -> String {
        if self.command != now.command {
            return format!("`gptkit {}`", self.command);
        }
        if self.working_folder != now.working_folder {
            return format!("the same command in {}", self.working_folder.display());
        }
        for (name, used) in &self.models {
            match now.models.get(name) {
                Some(other) if other == used => {}
                Some(other) if other.folder == used.folder => return format!("different weights in --{name}"),
                _ => return format!("--{name} {}", used.folder.display()),
            }
        }
        let toml = |request: &Self| gptkit_config::resolved(&request.config).unwrap_or_default();
        let differences = gptkit_config::differences(&toml(self), &toml(now)).unwrap_or_default();
        match differences.first() {
            Some(difference) => match &difference.before {
                Some(before) => format!("{} = {before}", difference.key),
                None => format!("no {}", difference.key),
            },
            None => "different settings".to_owned(),
        }
    }
}

/// The files among the sources of records in `config`, with their hashes.
fn record_files(config: &serde_json::Value, working_folder: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let sources = ["data", "prompts"].into_iter().filter_map(|section| config[section]["sources"].as_array()).flatten();
    let paths = sources.filter_map(|source| Some(working_folder.join(source.as_str()?)));
    let hashed = |path: PathBuf| anyhow::Ok((path.clone(), disk::file_hash(&path)?));
    paths.filter(|path| path.is_file()).map(hashed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn request(seed: u64) -> RunRequest {
        RunRequest::new("sft", &json!({ "seed": seed, "train": { "lr": 0.1 } }), &[]).unwrap()
    }

    #[test]
    fn a_run_without_a_checkpoint_is_started_again_and_one_with_it_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("run");
        let RunFolder::New(claim) = request(1).place(&out).unwrap() else { panic!("it was new") };
        request(1).save(&claim).unwrap();
        disk::write(&out.join("config.toml"), b"seed = 1").unwrap();
        let message = format!("{:#}", request(1).place(&out).unwrap_err());
        assert!(message.contains("another process is writing"), "{message}");
        drop(claim.keep().unwrap()); // as if it had been killed
        let RunFolder::New(claim) = request(1).place(&out).unwrap() else { panic!("it has no checkpoint") };
        drop(claim);
        assert!(out.join("config.toml").exists());
        let message = format!("{:#}", request(2).place(&out).unwrap_err());
        assert!(message.contains("not empty") && message.contains("started with seed = 1"), "{message}");
        RunRequest::begun(&out).unwrap();
        assert!(matches!(request(1).place(&out).unwrap(), RunFolder::Same));
    }

    #[test]
    fn a_request_notes_its_files_of_records_and_stays_the_same_when_they_change() {
        let folder = tempfile::tempdir().unwrap();
        let (records, out) = (folder.path().join("c.jsonl"), folder.path().join("run"));
        disk::write(&records, b"{}").unwrap();
        let request = || {
            let sources = json!([records, "world:10", folder.path().join("none.jsonl")]);
            RunRequest::new("train-rm", &json!({ "data": { "sources": sources } }), &[]).unwrap()
        };
        let before = request();
        assert_eq!(before.files, BTreeMap::from([(records.clone(), disk::file_hash(&records).unwrap())]));
        let RunFolder::New(claim) = before.place(&out).unwrap() else { panic!("it was new") };
        before.save(&claim).unwrap();
        drop(claim.keep().unwrap());
        RunRequest::begun(&out).unwrap();
        disk::write(&records, b"{\"a\":1}").unwrap();
        assert_ne!(request().files, before.files);
        assert!(matches!(request().place(&out).unwrap(), RunFolder::Same));
        assert_eq!(RunRequest::read(&out).unwrap().files, before.files);
    }

    #[test]
    fn the_folder_of_something_else_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        disk::write(&folder.path().join("notes.txt"), b"mine").unwrap();
        let message = format!("{:#}", request(1).place(folder.path()).unwrap_err());
        assert!(message.contains("is not empty; use another folder with --out"), "{message}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
