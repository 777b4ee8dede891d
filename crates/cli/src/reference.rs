//! The reference pages of `docs/`, generated from the definitions of commands, presets, environment variables and exit
//! codes; and the commands in the blocks of code of all pages, parsed.

#[path = "../../../tests/pages.rs"]
mod pages;

use crate::config_keys::KeysOf;
use crate::env::VARIABLES;
use crate::presets::{self, PRESETS};
use crate::{Cli, help};
use clap::{Arg, Command, FromArgMatches, ValueEnum};
use gptkit_lineage::LineageConfig;
use gptkit_reward::RewardConfig;
use gptkit_rl::{DpoConfig, PpoConfig};
use gptkit_scaling::ScalingConfig;
use gptkit_sft::{FinetuneConfig, SftConfig};
use gptkit_train::PretrainConfig;
use gptkit_train::interrupt::Stop;
use pages::{assert_generated, code_blocks};
use regex::Regex;
use serde::Serialize;
use serde_json::Value;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use std::collections::BTreeMap;

#[test]
fn the_page_of_commands_is_that_of_the_command_line() {
    let mut root = help::command().disable_help_subcommand(true);
    root.build(); // gives subcommands their full names
    let described = described();
    let mut overview = "| command | purpose | group |\n| --- | --- | --- |\n".to_owned();
    let mut sections = String::new();
    for (group, names) in help::GROUPS {
        sections += &format!("\n## {group}\n");
        let commands = names.iter().filter_map(|name| root.find_subcommand(name)); // `help` is no command here
        for command in commands {
            let (name, about) = (command.get_name(), text(command.get_about()));
            overview += &format!("| [`gptkit {name}`](#gptkit-{name}) | {about} | {group} |\n");
            sections += &section(command, &described);
        }
    }
    assert_generated("docs/commands.md", "commands", &(overview + &sections));
}

/// The page that has the table `## Flags of` of each command, by the command's name, as a link.
fn described() -> BTreeMap<String, String> {
    let mut described = BTreeMap::new();
    for (file, text) in pages::pages() {
        let title = text.lines().find_map(|line| line.strip_prefix("# ")).unwrap_or_default();
        for name in text.lines().filter_map(|line| line.strip_prefix("## Flags of `gptkit ")) {
            let file = file.trim_start_matches("docs/");
            described.insert(name.trim_end_matches('`').to_owned(), format!("[{title}]({file})"));
        }
    }
    described
}

/// Description, arguments, options and examples of a command, and then of its subcommands.
fn section(command: &Command, described: &BTreeMap<String, String>) -> String {
    let name = command.get_bin_name().unwrap_or_default().to_owned();
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
    let about =
        marked(&about.split("\n\n").map(|paragraph| paragraph.replace('\n', " ")).collect::<Vec<_>>().join(".\n\n"));
    let about = if about.ends_with('.') { about } else { about + "." };
    let mut section = format!("\n### {name}\n\n{}\n", wrapped(&about));
    let usage = command.clone().render_usage().to_string();
    section += &format!("\n```text\n{}\n```\n", usage.trim_start_matches("Usage: "));
    // In the order of the help, which is not that of the definition where a command changes an argument that it shares.
    let help = command.clone().render_long_help().to_string();
    let option_lines: Vec<&str> = help.lines().filter_map(|line| line.trim().split(' ').next()).collect();
    let mut arguments: Vec<&Arg> = command.get_arguments().collect();
    arguments.sort_by_key(|arg| {
        let name = arg.get_long().map(|long| format!("--{long}"));
        name.and_then(|name| option_lines.iter().position(|first| *first == name))
    });
    let rows: String = arguments.into_iter().filter_map(row).collect();
    if !rows.is_empty() {
        section += &format!("\n| option | effect | default |\n| --- | --- | --- |\n{rows}");
    }
    if let Some(examples) = command.get_after_help().map(ToString::to_string) {
        let examples = examples.lines().filter_map(|line| line.strip_prefix("  "));
        let examples: String = examples.flat_map(|example| ["$ ", example, "\n"]).collect();
        section += &format!("\n<!-- not run: examples of the help -->\n```console\n{examples}```\n");
    }
    if let Some(page) = described.get(name.trim_start_matches("gptkit ")) {
        section += &format!("\nMore: {page}.\n");
    }
    section + &command.get_subcommands().map(|below| self::section(below, described)).collect::<String>()
}

