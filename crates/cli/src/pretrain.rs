//! `gptkit pretrain`

use crate::data_args::{ConfigArgs, shell};
use crate::plan::print_here;
use crate::presets;
use crate::run_args::{RunArgs, Stage, Todo, reopen, say_end};
use crate::sample::print_sample;
use crate::ui::Ui;
use anyhow::ensure;
use clap::Args;
use gptkit_data::source::SourceLocation;
use gptkit_model::Kind;
use gptkit_model::load::load_config;
use gptkit_train::PretrainConfig;
use std::path::PathBuf;

/// Train a language model on raw text
#[derive(Debug, Args)]
pub(crate) struct PretrainCommand {
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

const STAGE: Stage = Stage { command: "pretrain", records: None, gone: &[] };

impl PretrainCommand {
    pub(crate) fn run(self, ui: &Ui) -> anyhow::Result<()> {
        let mut set = self.config.settings();
        let todo = match self.run.resumes(&set)? {
            Some(folder) => {
                let todo = reopen::<PretrainConfig>(&STAGE, folder, ui)?;
                if let Todo::Begin { config, .. } = &todo {
                    let stdin = |path: &str| matches!(SourceLocation::of(path), Ok(SourceLocation::Stdin(_)));
                    ensure!(
                        !config.data.sources.iter().any(|source| stdin(&source.path)),
                        "{} has no checkpoint, and its text came from stdin\n  hint: give the command that began it again",
                        folder.display()
                    );
                }
                todo
            }
            None => {
                set.extend(self.run.settings());
                let (name, config) = presets::load(&self.config.config, &set)?;
                if self.dry_run {
                    return print_here(config, self.init.as_deref(), &self.run.device()?, ui);
                }
                let models: Vec<_> = self.init.iter().map(|init| ("init", init.as_path())).collect();
                self.run.begin(&STAGE, &name, config, &models, ui)?
            }
        };
        let device = self.run.device()?;
        let sitting = self.run.sitting(&device, ui);
        let outcome = match todo {
            Todo::Begin { config, request, claim } => {
                let init = self.init.as_deref().or(request.model("init").ok());
                gptkit_train::pretrain(config, init, claim, &sitting)?
            }
            Todo::Resume { config, run } => gptkit_train::pretrain::resume(&config, run, &sitting)?,
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
