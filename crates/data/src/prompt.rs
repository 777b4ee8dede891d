//! Records and lines → prompts: what is to be answered, whatever else a record holds.

use crate::comparison;
use crate::dialogue::{self, Message, Role, with_input};
use crate::progress::{Progress, Unit};
use crate::record::{Bad, Place, Row, Skipped, read_lines, read_rows};
use crate::source::{self, Form, OnBadRecord};
use anyhow::{Result, bail, ensure};
use std::path::Path;

/// What is to be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Where it stands.
    pub place: Place,
    /// The dialogue so far; the user speaks last.
    pub messages: Vec<Message>,
}

/// The prompts that `row` holds: under `prompt`, text, a transcript or messages; of a comparison or a dialogue what comes
/// before the last answer; a `question` or an `instruction` that has no answer.
///
/// # Errors
/// When it holds none, or something is wrong with what is said.
pub fn prompts(row: &Row) -> Result<Vec<Vec<Message>>, Bad> {
    let has = |key: &str| row.fields.contains_key(key);
    if has("prompt") {
        return Ok(vec![asked(comparison::prompt(row)?)?]);
    }
    if has("chosen") && has("rejected") {
        return Ok(vec![comparison::Shape::of(row)?.completions(row)?.0]);
    }
    for key in ["messages", "conversations"] {
        if has(key) {
            let mut messages = dialogue::messages(row, key)?;
            if messages.last().is_some_and(|last| last.role == Role::Assistant) {
                messages.pop();
            }
            return Ok(vec![asked(messages)?]);
        }
    }
    let text = match dialogue::Shape::of(row) {
        Ok(shape) => {
            let before_answer = |mut messages: Vec<Message>| {
                messages.pop();
                messages
            };
            return Ok(shape.dialogues(row)?.into_iter().map(before_answer).collect());
        }
        Err(_) if has("question") => row.text("question")?.to_owned(),
        Err(_) if has("instruction") => with_input(row.text("instruction")?, row.optional_text("input")?),
        Err(bad) => return Err(Bad::new(format!("holds no prompt and {bad}"))),
    };
    Ok(vec![asked(vec![Message::new(Role::User, text)])?])
}

/// `messages`, if the user speaks last and all is as in a dialogue.
fn asked(messages: Vec<Message>) -> Result<Vec<Message>, Bad> {
    let mut answered = messages;
    answered.push(Message::new(Role::Assistant, "an answer"));
    let mut checked = dialogue::checked(answered)?;
    checked.pop();
    Ok(checked)
}

/// Hands the prompts of the file `path` to `sink`: of a `.txt` file each line that is not blank, else those of the records.
/// A record without a sound prompt is left out and counted, or ends the reading, as `on_bad` says.
///
/// # Errors
/// As [`read_rows`], and when the file holds no prompt.
pub fn read_prompts(
    path: &Path,
    on_bad: OnBadRecord,
    progress: &dyn Progress,
    sink: &mut dyn FnMut(Prompt) -> Result<()>,
) -> Result<Skipped> {
    let mut n = 0_u64;
    let mut count = |prompt: Prompt| {
        n += 1;
        sink(prompt)
    };
    let skipped = if Form::of(path).is_text() {
        lines(path, on_bad, progress, &mut count)?
    } else {
        read_rows(path, on_bad, progress, &mut |row| {
            prompts(&row)?.into_iter().try_for_each(|messages| count(Prompt { place: row.place.clone(), messages }))
        })?
    };
    match &skipped.first {
        Some(first) if n == 0 => bail!("{} holds no prompt; {first}", path.display()),
        _ => ensure!(n > 0, "{} holds no prompts", path.display()),
    }
    Ok(skipped)
}

