//! Configuration of `gptkit lineage`.

use gptkit_config::{Check, Problems};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Configuration of `gptkit lineage`; the preset `lineage`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LineageConfig {
    /// One line that says what the configuration is for.
    #[serde(default)]
    pub description: String,
    /// The data that stages read.
    pub data: DataSources,
    /// Questions that every generation answers.
    #[serde(default)]
    pub questions: Questions,
    /// The stages; each comes after those whose output it reads. Two run at a time where their inputs are ready.
    pub stages: Vec<LineageStage>,
}

/// Sources of data, as `--data` of the commands takes them; `{seed}` is replaced by the seed. TOML section `[data]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct DataSources {
    /// Raw text to pretrain on.
    pub text: String,
    /// Text of patterns, mixed with the raw text.
    pub patterns: String,
    /// Instructions with answers; PPO uses them as prompts.
    pub instructions: String,
    /// Held-out prompts for measurements.
    pub held_out: String,
    /// Comparisons; `{NAME}` is what the stage NAME collected.
    pub comparisons: String,
    /// Comparisons used with the user's own instructions, for which no stage collects rankings; `comparisons` when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comparisons_unjudged: Option<String>,
}

/// Questions that every generation answers; TOML section `[questions]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Questions {
    /// The questions.
    pub ask: Vec<String>,
    /// For each question, words that only a right answer contains; answers are not marked when it is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub right: Vec<String>,
}

impl Questions {
    /// Whether `answer` is right, given the words that a right one contains: compared without regard to case, and as whole
    /// words.
    pub fn is_right(words: &str, answer: &str) -> bool {
        let plain = |text: &str| {
            let letters = text.to_lowercase().replace(|c: char| !c.is_alphanumeric(), " ");
            format!(" {} ", letters.split_whitespace().collect::<Vec<_>>().join(" "))
        };
        plain(answer).contains(&plain(words))
    }
}

/// Whose idea a stage shows: a chapter of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Chapter {
    /// Hochreiter and Schmidhuber 1997.
    Rnn,
    /// Vaswani et al. 2017.
    Transformer,
    /// Radford et al. 2018.
    Gpt1,
    /// Devlin et al. 2019.
    Bert,
    /// Radford et al. 2019.
    Gpt2,
    /// Brown et al. 2020.
    Gpt3,
    /// Ouyang et al. 2022.
    InstructGpt,
    /// OpenAI 2022.
    ChatGpt,
}

/// A stage; an element of `stages`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LineageStage {
    /// Name of the stage; later stages refer to its output as `{NAME}`.
    pub name: String,
    /// Chapter of the report.
    pub chapter: Chapter,
    /// The command without `gptkit`, in the syntax of a shell.
    pub run: String,
    /// Name of the folder or file that the stage writes, `{out}` in the command; the stage's name when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out: Option<String>,
    /// Name of the file that stores what the command prints, instead of `out`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout: Option<String>,
    /// Whether the stage answers the questions and stores each answer in `{out}`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asks: bool,
    /// Whether the stage needs the built-in judge, which only knows instructions of the built-in world.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub judged: bool,
    /// Whether no other stage may run meanwhile, because the stage measures speed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub alone: bool,
    /// Seconds that the stage takes on two cores, to estimate the remaining time.
    #[serde(default = "second")]
    pub seconds: f64,
    /// Megabytes of memory that the stage takes: two stages run at a time only where both take less than a gigabyte.
    #[serde(default = "megabytes")]
    pub megabytes: u32,
}

fn megabytes() -> u32 {
    150
}

fn second() -> f64 {
    1.0
}

impl LineageStage {
    /// Name of what it leaves.
    pub fn leaves(&self) -> &str {
        self.stdout.as_deref().or(self.out.as_deref()).unwrap_or(&self.name)
    }
}

/// Names in braces that are no stage's.
pub(crate) const GIVEN: [&str; 9] =
    ["out", "seed", "text", "patterns", "instructions", "held-out", "comparisons", "judge", "on-bad-record"];

impl Check for LineageConfig {
    fn check(&self, problems: &mut Problems) {
        let mut known: BTreeSet<&str> = GIVEN.into();
        let mut left = BTreeSet::new();
        for (i, stage) in self.stages.iter().enumerate() {
            let key = |name: &str| format!("stages.{i}.{name}");
            let plain =
                |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
            problems.require(
                plain(&stage.name) && !stage.name.contains('.'),
                &key("name"),
                "must consist of letters, digits and hyphens",
                "write for example color-records",
            );
            problems.require(
                plain(stage.leaves()) && !stage.leaves().starts_with('.'),
                &key(if stage.stdout.is_some() { "stdout" } else { "out" }),
                "is not a plain file name",
                "write for example color.jsonl",
            );
            problems.require(stage.seconds > 0.0, &key("seconds"), "is not positive", "use 1");
            if shlex::split(&stage.run).is_none_or(|words| words.is_empty()) {
                problems.add(&key("run"), "is not a valid command", "close every quotation mark");
            }
            for name in names(&stage.run).filter(|name| !known.contains(name)) {
                let later = self.stages[i..].iter().any(|stage| stage.name == name);
                let hint = if later {
                    "a stage can only read the output of earlier stages"
                } else {
                    "name an earlier stage, or {out}"
                };
                problems.add(&key("run"), format!("{{{name}}} is unknown"), hint);
            }
            if !known.insert(&stage.name) {
                problems.add(
                    &key("name"),
                    format!("{} is already used", stage.name),
                    "use a different name for each stage",
                );
            }
            if !left.insert(stage.leaves()) {
                problems.add(&key("out"), format!("{} is written by two stages", stage.leaves()), "name another file");
            }
        }
        problems.require(!self.stages.is_empty(), "stages", "is empty", "add a [[stages]] table");
        let Questions { ask, right } = &self.questions;
        problems.require(
            right.is_empty() || right.len() == ask.len(),
            "questions.right",
            "has a different length than questions.ask",
            "give the words of a correct answer for each question, or remove it",
        );
    }
}

/// What stands in braces in `text`, where it is a name.
pub(crate) fn names(text: &str) -> impl Iterator<Item = &str> {
    let name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    text.split('{').skip(1).filter_map(move |rest| {
        let (inside, _) = rest.split_once('}')?;
        (!inside.is_empty() && inside.chars().all(name)).then_some(inside)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_answer_contains_the_words_whatever_stands_around_them() {
        assert!(Questions::is_right("is 7", "Gladly! 3 plus 4 is 7. I hope that helps."));
        assert!(!Questions::is_right("is 7", "3 plus 4 is 77."), "whole words");
        assert!(Questions::is_right("Ben has the kite", "ben has the kite!"));
        assert!(!Questions::is_right("Ben has the kite", ""));
    }
}
