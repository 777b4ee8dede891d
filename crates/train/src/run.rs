//! The folder of a run.
//!
//! ```text
//! runs/small-1/
//!   run.json           what the run was started with, see [`crate::request`]
//!   config.toml        every setting, as it was obeyed
//!   metrics.jsonl      one object a step
//!   samples.jsonl      what a language model wrote at each validation, see [`crate::samples`]
//!   events.out.…       the same for TensorBoard and the settings, a file for each process
//!   curves.svg         loss and learning rate over tokens, drawn when a process ends
//!   config.json …      the outcome, a Hugging Face folder: the weights with the best validation loss
//!   checksums.json     checksums of the outcome
//!   checkpoints/       the newest states of the run, Hugging Face folders too
//! ```

use crate::events::Events;
use crate::metrics::{METRICS, Record, lines, records};
use crate::request::{REQUEST, RunRequest};
use crate::samples::{SAMPLES, TextSample};
use anyhow::{Context, Result};
use gptkit_data::disk::{self, Claim};
use gptkit_data::progress::{Progress, Silent};
use gptkit_data::tokenizer::Tokenizer;
use gptkit_model::folder::{is_of_model, save_description};
use gptkit_model::{ModelConfig, Weights};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The settings of a run, in its folder and in each checkpoint.
pub(crate) const CONFIG: &str = "config.toml";

/// A run that is being written.
#[derive(Debug)]
pub struct Run {
    folder: PathBuf,
    metrics: File,
    events: Events,
    /// Contents of the files that every checkpoint copies, by name. They are read once, so that a file that is damaged later
    /// never gets into a checkpoint.
    description: BTreeMap<String, Vec<u8>>,
    held: Held,
}

/// How this process keeps others from writing the run.
#[derive(Debug)]
enum Held {
    /// The run has no checkpoint yet; its folder is removed if it fails.
    Claimed(Claim),
    /// The run has a checkpoint.
    Locked { _lock: File },
    /// Only while one of the others takes the place of the other.
    Released,
}

/// Files of a run that describe its model, its settings and where it comes from.
pub(crate) fn is_description(name: &str) -> bool {
    let more = [CONFIG, REQUEST, ANSWERS, "provenance.json", "reference.json"];
    // Adapters bring their own with their weights.
    name.ends_with(".json") && is_of_model(name) && name != "adapter_config.json" || more.contains(&name)
}

/// A file that a run completes when it ends.
const ANSWERS: &str = "answers.json";

/// Claims `runs/NAME-1`, or the first number that is free.
///
/// # Errors
/// When no folder can be made.
pub fn claim_numbered(runs: &Path, name: &str) -> Result<Claim> {
    for n in 1..u32::MAX {
        if let Some(claim) = Claim::new(&runs.join(format!("{name}-{n}")), &|_| false)? {
            return Ok(claim);
        }
    }
    anyhow::bail!("cannot find an unused name for {}", runs.join(name).display())
}

/// Says that this process writes the run in `folder`, until the result is dropped.
///
/// # Errors
/// When another process does.
pub fn locked(folder: &Path) -> Result<File> {
    let lock = disk::lock(folder)?;
    lock.with_context(|| format!("another process is writing the run in {}", folder.display()))
}

