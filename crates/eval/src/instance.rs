//! A record → the prompt for a model, and the correct answer.

use crate::task::{Scoring, TaskConfig};
use crate::template::TaskTemplates;
use anyhow::{Result, anyhow};
use gptkit_data::record::{BadRecord, Row};
use minijinja::Value;

/// A task that is ready to read records.
#[derive(Debug)]
pub struct EvalTask {
    /// What it is called, with its variant: `arithmetic:2d+`.
    pub name: String,
    /// Its file.
    pub config: TaskConfig,
    /// Which variant of it this is; may be empty.
    pub variant: String,
    templates: TaskTemplates,
}

/// A record as a prompt with its correct answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    /// Its file and line.
    pub place: String,
    /// The text that the model continues.
    pub prompt: String,
    /// What could or should follow.
    pub asked: TargetAnswer,
}

/// What could or should follow a prompt.
#[derive(Debug, Clone, PartialEq)]
pub enum TargetAnswer {
    /// One of these.
    Choice {
        /// What would follow, as many as there are choices.
        answers: Vec<String>,
        /// The place of the right one.
        right: usize,
    },
    /// Something that is held against right answers.
    Free {
        /// What follows in a demonstration.
        answer: String,
        /// Right answers, at least one.
        accept: Vec<String>,
    },
    /// This.
    Word(String),
}

impl Instance {
    /// The record as a demonstration.
    pub fn shown(&self) -> String {
        let answer = match &self.asked {
            TargetAnswer::Choice { answers, right } => &answers[*right],
            TargetAnswer::Free { answer, .. } | TargetAnswer::Word(answer) => answer,
        };
        format!("{}{answer}", self.prompt)
    }
}

impl EvalTask {
    /// The task called `name` of a checked `config`.
    ///
    /// # Errors
    /// When a template cannot be read.
    pub fn new(name: &str, config: TaskConfig, variant: &str) -> Result<Self> {
        let templates = config.templates().map_err(|wrong| {
            let all: Vec<String> = wrong.iter().map(|(key, what)| format!("{key}: {what}")).collect();
            anyhow!("task {name}: {}", all.join("; "))
        })?;
        let name = if variant.is_empty() { name.to_owned() } else { format!("{name}:{variant}") };
        Ok(Self { name, config, variant: variant.to_owned(), templates })
    }

    /// Text before all few-shot examples of `row`; may be empty.
    ///
    /// # Errors
    /// When the record lacks what the template reads.
    pub fn instruction(&self, row: &Row) -> Result<String, BadRecord> {
        self.templates.text("instruction", row, &self.variant, None)
    }

    /// The instance of `row`.
    ///
    /// # Errors
    /// When the record lacks what the task reads, the right choice is none of the choices, or an answer is empty.
    pub fn instance(&self, row: &Row) -> Result<Instance, BadRecord> {
        let text = |key, choice: Option<&str>| self.templates.text(key, row, &self.variant, choice);
        let prompt = text("prompt", None)?;
        let asked = match self.config.scoring {
            Scoring::Choice => {
                let choices = texts(&self.templates.value("choice.of", row, &self.variant)?, "choice.of")?;
                if choices.len() < 2 {
                    return Err(BadRecord::new(format!("has {} choices; it must have at least two", choices.len())));
                }
                let right = place(&self.templates.value("choice.right", row, &self.variant)?, &choices)?;
                let answers =
                    choices.iter().map(|choice| text("answer", Some(choice))).collect::<Result<Vec<_>, _>>()?;
                if let Some(n) = choices.iter().position(|choice| choice.trim().is_empty()) {
                    return Err(BadRecord::empty(format!("choice {n} is empty")));
                }
                TargetAnswer::Choice { answers, right }
            }
            Scoring::Generation => {
                let accept = self.templates.value("generation.accept", row, &self.variant)?;
                let wanted =
                    |text: &String| self.config.generation.as_ref().map_or(String::new(), |g| g.wanted_of(text));
                let accept: Vec<String> = texts(&accept, "generation.accept")?.iter().map(wanted).collect();
                if accept.is_empty() || accept.iter().any(|answer| answer.trim().is_empty()) {
                    return Err(BadRecord::empty("has an empty answer"));
                }
                TargetAnswer::Free { answer: text("answer", None)?, accept }
            }
            Scoring::Word | Scoring::Perplexity => TargetAnswer::Word(text("answer", None)?),
        };
        let instance = Instance { place: row.place.to_string(), prompt, asked };
        let empty = match &instance.asked {
            TargetAnswer::Choice { answers, .. } => answers.iter().any(|answer| answer.trim().is_empty()),
            TargetAnswer::Free { answer, .. } | TargetAnswer::Word(answer) => answer.trim().is_empty(),
        };
        if empty { Err(BadRecord::empty("has an empty answer")) } else { Ok(instance) }
    }
}

/// A list of texts or numbers, or one of them.
fn texts(value: &Value, key: &str) -> Result<Vec<String>, BadRecord> {
    let text = |value: Value| match value.kind() {
        minijinja::value::ValueKind::String | minijinja::value::ValueKind::Number => Ok(value.to_string()),
        other => Err(BadRecord::new(format!("the task's {key} returns a value of type {other}; it must be text"))),
    };
    match value.kind() {
        minijinja::value::ValueKind::Seq | minijinja::value::ValueKind::Iterable => {
            value.try_iter().map_err(|e| BadRecord::new(e.to_string()))?.map(text).collect()
        }
        _ => Ok(vec![text(value.clone())?]),
    }
}

