//! Messages in records: lists with any of the usual field names, transcripts, system messages and histories.

use crate::message::{AnswerUse, Message, Role};
use crate::record::{BadRecord, Row, kind_of};
use serde_json::{Map, Value};

/// Names of the fields for the role and the content of a message.
const ROLES: [&str; 3] = ["role", "from", "speaker"];
const CONTENTS: [&str; 4] = ["content", "value", "text", "parts"];
/// Names of the two fields where one object holds a question and its answer.
const QUESTIONS: [&str; 6] = ["user", "human", "prompt", "question", "instruction", "input"];
const ANSWERS: [&str; 7] = ["assistant", "gpt", "bot", "response", "answer", "output", "completion"];
/// Marks of a message: 1 or true when it is learned, 0 or false when it is only read.
pub(crate) const MARKS: [&str; 8] =
    ["weight", "train", "loss", "trainable", "training", "loss_weight", "loss_mask", "step_loss_mask"];
/// Marks that mean one thing in some programs and the opposite, or something else, in others.
const UNCLEAR_MARKS: [&str; 3] = ["mask", "masked", "train_detail"];
/// Fields of messages without which a dialogue says something else.
const TOOL_USE: [&str; 2] = ["tool_calls", "function_call"];
/// Columns that hold a record's system message.
pub(crate) const SYSTEM: [&str; 3] = ["system", "system_prompt", "system_message"];
/// Column that holds earlier turns.
pub(crate) const HISTORY: &str = "history";

const HUMAN: &str = "\n\nHuman:";
const ASSISTANT: &str = "\n\nAssistant:";

/// Whether `value` says nothing, as a column does where a record has no use for it.
pub(crate) fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.trim().is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// The first of `names` under which `fields` has something; else the first that it has at all.
fn first<'a>(fields: &Map<String, Value>, names: &[&'a str]) -> Option<&'a str> {
    let has = |name: &&&str| fields.get(**name).is_some_and(|value| !value.is_null());
    names.iter().find(has).or_else(|| names.iter().find(|name| fields.contains_key(**name))).copied()
}

/// Names of the two fields that the messages of `list` use: role and content, or question and answer.
pub(crate) fn keys_of_messages(list: &Value) -> [&'static str; 2] {
    let Some(Value::Object(fields)) = list.get(0) else { return ["role", "content"] };
    match (first(fields, &ROLES), pair_keys(fields)) {
        (None, Some(pair)) => pair,
        (role, _) => {
            let role = role.unwrap_or("role");
            [role, first(fields, &CONTENTS).unwrap_or(if role == "from" { "value" } else { "content" })]
        }
    }
}

fn pair_keys(fields: &Map<String, Value>) -> Option<[&'static str; 2]> {
    Some([first(fields, &QUESTIONS)?, first(fields, &ANSWERS)?])
}

/// The messages in the list under `key`.
///
/// # Errors
/// When the column is missing, or one of the messages cannot be read.
pub(crate) fn messages(row: &Row, key: &str) -> Result<Vec<Message>, BadRecord> {
    match row.fields.get(key) {
        Some(value) => messages_of(value, key),
        None => Err(row.lacks(key)),
    }
}

/// The messages of `value`, which stands under `name`: a list of them, or one.
///
/// # Errors
/// When it is neither, or one of them cannot be read.
pub(crate) fn messages_of(value: &Value, name: &str) -> Result<Vec<Message>, BadRecord> {
    let list = match value {
        Value::Array(list) => list.as_slice(),
        Value::Object(_) => std::slice::from_ref(value),
        other => return Err(BadRecord::new(format!("\"{name}\" is {}, not a list", kind_of(other)))),
    };
    let expected = keys_of_messages(value);
    let mut messages = Vec::with_capacity(list.len());
    for (i, value) in list.iter().enumerate() {
        let Value::Object(fields) = value else {
            return Err(BadRecord::new(format!("\"{name}\" {} is {}, not an object", i + 1, kind_of(value))));
        };
        let numbered = |bad: BadRecord| bad.within(&format!("message {}", i + 1));
        match (first(fields, &ROLES), pair_keys(fields)) {
            (None, Some(pair)) => turns_of_pair(fields, pair, &mut messages).map_err(numbered)?,
            _ => messages.push(message(fields, expected).map_err(numbered)?),
        }
    }
    Ok(messages)
}

