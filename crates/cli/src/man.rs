//! `gptkit man`

use crate::Cli;
use crate::data_args::shell;
use crate::ui::Ui;
use anyhow::Result;
use clap::{Args, Command, CommandFactory};
use gptkit_data::disk;
use std::path::{Path, PathBuf};

/// Write man pages: one for gptkit, and one for each subcommand
///
/// Write them to a folder `man1` on the man path, for example `~/.local/share/man/man1`, where `man gptkit-pretrain`
/// finds them.
#[derive(Debug, Args)]
pub(crate) struct ManCommand {
    /// Folder to write to; other files in it are kept
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl ManCommand {
    pub(crate) fn run(self, ui: &Ui) -> Result<()> {
        let mut root = Cli::command().disable_help_subcommand(true);
        root.build(); // gives subcommands their full names
        disk::create_dir(&self.out)?;
        let n_pages = write(&root, &self.out)?;
        ui.say(&format!("saved {n_pages} pages to {}", self.out.display()));
        ui.next(&format!("man {}", shell(&self.out.join("gptkit.1"))));
        Ok(())
    }
}

/// Writes the pages of `command` and of all below it; how many they are.
fn write(command: &Command, folder: &Path) -> Result<usize> {
    // The title's third word is a date; an empty one would be left out, and the version taken for it.
    let page = clap_mangen::Man::new(command.clone()).date(" ").source(concat!("gptkit ", env!("CARGO_PKG_VERSION")));
    let mut text = Vec::new();
    page.render(&mut text)?;
    disk::write(&folder.join(page.get_filename()), &text)?;
    let below = command.get_subcommands().map(|command| write(command, folder)).sum::<Result<usize>>()?;
    Ok(1 + below)
}
