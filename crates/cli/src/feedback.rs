//! `gptkit feedback`: what people thought of answers, for the next round of training.

use crate::data_args::shell;
use crate::device::ComputeArgs;
use crate::feedback_simulate::SimulateCommand;
use crate::feedback_stats::{StatsCommand, export_command};
use crate::feedback_trace::TraceCommand;
use crate::stdin;
use crate::ui::{Ui, Usage, unusable};
use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use gptkit_data::printable::printable_line;
use gptkit_data::progress::{Progress, Unit};
use gptkit_feedback::FeedbackStore;
use gptkit_feedback::choices::Item;
use gptkit_feedback::export::{ExportCounts, ExportFilter, ExportKind};
use gptkit_feedback::records::{MARKS, RecordedAnswer};
use gptkit_feedback::trace::NotedExport;
use gptkit_model::load::{may_be_model, weights_fingerprint};
use gptkit_model::sampler::Sampling;
use gptkit_preferences::answering::{CompletionWriter, DecodingSettings};
use gptkit_preferences::settings::StoredSampling;
use serde_json::Value;
use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Stored feedback of `serve` and `compare`: figures, exports, proof, deletion
#[derive(Debug, Subcommand)]
pub(crate) enum FeedbackCommand {
    Export(ExportCommand),
    Stats(StatsCommand),
    Verify(VerifyCommand),
    Trace(TraceCommand),
    DeletePerson(DeletePersonCommand),
    Simulate(SimulateCommand),
}

impl FeedbackCommand {
    pub(crate) fn run(self, ui: &Ui) -> Result<()> {
        match self {
            Self::Export(command) => command.run(ui),
            Self::Stats(command) => command.run(ui),
            Self::Verify(command) => command.run(ui),
            Self::Trace(command) => command.run(ui),
            Self::DeletePerson(command) => command.run(ui),
            Self::Simulate(command) => command.run(ui),
        }
    }
}

/// Write files that `train-rm`, `dpo`, `sft` and `ppo` read
///
/// Only feedback of people who agreed to training is exported. As in InstructGPT (Ouyang et al. 2022, §3.2), a person gives a
/// limited number of prompts, prompts that begin alike count once, and mail addresses, telephone and card numbers are masked.
#[derive(Debug, Args)]
pub(crate) struct ExportCommand {
    /// Folder of `gptkit serve --feedback`, or of `gptkit compare`
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// File for rankings and corrected answers: JSONL for `train-rm` and `dpo`
    #[arg(long, value_name = "FILE")]
    comparisons: Option<PathBuf>,
    /// File for dialogues that people wrote: JSONL for `sft`
    #[arg(long, value_name = "FILE")]
    demonstrations: Option<PathBuf>,
    /// File for what people asked: JSONL for `ppo` and `compare`
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// Only feedback of this person
    #[arg(long, value_name = "NAME")]
    person: Option<String>,
    /// Only rankings of answers of this model: its name, or the fingerprint of its weights
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Leave out answers that were given this mark (repeatable)
    #[arg(long, value_name = "MARK")]
    without: Vec<String>,
    /// Only the people of one part, such as 1/5: each person is in one part
    #[arg(long, value_name = "I/N", value_parser = part)]
    part: Option<(u64, u64)>,
    /// Most prompts of a person
    #[arg(long, value_name = "N", default_value_t = 200)]
    prompts_per_person: usize,
    /// Also export feedback of people who did not agree to training
    #[arg(long)]
    without_consent: bool,
    /// Do not mask mail addresses, telephone and card numbers
    #[arg(long)]
    no_mask: bool,
}

/// Characters of an answer that are shown.
const SHOWN: usize = 200;

/// `I/N`, counted from 1.
fn part(text: &str) -> Result<(u64, u64), String> {
    let numbers = text.split_once('/').and_then(|(i, n)| Some((i.parse::<u64>().ok()?, n.parse::<u64>().ok()?)));
    match numbers {
        Some((i, n)) if (1..=n).contains(&i) => Ok((i - 1, n)),
        _ => Err(format!("{text} is not a part; write for instance 1/5")),
    }
}

