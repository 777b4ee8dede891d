//! Records and lines → prompts: what is to be answered, whatever else a record holds.

use crate::comparison;
use crate::continuation::prompt_under;
use crate::dialogue;
use crate::encoding::{Encoding, Utf16};
use crate::file_form::FileForm;
use crate::message::{AnswerUse, Message, Role, checked, with_answers};
use crate::messages::{HISTORY, SYSTEM, messages, with_system};
use crate::open::open;
use crate::progress::{Progress, Unit};
use crate::record::{BadRecord, RecordPlace, Row};
use crate::remarks::Remarks;
use crate::rows::{read_lines, read_rows};
use crate::skipped::Skipped;
use crate::source::OnBadRecord;
use crate::unused::Unused;
use anyhow::{Context, Result, bail, ensure};
use std::io::Read;
use std::ops::ControlFlow;
use std::path::Path;

/// What is to be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptRecord {
    /// File and line of its record.
    pub place: RecordPlace,
    /// The dialogue so far; the last message is the user's.
    pub messages: Vec<Message>,
}

/// The prompts that `row` holds: under `prompt`, text, a transcript or messages; of a comparison or a dialogue what comes
/// before the last answer; a `question` or an `instruction` that has no answer.
///
/// # Errors
/// When it holds none, or something is wrong with what is said.
pub fn prompts(row: &Row) -> Result<Vec<Vec<Message>>, BadRecord> {
    // The marks of answers do not matter here: nothing of a prompt is learned.
    Ok(prompts_of(row)?.into_iter().map(|messages| with_answers(messages, AnswerUse::Learned)).collect())
}

fn prompts_of(row: &Row) -> Result<Vec<Vec<Message>>, BadRecord> {
    let has = |key: &str| row.fields.contains_key(key);
    // The prompt of answers that are compared may stand in them.
    match comparison::ComparisonShape::of(row) {
        Ok(comparison::ComparisonShape::Ranking) | Err(_) => {}
        Ok(shape) => return Ok(vec![shape.completions(row)?.0]),
    }
    if has("prompt") {
        return Ok(vec![asked(prompt_under(row, "prompt")?)?]);
    }
    for key in ["messages", "conversations"] {
        if has(key) {
            let mut messages = with_system(row, messages(row, key)?)?;
            if messages.last().is_some_and(|last| last.role == Role::Assistant) {
                messages.pop();
            }
            return Ok(vec![asked(messages)?]);
        }
    }
    let key = match dialogue::DialogueShape::of(row) {
        Ok(shape) => {
            let before_answer = |mut messages: Vec<Message>| {
                messages.pop();
                messages
            };
            return Ok(shape.dialogues(row)?.into_iter().map(before_answer).collect());
        }
        Err(_) if has("question") => "question",
        Err(_) if has("instruction") => "instruction",
        Err(bad) => return Err(BadRecord::new(format!("contains no prompt and {bad}"))),
    };
    Ok(vec![asked(prompt_under(row, key)?)?])
}

/// Names of the fields that [`prompts`] reads of a record, or passes over because they are answers.
fn fields(row: &Row) -> Vec<&'static str> {
    let compared = comparison::ComparisonShape::of(row).map(comparison::ComparisonShape::fields);
    let answered = || dialogue::DialogueShape::of(row).map(dialogue::DialogueShape::fields);
    compared.or_else(|_| answered()).unwrap_or_else(|_| {
        let mut fields = vec!["prompt", "question", "instruction", "input", "context", HISTORY];
        fields.extend(SYSTEM);
        fields
    })
}

/// `messages`, if the last one is the user's and they form a valid dialogue.
fn asked(messages: Vec<Message>) -> Result<Vec<Message>, BadRecord> {
    let mut answered = messages;
    answered.push(Message::new(Role::Assistant, "an answer"));
    let mut checked = checked(answered)?;
    checked.pop();
    Ok(checked)
}

