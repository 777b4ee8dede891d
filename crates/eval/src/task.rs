//! A task file: where records are, how each becomes a prompt, and how the result is scored.

use crate::template::{TaskTemplates, TemplateSource};
use gptkit_config::{Check, Problems};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A task as its TOML says it. Templates are Jinja over the fields of a record; expressions are what Jinja has in braces.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskConfig {
    /// What it is, in a line.
    #[serde(default)]
    pub description: String,
    /// How the model is prompted and scored.
    pub scoring: Scoring,
    /// Names that `{variant}` stands for in `test` and `train`, one evaluation each; templates see it as `variant`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub variants: Vec<String>,
    /// Records to measure with: a file, or what [`crate::records::RecordSource`] makes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub test: String,
    /// Records to draw demonstrations from.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub train: String,
    /// Template of the text before all examples: GPT-3's description of the task.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub instruction: String,
    /// Template of what the model is to go on with.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prompt: String,
    /// Template of what should follow; of a choice, what each would be, as `choice`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub answer: String,
    /// Between instruction, demonstrations and question.
    #[serde(default = "separator")]
    pub separator: String,
    /// Of scoring `choice`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choice: Option<ChoiceConfig>,
    /// Of scoring `generation`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<GenerationConfig>,
    /// Of scoring `perplexity`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<TextConfig>,
    /// What papers report.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<Published>,
}

fn separator() -> String {
    "\n\n".to_owned()
}

/// How a model is prompted and scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scoring {
    /// Which of several answers is the likeliest.
    Choice,
    /// What it writes.
    Generation,
    /// Whether it writes the last word, and how likely that is (LAMBADA).
    Word,
    /// How likely a text is.
    Perplexity,
}

/// Which answers there are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChoiceConfig {
    /// Expression for the list of answers.
    pub of: String,
    /// Expression for the right one: its place in the list, from 0, or its text.
    pub right: String,
    /// What stands in for the prompt where an answer's own likelihood is divided out; where it is empty, that is not done.
    #[serde(default = "neutral")]
    pub neutral: String,
    /// The variant that stands for the task in charts.
    #[serde(default)]
    pub main: Normalization,
}

impl ChoiceConfig {
    /// Those that are measured, the main one first.
    pub fn normalizations(&self) -> impl Iterator<Item = Normalization> {
        let measured = |by: &Normalization| *by != Normalization::Unconditional || !self.neutral.is_empty();
        let main = self.main;
        std::iter::once(main).chain(Normalization::ALL.into_iter().filter(move |by| *by != main).filter(measured))
    }
}

/// Brown et al. 2020, §2.4.
fn neutral() -> String {
    "Answer:".to_owned()
}

/// What a log-likelihood is divided by before the greatest is chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Normalization {
    /// Nothing.
    Sum,
    /// Its tokens (Brown et al. 2020, §2.4).
    #[default]
    PerToken,
    /// The bytes of its text, spaces around it not counted: lm-evaluation-harness's `acc_bytes`.
    PerByte,
    /// The characters of its text, likewise: lm-evaluation-harness's `acc_norm`.
    PerCharacter,
    /// Its likelihood after the neutral prompt (Brown et al. 2020, §2.4).
    Unconditional,
}

impl Normalization {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Sum, Self::PerToken, Self::PerByte, Self::PerCharacter, Self::Unconditional];
}

impl fmt::Display for Normalization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sum => "sum",
            Self::PerToken => "per token",
            Self::PerByte => "per byte",
            Self::PerCharacter => "per character",
            Self::Unconditional => "unconditional",
        })
    }
}

/// What is written, and held against what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerationConfig {
    /// Expression for the right answer, or the list of right answers.
    pub accept: String,
    /// What is measured; the first stands for the task in charts.
    pub metrics: Vec<Metric>,
    /// What is written ends before the first of these.
    #[serde(default)]
    pub stop: Vec<String>,
    /// Longest answer, in tokens.
    pub max_new_tokens: usize,
    /// Each token is drawn from so many likeliest; 1 takes the likeliest.
    #[serde(default = "one")]
    pub top_k: usize,
    /// Only what follows the last of these is the answer, both in what is written and in what is right.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub after: String,
    /// Only so many sentences of what is written are the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sentences: Option<usize>,
}

fn one() -> usize {
    1
}

/// What is measured of what is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Whether it is a right answer, character by character.
    Exact,
    /// Whether it is a right number: 1,000, $1000 and 1000. are the same (as lm-evaluation-harness compares GSM8K's answers).
    Number,
    /// The same as `exact` with both normalized as SQuAD's are: no case, punctuation, or articles.
    ExactMatch,
    /// F1 of words with the nearest right answer, normalized likewise.
    F1,
    /// ROUGE-1, ROUGE-2, ROUGE-L, F-measures.
    Rouge,
    /// Corpus BLEU as sacrebleu's default.
    Bleu,
}

