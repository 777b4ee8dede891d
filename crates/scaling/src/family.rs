//! Trains the members in order, each as a run of `gptkit pretrain` in a separate folder, on the same text.
//!
//! ```text
//! runs/scaling-small-1/
//!   config.toml          the family, as it was obeyed
//!   s1/ s2/ …            the runs: plot, sample and resume take them like any other
//!   scaling.json …       see [`super::report`]
//! ```

use super::config::{ScalingConfig, SizeConfig};
use anyhow::{Context, Result, bail, ensure};
use gptkit_data::disk::{self, Claim, LOCK};
use gptkit_data::prepare::{Prepared, prepare};
use gptkit_data::progress::{Progress, ProgressTask, Unit, grouped};
use gptkit_data::shard::Manifest;
use gptkit_data::source::{DataConfig, SourceConfig};
use gptkit_data::tokenizer::TokenizerConfig;
use gptkit_ranks::ALONE;
use gptkit_train::checkpoint::last_state;
use gptkit_train::interrupt::{Interrupt, Stop};
use gptkit_train::metric_charts::CURVES;
use gptkit_train::metrics::{Record, records};
use gptkit_train::run::locked;
use gptkit_train::state::{DataSeen, State};
use gptkit_train::{PretrainConfig, Pretraining, Resumable, RunContext, stage};
use std::path::Path;

/// A member that has been trained.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TrainedMember {
    /// Its entry in the configuration of the family.
    pub(crate) size: SizeConfig,
    /// Its run's settings.
    pub(crate) config: PretrainConfig,
    /// What it measured.
    pub(crate) records: Vec<Record>,
    /// Seconds that it took.
    pub(crate) elapsed_s: f64,
}

/// What became of a family.
pub(crate) enum FamilyOutcome {
    /// All are trained.
    Done(Vec<TrainedMember>),
    /// A signal or the clock stopped this member, or kept it from being begun.
    Stopped {
        /// What did.
        stop: Stop,
        /// Its name.
        member: String,
    },
}

/// How far a member has come.
enum MemberProgress {
    Absent,
    Begun(DataSeen),
    Finished(State),
}

const CONFIG: &str = "config.toml";

/// Begins a family of the settings `resolved` in the folder of `claim`.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn create(claim: Claim, resolved: &str) -> Result<()> {
    disk::write(&claim.folder().join(CONFIG), resolved.as_bytes())?;
    claim.keep().map(drop)
}

/// Whether `folder` holds a family of the settings `resolved`.
pub(crate) fn is_of(folder: &Path, resolved: &str) -> bool {
    disk::read_description(&folder.join(CONFIG)).is_ok_and(|text| text == resolved)
}

/// Trains every member in `folder` that is not at its end yet; those that are stay as they are.
///
/// # Errors
/// When a member was made with other settings or on other text, or its run fails.
pub(crate) fn train(config: &ScalingConfig, folder: &Path, context: &RunContext) -> Result<FamilyOutcome> {
    let interrupt = Interrupt::watch(context.deadline)?; // between members, too;
    let _lock = locked(folder)?;
    let mut text = None; // prepared when the first member needs it
    let sizes = &config.family.sizes;
    let seen = text_seen(config, folder)?;
    for (i, size) in sizes.iter().enumerate() {
        if let Some(stop) = interrupt.reason(std::time::Duration::ZERO) {
            return Ok(FamilyOutcome::Stopped { stop, member: size.name.clone() });
        }
        let run = folder.join(&size.name);
        let standing = standing(&run);
        if matches!(standing, MemberProgress::Finished(_)) {
            continue;
        }
        let text = match &text {
            Some(text) => text,
            None => &*text.insert(prepared(config, seen.as_ref(), context)?),
        };
        let progress = MemberMessages { name: &size.name, all: context.progress };
        let quiet = RunContext { progress: &progress, ..*context };
        let place = format!("{} of {}", i + 1, sizes.len());
        let outcome = match standing {
            MemberProgress::Begun(_) => {
                context.progress.note(&format!("{} · {place} · resuming", size.name));
                let resumable = Resumable::open(&run, TEXT, &progress)?;
                stage::resume(Pretraining::new(own(&run, &settings(text))?, None), resumable, &quiet)?
            }
            _ => {
                let mut member = config.member(size);
                member.data = DataConfig { sources: sources(text)?, ..member.data };
                member.tokenizer = TokenizerConfig::default();
                let n = grouped(super::config::non_embedding(&member.model));
                context.progress.note(&format!("{} · {place} · {n} parameters without embeddings", size.name));
                // One that was stopped before its first checkpoint is started again.
                let claim = Claim::new(&run, &|name| is_ours(name))?;
                let claim = claim.with_context(|| format!("another process is writing {}", run.display()))?;
                stage::run(Pretraining::new(member, None), claim, &quiet)?
            }
        };
        if let Some(stop) = outcome.summary.stop {
            return Ok(FamilyOutcome::Stopped { stop, member: size.name.clone() });
        }
    }
    sizes.iter().map(|size| trained(config, folder, size)).collect::<Result<_>>().map(FamilyOutcome::Done)
}

fn standing(run: &Path) -> MemberProgress {
    match last_state(run) {
        // Its curves are the last that a run writes.
        Some(state) if state.finished && run.join(CURVES).is_file() => MemberProgress::Finished(state),
        Some(state) => MemberProgress::Begun(state.data),
        None => MemberProgress::Absent,
    }
}

