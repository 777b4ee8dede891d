//! Models × tasks × numbers of demonstrations → lines of instances, chunk by chunk, from wherever an earlier run stopped.

use crate::figures::{TaskMeasurement, measure};
use crate::open_task::{OpenTask, UnpromptedInstance, instances_in_text};
use crate::perplexity::{self, WindowOptions};
use crate::request::EvalRequest;
use crate::score::{self, EvalModel, PromptedInstance, TokenCounts};
use crate::task::Scoring;
use anyhow::{Context, Result, bail, ensure};
use gptkit_data::disk;
use gptkit_data::progress::{Progress, Unit};
use gptkit_data::tokenizer::Tokenizer;
use gptkit_model::Gpt;
use gptkit_model::load::{ModelFolder, load_config};
use gptkit_ranks::Ranks;
use gptkit_train::interrupt::{Interrupt, Stop};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Instances, or bytes of them with their demonstrations, that are evaluated between two checks of the interrupt.
const CHUNK: usize = 256;
const CHUNK_BYTES: usize = 1 << 16;

/// How an evaluation runs.
pub struct EvalContext<'a> {
    /// Loads a model to compute with.
    pub load: &'a dyn Fn(&Path) -> Result<(ModelFolder, Gpt)>,
    /// Whether somebody asked to stop.
    pub interrupt: &'a Interrupt,
    /// Those that share out the instances. The first one writes.
    pub ranks: &'a Ranks,
    /// Where it says what it does.
    pub progress: &'a dyn Progress,
}

impl std::fmt::Debug for EvalContext<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EvalContext")
    }
}

/// One model on one task with so many demonstrations.
#[derive(Debug, Clone, PartialEq)]
pub struct EvalCell {
    /// The task, with its variant.
    pub task: String,
    /// Place of the model among those of the request.
    pub model: usize,
    /// Number of few-shot examples that were requested.
    pub shots: usize,
    /// What was measured.
    pub measured: TaskMeasurement,
    /// The same without the instances that the training text holds.
    pub clean: Option<TaskMeasurement>,
    /// What it took.
    pub cost: Cost,
    /// The lines of its instances.
    pub path: PathBuf,
}

/// What a cell took, kept beside its lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Whether all instances were evaluated.
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
    /// All instances were evaluated.
    Done(Vec<EvalCell>),
    /// Before; what is there is kept.
    Stopped(Stop),
}

/// Evaluates `request` in the folder `out` that it was saved in. All records are read before the first is evaluated, so
/// that an invalid one is found immediately. Ranks other than the first get no cells.
///
/// # Errors
/// When a task, its records or a model cannot be used, no demonstration fits, or the folder cannot be written.
pub fn evaluate(request: &EvalRequest, out: &Path, context: &EvalContext) -> Result<EvalEnd> {
    let lock = if context.ranks.is_first() { disk::lock(out)?.map(Some) } else { Some(None) };
    let Some(_lock) = lock else { bail!("another process is writing {}", out.display()) };
    let tasks: Vec<OpenTask> = request.tasks.iter().map(|task| OpenTask::open(request, task)).collect::<Result<_>>()?;
    (0..request.models.len()).try_for_each(|model| check_model(request, model, &tasks))?;
    let seen = match &request.contamination {
        Some(folder) => Some(instances_in_text(&tasks, request, folder, context.progress)?),
        None => None,
    };
    let evaluation = CheckedEvaluation { request, tasks, seen, out, context };
    let mut cells = Vec::new();
    for model in 0..request.models.len() {
        let mut loaded = None;
        for (task, shots) in evaluation.cells_of_model() {
            match evaluation.cell((task, model, shots), &mut loaded)? {
                CellEnd::Done(cell) => cells.extend(cell.map(|cell| *cell)),
                CellEnd::Stopped(stop) => return Ok(EvalEnd::Stopped(stop)),
            }
        }
    }
    Ok(EvalEnd::Done(cells))
}