impl Run {
    /// Begins a run in the folder of `claim` and writes the resolved configuration and the model's description there. The
    /// folder is removed if this is dropped before the first checkpoint.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(claim: Claim, resolved: &str, config: &ModelConfig, tokenizer: &Tokenizer) -> Result<Self> {
        let folder = claim.folder().to_owned();
        disk::write(&folder.join(CONFIG), resolved.as_bytes())?;
        save_description(&folder, config, tokenizer)?;
        Self::open(&folder, Held::Claimed(claim), 0, BTreeMap::new())
    }

    /// Resumes the run in `folder`, which is `lock`ed, from its `checkpoint` after `step`: records of later steps, which will be
    /// made again, are dropped, and what has been lost or damaged since is written again.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn resume(folder: &Path, lock: File, checkpoint: &Path, step: u64, progress: &dyn Progress) -> Result<Self> {
        RunRequest::begun(folder)?; // a process that is killed right after the first checkpoint does not come to it
        restore_metrics(folder, checkpoint, step, progress)?;
        restore_samples(folder, checkpoint)?;
        let mut description = read_description(checkpoint)?;
        let path = folder.join(CONFIG); // it may have been edited, see [`crate::resume`]
        let config = disk::read(&path)?;
        description.insert(CONFIG.to_owned(), config);
        Self::open(folder, Held::Locked { _lock: lock }, step, description)
    }

    /// The run of another rank than the first, which resumes from `checkpoint` after `step`, in a folder of its own that
    /// nobody else reads.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub(crate) fn follow(folder: &Path, checkpoint: &Path, step: u64) -> Result<Self> {
        disk::write(&folder.join(CONFIG), &disk::read(&checkpoint.join(CONFIG))?)?;
        Self::resume(folder, locked(folder)?, checkpoint, step, &Silent)
    }

    fn open(folder: &Path, held: Held, step: u64, description: BTreeMap<String, Vec<u8>>) -> Result<Self> {
        let path = folder.join(METRICS);
        let metrics = disk::append(&path)?;
        let mut events = Events::create(folder, step)?;
        events.settings(step, &disk::read_description(&folder.join(CONFIG))?)?;
        Ok(Self { folder: folder.to_owned(), metrics, events, description, held })
    }

    /// The files that each checkpoint repeats.
    pub(crate) fn description(&mut self) -> Result<&BTreeMap<String, Vec<u8>>> {
        if self.description.is_empty() {
            self.description = read_description(&self.folder)?;
        }
        Ok(&self.description)
    }

    /// Whether it has no checkpoint yet.
    pub fn is_new(&self) -> bool {
        matches!(self.held, Held::Claimed(_))
    }

    /// Records that the run has a checkpoint; its folder is kept from now on.
    pub(crate) fn begun(&mut self) -> Result<()> {
        self.held = match std::mem::replace(&mut self.held, Held::Released) {
            Held::Claimed(claim) => {
                RunRequest::begun(&self.folder)?;
                Held::Locked { _lock: claim.keep()? }
            }
            held => held,
        };
        Ok(())
    }

    /// Tokens that the records so far count.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn tokens(&self) -> Result<u64> {
        Ok(records(&self.folder)?.last().map_or(0, |record| record.tokens))
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Moves the files `names` here from the folder `from`.
    ///
    /// # Errors
    /// When one cannot be moved.
    pub fn take_in(&self, from: &Path, names: &[&str]) -> Result<()> {
        names.iter().try_for_each(|name| {
            let to = self.folder.join(name);
            std::fs::rename(from.join(name), &to).with_context(|| format!("{} cannot be written", to.display()))
        })
    }

    /// Adds a line to `metrics.jsonl`, and the same to TensorBoard's events.
    ///
    /// # Errors
    /// When one of them cannot be written.
    pub fn record(&mut self, record: &Record) -> Result<()> {
        let line = serde_json::to_string(record)? + "\n";
        self.metrics
            .write_all(line.as_bytes())
            .with_context(|| format!("{} cannot be written", self.folder.join(METRICS).display()))?;
        let mut scalars = vec![
            ("loss/train", record.train_loss),
            ("learning_rate", record.learning_rate),
            ("grad_norm", record.grad_norm),
            ("tokens_per_s", record.tokens_per_s),
        ];
        scalars.extend(record.val_loss.map(|loss| ("loss/val", loss)));
        let scores: Vec<(String, f64)> = record.scores.iter().map(|(name, &x)| (format!("val/{name}"), x)).collect();
        scalars.extend(scores.iter().map(|(name, x)| (name.as_str(), *x)));
        scalars.extend(record.figures.iter().map(|(name, x)| (name.as_str(), *x)));
        self.events.scalars(record.step, &scalars)
    }

    /// Adds `samples` to `samples.jsonl`, and to TensorBoard's events.
    ///
    /// # Errors
    /// When one of them cannot be written.
    pub fn record_samples(&mut self, samples: &[TextSample]) -> Result<()> {
        if samples.is_empty() {
            return Ok(());
        }
        let path = self.folder.join(SAMPLES);
        let mut lines = String::new();
        for (n, sample) in samples.iter().enumerate() {
            lines += &(serde_json::to_string(sample)? + "\n");
            self.events.text(
                sample.step,
                &format!("samples/{}", n + 1),
                &format!("{}\n→ {}", sample.prompt, sample.text),
            )?;
        }
        disk::append(&path)?
            .write_all(lines.as_bytes())
            .with_context(|| format!("{} cannot be written", path.display()))
    }

    /// Records that nothing is left to do.
    ///
    /// # Errors
    /// When the events cannot be written.
    pub(crate) fn finished(&mut self) -> Result<()> {
        self.events.finished()
    }

    /// Saves `weights` as the outcome of the run so far.
    ///
    /// # Errors
    /// When the file cannot be written; the older one is then whole.
    pub fn save_outcome(&self, weights: &Weights) -> Result<()> {
        weights.save(&self.folder)
    }
}

