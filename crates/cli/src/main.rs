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
    let result = match cli.command {
        Command::Pretrain(command) => command.run(&ui),
        Command::Finetune(command) => command.run(&ui),
        Command::Predict(command) => command.run(&ui),
        Command::Sft(command) => command.run(&ui),
        Command::TrainRm(command) => command.run(&ui),
        Command::Ppo(command) => command.run(&ui),
        Command::Dpo(command) => command.run(&ui),
        Command::Score(command) => command.run(&ui),
        Command::Rank(command) => command.run(&ui),
        Command::Compare(command) => command.run(&ui),
        Command::WinRates(command) => command.run(&ui),
        Command::Eval(command) => command.run(&ui),
        Command::Merge(command) => command.run(&ui),
        Command::Plan(command) => command.run(&ui),
        Command::Inspect(command) => command.run(&ui),
        Command::Runs(command) => command.run(&ui),
        Command::Plot(command) => command.run(&ui),
        Command::Attention(command) => command.run(&ui),
        Command::Sample(command) => command.run(&ui),
        Command::Chat(command) => command.run(&ui),
        Command::Prepare(command) => command.run(&ui),
        Command::Scaling(command) => command.run(&ui),
        Command::Bench(command) => command.run(&ui),
        Command::Info(command) => command.run(&ui),
        Command::Tokenizer(command) => command.run(&ui),
        Command::Config(command) => command.run(&ui),
        Command::World(command) => command.run(&ui),
        Command::Completions(command) => command.run(&ui),
        Command::Man(command) => command.run(&ui),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => ui.fail(&e),
    }
}
