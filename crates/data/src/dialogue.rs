//! Instruction records → dialogues, whichever of the usual shapes they have.
//!
//! The first record that has a [`Shape`] decides for its file; one of another shape is a bad record.

use crate::progress::Progress;
use crate::record::{Bad, Place, Row, Skipped, kind_of, read_rows};
use crate::source::OnBadRecord;
use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::path::Path;

/// Who speaks.
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

/// What one of them says at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who.
    pub role: Role,
    /// What.
    pub content: String,
}

impl Message {
    /// `content`, said by `role`.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }
}

/// The first eight bytes of the hash of `messages`.
pub fn key(messages: &[Message]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for Message { role, content } in messages {
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

/// A system message or none, then user and assistant by turns; the assistant speaks last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dialogue {
    /// Where its record stands.
    pub place: Place,
    /// At least two.
    pub messages: Vec<Message>,
}

/// How a record holds a dialogue, with the names of the keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A list of messages.
    Messages {
        /// The list.
        list: &'static str,
        /// Who speaks.
        role: &'static str,
        /// What is said.
        content: &'static str,
    },
    /// A question and its answer.
    PromptCompletion {
        /// The question.
        prompt: &'static str,
        /// The answer.
        completion: &'static str,
    },
    /// What is to be done, what with (it may be missing or empty), and the answer.
    Instruction {
        /// What it is to be done with.
        input: &'static str,
        /// The answer.
        output: &'static str,
    },
    /// What is to be done, and a list of inputs with their outputs: each is a dialogue.
    Instances,
    /// Text with turns that begin with `Human:` and `Assistant:` after an empty line.
    Transcript {
        /// The text.
        text: &'static str,
    },
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Messages { list, role, content } => write!(f, "messages ({list}: {role}, {content})"),
            Self::PromptCompletion { prompt, completion } => {
                write!(f, "prompt and completion ({prompt}, {completion})")
            }
            Self::Instruction { input, output } => write!(f, "instructions (instruction, {input}, {output})"),
            Self::Instances => f.write_str("instructions with instances (instruction, instances: input, output)"),
            Self::Transcript { text } => write!(f, "transcripts ({text}: Human, Assistant)"),
        }
    }
}

/// The shapes, for messages.
const KNOWN: &str = "messages (or conversations); prompt with completion or response; question with answer; instruction \
                     with output, response or instances; chosen, text or dialogue with turns of \"Human:\" and \
                     \"Assistant:\"";
const HUMAN: &str = "\n\nHuman:";
const ASSISTANT: &str = "\n\nAssistant:";

impl Shape {
    /// The shape of a record; the first that fits.
    ///
    /// # Errors
    /// When it has none.
    pub fn of(row: &Row) -> Result<Self, Bad> {
        let has = |key: &str| row.fields.contains_key(key);
        let list_under = |key: &str| row.fields.get(key).is_some_and(Value::is_array);
        let transcript_under =
            |key: &str| row.fields.get(key).and_then(Value::as_str).is_some_and(|text| turns(text).is_some());
        for list in ["messages", "conversations", "chosen"] {
            // `chosen` may be a transcript.
            if has(list) && list != "chosen" || list_under(list) {
                let [role, content] = keys_of_messages(&row.fields[list]);
                return Ok(Self::Messages { list, role, content });
            }
        }
        if has("instruction") {
            if has("instances") {
                return Ok(Self::Instances);
            }
            if let Some(output) = ["output", "response"].into_iter().find(|key| has(key)) {
                let input = if has("context") { "context" } else { "input" };
                return Ok(Self::Instruction { input, output });
            }
        }
        for (prompt, completion) in [("prompt", "completion"), ("prompt", "response"), ("question", "answer")] {
            if has(prompt) && has(completion) {
                return Ok(Self::PromptCompletion { prompt, completion });
            }
        }
        match ["chosen", "text", "dialogue"].into_iter().find(|key| transcript_under(key)) {
            Some(text) => Ok(Self::Transcript { text }),
            None => Err(Bad::new(format!("is no dialogue: it has {}; known are {KNOWN}", row.keys()))),
        }
    }