/// The message that `fields` hold; `expected` are the names that its list uses.
fn message(fields: &Map<String, Value>, expected: [&str; 2]) -> Result<Message, BadRecord> {
    let field = |names: &[&'static str], expected: &str| match first(fields, names) {
        Some(name) => Ok((name, &fields[name])),
        None => Err(BadRecord::lacking(expected, fields)),
    };
    let (name, role) = field(&ROLES, expected[0])?;
    let Value::String(role) = role else {
        return Err(BadRecord::new(format!("\"{name}\" is {}, not a string", kind_of(role))));
    };
    let role = named(role)?;
    if let Some(tool) = TOOL_USE.into_iter().find(|name| fields.get(*name).is_some_and(|value| !is_nothing(value))) {
        return Err(BadRecord::new(format!("has \"{tool}\": tool calls are not supported")));
    }
    let (name, content) = field(&CONTENTS, expected[1])?;
    let mut message = Message::new(role, content_of(name, content)?);
    if role == Role::Assistant {
        message.use_of = use_of(fields)?;
    }
    Ok(message)
}

/// A question and its answer in one object, perhaps with a system message.
fn turns_of_pair(fields: &Map<String, Value>, pair: [&str; 2], messages: &mut Vec<Message>) -> Result<(), BadRecord> {
    let system = first(fields, &SYSTEM).filter(|name| !is_nothing(&fields[*name]));
    let use_of = use_of(fields)?;
    let names = [(Role::System, system), (Role::User, Some(pair[0])), (Role::Assistant, Some(pair[1]))];
    for (role, name) in names {
        let Some(name) = name else { continue };
        let mut message = Message::new(role, content_of(name, &fields[name])?);
        if role == Role::Assistant {
            message.use_of = use_of;
        }
        messages.push(message);
    }
    Ok(())
}

/// The text of a message: text, or a list of parts that are all text, which are joined as templates join them, with nothing
/// between them.
fn content_of(name: &str, content: &Value) -> Result<String, BadRecord> {
    match content {
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) => parts.iter().enumerate().map(|(i, part)| part_of(name, i, part)).collect(),
        other => Err(BadRecord::new(format!("\"{name}\" is {}, not a string", kind_of(other)))),
    }
}

fn part_of<'a>(name: &str, index: usize, part: &'a Value) -> Result<&'a str, BadRecord> {
    let what = format!("part {} of \"{name}\"", index + 1);
    let kind = part.get("type").map_or(Some("text"), Value::as_str);
    match (kind, part.get("text")) {
        (Some("text" | "input_text" | "output_text"), Some(Value::String(text))) => Ok(text),
        (Some("text" | "input_text" | "output_text"), _) => Err(BadRecord::new(format!("{what} has no \"text\""))),
        (Some(kind), _) => Err(BadRecord::new(format!("{what} has the type {kind:?}; only text parts are supported"))),
        (None, _) => Err(BadRecord::new(format!("{what} has a \"type\" that is not a string"))),
    }
}

/// Whether an answer is learned, by the marks among `fields`.
fn use_of(fields: &Map<String, Value>) -> Result<AnswerUse, BadRecord> {
    let given = |name: &&str| fields.get(*name).is_some_and(|value| !value.is_null());
    if let Some(name) = UNCLEAR_MARKS.into_iter().find(given) {
        return Err(BadRecord::new(format!(
            "has \"{name}\", which is not supported; use \"weight\": 0 for messages that are not trained on and 1 for \
             the others"
        )));
    }
    let mut mark = None;
    for name in MARKS.into_iter().filter(given) {
        let value = &fields[name];
        let learned = match (value, value.as_f64()) {
            (Value::Bool(learned), _) => *learned,
            (_, Some(0.0)) => false,
            (_, Some(1.0)) => true,
            _ => {
                return Err(BadRecord::new(format!("\"{name}\" is {value}; use 1 (trained on) or 0 (not trained on)")));
            }
        };
        if mark.is_some_and(|before| before != learned) {
            return Err(BadRecord::new(format!(
                "\"{name}\" is {value}, which contradicts another mark of the same message"
            )));
        }
        mark = Some(learned);
    }
    Ok(if mark == Some(false) { AnswerUse::Masked } else { AnswerUse::Learned })
}

/// The role that `role` names.
fn named(role: &str) -> Result<Role, BadRecord> {
    match role.trim().to_ascii_lowercase().as_str() {
        "system" | "developer" => Ok(Role::System),
        "user" | "human" | "prompter" => Ok(Role::User),
        "assistant" | "gpt" | "chatgpt" | "bing" | "bard" | "model" | "bot" | "chatbot" | "ai" => Ok(Role::Assistant),
        "tool" | "tools" | "tool_call" | "tool_response" | "function" | "function_call" | "function_response"
        | "ipython" | "observation" | "environment" => {
            Err(BadRecord::new(format!("has the role {role:?}: tool calls are not supported")))
        }
        _ => Err(BadRecord::new(format!(
            "unknown role {role:?}; use system (developer), user (human, prompter) or assistant (gpt, chatgpt, bing, bard, \
             model, bot, chatbot, ai)"
        ))),
    }
}

