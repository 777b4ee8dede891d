//! `gptkit eval`

use crate::data_args::shell;
use crate::device::ComputeArgs;
use crate::ranks::RunToShare;
use crate::ui::{Stopped, Ui, Usage};
use anyhow::{Context, Result};
use clap::Args;
use gptkit_data::source::OnBadRecord;
use gptkit_data::text_table::aligned;
use gptkit_eval::catalog::{TASKS, TaskSpec, load};
use gptkit_eval::chart::{over_shots, over_sizes};
use gptkit_eval::figures::MetricValue;
use gptkit_eval::report::{EvalReport, Finetuned, shown};
use gptkit_eval::request::{EvalRequest, FinetunedRequest, TaskRequest};
use gptkit_eval::run::{EvalCell, EvalContext, EvalEnd, evaluate};
use gptkit_eval::task::Scoring;
use gptkit_model::HeadDescription;
use gptkit_model::load::{load_config, may_be_model};
use gptkit_sft::accuracy::RecordSink;
use gptkit_train::interrupt::Interrupt;
use gptkit_train::run::claim_numbered;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Evaluate language models on tasks, zero-shot and few-shot
///
/// A task is a TOML file with the place of its records, a template of the prompt and a scoring method. `--list` names the
/// built-in tasks. The results are written to a folder: each instance with its prompt, scores and verdict, tables as Markdown
/// and JSON, and charts over few-shot examples and model sizes.
#[derive(Debug, Args)]
pub(crate) struct EvalCommand {
    /// Model folder (repeatable): a run of `pretrain` or `sft`, or a model in Hugging Face format
    #[arg(long, value_name = "DIR", required_unless_present_any = ["resume", "list"])]
    model: Vec<PathBuf>,
    /// Task (repeatable): a built-in name or your TOML file, `:VARIANT` for one of its variants, and `=TEST` or
    /// `=TEST,TRAIN` for files of records (JSONL, CSV, Parquet) or text
    #[arg(long, value_name = "TASK", required_unless_present_any = ["resume", "list"])]
    task: Vec<TaskSpec>,
    /// Few-shot examples in the prompt, several numbers with commas; they are sampled for each record from the training split,
    /// or from every tenth record if the task has no training split, up to the context limit
    #[arg(long, value_name = "K,…", value_delimiter = ',', default_value = "0")]
    shots: Vec<u16>,
    /// Evaluate at most N instances of each task, or N windows of a text
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Number of tokens of a text that each window predicts [default: half the context]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    stride: Option<u64>,
    /// Fine-tuned model to evaluate on the same instances (repeatable): a run of `finetune`, preceded by `TASK=` if there
    /// are several tasks
    #[arg(long, value_name = "[TASK=]DIR")]
    finetuned: Vec<String>,
    /// Training text of the models, as a folder written by `prepare`: scores are also reported without the instances that
    /// share 13 consecutive words with it
    #[arg(long, value_name = "DIR")]
    contamination: Option<PathBuf>,
    /// Also print the scores that the papers report
    #[arg(long)]
    reference: bool,
    /// Folder for the results [default: runs/eval-1, or the first number that is free]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Resume the evaluation in this folder, with its own settings
    #[arg(long, value_name = "DIR",
        conflicts_with_all = ["model", "task", "shots", "limit", "stride", "finetuned", "contamination", "seed", "out", "on_bad_record"])]
    resume: Option<PathBuf>,
    /// Random seed of few-shot examples and of generated instances
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Stop after this time, for instance 2h or 90m; the exit code is then 124
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    max_time: Option<Duration>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// List the built-in tasks
    #[arg(long)]
    list: bool,
    /// What to do with records that a task cannot use
    #[arg(long, value_name = "fail|skip", default_value = "fail")]
    on_bad_record: OnBadRecord,
    #[command(flatten)]
    compute: ComputeArgs,
}

