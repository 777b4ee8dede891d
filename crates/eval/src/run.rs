//! Models × tasks × numbers of demonstrations → lines of instances, chunk by chunk, from wherever an earlier sitting ended.

use crate::figures::{Measured, measure};
use crate::instance::{Instance, Task};
use crate::overlap::Wanted;
use crate::perplexity::{self, Reading};
use crate::records::Source;
use crate::score::{self, Model, Ready, Work};
use crate::shots::{From, Pool, Prompter, is_set_aside};
use crate::task::{Scoring, TaskConfig};
use anyhow::{Context, Result, bail, ensure};
use data::disk;
use data::progress::{Progress, Unit};
use data::record::Row;
use data::source::OnBadRecord;
use data::tokenizer::Tokenizer;
use data::world::Part;
use model::Gpt;
use model::folder::{ModelFolder, load_config};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use train::interrupt::{Interrupt, Stop};

/// Instances, or bytes of them with their demonstrations, that are asked between two looks at the clock.
const CHUNK: usize = 256;
const CHUNK_BYTES: usize = 1 << 16;
/// Instances in which one demonstration at least must fit.
const TRIED: usize = 32;
/// What an evaluation was asked, in its folder.
const REQUEST: &str = "request.json";

/// All that an evaluation is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
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
pub struct Sitting<'a> {
    /// Loads a model to compute with.
    pub load: &'a dyn Fn(&Path) -> Result<(ModelFolder, Gpt)>,
    /// Whether somebody asked to stop.
    pub interrupt: &'a Interrupt,
    /// Where it says what it does.
    pub progress: &'a dyn Progress,
}

impl std::fmt::Debug for Sitting<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sitting")
    }
}

/// One model on one task with so many demonstrations.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    /// The task, with its variant.
    pub task: String,
    /// Place of the model among those of the request.
    pub model: usize,
    /// Demonstrations that were asked for.
    pub shots: usize,
    /// What was measured.
    pub measured: Measured,
    /// The same without the instances that the training text holds.
    pub clean: Option<Measured>,
    /// What it took.
    pub cost: Cost,
    /// The lines of its instances.
    pub path: PathBuf,
}

/// What a cell took; written when it is done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
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
pub enum End {
    /// With all that was asked.
    Done(Vec<Cell>),
    /// Before; what is there is kept.
    Stopped(Stop),
}

impl TaskRequest {
    /// What it is called, with its variant.
    pub fn full_name(&self) -> String {
        if self.variant.is_empty() { self.name.clone() } else { format!("{}:{}", self.name, self.variant) }
    }
}

