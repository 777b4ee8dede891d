//! Arguments of every command that trains.

use crate::data_args::{quoted, shell};
use crate::device::{DeviceChoice, DtypeChoice};
use crate::following::Following;
use crate::hub_names;
use crate::presets;
use crate::ranks::RunToShare;
use crate::stage_names::StageNames;
use crate::ui::{RankEnds, Stopped, Ui, Usage, unusable};
use anyhow::{Context, Result, ensure};
use candle_core::Device;
use clap::Args;
use gptkit_config::Check;
use gptkit_data::disk::Claim;
use gptkit_data::progress::{Progress, counted};
use gptkit_model::load::{load_config, may_be_model};
use gptkit_train::fit::Summary;
use gptkit_train::language_modeling::SOURCE_LOSS;
use gptkit_train::objective::LOSS;
use gptkit_train::overview::runs;
use gptkit_train::request::{RunFolder, RunRequest};
use gptkit_train::run::claim_numbered;
use gptkit_train::stage::{Outcome, Stage};
use gptkit_train::{Resumable, RunContext, checkpoint_folders};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The action of a training command.
enum Todo<C> {
    /// Begin a run in the folder of `claim`, or start one again that has no checkpoint.
    Begin { config: C, request: RunRequest, claim: Claim },
    /// Resume a run.
    Resume { config: C, run: Resumable },
}

/// The model folders of a run.
pub(crate) enum RunModels<'a> {
    /// The models of a new run, as the command line names them, or as it named them when the run was first started.
    New { given: Vec<(&'static str, &'a Path)>, request: &'a RunRequest },
    /// A resumed run knows its models.
    Resumed,
}

impl RunModels<'_> {
    /// The model folder that the argument `name` names; none in a resumed run.
    pub(crate) fn get(&self, name: &str) -> Option<&Path> {
        let Self::New { given, request } = self else { return None };
        let given = given.iter().find(|(argument, _)| *argument == name).map(|(_, folder)| *folder);
        given.or_else(|| request.model(name).ok())
    }

    /// As [`RunModels::get`].
    ///
    /// # Errors
    /// When a new run names no such model.
    pub(crate) fn required(&self, name: &str) -> Result<Option<&Path>> {
        ensure!(self.is_resumed() || self.get(name).is_some(), "run.json has no --{name}");
        Ok(self.get(name))
    }

    /// Whether the run continues from a checkpoint.
    pub(crate) fn is_resumed(&self) -> bool {
        matches!(self, Self::Resumed)
    }
}

/// How a run is made
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Folder for the run [default: runs/NAME-1, or the first number that is free]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Resume the run in this folder from its last checkpoint, with its own settings
    #[arg(long, value_name = "DIR", conflicts_with_all = ["out", "seed", "config", "set", "dtype"])]
    resume: Option<PathBuf>,
    /// Random seed of the run [default: the configuration's, 1]
    #[arg(long)]
    seed: Option<u64>,
    /// Data type for matrix multiplications [default: the configuration's, auto]
    #[arg(long)]
    dtype: Option<DtypeChoice>,
    /// Save a checkpoint and stop after this time, for instance 2h or 90m; the exit code is then 124
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    max_time: Option<Duration>,
    /// Device to compute on
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
}

impl RunArgs {
    /// The flags as settings in the form of `--set`.
    pub(crate) fn settings(&self) -> Vec<String> {
        let seed = self.seed.map(|seed| format!("seed={seed}"));
        seed.into_iter().chain(self.dtype.map(DtypeChoice::setting)).collect()
    }

    /// The run that `--resume` names, if it is given; then `settings`, those of the command line, must be empty.
    ///
    /// # Errors
    /// When it has.
    pub(crate) fn resumes(&self, settings: &[String]) -> Result<Option<&Path>> {
        if self.resume.is_some() && !settings.is_empty() {
            let keys: Vec<&str> = settings.iter().map(|set| set.split('=').next().unwrap_or(set)).collect();
            let what =
                format!("--resume uses the saved settings of the run, and {} would change them", keys.join(", "));
            return Err(Usage::new(what).hint("remove it, or start a new run without --resume").into());
        }
        Ok(self.resume.as_deref())
    }

