//! The templates and expressions of a task, over the fields of a record.

use gptkit_data::jinja::{self, Failure, Program};
use gptkit_data::record::{BadRecord, Row};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{ErrorKind, UndefinedBehavior, Value, context};
use std::collections::BTreeMap;

/// What templates know besides a record's fields.
const GIVEN: [&str; 3] = ["variant", "choice", "range"];

/// Key in the task file and text of a template, or of an expression as Jinja has it in braces.
#[derive(Debug, Clone, Copy)]
pub(crate) enum TemplateSource<'a> {
    Template(&'static str, &'a str),
    Expression(&'static str, &'a str),
}

/// The compiled templates and expressions of one task, by their keys in its file.
pub(crate) struct TaskTemplates {
    programs: BTreeMap<&'static str, Program>,
}

impl std::fmt::Debug for TaskTemplates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TaskTemplates({:?})", self.programs.keys())
    }
}

impl TaskTemplates {
    /// Compiles `sources`, or returns what is wrong with each that cannot be compiled, under its key.
    pub(crate) fn new(sources: &[TemplateSource]) -> Result<Self, Vec<(&'static str, String)>> {
        let mut environment = jinja::environment(UndefinedBehavior::SemiStrict);
        environment.add_filter("last_word", |text: String| last_word(&text).1.to_owned());
        environment.add_filter("before_last_word", |text: String| last_word(&text).0.to_owned());
        environment.add_filter("position", |list: Value, of: Value| -> Result<usize, minijinja::Error> {
            let found = list.try_iter()?.position(|one| one.to_string() == of.to_string());
            found.ok_or_else(|| minijinja::Error::new(ErrorKind::InvalidOperation, format!("{of} is not among {list}")))
        });
        let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
        let syntax = syntax.map_err(|e| vec![("prompt", e.to_string())])?;
        let (mut programs, mut wrong) = (BTreeMap::new(), Vec::new());
        for source in sources {
            let (key, program, text) = match *source {
                TemplateSource::Template(key, text) => (key, Program::template(&environment, text, &syntax), text),
                TemplateSource::Expression(key, text) => (key, Program::expression(&environment, text), text),
            };
            match program {
                Ok(program) => drop(programs.insert(key, program)),
                Err(failure) => wrong.push((key, described(&failure, text))),
            }
        }
        if wrong.is_empty() { Ok(Self { programs }) } else { Err(wrong) }
    }

    /// The text that the template `key` makes of `row`.
    ///
    /// # Errors
    /// When the record lacks a field, or the template fails on it.
    pub(crate) fn text(
        &self,
        key: &'static str,
        row: &Row,
        variant: &str,
        choice: Option<&str>,
    ) -> Result<String, BadRecord> {
        let program = self.program(key)?;
        let (text, _) =
            program.render(fields(row, variant, choice), fuel(row)).map_err(|e| failed(key, &e, program, row))?;
        Ok(text)
    }

    /// What the expression `key` is for `row`.
    ///
    /// # Errors
    /// As [`TaskTemplates::text`].
    pub(crate) fn value(&self, key: &'static str, row: &Row, variant: &str) -> Result<Value, BadRecord> {
        let program = self.program(key)?;
        match program.value(fields(row, variant, None), fuel(row)) {
            Ok(value) if value.is_undefined() => {
                Err(failed(key, &minijinja::Error::from(ErrorKind::UndefinedError).into(), program, row))
            }
            Ok(value) => Ok(value),
            Err(e) => Err(failed(key, &e, program, row)),
        }
    }

    fn program(&self, key: &str) -> Result<&Program, BadRecord> {
        self.programs.get(key).ok_or_else(|| BadRecord::new(format!("the task has no {key}")))
    }
}

fn fuel(row: &Row) -> u64 {
    let bytes = row.fields.values().map(|value| value.as_str().map_or(0, str::len)).sum();
    jinja::fuel_for(bytes, row.fields.len())
}

