//! Arguments of every command that trains.

use crate::data_args::{quoted, shell};
use crate::device::{DeviceChoice, DtypeChoice};
use crate::presets;
use crate::ui::{Stopped, Ui, Usage};
use anyhow::{Context, Result};
use candle_core::Device;
use clap::Args;
use config::Check;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use train::Resumable;
use train::fit::{Sitting, Summary};
use train::run::free_folder;

/// How a run is made
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Folder of the run [default: runs/NAME-1, or the first number that is free]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on with the run in this folder, exactly as if it had not been interrupted; it knows its settings
    #[arg(long, value_name = "DIR", conflicts_with_all = ["out", "seed", "config", "set", "dtype"])]
    resume: Option<PathBuf>,
    /// Seed of everything that is drawn [default: the configuration's, 1]
    #[arg(long)]
    seed: Option<u64>,
    /// What products of matrices read, on the processor [default: the configuration's, auto]
    #[arg(long)]
    dtype: Option<DtypeChoice>,
    /// Save and stop after this time, for instance 2h or 90m; the exit code is then 124
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    max_time: Option<Duration>,
    /// Where to compute
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
}

impl RunArgs {
    /// As `--set` would say it.
    pub(crate) fn settings(&self) -> Vec<String> {
        let seed = self.seed.map(|seed| format!("seed={seed}"));
        seed.into_iter().chain(self.dtype.map(DtypeChoice::setting)).collect()
    }

    /// The run to go on with, if that is asked for. `settings` are those of the command line, which then has none.
    ///
    /// # Errors
    /// When it has.
    pub(crate) fn resumes(&self, settings: &[String]) -> Result<Option<&Path>> {
        if self.resume.is_some() && !settings.is_empty() {
            let keys: Vec<&str> = settings.iter().map(|set| set.split('=').next().unwrap_or(set)).collect();
            let what =
                format!("--resume goes on with the run's own settings, and {} would change them", keys.join(", "));
            return Err(Usage(format!("{what}\n  hint: leave that out, or begin a new run without --resume")).into());
        }
        Ok(self.resume.as_deref())
    }

    /// The folder of a new run of the configuration called `name`.
    pub(crate) fn out(&self, name: &str) -> PathBuf {
        self.out.clone().unwrap_or_else(|| free_folder(Path::new("runs"), name))
    }

    /// Where to compute.
    ///
    /// # Errors
    /// When there is no such device.
    pub(crate) fn device(&self) -> Result<Device> {
        self.device.open()
    }

    /// How the stage runs on `device`, from now on.
    pub(crate) fn sitting<'a>(&self, device: &'a Device, ui: &'a Ui) -> Sitting<'a> {
        Sitting { device, progress: ui, deadline: self.max_time.map(|time| Instant::now() + time) }
    }
}

/// The folder that `--init` names.
///
/// # Errors
/// When there is none.
pub(crate) fn model_to_start_from(init: Option<&Path>) -> Result<&Path> {
    let init = init.context("no model to start from")?;
    if !init.is_dir() {
        let hint = "make one with `gptkit pretrain`, or name a folder of Hugging Face's form";
        return Err(Usage(format!("--init {}: no such folder\n  hint: {hint}", init.display())).into());
    }
    Ok(init)
}

/// The run in `folder`, to go on with, and its configuration. The records of `section` are in the file `kept` below it: that
/// their sources may be gone is no problem, nor that what else `gone` leaves out may be.
///
/// # Errors
/// When there is no run, another process writes it, or its configuration is not sound.
pub(crate) fn reopened<C: DeserializeOwned + Check>(
    folder: &Path,
    section: &str,
    kept: &str,
    gone: &[&str],
    ui: &Ui,
) -> Result<(C, Resumable)> {
    let run = Resumable::open(folder, ui)?;
    let path = folder.join("config.toml");
    let load = |set: &[String]| presets::load::<C>(&path.to_string_lossy(), set);
    let own = format!("{section}.sources=[{}]", quoted(&folder.join(kept).to_string_lossy()));
    let none = format!("{section}.validation=[]");
    let without: Vec<String> = [own.as_str(), none.as_str()].iter().chain(gone).map(|set| (*set).to_owned()).collect();
    let (_, config) = load(&[]).or_else(|_| load(&without))?;
    Ok((config, run))
}

/// Says how the run in `folder` stands; `command` is the one that made it.
///
/// # Errors
/// [`Stopped`], when it was stopped before its end.
pub(crate) fn say_end(command: &str, folder: &Path, summary: &Summary, ui: &Ui) -> Result<()> {
    let state = &summary.state;
    if let Some(stop) = summary.stop {
        ui.say(&format!("stopped after step {} of {}, which is saved", state.step, state.n_steps));
        ui.next(&format!("gptkit {command} --resume {}", shell(folder)));
        return Err(Stopped(stop).into());
    }
    let best = state.best.map(|(loss, step)| format!(" · best val {loss:.4} at step {step}")).unwrap_or_default();
    ui.say(&format!("saved {}{best} · {} steps in {:.0} s", folder.display(), state.step, state.elapsed_s));
    Ok(())
}
