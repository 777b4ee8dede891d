//! `gptkit feedback trace`: from a run to the people whose data it was trained on, and back.

use crate::data_args::shell;
use crate::ui::{Ui, Usage, unusable};
use anyhow::{Result, bail};
use clap::Args;
use gptkit_data::disk;
use gptkit_data::printable::printable_line;
use gptkit_data::progress::grouped;
use gptkit_feedback::FeedbackStore;
use gptkit_feedback::records::{RecordId, RecordKind};
use gptkit_feedback::trace::{NotedExport, NotedRecord, store_of};
use gptkit_train::request::RunRequest;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Records of a person that are listed; `--json` lists all.
const LISTED: usize = 10;

/// Show which people's feedback a run was trained on, or which runs a record went into
///
/// For a run, this lists its files of records, the exports that they are, and their records by person. For a record, it lists the
/// exports that contain it and the runs that were trained on them. Files are recognized by their BLAKE3 hashes, so a file that was
/// edited after the export is reported.
#[derive(Debug, Args)]
pub(crate) struct TraceCommand {
    /// Folder of a run, an exported file, or a record such as ranking-7
    #[arg(value_name = "RUN|FILE|RECORD")]
    what: String,
    /// Folder of the feedback [default: the one in the manifest of the exported file]
    #[arg(long, value_name = "DIR")]
    feedback: Option<PathBuf>,
    /// Folder of the runs that are searched for a file or a record
    #[arg(long, value_name = "DIR", default_value = "runs")]
    runs: PathBuf,
    /// Print JSON, with all records
    #[arg(long)]
    json: bool,
}

/// A run with the data behind it.
#[derive(Debug, Serialize)]
struct RunTrace {
    run: PathBuf,
    command: String,
    files: Vec<FileTrace>,
    /// The runs whose models it was started with, by argument.
    models: BTreeMap<String, RunTrace>,
}

/// A file of records.
#[derive(Debug, Serialize)]
struct FileTrace {
    path: PathBuf,
    /// Its BLAKE3 hash, of a run's file when the run started.
    hash: String,
    /// The export that it is.
    export: Option<NotedExport>,
    /// The last export to this path, where the file has another hash.
    edited_after: Option<i64>,
    /// Whether the file has changed since the run started, or is missing.
    changed_since: bool,
}

/// A record with the files and runs that hold it.
#[derive(Debug, Serialize)]
struct RecordTrace {
    record: RecordId,
    #[serde(flatten)]
    noted: NotedRecord,
    exports: Vec<NotedExport>,
    runs: Vec<PathBuf>,
}

impl TraceCommand {
    pub(crate) fn run(self, ui: &Ui) -> Result<()> {
        let path = Path::new(&self.what);
        if path.is_dir() {
            self.trace_run(path, ui)
        } else if path.is_file() {
            self.trace_file(path, ui)
        } else {
            let what = |e| Usage::new(format!("there is no such run or file, and {e}"));
            self.trace_record(self.what.parse().map_err(what)?, ui)
        }
    }

    fn trace_run(&self, run: &Path, ui: &Ui) -> Result<()> {
        let Some(trace) = self.run_trace(run, &mut Vec::new())? else {
            let hint = "name the folder of a run of `gptkit train-rm`, `sft`, `dpo` or `ppo`";
            return Err(Usage::new(format!("{} has no run.json", run.display())).hint(hint).into());
        };
        if self.json {
            return ui.json(&(serde_json::to_string_pretty(&trace)? + "\n"));
        }
        let mut lines = Vec::new();
        run_lines(&trace, "", "", &mut lines);
        ui.result(&(lines.join("\n") + "\n"))?;
        match self.first_record(&trace)? {
            Some((record, store)) => ui.next(&format!("gptkit feedback trace {record} --feedback {}", shell(&store))),
            None => ui.next("gptkit runs"),
        }
        Ok(())
    }

    /// The data that the run in `folder` was trained on. Returns nothing if it is not a run, or is one of those `seen`.
    fn run_trace(&self, folder: &Path, seen: &mut Vec<PathBuf>) -> Result<Option<RunTrace>> {
        let place = std::path::absolute(folder)?;
        let Some(request) = RunRequest::read(folder).filter(|_| !seen.contains(&place)) else { return Ok(None) };
        seen.push(place);
        let files = request.files.iter().map(|(path, hash)| self.file_trace(path, hash.clone()));
        let files = files.collect::<Result<_>>()?;
        let mut models = BTreeMap::new();
        for (argument, model) in &request.models {
            if let Some(trace) = self.run_trace(&model.folder, seen)? {
                models.insert(argument.clone(), trace);
            }
        }
        Ok(Some(RunTrace { run: folder.to_owned(), command: request.command, files, models }))
    }

