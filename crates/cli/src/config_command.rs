//! `gptkit config`

use crate::config_keys::{self, KeysOf};
use crate::presets::{self, PRESETS};
use crate::ui::Ui;
use clap::Subcommand;

/// List and show configuration presets
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// List the presets
    List,
    /// Explain the keys of a command's configuration: meaning, kind of value and default
    Keys {
        /// Command whose configuration has the keys
        #[arg(value_name = "COMMAND")]
        command: KeysOf,
        /// Only keys below this one, for instance train
        #[arg(value_name = "KEY")]
        below: Option<String>,
    },
    /// Print the JSON schema of a command's configuration; editors use it to complete and check TOML files
    Schema {
        /// Command whose configuration the schema describes
        #[arg(value_name = "COMMAND")]
        command: KeysOf,
    },
    /// Print a preset; save it to a file, edit it and pass it with --config FILE
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
            Self::Keys { command, below } => {
                ui.result(&config_keys::text(command, below.as_deref().unwrap_or_default())?)
            }
            Self::Schema { command } => ui.json(&(serde_json::to_string_pretty(&command.schema())? + "\n")),
            Self::Show { name } => {
                let (_, text) = presets::text(&name)?;
                ui.result(&text)
            }
        }
    }
}
