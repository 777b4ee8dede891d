//! What to write instead of a flag that another program has, or of a path without a flag.

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

/// A hint for `error`, which `arguments` caused; `program` has the commands.
pub(crate) fn of(error: &clap::Error, arguments: &[OsString], program: &Command) -> Option<String> {
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
        return meant.into_iter().find(|flag| has(flag)).map(|flag| format!("{} has {flag}", command.get_name()));
    }
    let path = Path::new(given);
    let is_model = path.join("config.json").exists() || path.join("adapter_config.json").exists();
    let flags: &[&str] = if is_model { &["--model", "--init"] } else { &["--data", "--prompts", "--model", "--init"] };
    let flag = flags.iter().find(|flag| has(flag)).filter(|_| path.exists())?;
    Some(format!("write {flag} {given}"))
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
        assert_eq!(hint("gptkit sft --model x").as_deref(), Some("sft has --init"));
        assert_eq!(hint("gptkit chat --init x").as_deref(), Some("chat has --model"));
        assert_eq!(hint("gptkit pretrain --learning-rate 1e-4").as_deref(), Some("pretrain has --lr"));
        assert_eq!(hint("gptkit pretrain --set train.lr = 3").as_deref(), Some("write KEY=VALUE without spaces"));
        assert_eq!(hint("gptkit pretrain --wings 2"), None);
    }

    #[test]
    fn a_path_needs_its_flag() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display().to_string();
        assert_eq!(hint(&format!("gptkit pretrain {path}")), Some(format!("write --data {path}")));
        gptkit_data::disk::write(&folder.path().join("config.json"), b"{}").unwrap();
        assert_eq!(hint(&format!("gptkit chat {path}")), Some(format!("write --model {path}")));
        assert_eq!(hint(&format!("gptkit sft {path}")), Some(format!("write --init {path}")));
    }
}