impl EvalCommand {
    pub(crate) fn run(self: Box<Self>, ui: &Ui) -> Result<()> {
        if self.list {
            return list(ui);
        }
        let ranks = ui.ranks();
        let (request, out) = match &self.resume {
            Some(out) => (EvalRequest::load(out)?, out.clone()),
            None if !ranks.is_first() => {
                let RunToShare { folder, .. } = RunToShare::heard(ranks)?;
                (EvalRequest::load(&folder)?, folder)
            }
            None => {
                let request = self.request()?;
                let claim = match &self.out {
                    None => Some(claim_numbered(Path::new("runs"), "eval")?),
                    Some(out) => request.claim(out)?,
                };
                let out = match (claim, &self.out) {
                    (Some(claim), _) => request.save(claim)?,
                    (None, out) => out.clone().unwrap_or_default(),
                };
                RunToShare { folder: std::path::absolute(&out)?, begins: true }.tell(ranks)?;
                (request, out)
            }
        };
        let interrupt = Interrupt::watch(self.max_time.map(|time| Instant::now() + time))?;
        let load = |folder: &Path| self.compute.load(folder);
        let context = EvalContext { load: &load, interrupt: &interrupt, ranks, progress: ui };
        let evaluated = evaluate(&request, &out, &context);
        if evaluated.is_err() && self.resume.is_none() && ranks.is_first() {
            request.discard(&out);
        }
        let cells = match evaluated? {
            EvalEnd::Done(cells) => cells,
            EvalEnd::Stopped(stop) => {
                ui.say(&format!("stopped; the results so far are in {}", out.display()));
                ui.next(&format!("gptkit eval --resume {}", shell(&out)));
                return Err(Stopped(stop).into());
            }
        };
        if !ranks.is_first() {
            return Ok(());
        }
        let finetuned =
            request.finetuned.iter().map(|one| self.finetuned(&request, one, ui)).collect::<Result<Vec<_>>>()?;
        let n_params =
            request.models.iter().map(|folder| Ok(load_config(folder)?.n_params())).collect::<Result<_>>()?;
        let report =
            EvalReport { request: &request, n_params, cells: &cells, finetuned: &finetuned, reference: self.reference };
        keep(&report, &out)?;
        match self.json {
            true => ui.json(&(report.json().to_string() + "\n"))?,
            false => ui.result(&table(&report))?,
        }
        say(&report, &out, ui);
        Ok(())
    }

    /// The evaluation that the options ask for, checked before anything runs.
    fn request(&self) -> Result<EvalRequest> {
        self.model.iter().try_for_each(|model| check_model(model))?;
        let tasks = self.tasks()?;
        let finetuned = self.finetuned.iter().map(|text| finetuned_request(text, &tasks)).collect::<Result<_>>()?;
        let mut shots: Vec<usize> = self.shots.iter().map(|&shots| usize::from(shots)).collect();
        shots.sort_unstable();
        shots.dedup();
        Ok(EvalRequest {
            models: self.model.clone(),
            tasks,
            shots,
            limit: self.limit,
            seed: self.seed,
            stride: self.stride.map(|n| n as usize),
            on_bad_record: self.on_bad_record,
            contamination: self.contamination.clone(),
            finetuned,
        })
    }

