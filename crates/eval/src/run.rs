//! Models × tasks × numbers of demonstrations → lines of instances, chunk by chunk, from wherever an earlier sitting ended.

use crate::figures::{Measurement, measure};
use crate::instance::{EvalTask, Instance};
use crate::overlap::{OverlapIndex, SHORTEST};
use crate::perplexity::{self, WindowOptions};
use crate::records::{Enough, RecordSource};
use crate::score::{self, EvalModel, PromptedInstance, TokenCounts};
use crate::shots::{DemonstrationPool, DemonstrationSource, Prompter, is_set_aside};
use crate::task::{Scoring, TaskConfig};
use anyhow::{Context, Result, bail, ensure};
use gptkit_data::disk::{self, Claim};
use gptkit_data::progress::{Progress, Unit, grouped};
use gptkit_data::record::Row;
use gptkit_data::source::OnBadRecord;
use gptkit_data::split::Split;
use gptkit_data::tokenizer::Tokenizer;
use gptkit_model::Gpt;
use gptkit_model::load::{ModelFolder, load_config};
use gptkit_train::interrupt::{Interrupt, Stop};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Instances, or bytes of them with their demonstrations, that are asked between two looks at the clock.
const CHUNK: usize = 256;
const CHUNK_BYTES: usize = 1 << 16;
/// Instances in which one demonstration at least must fit.
const TRIED: usize = 32;
/// What an evaluation was asked, in its folder.
const REQUEST: &str = "request.json";

/// All that an evaluation is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvalRequest {
    /// Folders of language models.
    pub models: Vec<PathBuf>,
    /// Tasks, each variant by itself.
    pub tasks: Vec<TaskRequest>,
    /// Numbers of demonstrations.
    pub shots: Vec<usize>,
    /// Most instances of a task; windows of a text.
    pub limit: Option<u64>,
    /// Seed of demonstrations, of what is drawn in writing, and of the bootstrap.
    pub seed: u64,
    /// Tokens of a text that a window predicts; half the context where it is not said.
    pub stride: Option<usize>,
    /// What becomes of bad records.
    pub on_bad_record: OnBadRecord,
    /// Prepared text that the models were trained on, in which instances are looked for.
    pub contamination: Option<PathBuf>,
    /// Fine-tuned models to measure beside the others.
    pub finetuned: Vec<FinetunedRequest>,
}

/// A fine-tuned model, and the task that it was made for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FinetunedRequest {
    /// The task, with its variant.
    pub task: String,
    /// The model's folder.
    pub folder: PathBuf,
}

/// A task, and where its records are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskRequest {
    /// What its file is called.
    pub name: String,
    /// Which of its variants; may be empty.
    pub variant: String,
    /// The file.
    pub config: TaskConfig,
    /// Records to measure with.
    pub test: String,
    /// Records for demonstrations; where there is none, what is made makes them, and of a file every tenth record is one.
    pub train: String,
}

/// How an evaluation runs.
pub struct EvalContext<'a> {
    /// Loads a model to compute with.
    pub load: &'a dyn Fn(&Path) -> Result<(ModelFolder, Gpt)>,
    /// Whether somebody asked to stop.
    pub interrupt: &'a Interrupt,
    /// Where it says what it does.
    pub progress: &'a dyn Progress,
}

impl std::fmt::Debug for EvalContext<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sitting")
    }
}

/// One model on one task with so many demonstrations.
#[derive(Debug, Clone, PartialEq)]
pub struct EvalCell {
    /// The task, with its variant.
    pub task: String,
    /// Place of the model among those of the request.
    pub model: usize,
    /// Demonstrations that were asked for.
    pub shots: usize,
    /// What was measured.
    pub measured: Measurement,
    /// The same without the instances that the training text holds.
    pub clean: Option<Measurement>,
    /// What it took.
    pub cost: Cost,
    /// The lines of its instances.
    pub path: PathBuf,
}

/// What a cell took, kept beside its lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Whether all was asked.
    pub done: bool,
    /// Records that were left out as bad.
    pub skipped: u64,
    /// Words of a text.
    pub words: Option<u64>,
    /// Tokens that were read.
    pub tokens_read: u64,
    /// Tokens that would have been read with every answer by itself.
    pub tokens_alone: u64,
    /// Seconds.
    pub elapsed_s: f64,
}