fn lines(
    path: &Path,
    on_bad: OnBadRecord,
    progress: &dyn Progress,
    sink: &mut dyn FnMut(Prompt) -> Result<()>,
) -> Result<Skipped> {
    let total = path.metadata().ok().map(|m| m.len());
    let task = progress.task(&format!("reading {}", path.display()), total, Unit::Bytes);
    let count = |n| task.advance(n);
    read_lines(path, on_bad, source::open(path, &count)?, &mut |place, text| {
        sink(Prompt { place, messages: vec![Message::new(Role::User, text.trim())] })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;
    use serde_json::{Value, json};

    fn read(value: Value) -> Result<Vec<Vec<Message>>, Bad> {
        let Value::Object(fields) = value else { panic!("{value} is no object") };
        prompts(&Row { place: Place { file: "a.jsonl".into(), line: 1 }, fields })
    }

    #[test]
    fn a_prompt_is_found_in_every_shape() {
        let user = |text: &str| json!({ "role": "user", "content": text });
        let assistant = |text: &str| json!({ "role": "assistant", "content": text });
        let q = vec![vec![Message::new(Role::User, "q")]];
        for value in [
            json!({ "prompt": "q" }),
            json!({ "prompt": [user("q")] }),
            json!({ "prompt": "q", "completion": "a" }),
            json!({ "prompt": "q", "chosen": "a", "rejected": "b" }),
            json!({ "prompt": "q", "completions": ["a"] }),
            json!({ "prompt": "\n\nHuman: q\n\nAssistant:" }),
            json!({ "chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b" }),
            json!({ "messages": [user("q"), assistant("a")] }),
            json!({ "messages": [user("q")] }),
            json!({ "question": "q" }),
            json!({ "question": "q", "answer": "a" }),
            json!({ "instruction": "q", "input": "" }),
            json!({ "instruction": "q", "output": "a" }),
        ] {
            assert_eq!(read(value.clone()).unwrap(), q, "{value}");
        }
        let long = json!({ "messages": [user("q"), assistant("a"), user("r"), assistant("b")] });
        assert_eq!(read(long).unwrap()[0].len(), 3, "the last answer alone is left out");
        let two = json!({ "instruction": "q", "instances": [{ "input": "i", "output": "a" }, { "input": "", "output": "b" }] });
        assert_eq!(read(two).unwrap().len(), 2);
    }

    #[test]
    fn what_holds_no_prompt_says_so() {
        let bad = |value| read(value).unwrap_err().to_string();
        assert!(bad(json!({ "text": "once" })).contains("holds no prompt and is no dialogue: it has text; known are"));
        assert_eq!(bad(json!({ "prompt": " " })), "the prompt is empty");
        let assistant = json!({ "role": "assistant", "content": "a" });
        assert!(bad(json!({ "messages": [assistant] })).contains("message 1 is the assistant's"));
    }

    #[test]
    fn lines_of_text_are_prompts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.txt");
        let read = |bytes: &[u8]| {
            crate::disk::write(&path, bytes).unwrap();
            let mut all = Vec::new();
            let skipped = read_prompts(&path, OnBadRecord::Fail, &Silent, &mut |prompt| {
                all.push((prompt.place.line, prompt.messages[0].content.clone()));
                Ok(())
            });
            skipped.map(|_| all).map_err(|e| format!("{e:#}"))
        };
        assert_eq!(read(b" a \n\nb\r\n").unwrap(), [(1, "a".to_owned()), (3, "b".to_owned())]);
        assert!(read(b"\n").unwrap_err().ends_with("p.txt holds no prompts"));
        let said = read(b"a\n\xff\n").unwrap_err();
        assert!(said.contains("p.txt line 2: byte 1 is not UTF-8; --on-bad-record skip"), "{said}");
        let mut all = Vec::new();
        let skipped = read_prompts(&path, OnBadRecord::Skip, &Silent, &mut |prompt| {
            all.push(prompt.messages[0].content.clone());
            if all.len() == 1 { Ok(()) } else { Err(Bad::new("no more").into()) }
        });
        assert_eq!((all.len(), skipped.unwrap().invalid_utf8), (1, 1));
    }
}
