//! Answers and what people say of them.

use gptkit_data::dialogue::Message;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use std::fmt;
use std::str::FromStr;

/// Answers of one prompt that are ranked together, at least and at most (Ouyang et al. 2022, §3.5, show 4 to 9).
pub const RANKED: std::ops::RangeInclusive<usize> = 2..=9;

/// Marks of an answer, as InstructGPT's labelers set them (Ouyang et al. 2022, table 3): name and meaning.
pub const MARKS: [(&str, &str); 11] = [
    ("wrong-task", "Fails to follow the correct instruction or task"),
    ("inappropriate", "Inappropriate for a customer assistant"),
    ("hallucination", "Hallucination"),
    ("follows-constraint", "Satisfies a constraint given in the instruction"),
    ("sexual", "Contains sexual content"),
    ("violent", "Contains violent content"),
    ("encourages-violence", "Encourages violence, abuse, terrorism or self-harm"),
    ("denigrates", "Denigrates a protected class"),
    ("harmful-advice", "Gives harmful advice"),
    ("opinion", "Expresses an opinion"),
    ("moral-judgment", "Expresses a moral judgment"),
];

/// The name of an answer: the request that it answers, and its number among the answers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AnswerId {
    /// Id of the request.
    pub request: String,
    /// Number of the answer, from 0.
    pub choice: u64,
}

/// The model that wrote an answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ModelIdentity {
    /// The name under which it was served.
    pub name: String,
    /// Its folder.
    pub folder: String,
    /// Fingerprint of its weights.
    pub weights: String,
    /// Fingerprint of weights, data type, instructions and version: what decides the bits of an answer.
    pub fingerprint: String,
    /// Its data type.
    pub dtype: String,
}

/// An answer, with all that is needed to generate it again.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordedAnswer {
    /// Its name.
    pub id: AnswerId,
    /// Who asked.
    pub person: String,
    /// Which model wrote it.
    pub model: ModelIdentity,
    /// The messages before it.
    pub prompt: Vec<Message>,
    /// How tokens were chosen, the seed included.
    pub sampling: Value,
    /// Longest answer, in tokens.
    pub max_new_tokens: u64,
    /// Texts that end it.
    pub stop: Vec<String>,
    /// The answer, without spaces around it.
    pub text: String,
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// Why it ended: `stop` or `length`.
    pub finish: String,
}

/// An order of answers to one prompt, or that it was skipped.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranking {
    /// The answers, all to the same prompt.
    pub answers: Vec<AnswerId>,
    /// The rank of each answer, 1 the best; the same rank is a tie. None when it was skipped.
    pub ranking: Option<Vec<u32>>,
    /// Why it was skipped.
    pub skipped: Option<String>,
    /// Whether all answers are bad.
    pub both_bad: bool,
    /// Indexes of the answers in the order in which they were shown.
    pub shown: Vec<u64>,
    /// Whether the names of the models were hidden.
    pub blind: bool,
    /// The task to which it belongs.
    pub task: Option<i64>,
}

/// A rating of one answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Rating {
    /// The answer.
    pub answer: AnswerId,
    /// Up is true.
    pub thumb: Option<bool>,
    /// Overall quality, from 1 to 7.
    pub likert: Option<u8>,
    /// Names of [`MARKS`].
    pub marks: Vec<String>,
}

/// A dialogue whose last message a person wrote as a model for the assistant.
#[derive(Debug, Clone, PartialEq)]
pub struct Demonstration {
    /// The messages; the last one is the assistant's.
    pub messages: Vec<Message>,
    /// The model's answer that it corrects.
    pub based_on: Option<AnswerId>,
}

/// An act of a person.
#[derive(Debug, Clone, PartialEq)]
pub enum Act {
    /// Ranked answers.
    Ranking(Ranking),
    /// Rated an answer.
    Rating(Rating),
    /// Wrote a demonstration.
    Demonstration(Demonstration),
}

/// An act with its circumstances.
#[derive(Debug, Clone, PartialEq)]
pub struct Feedback {
    /// An id that the client makes: the same record sent twice is stored once.
    pub client_id: String,
    /// Who.
    pub person: String,
    /// How long it took.
    pub seconds: Option<f64>,
    /// A note.
    pub note: Option<String>,
    /// The client's id of an earlier record that this one replaces.
    pub supersedes: Option<String>,
    /// What was done.
    pub act: Act,
}

/// The kind of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKind {
    /// An answer of a model.
    Answer,
    /// An order of answers by a person.
    Ranking,
    /// A rating.
    Rating,
    /// A demonstration.
    Demonstration,
}

impl RecordKind {
    const ALL: [Self; 4] = [Self::Answer, Self::Ranking, Self::Rating, Self::Demonstration];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Answer => "answer",
            Self::Ranking => "ranking",
            Self::Rating => "rating",
            Self::Demonstration => "demonstration",
        }
    }

    /// Its table.
    pub(crate) fn table(self) -> &'static str {
        match self {
            Self::Answer => "completions",
            Self::Ranking => "rankings",
            Self::Rating => "ratings",
            Self::Demonstration => "demonstrations",
        }
    }

    /// The kind of the records in `table`.
    pub(crate) fn of_table(table: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.table() == table)
    }
}

/// The name of a record: its kind and its number in the store, such as `ranking-7`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId {
    /// Its kind.
    pub kind: RecordKind,
    /// Its number in its table.
    pub number: i64,
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.kind.name(), self.number)
    }
}

impl FromStr for RecordId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.rsplit_once('-').and_then(|(name, number)| {
            let kind = RecordKind::ALL.into_iter().find(|kind| kind.name() == name)?;
            Some(Self { kind, number: number.parse().ok().filter(|&number| number > 0)? })
        });
        let kinds = RecordKind::ALL.map(RecordKind::name).join(", ");
        parts.ok_or_else(|| format!("{text:?} is not the name of a record, such as ranking-7; the kinds are {kinds}"))
    }
}

impl Serialize for RecordId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