    /// The folder that `--resume` names.
    pub(crate) fn resume_folder(&self) -> Option<&Path> {
        self.resume.as_deref()
    }

    /// The folder that `--out` names.
    pub(crate) fn out(&self) -> Option<&Path> {
        self.out.as_deref()
    }

    /// Trains: begins a run with the settings `set` on top of `preset`, from the models that `models` gives, or resumes the one
    /// that `--resume` names. `stage` makes the stage from its settings.
    ///
    /// # Errors
    /// When the command cannot be obeyed, or the run fails.
    pub(crate) fn train<'a, S: Stage>(
        &self,
        names: &StageNames,
        (preset, mut set): (&str, Vec<String>),
        models: impl FnOnce() -> Result<Vec<(&'static str, &'a Path)>>,
        stage: impl FnOnce(S::Config, &RunModels) -> Result<S>,
        ui: &Ui,
    ) -> Result<Outcome<S::Report>>
    where
        S::Config: DeserializeOwned + Check,
    {
        let device = self.device()?;
        let context = self.context(&device, ui);
        if !ui.ranks().is_first() {
            return follow(names, stage, &context, ui);
        }
        let (todo, given) = match self.resumes(&set)? {
            Some(folder) => (reopen(names, folder, ui)?, Vec::new()),
            None => {
                let given = models()?;
                set.extend(self.settings());
                let init = given.iter().find(|(argument, _)| *argument == "init").map(|(_, folder)| *folder);
                let (name, config) = load_following(names, preset, set, init, ui)?;
                (self.begin(names, &name, config, &given, ui)?, given)
            }
        };
        let (folder, begins) = match &todo {
            Todo::Begin { claim, .. } => (claim.folder(), true),
            Todo::Resume { run, .. } => (run.folder.as_path(), false),
        };
        RunToShare { folder: std::path::absolute(folder)?, begins }.tell(ui.ranks())?;
        match todo {
            Todo::Begin { config, request, claim } => {
                let stage = stage(config, &RunModels::New { given, request: &request })?;
                gptkit_train::stage::run(stage, claim, &context)
            }
            Todo::Resume { config, run } => {
                gptkit_train::stage::resume(stage(config, &RunModels::Resumed)?, run, &context)
            }
        }
    }

    /// Decides what to do for the configuration `config` (called `name`) and the model folders `models`: begin a run, or
    /// resume the one that the same command began in `--out`.
    ///
    /// # Errors
    /// When `--out` holds something else.
    fn begin<C>(&self, stage: &StageNames, name: &str, config: C, models: &[(&str, &Path)], ui: &Ui) -> Result<Todo<C>>
    where
        C: Serialize + DeserializeOwned + Check,
    {
        let request = RunRequest::new(stage.command, &config, models)?;
        let claim = match &self.out {
            None => claim_numbered(Path::new("runs"), name)?,
            Some(out) => match request.place(out).map_err(unusable)? {
                RunFolder::New(claim) => claim,
                RunFolder::Same => {
                    ui.say(&format!("{} contains the run of this command; resuming it", out.display()));
                    return reopen(stage, out, ui);
                }
            },
        };
        request.save(&claim)?;
        Ok(Todo::Begin { config, request, claim })
    }

    /// Device to compute on.
    ///
    /// # Errors
    /// When there is no such device.
    pub(crate) fn device(&self) -> Result<Device> {
        self.device.open()
    }

    /// How the stage runs on `device`, from now on.
    pub(crate) fn context<'a>(&self, device: &'a Device, ui: &'a Ui) -> RunContext<'a> {
        let deadline = self.max_time.map(|time| Instant::now() + time);
        RunContext { device, progress: ui, deadline, ranks: ui.ranks() }
    }
}

