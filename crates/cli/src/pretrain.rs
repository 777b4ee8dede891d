//! `gptkit pretrain`

use crate::data_args::{ConfigArgs, shell};
use crate::device::DeviceChoice;
use crate::presets;
use crate::sample::print_sample;
use crate::ui::{Stopped, Ui};
use clap::Args;
use std::path::{Path, PathBuf};
use train::run::free_folder;
use train::{Outcome, PretrainConfig};

/// Train a language model on raw text
#[derive(Debug, Args)]
pub(crate) struct Pretrain {
    #[command(flatten)]
    config: ConfigArgs,
    /// Model folder to start from instead of first values; its shape and tokenizer take the place of the configuration's
    #[arg(long, value_name = "DIR", conflicts_with = "tokenizer")]
    init: Option<PathBuf>,
    /// Folder of the run [default: runs/NAME-1, or the first number that is free]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on with the run in this folder, exactly as if it had not been interrupted; it knows its settings
    #[arg(
        long,
        value_name = "DIR",
        conflicts_with_all = ["init", "out", "seed", "config", "set", "tokenizer", "data", "text_key", "on_bad_record"]
    )]
    resume: Option<PathBuf>,
    /// Seed of everything that is drawn [default: the configuration's, 1]
    #[arg(long)]
    seed: Option<u64>,
    /// Where to compute
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
}

impl Pretrain {
    pub(crate) fn run(self, ui: &Ui) -> anyhow::Result<()> {
        let (name, config) = match &self.resume {
            Some(folder) => presets::load::<PretrainConfig>(&folder.join("config.toml").to_string_lossy(), &[])?,
            None => {
                let mut set = self.config.settings();
                set.extend(self.seed.map(|seed| format!("seed={seed}")));
                presets::load::<PretrainConfig>(&self.config.config, &set)?
            }
        };
        let device = self.device.open()?;
        let Outcome { folder, summary } = match &self.resume {
            Some(folder) => train::resume(&config, folder, &device, ui)?,
            None => {
                let out = self.out.unwrap_or_else(|| free_folder(Path::new("runs"), &name));
                train::pretrain(config, self.init.as_deref(), &out, &device, ui)?
            }
        };
        let state = summary.state;
        if let Some(signal) = summary.signal {
            ui.say(&format!("stopped after step {}, which is saved", state.step));
            ui.next(&format!("gptkit pretrain --resume {}", shell(&folder)));
            return Err(Stopped(signal).into());
        }
        let best = state.best.map(|(loss, step)| format!(" · best val {loss:.4} at step {step}")).unwrap_or_default();
        ui.say(&format!("saved {}{best} · {} steps in {:.0} s", folder.display(), state.step, state.elapsed_s));
        print_sample(&folder, &device, ui)?;
        ui.next(&format!("gptkit sample --model {}", shell(&folder)));
        Ok(())
    }
}
