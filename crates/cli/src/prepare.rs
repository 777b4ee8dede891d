//! `gptkit prepare`

use crate::data_args::{ConfigArgs, shell};
use crate::presets;
use crate::ui::Ui;
use clap::Args;
use gptkit_train::PretrainConfig;
use std::path::PathBuf;

/// Tokenize text into shards for `pretrain`
#[derive(Debug, Args)]
pub(crate) struct PrepareCommand {
    #[command(flatten)]
    config: ConfigArgs,
    /// Folder to write [default: below the configuration's data.shards]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl PrepareCommand {
    pub(crate) fn run(self, ui: &Ui) -> anyhow::Result<()> {
        let (_, config) = presets::load::<PretrainConfig>(&self.config.config, &self.config.settings(), ui)?;
        let prepared = gptkit_data::prepare::prepare(&config.data, &config.tokenizer, self.out.as_deref(), ui)?;
        ui.next(&format!("gptkit pretrain --config {} --data {}", self.config.config, shell(&prepared.folder)));
        Ok(())
    }
}