/// The turns of a transcript, which begins with one.
pub(crate) fn turns(text: &str) -> Option<Vec<Message>> {
    let start = text.trim_start();
    if ![HUMAN, ASSISTANT].iter().any(|turn| start.starts_with(turn.trim_start())) {
        return None;
    }
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

/// The column of `row` that holds a system message, if one does.
pub(crate) fn system_column(row: &Row) -> Option<&'static str> {
    SYSTEM.into_iter().find(|name| row.fields.get(*name).is_some_and(|value| !is_nothing(value)))
}

/// Puts the system message that `row` has in a separate column in front of `messages`.
///
/// # Errors
/// When it is no text, or `messages` begin with another one.
pub(crate) fn with_system(row: &Row, mut messages: Vec<Message>) -> Result<Vec<Message>, BadRecord> {
    let Some(column) = system_column(row) else { return Ok(messages) };
    let text = row.text(column)?;
    match messages.first() {
        Some(first) if first.role == Role::System && first.content.trim() == text.trim() => {}
        Some(first) if first.role == Role::System && !first.content.trim().is_empty() => {
            return Err(BadRecord::new(format!("\"{column}\" differs from the system message of the dialogue")));
        }
        Some(first) if first.role == Role::System => messages[0] = Message::new(Role::System, text),
        _ => messages.insert(0, Message::new(Role::System, text)),
    }
    Ok(messages)
}

/// The turns that `row` has under `history`: questions with their answers, or messages.
///
/// # Errors
/// When it holds something else.
pub(crate) fn earlier(row: &Row) -> Result<Vec<Message>, BadRecord> {
    match row.fields.get(HISTORY) {
        Some(value) if !is_nothing(value) => earlier_turns(value),
        _ => Ok(Vec::new()),
    }
}

/// What `row` has before its question: a system message in a separate column, and [`earlier`] turns.
///
/// # Errors
/// As those of the two.
pub(crate) fn before_question(row: &Row) -> Result<Vec<Message>, BadRecord> {
    with_system(row, earlier(row)?)
}