impl Request {
    /// Keeps what is asked in the new folder `out`.
    ///
    /// # Errors
    /// When the folder holds something, or cannot be written.
    pub fn save(&self, out: &Path) -> Result<()> {
        let empty = out.read_dir().map_or(true, |mut entries| entries.next().is_none());
        ensure!(empty, "{} is not empty; name another folder, or go on with --resume {}", out.display(), out.display());
        disk::create_dir(out)?;
        disk::write(&out.join(REQUEST), (serde_json::to_string_pretty(self)? + "\n").as_bytes())
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
struct Opened {
    task: Task,
    test: Source,
    demonstrations: Option<From>,
    pool: Pool,
    /// Instances.
    n: u64,
    skipped: u64,
}

/// Does what `request` asks, in the folder `out` that it was saved in. Every record is read before the first is asked, so
/// that a bad one is found at once.
///
/// # Errors
/// When a task, its records or a model cannot be used, no demonstration fits, or the folder cannot be written.
pub fn evaluate(request: &Request, out: &Path, sitting: &Sitting) -> Result<End> {
    let Some(_lock) = disk::lock(out)? else { bail!("another process writes {}", out.display()) };
    let tasks: Vec<Opened> = request.tasks.iter().map(|task| request.open(task)).collect::<Result<_>>()?;
    for (n, folder) in request.models.iter().enumerate() {
        let (tokenizer, context) = (Tokenizer::load(folder)?, load_config(folder)?.context);
        let start = tokenizer.end_of_text();
        if let Some(stride) = request.stride.filter(|&stride| stride > context) {
            bail!("--stride {stride} is over the context of {context} tokens of model {}", request.model_name(n));
        }
        for opened in tasks.iter().filter(|opened| opened.demonstrations.is_some()) {
            let prompter = opened.prompter(&tokenizer, start, context);
            opened.fits(&prompter, request).with_context(|| format!("model {}", request.model_name(n)))?;
        }
    }
    let seen = match &request.contamination {
        Some(folder) => {
            tasks.iter().map(|opened| opened.seen(request, folder, sitting.progress)).collect::<Result<Vec<_>>>()?
        }
        None => Vec::new(),
    };
    let mut cells = Vec::new();
    for n in 0..request.models.len() {
        let mut loaded = None;
        for (t, opened) in tasks.iter().enumerate() {
            let shots = if opened.task.config.scoring == Scoring::Perplexity { &[0] } else { request.shots.as_slice() };
            for &shots in shots {
                let path = request.lines_of(out, &opened.task.name, n, shots);
                let done = path.with_extension("json");
                let cost = match disk::read_description(&done).ok().and_then(|text| serde_json::from_str(&text).ok()) {
                    Some(cost) => cost,
                    None => {
                        if loaded.is_none() {
                            loaded = Some((sitting.load)(&request.models[n])?);
                        }
                        let Some((files, gpt)) = &loaded else { bail!("no model") };
                        let model = Model { gpt, tokenizer: &files.tokenizer, end_of_text: &files.end_of_text };
                        let label = format!("{} {shots}-shot {}", opened.task.name, request.model_name(n));
                        let asking = Asking { request, opened, model, shots, label, path: &path, sitting };
                        match asking.ask()? {
                            Ok(cost) => {
                                disk::write(&done, serde_json::to_string(&cost)?.as_bytes())?;
                                cost
                            }
                            Err(stop) => return Ok(End::Stopped(stop)),
                        }
                    }
                };
                let config = &opened.task.config;
                let measured = |keep: &dyn Fn(u64) -> bool| measure(&path, config, cost.words, request.seed, keep);
                cells.push(Cell {
                    task: opened.task.name.clone(),
                    model: n,
                    shots,
                    measured: measured(&|_| true)?,
                    clean: seen.get(t).map(|seen| measured(&|n| !seen.contains(&n))).transpose()?,
                    cost,
                    path,
                });
            }
        }
    }
    Ok(End::Done(cells))
}

impl Request {
    /// Hands the records that `task` is measured with to `sink`.
    ///
    /// # Errors
    /// When one cannot be used, or `sink` fails.
    pub fn records(&self, task: &TaskRequest, sink: &mut dyn FnMut(&Row) -> Result<()>) -> Result<()> {
        self.open(task)?.read(self, &mut |row, _, _| sink(row)).map(|_| ())
    }

    fn open(&self, task: &TaskRequest) -> Result<Opened> {
        let TaskRequest { name, variant, config, test, train } = task;
        let task = Task::new(name, config.clone(), variant)?;
        if config.scoring == Scoring::Perplexity {
            let test = Source::File(PathBuf::from(test));
            return Ok(Opened { task, test, demonstrations: None, pool: Pool::default(), n: 0, skipped: 0 });
        }
        let source = |text: &str| Source::of(text).with_context(|| format!("task {}", task.name));
        let test = source(test)?;
        let demonstrations = if self.shots.iter().all(|&shots| shots == 0) {
            None
        } else if !train.is_empty() {
            Some(From::Training(source(train)?))
        } else if matches!(test, Source::Made { .. }) {
            Some(From::Training(test.clone()))
        } else {
            Some(From::SetAside)
        };
        let mut opened = Opened { task, test, demonstrations, pool: Pool::default(), n: 0, skipped: 0 };
        let mut n = 0;
        let skipped = opened.read(self, &mut |_, _, _| {
            n += 1;
            Ok(())
        })?;
        ensure!(n > 0, "task {}: there is no record to measure with", opened.task.name);
        (opened.n, opened.skipped) = (n, skipped);
        if let Some(from) = &opened.demonstrations {
            opened.pool = Pool::read(&opened.task, from, &opened.test, self.seed, self.on_bad_record)?;
        }
        Ok(opened)
    }

    fn lines_of(&self, out: &Path, task: &str, model: usize, shots: usize) -> PathBuf {
        let plain = |name: &str| name.replace(['/', ':'], "-");
        let file = format!("{shots}-shot.jsonl");
        out.join("instances").join(plain(task)).join(plain(&self.model_name(model))).join(file)
    }
}

impl Opened {
    /// Hands the records that are measured with to `sink`, with what is asked of each and its number. Returns how many were
    /// left out.
    fn read(&self, request: &Request, sink: &mut dyn FnMut(&Row, Instance, u64) -> Result<()>) -> Result<u64> {
        let set_aside = self.demonstrations == Some(From::SetAside);
        let (mut number, mut n) = (0, 0);
        let most =
            request.limit.map(|limit| if set_aside { limit + limit.div_ceil(crate::shots::ONE_IN - 1) } else { limit });
        let skipped = self.test.read(Part::HeldOut, most, request.on_bad_record, &mut |row| {
            let shown = set_aside && is_set_aside(number);
            number += 1;
            if shown || request.limit.is_some_and(|limit| n >= limit) {
                return Ok(());
            }
            sink(&row, self.task.instance(&row)?, n)?;
            n += 1;
            Ok(())
        })?;
        Ok(skipped.total())
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
    fn fits(&self, prompter: &Prompter, request: &Request) -> Result<()> {
        let (mut tried, mut fit) = (0, false);
        self.read(request, &mut |row, instance, n| {
            if tried < TRIED && !fit {
                tried += 1;
                fit = prompter.prompt(&self.task.instruction(row)?, &self.pool, 1, n, &instance)?.shots > 0;
            }
            Ok(())
        })?;
        let (name, context) = (&self.task.name, prompter.context);
        ensure!(
            fit,
            "--shots: not one demonstration of {name} fits beside a record in the window of {context} tokens; \
             ask with --shots 0, or a model with a longer window"
        );
        Ok(())
    }

    /// The instances that the training text in `folder` holds.
    fn seen(&self, request: &Request, folder: &Path, progress: &dyn Progress) -> Result<HashSet<u64>> {
        if self.task.config.scoring == Scoring::Perplexity {
            return Ok(HashSet::new());
        }
        let mut wanted = Wanted::default();
        self.read(request, &mut |_, instance, n| {
            wanted.add(n, &instance.shown());
            Ok(())
        })?;
        wanted.found_in(folder, progress)
    }
}

/// An instance that waits for others.
struct Waiting {
    n: u64,
    instruction: String,
    instance: Instance,
}

/// The asking of one cell.
struct Asking<'a> {
    request: &'a Request,
    opened: &'a Opened,
    model: Model<'a>,
    shots: usize,
    label: String,
    path: &'a Path,
    sitting: &'a Sitting<'a>,
}

/// Ends the reading of records.
#[derive(Debug)]
struct Stopped(Stop);

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl std::error::Error for Stopped {}

impl Asking<'_> {
    fn ask(&self) -> Result<std::result::Result<Cost, Stop>> {
        disk::create_dir(self.path.parent().unwrap_or(Path::new(".")))?;
        let done = whole_lines(self.path)?;
        let file = OpenOptions::new().create(true).append(true).open(self.path);
        let file = file.with_context(|| format!("{} cannot be written", self.path.display()))?;
        let asked = if self.opened.task.config.scoring == Scoring::Perplexity {
            self.read_text(file, done)
        } else {
            self.ask_records(file, done)
        };
        match asked {
            Err(e) => e.downcast::<Stopped>().map(|Stopped(stop)| Err(stop)),
            Ok(cost) => Ok(Ok(cost)),
        }
    }

    fn ask_records(&self, mut file: File, done: u64) -> Result<Cost> {
        let Self { opened, sitting, .. } = self;
        let begun = Instant::now();
        let bar = sitting.progress.task(&self.label, Some(opened.n), Unit::Items);
        bar.resume_at(done);
        let (mut waiting, mut bytes, mut last) = (Vec::<Waiting>::new(), 0, Duration::ZERO);
        let mut work = Work::default();
        let mut chunk = |waiting: &mut Vec<Waiting>| -> Result<()> {
            if let Some(stop) = sitting.interrupt.reason(last) {
                return Err(Stopped(stop).into());
            }
            let at = Instant::now();
            let (lines, read) = self.lines(std::mem::take(waiting))?;
            let text: String =
                lines.iter().map(|line| serde_json::Value::Object(line.clone()).to_string() + "\n").collect();
            file.write_all(text.as_bytes()).with_context(|| format!("{} cannot be written", self.path.display()))?;
            work = Work { n_read: work.n_read + read.n_read, n_alone: work.n_alone + read.n_alone };
            bar.advance(lines.len() as u64);
            last = at.elapsed();
            Ok(())
        };
        opened.read(self.request, &mut |row, instance, n| {
            if n < done {
                return Ok(());
            }
            let length: usize = row.fields.values().map(|value| value.as_str().map_or(64, str::len)).sum();
            bytes += length * (1 + self.shots);
            waiting.push(Waiting { n, instruction: opened.task.instruction(row)?, instance });
            if waiting.len() >= CHUNK || bytes >= CHUNK_BYTES {
                bytes = 0;
                chunk(&mut waiting)?;
            }
            Ok(())
        })?;
        if !waiting.is_empty() {
            chunk(&mut waiting)?;
        }
        Ok(Cost {
            skipped: opened.skipped,
            words: None,
            tokens_read: work.n_read,
            tokens_alone: work.n_alone,
            elapsed_s: begun.elapsed().as_secs_f64(),
        })
    }

    /// What the model makes of some records.
    fn lines(&self, records: Vec<Waiting>) -> Result<(Vec<serde_json::Map<String, serde_json::Value>>, Work)> {
        let Opened { task, pool, .. } = self.opened;
        let context = self.model.gpt.config().context;
        let prompter = self.opened.prompter(self.model.tokenizer, self.model.end_of_text.first().copied(), context);
        let shots = self.shots;
        let ready = |Waiting { n, instruction, instance }: Waiting| -> Result<Ready> {
            let prompted = prompter.prompt(&instruction, pool, shots, n, &instance)?;
            Ok(Ready { n, instance, prompted })
        };
        let ready: Vec<Ready> = records.into_par_iter().map(ready).collect::<Result<_>>()?;
        match (&task.config.choice, &task.config.generation) {
            (Some(choice), _) => score::choices(&self.model, &prompter, choice, &ready),
            (_, Some(generation)) => score::generations(&self.model, generation, self.request.seed, &ready),
            _ => score::words(&self.model, &ready),
        }
    }

    fn read_text(&self, mut file: File, done: u64) -> Result<Cost> {
        let context = self.model.gpt.config().context;
        let text = self.opened.task.config.text.unwrap_or_default();
        let stride = self.request.stride.unwrap_or(context.div_ceil(2));
        let reading = Reading { stride, detokenizer: text.detokenizer };
        let begun = Instant::now();
        let bar = self.sitting.progress.task(&self.label, self.request.limit, Unit::Items);
        bar.resume_at(done);
        let (path, mut last) = (self.opened.test.file().unwrap_or(Path::new("")).display().to_string(), Instant::now());
        let limit = self.request.limit.unwrap_or(u64::MAX);
        let read = perplexity::read(&self.model, &path, reading, done, &mut |windows| {
            let kept: Vec<_> = windows.iter().filter(|window| window.n < limit).collect();
            let line = |window: &&perplexity::Window| serde_json::to_string(window).map(|line| line + "\n");
            let lines: String = kept.iter().map(line).collect::<std::result::Result<_, _>>()?;
            file.write_all(lines.as_bytes()).with_context(|| format!("{} cannot be written", self.path.display()))?;
            bar.advance(kept.len() as u64);
            if let Some(stop) = self.sitting.interrupt.reason(last.elapsed()) {
                return Err(Stopped(stop).into());
            }
            last = Instant::now();
            let all = windows.last().is_some_and(|window| window.n + 1 >= limit);
            Ok(if all { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        Ok(Cost {
            skipped: 0,
            // Of a part of the text they are not known.
            words: read.ended.then_some(read.words),
            tokens_read: read.n_read,
            tokens_alone: read.n_read,
            elapsed_s: begun.elapsed().as_secs_f64(),
        })
    }
}

/// How many whole lines `path` holds; what a killed process left of another is cut off.
fn whole_lines(path: &Path) -> Result<u64> {
    let Ok(file) = File::open(path) else { return Ok(0) };
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
