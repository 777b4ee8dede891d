//! What an evaluation measures: models, tasks and settings, kept in the evaluation's folder.

use crate::task::TaskConfig;
use anyhow::{Context, Result, ensure};
use gptkit_data::disk::{self, Claim};
use gptkit_data::source::OnBadRecord;
use gptkit_hub::cache::model_name;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The file of a request in its evaluation's folder.
const REQUEST: &str = "request.json";

/// All that an evaluation is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvalRequest {
    /// Folders of language models.
    pub models: Vec<PathBuf>,
    /// Tasks, each variant by itself.
    pub tasks: Vec<TaskRequest>,
    /// Numbers of demonstrations.
    pub shots: Vec<usize>,
    /// Most instances of a task; windows of a text.
    pub limit: Option<u64>,
    /// Seed of demonstrations, of what is drawn in writing, and of the bootstrap.
    pub seed: u64,
    /// Tokens of a text that a window predicts; half the context where it is not said.
    pub stride: Option<usize>,
    /// What becomes of bad records.
    pub on_bad_record: OnBadRecord,
    /// Prepared text that the models were trained on, in which instances are looked for.
    pub contamination: Option<PathBuf>,
    /// Fine-tuned models to evaluate on the same instances.
    pub finetuned: Vec<FinetunedRequest>,
}

/// A fine-tuned model, and the task that it was made for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FinetunedRequest {
    /// The task, with its variant.
    pub task: String,
    /// The model's folder.
    pub folder: PathBuf,
}

/// A task, and where its records are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskRequest {
    /// What its file is called.
    pub name: String,
    /// Which of its variants; may be empty.
    pub variant: String,
    /// The file.
    pub config: TaskConfig,
    /// Records to measure with.
    pub test: String,
    /// Records for demonstrations; where there is none, what is made makes them, and of a file every tenth record is one.
    pub train: String,
}

impl TaskRequest {
    /// What it is called, with its variant.
    pub fn full_name(&self) -> String {
        if self.variant.is_empty() { self.name.clone() } else { format!("{}:{}", self.name, self.variant) }
    }
}

impl EvalRequest {
    /// Saves the request in the folder of `claim`, and returns its path.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, claim: Claim) -> Result<PathBuf> {
        let out = claim.folder().to_owned();
        disk::write_json(&out.join(REQUEST), self)?;
        claim.keep()?;
        Ok(out)
    }

    /// Whether `out` holds the evaluation that this asks for, or claims it for that.
    ///
    /// # Errors
    /// When it holds something else.
    pub fn claim(&self, out: &Path) -> Result<Option<Claim>> {
        if Self::load(out).is_ok_and(|before| before == *self) {
            return Ok(None);
        }
        let other = || {
            format!("{0} is not empty; choose another folder with --out, or resume it with --resume {0}", out.display())
        };
        Claim::new(out, &|_| false)?.with_context(other).map(Some)
    }

    /// Removes what [`EvalRequest::save`] wrote if nothing was evaluated yet, so that a refused command leaves no
    /// files.
    pub fn discard(&self, out: &Path) {
        if !out.join("instances").exists() {
            for file in [REQUEST, "lock"] {
                let _ = std::fs::remove_file(out.join(file)); // the error that matters is the first
            }
            let _ = std::fs::remove_dir(out);
        }
    }

    /// The request of the evaluation in `out`.
    ///
    /// # Errors
    /// When it is none.
    pub fn load(out: &Path) -> Result<Self> {
        let path = out.join(REQUEST);
        ensure!(
            path.exists(),
            "{} does not exist, so {} is not the folder of an evaluation",
            path.display(),
            out.display()
        );
        serde_json::from_str(&disk::read_description(&path)?).with_context(|| format!("{} is damaged", path.display()))
    }

    /// What model number `n` is called: [`model_name`], or its path where that is another's too.
    pub fn model_name(&self, n: usize) -> String {
        let name = model_name(&self.models[n]);
        let alone = self.models.iter().filter(|other| model_name(other) == name).count() == 1;
        if alone { name } else { self.models[n].display().to_string() }
    }

    /// File of the measured instances of one task, model and number of demonstrations, below `out`.
    pub(crate) fn instances_file(&self, out: &Path, task: usize, model: usize, shots: usize) -> PathBuf {
        let tasks = folder_names(self.tasks.iter().map(TaskRequest::full_name));
        let models = folder_names((0..self.models.len()).map(|n| self.model_name(n)));
        out.join("instances").join(&tasks[task]).join(&models[model]).join(format!("{shots}-shot.jsonl"))
    }
}

/// Distinct names that can be used as folder names.
fn folder_names(names: impl Iterator<Item = String>) -> Vec<String> {
    let plain = |name: String| name.replace(['/', ':'], "-").trim_start_matches('.').to_owned();
    let names: Vec<String> = names.map(plain).collect();
    let alone = |name: &String| !name.is_empty() && names.iter().filter(|other| *other == name).count() == 1;
    names.iter().enumerate().map(|(n, name)| if alone(name) { name.clone() } else { format!("{n}-{name}") }).collect()
}
