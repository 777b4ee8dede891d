//! Runs stages: what is done is left alone, what was interrupted is resumed.
//!
//! ```text
//! runs/lineage/seed-1/
//!   gpt1/ …            what each stage leaves: an ordinary run folder, or a file
//!   stages/gpt1.json   that it ended, and what it took
//!   stages/gpt1.log    all that it printed, after the command of each run
//!   replaced/          what was there before `--from` did it anew
//! ```

use crate::child::{ProcessEnd, StageProcess};
use crate::config::Chapter;
use crate::plan::LineageStep;
use anyhow::{Context, Result, bail, ensure};
use gptkit_data::disk;
use gptkit_data::progress::Progress;
use gptkit_train::interrupt::{Interrupt, Stop};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Commands whose outcome is the folder of a training run.
pub(crate) const TRAINING_COMMANDS: [&str; 6] = ["pretrain", "finetune", "sft", "train-rm", "dpo", "ppo"];

/// That a stage ended, and what it took: `stages/NAME.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageRecord {
    /// The stage.
    pub name: String,
    /// Where the report tells of it.
    pub chapter: Chapter,
    /// Its command, as a shell would take it.
    pub command: String,
    /// The stages whose results it read.
    pub reads: Vec<String>,
    /// What it left.
    pub leaves: PathBuf,
    /// Wall-clock time of its runs, without those that were killed.
    pub elapsed_s: f64,
    /// When it ended, in seconds since 1970; 0 in the records of older versions.
    #[serde(default)]
    pub ended_at: f64,
    /// The most memory that it had, where the system says it.
    pub peak_bytes: Option<u64>,
    /// As [`LineageStep::fingerprint`].
    pub fingerprint: String,
}

/// That a stage began: `stages/NAME.begun.json`.
#[derive(Debug, Serialize, Deserialize)]
struct StageStart {
    fingerprint: String,
    /// Of runs that were stopped.
    elapsed_s: f64,
}

/// How a stage stands.
#[derive(Debug, Clone, PartialEq)]
pub enum StageState {
    /// It ended.
    Done(StageRecord),
    /// It began, and was interrupted.
    Begun,
    /// It has not begun.
    New,
}

/// How a run of a stage ended.
#[derive(Debug, Clone, PartialEq)]
pub enum StageEnd {
    /// The stage is done.
    Done(StageRecord),
    /// It was stopped, and goes on where it was.
    Stopped(Stop),
}

/// What stages run with.
pub struct StageContext<'a> {
    /// This program.
    pub program: &'a Path,
    /// Whether to stop.
    pub interrupt: &'a Interrupt,
    /// Where work is shown.
    pub progress: &'a dyn Progress,
    /// Threads that the stage computes with; `None` leaves that to the environment.
    pub threads: Option<usize>,
}

impl LineageStep {
    fn file(&self, ending: &str) -> PathBuf {
        let folder = self.leaves.parent().unwrap_or(Path::new("."));
        folder.join("stages").join(format!("{}.{ending}", self.stage.name))
    }

    /// How it stands.
    ///
    /// # Errors
    /// When what is there is of another command, or cannot be read.
    pub fn state(&self) -> Result<StageState> {
        let (record, begun) = (read::<StageRecord>(&self.file("json"))?, read::<StageStart>(&self.file("begun.json"))?);
        let known =
            record.as_ref().map(|record| &record.fingerprint).or(begun.as_ref().map(|begun| &begun.fingerprint));
        ensure!(
            known.is_none_or(|known| *known == self.fingerprint),
            "stage {} was run with a different command or different data:\n  now: {}{}\nuse --from {} to run it and \
             the stages that depend on it again, or --out for another folder",
            self.stage.name,
            self.command(),
            record.as_ref().map(|record| format!("\n  then: {}", record.command)).unwrap_or_default(),
            self.stage.name
        );
        Ok(match (record, begun) {
            (Some(record), _) if self.leaves.exists() => StageState::Done(record),
            (_, Some(_)) => StageState::Begun,
            _ => StageState::New,
        })
    }

    /// Whether those of `steps` are done whose results it reads.
    ///
    /// # Errors
    /// When one is not.
    pub fn can_run(&self, steps: &[Self]) -> Result<()> {
        for before in steps.iter().filter(|before| self.reads.contains(&before.stage.name)) {
            let (name, reads) = (&self.stage.name, &before.stage.name);
            ensure!(
                matches!(before.state()?, StageState::Done(_)),
                "stage {name} needs the output of stage {reads}, which is not finished\n  hint: remove --only, or add \
                 {reads} to it"
            );
        }
        Ok(())
    }

    /// Runs the stage to its end, or resumes it. `state` is how it stands.
    ///
    /// # Errors
    /// When the command fails; what it wrote stays.
    pub fn run(&self, state: &StageState, context: &StageContext) -> Result<StageEnd> {
        let resumed = match state {
            StageState::Done(record) => return Ok(StageEnd::Done(record.clone())),
            StageState::Begun => self.words_to_go_on(context.progress)?,
            StageState::New => None,
        };
        let words = match resumed {
            Some(words) => words,
            None => {
                remove(&self.leaves)?; // a killed command's half result was promised to nobody
                self.words.clone()
            }
        };
        disk::create_dir(self.file("json").parent().unwrap_or(Path::new(".")))?;
        let before = read::<StageStart>(&self.file("begun.json"))?.map_or(0.0, |begun| begun.elapsed_s);
        self.begin(before)?;
        let process = StageProcess {
            program: context.program,
            words: &words,
            stdin: self.stdin.as_deref(),
            stdout: &self.file("out"),
            log: &self.file("log"),
            threads: context.threads,
        };
        let begun = Instant::now();
        let ended =
            process.run(context.interrupt, context.progress).with_context(|| format!("stage {}", self.stage.name))?;
        let elapsed_s = before + begun.elapsed().as_secs_f64();
        match ended {
            ProcessEnd::Well(peak_bytes) => self.finish(elapsed_s, peak_bytes).map(StageEnd::Done),
            ProcessEnd::Stopped(stop) => {
                self.begin(elapsed_s)?;
                Ok(StageEnd::Stopped(stop))
            }
        }
    }

