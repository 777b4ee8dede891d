//! `gptkit import`

use crate::data_args::shell;
use crate::ui::{Ui, unusable};
use anyhow::Result;
use clap::Args;
use gptkit_model::gguf_export::import;
use std::path::PathBuf;

/// Convert a GPT-2 in a GGUF file to a model folder
#[derive(Debug, Args)]
pub(crate) struct ImportCommand {
    /// GGUF file of a GPT-2
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Folder to write the model to
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl ImportCommand {
    pub(crate) fn run(self, ui: &Ui) -> Result<()> {
        let config = import(&self.file, &self.out).map_err(unusable)?;
        ui.say(&format!(
            "imported {} into {}: {} layers, width {}, context {}, vocabulary {}",
            self.file.display(),
            self.out.display(),
            config.n_layer,
            config.d_model,
            config.context,
            config.vocab_size
        ));
        ui.next(&format!("gptkit sample --model {}", shell(&self.out)));
        Ok(())
    }
}
