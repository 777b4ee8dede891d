//! Records in the forms that other programs write them.

use super::{none_differ, rows};
use gptkit_data::comparison::{self, read_comparisons};
use gptkit_data::dialogue::{Message, read_dialogues};
use gptkit_data::progress::{Progress, ProgressTask, Silent, Unit};
use gptkit_data::prompt::read_prompts;
use gptkit_data::rows::read_rows;
use gptkit_data::source::OnBadRecord;
use serde_json::{Value, json};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Mutex;

/// Keeps the warnings that it is told.
#[derive(Debug, Default)]
pub(super) struct Heard(Mutex<Vec<String>>);

impl Heard {
    /// All warnings, one a line.
    pub(super) fn warnings(self) -> String {
        self.0.into_inner().unwrap().join("\n")
    }
}

impl Progress for Heard {
    fn note(&self, _: &str) {}

    fn warn(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }

    fn task(&self, label: &str, total: Option<u64>, unit: Unit) -> Box<dyn ProgressTask> {
        Silent.task(label, total, unit)
    }
}

/// What a file of a row holds: `text`, or bytes in `hex`.
pub(super) fn content(file: &Value) -> Vec<u8> {
    match (file["text"].as_str(), file["hex"].as_str()) {
        (Some(text), None) => text.as_bytes().to_vec(),
        (None, Some(hex)) => hex
            .as_bytes()
            .chunks(2)
            .map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap())
            .collect(),
        _ => panic!("{file}"),
    }
}

/// Messages as the rows write them: role, content, and whether it is learned.
fn said(messages: &[Message]) -> Value {
    messages.iter().map(|m| json!([m.role, m.content, m.is_learned()])).collect()
}

/// What gptkit makes of the file `path`, in the same form as `right`, which a row has under `name`.
fn read(name: &str, path: &Path, heard: &Heard) -> anyhow::Result<Value> {
    let mut all = Vec::new();
    let bad = OnBadRecord::Fail;
    match name {
        "fields" => drop(read_rows(path, bad, heard, &mut |row| {
            all.push(Value::Object(row.fields));
            Ok(ControlFlow::Continue(()))
        })?),
        "dialogues" => drop(read_dialogues(path, bad, heard, &mut |dialogue| {
            all.push(said(&dialogue.messages));
            Ok(ControlFlow::Continue(()))
        })?),
        "comparisons" => drop(read_comparisons(path, bad, heard, &mut |found: comparison::Comparison| {
            let completions: Value = found.completions.iter().map(|turns| said(turns)).collect();
            all.push(json!({ "prompt": said(&found.prompt), "completions": completions, "places": found.places }));
            Ok(ControlFlow::Continue(()))
        })?),
        "prompts" => drop(read_prompts(path, bad, heard, &mut |prompt| {
            all.push(said(&prompt.messages));
            Ok(ControlFlow::Continue(()))
        })?),
        _ => panic!("{name}"),
    }
    Ok(Value::from(all))
}

#[test]
fn records_of_other_programs_are_read_as_they_mean_them() {
    let mut differences = Vec::new();
    for row in rows("records", 71) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(row["file"].as_str().unwrap());
        std::fs::write(&path, content(&row)).unwrap();
        let mut check = |ok: bool, what: String| {
            if !ok {
                differences.push(format!("{}: {what}", row["name"]));
            }
        };
        if let Some(refused) = row["refused"].as_str() {
            let stage = if row["comparisons"].is_null() { "dialogues" } else { "comparisons" };
            let found = read(stage, &path, &Heard::default()).map_err(|e| format!("{e:#}"));
            check(found.as_ref().is_err_and(|said| said.contains(refused)), format!("{found:?}, not {refused}"));
            continue;
        }
        let mut checked = 0;
        for name in ["fields", "dialogues", "comparisons", "prompts"] {
            let right = &row[name];
            if right.is_null() {
                continue;
            }
            checked += 1;
            let heard = Heard::default();
            let found = read(name, &path, &heard).map_err(|e| format!("{e:#}"));
            check(found.as_ref() == Ok(right), format!("{name}\n  {found:?}\n  not {right}"));
            let (warnings, expected) = (heard.warnings(), row["warns"].as_str());
            let is_said = expected.map_or(warnings.is_empty(), |words| warnings.contains(words));
            // What is wrong with an answer is not said of a prompt.
            check(is_said || name == "prompts", format!("{name} warns {warnings:?}, not {expected:?}"));
        }
        assert!(checked > 0, "{row}");
    }
    none_differ(&differences);
}
