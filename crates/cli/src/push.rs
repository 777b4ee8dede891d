//! `gptkit push`

use crate::hub_names::settings;
use crate::ui::{Ui, Usage, unusable};
use anyhow::Result;
use clap::Args;
use gptkit_data::disk;
use gptkit_data::format::needed_bytes;
use gptkit_hub::name::PREFIX;
use gptkit_hub::push::Upload;
use gptkit_hub::{Hub, HubName, choice};
use gptkit_model::load::load_config;
use gptkit_model::lora::is_adapter;
use gptkit_train::model_card::{CardContext, model_card};
use std::path::PathBuf;

/// Name of the model card.
const CARD: &str = "README.md";

/// Upload a model to the Hugging Face hub
///
/// The model, its tokenizer and a model card are committed to the repository, which is created if it does not exist. The card
/// is made from the run: data, settings, validation, provenance. A README.md in the folder is used in its place.
#[derive(Debug, Args)]
pub(crate) struct PushCommand {
    /// Model folder: a run, or any model in Hugging Face format
    #[arg(value_name = "DIR")]
    model: PathBuf,
    /// Repository to commit to, with a branch after @: OWNER/NAME
    #[arg(value_name = "NAME[@BRANCH]")]
    name: String,
    /// Identifier of the model's license, for instance mit or apache-2.0
    #[arg(long, value_name = "ID")]
    license: Option<String>,
    /// Folder of an evaluation (`gptkit eval --out`) whose results the card shows
    #[arg(long, value_name = "DIR")]
    eval: Option<PathBuf>,
    /// Message of the commit
    #[arg(long, value_name = "TEXT", default_value = "Upload a model trained with gptkit")]
    message: String,
    /// Create the repository as a private one
    #[arg(long)]
    private: bool,
    /// Print the model card and the files, and upload nothing
    #[arg(long)]
    dry_run: bool,
}

impl PushCommand {
    pub(crate) fn run(self, ui: &Ui) -> Result<()> {
        let name = HubName::model(&self.name).map_err(unusable)?;
        if is_adapter(&self.model) {
            let what =
                format!("{} contains adapters, whose base model may be on this machine alone", self.model.display());
            return Err(Usage::new(what).hint("run `gptkit merge` and push the merged model").into());
        }
        load_config(&self.model).map_err(unusable)?;
        let names = choice::to_upload(&self.model).map_err(unusable)?;
        let mut files: Vec<Upload> =
            names.into_iter().map(|path| Upload { file: self.model.join(&path), path }).collect();
        let made = tempfile::tempdir()?;
        let (card, file) = self.card(&name, &made)?;
        files.push(Upload { path: CARD.to_owned(), file });
        if self.dry_run {
            ui.result(&card)?;
            for upload in &files {
                let size = upload.file.metadata().map_or(0, |metadata| metadata.len());
                ui.say(&format!("{} · {}", upload.path, needed_bytes(size)));
            }
            return Ok(());
        }
        let settings = settings(false);
        let commit = Hub::new(&settings, ui).push(&name, &files, &self.message, self.private)?;
        ui.say(&format!("pushed {} to {commit}", self.model.display()));
        ui.next(&format!("gptkit sample --model {PREFIX}{name}"));
        Ok(())
    }

    /// The text of the model card, and the file that has it: the folder's own, or one in `made`.
    fn card(&self, name: &HubName, made: &tempfile::TempDir) -> Result<(String, PathBuf)> {
        let own = self.model.join(CARD);
        if own.is_file() {
            return Ok((disk::read_description(&own)?, own));
        }
        let read = |folder: &PathBuf| {
            disk::read_description(&folder.join("results.md")).map_err(|e| {
                let hint = "name a folder that `gptkit eval --out` wrote";
                Usage::new(format!("--eval {}: {e:#}", folder.display())).hint(hint)
            })
        };
        let evaluation = self.eval.as_ref().map(read).transpose()?;
        let license = self.license.clone();
        let card = model_card(&self.model, &CardContext { name: name.repository.clone(), license, evaluation })?;
        let file = made.path().join(CARD);
        disk::write(&file, card.as_bytes())?;
        Ok((card, file))
    }
}