/// Hands the prompts of the file `path` to `sink`: of a `.txt` file each line that is not blank, else those of the records.
/// A record without a sound prompt is left out and counted, or ends the reading, as `on_bad` says. Where `sink`
/// breaks, reading ends.
///
/// # Errors
/// As [`read_rows`], and when the file holds no prompt.
pub fn read_prompts(
    path: &Path,
    on_bad: OnBadRecord,
    progress: &dyn Progress,
    sink: &mut dyn FnMut(PromptRecord) -> Result<ControlFlow<()>>,
) -> Result<Skipped> {
    let mut n = 0_u64;
    let mut count = |prompt: PromptRecord| {
        n += 1;
        sink(prompt)
    };
    let skipped = if FileForm::of(path).is_text() {
        lines(path, on_bad, progress, &mut count)?
    } else {
        let mut unused = Unused::default();
        let skipped = read_rows(path, on_bad, progress, &mut |row| {
            let found = prompts(&row)?;
            unused.take(&row, &fields(&row));
            for messages in found {
                if count(PromptRecord { place: row.place.clone(), messages })?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        unused.warn(&path.display(), progress);
        skipped
    };
    match &skipped.first {
        Some(first) if n == 0 => bail!("{} contains no prompt; the first problem: {first}", path.display()),
        _ => ensure!(n > 0, "{} contains no prompts", path.display()),
    }
    Ok(skipped)
}

/// The text of a prompt that makes up a whole file: without a byte-order mark, and without one line break at its end.
///
/// # Errors
/// When `bytes` are no text.
pub fn text_of(bytes: &[u8]) -> Result<String> {
    let mut text = match Encoding::of(bytes) {
        Encoding::NotText(kind) => bail!("it is {kind}"),
        Encoding::Utf16 { big_endian, .. } => {
            let mut text = Vec::new();
            Utf16::new(bytes, big_endian).read_to_end(&mut text)?;
            text
        }
        Encoding::Utf8 => bytes.to_vec(),
    };
    let end = ["\r\n", "\n"].into_iter().find(|end| text.ends_with(end.as_bytes())).map_or(0, str::len);
    text.truncate(text.len() - end);
    let text = String::from_utf8(text).context("it is not UTF-8")?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

fn lines(
    path: &Path,
    on_bad: OnBadRecord,
    progress: &dyn Progress,
    sink: &mut dyn FnMut(PromptRecord) -> Result<ControlFlow<()>>,
) -> Result<Skipped> {
    let total = path.metadata().ok().map(|m| m.len());
    let task = progress.task(&format!("reading {}", path.display()), total, Unit::Bytes);
    let count = |n| task.advance(n);
    let mut remarks = Remarks::default();
    let opened = open(path, &count)?;
    let input = opened.text(path, &mut remarks).with_context(|| path.display().to_string())?;
    remarks.warn(progress);
    read_lines(path, on_bad, input, &mut |place, text| {
        sink(PromptRecord { place, messages: vec![Message::new(Role::User, text.trim())] })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;
    use serde_json::{Value, json};

    fn read(value: Value) -> Result<Vec<Vec<Message>>, BadRecord> {
        let Value::Object(fields) = value else { panic!("{value} is no object") };
        prompts(&Row { place: RecordPlace { file: "a.jsonl".into(), line: 1 }, fields })
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
    fn what_stands_beside_a_prompt_comes_before_it() {
        let user = |text: &str| json!({ "role": "user", "content": text });
        let assistant = |text: &str| json!({ "role": "assistant", "content": text });
        let ruled = vec![vec![Message::new(Role::System, "s"), Message::new(Role::User, "q")]];
        for value in [
            json!({ "system": "s", "prompt": "q" }),
            json!({ "system_prompt": "s", "question": "q" }),
            json!({ "system": "s", "instruction": "q" }),
            json!({ "system": "s", "messages": [user("q"), assistant("a")] }),
            json!({ "system": "s", "question": "q", "chosen": "a", "rejected": "b" }),
            json!({ "system": "s", "prompt": "q", "chosen": [user("q"), assistant("a")], "rejected": [user("q"), assistant("b")] }),
        ] {
            assert_eq!(read(value.clone()).unwrap(), ruled, "{value}");
        }
        let history = read(json!({ "instruction": "q", "history": [["x", "y"]] })).unwrap();
        assert_eq!(history[0].len(), 3);
    }

    #[test]
    fn a_prompt_in_a_file_loses_one_line_break_and_a_mark() {
        let utf16: Vec<u8> = "\u{feff}a é\r\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for (bytes, text) in [
            (b"a\n".as_slice(), "a"),
            (b"a\r\n", "a"),
            (b"a\r\n\r\n", "a\r\n"),
            (b"a\n\n", "a\n"),
            (b"\xEF\xBB\xBFa\r\nb", "a\r\nb"),
            (b"\r\n", ""),
            (b"", ""),
            (&utf16, "a é"),
        ] {
            assert_eq!(text_of(bytes).unwrap(), text);
        }
        assert_eq!(text_of(b"a\xff").unwrap_err().to_string(), "it is not UTF-8");
        assert_eq!(text_of(b"\x89PNG\r\n\x1a\n").unwrap_err().to_string(), "it is a PNG image");
    }

    #[test]
    fn what_holds_no_prompt_says_so() {
        let bad = |value| read(value).unwrap_err().to_string();
        assert!(
            bad(json!({ "text": "once" }))
                .contains("contains no prompt and is not a dialogue: it has text; accepted columns:")
        );
        assert_eq!(bad(json!({ "prompt": " " })), "the prompt is empty");
        let assistant = json!({ "role": "assistant", "content": "a" });
        assert!(bad(json!({ "messages": [assistant] })).contains("message 1 has the role assistant"));
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
                Ok(ControlFlow::Continue(()))
            });
            skipped.map(|_| all).map_err(|e| format!("{e:#}"))
        };
        assert_eq!(read(b" a \n\nb\r\n").unwrap(), [(1, "a".to_owned()), (3, "b".to_owned())]);
        assert!(read(b"\n").unwrap_err().ends_with("p.txt contains no prompts"));
        let said = read(b"a\n\xff\n").unwrap_err();
        assert!(said.contains("p.txt line 2: byte 1 is not UTF-8; use --on-bad-record skip"), "{said}");
        let mut all = Vec::new();
        let skipped = read_prompts(&path, OnBadRecord::Skip, &Silent, &mut |prompt| {
            all.push(prompt.messages[0].content.clone());
            if all.len() == 1 { Ok(ControlFlow::Continue(())) } else { Err(BadRecord::new("no more").into()) }
        });
        assert_eq!((all.len(), skipped.unwrap().invalid_utf8), (1, 1));
    }
}