fn earlier_turns(value: &Value) -> Result<Vec<Message>, BadRecord> {
    let Value::Array(list) = value else {
        let kind = kind_of(value);
        return Err(BadRecord::new(format!("\"{HISTORY}\" is {kind}, not a list of question-answer pairs")));
    };
    if list.iter().all(Value::is_object) {
        return messages_of(value, HISTORY).map_err(|bad| bad.within(&format!("\"{HISTORY}\"")));
    }
    let mut turns = Vec::with_capacity(2 * list.len());
    for (i, turn) in list.iter().enumerate() {
        let texts = turn.as_array().map(|pair| pair.iter().map(Value::as_str).collect::<Vec<_>>());
        let Some([Some(question), Some(answer)]) = texts.as_deref() else {
            return Err(BadRecord::new(format!("\"{HISTORY}\" {} is not a question-answer pair", i + 1)));
        };
        turns.extend([Message::new(Role::User, *question), Message::new(Role::Assistant, *answer)]);
    }
    Ok(turns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::RecordPlace;
    use Role::{Assistant, System, User};
    use serde_json::json;

    fn read(value: Value) -> Result<Vec<(Role, String, bool)>, String> {
        let messages = messages_of(&value, "messages").map_err(|bad| bad.to_string())?;
        Ok(messages.into_iter().map(|m| (m.role, m.content, m.use_of == AnswerUse::Learned)).collect())
    }

    fn of(role: Role, content: &str) -> (Role, String, bool) {
        (role, content.to_owned(), true)
    }

    #[test]
    fn messages_are_read_by_any_of_their_names() {
        let pair = [of(User, "q"), of(Assistant, "a")];
        let part = |kind: &str, text: &str| json!({ "type": kind, "text": text, "image_url": null });
        for list in [
            json!([{ "role": "user", "content": "q" }, { "role": "assistant", "content": "a" }]),
            json!([{ "from": "human", "value": "q" }, { "from": "gpt", "value": "a" }]),
            json!([{ "from": "prompter", "value": "q" }, { "from": "chatgpt", "value": "a" }]),
            json!([{ "speaker": "Human", "text": "q" }, { "speaker": "Bot", "text": "a" }]),
            json!([{ "role": "user", "parts": [{ "text": "q" }] }, { "role": "model", "parts": [{ "text": "a" }] }]),
            json!([{ "role": "user", "content": [part("text", "q")] }, { "role": "ai", "content": [part("text", "a")] }]),
            json!([{ "role": "user", "value": "q", "content": null }, { "role": "bing", "content": "a", "value": null }]),
            json!([{ "human": "q", "assistant": "a" }]),
            json!([{ "system": "", "input": "q", "output": "a" }]),
        ] {
            assert_eq!(read(list.clone()).unwrap(), pair, "{list}");
        }
        let joined = json!([{ "role": "developer", "content": [part("text", "a\n"), part("input_text", "b")] }]);
        assert_eq!(read(joined).unwrap(), [of(System, "a\nb")]);
        let pairs = json!([{ "system": "s", "input": "q", "output": "a" }, { "input": "r", "output": "b" }]);
        let expected = [of(System, "s"), of(User, "q"), of(Assistant, "a"), of(User, "r"), of(Assistant, "b")];
        assert_eq!(read(pairs).unwrap(), expected);
    }

    #[test]
    fn marks_say_what_is_learned() {
        let marked = |mark: Value| {
            let mut message = json!({ "role": "assistant", "content": "a" });
            message.as_object_mut().unwrap().extend(mark.as_object().unwrap().clone());
            read(json!([message])).map(|messages| messages[0].2)
        };
        for (mark, learned) in [
            (json!({}), true),
            (json!({ "weight": null }), true),
            (json!({ "weight": 0 }), false),
            (json!({ "weight": 1.0, "train": true }), true),
            (json!({ "train": false }), false),
            (json!({ "loss": false, "weight": 0.0 }), false),
        ] {
            assert_eq!(marked(mark.clone()), Ok(learned), "{mark}");
        }
        for (mark, says) in [
            (json!({ "weight": 0.5 }), "message 1: \"weight\" is 0.5; use 1 (trained on) or 0 (not trained on)"),
            (json!({ "train": "no" }), "\"train\" is \"no\"; use 1"),
            (json!({ "train": true, "weight": 0 }), "\"train\" is true, which contradicts another mark"),
            (json!({ "mask": 1 }), "has \"mask\", which is not supported"),
            (json!({ "train_detail": [{}] }), "has \"train_detail\""),
        ] {
            let said = marked(mark.clone()).unwrap_err();
            assert!(said.contains(says), "{mark}: {said}");
        }
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        let user = |content: Value| json!([{ "role": "user", "content": content }]);
        for (list, says) in [
            (user(json!([{ "type": "image" }])), "message 1: part 1 of \"content\" has the type \"image\""),
            (user(json!([{ "type": "text", "text": "a" }, { "type": "image_url", "image_url": {} }])), "part 2"),
            (user(json!([{ "type": "text" }])), "part 1 of \"content\" has no \"text\""),
            (user(json!(["a"])), "part 1 of \"content\" has no \"text\""),
            (user(json!(null)), "message 1: \"content\" is null"),
            (json!([{ "role": "tool", "content": "a" }]), "has the role \"tool\": tool calls"),
            (json!([{ "role": "assistant", "content": null, "tool_calls": [{}] }]), "has \"tool_calls\""),
            (json!([{ "role": "narrator", "content": "a" }]), "unknown role \"narrator\"; use system"),
            (json!([{ "content": "a" }]), "message 1: \"role\" is missing; the record has content"),
            (json!([["user", "a"]]), "\"messages\" 1 is a list, not an object"),
        ] {
            let said = read(list.clone()).unwrap_err();
            assert!(said.contains(says), "{list}: {said}");
        }
    }

    #[test]
    fn a_system_column_and_history_come_before_the_question() {
        let before = |fields: Value| {
            let Value::Object(fields) = fields else { panic!("{fields}") };
            let row = Row { place: RecordPlace { file: "f.jsonl".into(), line: 1 }, fields };
            let messages = before_question(&row).map_err(|bad| bad.to_string())?;
            Ok::<_, String>(
                messages.into_iter().map(|m| (m.role, m.content, m.use_of == AnswerUse::Learned)).collect::<Vec<_>>(),
            )
        };
        let turns = [of(System, "s"), of(User, "q"), of(Assistant, "a")];
        assert_eq!(before(json!({ "system": "s", "history": [["q", "a"]] })).unwrap(), turns);
        let history = json!([{ "role": "user", "content": "q" }, { "role": "assistant", "content": "a" }]);
        assert_eq!(before(json!({ "system_prompt": "s", "history": history })).unwrap(), turns);
        for nothing in [json!({}), json!({ "system": " ", "history": null }), json!({ "system": null, "history": [] })]
        {
            assert_eq!(before(nothing).unwrap(), []);
        }
        for (wrong, says) in [
            (json!({ "history": "q" }), "\"history\" is a string, not a list of question-answer pairs"),
            (json!({ "history": [["q", "a"], ["r"]] }), "\"history\" 2 is not a question-answer pair"),
            (json!({ "system": 3 }), "\"system\" is a number, not a string"),
        ] {
            assert!(before(wrong.clone()).unwrap_err().contains(says), "{wrong}");
        }
    }
}
