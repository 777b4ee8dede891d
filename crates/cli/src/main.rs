//! `gptkit`: one binary for every stage of the GPT lineage.
//!
//! Each subcommand is a file: arguments, then read, say, do, say what is next. All that is printed goes through [`ui`].

mod asking;
mod attention;
mod bench;
mod chat;
mod compare;

mod completions;
mod config_command;
mod config_keys;
mod data_args;
mod device;
mod doctor;
mod dpo;
mod env;
mod eval;
mod export;
mod feedback;
mod feedback_simulate;
mod feedback_stats;
mod feedback_trace;
mod finetune;
mod flag_hint;
mod following;
mod help;
mod hub_names;
mod import;
mod info;
mod inspect;
mod judging;
mod lineage;
mod man;
mod memory;
mod merge;
mod plan;
mod plan_ppo;
mod plan_text;
mod ppo;
mod predict;
mod prepare;
mod presets;
mod pretrain;
mod progress;
mod pull;
mod push;
#[cfg(test)]
mod rank_tests;
mod ranks;
mod records_args;
#[cfg(test)]
mod reference;
mod run_args;
mod runs;
mod sample;
mod sampling_args;
mod scaling;
mod score;
mod serve;
mod sft;
mod stage_args;
mod stage_names;
mod stderr;
mod stdin;
#[cfg(test)]
mod tested_stages;
mod tokenizer;
#[cfg(test)]
mod train_keys;
mod train_rm;
mod training_flags;
mod ui;
mod win_rates;
mod world;

use clap::{FromArgMatches, Parser, Subcommand};
use gptkit_data::printable::printable_line;
use gptkit_ranks::Ranks;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::ffi::OsString;
use std::panic::PanicHookInfo;
use std::process::ExitCode;
use stderr::write_line;
use ui::{RankEnds, Stopped, Ui, Usage};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Make a GPT, from raw text to a chatbot
#[derive(Debug, Parser)]
#[command(name = "gptkit", version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Lineage(lineage::LineageCommand),
    Pretrain(pretrain::PretrainCommand),
    Finetune(finetune::FinetuneCommand),
    Predict(predict::PredictCommand),
    Sft(sft::SftCommand),
    TrainRm(train_rm::TrainRmCommand),
    Ppo(ppo::PpoCommand),
    Dpo(dpo::DpoCommand),
    Score(score::ScoreCommand),
    Rank(score::RankCommand),
    Compare(compare::CompareCommand),
    WinRates(win_rates::WinRatesCommand),
    Eval(Box<eval::EvalCommand>),
    Merge(merge::MergeCommand),
    Export(export::ModelExportCommand),
    Import(import::ImportCommand),
    Plan(plan::PlanCommand),
    Inspect(inspect::InspectCommand),
    Runs(runs::RunsCommand),
    Plot(runs::PlotCommand),
    Sample(sample::SampleCommand),
    Chat(chat::ChatCommand),
    Serve(serve::ServeCommand),
    Pull(pull::PullCommand),
    Push(push::PushCommand),
    #[command(subcommand)]
    Feedback(feedback::FeedbackCommand),
    Attention(attention::AttentionCommand),
    Prepare(prepare::PrepareCommand),
    Scaling(scaling::ScalingCommand),
    Bench(bench::BenchCommand),
    Info(info::InfoCommand),
    Doctor(doctor::DoctorCommand),
    #[command(subcommand)]
    Tokenizer(tokenizer::TokenizerCommand),
    #[command(subcommand)]
    Config(config_command::ConfigCommand),
    World(world::WorldCommand),
    Completions(completions::CompletionsCommand),
    Man(man::ManCommand),
}

impl Command {
    fn run(self, ui: &Ui) -> anyhow::Result<()> {
        match self {
            Self::Lineage(command) => command.run(ui),
            Self::Pretrain(command) => command.run(ui),
            Self::Finetune(command) => command.run(ui),
            Self::Predict(command) => command.run(ui),
            Self::Sft(command) => command.run(ui),
            Self::TrainRm(command) => command.run(ui),
            Self::Ppo(command) => command.run(ui),
            Self::Dpo(command) => command.run(ui),
            Self::Score(command) => command.run(ui),
            Self::Rank(command) => command.run(ui),
            Self::Compare(command) => command.run(ui),
            Self::WinRates(command) => command.run(ui),
            Self::Eval(command) => command.run(ui),
            Self::Merge(command) => command.run(ui),
            Self::Export(command) => command.run(ui),
            Self::Import(command) => command.run(ui),
            Self::Plan(command) => command.run(ui),
            Self::Inspect(command) => command.run(ui),
            Self::Runs(command) => command.run(ui),
            Self::Plot(command) => command.run(ui),
            Self::Attention(command) => command.run(ui),
            Self::Sample(command) => command.run(ui),
            Self::Chat(command) => command.run(ui),
            Self::Serve(command) => command.run(ui),
            Self::Pull(command) => command.run(ui),
            Self::Push(command) => command.run(ui),
            Self::Feedback(command) => command.run(ui),
            Self::Prepare(command) => command.run(ui),
            Self::Scaling(command) => command.run(ui),
            Self::Bench(command) => command.run(ui),
            Self::Info(command) => command.run(ui),
            Self::Doctor(command) => command.run(ui),
            Self::Tokenizer(command) => command.run(ui),
            Self::Config(command) => command.run(ui),
            Self::World(command) => command.run(ui),
            Self::Completions(command) => command.run(ui),
            Self::Man(command) => command.run(ui),
        }
    }
}