    fn trace_file(&self, path: &Path, ui: &Ui) -> Result<()> {
        let trace = self.file_trace(path, disk::file_hash(path)?)?;
        let runs = self.runs_with(&[&trace.hash]);
        if self.json {
            let mut value = serde_json::to_value(&trace)?;
            value["runs"] = serde_json::to_value(&runs)?;
            return ui.json(&(serde_json::to_string_pretty(&value)? + "\n"));
        }
        let mut lines = Vec::new();
        file_lines(&trace, "", &mut lines);
        lines.extend(runs.iter().map(|run| format!("trained on it: {}", shown(run))));
        ui.result(&(lines.join("\n") + "\n"))?;
        if let Some(run) = runs.first() {
            ui.next(&format!("gptkit feedback trace {}", shell(run)));
        } else if let (Some(record), Some(store)) = (first_of(&trace), self.store_folder(path)?) {
            ui.next(&format!("gptkit feedback trace {record} --feedback {}", shell(&store)));
        }
        Ok(())
    }

    /// The export that a file with this hash is.
    fn file_trace(&self, path: &Path, hash: String) -> Result<FileTrace> {
        let changed_since = !path.is_file() || disk::file_hash(path)? != hash;
        let exports = match self.store_folder(path)? {
            Some(folder) => FeedbackStore::open(&folder).map_err(unusable)?.exports()?,
            None => Vec::new(),
        };
        let place = path.canonicalize().unwrap_or_else(|_| path.to_owned()).to_string_lossy().into_owned();
        let export = exports.iter().rfind(|export| export.hash == hash).cloned();
        let edited_after = match export {
            Some(_) => None,
            None => exports.iter().rfind(|export| export.path == place).map(|export| export.export),
        };
        Ok(FileTrace { path: path.to_owned(), hash, export, edited_after, changed_since })
    }

    /// The folder of the store that an export is from.
    fn store_folder(&self, export: &Path) -> Result<Option<PathBuf>> {
        match &self.feedback {
            Some(folder) => Ok(Some(folder.clone())),
            None => store_of(export),
        }
    }

