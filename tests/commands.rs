//! The command line as its own help tells it, for tests of what is made from it or written about it.

use super::gptkit;
use std::collections::BTreeSet;
use std::path::Path;

/// A subcommand, or `gptkit` itself.
pub(crate) struct Command {
    /// What stands after `gptkit`: nothing, `sft`, `tokenizer train`.
    pub(crate) name: String,
    /// Names of its options, `--help` and `--version` left out.
    pub(crate) options: BTreeSet<String>,
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
    // `-h, --help` stands further left than options without a letter.
    let starts = |line: &str| [2, 6].iter().find_map(|&indent| entry(line, indent)).is_some_and(|w| w.starts_with('-'));
    let options = section("Options").into_iter().filter(|line| starts(line));
    let options = options.filter_map(|line| line.split_whitespace().find(|word| word.starts_with("--")));
    let options = options.filter(|option| !["--help", "--version"].contains(option)).map(str::to_owned).collect();
    Command { name: name.to_owned(), options, below }
}

/// The first word of a line that is indented by exactly `indent`.
fn entry(line: &str, indent: usize) -> Option<&str> {
    let rest = line.get(indent..).filter(|rest| !rest.starts_with(' '))?;
    line[..indent].trim().is_empty().then(|| rest.split_whitespace().next())?
}