/// Refuses a model whose window is too short for the stride, an answer of a task, or a single demonstration.
fn check_model(request: &EvalRequest, model: usize, tasks: &[OpenTask]) -> Result<()> {
    let (folder, name) = (&request.models[model], request.model_name(model));
    let (tokenizer, shape) = (Tokenizer::load(folder)?, load_config(folder)?);
    shape.must_write().with_context(|| format!("model {name}"))?;
    let context = shape.context;
    let start = score::start_of(&tokenizer);
    if let Some(stride) = request.stride.filter(|&stride| stride > context) {
        bail!("--stride {stride} is larger than the context of {context} tokens of model {name}");
    }
    for opened in tasks {
        let prompter = opened.prompter(&tokenizer, start, context);
        let room = prompter.room;
        ensure!(
            room < context,
            "task {}: answers of up to {room} tokens do not fit in the context of {context} tokens of model {name}; \
             use a task file with a lower max_new_tokens",
            opened.task.name
        );
        if opened.demonstrations.is_some() {
            opened.fits(&prompter, request).with_context(|| format!("model {name}"))?;
        }
    }
    Ok(())
}

/// An evaluation that has been checked.
struct CheckedEvaluation<'a> {
    request: &'a EvalRequest,
    tasks: Vec<OpenTask>,
    /// Instances, by task and number, that the training text holds, where it was given.
    seen: Option<HashSet<(usize, u64)>>,
    out: &'a Path,
    context: &'a EvalContext<'a>,
}

/// How the work on a cell ended.
enum CellEnd {
    /// Measured by the first rank alone.
    Done(Option<Box<EvalCell>>),
    Stopped(Stop),
}

impl CheckedEvaluation<'_> {
    /// Number of the task and number of demonstrations of every cell of a model. A text has no demonstrations.
    fn cells_of_model(&self) -> Vec<(usize, usize)> {
        let shots = |opened: &OpenTask| match opened.task.config.scoring {
            Scoring::Perplexity => vec![0],
            _ => self.request.shots.clone(),
        };
        let of_task = |(t, opened)| shots(opened).into_iter().map(move |shots| (t, shots));
        self.tasks.iter().enumerate().flat_map(of_task).collect()
    }

    /// Evaluates what is missing of a cell and measures it. `loaded` is the model, once a cell needed it.
    fn cell(
        &self,
        (task, model, shots): (usize, usize, usize),
        loaded: &mut Option<(ModelFolder, Gpt)>,
    ) -> Result<CellEnd> {
        let Self { request, context, .. } = *self;
        let opened = &self.tasks[task];
        let path = request.instances_file(self.out, task, model, shots);
        let mut cost = Cost::read(&path)?;
        if !cost.done {
            if loaded.is_none() {
                *loaded = Some((context.load)(&request.models[model])?);
            }
            let Some((files, gpt)) = loaded else { bail!("no model") };
            let label = format!("{} {shots}-shot {}", opened.task.name, request.model_name(model));
            let model = EvalModel { gpt, tokenizer: &files.tokenizer, end_of_text: &files.end_of_text };
            let run = CellRun { request, opened, model, shots, label, path: &path, context };
            if let Some(stop) = run.finish(&mut cost)? {
                return Ok(CellEnd::Stopped(stop));
            }
        }
        if !context.ranks.is_first() {
            return Ok(CellEnd::Done(None));
        }
        let config = &opened.task.config;
        let measured = |keep: &dyn Fn(u64) -> bool| measure(&path, config, cost.words, request.seed, keep);
        let seen = self.seen.as_ref().filter(|_| config.scoring != Scoring::Perplexity);
        Ok(CellEnd::Done(Some(Box::new(EvalCell {
            task: opened.task.name.clone(),
            model,
            shots,
            measured: measured(&|_| true)?,
            clean: seen.map(|seen| measured(&|n| !seen.contains(&(task, n)))).transpose()?,
            cost,
            path,
        }))))
    }
}

/// The work that is left of one cell.
struct CellRun<'a> {
    request: &'a EvalRequest,
    opened: &'a OpenTask,
    model: EvalModel<'a>,
    shots: usize,
    label: String,
    path: &'a Path,
    context: &'a EvalContext<'a>,
}

