//! `gptkit config`

use crate::presets::{self, PRESETS};
use crate::ui::Ui;
use clap::Subcommand;

/// List and show configuration presets
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// List the presets
    List,
    /// Print a preset, to be changed and given back with --config FILE
    Show {
        /// Preset or TOML file
        #[arg(value_name = "NAME|FILE")]
        name: String,
    },
}

impl ConfigCommand {
    pub(crate) fn run(self, ui: &Ui) -> anyhow::Result<()> {
        match self {
            Self::List => {
                for (name, _) in PRESETS {
                    ui.result(&format!("{name:16} {}\n", presets::description(name)?))?;
                }
                Ok(())
            }
            Self::Show { name } => {
                let (_, text) = presets::text(&name)?;
                ui.result(&text)
            }
        }
    }
}