/// Whether a run begins with a file of this name.
fn is_ours(name: &str) -> bool {
    let begun = [CONFIG, LOCK, "metrics.jsonl", "checkpoints", "config.json", "generation_config.json"];
    begun.contains(&name) || name.starts_with("events.out.") || name.starts_with("tokenizer")
}

/// Whether nothing is in the folder `run` but what a run begins with.
fn holds_only_ours(run: &Path) -> bool {
    run.read_dir().is_ok_and(|entries| entries.flatten().all(|e| e.file_name().to_str().is_some_and(is_ours)))
}

/// Sections of a member's settings that lead to its text.
const TEXT: &[&str] = &["data.", "tokenizer."];

/// The settings of the run in `run`, with `set` on top.
fn own(run: &Path, set: &[String]) -> Result<PretrainConfig> {
    let path = run.join(CONFIG);
    let text = disk::read_description(&path)?;
    Ok(gptkit_config::load(&path.to_string_lossy(), &text, set)?)
}

/// The text that members have been trained on, if any has. All must have been made with the family's settings.
fn text_seen(config: &ScalingConfig, folder: &Path) -> Result<Option<DataSeen>> {
    let mut seen: Option<(DataSeen, &str)> = None;
    for size in &config.family.sizes {
        let run = folder.join(&size.name);
        let text = match standing(&run) {
            MemberProgress::Absent => {
                disk::sweep(&run);
                ensure!(
                    !run.exists() || holds_only_ours(&run),
                    "{} has no complete checkpoint but contains other files; move it away to train this model again",
                    run.display()
                );
                continue;
            }
            MemberProgress::Begun(text) => text,
            MemberProgress::Finished(state) => state.data,
        };
        let theirs = own(&run, &["data={}".to_owned(), "tokenizer={}".to_owned()])?;
        let mut told = config.member(size);
        told.model.vocab_size = theirs.model.vocab_size;
        told.train.settle(&ALONE);
        let same = (&told.model, &told.train, told.seed) == (&theirs.model, &theirs.train, theirs.seed);
        ensure!(
            same,
            "{} was trained with settings that differ from {}; remove the folder to train this model again",
            run.join(CONFIG).display(),
            folder.join(CONFIG).display()
        );
        match &seen {
            Some((first, name)) => ensure!(
                first.fingerprint == text.fingerprint,
                "{} was trained on different text than {name}; remove one of the two folders to train that model again",
                run.display()
            ),
            None => seen = Some((text, &size.name)),
        }
    }
    Ok(seen.map(|(text, _)| text))
}

/// The text: the shards that members have `seen` if they are still there, else made from its sources.
fn prepared(config: &ScalingConfig, seen: Option<&DataSeen>, context: &RunContext) -> Result<Prepared> {
    if let Some(seen) = seen
        && Manifest::read(&seen.folder).is_ok_and(|manifest| manifest.fingerprint() == seen.fingerprint)
    {
        let path = seen.folder.to_string_lossy().into_owned();
        let data = DataConfig { sources: vec![SourceConfig { path, weight: None }], ..config.data.clone() };
        return prepare(&data, &TokenizerConfig::default(), None, context.progress);
    }
    ensure!(
        !config.data.sources.is_empty(),
        "the text of the family is missing: neither its sources nor the shards of its models are in their original \
         places"
    );
    let prepared = prepare(&config.data, &config.tokenizer, None, context.progress)?;
    if let Some(seen) = seen
        && seen.fingerprint != prepared.fingerprint
    {
        bail!("the text has changed since the earlier models of the family were trained; start a new family")
    }
    Ok(prepared)
}

/// The prepared text as a source.
fn sources(text: &Prepared) -> Result<Vec<SourceConfig>> {
    let path = std::path::absolute(&text.folder)?.to_string_lossy().into_owned();
    Ok(vec![SourceConfig { path, weight: None }])
}

/// The same as `--set` would say it.
fn settings(text: &Prepared) -> Vec<String> {
    let path = serde_json::Value::from(text.folder.to_string_lossy());
    vec![format!("data.sources=[{{ path = {path} }}]"), "tokenizer={}".to_owned()]
}

fn trained(config: &ScalingConfig, folder: &Path, size: &SizeConfig) -> Result<TrainedMember> {
    let run = folder.join(&size.name);
    let theirs = own(&run, &["data={}".to_owned(), "tokenizer={}".to_owned()])?;
    let records = records(&run)?;
    ensure!(
        records.last().is_some_and(|record| record.val_loss.is_some()),
        "{} ended without a validation loss; check that the text has a validation part (data.val_fraction = {})",
        run.display(),
        config.data.val_fraction
    );
    let elapsed_s = last_state(&run).map_or(0.0, |state| state.elapsed_s);
    Ok(TrainedMember { size: size.clone(), config: theirs, records, elapsed_s })
}

/// Progress of one member; suppresses the notes that every member would repeat.
struct MemberMessages<'a> {
    name: &'a str,
    all: &'a dyn Progress,
}

impl Progress for MemberMessages<'_> {
    fn note(&self, _: &str) {}

    fn warn(&self, line: &str) {
        self.all.warn(&format!("{}: {line}", self.name));
    }

    fn task(&self, label: &str, total: Option<u64>, unit: Unit) -> Box<dyn ProgressTask> {
        self.all.task(&format!("{} {label}", self.name), total, unit)
    }
}
