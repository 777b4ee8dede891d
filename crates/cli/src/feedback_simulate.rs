//! `gptkit feedback simulate`: a server, and people who use it.

use crate::device::ComputeArgs;
use crate::feedback_stats::{export_command, lines};
use crate::serve::ServeCommand;
use crate::ui::{Stopped, Ui, Usage, unusable};
use anyhow::{Result, bail};
use clap::Args;
use gptkit_data::source::OnBadRecord;
use gptkit_data::split::Split;
use gptkit_feedback::FeedbackStore;
use gptkit_feedback::people::AccessRole;
use gptkit_feedback::store::file_in;
use gptkit_preferences::people::{LabelingPlan, PersonKey, SimulatedPeople};
use gptkit_preferences::prompts::PromptSource;
use gptkit_serve::{ApiKey, named_folder, stop_signal};
use gptkit_train::interrupt::Interrupt;
use std::ffi::OsString;
use std::path::PathBuf;
use ulid::Ulid;

/// Have simulated people label a model's answers on a server
///
/// This starts the server of `gptkit serve --feedback` on a free port of this machine. An administrator and the labelers have keys,
/// and use the HTTP API as the web page does. The administrator makes a task of each prompt. A labeler takes a task, has the model
/// answer, ranks the answers, rates the best one, and writes a correction if no answer is right. The labelers follow the built-in
/// world's gold score with mistakes. A second labeler ranks the answers of every tenth task, so that the agreement of the labelers
/// is known. The same seed gives the same answers and rankings.
#[derive(Debug, Args)]
pub(crate) struct SimulateCommand {
    /// Chat model folder, or NAME=DIR, whose answers are labeled
    #[arg(long, value_name = "[NAME=]DIR")]
    model: String,
    /// Prompts of the built-in world: world, world:N or world:N:SEED
    #[arg(long, value_name = "SOURCE", default_value = "world")]
    prompts: String,
    /// Number of prompts [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    count: Option<u64>,
    /// Answers to each prompt
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(2..=9))]
    k: u64,
    /// Number of labelers
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=100))]
    people: u64,
    /// Temperature of the answers
    #[arg(long, value_name = "T", default_value_t = 1.0)]
    temperature: f64,
    /// Longest answer, in tokens
    #[arg(long, value_name = "N", default_value_t = 128)]
    max_new_tokens: u64,
    /// Seed of the answers and of the labelers' mistakes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// New folder for the feedback
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    compute: ComputeArgs,
}

/// Megabytes for keys and values: each prompt is answered once, so that it does not help to keep more.
const CACHE: &str = "96";

impl SimulateCommand {
    pub(crate) fn run(self, ui: &Ui) -> Result<()> {
        let source = PromptSource { source: &self.prompts, count: self.count, part: Split::Train };
        let Some(world) = source.world() else {
            let what = format!("--prompts {}: simulated people only know the built-in world", self.prompts);
            return Err(Usage::new(what).hint("use --prompts world:1000").into());
        };
        if file_in(&self.out)?.exists() {
            let what = format!("{} already contains feedback", self.out.display());
            return Err(Usage::new(what).hint("use a new --out").into());
        }
        let (_, folder) = named_folder(&self.model).map_err(unusable)?;
        let items = source.items(&[&folder], OnBadRecord::Fail, ui)?;
        let labelers: Vec<PersonKey> = (1..=self.people).map(|number| person(&format!("labeler-{number}"))).collect();
        let admin = person("admin");
        let key = |person: &PersonKey, role| ApiKey { secret: person.secret.clone(), name: person.name.clone(), role };
        let mut keys: Vec<ApiKey> = labelers.iter().map(|person| key(person, AccessRole::Labeler)).collect();
        keys.push(key(&admin, AccessRole::Admin));
        let rows = (self.people * self.k).to_string();
        let arguments = ["--model", &self.model, "--port", "0", "--max-rows", &rows, "--cache", CACHE, "--feedback"];
        let mut arguments: Vec<OsString> = arguments.map(OsString::from).into();
        arguments.push(self.out.clone().into());
        let (server, model) = ServeCommand::with_arguments(&arguments, self.compute)?.open(keys)?;
        if !model.chats {
            bail!("{} has no chat template, so it cannot answer prompts", folder.display());
        }
        let plan = LabelingPlan {
            items: &items,
            world: &world,
            model: &model.name,
            k: self.k,
            temperature: self.temperature,
            max_tokens: self.max_new_tokens,
            seed: self.seed,
        };
        let url = format!("http://{}", server.address()?);
        ui.say(&format!("serving {} on {url} to {} labelers with keys", model.name, self.people));
        let interrupt = Interrupt::watch(None)?;
        let (stop, stopped) = stop_signal();
        let running = std::thread::spawn(move || server.run(stopped));
        let worked = SimulatedPeople::new(&plan, &url, &admin, &labelers).work(&interrupt, ui);
        let _ = stop.send(true); // a server that failed has stopped
        running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        if let Some(stop) = worked? {
            ui.say(&format!("stopped; the feedback so far is in {}", self.out.display()));
            return Err(Stopped(stop).into());
        }
        let figures = FeedbackStore::open(&self.out).map_err(unusable)?.figures(None)?;
        lines(&figures).lines().for_each(|line| ui.say(line));
        ui.next(&export_command(&self.out));
        Ok(())
    }
}

/// A person with a new key.
fn person(name: &str) -> PersonKey {
    PersonKey { name: name.to_owned(), secret: Ulid::new().to_string() }
}