impl ExportCommand {
    fn run(self, ui: &Ui) -> Result<()> {
        let wanted = [
            (ExportKind::Comparisons, &self.comparisons),
            (ExportKind::Demonstrations, &self.demonstrations),
            (ExportKind::Prompts, &self.prompts),
        ];
        if wanted.iter().all(|(_, path)| path.is_none()) {
            let hint = "use --comparisons FILE, --demonstrations FILE or --prompts FILE";
            return Err(Usage::new("there is nothing to export").hint(hint).into());
        }
        if let Some(mark) = self.without.iter().find(|mark| !MARKS.iter().any(|(name, _)| name == mark)) {
            let marks = MARKS.map(|(name, _)| name).join(", ");
            return Err(Usage::new(format!("--without {mark}: there is no such mark"))
                .hint(format!("the marks are {marks}"))
                .into());
        }
        let filter = ExportFilter {
            person: self.person.clone(),
            model: self.model.clone(),
            without_marks: self.without.clone(),
            without_consent: self.without_consent,
            prompts_per_person: self.prompts_per_person,
            part: self.part,
            mask: !self.no_mask,
        };
        let mut store = FeedbackStore::open(&self.folder).map_err(unusable)?;
        for (kind, path) in wanted {
            let Some(path) = path else { continue };
            let counts = store.export_to(kind, &filter, path)?;
            say(ui, kind, path.display(), &counts);
            let model = store.last_model()?.filter(|model| may_be_model(Path::new(model)));
            match (model, counts.records) {
                (Some(model), 1..) => {
                    let (model, path) = (shell(Path::new(&model)), shell(path));
                    ui.next(&match kind {
                        ExportKind::Comparisons => format!("gptkit train-rm --init {model} --data {path}"),
                        ExportKind::Demonstrations => format!("gptkit sft --init {model} --data {path}"),
                        ExportKind::Prompts => {
                            format!("gptkit compare --a {model} --k 4 --prompts {path} --judge human")
                        }
                    });
                }
                _ => ui.next(&format!("gptkit feedback stats {}", shell(&self.folder))),
            }
        }
        Ok(())
    }
}

fn say(ui: &Ui, kind: ExportKind, path: impl std::fmt::Display, counts: &ExportCounts) {
    let left_out: String = counts.left_out.iter().map(|(why, n)| format!(" · left out: {n} {why}")).collect();
    let masked = if counts.masked > 0 { format!(" · masked: {}", counts.masked) } else { String::new() };
    ui.say(&format!("{}: {} in {path}{left_out}{masked}", kind.name(), counts.records));
}

/// Generate stored answers again, and compare their tokens
///
/// The same weights, prompt, sampling settings and seed give the same tokens, on the same kind of processor: this proves that
/// the answers are the model's.
#[derive(Debug, Args)]
pub(crate) struct VerifyCommand {
    /// Folder of `gptkit serve --feedback`, or of `gptkit compare`
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Model folder whose answers are generated again
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Verify the last N answers of the model
    #[arg(long, value_name = "N", default_value_t = 200)]
    count: usize,
    #[command(flatten)]
    compute: ComputeArgs,
}

impl VerifyCommand {
    fn run(self, ui: &Ui) -> Result<()> {
        let store = FeedbackStore::open(&self.folder).map_err(unusable)?;
        let weights = weights_fingerprint(&self.model).map_err(unusable)?;
        let (own, others): (Vec<RecordedAnswer>, Vec<RecordedAnswer>) =
            store.answers()?.into_iter().partition(|answer| answer.model.weights == weights && answer.tokens.is_some());
        if own.is_empty() {
            bail!(
                "none of the {} stored answers was generated with the weights in {}",
                others.len(),
                self.model.display()
            );
        }
        let (files, gpt) = self.compute.load_writer(&self.model)?;
        let writer = CompletionWriter::new(&self.model, &files, &gpt)?;
        let chosen = &own[own.len().saturating_sub(self.count)..];
        let task = ui.task("answers", Some(chosen.len() as u64), Unit::Items);
        let mut different = Vec::new();
        for answer in chosen {
            if answer.tokens.as_ref() != Some(&tokens(&writer, answer)?) {
                different.push(answer);
            }
            task.advance(1);
        }
        drop(task);
        let n = chosen.len();
        ui.say(&format!("{} of {n} answers came again token by token", n - different.len()));
        for answer in &different {
            let beginning: String = answer.text.chars().take(SHOWN).collect();
            ui.say(&format!("different: {} choice {}: {beginning:?}", answer.id.request, answer.id.choice));
        }
        if !different.is_empty() {
            bail!("{} answers are not what the model writes now", different.len());
        }
        ui.next(&export_command(&self.folder));
        Ok(())
    }
}

