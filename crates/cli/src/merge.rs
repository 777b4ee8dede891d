//! `gptkit merge`

use crate::data_args::shell;
use crate::ui::{Ui, Usage};
use anyhow::{Result, ensure};
use candle_core::Device;
use clap::Args;
use gptkit_data::disk;
use gptkit_model::folder::{save_description, save_ends, save_weights};
use gptkit_model::load::ModelFolder;
use gptkit_model::lora::is_adapter;
use std::path::{Path, PathBuf};

/// Merge LoRA adapters into their base model
#[derive(Debug, Args)]
pub(crate) struct MergeCommand {
    /// Folder with adapters: a run with --lora-rank, or PEFT's
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Folder to write the model to
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl MergeCommand {
    pub(crate) fn run(self, ui: &Ui) -> Result<()> {
        if !is_adapter(&self.model) {
            let what = format!("{} contains no LoRA adapters (adapter_config.json is missing)", self.model.display());
            return Err(Usage::new(what).hint("a complete model does not need merging").into());
        }
        let taken = self.out.read_dir().is_ok_and(|mut entries| entries.next().is_some());
        let other = || format!("{} is not empty; choose another folder with --out", self.out.display());
        ensure!(!taken || disk::check_seal(&self.out).is_ok(), other());
        let ModelFolder { config, params, tokenizer, end_of_text } = ModelFolder::load(&self.model, &Device::Cpu)?;
        let merge_into = |made: &Path| {
            save_description(made, &config, &tokenizer)?;
            save_ends(made, &end_of_text)?;
            save_weights(made, &params)
        };
        disk::create_dir(disk::parent(&self.out))?;
        if taken {
            // The same command may have been killed at its very end.
            let again = disk::Scratch::beside(&self.out)?;
            merge_into(again.path())?;
            ensure!(disk::fingerprint(again.path(), "")? == disk::fingerprint(&self.out, "")?, other());
        } else {
            disk::folder_with(&self.out, merge_into)?;
        }
        ui.say(&format!("merged {} into {}", self.model.display(), self.out.display()));
        ui.next(&format!("gptkit chat --model {}", shell(&self.out)));
        Ok(())
    }
}