    /// The dialogues that `row` holds: one, or one an instance.
    ///
    /// # Errors
    /// When it has not this shape, or something is wrong with what is said.
    pub fn dialogues(self, row: &Row) -> Result<Vec<Vec<Message>>, Bad> {
        let pair = |user: String, answer: &str| {
            checked(vec![Message::new(Role::User, user), Message::new(Role::Assistant, answer)])
        };
        match self {
            Self::Messages { list, role, content } => Ok(vec![checked(messages_under(row, list, role, content)?)?]),
            Self::PromptCompletion { prompt, completion } => {
                Ok(vec![pair(row.text(prompt)?.to_owned(), row.text(completion)?)?])
            }
            Self::Instruction { input, output } => {
                let task = with_input(row.text("instruction")?, row.optional_text(input)?);
                Ok(vec![pair(task, row.text(output)?)?])
            }
            Self::Instances => {
                let task = row.text("instruction")?;
                list(row, "instances")?
                    .iter()
                    .enumerate()
                    .map(|(i, instance)| {
                        let part = part(row, "instances", i, instance)?;
                        pair(with_input(task, part.optional_text("input")?), part.text("output")?)
                    })
                    .collect()
            }
            Self::Transcript { text } => {
                let turns = turns(row.text(text)?)
                    .ok_or_else(|| Bad::new(format!("\"{text}\" does not begin with \"Human:\" or \"Assistant:\"")))?;
                Ok(vec![checked(turns)?])
            }
        }
    }
}

/// An instruction and what it is about.
pub(crate) fn with_input(instruction: &str, input: Option<&str>) -> String {
    match input {
        Some(input) if !input.trim().is_empty() => format!("{instruction}\n\n{input}"),
        _ => instruction.to_owned(),
    }
}

fn list<'a>(row: &'a Row, key: &str) -> Result<&'a Vec<Value>, Bad> {
    match row.fields.get(key) {
        Some(Value::Array(list)) => Ok(list),
        Some(other) => Err(Bad::new(format!("\"{key}\" is {}, not a list", kind_of(other)))),
        None => Err(Bad::new(format!("no \"{key}\"; the record has {}", row.keys()))),
    }
}

/// An element of a list as a row of its own.
fn part(row: &Row, list: &str, index: usize, value: &Value) -> Result<Row, Bad> {
    let Value::Object(fields) = value else {
        return Err(Bad::new(format!("\"{list}\" {} is {}, not an object", index + 1, kind_of(value))));
    };
    Ok(Row { place: row.place.clone(), fields: fields.clone() })
}

/// What a list of messages calls who speaks, and what is said.
fn keys_of_messages(list: &Value) -> [&'static str; 2] {
    let short = list.get(0).is_some_and(|message| message.get("from").is_some());
    if short { ["from", "value"] } else { ["role", "content"] }
}

/// The messages in the list under `key`.
pub(crate) fn messages(row: &Row, key: &str) -> Result<Vec<Message>, Bad> {
    let [role, content] = row.fields.get(key).map_or(["role", "content"], keys_of_messages);
    messages_under(row, key, role, content)
}

fn messages_under(row: &Row, key: &str, role: &str, content: &str) -> Result<Vec<Message>, Bad> {
    let one = |(i, value): (usize, &Value)| {
        let message = part(row, key, i, value)?;
        let numbered = |bad: Bad| Bad::new(format!("message {}: {bad}", i + 1));
        let role = named(message.text(role).map_err(numbered)?).map_err(numbered)?;
        Ok(Message::new(role, message.text(content).map_err(numbered)?))
    };
    list(row, key)?.iter().enumerate().map(one).collect()
}

fn named(role: &str) -> Result<Role, Bad> {
    match role {
        "system" => Ok(Role::System),
        "user" | "human" => Ok(Role::User),
        "assistant" | "gpt" => Ok(Role::Assistant),
        _ => Err(Bad::new(format!("unknown role {role:?}; use system, user (human) or assistant (gpt)"))),
    }
}

/// The turns of a transcript, which begins with one.
pub(crate) fn turns(text: &str) -> Option<Vec<Message>> {
    let text = format!("\n\n{}", text.trim());
    let mut rest = text.as_str();
    let mut turns = Vec::new();
    while !rest.is_empty() {
        let (role, after) = match (rest.strip_prefix(HUMAN), rest.strip_prefix(ASSISTANT)) {
            (Some(after), _) => (Role::User, after),
            (_, Some(after)) => (Role::Assistant, after),
            _ => return None,
        };
        let end = [HUMAN, ASSISTANT].iter().filter_map(|turn| after.find(turn)).min().unwrap_or(after.len());
        turns.push(Message::new(role, after[..end].trim()));
        rest = &after[end..];
    }
    Some(turns)
}