/// The tokens that the model of `writer` generates for the prompt of `answer`.
fn tokens(writer: &CompletionWriter, answer: &RecordedAnswer) -> Result<Vec<u32>> {
    let RecordedAnswer { id, prompt, sampling, max_new_tokens, stop, place, .. } = answer;
    if let Some(field) = ["min-tokens", "ignore-eos"].into_iter().find(|field| sampling.get(field).is_some()) {
        bail!("the request {} has {field}; only the server can generate its answer again", id.request);
    }
    let settings: StoredSampling = serde_json::from_value(Value::clone(sampling))?;
    let decoding = DecodingSettings {
        n_samples: id.choice as usize + 1,
        max_new_tokens: *max_new_tokens as usize,
        stop: stop.clone(),
        log_probs: None,
        sampling: Sampling::from(&settings),
    };
    // A collection of comparisons draws by the number of the prompt.
    let item = Item {
        number: place.map_or(0, |place| place.item),
        place: id.request.clone(),
        world: None,
        prompt: prompt.clone(),
    };
    let mut tokens = Vec::new();
    writer.write(&[item], &decoding, |_, sample, completion| {
        if sample as u64 == id.choice {
            tokens.clone_from(&completion.tokens);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(tokens)
}

/// Delete all that a person wrote
///
/// This deletes the records of the person, the answers to their prompts, and the records of others about these answers. The file
/// is rewritten without the texts. The numbers of the records are kept, so that `gptkit feedback trace` can count them. Files that
/// were exported before are not changed; those that contain such records are listed.
#[derive(Debug, Args)]
pub(crate) struct DeletePersonCommand {
    /// Name of the person
    #[arg(value_name = "NAME")]
    name: String,
    /// Folder of `gptkit serve --feedback`, or of `gptkit compare`
    #[arg(long, value_name = "DIR")]
    feedback: PathBuf,
    /// Delete without asking
    #[arg(long)]
    yes: bool,
}

impl DeletePersonCommand {
    fn run(self, ui: &Ui) -> Result<()> {
        let mut store = FeedbackStore::open(&self.feedback).map_err(unusable)?;
        let name = printable_line(&self.name);
        if !self.yes {
            if !std::io::stdin().is_terminal() {
                let what = format!("all that {name} wrote would be deleted, which cannot be undone");
                return Err(Usage::new(what).hint("add --yes").into());
            }
            ui.say(&format!("all that {name} wrote will be deleted, which cannot be undone; type yes to delete it"));
            if stdin::line(&mut std::io::stdin().lock())?.is_none_or(|line| line.trim() != "yes") {
                ui.say("nothing was deleted");
                return Ok(());
            }
        }
        let Some(report) = store.delete_person(&self.name)? else {
            let hint = format!("`gptkit feedback stats {}` lists the people", shell(&self.feedback));
            return Err(Usage::new(format!("nobody is called {name}")).hint(hint).into());
        };
        let records: Vec<String> = report.records.iter().map(|(kind, n)| format!("{kind} records {n}")).collect();
        let records = if records.is_empty() { "no records".to_owned() } else { records.join(" · ") };
        ui.say(&format!("deleted {name}: {records}"));
        for export in store.exports()?.iter().filter(|export| report.exports.contains(&export.export)) {
            let NotedExport { export: number, at, path, .. } = export;
            ui.say(&format!("export {number} of {at} still holds such records: {}", printable_line(path)));
        }
        ui.next(&export_command(&self.feedback));
        Ok(())
    }
}