/// How text is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextConfig {
    /// How the text was tokenized, which is undone before the model reads it; words are counted before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detokenizer: Option<Detokenizer>,
    /// Whether the loss is measured at each place of the context by itself, from the first token of a document to the last
    /// that the context holds, in ranges that double (Kaplan et al. 2020, figure 7).
    #[serde(default)]
    pub by_position: bool,
}

/// What a text was tokenized by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Detokenizer {
    /// WikiText (Merity et al. 2016).
    Wikitext,
    /// The Penn Treebank as Mikolov prepared it.
    Ptb,
}

/// A figure of a paper.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Published {
    /// The model, as the paper calls it.
    pub model: String,
    /// What was measured, the metric's variant named.
    pub metric: String,
    /// Of which variant of the task; of all where there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// Demonstrations, as the paper says it: 0, 1, few.
    pub shots: String,
    /// The figure, in the paper's unit.
    pub value: f64,
    /// Where it stands.
    pub source: String,
}

impl TaskConfig {
    /// Compiles the templates and expressions, or returns what is wrong with each that cannot be compiled, under its key.
    pub(crate) fn templates(&self) -> Result<TaskTemplates, Vec<(&'static str, String)>> {
        use TemplateSource::{Expression, Template};
        let mut sources = vec![
            Template("instruction", &self.instruction),
            Template("prompt", &self.prompt),
            Template("answer", &self.answer),
        ];
        if let Some(choice) = &self.choice {
            sources.extend([Expression("choice.of", &choice.of), Expression("choice.right", &choice.right)]);
        }
        if let Some(generation) = &self.generation {
            sources.push(Expression("generation.accept", &generation.accept));
        }
        TaskTemplates::new(&sources)
    }

    /// Which of its demands cannot be met together.
    fn has(&self, problems: &mut Problems) {
        let needed = |problems: &mut Problems, key: &str, there: bool, hint: &str| {
            problems.require(there, key, "is missing", hint);
        };
        let asks = self.scoring != Scoring::Perplexity;
        needed(
            problems,
            "prompt",
            !asks || !self.prompt.is_empty(),
            "write a template, for instance \"{{ question }}\"",
        );
        needed(
            problems,
            "answer",
            !asks || !self.answer.is_empty(),
            "write a template, for instance \" {{ answer }}\"",
        );
        let sections = [
            (Scoring::Choice, "choice", self.choice.is_some(), "of = \"choices\" and right = \"label\""),
            (Scoring::Generation, "generation", self.generation.is_some(), "accept, metrics and max_new_tokens"),
            (Scoring::Perplexity, "text", self.text.is_some(), ""),
        ];
        for (scoring, key, there, hint) in sections {
            if scoring != self.scoring {
                problems.require(!there, key, "does not apply to this task's scoring", "remove it, or change scoring");
            } else if scoring != Scoring::Perplexity {
                needed(problems, key, there, &format!("write [{key}] with {hint}"));
            }
        }
    }
}

impl Check for TaskConfig {
    fn check(&self, problems: &mut Problems) {
        self.has(problems);
        if let Some(generation) = &self.generation {
            let (least, why) = (generation.max_new_tokens > 0, "use 1 or more");
            problems.require(least, "generation.max_new_tokens", "is not positive", why);
            problems.require(generation.top_k > 0, "generation.top_k", "is not positive", why);
            problems.at_most(generation.max_new_tokens, 1 << 20, "generation.max_new_tokens");
            problems.require(generation.sentences != Some(0), "generation.sentences", "is not positive", why);
            let some = !generation.metrics.is_empty();
            problems.require(
                some,
                "generation.metrics",
                "is empty",
                "name exact, number, exact-match, f1, rouge or bleu",
            );
        }
        if let Some(choice) = &self.choice {
            let there = choice.main != Normalization::Unconditional || !choice.neutral.is_empty();
            problems.require(
                there,
                "choice.neutral",
                "is empty, but choice.main needs it",
                "remove it to use \"Answer:\"",
            );
        }
        let one = self.variants.is_empty();
        problems.require(one || self.variants.iter().all(|v| !v.is_empty()), "variants", "contains an empty name", "");
        for (key, what) in self.templates().err().unwrap_or_default() {
            problems.add(key, what, "");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> String {
        gptkit_config::load::<TaskConfig>("my.toml", text, &[]).unwrap_err().to_string()
    }

    #[test]
    fn what_is_wrong_with_a_task_is_said_at_once() {
        let text = "scoring = \"choice\"\nprompt = \"{{ context }\"\n[generation]\naccept = \"a\"\nmetrics = []\nmax_new_tokens = 0\n";
        let said = problems(text);
        for part in [
            "line 2",
            "prompt",
            "column 12",
            "answer",
            "is missing",
            "[choice]",
            "generation",
            "is empty",
            "not positive",
        ] {
            assert!(said.contains(part), "{part} is not in {said}");
        }
        let expression =
            "scoring = \"choice\"\nprompt = \"a\"\nanswer = \"b\"\n[choice]\nof = \"choices[\"\nright = \"label\"\n";
        assert!(problems(expression).contains("choice.of"), "{}", problems(expression));
    }
}