    /// The tasks, each once.
    fn tasks(&self) -> Result<Vec<TaskRequest>> {
        let mut tasks = Vec::new();
        for task in &self.task {
            tasks.extend(task.requests()?);
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = tasks.iter().map(TaskRequest::full_name).find(|name| !names.insert(name.clone())) {
            let hint = "name each task once; to use a second file of records, write another task file";
            return Err(Usage::new(format!("--task {twice} is given twice")).hint(hint).into());
        }
        Ok(tasks)
    }

    /// The accuracy of a fine-tuned model on a task's instances.
    fn finetuned(&self, request: &EvalRequest, one: &FinetunedRequest, ui: &Ui) -> Result<Finetuned> {
        let task = request.tasks.iter().find(|task| task.full_name() == one.task).context("no such task")?;
        let (files, gpt) = self.compute.load_reader(&one.folder)?;
        let records = |sink: RecordSink| request.records(task, &mut |row| sink(&row.fields));
        let accuracy = gptkit_sft::accuracy::accuracy(&one.folder, files, gpt, records, ui)?;
        let figure = MetricValue {
            metric: "accuracy".to_owned(),
            value: 100.0 * accuracy.share,
            standard_error: 100.0 * accuracy.standard_error,
            unit: "%".to_owned(),
        };
        Ok(Finetuned { task: one.task.clone(), folder: one.folder.clone(), figure, n: accuracy.n })
    }
}

/// Returns an error if the folder does not contain a language model.
fn check_model(model: &Path) -> Result<()> {
    let usage = |what: &str, hint: &str| Usage::new(format!("--model {}: {what}", model.display())).hint(hint);
    if !may_be_model(model) {
        return Err(usage("no such folder", "train a model with `gptkit pretrain` and pass its run folder").into());
    }
    if HeadDescription::load(model).is_ok() {
        return Err(usage(
            "it is a classifier or a reward model, not a language model",
            "pass a classifier with --finetuned DIR",
        )
        .into());
    }
    Ok(())
}

/// `[TASK=]DIR`, a classifier's folder for one of `tasks`.
fn finetuned_request(text: &str, tasks: &[TaskRequest]) -> Result<FinetunedRequest> {
    let choices: Vec<&TaskRequest> = tasks.iter().filter(|task| task.config.scoring == Scoring::Choice).collect();
    let (task, folder) = match (text.split_once('='), choices.as_slice()) {
        (Some((task, folder)), _) => (task.to_owned(), folder),
        (None, [one]) => (one.full_name(), text),
        (None, _) => {
            let hint = "write --finetuned TASK=DIR, where the task has scoring = \"choice\"";
            return Err(Usage::new(format!("--finetuned {text}: the task is missing")).hint(hint).into());
        }
    };
    let wrong = if !choices.iter().any(|one| one.full_name() == task) {
        format!("{task} is not one of the multiple-choice tasks of this evaluation")
    } else if !Path::new(folder).is_dir() {
        format!("{folder}: no such folder")
    } else if HeadDescription::load(Path::new(folder)).is_err() {
        format!("{folder} is not a classifier")
    } else {
        return Ok(FinetunedRequest { task, folder: PathBuf::from(folder) });
    };
    let hint = "train a classifier with `gptkit finetune` and pass its run folder as TASK=DIR";
    Err(Usage::new(format!("--finetuned {text}: {wrong}")).hint(hint).into())
}

fn list(ui: &Ui) -> Result<()> {
    let mut rows = Vec::new();
    for (name, _) in TASKS {
        let (_, config) = load(name)?;
        let variants =
            if config.variants.is_empty() { String::new() } else { format!(" ({})", config.variants.join(", ")) };
        let records = if config.test.is_empty() && config.scoring != Scoring::Perplexity {
            format!("{name}=FILE")
        } else if config.test.is_empty() {
            format!("{name}=TEXT")
        } else {
            (*name).to_owned()
        };
        rows.push(vec![records, config.description + &variants]);
    }
    ui.result(&aligned(&rows, 2))
}

/// Writes tables and charts into the folder of the instances.
fn keep(report: &EvalReport, out: &Path) -> Result<()> {
    let write = |name: &str, text: &str| gptkit_data::disk::write(&out.join(name), text.as_bytes());
    write("results.md", &report.markdown())?;
    gptkit_data::disk::write_json(&out.join("results.json"), &report.json())?;
    let tasks = report.tasks();
    let each =
        tasks.iter().map(|task| Some(*task)).filter(|_| tasks.len() > 1).chain([(tasks.len() == 1).then(|| tasks[0])]);
    for task in each {
        let ending = task
            .filter(|_| tasks.len() > 1)
            .map_or(String::new(), |task| format!("-{}", task.replace([':', '/'], "-")));
        for (name, chart) in [("shots", over_shots(report, task)), ("sizes", over_sizes(report, task))] {
            if let Some(chart) = chart {
                write(&format!("{name}{ending}.svg"), &chart)?;
            }
        }
    }
    Ok(())
}

/// The main metric of every task and model, by number of few-shot examples.
fn table(report: &EvalReport) -> String {
    let shots: BTreeSet<usize> = report.cells.iter().map(|cell| cell.shots).collect();
    let heads = ["task", "metric", "model"].map(str::to_owned).into_iter();
    let mut rows = vec![heads.chain(shots.iter().map(|k| format!("{k}-shot"))).collect::<Vec<_>>()];
    for task in report.tasks() {
        let own: Vec<&EvalCell> = report.cells.iter().filter(|cell| cell.task == task).collect();
        let Some(main) = own[0].measured.figures.first().map(|figure| figure.metric.clone()) else { continue };
        for model in 0..report.request.models.len() {
            let cell = |k: &usize| report.cell(task, model, *k).and_then(|cell| cell.measured.figures.first());
            let names = [task.to_owned(), main.clone(), report.request.model_name(model)].into_iter();
            rows.push(names.chain(shots.iter().map(|k| cell(k).map_or("-".to_owned(), shown))).collect());
            let clean = |k: &usize| report.cell(task, model, *k).and_then(|cell| cell.clean.as_ref());
            if let Some(n) = shots.iter().find_map(clean).map(|clean| clean.n) {
                let figure = |k: &usize| clean(k).and_then(|clean| clean.figures.first()).map_or("-".to_owned(), shown);
                let name = format!("{}, {n} without overlap", report.request.model_name(model));
                let names = [task.to_owned(), main.clone(), name].into_iter();
                rows.push(names.chain(shots.iter().map(figure)).collect());
            }
        }
        if let Some(chance) = own[0].measured.chance {
            rows.push(vec![task.to_owned(), "accuracy".to_owned(), "chance".to_owned(), format!("{chance:.1}%")]);
        }
        for one in report.finetuned.iter().filter(|one| one.task == task) {
            let name = format!("{}, fine-tuned", one.folder.display());
            rows.push(vec![task.to_owned(), "accuracy".to_owned(), name, shown(&one.figure)]);
        }
        for one in report.published(task) {
            let name = format!("{}, {}-shot, published", one.model, one.shots);
            rows.push(vec![task.to_owned(), one.metric.clone(), name, one.value.to_string()]);
        }
    }
    aligned(&rows, 3)
}

fn say(report: &EvalReport, out: &Path, ui: &Ui) {
    let sum = |of: fn(&EvalCell) -> u64| report.cells.iter().map(of).sum::<u64>();
    let (read, alone) = (sum(|cell| cell.cost.tokens_read), sum(|cell| cell.cost.tokens_alone));
    let seconds: f64 = report.cells.iter().map(|cell| cell.cost.elapsed_s).sum();
    let shared = if alone > read {
        format!(" instead of {}, because shared prefixes are computed once", gptkit_data::progress::grouped(alone))
    } else {
        String::new()
    };
    ui.say(&format!("{} tokens computed{shared} · {seconds:.1} s", gptkit_data::progress::grouped(read)));
    ui.say(&format!("saved {}: results.md, results.json, charts, and every instance in instances/", out.display()));
    let model = report.request.models.first().map(|model| shell(model)).unwrap_or_default();
    if report.request.shots == [0] && report.cells.iter().any(|cell| !cell.measured.scores.is_empty()) {
        ui.next(&format!("gptkit eval --model {model} --shots 0,1,4,16 …, to measure the effect of few-shot examples"));
    } else {
        ui.next(&format!("gptkit sft --init {model}"));
    }
}
