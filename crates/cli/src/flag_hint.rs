//! Plainer messages for mistakes on the command line: flags of other programs, paths without a flag, and invalid numbers.

use crate::data_args::shell;
use clap::Command;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use std::ffi::OsString;
use std::path::Path;

/// Flags of other programs, and what they are called here.
const ELSEWHERE: [(&str, &str); 14] = [
    ("--model", "--init"),
    ("--init", "--model"),
    ("--checkpoint", "--init"),
    ("--learning-rate", "--lr"),
    ("--learning_rate", "--lr"),
    ("--num-epochs", "--epochs"),
    ("--num_train_epochs", "--epochs"),
    ("--max-steps", "--steps"),
    ("--max_steps", "--steps"),
    ("--max-iters", "--steps"),
    ("--batch", "--batch-size"),
    ("--batch_size", "--batch-size"),
    ("--output-dir", "--out"),
    ("--output_dir", "--out"),
];

/// Names of other programs' commands, and what they are called here.
const OTHER_COMMANDS: [(&str, &str); 10] = [
    ("train", "pretrain"),
    ("generate", "sample"),
    ("complete", "sample"),
    ("run", "chat"),
    ("fine-tune", "finetune"),
    ("evaluate", "eval"),
    ("benchmark", "bench"),
    ("reward", "train-rm"),
    ("rlhf", "ppo"),
    ("server", "serve"),
];

/// Messages of the standard library's number parsers, and plain words for them.
const CAUSES: [(&str, &str); 4] = [
    ("invalid digit found in string", "it is not a whole number"),
    ("number too large to fit in target type", "the number is too large"),
    ("cannot parse integer from empty string", "it is empty"),
    ("invalid float literal", "it is not a number"),
];

/// The message of `error` in plain words, if a number parser of the standard library caused it.
pub(crate) fn plain(error: &clap::Error) -> Option<String> {
    let cause = std::error::Error::source(error)?.to_string();
    let &(_, plain) = CAUSES.iter().find(|(known, _)| *known == cause)?;
    let value = match error.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(value)) => value.parse().unwrap_or(0.0),
        _ => 0.0,
    };
    let plain = if value < 0.0 { "it must not be negative" } else { plain };
    Some(error.to_string().replace(&format!(": {cause}"), &format!(": {plain}")))
}

/// A hint for `error`, which `arguments` caused; `program` has the commands.
pub(crate) fn of(error: &clap::Error, arguments: &[OsString], program: &Command) -> Option<String> {
    if let Some(command) = other_command(error) {
        return Some(format!("see gptkit {command} --help"));
    }
    if error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    let Some(ContextValue::String(given)) = error.get(ContextKind::InvalidArg) else { return None };
    let mut command = program;
    for argument in arguments.iter().skip(1) {
        match argument.to_str().and_then(|name| command.find_subcommand(name)) {
            Some(found) => command = found,
            None => break,
        }
    }
    let has = |flag: &str| command.get_arguments().any(|one| one.get_long() == flag.strip_prefix("--"));
    if given == "=" {
        return Some("write KEY=VALUE without spaces".to_owned());
    }
    if given.starts_with('-') {
        let name = given.split(['=', ' ']).next().unwrap_or(given);
        let meant = ELSEWHERE.iter().filter(|(other, _)| *other == name).map(|(_, flag)| *flag);
        return meant
            .into_iter()
            .find(|flag| has(flag))
            .map(|flag| format!("gptkit {} calls it {flag}", command.get_name()));
    }
    let path = Path::new(given);
    let is_model = path.join("config.json").exists() || path.join("adapter_config.json").exists();
    let is_model = is_model || gptkit_gguf::is_gguf(path);
    let flags: &[&str] = if is_model { &["--model", "--init"] } else { &["--data", "--prompts", "--model", "--init"] };
    let flag = match path.exists() {
        true => flags.iter().find(|flag| has(flag))?,
        false => Some(&"--prompt").filter(|flag| has(flag))?,
    };
    Some(format!("write {flag} {}", shell(path)))
}

/// The command that is meant where `error` is about a command of another program.
pub(crate) fn other_command(error: &clap::Error) -> Option<&'static str> {
    let Some(ContextValue::String(given)) = error.get(ContextKind::InvalidSubcommand) else { return None };
    OTHER_COMMANDS.iter().find(|(other, _)| other == given).map(|(_, command)| *command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cli;
    use clap::{CommandFactory, Parser};

    fn hint(line: &str) -> Option<String> {
        let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        of(&Cli::try_parse_from(&arguments).unwrap_err(), &arguments, &Cli::command())
    }

    #[test]
    fn flags_of_other_programs_lead_to_ours() {
        assert_eq!(hint("gptkit sft --model x").as_deref(), Some("gptkit sft calls it --init"));
        assert_eq!(hint("gptkit chat --init x").as_deref(), Some("gptkit chat calls it --model"));
        assert_eq!(hint("gptkit pretrain --learning-rate 1e-4").as_deref(), Some("gptkit pretrain calls it --lr"));
        assert_eq!(hint("gptkit pretrain --set train.lr = 3").as_deref(), Some("write KEY=VALUE without spaces"));
        assert_eq!(hint("gptkit pretrain --wings 2"), None);
    }

    #[test]
    fn commands_of_other_programs_lead_to_ours() {
        let program = Cli::command();
        for (other, command) in OTHER_COMMANDS {
            assert!(program.find_subcommand(other).is_none() && program.find_subcommand(command).is_some(), "{other}");
            assert_eq!(hint(&format!("gptkit {other}")), Some(format!("see gptkit {command} --help")));
        }
        assert_eq!(hint("gptkit fly"), None);
    }

    #[test]
    fn an_invalid_number_is_named_in_plain_words() {
        let message = |line: &str| plain(&Cli::try_parse_from(line.split(' ')).unwrap_err());
        let says = message("gptkit pretrain --seed abc").unwrap();
        assert!(says.contains("invalid value 'abc' for '--seed <SEED>': it is not a whole number"), "{says}");
        let says = message("gptkit world --count abc").unwrap();
        assert!(says.contains("it is not a whole number"), "{says}");
        let says = message("gptkit pretrain --lr abc").unwrap();
        assert!(says.contains("it is not a number"), "{says}");
        let says = message("gptkit pretrain --batch-size -1").unwrap();
        assert!(says.contains("it must not be negative"), "{says}");
        assert_eq!(message("gptkit pretrain --wings 2"), None);
    }

    #[test]
    fn a_path_needs_its_flag() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display().to_string();
        assert_eq!(hint(&format!("gptkit pretrain {path}")), Some(format!("write --data {path}")));
        gptkit_data::disk::write(&folder.path().join("config.json"), b"{}").unwrap();
        assert_eq!(hint(&format!("gptkit chat {path}")), Some(format!("write --model {path}")));
        assert_eq!(hint(&format!("gptkit sft {path}")), Some(format!("write --init {path}")));
        assert_eq!(hint("gptkit sample --model x Once").as_deref(), Some("write --prompt Once"));
        assert_eq!(hint("gptkit pretrain nowhere.txt"), None);
    }
}
