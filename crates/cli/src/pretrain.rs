//! `gptkit pretrain`

use crate::data_args::{ConfigArgs, shell};
use crate::device::{DeviceChoice, DtypeChoice};
use crate::plan::print_here;
use crate::presets;
use crate::sample::print_sample;
use crate::ui::{Stopped, Ui};
use candle_core::Device;
use clap::Args;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use train::fit::Sitting;
use train::run::free_folder;
use train::{Outcome, Resumable};

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
        conflicts_with_all = ["init", "out", "seed", "config", "set", "tokenizer", "dtype", "data", "text_key", "on_bad_record"]
    )]
    resume: Option<PathBuf>,
    /// Seed of everything that is drawn [default: the configuration's, 1]
    #[arg(long)]
    seed: Option<u64>,
    /// What products of matrices read, on the processor [default: the configuration's, auto]
    #[arg(long)]
    dtype: Option<DtypeChoice>,
    /// Say what the run would take (see gptkit plan), and do nothing
    #[arg(long, conflicts_with = "resume")]
    dry_run: bool,
    /// Save and stop after this time, for instance 2h or 90m; the exit code is then 124
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    max_time: Option<Duration>,
    /// Where to compute
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
}

impl Pretrain {
    pub(crate) fn run(self, ui: &Ui) -> anyhow::Result<()> {
        let deadline = self.max_time.map(|time| Instant::now() + time);
        let (outcome, device) = match &self.resume {
            Some(folder) => {
                let run = Resumable::open(folder, ui)?;
                let path = folder.join("config.toml");
                let (_, config) = presets::load(&path.to_string_lossy(), &run.settings())?;
                let device = self.device.open()?;
                (train::resume(&config, run, &Sitting { device: &device, progress: ui, deadline })?, device)
            }
            None => {
                let mut set = self.config.settings();
                set.extend(self.seed.map(|seed| format!("seed={seed}")));
                set.extend(self.dtype.map(DtypeChoice::setting));
                let (name, config) = presets::load(&self.config.config, &set)?;
                if self.dry_run {
                    return print_here(config, self.init.as_deref(), &self.device.open()?, ui);
                }
                let out = self.out.unwrap_or_else(|| free_folder(Path::new("runs"), &name));
                let device = self.device.open()?;
                let sitting = Sitting { device: &device, progress: ui, deadline };
                (train::pretrain(config, self.init.as_deref(), &out, &sitting)?, device)
            }
        };
        finish(&outcome, &device, ui)
    }
}

/// Says how a run ended and what is next.
fn finish(Outcome { folder, summary }: &Outcome, device: &Device, ui: &Ui) -> anyhow::Result<()> {
    let state = &summary.state;
    if let Some(stop) = summary.stop {
        ui.say(&format!("stopped after step {} of {}, which is saved", state.step, state.n_steps));
        ui.next(&format!("gptkit pretrain --resume {}", shell(folder)));
        return Err(Stopped(stop).into());
    }
    let best = state.best.map(|(loss, step)| format!(" · best val {loss:.4} at step {step}")).unwrap_or_default();
    ui.say(&format!("saved {}{best} · {} steps in {:.0} s", folder.display(), state.step, state.elapsed_s));
    print_sample(folder, device, ui)?;
    ui.next(&format!("gptkit sample --model {}", shell(folder)));
    Ok(())
}
