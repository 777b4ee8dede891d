//! `gptkit`: one binary for every stage of the GPT lineage.
//!
//! Each subcommand is a file: arguments, then read, say, do, say what is next. All that is printed goes through [`ui`].

mod asking;
mod attention;
mod bench;
mod best_of;
mod chat;
mod compare;
mod comparison_args;
mod completions;
mod config_command;
mod conversation;
mod data_args;
mod device;
mod dpo;
mod eval;
mod finetune;
mod heat_map;
mod info;
mod inspect;
mod judging;
mod lineage;
mod man;
mod merge;
mod plan;
mod plan_ppo;
mod ppo;
mod predict;
mod prepare;
mod presets;
mod pretrain;
mod records_args;
mod run_args;
mod runs;
mod sample;
mod sampling_args;
mod scaling;
mod score;
mod sft;
mod table;
mod tasks;
mod tokenizer;
mod train_rm;
mod ui;
mod win_rates;
mod world;

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use ui::Ui;

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
    Lineage(lineage::Lineage),
    Pretrain(pretrain::Pretrain),
    Finetune(finetune::Finetune),
    Predict(predict::Predict),
    Sft(sft::Sft),
    TrainRm(train_rm::TrainRm),
    Ppo(ppo::Ppo),
    Dpo(dpo::Dpo),
    Score(score::Score),
    Rank(score::Rank),
    Compare(compare::Compare),
    WinRates(win_rates::WinRates),
    Eval(Box<eval::Eval>),
    Merge(merge::Merge),
    Plan(plan::Plan),
    Inspect(inspect::Inspect),
    Runs(runs::Runs),
    Plot(runs::Plot),
    Sample(sample::Sample),
    Chat(chat::Chat),
    Attention(attention::Attention),
    Prepare(prepare::Prepare),
    Scaling(scaling::Scaling),
    Bench(bench::Bench),
    Info(info::Info),
    #[command(subcommand)]
    Tokenizer(tokenizer::Tokenizer),
    #[command(subcommand)]
    Config(config_command::Config),
    World(world::World),
    Completions(completions::Completions),
    Man(man::Man),
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
            Self::Plan(command) => command.run(ui),
            Self::Inspect(command) => command.run(ui),
            Self::Runs(command) => command.run(ui),
            Self::Plot(command) => command.run(ui),
            Self::Attention(command) => command.run(ui),
            Self::Sample(command) => command.run(ui),
            Self::Chat(command) => command.run(ui),
            Self::Prepare(command) => command.run(ui),
            Self::Scaling(command) => command.run(ui),
            Self::Bench(command) => command.run(ui),
            Self::Info(command) => command.run(ui),
            Self::Tokenizer(command) => command.run(ui),
            Self::Config(command) => command.run(ui),
            Self::World(command) => command.run(ui),
            Self::Completions(command) => command.run(ui),
            Self::Man(command) => command.run(ui),
        }
    }
}

/// Has the allocator never give memory back: a training step takes what the one before it freed, and getting pages from
/// the system costs a quarter of a step.
fn keep_memory() {
    /// `mi_option_purge_delay`, which the library's bindings do not name: milliseconds, or never.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    // SAFETY: the call sets a number.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) }
}

/// Has candle's own threads sleep as soon as they have no work: by default they wait by spinning, on the cores that the
/// products of a training step run on.
fn keep_cores() {
    // SAFETY: the program has no second thread yet that could read the environment.
    unsafe { std::env::set_var("CANDLE_BARRIER_POOL_SPIN_LIMIT", "1") }
}

fn main() -> ExitCode {
    keep_memory();
    keep_cores();
    let cli = Cli::parse();
    let ui = Ui::new();
    let result = cli.command.run(&ui);
    ui.ended();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => ui.fail(&e),
    }
}
