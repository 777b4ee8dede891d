//! `gptkit completions`

use crate::Cli;
use crate::ui::Ui;
use anyhow::Result;
use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

/// Print a shell's completion script
///
/// For instance `gptkit completions bash > ~/.local/share/bash-completion/completions/gptkit`, or `gptkit completions fish
/// > ~/.config/fish/completions/gptkit.fish`; zsh looks for a file `_gptkit` in the folders of its `fpath`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsCommand {
    /// Shell that reads it
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

impl CompletionsCommand {
    pub(crate) fn run(self, ui: &Ui) -> Result<()> {
        let mut script = Vec::new(); // the library panics where a reader is gone, so memory comes first
        generate(self.shell, &mut Cli::command(), "gptkit", &mut script);
        ui.raw(&script)
    }
}
