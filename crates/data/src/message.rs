//! A message of a dialogue, and what holds for a list of them.

use crate::record::BadRecord;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The role of a message's author.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// What holds for the whole dialogue.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        })
    }
}

/// A message of a dialogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The speaker.
    pub role: Role,
    /// Text, as the record has it.
    pub content: String,
    /// Whether it is learned when the assistant says it. Templates do not see this.
    #[serde(skip)]
    pub use_of: AnswerUse,
}

/// What an answer in a dialogue is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AnswerUse {
    /// To be learned.
    #[default]
    Learned,
    /// To be read as a part of the prompt of a later answer.
    Prompt,
    /// Not to be learned, by a mark of its record.
    Masked,
}

impl Message {
    /// A message of `role`, which is trained on if that is the assistant.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into(), use_of: AnswerUse::Learned }
    }

    /// Whether a model is trained to say it.
    pub fn is_learned(&self) -> bool {
        self.role == Role::Assistant && self.use_of == AnswerUse::Learned
    }
}

/// `messages`, with the use of every answer set to `use_of`.
pub(crate) fn with_answers(mut messages: Vec<Message>, use_of: AnswerUse) -> Vec<Message> {
    let answers = messages.iter_mut().filter(|message| message.role == Role::Assistant);
    answers.for_each(|answer| answer.use_of = use_of);
    messages
}

/// The first eight bytes of the hash of `messages`.
pub fn key(messages: &[Message]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for Message { role, content, .. } in messages {
        hasher.update(&[*role as u8]);
        hasher.update(&(content.len() as u64).to_le_bytes());
        hasher.update(content.as_bytes());
    }
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(first)
}

/// The key of the prompt that a dialogue opens with: of everything before the assistant's first message. Dialogues with the
/// same opening belong to the same part of a run's data.
pub fn opening_key(messages: &[Message]) -> u64 {
    let answer = messages.iter().position(|message| message.role == Role::Assistant);
    key(&messages[..answer.unwrap_or(messages.len())])
}

/// An instruction and what it is about.
pub(crate) fn with_input(instruction: &str, input: Option<&str>) -> String {
    match input {
        Some(input) if !input.trim().is_empty() => format!("{instruction}\n\n{input}"),
        _ => instruction.to_owned(),
    }
}

/// The messages of a dialogue, without a system message that says nothing.
pub(crate) fn checked(mut messages: Vec<Message>) -> Result<Vec<Message>, BadRecord> {
    let silent = |message: &Message| message.content.trim().is_empty();
    if messages.first().is_some_and(|first| first.role == Role::System && silent(first)) {
        messages.remove(0);
    }
    let begin = usize::from(messages.first().is_some_and(|first| first.role == Role::System));
    let turns = &messages[begin..];
    for (i, message) in turns.iter().enumerate() {
        let expected = if i % 2 == 0 { Role::User } else { Role::Assistant };
        if message.role != expected {
            let number = begin + i + 1;
            return Err(BadRecord::new(format!(
                "message {number} has the role {} instead of {expected}: after an optional system message, user and \
                 assistant alternate",
                message.role
            )));
        }
        if silent(message) {
            let what = if expected == Role::User { "prompt" } else { "completion" };
            return Err(BadRecord::empty(format!("message {} is an empty {what}", begin + i + 1)));
        }
    }
    match turns.len() {
        0 => Err(BadRecord::empty("no user or assistant messages")),
        n if n % 2 == 1 => Err(BadRecord::new("the last message is from the user; it must be from the assistant")),
        _ => Ok(messages),
    }
}