    /// A record that a run was trained on, and the folder of its store.
    fn first_record(&self, trace: &RunTrace) -> Result<Option<(RecordId, PathBuf)>> {
        for file in &trace.files {
            if let (Some(record), Some(store)) = (first_of(file), self.store_folder(&file.path)?) {
                return Ok(Some((record, store)));
            }
        }
        for model in trace.models.values() {
            if let Some(found) = self.first_record(model)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn trace_record(&self, record: RecordId, ui: &Ui) -> Result<()> {
        let Some(folder) = &self.feedback else {
            let hint = "add --feedback DIR, the folder of the feedback";
            return Err(Usage::new(format!("{record} is a number in a store, and none is named")).hint(hint).into());
        };
        let store = FeedbackStore::open(folder).map_err(unusable)?;
        let Some(noted) = store.record(record)? else { bail!("{} has no {record}", store.path().display()) };
        let numbers = store.exports_with(record)?;
        let exports: Vec<NotedExport> =
            store.exports()?.into_iter().filter(|export| numbers.contains(&export.export)).collect();
        let hashes: Vec<&String> = exports.iter().map(|export| &export.hash).collect();
        let runs = self.runs_with(&hashes);
        let trace = RecordTrace { record, noted, exports, runs };
        if self.json {
            return ui.json(&(serde_json::to_string_pretty(&trace)? + "\n"));
        }
        ui.result(&(record_lines(&trace).join("\n") + "\n"))?;
        match (trace.runs.first(), trace.exports.is_empty()) {
            (Some(run), _) => ui.next(&format!("gptkit feedback trace {} --feedback {}", shell(run), shell(folder))),
            (None, false) => ui.next(&format!("gptkit feedback stats {}", shell(folder))),
            (None, true) => {
                ui.next(&format!("gptkit feedback export {} --comparisons comparisons.jsonl", shell(folder)));
            }
        }
        Ok(())
    }

    /// Runs in `--runs` that read a file with one of `hashes`.
    fn runs_with(&self, hashes: &[&String]) -> Vec<PathBuf> {
        let entries = self.runs.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
        let holds = |run: &PathBuf| {
            RunRequest::read(run).is_some_and(|request| request.files.values().any(|hash| hashes.contains(&hash)))
        };
        let mut runs: Vec<PathBuf> = entries.filter(holds).collect();
        runs.sort();
        runs
    }
}

/// A path or a name as it may stand in a line.
fn shown(path: &Path) -> String {
    printable_line(&path.display().to_string()).into_owned()
}

/// `role` is the argument that names the run's model.
fn run_lines(trace: &RunTrace, indent: &str, role: &str, lines: &mut Vec<String>) {
    lines.push(format!("{indent}{role}{} (gptkit {})", shown(&trace.run), printable_line(&trace.command)));
    let indent = format!("{indent}  ");
    if trace.files.is_empty() {
        lines.push(format!("{indent}no files of records"));
    }
    trace.files.iter().for_each(|file| file_lines(file, &indent, lines));
    for (argument, model) in &trace.models {
        run_lines(model, &indent, &format!("--{} ", printable_line(argument)), lines);
    }
}

fn file_lines(trace: &FileTrace, indent: &str, lines: &mut Vec<String>) {
    let path = shown(&trace.path);
    match (&trace.export, trace.edited_after) {
        (Some(export), _) => {
            lines.push(format!("{indent}{path}: {}", export_line(export)));
            lines.extend(people_lines(export).into_iter().map(|line| format!("{indent}  {line}")));
        }
        (None, Some(export)) => {
            lines.push(format!("{indent}{path}: edited after it was written as export {export}: the hashes differ"));
        }
        (None, None) => lines.push(format!("{indent}{path}: not an export of the feedback")),
    }
    if trace.changed_since {
        let what = if trace.path.exists() { "has changed" } else { "is missing" };
        lines.push(format!("{indent}  the file {what} since the run started"));
    }
}

fn export_line(export: &NotedExport) -> String {
    let is_automatic = |records: &&Vec<RecordId>| records.iter().all(|record| record.kind == RecordKind::Judgment);
    let n_automatic = export.people.values().filter(is_automatic).count();
    let automatic = if n_automatic > 0 { format!(" · automatic judges {n_automatic}") } else { String::new() };
    format!(
        "export {} ({}) of {} · records {} · people {}{automatic}",
        export.export,
        printable_line(&export.kind),
        printable_line(&export.at),
        grouped(export.n_records() as u64),
        export.people.len() - n_automatic
    )
}

fn people_lines(export: &NotedExport) -> Vec<String> {
    let line = |(who, records): (&String, &Vec<RecordId>)| {
        let listed: Vec<String> = records.iter().take(LISTED).map(RecordId::to_string).collect();
        let more = match records.len().saturating_sub(LISTED) {
            0 => String::new(),
            n => format!(" and {} more", grouped(n as u64)),
        };
        format!("{}: {} records: {}{more}", printable_line(who), grouped(records.len() as u64), listed.join(", "))
    };
    let mut lines: Vec<String> = export.people.iter().map(line).collect();
    if export.deleted > 0 {
        lines.push(format!("{} records deleted since", grouped(export.deleted)));
    }
    lines
}

fn record_lines(trace: &RecordTrace) -> Vec<String> {
    let RecordTrace { record, noted, exports, runs } = trace;
    let mut lines = vec![match noted {
        NotedRecord::Stored { who: Some(who), at } => {
            format!("{record} by {}, {}", printable_line(who), printable_line(at))
        }
        NotedRecord::Stored { who: None, at } => format!("{record}, {}", printable_line(at)),
        NotedRecord::Deleted { at } => format!("{record} was deleted at {}", printable_line(at)),
    }];
    if exports.is_empty() {
        lines.push("in no export".to_owned());
    }
    let place = |export: &NotedExport| printable_line(&export.path).into_owned();
    lines.extend(exports.iter().map(|export| format!("in {}: {}", place(export), export_line(export))));
    lines.extend(runs.iter().map(|run| format!("trained on it: {}", shown(run))));
    lines
}

fn first_of(file: &FileTrace) -> Option<RecordId> {
    file.export.as_ref()?.people.values().flatten().next().copied()
}
