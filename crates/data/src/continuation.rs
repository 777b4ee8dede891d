//! A prompt, and what completions or whole dialogues add to it.

use crate::message::{AnswerUse, Message, Role, checked, with_answers, with_input};
use crate::messages::{HISTORY, earlier, is_nothing, messages, messages_of, turns, with_system};
use crate::record::{BadRecord, Row, kind_of};
use serde_json::Value;

/// Most bytes that the copies of a prompt may have.
pub(crate) const LARGEST_COPY: usize = 256 << 20;

/// The dialogue under `key`: messages, a transcript, or what the user says; with the system message and the earlier turns that
/// the record has elsewhere. Its own answers are only read.
pub(crate) fn prompt_under(row: &Row, key: &str) -> Result<Vec<Message>, BadRecord> {
    let own = match row.fields.get(key) {
        Some(Value::Array(_) | Value::Object(_)) => messages(row, key)?,
        _ => {
            let text = row.text(key)?;
            match turns(text) {
                Some(turns) => turns,
                None if key == "instruction" => vec![Message::new(Role::User, with_input(text, input(row)?))],
                None => vec![Message::new(Role::User, text)],
            }
        }
    };
    let mut prompt = if key == HISTORY { Vec::new() } else { earlier(row)? };
    prompt.extend(with_answers(own, AnswerUse::Prompt));
    let mut prompt = with_system(row, prompt)?;
    // A transcript may end where the assistant is to speak.
    if prompt.last().is_some_and(|last| last.role == Role::Assistant && last.content.is_empty()) {
        prompt.pop();
    }
    match prompt.last() {
        Some(last) if last.role == Role::User && !last.content.trim().is_empty() => Ok(prompt),
        Some(last) if last.role == Role::User => Err(BadRecord::empty("the prompt is empty")),
        _ => Err(BadRecord::new("the prompt does not end with a message of the user")),
    }
}

/// What an instruction is about.
fn input(row: &Row) -> Result<Option<&str>, BadRecord> {
    let has = |key: &str| row.fields.get(key).is_some_and(|value| !is_nothing(value));
    match (has("context"), has("input")) {
        (true, true) => Err(BadRecord::new("has both \"context\" and \"input\"; use only one of them")),
        (true, false) => row.optional_text("context"),
        (false, _) => row.optional_text("input"),
    }
}

/// The prompt under `key`, and what each of `said` adds to it. What is said may repeat the prompt, or hold the whole dialogue
/// where there is no key: the beginning that all share, up to a message of the user's, is the prompt then.
///
/// # Errors
/// When it is no dialogue, or what is said begins with another prompt.
pub(crate) fn continued(
    row: &Row,
    key: Option<&str>,
    said: &[(String, &Value)],
) -> Result<(Vec<Message>, Vec<Vec<Message>>), BadRecord> {
    let prompt = match key {
        Some(key) => prompt_under(row, key)?,
        None => with_system(row, Vec::new())?,
    };
    // Each completion is looked at behind its own copy of the prompt.
    if said.len() * prompt.iter().map(|message| message.content.len()).sum::<usize>() > LARGEST_COPY {
        return Err(BadRecord::new(format!("the prompt is too long to repeat it for {} completions", said.len())));
    }
    let known = key.map(|_| prompt.as_slice());
    let parts = said.iter().map(|(name, said)| part(name, said, known)).collect::<Result<Vec<_>, _>>()?;
    let is_whole = |part: &[Message]| part.first().is_some_and(|first| first.role != Role::Assistant);
    let are_whole = key.is_none() || parts.iter().all(|part| is_whole(part));
    let mut dialogues = Vec::with_capacity(parts.len());
    for ((name, _), part) in said.iter().zip(parts) {
        let whole = match is_whole(&part) || key.is_none() {
            true => under_system(&prompt, part)?,
            false => prompt.iter().cloned().chain(part).collect(),
        };
        if !are_whole && !begins(turns_of(&whole), turns_of(&prompt)) {
            return Err(BadRecord::new(format!("{name} is a dialogue that does not begin with the prompt")));
        }
        // An empty system message counts as no system message.
        dialogues.push(checked(whole).map_err(|bad| if said.len() > 1 { bad.within(name) } else { bad })?);
    }
    let Some(first) = dialogues.first() else { return Ok((prompt, dialogues)) };
    let n = match are_whole {
        true => shared_prompt(&dialogues),
        false => first.len() - turns_of(first).len() + turns_of(&prompt).len(),
    };
    let shared = first[..n.min(first.len())].to_vec();
    if shared.last().is_none_or(|last| last.role != Role::User) {
        return Err(BadRecord::new("chosen and rejected do not begin with the same prompt"));
    }
    let (asked, own) = (turns_of(&shared), turns_of(&prompt));
    if key.is_some() && !begins(asked, own) && !ends(asked, own) {
        return Err(BadRecord::new("the dialogues do not begin with the prompt"));
    }
    let n_asked = asked.len();
    for whole in &mut dialogues {
        let n = whole.len() - turns_of(whole).len() + n_asked;
        whole.drain(..n);
    }
    Ok((shared, dialogues))
}