/// The messages of a dialogue, without a system message that says nothing.
pub(crate) fn checked(mut messages: Vec<Message>) -> Result<Vec<Message>, Bad> {
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
            return Err(Bad::new(format!(
                "message {number} is the {}'s where the {expected}'s is due: after a system message, if there is one, user \
                 and assistant speak by turns",
                message.role
            )));
        }
        if silent(message) {
            let what = if expected == Role::User { "prompt" } else { "completion" };
            return Err(Bad::empty(format!("message {} is an empty {what}", begin + i + 1)));
        }
    }
    match turns.len() {
        0 => Err(Bad::empty("no messages of user and assistant")),
        n if n % 2 == 1 => Err(Bad::new("the last message is the user's; the assistant's is what is learned")),
        _ => Ok(messages),
    }
}

/// Hands the dialogues of the file `path` to `sink`, and says which shape its records have. One that is no sound dialogue
/// is left out and counted, or ends the reading, as `on_bad` says; so does one that `sink` calls [`Bad`].
///
/// # Errors
/// As [`read_rows`], and when the file holds no dialogue.
pub fn read_dialogues(
    path: &Path,
    on_bad: OnBadRecord,
    progress: &dyn Progress,
    sink: &mut dyn FnMut(Dialogue) -> Result<()>,
) -> Result<(Shape, Skipped)> {
    let mut shape = None;
    let skipped = read_rows(path, on_bad, progress, &mut |row| {
        let shape = match shape {
            Some(shape) => same(shape, &row)?,
            None => *shape.insert(Shape::of(&row)?),
        };
        for messages in shape.dialogues(&row)? {
            sink(Dialogue { place: row.place.clone(), messages })?;
        }
        Ok(())
    })?;
    match (shape, skipped.first.as_ref()) {
        (Some(shape), _) => Ok((shape, skipped)),
        (None, Some(first)) => bail!("{} holds no dialogue; {first}", path.display()),
        (None, None) => bail!("{} holds no records", path.display()),
    }
}