/// Prints a panic, which is a bug in gptkit, as one line; with `RUST_BACKTRACE`, with a backtrace.
fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        write_line(&internal_error(panic));
        let trace = Backtrace::capture();
        if trace.status() == BacktraceStatus::Captured {
            write_line(&trace.to_string());
        }
    }));
}

fn internal_error(panic: &PanicHookInfo) -> String {
    let what = panic.payload_as_str().unwrap_or("no message");
    let place = panic.location().map(|place| format!(" at {}:{}", place.file(), place.line())).unwrap_or_default();
    format!("internal error: {}{place}; please report this with the command that you ran", printable_line(what))
}

/// Makes writes beyond `ulimit -f` return an error instead of ending the process.
fn fail_beyond_file_limit() {
    #[cfg(unix)]
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, std::sync::Arc::default());
}

/// Parses the command line. Returns the exit code if it is invalid or only asks for help.
fn parse(arguments: &[OsString]) -> Result<Cli, ExitCode> {
    let refuse = |what: String| {
        write_line(&format!("error: {what}"));
        ExitCode::from(2)
    };
    // Names of files stand in JSON and TOML, which are UTF-8.
    if let Some(argument) = arguments.iter().find(|argument| argument.to_str().is_none()) {
        return Err(refuse(format!("argument {} is not valid UTF-8", printable_line(&argument.to_string_lossy()))));
    }
    if let Ok(here) = std::env::current_dir()
        && here.to_str().is_none()
    {
        return Err(refuse(format!("the current directory {} is not valid UTF-8", here.display())));
    }
    let parsed = help::command().try_get_matches_from(arguments);
    parsed.and_then(|matches| Cli::from_arg_matches(&matches)).map_err(|e| {
        // Its words are colored, and repeat what the arguments bring along: of those without control characters they are the
        // same but clean.
        let clean = arguments.iter().map(|argument| printable_line(&argument.to_string_lossy()).into_owned());
        let mut e = help::command().try_get_matches_from(clean).err().unwrap_or(e);
        if flag_hint::other_command(&e).is_some() {
            e.remove(clap::error::ContextKind::SuggestedSubcommand); // a name that only looks like it
        }
        match flag_hint::plain(&e) {
            Some(message) => write_line(message.trim_end()),
            None => {
                let _ = e.print(); // a reader that is gone is no failure
            }
        }
        if let Some(hint) = flag_hint::of(&e, arguments, &help::command()) {
            write_line(&format!("  hint: {hint}"));
        }
        ExitCode::from(if e.use_stderr() { 2 } else { 0 })
    })
}

fn main() -> ExitCode {
    report_panics();
    fail_beyond_file_limit();
    let arguments: Vec<_> = std::env::args_os().collect();
    // A server runs for weeks, and its memory has to follow its load.
    if arguments.get(1).is_none_or(|command| command != "serve") {
        memory::keep();
    }
    env::keep_cores();
    let cli = match parse(&arguments) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let events = env::wants_events();
    let (ranks, refusal) = match ranks::connected(arguments.get(1).and_then(|command| command.to_str())) {
        Ok(ranks) => (ranks, None),
        Err(e) => (Ranks::default(), Some(e)),
    };
    let ui = Ui::new(events.as_ref().is_ok_and(|wanted| *wanted), ranks);
    if let Some(refusal) = refusal {
        // All of them are refused, and one says so.
        return if env::started_rank() == 0 { ui.fail(&refusal) } else { ExitCode::from(2) };
    }
    if let Err(e) = events {
        return ui.fail(&e.into());
    }
    for name in env::unknown() {
        ui.say(&format!("warning: unknown environment variable {name}"));
    }
    let result = match hub_names::resolved(&arguments, &ui) {
        Err(e) => Err(e),
        Ok(None) => cli.command.run(&ui),
        Ok(Some(resolved)) => match parse(&resolved) {
            Ok(cli) => cli.command.run(&ui),
            Err(code) => return code,
        },
    };
    ui.ended();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let code = ui.fail(&e);
            if let Some(hint) = hub_names::hint(&arguments) {
                ui.say(&format!("  hint: {hint}"));
            }
            if !ui.ranks().is_alone() && !e.is::<Stopped>() && !e.is::<RankEnds>() {
                // Without a farewell to the other ranks, which would wait for it: MPI's starter ends them.
                std::process::exit(if e.is::<Usage>() { 2 } else { 1 });
            }
            code
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[test]
    fn a_panic_is_one_line_with_its_place() {
        let said: Arc<Mutex<Vec<String>>> = Arc::default();
        let hear = Arc::clone(&said);
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| hear.lock().unwrap().push(internal_error(panic))));
        let panicked = std::thread::spawn(|| panic!("two\nlines \x1b[2J")).join();
        std::panic::set_hook(before);
        assert!(panicked.is_err());
        let said = said.lock().unwrap();
        // Other tests may panic meanwhile.
        let line = said.iter().find(|line| line.contains("two")).unwrap();
        assert!(line.starts_with(r"internal error: two\nlines \x1b[2J at ") && line.contains("main.rs:"), "{line}");
    }
}
