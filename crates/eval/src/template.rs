//! The templates and expressions of a task, over the fields of a record.

use crate::task::TaskConfig;
use data::record::{Bad, Row};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, UndefinedBehavior, Value, context};
use std::collections::{BTreeMap, HashSet};

/// What templates know besides a record's fields.
const GIVEN: [&str; 3] = ["variant", "choice", "range"];

/// Those of one task, by their keys in its file.
pub(crate) struct Templates {
    environment: Environment<'static>,
    expressions: BTreeMap<&'static str, String>,
}

impl std::fmt::Debug for Templates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Templates({:?})", self.expressions)
    }
}

impl Templates {
    /// Reads all of `task`, or says of each that cannot be read what is wrong, under its key.
    pub(crate) fn new(task: &TaskConfig) -> Result<Self, Vec<(&'static str, String)>> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
        let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
        environment.set_syntax(syntax.map_err(|e| vec![("prompt", described(&e, ""))])?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("last_word", |text: String| last_word(&text).1.to_owned());
        environment.add_filter("before_last_word", |text: String| last_word(&text).0.to_owned());
        environment.add_filter("position", |list: Value, of: Value| -> Result<usize, minijinja::Error> {
            let found = list.try_iter()?.position(|one| one.to_string() == of.to_string());
            found.ok_or_else(|| minijinja::Error::new(ErrorKind::InvalidOperation, format!("{of} is not among {list}")))
        });
        let mut wrong = Vec::new();
        for (key, source) in [("instruction", &task.instruction), ("prompt", &task.prompt), ("answer", &task.answer)] {
            if let Err(e) = environment.add_template_owned(key, source.clone()) {
                wrong.push((key, described(&e, source)));
            }
        }
        let mut expressions = BTreeMap::new();
        if let Some(choice) = &task.choice {
            expressions.insert("choice.of", choice.of.clone());
            expressions.insert("choice.right", choice.right.clone());
        }
        if let Some(generation) = &task.generation {
            expressions.insert("generation.accept", generation.accept.clone());
        }
        for (key, source) in &expressions {
            if let Err(e) = environment.compile_expression(source) {
                wrong.push((*key, described(&e, source)));
            }
        }
        if wrong.is_empty() { Ok(Self { environment, expressions }) } else { Err(wrong) }
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
    ) -> Result<String, Bad> {
        let template = self.environment.get_template(key).map_err(|e| Bad::new(described(&e, "")))?;
        template
            .render(fields(row, variant, choice))
            .map_err(|e| failed(key, &e, template.source(), template.undeclared_variables(false), row))
    }

    /// What the expression `key` is for `row`.
    ///
    /// # Errors
    /// As [`Templates::text`].
    pub(crate) fn value(&self, key: &'static str, row: &Row, variant: &str) -> Result<Value, Bad> {
        let source = self.expressions.get(key).map_or("", String::as_str);
        let expression = self.environment.compile_expression(source).map_err(|e| Bad::new(described(&e, source)))?;
        let wants = || expression.undeclared_variables(false);
        match expression.eval(fields(row, variant, None)) {
            Ok(value) if value.is_undefined() => {
                let e = minijinja::Error::from(ErrorKind::UndefinedError);
                Err(failed(key, &e, source, wants(), row))
            }
            Ok(value) => Ok(value),
            Err(e) => Err(failed(key, &e, source, wants(), row)),
        }
    }
}

fn fields(row: &Row, variant: &str, choice: Option<&str>) -> Value {
    context! { variant, choice, ..Value::from(Serde(&row.fields)) }
}

/// Names the field that a record lacks, if it does.
fn failed(key: &str, error: &minijinja::Error, source: &str, wants: HashSet<String>, row: &Row) -> Bad {
    let mut missing: Vec<String> =
        wants.into_iter().filter(|name| !GIVEN.contains(&name.as_str()) && !row.fields.contains_key(name)).collect();
    missing.sort();
    if error.kind() == ErrorKind::UndefinedError && !missing.is_empty() {
        let names: Vec<String> = missing.iter().map(|name| format!("\"{name}\"")).collect();
        return Bad::new(format!(
            "no {}, which the task's {key} reads; the record has {}",
            names.join(", "),
            row.keys()
        ));
    }
    Bad::new(format!("the task's {key} fails: {}", described(error, source)))
}

/// What is wrong, with its place in `source`.
fn described(error: &minijinja::Error, source: &str) -> String {
    let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    let Some(line) = error.line() else { return what };
    let before = error.range().and_then(|range| source.get(..range.start));
    let column = before.map(|before| 1 + before.chars().rev().take_while(|&c| c != '\n').count());
    match column {
        Some(column) => format!("line {line}, column {column} of it: {what}"),
        None => format!("line {line} of it: {what}"),
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
    use data::record::Place;
    use serde_json::json;

    fn row(fields: serde_json::Value) -> Row {
        let serde_json::Value::Object(fields) = fields else { panic!("no object") };
        Row { place: Place { file: "a.jsonl".into(), line: 3 }, fields }
    }

    fn task(prompt: &str, of: &str) -> TaskConfig {
        let text = "scoring = \"choice\"\nanswer = \" {{ choice }}\"\n[choice]\nright = \"label\"\n";
        let set = [format!("prompt={}", json!(prompt)), format!("choice.of={}", json!(of))];
        config::load("a.toml", text, &set).unwrap()
    }

    #[test]
    fn a_record_becomes_texts_and_values() {
        let templates = Templates::new(&task("{{ ctx or text }}:\n", "choices.text")).unwrap();
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
        let templates = Templates::new(&task("{{ context }}", "endings")).unwrap();
        let row = row(json!({ "text": "a", "label": 1 }));
        let said = |error: Bad| error.to_string();
        assert_eq!(
            said(templates.text("prompt", &row, "", None).unwrap_err()),
            "no \"context\", which the task's prompt reads; the record has text, label"
        );
        assert_eq!(
            said(templates.value("choice.of", &row, "").unwrap_err()),
            "no \"endings\", which the task's choice.of reads; the record has text, label"
        );
    }
}
