//! The command line as its own help tells it, for tests of what is made from it or written about it.

use super::gptkit;
use std::collections::BTreeMap;
use std::path::Path;

/// A subcommand, or `gptkit` itself.
pub(crate) struct Command {
    /// What stands after `gptkit`: nothing, `sft`, `tokenizer train`.
    pub(crate) name: String,
    /// Its options by name, `--help` and `--version` left out, each with its default as the help words it, if it has one.
    pub(crate) options: BTreeMap<String, Option<String>>,
    /// Names of the subcommands below it, `help` left out.
    pub(crate) below: Vec<String>,
}

/// `gptkit` and all below it.
pub(crate) fn all() -> Vec<Command> {
    let mut commands = vec![command("")];
    let mut next = 0;
    while let Some(Command { name, below, .. }) = commands.get(next) {
        let deeper: Vec<String> = below.iter().map(|word| format!("{name} {word}").trim().to_owned()).collect();
        commands.extend(deeper.iter().map(|name| command(name)));
        next += 1;
    }
    commands
}

fn command(name: &str) -> Command {
    let help = gptkit(Path::new("."), format!("{name} --help").trim()).ok().out;
    let section = |title: &str| {
        let (_, rest) = help.split_once(&format!("\n{title}:\n")).unwrap_or_default();
        // The next section's title is the next line that is not indented.
        rest.lines().take_while(|line| line.is_empty() || line.starts_with(' ')).collect::<Vec<_>>()
    };
    let below = section("Commands").into_iter().filter_map(|line| entry(line, 2)).filter(|word| *word != "help");
    let below = below.map(str::to_owned).collect();
    let mut options: Vec<(String, String)> = Vec::new();
    for line in section("Options") {
        // `-h, --help` stands further left than options without a letter.
        let starts = [2, 6].iter().find_map(|&indent| entry(line, indent)).is_some_and(|word| word.starts_with('-'));
        match (line.split_whitespace().find(|word| starts && word.starts_with("--")), options.last_mut()) {
            (Some(option), _) => options.push((option.to_owned(), line.to_owned())),
            (None, Some((_, said))) => *said = format!("{said} {}", line.trim()),
            (None, None) => panic!("{name}: {line}"),
        }
    }
    let options = options.into_iter().filter(|(option, _)| !["--help", "--version"].contains(&option.as_str()));
    Command { name: name.to_owned(), options: options.map(|(option, said)| (option, default(&said))).collect(), below }
}

/// The first word of a line that is indented by exactly `indent`.
fn entry(line: &str, indent: usize) -> Option<&str> {
    let rest = line.get(indent..).filter(|rest| !rest.starts_with(' '))?;
    line[..indent].trim().is_empty().then(|| rest.split_whitespace().next())?
}

/// What is said between `[default: ` and `]`.
fn default(said: &str) -> Option<String> {
    let (_, rest) = said.split_once("[default: ")?;
    Some(rest.split_once(']')?.0.to_owned())
}
