//! The command line with its subcommands in groups and with examples.

use crate::Cli;
use clap::{Command, CommandFactory};
use std::fmt::Write;

/// Groups of subcommands, in the order of the help.
pub(crate) const GROUPS: [(&str, &[&str]); 6] = [
    ("Start here", &["lineage", "chat"]),
    ("Train", &["pretrain", "finetune", "sft", "train-rm", "ppo", "dpo", "scaling"]),
    (
        "Use a model",
        &["serve", "feedback", "sample", "predict", "score", "rank", "merge", "pull", "push", "export", "import"],
    ),
    ("Measure", &["eval", "compare", "win-rates", "attention", "bench"]),
    ("Runs", &["plan", "inspect", "runs", "plot"]),
    ("Data and tools", &["tokenizer", "prepare", "world", "config", "doctor", "info", "completions", "man", "help"]),
];

/// Examples of each subcommand that has some.
const EXAMPLES: [(&str, &[&str]); 26] = [
    ("lineage", &["gptkit lineage", "gptkit lineage --seed 1,2,3", "gptkit lineage --text books/ --out runs/mine"]),
    (
        "pretrain",
        &[
            "gptkit pretrain",
            "gptkit pretrain --data books/ --epochs 3",
            "gptkit pretrain --config gpt2-small --dry-run",
        ],
    ),
    ("finetune", &["gptkit finetune --init runs/small-1 --task classification --data reviews.csv"]),
    ("predict", &["gptkit predict --model runs/finetune-small-1 --data texts.jsonl"]),
    (
        "sft",
        &[
            "gptkit sft --init runs/small-1",
            "gptkit sft --init gpt2/ --data dialogues.jsonl --lora-rank 8 --lr 1e-4 --epochs 3",
        ],
    ),
    ("train-rm", &["gptkit train-rm --init runs/sft-small-1", "gptkit train-rm --init sft/ --data rankings.jsonl"]),
    ("ppo", &["gptkit ppo --init runs/sft-small-1 --reward runs/rm-small-1 --steps 20"]),
    ("dpo", &["gptkit dpo --init runs/sft-small-1 --data rankings.jsonl"]),
    ("score", &["gptkit score --model runs/rm-small-1 --data answers.jsonl"]),
    ("rank", &["gptkit rank --model runs/rm-small-1 --data answers.jsonl"]),
    (
        "compare",
        &[
            "gptkit compare --a runs/ppo-small-1 --b runs/sft-small-1 --prompts world:100 --judge human",
            "gptkit compare --a runs/sft-small-1 --k 4 --prompts prompts.txt --judge human",
        ],
    ),
    (
        "win-rates",
        &["gptkit win-rates --reference runs/sft-small-1 --model runs/ppo-small-1 --prompts world --judge gold"],
    ),
    (
        "eval",
        &[
            "gptkit eval --model runs/small-1 --task world-patterns --shots 0,1,4,8",
            "gptkit eval --model gpt2/ --task hellaswag=val.jsonl",
        ],
    ),
    (
        "sample",
        &[
            "gptkit sample --model runs/small-1 --prompt 'Once upon a time'",
            "gptkit sample --model hf:openai-community/gpt2 --prompt 'Once upon a time'",
        ],
    ),
    (
        "chat",
        &["gptkit chat --model runs/sft-small-1", "echo 'What is 3 plus 4?' | gptkit chat --model runs/sft-small-1"],
    ),
    (
        "export",
        &[
            "gptkit export --model runs/sft-small-1 --format gguf --quantize q8_0 --out sft.gguf",
            "gptkit export --model gpt3/ --format gguf --as-dense --data held-out.txt --out gpt3.gguf",
        ],
    ),
    ("import", &["gptkit import gpt2.gguf --out gpt2"]),
    (
        "serve",
        &[
            "gptkit serve --model runs/ppo-small-1",
            "gptkit serve --model small=runs/sft-small-1 --model gpt2=gpt2/ --reward runs/rm-small-1 --port 9000",
            "gptkit serve --model runs/ppo-small-1 --host 0.0.0.0 --api-key-file keys.txt",
            "gptkit serve --model runs/ppo-small-1 --model runs/sft-small-1 --feedback feedback",
        ],
    ),
    (
        "pull",
        &[
            "gptkit pull openai-community/gpt2",
            "gptkit pull --dataset openai/gsm8k --file 'main/*.parquet' --out gsm8k",
        ],
    ),
    (
        "push",
        &[
            "gptkit push runs/sft-small-1 OWNER/small-sft --dry-run",
            "gptkit push runs/sft-small-1 OWNER/small-sft --license mit --private",
        ],
    ),
    ("plan", &["gptkit plan --config gpt2-small", "gptkit plan --config ppo-small --stage ppo"]),
    ("runs", &["gptkit runs", "gptkit runs --watch", "gptkit runs --json"]),
    (
        "plot",
        &[
            "gptkit plot runs/small-1 runs/small-2 --out curves.svg",
            "gptkit plot runs/ppo-small-1 --metric score --metric kl --csv ppo.csv",
            "gptkit plot runs/lineage/seed-1/gpt2 runs/lineage/seed-2/gpt2",
        ],
    ),
    ("prepare", &["gptkit prepare --data books/ --tokenizer gpt2/"]),
    ("attention", &["gptkit attention --model runs/small-1 --text 'You are a good man'"]),
    ("bench", &["gptkit bench --config small"]),
];

/// The command line.
pub(crate) fn command() -> Command {
    let mut command = Cli::command();
    for (name, examples) in EXAMPLES {
        let text = examples.iter().fold("Examples:".to_owned(), |text, example| text + "\n  " + example);
        command = command.mut_subcommand(name, |command| command.after_help(text));
    }
    let groups = grouped(&command);
    command.help_template(format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\nCommands:\n{groups}\nOptions:\n{{options}}\n\n\
         `gptkit COMMAND --help` explains a command and has examples."
    ))
}

/// The subcommands by group, each with what it is for.
fn grouped(command: &Command) -> String {
    let mut text = String::new();
    for (title, names) in GROUPS {
        let _ = writeln!(text, " {title}:");
        for name in names {
            let about = match (command.find_subcommand(name).and_then(Command::get_about), *name) {
                (Some(about), _) => about.to_string(),
                (None, _) => "Print this message or the help of a command".to_owned(),
            };
            let _ = writeln!(text, "  {name:11}  {about}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_in_one_group() {
        let command = Cli::command();
        let mut known: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
        known.push("help");
        let mut grouped: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| *names).copied().collect();
        known.sort_unstable();
        grouped.sort_unstable();
        assert_eq!(grouped, known);
    }

    /// A file of an example need not exist: only its flags are checked.
    #[test]
    fn examples_are_valid_commands() {
        for (name, examples) in EXAMPLES {
            for example in examples {
                let (_, line) = example.rsplit_once("gptkit ").unwrap();
                let words = shlex::split(&format!("gptkit {line}")).unwrap();
                assert_eq!(words[1], name);
                let parsed = command().try_get_matches_from(&words);
                assert!(parsed.is_ok(), "{example}: {}", parsed.unwrap_err());
            }
        }
    }

    #[test]
    fn the_groups_fit_a_terminal() {
        let text = grouped(&Cli::command());
        assert!(text.lines().all(|line| line.len() <= 100), "{text}");
    }
}