/// A row of the table of options; none for `--help` and `--version`.
fn row(arg: &Arg) -> Option<String> {
    if matches!(arg.get_id().as_str(), "help" | "version") {
        return None;
    }
    let values =
        arg.get_value_names().unwrap_or_default().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let takes_values = arg.get_action().takes_values();
    let name = match arg.get_long() {
        Some(long) if takes_values => format!("--{long} {values}"),
        Some(long) => format!("--{long}"),
        None => values,
    };
    let said = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let said = said.replace("\n\n", ". ").replace('\n', " ");
    let (said, default) = match said.strip_suffix(']').and_then(|said| said.rsplit_once(" [default: ")) {
        Some((said, default)) => (said.to_owned(), default.to_owned()),
        None => {
            let defaults = arg
                .get_default_values()
                .iter()
                .filter(|_| takes_values)
                .map(|value| format!("`{}`", value.to_string_lossy()));
            (said, defaults.collect::<Vec<_>>().join(", "))
        }
    };
    let default = if arg.is_required_set() { "required".to_owned() } else { default };
    let possible = arg.get_possible_values().into_iter().filter(|value| takes_values && !value.is_hide_set());
    let possible: Vec<String> = possible
        .map(|value| match value.get_help() {
            Some(about) => format!("`{}` ({})", value.get_name(), within_sentence(&about.to_string())),
            None => format!("`{}`", value.get_name()),
        })
        .collect();
    let possible = if possible.is_empty() { String::new() } else { format!(": {}", possible.join(", ")) };
    Some(format!("| `{}` | {}{} | {} |\n", cell(&name), cell(&marked(&said)), cell(&possible), cell(&default)))
}

/// `text` as it continues a sentence: `The GPU` is `the GPU`, `CPU` stays.
fn within_sentence(text: &str) -> String {
    let mut letters = text.chars();
    match (letters.next(), letters.next()) {
        (Some(first), Some(second)) if second.is_lowercase() => {
            first.to_lowercase().chain(std::iter::once(second)).chain(letters).collect()
        }
        _ => text.to_owned(),
    }
}

/// `text` with the names of options set as code.
fn marked(text: &str) -> String {
    let option = Regex::new(r#"(^|[\s(])(--[a-z][a-z-]*( [a-z]+\.[a-z_]+(="[^"]*"|=\S+)?)?)"#).unwrap();
    let parts = text.split('`').enumerate();
    let parts = parts
        .map(|(i, part)| if i % 2 == 0 { option.replace_all(part, "$1`$2`").into_owned() } else { part.to_owned() });
    parts.collect::<Vec<_>>().join("`")
}

/// `text` as it stands in a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// Paragraphs in lines of at most 120 characters.
fn wrapped(text: &str) -> String {
    text.split("\n\n").map(|paragraph| textwrap::fill(paragraph, 120)).collect::<Vec<_>>().join("\n\n")
}

fn text(about: Option<&clap::builder::StyledStr>) -> String {
    about.map(|about| cell(&marked(&about.to_string()))).unwrap_or_default()
}

#[test]
fn the_page_of_presets_is_that_of_the_embedded_files() {
    let mut by_command: Vec<(&str, Vec<(&str, Value)>)> = Vec::new();
    for (name, _) in PRESETS {
        let command = presets::command_of(name);
        let settings = settings(name, command);
        match by_command.iter_mut().find(|(known, _)| *known == command) {
            Some((_, presets)) => presets.push((name, settings)),
            None => by_command.push((command, vec![(name, settings)])),
        }
    }
    let mut page = String::new();
    for (command, presets) in by_command {
        page += &format!("\n## Presets of `gptkit {command}`\n\n");
        // Those that no preset of the command has are left out.
        let columns: Vec<&(&str, &str)> = COLUMNS
            .iter()
            .filter(|(_, key)| presets.iter().any(|(_, all)| !all.pointer(key).unwrap_or(&Value::Null).is_null()))
            .collect();
        let titles: String = columns.iter().map(|(title, _)| format!(" {title} |")).collect();
        page += &format!("| preset | description |{titles}\n| --- | --- |{}\n", " --- |".repeat(columns.len()));
        for (name, settings) in presets {
            let description = settings["description"].as_str().unwrap();
            let values: String =
                columns.iter().map(|(_, key)| format!(" {} |", shown(settings.pointer(key)))).collect();
            page += &format!("| `{name}` | {} |{values}\n", cell(description));
        }
    }
    assert_generated("docs/presets.md", "presets", &page);
}

#[test]
fn the_page_of_keys_is_that_of_the_types() {
    let mut page = String::new();
    for command in KeysOf::value_variants() {
        let name = command.name();
        page += &format!(
            "\n## Keys of `gptkit {name}`\n\n| key | value | default | meaning |\n| --- | --- | --- | --- |\n"
        );
        for key in command.keys() {
            let path = if key.is_section() { format!("**`[{}]`**", key.path) } else { format!("`{}`", key.path) };
            let default = match (&key.default, key.required && !key.is_section()) {
                (Some(default), _) => format!("`{}`", cell(default)),
                (None, true) => "required".to_owned(),
                (None, false) => String::new(),
            };
            page += &format!("| {path} | {} | {default} | {} |\n", cell(&key.kind), cell(&key.meaning));
        }
    }
    assert_generated("docs/keys.md", "keys", &page);
}

/// Settings that the tables of presets show: title, and place in the configuration.
const COLUMNS: &[(&str, &str)] = &[
    ("layers", "/model/n_layer"),
    ("heads", "/model/n_head"),
    ("width", "/model/d_model"),
    ("context", "/model/context"),
    ("length", "/train/length"),
    ("batch size", "/train/batch_size"),
    ("learning rate", "/train/lr"),
];

/// A setting as a person writes it.
fn shown(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) if number.is_f64() => format!("{:e}", number.as_f64().unwrap()),
        Some(value) => value.to_string(),
    }
}