impl CellRun<'_> {
    /// Evaluates the instances that are missing. Returns why it stopped before the end, if it did.
    fn finish(&self, cost: &mut Cost) -> Result<Option<Stop>> {
        let ranks = self.context.ranks;
        let mut lines = InstanceLines { path: self.path, file: None };
        let mut done = 0;
        if ranks.is_first() {
            disk::create_dir(self.path.parent().unwrap_or(Path::new(".")))?;
            done = whole_lines(self.path)?;
            lines.file = Some(disk::append(self.path)?);
        }
        done = ranks.first(done)?;
        let stopped = if self.opened.task.config.scoring == Scoring::Perplexity {
            self.read_text(&mut lines, done, cost)?
        } else {
            self.ask_records(&mut lines, done, cost)?
        };
        if stopped.is_none() {
            self.model.tokenizer.warn_of_losses(&self.label, self.context.progress);
            cost.done = true;
            lines.write("", cost)?;
        }
        Ok(stopped)
    }

    fn ask_records(&self, to: &mut InstanceLines, done: u64, cost: &mut Cost) -> Result<Option<Stop>> {
        let Self { opened, context, .. } = self;
        let bar = context.progress.task(&self.label, Some(opened.n), Unit::Items);
        bar.resume_at(done);
        cost.skipped = opened.skipped;
        let (mut waiting, mut bytes, mut last) = (Vec::<UnpromptedInstance>::new(), 0usize, Duration::ZERO);
        let mut chunk = |waiting: &mut Vec<UnpromptedInstance>| -> Result<Option<Stop>> {
            if let Some(stop) = Stop::of_all(context.interrupt.reason(last), context.ranks)? {
                return Ok(Some(stop));
            }
            let at = Instant::now();
            let n = waiting.len();
            let mut work = TokenCounts::default();
            let text = context.ranks.share_parts(n, |own| {
                let (lines, own_work) = self.lines(waiting.drain(own).collect())?;
                work = own_work;
                let lines = lines.into_iter().map(|line| serde_json::Value::Object(line).to_string() + "\n");
                Ok(lines.collect::<String>().into_bytes())
            })?;
            waiting.clear();
            bar.advance(n as u64);
            last = at.elapsed();
            cost.add(work, last, context.ranks)?;
            to.write(std::str::from_utf8(&text)?, cost)?;
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

    fn read_text(&self, to: &mut InstanceLines, done: u64, cost: &mut Cost) -> Result<Option<Stop>> {
        let text = self.opened.task.config.text.unwrap_or_default();
        let reading = WindowOptions {
            stride: self.request.stride.unwrap_or(self.model.gpt.config().context.div_ceil(2)),
            detokenizer: text.detokenizer,
            by_position: text.by_position,
            on_bad_record: self.request.on_bad_record,
        };
        let path = self.opened.test.file().unwrap_or(Path::new("")).display().to_string();
        // Nothing is asked yet: how long the text is.
        let ranks = self.context.ranks;
        let unread = &mut |_: &[perplexity::WindowScore]| Ok(ControlFlow::Continue(()));
        let all = perplexity::read(&self.model, &path, reading, u64::MAX, ranks, unread)?;
        ensure!(all.n > 0, "{path} has no text to evaluate");
        all.losses.warn(&path, self.context.progress);
        let limit = self.request.limit.unwrap_or(u64::MAX).min(all.n);
        // Of a part of the text they are not known.
        cost.words = (limit == all.n).then_some(all.words);
        let bar = self.context.progress.task(&self.label, Some(limit), Unit::Items);
        bar.resume_at(done);
        if done >= limit {
            return Ok(None);
        }
        let mut stopped = None;
        let mut last = Instant::now();
        perplexity::read(&self.model, &path, reading, done, ranks, &mut |windows| {
            let kept: Vec<_> = windows.iter().filter(|window| window.n < limit).collect();
            let line = |window: &&perplexity::WindowScore| serde_json::to_string(window).map(|line| line + "\n");
            let lines: String = kept.iter().map(line).collect::<std::result::Result<_, _>>()?;
            bar.advance(kept.len() as u64);
            let n_read: u64 = windows.iter().map(|window| window.read).sum();
            let took = last.elapsed();
            cost.tokens_read += n_read;
            cost.tokens_alone += n_read;
            cost.elapsed_s += took.as_secs_f64();
            to.write(&lines, cost)?;
            stopped = Stop::of_all(self.context.interrupt.reason(took), ranks)?;
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

    /// Adds the work of all ranks, of which this one did `work`.
    fn add(&mut self, work: TokenCounts, took: Duration, ranks: &Ranks) -> Result<()> {
        self.tokens_read += ranks.sum(work.n_read)?;
        self.tokens_alone += ranks.sum(work.n_alone)?;
        self.elapsed_s += took.as_secs_f64();
        Ok(())
    }
}

/// Where the lines of a cell go, and beside them what they took.
struct InstanceLines<'a> {
    path: &'a Path,
    /// Nothing on ranks that do not write.
    file: Option<File>,
}

impl InstanceLines<'_> {
    fn write(&mut self, lines: &str, cost: &Cost) -> Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        file.write_all(lines.as_bytes()).with_context(|| format!("{} cannot be written", self.path.display()))?;
        cost.write(self.path)
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
