//! `gptkit`: one binary for every stage of the GPT lineage.
//!
//! Each subcommand is a file: arguments, then read, say, do, say what is next. All that is printed goes through [`ui`].

mod attention;
mod config_command;
mod data_args;
mod device;
mod heat_map;
mod inspect;
mod plan;
mod prepare;
mod presets;
mod pretrain;
mod runs;
mod sample;
mod tokenizer;
mod ui;
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
    Plan(plan::Plan),
    Inspect(inspect::Inspect),
    Runs(runs::Runs),
    Plot(runs::Plot),
    Sample(sample::Sample),
    Attention(attention::Attention),
    Prepare(prepare::Prepare),
    #[command(subcommand)]
    Tokenizer(tokenizer::Tokenizer),
    #[command(subcommand)]
    Config(config_command::Config),
    World(world::World),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let ui = Ui::new();
    let result = match cli.command {
        Command::Pretrain(command) => command.run(&ui),
        Command::Plan(command) => command.run(&ui),
        Command::Inspect(command) => command.run(&ui),
        Command::Runs(command) => command.run(&ui),
        Command::Plot(command) => command.run(&ui),
        Command::Attention(command) => command.run(&ui),
        Command::Sample(command) => command.run(&ui),
        Command::Prepare(command) => command.run(&ui),
        Command::Tokenizer(command) => command.run(&ui),
        Command::Config(command) => command.run(&ui),
        Command::World(command) => command.run(&ui),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => ui.fail(&e),
    }
}
