//! Answers and what people say of them.

use gptkit_data::dialogue::Message;
use serde::{Deserialize, Serialize};
use serde_json::Value;

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
