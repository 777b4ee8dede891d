//! Which columns of a file hold the texts and the label of a record, and what they say.

use anyhow::{Result, bail};
use gptkit_config::Usage;
use gptkit_data::dialogue::{Message, Role, key};
use gptkit_data::record::{BadRecord, Row};
use gptkit_data::source::OnBadRecord;
use gptkit_data::task::TaskKind;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Columns that the user names; others are recognized by their names. TOML section `[data.columns]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Named {
    /// Column of the text, of the first of two texts, or of the context of choices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Column of the second text, or of a question about the context.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_b: Option<String>,
    /// Columns of the choices: one that holds lists, or several that hold one choice each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<String>,
    /// Column of the label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

/// The columns of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Columns {
    /// Of the text, or of the first of two.
    pub text: String,
    /// Of the second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_b: Option<String>,
    /// Of the choices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<String>,
    /// Of the label, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

/// What a record's label says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Truth {
    Class(String),
    /// Its number, from 0.
    Choice(usize),
    Number(f64),
}

const TEXTS: &[&str] =
    &["text", "sentence", "content", "review", "document", "tweet", "comment", "body", "title", "question", "input"];
const PAIRS: &[(&str, &str)] = &[
    ("premise", "hypothesis"),
    ("text_a", "text_b"),
    ("sentence1", "sentence2"),
    ("sentence_a", "sentence_b"),
    ("text1", "text2"),
    ("question1", "question2"),
    ("#1 String", "#2 String"),
    ("question", "sentence"),
    ("question", "answer"),
    ("question", "passage"),
    ("query", "document"),
    ("query", "passage"),
];
const CONTEXTS: &[&str] = &[
    "context",
    "premise",
    "article",
    "passage",
    "ctx",
    "story",
    "goal",
    "question_stem",
    "question",
    "sentence",
    "sentence1",
    "text",
    "startphrase",
];
const QUESTIONS: &[&str] = &["question", "asks_for"];
const CHOICES: &[&str] = &["choices", "endings", "options", "answers", "candidates", "hypotheses"];
/// What the names of columns begin with that hold a choice each.
const NUMBERED: &[&str] = &["choice", "ending", "option", "answer", "sol", "hypothesis", "RandomFifthSentenceQuiz"];
const CLASSES: &[&str] =
    &["label", "gold_label", "class", "category", "sentiment", "target", "label_text", "is_duplicate", "judgment"];
const NUMBERS: &[&str] =
    &["score", "label", "target", "similarity", "similarity_score", "relatedness_score", "rating", "value"];
const RIGHT: &[&str] =
    &["label", "answer", "answer_index", "gold", "target", "answerKey", "correct", "AnswerRightEnding"];
/// Columns that count choices from 1.
const FROM_ONE: &[&str] = &["answerKey", "AnswerRightEnding"];

impl Columns {
    /// The columns that the model reads.
    pub(crate) fn texts(&self) -> Vec<&str> {
        [&self.text].into_iter().chain(&self.text_b).chain(&self.choices).map(String::as_str).collect()
    }

    /// The columns that `task` needs of a file whose first record is `row`: those that are `named`, else those whose names
    /// are known.
    ///
    /// # Errors
    /// When one is not there, with those that are.
    pub(crate) fn find(task: TaskKind, named: &Named, row: &Row) -> Result<Self> {
        let file = row.place.file.display();
        let all = named.text.iter().chain(&named.text_b).chain(&named.choices).chain(&named.label);
        if let Some(missing) = all.into_iter().find(|name| !row.fields.contains_key(*name)) {
            let what = format!("{file} has no column \"{missing}\"; it has the columns {}", row.keys());
            return Err(Usage::new(what).into());
        }
        let lacking = |what: &str, flag: &str| {
            let known = row.keys();
            anyhow::anyhow!("cannot find {what} in {file}, which has the columns {known}; name the column with {flag}")
        };
        let pair = || {
            let known = PAIRS.iter().find_map(|(a, b)| Some((one(row, &[a])?, one(row, &[b])?)));
            match (&named.text, &named.text_b) {
                (Some(a), Some(b)) => Some((a.clone(), b.clone())),
                (Some(a), None) => known.filter(|known| &known.0 == a),
                (None, Some(b)) => known.filter(|known| &known.1 == b),
                (None, None) => known,
            }
        };
        let single = |names| named.text.clone().or_else(|| one(row, names));
        let (text, text_b) = match task {
            TaskKind::Classification => (single(TEXTS), None),
            TaskKind::Entailment | TaskKind::Similarity => match pair() {
                Some((a, b)) => (Some(a), Some(b)),
                None => return Err(lacking("the two texts", "--text-column and --text-b-column")),
            },
            TaskKind::Regression => match pair() {
                Some((a, b)) if named.text.is_none() || named.text_b.is_some() => (Some(a), Some(b)),
                _ => (single(TEXTS), None),
            },
            TaskKind::MultipleChoice => {
                let text = single(CONTEXTS);
                let question = one(row, QUESTIONS).filter(|question| Some(question) != text.as_ref());
                (text, named.text_b.clone().or(question))
            }
        };
        let text = text.ok_or_else(|| lacking("a text", "--text-column"))?;
        let choices = match task {
            TaskKind::MultipleChoice if named.choices.is_empty() => choices(row),
            TaskKind::MultipleChoice => named.choices.clone(),
            _ => Vec::new(),
        };
        if task == TaskKind::MultipleChoice && choices.is_empty() {
            return Err(lacking("the choices", "--choices-column"));
        }
        let labels = match task {
            TaskKind::MultipleChoice => RIGHT,
            TaskKind::Regression => NUMBERS,
            _ => CLASSES,
        };
        let taken = |name: &String| *name == text || Some(name) == text_b.as_ref() || choices.contains(name);
        let label = named.label.clone().or_else(|| one(row, labels).filter(|name| !taken(name)));
        Ok(Self { text, text_b, choices, label })
    }

    /// The columns of a file whose first usable record is `row`, with a label where it is `labeled`. A record that lacks them
    /// is a bad one where such are skipped, since a later one may have them; else the whole file is refused.
    ///
    /// # Errors
    /// As [`Columns::find`], and when no column is known to hold the label.
    pub(crate) fn of_file(
        task: TaskKind,
        named: &Named,
        row: &Row,
        labeled: bool,
        on_bad: OnBadRecord,
    ) -> Result<Self> {
        let found = Self::find(task, named, row).and_then(|columns| {
            if labeled && columns.label.is_none() {
                let (file, keys) = (row.place.file.display(), row.keys());
                bail!(
                    "cannot find the label in {file}, which has the columns {keys}; name the column with --label-column"
                );
            }
            Ok(columns)
        });
        found.map_err(|e| if on_bad == OnBadRecord::Skip { BadRecord::new(format!("{e:#}")).into() } else { e })
    }

    /// Names of the columns.
    pub(crate) fn names(&self) -> Vec<&str> {
        let all = [&self.text].into_iter().chain(&self.text_b).chain(&self.choices).chain(&self.label);
        all.map(String::as_str).collect()
    }

    /// Whether `row` has the texts.
    pub(crate) fn fit(&self, row: &Row) -> bool {
        [&self.text].into_iter().chain(&self.text_b).chain(&self.choices).all(|name| row.fields.contains_key(name))
    }

    /// The key of the text that decides which part of a run's data `row` belongs to: of its first text, the context of its
    /// choices for instance; of two texts in no order, the same for both orders.
    pub(crate) fn prompt_key(&self, task: TaskKind, row: &Row) -> Result<u64, BadRecord> {
        let of = |column: &String| Ok(key(&[Message::new(Role::User, spoken(row, column)?)]));
        match (&self.text_b, task) {
            (Some(second), TaskKind::Similarity | TaskKind::Regression) => Ok(of(&self.text)?.min(of(second)?)),
            _ => of(&self.text),
        }
    }

    /// The sequences that `task` makes of `row`, each of one text or two (Radford et al. 2018, figure 1).
    pub(crate) fn sequences(&self, task: TaskKind, row: &Row) -> Result<Vec<(String, Option<String>)>, BadRecord> {
        let text = spoken(row, &self.text)?;
        let Some(second) = &self.text_b else {
            return match task {
                TaskKind::MultipleChoice => self.each_choice(&text, row),
                _ => Ok(vec![(text, None)]),
            };
        };
        let second = spoken(row, second)?;
        Ok(match task {
            TaskKind::Classification => vec![(text, None)],
            TaskKind::Entailment => vec![(text, Some(second))],
            TaskKind::Similarity | TaskKind::Regression => {
                vec![(text.clone(), Some(second.clone())), (second, Some(text))]
            }
            TaskKind::MultipleChoice => self.each_choice(&format!("{text} {second}"), row)?,
        })
    }

    fn each_choice(&self, context: &str, row: &Row) -> Result<Vec<(String, Option<String>)>, BadRecord> {
        let choices = self.choices(row)?;
        Ok(choices.into_iter().map(|choice| (context.to_owned(), Some(choice))).collect())
    }

    fn choices(&self, row: &Row) -> Result<Vec<String>, BadRecord> {
        let choices = match &*self.choices {
            [list] => {
                let value = row.fields.get(list).ok_or_else(|| BadRecord::new(format!("\"{list}\" is missing")))?;
                texts(value).ok_or_else(|| BadRecord::new(format!("\"{list}\" is not a list of strings")))?
            }
            columns => columns.iter().map(|name| spoken(row, name)).collect::<Result<_, _>>()?,
        };
        if choices.len() < 2 {
            return Err(BadRecord::new(format!("has {} choices; at least two are needed", choices.len())));
        }
        Ok(choices)
    }

    /// What the label of `row` says; nothing when it has none.
    pub(crate) fn truth(&self, task: TaskKind, row: &Row) -> Result<Option<Truth>, BadRecord> {
        let Some(column) = &self.label else { return Ok(None) };
        if row.fields.get(column).is_none_or(Value::is_null) {
            return Ok(None);
        }
        match task {
            TaskKind::Regression => Ok(Some(Truth::Number(row.number(column)?))),
            TaskKind::MultipleChoice => Ok(Some(Truth::Choice(self.right_choice(column, row)?))),
            _ => match row.label(column)?.trim() {
                "-" if column.eq_ignore_ascii_case("gold_label") => {
                    Err(BadRecord::new("the annotators agreed on no label"))
                }
                "" => Err(BadRecord::empty(format!("\"{column}\" is empty"))),
                label => Ok(Some(Truth::Class(label.to_owned()))),
            },
        }
    }

    /// A number, a letter, or the choice itself.
    fn right_choice(&self, column: &str, row: &Row) -> Result<usize, BadRecord> {
        let (choices, label) = (self.choices(row)?, row.label(column)?);
        let label = label.trim();
        let from = usize::from(FROM_ONE.contains(&column));
        let letter = |text: &str| match text.as_bytes() {
            [c @ b'A'..=b'Z'] => Some(usize::from(c - b'A')),
            _ => None,
        };
        let listed = match &*self.choices {
            [list] => row.fields[list]["label"].as_array().and_then(|all| all.iter().position(|name| name == label)),
            _ => None,
        };
        let number = label.parse::<usize>().ok().and_then(|n| n.checked_sub(from));
        let found = listed.or(number).or_else(|| letter(label)).or_else(|| choices.iter().position(|c| c == label));
        found.filter(|&n| n < choices.len()).ok_or_else(|| {
            let shown: String = label.chars().take(40).collect();
            BadRecord::new(format!(
                "\"{column}\" is {shown:?}, which is not one of the {} choices, counted from {from}",
                choices.len()
            ))
        })
    }
}

/// The first of `names` that `row` has, as it writes it.
fn one(row: &Row, names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| row.fields.keys().find(|key| key.eq_ignore_ascii_case(name)).cloned())
}

/// The columns of the choices, by their names.
fn choices(row: &Row) -> Vec<String> {
    if let Some(list) =
        CHOICES.iter().find_map(|name| one(row, &[name]).filter(|key| texts(&row.fields[key]).is_some()))
    {
        return vec![list];
    }
    for prefix in NUMBERED {
        for first in [0, 1] {
            let numbered = (first..).map_while(|n| one(row, &[&format!("{prefix}{n}")]));
            let found: Vec<String> = numbered.collect();
            if found.len() > 1 {
                return found;
            }
        }
    }
    Vec::new()
}

/// A list of texts, as it is or under `text`.
fn texts(value: &Value) -> Option<Vec<String>> {
    let list = value.as_array().or_else(|| value["text"].as_array())?;
    list.iter().map(|text| text.as_str().map(str::to_owned)).collect()
}

/// The text under `column`, which says something.
fn spoken(row: &Row, column: &str) -> Result<String, BadRecord> {
    let text = row.text(column)?;
    if text.trim().is_empty() {
        return Err(BadRecord::empty(format!("\"{column}\" is empty")));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use gptkit_data::record::RecordPlace;
    use serde_json::json;

    fn row(fields: Value) -> Row {
        let Value::Object(fields) = fields else { panic!("{fields}") };
        Row { place: RecordPlace { file: "f.jsonl".into(), line: 1 }, fields }
    }

    fn found(task: TaskKind, fields: Value) -> Columns {
        Columns::find(task, &Named::default(), &row(fields)).unwrap()
    }

    #[test]
    fn columns_of_known_data_sets_are_found_by_their_names() {
        let columns = |task, fields| {
            let Columns { text, text_b, choices, label } = found(task, fields);
            let parts: Vec<String> = [text].into_iter().chain(text_b).chain(choices).chain(label).collect();
            parts.join(" ")
        };
        for (task, fields, expected) in [
            (TaskKind::Classification, json!({"sentence": "a", "label": "1"}), "sentence label"), // SST-2
            (TaskKind::Classification, json!({"Title": "a", "Class": 1}), "Title Class"),
            (
                TaskKind::Entailment,
                json!({"pairID": "1", "gold_label": "n", "sentence1": "a", "sentence2": "b"}),
                "sentence1 sentence2 gold_label",
            ),
            (
                TaskKind::Entailment,
                json!({"premise": "a", "hypothesis": "b", "label": 0, "idx": 3}),
                "premise hypothesis label",
            ),
            (
                TaskKind::Entailment,
                json!({"index": "1", "question": "a", "sentence": "b", "label": "x"}),
                "question sentence label",
            ), // QNLI
            (
                TaskKind::Similarity,
                json!({"id": "1", "question1": "a", "question2": "b", "is_duplicate": "0"}),
                "question1 question2 is_duplicate",
            ),
            (
                TaskKind::Regression,
                json!({"sentence1": "a", "sentence2": "b", "score": "2.5"}),
                "sentence1 sentence2 score",
            ), // STS-B
            (TaskKind::Regression, json!({"text": "a", "label": 3}), "text label"),
            (
                TaskKind::MultipleChoice,
                json!({"context": "a", "asks_for": "cause", "choices": ["x", "y"], "label": 1}),
                "context asks_for choices label",
            ),
            (
                TaskKind::MultipleChoice,
                json!({"premise": "a", "choice1": "x", "choice2": "y", "question": "effect", "label": 1}),
                "premise question choice1 choice2 label",
            ),
            (
                TaskKind::MultipleChoice,
                json!({"sentence1": "a", "ending0": "x", "ending1": "y", "ending2": "z", "label": 1}),
                "sentence1 ending0 ending1 ending2 label",
            ),
            (
                TaskKind::MultipleChoice,
                json!({"article": "a", "question": "q", "options": ["x", "y"], "answer": "B"}),
                "article question options answer",
            ), // RACE
        ] {
            assert_eq!(columns(task, fields.clone()), expected, "{fields}");
        }
    }

    #[test]
    fn unknown_columns_are_refused_with_those_that_are_there() {
        let fields = json!({"verse": "a", "tone": "b"});
        let say = |named: Named, task| Columns::find(task, &named, &row(fields.clone())).unwrap_err().to_string();
        let unnamed = say(Named::default(), TaskKind::Classification);
        assert_eq!(
            unnamed,
            "cannot find a text in f.jsonl, which has the columns verse, tone; name the column with --text-column"
        );
        let named = Named { text: Some("tex".to_owned()), ..Named::default() };
        assert_eq!(
            say(named, TaskKind::Classification),
            "f.jsonl has no column \"tex\"; it has the columns verse, tone"
        );
        let named = Named { text: Some("verse".to_owned()), label: Some("tone".to_owned()), ..Named::default() };
        let columns = Columns::find(TaskKind::Classification, &named, &row(fields.clone())).unwrap();
        assert_eq!(columns.truth(TaskKind::Classification, &row(fields)).unwrap(), Some(Truth::Class("b".to_owned())));
    }

    #[test]
    fn a_task_makes_its_sequences() {
        let pair = json!({"text_a": "a", "text_b": "b", "label": 1});
        let text = |a: &str, b: Option<&str>| (a.to_owned(), b.map(str::to_owned));
        let of = |task, fields: &Value| found(task, fields.clone()).sequences(task, &row(fields.clone())).unwrap();
        assert_eq!(of(TaskKind::Entailment, &pair), [text("a", Some("b"))]);
        assert_eq!(of(TaskKind::Similarity, &pair), [text("a", Some("b")), text("b", Some("a"))]);
        assert_eq!(of(TaskKind::Regression, &pair), of(TaskKind::Similarity, &pair));
        let choice = json!({"article": "a", "question": "q", "options": ["x", "y"], "answer": "B"});
        assert_eq!(of(TaskKind::MultipleChoice, &choice), [text("a q", Some("x")), text("a q", Some("y"))]);
    }

    #[test]
    fn the_right_choice_is_a_number_a_letter_or_itself() {
        let right = |key: &str, label: Value, choices: Value| {
            let fields = row(json!({"question": "q", "choices": choices, key: label}));
            let columns = Columns::find(TaskKind::MultipleChoice, &Named::default(), &fields).unwrap();
            columns.truth(TaskKind::MultipleChoice, &fields).map_err(|e| e.to_string())
        };
        let choices = json!(["x", "y"]);
        let arc = json!({"text": ["x", "y"], "label": ["3", "4"]});
        for (key, label, of) in [
            ("label", json!(1), &choices),
            ("label", json!("1"), &choices),
            ("answer", json!("B"), &choices),
            ("answer", json!("y"), &choices),
            ("answerKey", json!("2"), &choices),
            ("answerKey", json!("4"), &arc),
        ] {
            assert_eq!(right(key, label.clone(), of.clone()), Ok(Some(Truth::Choice(1))), "{key} {label}");
        }
        let error = right("label", json!(2), choices).unwrap_err();
        assert_eq!(error, "\"label\" is \"2\", which is not one of the 2 choices, counted from 0");
    }
}