/// The description that lies in the run or checkpoint `folder`.
fn read_description(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let read = || -> Result<BTreeMap<String, Vec<u8>>> {
        let mut files = BTreeMap::new();
        for entry in folder.read_dir()? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if is_description(&name) {
                files.insert(name, disk::read(&path)?);
            }
        }
        Ok(files)
    };
    read().with_context(|| format!("{} cannot be read", folder.display()))
}

/// Writes those files of the run in `folder` again that describe it and are not as they are in its `checkpoint`, but for
/// its settings.
///
/// # Errors
/// When one cannot be read or written.
pub(crate) fn restore_description(folder: &Path, checkpoint: &Path, progress: &dyn Progress) -> Result<()> {
    for (name, sealed) in read_description(checkpoint)? {
        let path = folder.join(&name);
        let is_same = match name.as_str() {
            CONFIG => true,
            REQUEST => RunRequest::is_as(&sealed, folder),
            _ => disk::read(&path).is_ok_and(|bytes| bytes == sealed),
        };
        if is_same {
            continue;
        }
        disk::write(&path, &sealed)?;
        if name != ANSWERS {
            progress.warn(&format!(
                "{} was missing, damaged or edited; restored it from {}",
                path.display(),
                checkpoint.display()
            ));
        }
    }
    Ok(())
}

/// Leaves in the run in `folder` the records up to `step`, as its `checkpoint` has them.
fn restore_metrics(folder: &Path, checkpoint: &Path, step: u64, progress: &dyn Progress) -> Result<()> {
    let path = folder.join(METRICS);
    let here = disk::read(&path).unwrap_or_default();
    let here: Vec<&[u8]> = lines(&here).filter(|(record, _)| record.step <= step).map(|(_, line)| line).collect();
    let sealed = checkpoint.join(METRICS);
    let sealed = disk::read(&sealed)?;
    if lines(&sealed).map(|(_, line)| line).ne(here.iter().copied()) {
        progress.warn(&format!(
            "{} was missing or damaged; restored its records up to step {step} from {}",
            path.display(),
            checkpoint.display()
        ));
    }
    disk::write(&path, &sealed)
}

