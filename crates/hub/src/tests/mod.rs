//! The hub's protocol against a server on this machine that plays a hub.

mod downloads;
mod uploads;

use crate::hub::ModelChecks;
use crate::{Hub, HubName, HubSettings};
use anyhow::{Result, bail};
use gptkit_data::progress::{Progress, ProgressTask, Silent, Unit};
use gptkit_testing::stub_hub::{StubCommit, StubFile, StubHub};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

/// A hub with one model, and an empty cache.
struct HubScene {
    hub: StubHub,
    folder: tempfile::TempDir,
    notes: Notes,
}

/// What was reported.
#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Notes {
    fn all(&self) -> String {
        self.0.lock().unwrap().join("\n")
    }
}

impl Progress for Notes {
    fn note(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }

    fn warn(&self, line: &str) {
        self.0.lock().unwrap().push(format!("warning: {line}"));
    }

    fn task(&self, label: &str, total: Option<u64>, _: Unit) -> Box<dyn ProgressTask> {
        self.0.lock().unwrap().push(format!("task: {label} {total:?}"));
        Box::new(Silent)
    }
}

/// Accepts all models.
struct Anything;

impl ModelChecks for Anything {
    fn check_description(&self, folder: &Path) -> Result<()> {
        if folder.join("config.json").is_file() { Ok(()) } else { bail!("there is no config.json") }
    }

    fn check_size(&self, _: u64) -> Result<()> {
        Ok(())
    }
}

const COMMIT: &str = "1111111111111111111111111111111111111111";

fn weights() -> Vec<u8> {
    (0..200_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn model(files: Vec<StubFile>) -> StubCommit {
    let revisions = ["main", "v1.0", "refs/pr/1"].map(str::to_owned).to_vec();
    StubCommit { repository: "a/b".to_owned(), commit: COMMIT.to_owned(), revisions, files }
}

impl HubScene {
    fn new() -> Self {
        Self::with(vec![
            StubFile::new("config.json", "{}"),
            StubFile::new("tokenizer.json", "{\"model\": {}}"),
            StubFile::new("README.md", "read me"),
            StubFile::new("pytorch_model.bin", "a pickle"),
            StubFile::new("onnx/model.safetensors", "of another program"),
            StubFile::new("model.safetensors", weights()),
        ])
    }

    fn with(files: Vec<StubFile>) -> Self {
        let hub = StubHub::start(vec![model(files)]);
        Self { hub, folder: tempfile::tempdir().unwrap(), notes: Notes::default() }
    }

    fn settings(&self) -> HubSettings {
        HubSettings {
            endpoint: self.hub.url.clone(),
            cache: self.folder.path().to_owned(),
            token: Some("hf_secret".to_owned()),
            offline: false,
            pause: Duration::from_millis(1),
            patience: Duration::from_millis(500),
        }
    }

    fn model(&self, name: &str) -> Result<PathBuf> {
        Hub::new(&self.settings(), &self.notes).model(&HubName::model(name).unwrap(), &Anything)
    }

    /// The message of the error.
    fn refusal(&self, name: &str) -> String {
        format!("{:#}", self.model(name).unwrap_err())
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }
}
