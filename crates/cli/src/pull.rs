//! `gptkit pull`

use crate::data_args::shell;
use crate::hub_names::{LocalChecks, copy, settings};
use crate::ui::{Ui, Usage, unusable};
use anyhow::Result;
use clap::Args;
use gptkit_hub::name::PREFIX;
use gptkit_hub::{Hub, HubName, choice};
use std::path::PathBuf;

/// Download a model from the Hugging Face hub
///
/// Files are kept in the cache of Python's huggingface_hub, and what either has downloaded, the other finds. A download that
/// was stopped continues where it ended; every file is compared with its checksum.
#[derive(Debug, Args)]
pub(crate) struct PullCommand {
    /// Repository, with a branch, tag or commit after @: gpt2, openai-community/gpt2@main
    #[arg(value_name = "NAME[@REVISION]")]
    name: String,
    /// Download the files that match this pattern instead of those that a GPT needs (repeatable)
    #[arg(long, value_name = "GLOB")]
    file: Vec<String>,
    /// The repository is a data set, whose files --file names
    #[arg(long, requires = "file")]
    dataset: bool,
    /// Copy the files to this folder as well
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Use only what the cache has
    #[arg(long, conflicts_with = "file")]
    offline: bool,
}

impl PullCommand {
    pub(crate) fn run(self, ui: &Ui) -> Result<()> {
        let name = if self.dataset { HubName::dataset(&self.name) } else { HubName::model(&self.name) };
        let name = name.map_err(unusable)?;
        let settings = settings(self.offline);
        let hub = Hub::new(&settings, ui);
        let checks = LocalChecks { name: &name, ui, only_warns: true };
        let (folder, files) = if settings.offline {
            let folder = hub.model(&name, &checks)?;
            let entries = folder.read_dir()?.flatten().filter(|entry| entry.path().is_file());
            let files = entries.map(|entry| entry.file_name().into()).collect();
            (folder, files)
        } else {
            let listing = hub.list(&name)?;
            let (folder, files) = match self.file.is_empty() {
                true => hub.fetch_model(&name, &listing, &checks)?,
                false => {
                    let files = choice::matching(&listing.files, &self.file, &name).map_err(unusable)?;
                    (hub.fetch(&name, &listing, &files)?, files)
                }
            };
            hub.verify(&name, &files)?;
            (folder, files.iter().map(|file| PathBuf::from(&file.path)).collect::<Vec<_>>())
        };
        let folder = match self.out {
            None => folder,
            Some(out) if out.as_os_str().is_empty() => return Err(Usage::new("--out is empty").into()),
            Some(out) => {
                copy(&folder, &files, &out)?;
                out
            }
        };
        ui.result(&format!("{}\n", folder.display()))?;
        if self.file.is_empty() {
            ui.next(&format!("gptkit sample --model {PREFIX}{name} --prompt 'Once upon a time'"));
        } else if let ([file], true) = (files.as_slice(), self.dataset) {
            ui.say(&format!("saved {}", shell(&folder.join(file))));
        }
        Ok(())
    }
}
