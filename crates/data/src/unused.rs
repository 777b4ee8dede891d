//! Fields of records that a reader does not use, although their names say that they may matter: counted, and reported once
//! for a file.

use crate::messages::{MARKS, is_nothing};
use crate::progress::{Progress, grouped};
use crate::record::Row;
use serde_json::{Map, Value};
use std::fmt::Display;

/// What a file's records have that was not used or is questionable, with the number of records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unused {
    /// Names of fields, in the order in which they were met.
    fields: Vec<(String, u64)>,
    /// Other remarks, likewise.
    remarks: Vec<(&'static str, u64)>,
}

/// Whether a field of this name changes what is learned in some program that reads such records.
fn may_matter(name: &str) -> bool {
    matches!(
        name,
        "system"
            | "system_prompt"
            | "system_message"
            | "history"
            | "context"
            | "input"
            | "instruction"
            | "weight"
            | "weights"
            | "sample_weight"
            | "loss_weight"
            | "loss_mask"
            | "mask"
            | "train"
            | "trainable"
            | "loss"
            | "train_on_turn"
            | "train_on_input"
            | "train_on_inputs"
            | "tools"
            | "functions"
            | "tool_calls"
            | "documents"
            | "image"
            | "images"
            | "video"
            | "videos"
            | "audio"
            | "audios"
            | "label"
            | "labels"
            | "margin"
            | "reasoning"
            | "reasoning_content"
            | "thinking"
            | "chat_template"
            | "chat_template_kwargs"
    )
}

/// The same of a field of a message.
fn may_matter_in_message(name: &str) -> bool {
    matches!(
        name,
        "name"
            | "reasoning"
            | "reasoning_content"
            | "thinking"
            | "thought"
            | "tool_call_id"
            | "tools"
            | "image"
            | "images"
            | "video"
            | "videos"
            | "audio"
            | "audios"
            | "context"
            | "weights"
    )
}

impl Unused {
    /// Looks at the fields of `row`, of which the reader uses those named `used`.
    pub fn take(&mut self, row: &Row, used: &[&str]) {
        for (name, value) in &row.fields {
            if !used.contains(&name.as_str()) {
                if may_matter(name) && !is_nothing(value) {
                    add(&mut self.fields, name, name.clone());
                }
            } else if let Value::Array(messages) = value {
                self.take_messages(name, messages);
            }
        }
    }

    fn take_messages(&mut self, list: &str, messages: &[Value]) {
        let mut met: Vec<&str> = Vec::new();
        for fields in messages.iter().filter_map(Value::as_object) {
            for (name, value) in fields {
                let is_idle = may_matter_in_message(name) && !is_nothing(value)
                    || MARKS.contains(&name.as_str()) && is_learned_of_others(fields, value);
                if is_idle && !met.contains(&name.as_str()) {
                    met.push(name);
                }
            }
        }
        for name in met {
            let name = format!("{list}: {name}");
            add(&mut self.fields, name.as_str(), name.clone());
        }
    }

    /// Counts a record of which `remark` is true.
    pub(crate) fn remark(&mut self, remark: &'static str) {
        add(&mut self.remarks, &remark, remark);
    }

    /// Warns of what was counted in the file `name`, if anything was.
    pub fn warn(&self, name: &dyn Display, progress: &dyn Progress) {
        let records = |n: u64| format!("{} record{}", grouped(n), if n == 1 { "" } else { "s" });
        if !self.fields.is_empty() {
            let fields: Vec<String> =
                self.fields.iter().map(|(name, n)| format!("\"{name}\" ({})", records(*n))).collect();
            progress.warn(&format!("{name}: ignored fields that may matter: {}", fields.join(", ")));
        }
        for (remark, n) in &self.remarks {
            progress.warn(&format!("{name}: {remark} ({})", records(*n)));
        }
    }
}

/// Whether the message with these `fields` is not the assistant's and has a mark, `value`, by which it would be learned.
fn is_learned_of_others(fields: &Map<String, Value>, value: &Value) -> bool {
    let says_yes = matches!(value, Value::Bool(true)) || value.as_f64() == Some(1.0);
    let role = ["role", "from", "speaker"].into_iter().find_map(|name| fields.get(name)).and_then(Value::as_str);
    says_yes && role.is_some_and(|role| matches!(role, "user" | "human" | "prompter" | "system" | "developer"))
}

/// Counts one more of the entry that equals `key`, which is `new` when there is none.
fn add<K: ?Sized, T: PartialEq<K>>(counts: &mut Vec<(T, u64)>, key: &K, new: T) {
    match counts.iter_mut().find(|(known, _)| *known == *key) {
        Some((_, n)) => *n += 1,
        None => counts.push((new, 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::RecordPlace;
    use crate::testing::Heard;
    use serde_json::json;

    fn row(fields: Value) -> Row {
        let Value::Object(fields) = fields else { panic!("{fields}") };
        Row { place: RecordPlace { file: "f.jsonl".into(), line: 1 }, fields }
    }

    #[test]
    fn fields_that_may_matter_are_counted_unless_they_are_used_or_say_nothing() {
        let mut unused = Unused::default();
        for i in 0..3 {
            let tools = if i == 0 { json!([]) } else { json!([{ "name": "f" }]) };
            unused.take(
                &row(json!({ "id": i, "system": "s", "tools": tools, "label": false, "history": null })),
                &["system"],
            );
        }
        unused.remark("something is odd");
        let heard = Heard::default();
        unused.warn(&"f.jsonl", &heard);
        let expected = [
            "f.jsonl: ignored fields that may matter: \"label\" (3 records), \"tools\" (2 records)",
            "f.jsonl: something is odd (1 record)",
        ];
        assert_eq!(heard.warnings(), expected);
    }

    #[test]
    fn fields_of_messages_are_counted_once_a_record() {
        let mut unused = Unused::default();
        let user = json!({ "role": "user", "content": "q", "name": "Mia", "train": true, "weight": 0 });
        let answer = json!({ "role": "assistant", "content": "a", "weight": 1, "reasoning_content": "hm" });
        unused.take(&row(json!({ "messages": [user, answer, user] })), &["messages"]);
        let heard = Heard::default();
        unused.warn(&"f.jsonl", &heard);
        let [said] = &heard.warnings()[..] else { panic!() };
        for name in ["name", "train", "reasoning_content"] {
            assert!(said.contains(&format!("\"messages: {name}\" (1 record)")), "{said}");
        }
        assert!(!said.contains("weight"), "{said}");
    }
}