/// Leaves the samples in `folder` that its `checkpoint` has: the later ones are written again.
fn restore_samples(folder: &Path, checkpoint: &Path) -> Result<()> {
    let (path, sealed) = (folder.join(SAMPLES), checkpoint.join(SAMPLES));
    if sealed.exists() {
        return disk::write(&path, &disk::read(&sealed)?);
    }
    match path.exists() {
        true => std::fs::remove_file(&path).with_context(|| format!("{} cannot be removed", path.display())),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_numbered_from_the_first_that_is_free() {
        let runs = tempfile::tempdir().unwrap();
        let claim = || claim_numbered(runs.path(), "small").unwrap();
        let (first, second) = (claim(), claim());
        assert_eq!([first.folder(), second.folder()], [runs.path().join("small-1"), runs.path().join("small-2")]);
        drop(first);
        assert_eq!(claim().folder(), runs.path().join("small-1"), "it was given up");
    }

    fn line(step: u64) -> String {
        let record = Record {
            step,
            tokens: 0,
            train_loss: if step == 2 { f64::NAN } else { 1.0 },
            learning_rate: 0.1,
            grad_norm: 1.0,
            tokens_per_s: 1.0,
            val_loss: None,
            scores: BTreeMap::new(),
            figures: BTreeMap::new(),
            skipped: false,
        };
        serde_json::to_string(&record).unwrap() + "\n"
    }

    /// What is warned of.
    #[derive(Default)]
    struct Warnings(std::sync::Mutex<Vec<String>>);

    impl Progress for Warnings {
        fn note(&self, _: &str) {}
        fn warn(&self, line: &str) {
            self.0.lock().unwrap().push(line.to_owned());
        }
        fn task(
            &self,
            _: &str,
            _: Option<u64>,
            _: gptkit_data::progress::Unit,
        ) -> Box<dyn gptkit_data::progress::ProgressTask> {
            Box::new(gptkit_data::progress::Silent)
        }
    }

    #[test]
    fn a_resumed_run_has_the_records_up_to_its_step() {
        let sealed = line(1) + &line(2);
        let torn = |n: usize| Some(sealed.as_bytes()[..n].to_vec());
        let more = Some([&sealed, &line(3), "{\"st"].concat().into_bytes());
        let not_text = Some([sealed.as_bytes(), &[0xff, 0xfe, b'\n']].concat());
        for (now, warned) in [(more, 0), (not_text, 0), (torn(30), 1), (torn(0), 1), (None, 1)] {
            let folder = tempfile::tempdir().unwrap();
            let (run, checkpoint) = (folder.path().join("run"), folder.path().join("checkpoint"));
            for folder in [&run, &checkpoint] {
                disk::create_dir(folder).unwrap();
                disk::write(&folder.join(CONFIG), b"").unwrap();
            }
            disk::write(&checkpoint.join(METRICS), sealed.as_bytes()).unwrap();
            now.iter().for_each(|now| disk::write(&run.join(METRICS), now).unwrap());
            let warnings = Warnings::default();
            Run::resume(&run, locked(&run).unwrap(), &checkpoint, 2, &warnings).unwrap();
            assert_eq!(std::fs::read_to_string(run.join(METRICS)).unwrap(), sealed);
            assert_eq!(warnings.0.lock().unwrap().len(), warned, "{now:?}");
        }
    }

    #[test]
    fn a_resumed_run_has_the_samples_of_its_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let (run, checkpoint) = (folder.path().join("run"), folder.path().join("checkpoint"));
        [&run, &checkpoint].iter().for_each(|folder| disk::create_dir(folder).unwrap());
        disk::write(&run.join(SAMPLES), b"{\"step\":1}\n{\"step\":2}\n{\"st").unwrap();
        disk::write(&checkpoint.join(SAMPLES), b"{\"step\":1}\n").unwrap();
        restore_samples(&run, &checkpoint).unwrap();
        assert_eq!(std::fs::read_to_string(run.join(SAMPLES)).unwrap(), "{\"step\":1}\n");
        std::fs::remove_file(checkpoint.join(SAMPLES)).unwrap();
        restore_samples(&run, &checkpoint).unwrap();
        assert!(!run.join(SAMPLES).exists(), "the checkpoint was made before the first sample");
        restore_samples(&run, &checkpoint).unwrap();
    }

    #[test]
    fn a_description_comes_back_from_the_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let (run, checkpoint) = (folder.path().join("run"), folder.path().join("checkpoint"));
        for folder in [&run, &checkpoint] {
            disk::create_dir(folder).unwrap();
            disk::write(&folder.join("tokenizer.json"), b"{}").unwrap();
            disk::write(&folder.join("config.json"), b"{}").unwrap();
        }
        disk::write(&run.join("tokenizer.json"), b"{").unwrap();
        disk::write(&run.join("notes.json"), b"mine").unwrap();
        std::fs::remove_file(run.join("config.json")).unwrap();
        let warnings = Warnings::default();
        restore_description(&run, &checkpoint, &warnings).unwrap();
        assert_eq!(warnings.0.lock().unwrap().len(), 2);
        for (name, text) in [("tokenizer.json", "{}"), ("config.json", "{}"), ("notes.json", "mine")] {
            assert_eq!(std::fs::read_to_string(run.join(name)).unwrap(), text);
        }
    }
}