/// How an evaluation ended.
#[derive(Debug)]
pub enum EvalEnd {
    /// With all that was asked.
    Done(Vec<EvalCell>),
    /// Before; what is there is kept.
    Stopped(Stop),
}

impl TaskRequest {
    /// What it is called, with its variant.
    pub fn full_name(&self) -> String {
        if self.variant.is_empty() { self.name.clone() } else { format!("{}:{}", self.name, self.variant) }
    }
}

impl EvalRequest {
    /// Keeps what is asked in the folder of `claim`, whose path it returns.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, claim: Claim) -> Result<PathBuf> {
        let out = claim.folder().to_owned();
        disk::write(&out.join(REQUEST), (serde_json::to_string_pretty(self)? + "\n").as_bytes())?;
        claim.keep()?;
        Ok(out)
    }

    /// Whether `out` holds the evaluation that this asks for, or claims it for that.
    ///
    /// # Errors
    /// When it holds something else.
    pub fn claim(&self, out: &Path) -> Result<Option<Claim>> {
        if Self::load(out).is_ok_and(|before| before == *self) {
            return Ok(None);
        }
        let other = || format!("{0} is not empty; name another folder, or go on with --resume {0}", out.display());
        Claim::new(out, &|_| false)?.with_context(other).map(Some)
    }

    /// Takes back what [`EvalRequest::save`] wrote, when nothing was asked yet: a refused command leaves nothing behind.
    pub fn discard(&self, out: &Path) {
        if !out.join("instances").exists() {
            for file in [REQUEST, "lock"] {
                let _ = std::fs::remove_file(out.join(file)); // the error that matters is the first
            }
            let _ = std::fs::remove_dir(out);
        }
    }

    /// What the evaluation in `out` was asked.
    ///
    /// # Errors
    /// When it is none.
    pub fn load(out: &Path) -> Result<Self> {
        let path = out.join(REQUEST);
        ensure!(path.exists(), "{} does not exist: {} is no evaluation", path.display(), out.display());
        serde_json::from_str(&disk::read_description(&path)?).with_context(|| format!("{} is damaged", path.display()))
    }

    /// What model number `n` is called: its folder's name, or its path where that is another's too.
    pub fn model_name(&self, n: usize) -> String {
        let last = |path: &Path| {
            path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned())
        };
        let name = last(&self.models[n]);
        let alone = self.models.iter().filter(|other| last(other) == name).count() == 1;
        if alone { name } else { self.models[n].display().to_string() }
    }
}

/// A task that is ready.
struct OpenTask {
    task: EvalTask,
    test: RecordSource,
    demonstrations: Option<DemonstrationSource>,
    pool: DemonstrationPool,
    /// Instances.
    n: u64,
    skipped: u64,
}