fn fields(row: &Row, variant: &str, choice: Option<&str>) -> Value {
    context! { variant, choice, ..Value::from(Serde(&row.fields)) }
}

/// Names the field that a record lacks, if it does.
fn failed(key: &str, failure: &Failure, program: &Program, row: &Row) -> BadRecord {
    let is_missing = |name: &&String| !GIVEN.contains(&name.as_str()) && !row.fields.contains_key(*name);
    let mut missing: Vec<&String> = program.variables().iter().filter(is_missing).collect();
    missing.sort();
    if failure.undefined && !missing.is_empty() {
        let names: Vec<String> = missing.iter().map(|name| format!("\"{name}\"")).collect();
        return BadRecord::new(format!(
            "{} is missing, but the task's {key} needs it; the record has {}",
            names.join(", "),
            row.keys()
        ));
    }
    BadRecord::new(format!("the task's {key} fails: {}", described(failure, program.source())))
}

/// What is wrong, with its place in `source`.
fn described(failure: &Failure, source: &str) -> String {
    let what = &failure.what;
    let Some(line) = failure.line else { return what.clone() };
    let before = failure.offset.and_then(|offset| source.get(..offset));
    let column = before.map(|before| 1 + before.chars().rev().take_while(|&c| c != '\n').count());
    match column {
        Some(column) => format!("at line {line}, column {column}: {what}"),
        None => format!("at line {line}: {what}"),
    }
}

/// All before the last word, without the space between, and the word.
fn last_word(text: &str) -> (&str, &str) {
    let text = text.trim_end();
    match text.rfind(char::is_whitespace) {
        Some(at) => (text[..at].trim_end(), text[at..].trim_start()),
        None => ("", text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::TaskConfig;
    use gptkit_data::record::RecordPlace;
    use serde_json::json;

    fn row(fields: serde_json::Value) -> Row {
        let serde_json::Value::Object(fields) = fields else { panic!("no object") };
        Row { place: RecordPlace { file: "a.jsonl".into(), line: 3 }, fields }
    }

    fn task(prompt: &str, of: &str) -> TaskConfig {
        let text = "scoring = \"choice\"\nanswer = \" {{ choice }}\"\n[choice]\nright = \"label\"\n";
        let set = [format!("prompt={}", json!(prompt)), format!("choice.of={}", json!(of))];
        gptkit_config::load("a.toml", text, &set).unwrap()
    }

    #[test]
    fn a_record_becomes_texts_and_values() {
        let templates = task("{{ ctx or text }}:\n", "choices.text").templates().unwrap();
        let row = row(json!({ "text": "One two  three. ", "choices": { "text": ["a", "b"] }, "label": 1 }));
        assert_eq!(templates.text("prompt", &row, "", None).unwrap(), "One two  three. :\n");
        assert_eq!(templates.text("answer", &row, "", Some("b")).unwrap(), " b");
        assert_eq!(templates.value("choice.right", &row, "").unwrap().as_i64(), Some(1));
        assert_eq!(templates.value("choice.of", &row, "").unwrap().to_string(), "['a', 'b']");
        assert_eq!(last_word("One two  three. "), ("One two", "three."));
        assert_eq!(last_word("one"), ("", "one"));
    }

    #[test]
    fn a_missing_field_is_named_with_those_that_are_there() {
        let templates = task("{{ context }}", "endings").templates().unwrap();
        let row = row(json!({ "text": "a", "label": 1 }));
        let said = |error: BadRecord| error.to_string();
        assert_eq!(
            said(templates.text("prompt", &row, "", None).unwrap_err()),
            "\"context\" is missing, but the task's prompt needs it; the record has text, label"
        );
        assert_eq!(
            said(templates.value("choice.of", &row, "").unwrap_err()),
            "\"endings\" is missing, but the task's choice.of needs it; the record has text, label"
        );
    }
}
