//! `gptkit pretrain`

use crate::data_args::{ConfigArgs, shell};
use crate::plan::print_here;
use crate::run_args::{RunArgs, RunModels, load_following, model_to_start_from, say_end};
use crate::sample::print_sample;
use crate::stage_names::StageNames;
use crate::training_flags::TrainingFlags;
use crate::ui::Ui;
use anyhow::ensure;
use clap::Args;
use gptkit_data::source::SourceLocation;
use gptkit_model::Kind;
use gptkit_model::load::load_config;
use gptkit_train::learning_rates::Purpose;
use gptkit_train::{PretrainConfig, Pretraining};
use std::path::PathBuf;

/// Train a language model on raw text
#[derive(Debug, Args)]
pub(crate) struct PretrainCommand {
    #[command(flatten)]
    config: ConfigArgs,
    /// Start from this model instead of random weights; its architecture and tokenizer override the configuration
    #[arg(long, value_name = "DIR", conflicts_with_all = ["tokenizer", "resume"])]
    init: Option<PathBuf>,
    /// Print the estimate of `gptkit plan` and exit
    #[arg(long, conflicts_with = "resume")]
    dry_run: bool,
    /// Start even if the run would read the text more than 10,000 times
    #[arg(long, conflicts_with = "resume")]
    yes: bool,
    #[command(flatten)]
    training: TrainingFlags,
    #[command(flatten)]
    run: RunArgs,
}

const NAMES: StageNames = StageNames {
    preset: "small",
    command: "pretrain",
    records: None,
    gone: &[],
    purpose: Purpose::Pretraining,
    mixed: None,
};

impl PretrainCommand {
    pub(crate) fn run(self, ui: &Ui) -> anyhow::Result<()> {
        let mut set = self.config.settings();
        set.extend(self.training.settings(&self.config.set)?);
        if self.dry_run {
            set.extend(self.run.settings());
            let init = self.init.as_deref();
            let (_, config) = load_following(&NAMES, &self.config.config, set, init, ui)?;
            return print_here(config, self.init.as_deref(), &self.run.device()?, ui);
        }
        let models = || match self.init.as_deref() {
            Some(init) => Ok(vec![("init", model_to_start_from(Some(init))?)]),
            None => Ok(Vec::new()),
        };
        let stage = |config: PretrainConfig, models: &RunModels| {
            let stdin = |path: &str| matches!(SourceLocation::of(path), Ok(SourceLocation::Stdin(_)));
            if let Some(folder) = self.run.resume_folder().filter(|_| !models.is_resumed()) {
                ensure!(
                    !config.data.sources.iter().any(|source| stdin(&source.path)),
                    "{} has no checkpoint, and its text came from stdin\n  hint: repeat the command that started it",
                    folder.display()
                );
            }
            let stage = Pretraining::new(config, models.get("init"));
            Ok(if self.yes || self.run.resume_folder().is_some() { stage.repeating() } else { stage })
        };
        let outcome = self.run.train(&NAMES, (&self.config.config, set), models, stage, ui)?;
        let folder = &outcome.folder;
        say_end("pretrain", folder, &outcome.summary, ui)?;
        let name = shell(folder);
        ui.next(&match load_config(folder)?.kind {
            Kind::Lstm => format!("gptkit plot {name} OTHER_RUN"),
            Kind::Bert => format!("gptkit finetune --init {name} --task classification --set lm_coef=0"),
            Kind::Gpt1 | Kind::Gpt2 | Kind::Gpt3 => {
                print_sample(folder, &self.run.device()?, ui)?;
                format!("gptkit sample --model {name}")
            }
        });
        Ok(())
    }
}