/// Does what `request` asks, in the folder `out` that it was saved in. Every record is read before the first is asked, so
/// that a bad one is found at once.
///
/// # Errors
/// When a task, its records or a model cannot be used, no demonstration fits, or the folder cannot be written.
pub fn evaluate(request: &EvalRequest, out: &Path, sitting: &EvalContext) -> Result<EvalEnd> {
    let Some(_lock) = disk::lock(out)? else { bail!("another process writes {}", out.display()) };
    let tasks: Vec<OpenTask> = request.tasks.iter().map(|task| request.open(task)).collect::<Result<_>>()?;
    for (n, folder) in request.models.iter().enumerate() {
        let (tokenizer, shape) = (Tokenizer::load(folder)?, load_config(folder)?);
        shape.must_write().with_context(|| format!("model {}", request.model_name(n)))?;
        let context = shape.context;
        let start = score::start_of(&tokenizer);
        if let Some(stride) = request.stride.filter(|&stride| stride > context) {
            bail!("--stride {stride} is over the context of {context} tokens of model {}", request.model_name(n));
        }
        for opened in &tasks {
            let prompter = opened.prompter(&tokenizer, start, context);
            let (room, name) = (prompter.room, request.model_name(n));
            ensure!(
                room < context,
                "task {}: answers of up to {room} tokens do not fit the window of {context} of model {name}; lower \
                 max_new_tokens in a task file of your own",
                opened.task.name
            );
            if opened.demonstrations.is_none() {
                continue;
            }
            opened.fits(&prompter, request).with_context(|| format!("model {name}"))?;
        }
    }
    let seen = match &request.contamination {
        Some(folder) => Some(seen(&tasks, request, folder, sitting.progress)?),
        None => None,
    };
    let mut cells = Vec::new();
    for n in 0..request.models.len() {
        let mut loaded = None;
        for (t, opened) in tasks.iter().enumerate() {
            let shots = if opened.task.config.scoring == Scoring::Perplexity { &[0] } else { request.shots.as_slice() };
            for &shots in shots {
                let path = request.lines_of(out, t, n, shots);
                let mut cost = Cost::read(&path)?;
                if !cost.done {
                    if loaded.is_none() {
                        loaded = Some((sitting.load)(&request.models[n])?);
                    }
                    let Some((files, gpt)) = &loaded else { bail!("no model") };
                    let model = EvalModel { gpt, tokenizer: &files.tokenizer, end_of_text: &files.end_of_text };
                    let label = format!("{} {shots}-shot {}", opened.task.name, request.model_name(n));
                    let asking = CellRun { request, opened, model, shots, label, path: &path, sitting };
                    if let Some(stop) = asking.ask(&mut cost)? {
                        return Ok(EvalEnd::Stopped(stop));
                    }
                }
                let config = &opened.task.config;
                let measured = |keep: &dyn Fn(u64) -> bool| measure(&path, config, cost.words, request.seed, keep);
                cells.push(EvalCell {
                    task: opened.task.name.clone(),
                    model: n,
                    shots,
                    measured: measured(&|_| true)?,
                    clean: seen
                        .as_ref()
                        .filter(|_| config.scoring != Scoring::Perplexity)
                        .map(|seen| measured(&|n| !seen.contains(&(t, n))))
                        .transpose()?,
                    cost,
                    path,
                });
            }
        }
    }
    Ok(EvalEnd::Done(cells))
}