/// Trains as a rank other than the first, which has decided what to do.
///
/// # Errors
/// When the run fails; else [`RankEnds`], or [`Stopped`] where it was stopped before its end.
fn follow<S: Stage>(
    names: &StageNames,
    stage: impl FnOnce(S::Config, &RunModels) -> Result<S>,
    context: &RunContext,
    ui: &Ui,
) -> Result<Outcome<S::Report>>
where
    S::Config: DeserializeOwned + Check,
{
    let RunToShare { folder, begins } = RunToShare::heard(context.ranks)?;
    let outcome = if begins {
        let request = RunRequest::read(&folder);
        let request =
            request.with_context(|| format!("run.json in {} cannot be read by this rank", folder.display()))?;
        enter(&request.working_folder, &folder)?;
        let aside = tempfile::tempdir()?;
        let claim = Claim::new(&aside.path().join("run"), &|_| false)?.context("a temporary folder is in use")?;
        let stage = stage(request.config()?, &RunModels::New { given: Vec::new(), request: &request })?;
        gptkit_train::stage::run(stage, claim, context)?
    } else {
        let run = Resumable::follow(&folder, verified(names))?;
        let config = saved_config(names, &folder, &run, ui)?;
        gptkit_train::stage::resume(stage(config, &RunModels::Resumed)?, run, context)?
    };
    Err(outcome.summary.stop.map_or_else(|| RankEnds.into(), |stop| Stopped(stop).into()))
}

/// The configuration that `given` names with the settings `set`, and its name, for a run of `names` that starts from the
/// model in `init`. Says which settings of a preset follow that model and the records.
///
/// # Errors
/// When there is no such configuration, or it is not sound.
pub(crate) fn load_following<C: DeserializeOwned + Check>(
    names: &StageNames,
    given: &str,
    set: Vec<String>,
    init: Option<&Path>,
    ui: &Ui,
) -> Result<(String, C)> {
    if !presets::is_preset(given) {
        return presets::load(given, &set, ui);
    }
    let (name, text) = presets::text(given)?;
    let following = Following::new(names, (given, text), hub_names::in_settings(&set, ui)?, init);
    let config = presets::load_text(given, &following.text, &following.set)?;
    following.said.iter().for_each(|line| ui.say(line));
    Ok((name, config))
}

/// The folder that `--init` names.
///
/// # Errors
/// When there is none.
pub(crate) fn model_to_start_from(init: Option<&Path>) -> Result<&Path> {
    let init = init.context("--init is missing")?;
    if !may_be_model(init) {
        let hint = "train one with `gptkit pretrain`, or name a model folder in Hugging Face format";
        return Err(Usage::new(format!("--init {}: no such folder", init.display())).hint(hint).into());
    }
    load_config(init).map_err(unusable)?;
    Ok(init)
}

/// Decides what to do with the run in `folder`: resume it, or start it again if it was killed before its first checkpoint.
///
/// # Errors
/// When there is no run, another process writes it, or its configuration is not sound or was edited so that it would be
/// another run.
fn reopen<C: DeserializeOwned + Check>(stage: &StageNames, folder: &Path, ui: &Ui) -> Result<Todo<C>> {
    must_be_run(folder)?;
    if let Some(request) = RunRequest::read(folder) {
        let (command, right) = (stage.command, &request.command);
        let shown = shell(folder);
        if command != right {
            let hint = format!("gptkit {right} --resume {shown}");
            return Err(Usage::new(format!("{shown} is a run of `gptkit {right}`")).hint(hint).into());
        }
        if !request.begun && !checkpoint_folders::has_checkpoint(folder) {
            return start_again(request, folder, ui);
        }
    }
    let run = Resumable::open(folder, verified(stage), ui)?;
    Ok(Todo::Resume { config: saved_config(stage, folder, &run, ui)?, run })
}

/// Sections of the settings that a run compares with what it began with when it is resumed.
fn verified(stage: &StageNames) -> &'static [&'static str] {
    if stage.records.is_none() { &["data.", "tokenizer."] } else { &[] }
}

/// The settings of the `run` in `folder`.
///
/// # Errors
/// When they are not sound.
fn saved_config<C: DeserializeOwned + Check>(stage: &StageNames, folder: &Path, run: &Resumable, ui: &Ui) -> Result<C> {
    let path = folder.join("config.toml");
    let load = |set: &[String]| presets::load::<C>(&path.to_string_lossy(), set, ui);
    let Some((section, kept)) = stage.records else { return Ok(load(&run.settings())?.1) };
    // The sources of the records may be gone: the run keeps its own copy.
    let own = format!("{section}.sources=[{}]", quoted(&folder.join(kept).to_string_lossy()));
    let gone = stage.gone.iter().map(|set| (*set).to_owned());
    let without: Vec<String> = [own, format!("{section}.validation=[]")].into_iter().chain(gone).collect();
    Ok(load(&[]).or_else(|_| load(&without))?.1)
}