/// The settings of a preset of `command`.
fn settings(name: &str, command: &str) -> Value {
    fn value<T: Serialize>(loaded: anyhow::Result<T>) -> Value {
        serde_json::to_value(loaded.unwrap()).unwrap()
    }
    match command {
        "dpo" => value(presets::preset::<DpoConfig>(name)),
        "finetune" => value(presets::preset::<FinetuneConfig>(name)),
        "lineage" => value(presets::preset::<LineageConfig>(name)),
        "ppo" => value(presets::preset::<PpoConfig>(name)),
        "train-rm" => value(presets::preset::<RewardConfig>(name)),
        "scaling" => value(presets::preset::<ScalingConfig>(name)),
        "sft" => value(presets::preset::<SftConfig>(name)),
        _ => value(presets::preset::<PretrainConfig>(name)),
    }
}

#[test]
fn the_page_of_environment_variables_and_exit_codes_is_up_to_date() {
    let mut variables = "| variable | effect | values |\n| --- | --- | --- |\n".to_owned();
    for variable in VARIABLES {
        let values = if variable.values.contains(' ') && !variable.values.contains(',') || variable.values.is_empty() {
            variable.values.to_owned()
        } else {
            variable.values.split(", ").map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", ")
        };
        variables += &format!("| `{}` | {} | {} |\n", variable.name, cell(variable.about), values);
    }
    assert_generated("docs/environment.md", "environment variables", &variables);
    let mut codes = "| exit code | meaning |\n| --- | --- |\n".to_owned();
    for (code, meaning) in [
        (0, "success; also when the reader of stdout is gone, as with `| head`"),
        (1, "the command failed at its work, for instance at a record of a file"),
        (
            2,
            "nothing was done: the command line, the configuration, an environment variable, or a model or output folder \
             that they name cannot be used",
        ),
        (Stop::Time.exit_code(), "`--max-time` is over; the state is saved"),
        (stopped_by(SIGHUP), "stopped by SIGHUP (a closed terminal); the state is saved"),
        (
            stopped_by(SIGINT),
            "stopped by Ctrl-C (SIGINT); the state is saved, unless a second Ctrl-C ended the command",
        ),
        (stopped_by(SIGUSR1), "stopped by SIGUSR1 (SLURM's `--signal=USR1@60`); the state is saved"),
        (
            stopped_by(SIGTERM),
            "stopped by SIGTERM (batch systems); the state is saved, unless a second one ended the command",
        ),
    ] {
        codes += &format!("| {code} | {meaning} |\n");
    }
    assert_generated("docs/environment.md", "exit codes", &codes);
}

fn stopped_by(signal: i32) -> u8 {
    Stop::Signal(u8::try_from(signal).unwrap()).exit_code()
}

/// Also those of blocks that are not run: a file that a command names need not exist.
#[test]
fn every_command_in_a_block_of_code_is_valid() {
    let (mut n, mut wrong) = (0, Vec::new());
    for (file, text) in pages::pages() {
        for block in code_blocks(&text).into_iter().filter(|block| block.is_shell()) {
            let is_reason = |comment: &str| comment.strip_prefix("not run: ").is_some_and(|reason| reason.len() > 5);
            if let Some(comment) = block.comment.as_deref().filter(|comment| !is_reason(comment)) {
                wrong.push(format!("{file}, before the block of line {}: {comment}, not a reason", block.line));
            }
            for line in block.commands() {
                let words = shlex::split(&line).unwrap_or_else(|| panic!("{file}: {line} has an open quote"));
                for command in words.split(|word| word == "|").filter_map(called) {
                    n += 1;
                    let parsed = help::command().try_get_matches_from(&command);
                    if let Err(e) = parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
                        wrong.push(format!("{file}, the block of line {}: {line}\n{e}", block.line));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(n > 80, "{n} commands were found");
}

/// The name and the arguments of gptkit if `words` call it, without redirections of the shell.
fn called(words: &[String]) -> Option<Vec<String>> {
    let given = match words {
        [first, rest @ ..] if first == "gptkit" => rest,
        [first, second, ..] if first == "cargo" && second == "run" => {
            &words[1 + words.iter().position(|word| word == "--")?..]
        }
        _ => return None,
    };
    let given = given.iter().take_while(|word| !word.starts_with(['>', '<']));
    Some(std::iter::once("gptkit".to_owned()).chain(given.cloned()).collect())
}