impl EvalRequest {
    /// Hands the records that `task` is measured with to `sink`.
    ///
    /// # Errors
    /// When one cannot be used, or `sink` fails.
    pub fn records(&self, task: &TaskRequest, sink: &mut dyn FnMut(&Row) -> Result<()>) -> Result<()> {
        self.open(task)?.read(self, &mut |row, _| {
            sink(row)?;
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(())
    }

    fn open(&self, task: &TaskRequest) -> Result<OpenTask> {
        let TaskRequest { name, variant, config, test, train } = task;
        let task = EvalTask::new(name, config.clone(), variant)?;
        if config.scoring == Scoring::Perplexity {
            let test = RecordSource::File(PathBuf::from(test));
            return Ok(OpenTask {
                task,
                test,
                demonstrations: None,
                pool: DemonstrationPool::default(),
                n: 0,
                skipped: 0,
            });
        }
        let source = |text: &str| RecordSource::of(text).with_context(|| format!("task {}", task.name));
        let test = source(test)?;
        let demonstrations = if self.shots.iter().all(|&shots| shots == 0) {
            None
        } else if !train.is_empty() {
            Some(DemonstrationSource::Training(source(train)?))
        } else if matches!(test, RecordSource::Made { .. }) {
            Some(DemonstrationSource::Training(test.clone()))
        } else {
            Some(DemonstrationSource::SetAside)
        };
        let mut opened = OpenTask { task, test, demonstrations, pool: DemonstrationPool::default(), n: 0, skipped: 0 };
        let mut n = 0;
        let skipped = opened.read(self, &mut |_, _| {
            n += 1;
            Ok(ControlFlow::Continue(()))
        })?;
        ensure!(n > 0, "task {}: there is no record to measure with", opened.task.name);
        (opened.n, opened.skipped) = (n, skipped);
        if let Some(from) = &opened.demonstrations {
            opened.pool = DemonstrationPool::read(&opened.task, from, &opened.test, self.seed, self.on_bad_record)?;
        }
        Ok(opened)
    }

    fn lines_of(&self, out: &Path, task: usize, model: usize, shots: usize) -> PathBuf {
        let tasks = folder_names(self.tasks.iter().map(TaskRequest::full_name));
        let models = folder_names((0..self.models.len()).map(|n| self.model_name(n)));
        out.join("instances").join(&tasks[task]).join(&models[model]).join(format!("{shots}-shot.jsonl"))
    }
}

/// Names that folders beside each other can have, by which each can be told.
fn folder_names(names: impl Iterator<Item = String>) -> Vec<String> {
    let plain = |name: String| name.replace(['/', ':'], "-").trim_start_matches('.').to_owned();
    let names: Vec<String> = names.map(plain).collect();
    let alone = |name: &String| !name.is_empty() && names.iter().filter(|other| *other == name).count() == 1;
    names.iter().enumerate().map(|(n, name)| if alone(name) { name.clone() } else { format!("{n}-{name}") }).collect()
}

impl OpenTask {
    /// Hands the records that are measured with to `sink`, with what is asked of each. Returns how many were left out.
    fn read(&self, request: &EvalRequest, sink: &mut dyn FnMut(&Row, UnpromptedInstance) -> Result<()>) -> Result<u64> {
        let set_aside = self.demonstrations == Some(DemonstrationSource::SetAside);
        let (mut number, mut n) = (0, 0);
        self.test.read(Split::HeldOut, request.on_bad_record, &mut |row| {
            let shown = set_aside && is_set_aside(number);
            number += 1;
            if request.limit == Some(n) {
                return Ok(ControlFlow::Break(()));
            }
            if shown {
                return Ok(ControlFlow::Continue(()));
            }
            let (instance, instruction) = (self.task.instance(&row)?, self.task.instruction(&row)?);
            sink(&row, UnpromptedInstance { n, instruction, instance })?;
            n += 1;
            Ok(flow)
        })
    }

    fn prompter<'a>(&'a self, tokenizer: &'a Tokenizer, start: Option<u32>, context: usize) -> Prompter<'a> {
        let config = &self.task.config;
        let room = match config.scoring {
            Scoring::Generation => config.generation.as_ref().map_or(0, |generation| generation.max_new_tokens),
            Scoring::Word => score::WORD_TOKENS,
            Scoring::Choice | Scoring::Perplexity => 0,
        };
        Prompter { tokenizer, start, context, room, separator: &config.separator }
    }

    /// Refuses a window in which no demonstration fits.
    fn fits(&self, prompter: &Prompter, request: &EvalRequest) -> Result<()> {
        let (mut tried, mut fit) = (0, false);
        self.read(request, &mut |_, UnpromptedInstance { n, instruction, instance }| {
            if tried == TRIED || fit {
                return Ok(ControlFlow::Break(()));
            }
            tried += 1;
            fit = prompter.prompt(&instruction, &self.pool, 1, n, &instance)?.shots > 0;
            Ok(ControlFlow::Continue(()))
        })?;
        let (name, context) = (&self.task.name, prompter.context);
        ensure!(
            fit,
            "--shots: not one demonstration of {name} fits beside a record in the window of {context} tokens; \
             ask with --shots 0, or a model with a longer window"
        );
        Ok(())
    }
}

/// The instances, by task and number, that the training text in `folder` holds. The text is read once for all tasks; a text
/// that is measured has no instances.
fn seen(
    tasks: &[OpenTask],
    request: &EvalRequest,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<HashSet<(usize, u64)>> {
    let mut wanted = OverlapIndex::default();
    for (t, opened) in tasks.iter().enumerate().filter(|(_, opened)| opened.task.config.scoring != Scoring::Perplexity)
    {
        let before = wanted.too_short;
        opened.read(request, &mut |_, UnpromptedInstance { n, instance, .. }| {
            wanted.add((t, n), &instance.shown());
            Ok(ControlFlow::Continue(()))
        })?;
        if wanted.too_short > before {
            let (name, n) = (&opened.task.name, grouped(wanted.too_short - before));
            progress.warn(&format!(
                "{n} instances of {name} have under {SHORTEST} words: they are not looked for in the text"
            ));
        }
    }
    wanted.found_in(folder, progress)
}

/// An instance that waits for others.
struct UnpromptedInstance {
    n: u64,
    instruction: String,
    instance: Instance,
}

/// The asking of one cell.
struct CellRun<'a> {
    request: &'a EvalRequest,
    opened: &'a OpenTask,
    model: EvalModel<'a>,
    shots: usize,
    label: String,
    path: &'a Path,
    sitting: &'a EvalContext<'a>,
}

/// Ends the reading of records.
#[derive(Debug)]
struct StopEvaluation(Stop);

impl std::fmt::Display for StopEvaluation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl std::error::Error for StopEvaluation {}

impl CellRun<'_> {
    /// Asks what is not asked yet; says why it stopped, if it did before the end.
    fn ask(&self, cost: &mut Cost) -> Result<Option<Stop>> {
        disk::create_dir(self.path.parent().unwrap_or(Path::new(".")))?;
        let done = whole_lines(self.path)?;
        let file = disk::append(self.path)?;
        let stopped = if self.opened.task.config.scoring == Scoring::Perplexity {
            self.read_text(file, done, cost)?
        } else {
            self.ask_records(file, done, cost)?
        };
        match asked {
            Err(e) => e.downcast::<StopEvaluation>().map(|StopEvaluation(stop)| Some(stop)),
            Ok(()) => {
                self.model.tokenizer.warn_of_losses(&self.label, self.sitting.progress);
                cost.done = true;
                cost.write(self.path)?;
                Ok(None)
            }
        }
        Ok(stopped)
    }

    fn ask_records(&self, mut file: File, done: u64, cost: &mut Cost) -> Result<Option<Stop>> {
        let Self { opened, sitting, .. } = self;
        let bar = sitting.progress.task(&self.label, Some(opened.n), Unit::Items);
        bar.resume_at(done);
        cost.skipped = opened.skipped;
        let (mut waiting, mut bytes, mut last) = (Vec::<UnpromptedInstance>::new(), 0usize, Duration::ZERO);
        let mut chunk = |waiting: &mut Vec<UnpromptedInstance>| -> Result<()> {
            if let Some(stop) = sitting.interrupt.reason(last) {
                return Err(StopEvaluation(stop).into());
            }
            let at = Instant::now();
            let (lines, work) = self.lines(std::mem::take(waiting))?;
            let text: String =
                lines.iter().map(|line| serde_json::Value::Object(line.clone()).to_string() + "\n").collect();
            file.write_all(text.as_bytes()).with_context(|| format!("{} cannot be written", self.path.display()))?;
            bar.advance(lines.len() as u64);
            last = at.elapsed();
            cost.add(work, last, self.path)?;
            Ok(None)
        };
        let mut stopped = None;
        opened.read(self.request, &mut |row, one| {
            if one.n < done {
                return Ok(ControlFlow::Continue(()));
            }
            let length: usize = row.fields.values().map(|value| value.as_str().map_or(64, str::len)).sum();
            bytes = bytes.saturating_add(length.saturating_mul(1 + self.shots));
            waiting.push(one);
            if waiting.len() >= CHUNK || bytes >= CHUNK_BYTES {
                bytes = 0;
                stopped = chunk(&mut waiting)?;
            }
            Ok(if stopped.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        if stopped.is_some() || waiting.is_empty() { Ok(stopped) } else { chunk(&mut waiting) }
    }

    /// What the model makes of some records.
    fn lines(
        &self,
        records: Vec<UnpromptedInstance>,
    ) -> Result<(Vec<serde_json::Map<String, serde_json::Value>>, TokenCounts)> {
        let OpenTask { task, pool, .. } = self.opened;
        let context = self.model.gpt.config().context;
        let prompter = self.opened.prompter(self.model.tokenizer, self.model.start(), context);
        let shots = self.shots;
        let ready = |UnpromptedInstance { n, instruction, instance }: UnpromptedInstance| -> Result<PromptedInstance> {
            let prompted = prompter.prompt(&instruction, pool, shots, n, &instance)?;
            Ok(PromptedInstance { n, instance, prompted })
        };
        let ready: Vec<PromptedInstance> = records.into_par_iter().map(ready).collect::<Result<_>>()?;
        match (&task.config.choice, &task.config.generation) {
            (Some(choice), _) => score::choices(&self.model, &prompter, choice, &ready),
            (_, Some(generation)) => score::generations(&self.model, generation, self.request.seed, &ready),
            _ => score::words(&self.model, &ready),
        }
    }

    fn read_text(&self, mut file: File, done: u64, cost: &mut Cost) -> Result<Option<Stop>> {
        let text = self.opened.task.config.text.unwrap_or_default();
        let reading = WindowOptions {
            stride: self.request.stride.unwrap_or(self.model.gpt.config().context.div_ceil(2)),
            detokenizer: text.detokenizer,
            on_bad_record: self.request.on_bad_record,
        };
        let path = self.opened.test.file().unwrap_or(Path::new("")).display().to_string();
        // Nothing is asked yet: how long the text is.
        let all = perplexity::read(&self.model, &path, reading, u64::MAX, &mut |_| Ok(ControlFlow::Continue(())))?;
        ensure!(all.n > 0, "{path} has no text to measure with");
        all.losses.warn(&path, self.sitting.progress);
        let limit = self.request.limit.unwrap_or(u64::MAX).min(all.n);
        // Of a part of the text they are not known.
        cost.words = (limit == all.n).then_some(all.words);
        let bar = self.sitting.progress.task(&self.label, Some(limit), Unit::Items);
        bar.resume_at(done);
        if done >= limit {
            return Ok(None);
        }
        let mut stopped = None;
        let mut last = Instant::now();
        perplexity::read(&self.model, &path, reading, done, &mut |windows| {
            let kept: Vec<_> = windows.iter().filter(|window| window.n < limit).collect();
            let line = |window: &&perplexity::WindowScore| serde_json::to_string(window).map(|line| line + "\n");
            let lines: String = kept.iter().map(line).collect::<std::result::Result<_, _>>()?;
            file.write_all(lines.as_bytes()).with_context(|| format!("{} cannot be written", self.path.display()))?;
            bar.advance(kept.len() as u64);
            let n_read = windows.iter().map(|window| window.read).sum();
            let took = last.elapsed();
            cost.add(TokenCounts { n_read, n_alone: n_read }, took, self.path)?;
            if let Some(stop) = self.sitting.interrupt.reason(took) {
                return Err(StopEvaluation(stop).into());
            }
            last = Instant::now();
            let all = windows.last().is_some_and(|window| window.n + 1 >= limit);
            Ok(if all || stopped.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        Ok(stopped)
    }
}

impl Cost {
    /// What the cell of these lines has taken so far.
    fn read(lines: &Path) -> Result<Self> {
        let path = lines.with_extension("json");
        if !path.exists() {
            return Ok(Self::default());
        }
        serde_json::from_str(&disk::read_description(&path)?).with_context(|| format!("{} is damaged", path.display()))
    }

    fn write(&self, lines: &Path) -> Result<()> {
        disk::write(&lines.with_extension("json"), serde_json::to_string(self)?.as_bytes())
    }

    fn add(&mut self, work: TokenCounts, took: Duration, lines: &Path) -> Result<()> {
        self.tokens_read += work.n_read;
        self.tokens_alone += work.n_alone;
        self.elapsed_s += took.as_secs_f64();
        self.write(lines)
    }
}

/// How many whole lines `path` holds; what a killed process left of another is cut off.
fn whole_lines(path: &Path) -> Result<u64> {
    if !path.exists() {
        return Ok(0);
    }
    let file = disk::open(path)?;
    let (mut reader, mut n, mut whole, mut line) = (BufReader::new(&file), 0, 0, Vec::new());
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line).with_context(|| format!("{} cannot be read", path.display()))?;
        if read == 0 || line.last() != Some(&b'\n') {
            break;
        }
        n += 1;
        whole += read as u64;
    }
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(whole).with_context(|| format!("{} cannot be written", path.display()))?;
    Ok(n)
}