/// Enters the directory `from` in which the run in `folder` was started, from which relative paths lead.
///
/// # Errors
/// When it is not accessible.
fn enter(from: &Path, folder: &Path) -> Result<()> {
    if std::env::current_dir().ok().as_deref() == Some(from) {
        return Ok(());
    }
    std::env::set_current_dir(from).with_context(|| {
        format!("{} was started in the directory {}, which is not accessible", folder.display(), from.display())
    })
}

/// Refuses a checkpoint of a run, a folder of several runs, and any other folder that is no run.
fn must_be_run(folder: &Path) -> Result<()> {
    const SHOWN: usize = 6;
    let shown = shell(folder);
    let holds = |run: &&Path| folder.strip_prefix(run).is_ok_and(|rest| rest.starts_with("checkpoints"));
    let run =
        folder.ancestors().skip(1).find(holds).map(|run| if run.as_os_str().is_empty() { Path::new(".") } else { run });
    if let Some((run, request)) = run.and_then(|run| Some((shell(run), RunRequest::read(run)?))) {
        let hint = format!("gptkit {} --resume {run}", request.command);
        return Err(Usage::new(format!("{shown} is part of the run {run}")).hint(hint).into());
    }
    let files = ["run.json", "config.toml"];
    if files.iter().any(|name| folder.join(name).exists()) || checkpoint_folders::has_checkpoint(folder) {
        return Ok(());
    }
    let mut names: Vec<String> = runs(folder).into_iter().flatten().map(|run| shell(&run.folder)).collect();
    let more = if names.len() > SHOWN { ", …" } else { "" };
    names.truncate(SHOWN);
    Err(match names.is_empty() {
        true => Usage::new(format!("{shown} is not a run")).hint("`gptkit runs` lists the runs in runs/"),
        false => Usage::new(format!("{shown} is not a run; it contains these runs: {}{more}", names.join(", "))),
    }
    .into())
}

/// Starts the run in `folder` again, which has no checkpoint, in the working folder of the command that began it.
fn start_again<C: DeserializeOwned>(request: RunRequest, folder: &Path, ui: &Ui) -> Result<Todo<C>> {
    let folder = std::path::absolute(folder)?;
    let claim = RunRequest::claim_again(&folder)?;
    ui.say(&format!("{} has no checkpoint yet; starting it again from the beginning", folder.display()));
    enter(&request.working_folder, &folder)?;
    Ok(Todo::Begin { config: request.config()?, request, claim })
}

/// Says how the run in `folder` stands; `command` is the one that made it.
///
/// # Errors
/// [`Stopped`], when it was stopped before its end.
pub(crate) fn say_end(command: &str, folder: &Path, summary: &Summary, ui: &Ui) -> Result<()> {
    let state = &summary.state;
    if let Some(stop) = summary.stop {
        ui.say(&format!("stopped after step {} of {}; a checkpoint is saved", state.step, state.n_steps));
        ui.next(&format!("gptkit {command} --resume {}", shell(folder)));
        return Err(Stopped(stop).into());
    }
    if summary.not_finite > 0 {
        ui.warn(&format!(
            "training diverged: the last {} losses or gradients were not finite; the saved weights are from step {}",
            summary.not_finite,
            state.saved.unwrap_or(0)
        ));
    }
    let best = match (state.best, state.best_validation()) {
        (Some((loss, step)), Some(best)) if best.criterion != LOSS => {
            format!(" · best {} {:.4} at step {step}, with val {loss:.4}", best.criterion, best.value)
        }
        (Some((loss, step)), _) => format!(" · best val {loss:.4} at step {step}"),
        _ => String::new(),
    };
    ui.say(&format!("saved {}{best} · {} in {:.0} s", folder.display(), counted(state.step, "step"), state.elapsed_s));
    let by_source = state.best_scores.iter().filter_map(|(name, loss)| Some((name.strip_prefix(SOURCE_LOSS)?, loss)));
    let by_source: Vec<String> = by_source.map(|(source, loss)| format!("{source} {loss:.4}")).collect();
    if !by_source.is_empty() {
        ui.say(&format!("best val by source: {}", by_source.join(" · ")));
    }
    Ok(())
}