/// The shape of `row`, which those before it had too.
fn same(shape: Shape, row: &Row) -> Result<Shape, Bad> {
    match (shape, Shape::of(row)) {
        // An input may be left out, and a list of messages says itself how it names things.
        (Shape::Instruction { output, .. }, Ok(own @ Shape::Instruction { output: other, .. })) if output == other => {
            Ok(own)
        }
        (Shape::Messages { list, .. }, Ok(own @ Shape::Messages { list: other, .. })) if list == other => Ok(own),
        (_, Ok(other)) if other != shape => Err(Bad::new(format!("holds {other}, and the records before it {shape}"))),
        // What it lacks is said when it is read.
        _ => Ok(shape),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;
    use Role::{Assistant, System, User};

    /// Dialogues with their lines.
    type Found = Vec<(u64, Vec<Message>)>;

    fn read(lines: &[&str], on_bad: OnBadRecord) -> Result<(Found, Shape, Skipped)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.jsonl");
        crate::disk::write(&path, lines.join("\n").as_bytes()).unwrap();
        let mut all = Vec::new();
        let (shape, skipped) = read_dialogues(&path, on_bad, &Silent, &mut |dialogue| {
            all.push((dialogue.place.line, dialogue.messages));
            Ok(())
        })?;
        Ok((all, shape, skipped))
    }

    fn said(messages: &[(Role, &str)]) -> Vec<Message> {
        messages.iter().map(|&(role, content)| Message::new(role, content)).collect()
    }

    fn fails(lines: &[&str]) -> String {
        format!("{:#}", read(lines, OnBadRecord::Fail).unwrap_err())
    }

    #[test]
    fn every_shape_is_known_by_its_keys() {
        let talk = said(&[(System, "s"), (User, "q"), (Assistant, "a"), (User, "q2"), (Assistant, "a2")]);
        let pair = said(&[(User, "q"), (Assistant, "a")]);
        let about = said(&[(User, "q\n\nx"), (Assistant, "a")]);
        for (line, expected, shape) in [
            (
                r#"{"id": 1, "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}, {"role":
                "assistant", "content": "a"}, {"role": "user", "content": "q2"}, {"role": "assistant", "content": "a2"}]}"#,
                &talk,
                "messages (messages: role, content)",
            ),
            (
                r#"{"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}, {"from": "gpt",
                "value": "a"}, {"from": "human", "value": "q2"}, {"from": "gpt", "value": "a2"}]}"#,
                &talk,
                "messages (conversations: from, value)",
            ),
            (
                r#"{"prompt": "q", "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}"#,
                &pair,
                "messages (chosen: role, content)",
            ),
            (r#"{"prompt": "q", "completion": "a"}"#, &pair, "prompt and completion (prompt, completion)"),
            (r#"{"prompt": "q", "response": "a"}"#, &pair, "prompt and completion (prompt, response)"),
            (r#"{"question": "q", "answer": "a"}"#, &pair, "prompt and completion (question, answer)"),
            (
                r#"{"instruction": "q", "input": " ", "output": "a", "text": "Below is"}"#,
                &pair,
                "instructions (instruction, input, output)",
            ),
            (r#"{"instruction": "q", "output": "a"}"#, &pair, "instructions (instruction, input, output)"),
            (
                r#"{"instruction": "q", "context": "x", "response": "a", "category": "c"}"#,
                &about,
                "instructions (instruction, context, response)",
            ),
            (
                r#"{"instruction": "q", "instances": [{"input": "x", "output": "a"}]}"#,
                &about,
                "instructions with instances (instruction, instances: input, output)",
            ),
            (
                r#"{"chosen": "\n\nHuman: q\n\nAssistant: a\n\nHuman: q2\n\nwith Human: inside\n\nAssistant: a2 "}"#,
                &said(&[(User, "q"), (Assistant, "a"), (User, "q2\n\nwith Human: inside"), (Assistant, "a2")]),
                "transcripts (chosen: Human, Assistant)",
            ),
            (r#"{"text": "Human: q\n\nAssistant: a"}"#, &pair, "transcripts (text: Human, Assistant)"),
            (r#"{"dialogue": "\n\nHuman: q\n\nAssistant: a"}"#, &pair, "transcripts (dialogue: Human, Assistant)"),
        ] {
            let line = line.replace('\n', " ");
            let (all, found, skipped) = read(&[&line], OnBadRecord::Fail).unwrap();
            assert_eq!(all, [(1, expected.clone())], "{line}");
            assert_eq!((found.to_string().as_str(), skipped.total()), (shape, 0), "{line}");
        }
    }

    #[test]
    fn each_instance_is_a_dialogue() {
        let line =
            r#"{"instruction": "q", "instances": [{"input": "", "output": "a"}, {"input": "x", "output": "b"}]}"#;
        let (all, _, _) = read(&[line], OnBadRecord::Fail).unwrap();
        let expected = [said(&[(User, "q"), (Assistant, "a")]), said(&[(User, "q\n\nx"), (Assistant, "b")])];
        assert_eq!(all, expected.map(|messages| (1, messages)));
    }

    #[test]
    fn an_input_that_first_records_lack_is_not_lost() {
        let (all, _, _) = read(
            &[r#"{"instruction": "q", "response": "a"}"#, r#"{"instruction": "q", "context": "x", "response": "a"}"#],
            OnBadRecord::Fail,
        )
        .unwrap();
        assert_eq!(all[1].1[0].content, "q\n\nx");
    }

    #[test]
    fn a_system_message_that_says_nothing_is_left_out() {
        let line = r#"{"messages": [{"role": "system", "content": ""}, {"role": "user", "content": "q"}, {"role":
                      "assistant", "content": "a"}]}"#;
        let (all, _, _) = read(&[&line.replace('\n', "")], OnBadRecord::Fail).unwrap();
        assert_eq!(all[0].1, said(&[(User, "q"), (Assistant, "a")]));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        const GOOD: &str = r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}"#;
        const PAIR: &str = r#"{"prompt": "q", "completion": "a"}"#;
        const TALK: &str = r#"{"chosen": "\n\nHuman: q\n\nAssistant: a"}"#;
        let messages = |list: &str| {
            let named = |(role, content): (&str, &str)| format!(r#"{{"role": "{role}", "content": "{content}"}}"#);
            let list: Vec<String> = list.split_whitespace().map(|m| named(m.split_once('=').unwrap())).collect();
            format!(r#"{{"messages": [{}]}}"#, list.join(", "))
        };
        for (first, second, expected) in [
            (GOOD, messages("user=q user=q assistant=a"), "message 2 is the user's where the assistant's is due"),
            (GOOD, messages("assistant=a user=q"), "message 1 is the assistant's where the user's is due"),
            (GOOD, messages("user=q system=s assistant=a"), "message 2 is the system's where the assistant's is due"),
            (
                GOOD,
                messages("system=s system=s user=q assistant=a"),
                "message 2 is the system's where the user's is due",
            ),
            (GOOD, messages("user=q assistant=a user=q"), "the last message is the user's"),
            (GOOD, messages("user=q tool=a"), "message 2: unknown role \"tool\"; use system, user (human)"),
            (GOOD, messages("user=q assistant="), "message 2 is an empty completion"),
            (GOOD, messages("system=s user= assistant=a"), "message 2 is an empty prompt"),
            (GOOD, messages("system=s"), "no messages of user and assistant"),
            (GOOD, messages(""), "no messages of user and assistant"),
            (GOOD, r#"{"messages": "q"}"#.to_owned(), "\"messages\" is text, not a list"),
            (GOOD, r#"{"messages": ["q"]}"#.to_owned(), "\"messages\" 1 is text, not an object"),
            (GOOD, r#"{"messages": [{"role": "user"}]}"#.to_owned(), "message 1: no \"content\"; the record has role"),
            (GOOD, r#"{"talk": []}"#.to_owned(), "no \"messages\"; the record has talk"),
            (
                GOOD,
                PAIR.to_owned(),
                "holds prompt and completion (prompt, completion), and the records before it messages",
            ),
            (PAIR, r#"{"prompt": "q", "completion": " \n"}"#.to_owned(), "message 2 is an empty completion"),
            (PAIR, r#"{"prompt": "q", "completion": 4}"#.to_owned(), "\"completion\" is a number, not text"),
            (PAIR, r#"{"prompt": "q"}"#.to_owned(), "no \"completion\"; the record has prompt"),
            (TALK, r#"{"chosen": "Once upon a time"}"#.to_owned(), "\"chosen\" does not begin with \"Human:\""),
            (TALK, r#"{"chosen": "Human: q\n\nHuman: q\n\nAssistant: a"}"#.to_owned(), "message 2 is the user's"),
            (TALK, r#"{"chosen": "Human: q\n\nAssistant:"}"#.to_owned(), "message 2 is an empty completion"),
        ] {
            let message = fails(&[first, &second]);
            assert!(message.contains(&format!("f.jsonl line 2: {expected}")), "{message}\nexpected {expected}");
            let (all, _, skipped) = read(&[first, &second, first], OnBadRecord::Skip).unwrap();
            assert_eq!((all.len(), skipped.total()), (2, 1), "{second}");
        }
    }

    #[test]
    fn a_file_without_dialogues_is_refused() {
        let message = fails(&[r#"{"title": "t", "text": "Once upon a time"}"#]);
        assert!(message.contains("line 1: is no dialogue: it has title, text; known are messages"), "{message}");
        let skipping = read(&[r#"{"title": "t"}"#], OnBadRecord::Skip).unwrap_err().to_string();
        assert!(skipping.contains("f.jsonl holds no dialogue;"), "{skipping}");
        assert!(fails(&[]).contains("f.jsonl holds no records"));
    }

    /// Counts by an independent reading of the same files.
    #[test]
    fn published_files_are_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
        for (file, shape, dialogues, malformed, empty) in [
            ("instructions/gsm8k-train.jsonl", "prompt and completion (prompt, completion)", 7473, 0, 0),
            ("instructions/self-instruct-seeds.jsonl", "instructions (instruction, input, output)", 175, 0, 0),
            ("instructions/dolly-a.jsonl.gz", "instructions (instruction, input, output)", 5500, 0, 0),
            ("preferences/hh-helpful-a.jsonl.gz", "transcripts (chosen: Human, Assistant)", 1791, 8, 1),
            ("preferences/hh-harmless-a.jsonl.gz", "transcripts (chosen: Human, Assistant)", 1741, 5, 4),
        ] {
            let path = folder.join(file);
            if !path.exists() {
                eprintln!("skipped: {} is absent", path.display());
                continue;
            }
            let mut n = 0;
            let mut count = |_| {
                n += 1;
                Ok(())
            };
            let (found, skipped) = read_dialogues(&path, OnBadRecord::Skip, &Silent, &mut count).unwrap();
            assert_eq!((found.to_string().as_str(), n), (shape, dialogues), "{file}: {skipped:?}");
            assert_eq!((skipped.malformed, skipped.empty), (malformed, empty), "{file}: {skipped:?}");
        }
    }
}