    /// Checks what the process has left, and records that the stage ended.
    fn finish(&self, elapsed_s: f64, peak_bytes: Option<u64>) -> Result<StageRecord> {
        let printed = self.file("out");
        if self.stage.stdout.is_some() {
            let text = fs::read(&printed).with_context(|| format!("{} cannot be read", printed.display()))?;
            disk::write(&self.leaves, &text)?;
        }
        ensure!(
            self.leaves.exists(),
            "stage {} ended without writing {}; its command must contain {{out}}",
            self.stage.name,
            self.leaves.display()
        );
        remove(&printed)?;
        let record = StageRecord {
            name: self.stage.name.clone(),
            chapter: self.stage.chapter,
            command: self.command(),
            reads: self.reads.clone(),
            leaves: self.leaves.clone(),
            elapsed_s,
            ended_at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()),
            peak_bytes,
            fingerprint: self.fingerprint.clone(),
        };
        disk::write_json(&self.file("json"), &record)?;
        remove(&self.file("begun.json"))?;
        Ok(record)
    }

    fn begin(&self, elapsed_s: f64) -> Result<()> {
        let begun = StageStart { fingerprint: self.fingerprint.clone(), elapsed_s };
        disk::write(&self.file("begun.json"), serde_json::to_string(&begun)?.as_bytes())
    }

    /// The command that resumes the stage, if it can be resumed.
    fn words_to_go_on(&self, progress: &dyn Progress) -> Result<Option<Vec<String>>> {
        if !self.leaves.exists() {
            return Ok(None);
        }
        // A process whose parent was killed ends with the next thing that it says.
        let begun = Instant::now();
        while disk::is_locked(&self.leaves) {
            if begun.elapsed() > PATIENCE {
                bail!("another process is writing {}", self.leaves.display());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        let has = |name: &str| self.leaves.join(name).exists();
        let some = |name: &str| self.leaves.join(name).read_dir().is_ok_and(|mut entries| entries.next().is_some());
        let command = self.words.first().map(String::as_str).unwrap_or_default();
        let words = match command {
            _ if TRAINING_COMMANDS.contains(&command) && some("checkpoints") => self.resumed(command),
            "eval" if has("request.json") => self.resumed(command),
            "compare" => self.words.clone(),
            _ => return Ok(None),
        };
        progress.note(&format!("resuming {}", self.leaves.display()));
        Ok(Some(words))
    }

    fn resumed(&self, command: &str) -> Vec<String> {
        vec![command.to_owned(), "--resume".to_owned(), self.leaves.display().to_string()]
    }

    /// Puts what it left aside, so that it is done anew.
    ///
    /// # Errors
    /// When it cannot be moved.
    pub fn set_aside(&self) -> Result<()> {
        if self.leaves.exists() {
            let aside = self.leaves.parent().unwrap_or(Path::new(".")).join("replaced");
            disk::create_dir(&aside)?;
            let numbered = |n: u32| aside.join(format!("{}-{n}", self.stage.leaves()));
            let free = (1..u32::MAX).map(numbered).find(|folder| !folder.exists());
            let to = free.with_context(|| format!("every number in {} is already used", aside.display()))?;
            fs::rename(&self.leaves, &to).with_context(|| format!("{} cannot be moved", self.leaves.display()))?;
        }
        remove(&self.file("json"))?;
        remove(&self.file("begun.json"))
    }
}

/// How long a process whose parent was killed may take to notice.
const PATIENCE: Duration = Duration::from_secs(60);

/// The stages of `steps` that begin with `first`: it, and all that follow from what it leaves.
///
/// # Errors
/// When there is no such stage.
pub fn from(steps: &[LineageStep], first: &str) -> Result<Vec<String>> {
    known(steps, first)?;
    let mut chosen = vec![first.to_owned()];
    for step in steps {
        if step.reads.iter().any(|read| chosen.contains(read)) {
            chosen.push(step.stage.name.clone());
        }
    }
    Ok(chosen)
}

/// Whether `name` is a stage.
///
/// # Errors
/// When it is not.
pub fn known(steps: &[LineageStep], name: &str) -> Result<()> {
    if steps.iter().any(|step| step.stage.name == name) {
        return Ok(());
    }
    let names: Vec<&str> = steps.iter().map(|step| step.stage.name.as_str()).collect();
    bail!("there is no stage {name}\n  hint: the stages are {}", names.join(", "))
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    if !path.exists() {
        return Ok(None);
    }
    let text = disk::read_description(path)?;
    let parsed = serde_json::from_str(&text);
    Ok(Some(parsed.with_context(|| format!("{} is damaged; remove it to run its stage again", path.display()))?))
}

fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() {
        fs::remove_dir_all(path)
    } else if path.exists() {
        fs::remove_file(path)
    } else {
        return Ok(());
    };
    removed.with_context(|| format!("{} cannot be removed", path.display()))
}