/// Whether `said` is a dialogue that begins with something else than an answer.
pub(crate) fn is_whole(said: &Value) -> bool {
    let first = match said {
        Value::Array(list) => list.first().and_then(|first| messages_of(first, "chosen").ok()),
        Value::String(text) => turns(text),
        _ => None,
    };
    first.is_some_and(|first| first.first().is_some_and(|first| first.role != Role::Assistant))
}

/// What `said` holds: an answer, or messages. A text that repeats the turns of the `prompt` is a transcript; where there is no
/// prompt, it must be one.
fn part(name: &str, said: &Value, prompt: Option<&[Message]>) -> Result<Vec<Message>, BadRecord> {
    let is_transcript = |turns: &[Message]| prompt.is_none_or(|prompt| begins(turns, turns_of(prompt)));
    match said {
        Value::String(text) => match (turns(text).filter(|turns| is_transcript(turns)), prompt) {
            (Some(turns), _) => Ok(turns),
            (None, Some(_)) => Ok(vec![Message::new(Role::Assistant, text.as_str())]),
            (None, None) => {
                Err(BadRecord::new(format!("{name} is not a dialogue: it has no \"Human:\" and \"Assistant:\" turns")))
            }
        },
        Value::Array(_) | Value::Object(_) => messages_of(said, name).map_err(|bad| bad.within(name)),
        other => Err(BadRecord::new(format!("{name} is {}, not a string or messages", kind_of(other)))),
    }
}

/// `whole` with the system message that `prompt` begins with, unless it has it already.
fn under_system(prompt: &[Message], mut whole: Vec<Message>) -> Result<Vec<Message>, BadRecord> {
    let Some(system) = prompt.first().filter(|first| first.role == Role::System) else { return Ok(whole) };
    match whole.first() {
        Some(first) if first.role != Role::System => whole.insert(0, system.clone()),
        Some(first) if !is_same(first, system) => {
            return Err(BadRecord::new("the dialogue has a different system message from the prompt"));
        }
        _ => {}
    }
    Ok(whole)
}

/// `messages` without a system message.
fn turns_of(messages: &[Message]) -> &[Message] {
    match messages {
        [first, turns @ ..] if first.role == Role::System => turns,
        turns => turns,
    }
}

/// Whether two messages say the same, whatever white space is around it.
fn is_same(a: &Message, b: &Message) -> bool {
    a.role == b.role && a.content.trim() == b.content.trim()
}

/// Whether `whole` begins with `prompt`.
fn begins(whole: &[Message], prompt: &[Message]) -> bool {
    whole.len() >= prompt.len() && whole.iter().zip(prompt).all(|(a, b)| is_same(a, b))
}

/// Whether `whole` ends with `prompt`.
fn ends(whole: &[Message], prompt: &[Message]) -> bool {
    whole.len() >= prompt.len() && begins(&whole[whole.len() - prompt.len()..], prompt)
}

/// Messages that all dialogues begin with, up to one of the user's; of a single dialogue, all up to the last of the user's.
fn shared_prompt(dialogues: &[Vec<Message>]) -> usize {
    let [first, rest @ ..] = dialogues else { return 0 };
    let alike = |other: &Vec<Message>| first.iter().zip(other).take_while(|(a, b)| is_same(a, b)).count();
    let shared = rest.iter().map(alike).min().unwrap_or(first.len());
    let is_question = |i: &usize| first.get(i - 1).is_some_and(|message| message.role == Role::User);
    (1..=shared).rev().find(is_question).unwrap_or(0)
}