/// The place among `choices` that `right` says: by its text, or its number from 0, which may be written as text or as true
/// and false.
fn place(right: &Value, choices: &[String]) -> Result<usize, BadRecord> {
    let said = right.to_string();
    if let (minijinja::value::ValueKind::String, Some(at)) = (right.kind(), choices.iter().position(|c| *c == said)) {
        return Ok(at);
    }
    let number = match right.kind() {
        minijinja::value::ValueKind::Bool => Some(i64::from(right.is_true())),
        _ => right.as_i64().or_else(|| said.trim().parse().ok()),
    };
    match number {
        Some(n) if (0..choices.len() as i64).contains(&n) => Ok(n as usize),
        Some(n) => Err(BadRecord::new(format!(
            "the correct choice is number {n}, but there are {} choices, numbered from 0",
            choices.len()
        ))),
        None => {
            Err(BadRecord::new(format!("the correct choice is {said:?}, which is not one of {}", choices.join(", "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gptkit_data::record::RecordPlace;
    use serde_json::json;

    fn row(fields: serde_json::Value) -> Row {
        let serde_json::Value::Object(fields) = fields else { panic!("no object") };
        Row { place: RecordPlace { file: "a.jsonl".into(), line: 3 }, fields }
    }

    fn choice() -> EvalTask {
        let text = "scoring = \"choice\"\nprompt = \"{{ context }}\"\nanswer = \" {{ choice }}\"\n[choice]\nof = \"endings\"\nright = \"label\"\n";
        EvalTask::new("a", gptkit_config::load("a.toml", text, &[]).unwrap(), "").unwrap()
    }

    #[test]
    fn the_right_choice_is_named_by_number_or_text() {
        let right = |label: serde_json::Value| {
            let row = row(json!({ "context": "c", "endings": ["x", "y", "7"], "label": label }));
            match choice().instance(&row).map_err(|bad| bad.to_string()) {
                Ok(Instance { asked: TargetAnswer::Choice { answers, right }, prompt, place }) => {
                    assert_eq!((answers[0].as_str(), prompt.as_str(), place.as_str()), (" x", "c", "a.jsonl line 3"));
                    Ok(right)
                }
                Ok(other) => panic!("{other:?}"),
                Err(e) => Err(e),
            }
        };
        assert_eq!(right(json!(2)), Ok(2));
        assert_eq!(right(json!("y")), Ok(1));
        assert_eq!(right(json!("1")), Ok(1));
        assert_eq!(right(json!("7")), Ok(2), "a text before a number");
        assert_eq!(right(json!(true)), Ok(1));
        assert_eq!(
            right(json!(3)),
            Err("the correct choice is number 3, but there are 3 choices, numbered from 0".to_owned())
        );
        assert_eq!(
            right(json!(-1)),
            Err("the correct choice is number -1, but there are 3 choices, numbered from 0".to_owned())
        );
        assert_eq!(right(json!("z")), Err("the correct choice is \"z\", which is not one of x, y, 7".to_owned()));
    }

    #[test]
    fn records_that_cannot_be_asked_say_why() {
        let said = |fields| choice().instance(&row(fields)).unwrap_err().to_string();
        assert!(said(json!({ "context": "c", "endings": ["x"], "label": 0 })).contains("has 1 choices"));
        assert!(said(json!({ "context": "c", "endings": ["x", " "], "label": 0 })).contains("choice 1 is empty"));
        let nested = said(json!({ "context": "c", "endings": [["x"], "b"], "label": 0 }));
        assert!(nested.contains("it must be text"), "{nested}");
        assert!(said(json!({ "context": "c", "label": 0 })).contains("\"endings\" is missing"));
        let text = "scoring = \"generation\"\nprompt = \"{{ q }}\"\nanswer = \" {{ a[0] }}\"\n[generation]\naccept = \"a\"\nmetrics = [\"f1\"]\nmax_new_tokens = 5\n";
        let free = EvalTask::new("b", gptkit_config::load("b.toml", text, &[]).unwrap(), "").unwrap();
        let instance = free.instance(&row(json!({ "q": "?", "a": ["one", 2] }))).unwrap();
        assert_eq!(
            instance.asked,
            TargetAnswer::Free { answer: " one".into(), accept: vec!["one".into(), "2".into()] }
        );
        assert_eq!(instance.shown(), "? one");
        assert!(free.instance(&row(json!({ "q": "?", "a": [" "] }))).unwrap_err().to_string().contains("empty answer"));
        let marked = format!("{text}after = \"####\"\n");
        let marked = EvalTask::new("b", gptkit_config::load("b.toml", &marked, &[]).unwrap(), "").unwrap();
        let asked = |answer| marked.instance(&row(json!({ "q": "?", "a": [answer] })));
        assert!(asked("18").unwrap_err().to_string().contains("empty answer"), "without the mark nothing is right");
        assert!(matches!(asked("so #### 18").unwrap().asked, TargetAnswer::Free { accept, .. } if accept == ["18"]));
    }
}
