//! `gptkit pretrain`

use crate::data_args::{ConfigArgs, shell};
use crate::plan::print_here;
use crate::presets;
use crate::run_args::{RunArgs, say_end};
use crate::sample::print_sample;
use crate::ui::Ui;
use clap::Args;
use model::Kind;
use model::folder::load_config;
use std::path::PathBuf;
use train::Resumable;

/// Train a language model on raw text
#[derive(Debug, Args)]
pub(crate) struct Pretrain {
    #[command(flatten)]
    config: ConfigArgs,
    /// Model folder to start from instead of first values; its shape and tokenizer take the place of the configuration's
    #[arg(long, value_name = "DIR", conflicts_with_all = ["tokenizer", "resume"])]
    init: Option<PathBuf>,
    /// Say what the run would take (see gptkit plan), and do nothing
    #[arg(long, conflicts_with = "resume")]
    dry_run: bool,
    #[command(flatten)]
    run: RunArgs,
}

impl Pretrain {
    pub(crate) fn run(self, ui: &Ui) -> anyhow::Result<()> {
        let mut set = self.config.settings();
        let (outcome, device) = match self.run.resumes(&set)? {
            Some(folder) => {
                let run = Resumable::open(folder, ui)?;
                let path = folder.join("config.toml");
                let (_, config) = presets::load(&path.to_string_lossy(), &run.settings())?;
                let device = self.run.device()?;
                (train::resume(&config, run, &self.run.sitting(&device, ui))?, device)
            }
            None => {
                set.extend(self.run.settings());
                let (name, config) = presets::load(&self.config.config, &set)?;
                if self.dry_run {
                    return print_here(config, self.init.as_deref(), &self.run.device()?, ui);
                }
                let out = self.run.out(&name);
                let device = self.run.device()?;
                (train::pretrain(config, self.init.as_deref(), &out, &self.run.sitting(&device, ui))?, device)
            }
        };
        let folder = &outcome.folder;
        say_end("pretrain", folder, &outcome.summary, ui)?;
        let name = shell(folder);
        ui.next(&match load_config(folder)?.kind {
            Kind::Lstm => format!("gptkit plot {name} OTHER_RUN"),
            Kind::Bert => format!("gptkit finetune --init {name} --task classification --set lm_coef=0"),
            Kind::Gpt1 | Kind::Gpt2 | Kind::Gpt3 => {
                print_sample(folder, &device, ui)?;
                format!("gptkit sample --model {name}")
            }
        });
        Ok(())
    }
}
