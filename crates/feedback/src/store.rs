//! The store of feedback: one SQLite file, whose tables are in [`crate::schema`]. Nothing in it is ever changed: a correction
//! is a new record that supersedes an older one.
//!
//! A record is on the disk when a function that stores it returns. Several processes may use one file at the same time: the
//! journal is a write-ahead log, and a writer waits for the others. The log is merged into the file when the last process
//! closes it.

use crate::people::AccessRole;
use crate::records::{
    Act, AnswerId, AnswerPlace, Demonstration, Feedback, ModelIdentity, Ranking, Rating, RecordedAnswer,
};
use crate::schema;
use gptkit_data::disk;
use rusqlite::types::{Type, ValueRef};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Name of the file in its folder.
const FILE: &str = "feedback.sqlite";
/// Its name in a folder that an older version of `gptkit compare` began.
const OLD_FILE: &str = "comparisons.sqlite";
/// How long another process may hold the file before that is an error.
const PATIENCE: Duration = Duration::from_secs(5);
/// Requests that are remembered when the disk is full.
const MOST_UNSTORED: usize = 10_000;
/// Why a ranking is skipped that only takes back an earlier one.
pub const UNDONE: &str = "undone";
/// Why feedback is not stored.
#[derive(Debug)]
pub enum StoreError {
    /// It is about an answer that the store does not have.
    UnknownAnswer(AnswerId),
    /// The answers of a ranking have different prompts.
    DifferentPrompts,
    /// The disk is full.
    DiskFull,
    /// Another process holds the file, or it is damaged.
    Other(anyhow::Error),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownAnswer(id) => write!(f, "the store has no answer {} of {}", id.choice, id.request),
            Self::DifferentPrompts => f.write_str("the answers belong to different prompts"),
            Self::DiskFull => f.write_str("the disk is full, and the feedback was not stored"),
            Self::Other(e) => write!(f, "{e:#}"),
        }
    }
}

impl std::error::Error for StoreError {}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::DiskFull,
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                let what = "another process has been writing the store for too long; try again later";
                Self::Other(anyhow::Error::new(error).context(what))
            }
            _ => Self::Other(anyhow::Error::new(error).context("the store cannot be used; it may be damaged")),
        }
    }
}

/// The open file.
#[derive(Debug)]
pub struct FeedbackStore {
    path: PathBuf,
    pub(crate) connection: Connection,
    /// Requests whose answers did not fit on the disk.
    unstored: BTreeSet<String>,
}

/// The file of the store in `folder`, which may be missing.
///
/// # Errors
/// When there are two.
pub fn file_in(folder: &Path) -> anyhow::Result<PathBuf> {
    let (path, old) = (folder.join(FILE), folder.join(OLD_FILE));
    let folder = folder.display();
    anyhow::ensure!(
        !(path.exists() && old.exists()),
        "{folder} contains {FILE} and {OLD_FILE}; move one of them to another folder"
    );
    Ok(if old.exists() { old } else { path })
}

impl FeedbackStore {
    /// Opens the store in `folder`, and creates both where they are missing.
    ///
    /// # Errors
    /// When the file is not a store of feedback, or damaged, or cannot be written.
    pub fn create(folder: &Path) -> anyhow::Result<Self> {
        disk::create_dir(folder)?;
        Self::connected(file_in(folder)?)
    }

    /// Opens the store in `folder`.
    ///
    /// # Errors
    /// When the folder has no store, or the store is damaged.
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        let path = file_in(folder)?;
        let hint = "it is written by `gptkit serve --feedback DIR` and `gptkit compare --out DIR`";
        anyhow::ensure!(path.exists(), "{} does not contain {FILE}; {hint}", folder.display());
        Self::connected(path)
    }

    fn connected(path: PathBuf) -> anyhow::Result<Self> {
        if path.exists() {
            disk::open(&path)?; // a FIFO would be waited for
        }
        let connect = || -> anyhow::Result<Connection> {
            let mut connection = Connection::open(&path)?;
            connection.busy_timeout(PATIENCE)?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            connection.pragma_update(None, "foreign_keys", true)?;
            schema::check(&connection, &path)?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            schema::prepare(&mut connection, &path)?;
            Ok(connection)
        };
        let connection = connect().map_err(|e| match e.downcast::<rusqlite::Error>() {
            Ok(e) if matches!(e.sqlite_error_code(), Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt)) => {
                anyhow::Error::new(e).context(schema::damaged(&path))
            }
            Ok(e) => anyhow::Error::new(StoreError::from(e)).context(path.display().to_string()),
            Err(e) => e,
        })?;
        Ok(Self { path, connection, unstored: BTreeSet::new() })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Does everything that `write` does, or nothing.
    pub(crate) fn write<T>(
        &mut self,
        write: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let done = write(&transaction)?;
        transaction.commit()?;
        Ok(done)
    }

    /// Notes that `name` was here with this role.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn see(&mut self, name: &str, role: AccessRole) -> Result<(), StoreError> {
        self.write(|transaction| {
            let insert = "INSERT INTO people (name, role) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET role = ?2";
            transaction.execute(insert, params![name, role.name()])?;
            Ok(())
        })
    }

    /// Notes whether `name` agrees that their data is used for training.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn consent(&mut self, name: &str, agrees: bool) -> Result<(), StoreError> {
        let at = agrees.then(now);
        self.write(|transaction| {
            person(transaction, name)?;
            transaction.execute("UPDATE people SET consented_at = ?2 WHERE name = ?1", params![name, at])?;
            Ok(())
        })
    }

    /// Leaves the records of `name` out of exports and figures, or takes them in again. Returns whether there is such a
    /// person.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn exclude(&mut self, name: &str, excluded: bool) -> Result<bool, StoreError> {
        let at = excluded.then(now);
        self.write(|transaction| {
            let n = transaction.execute("UPDATE people SET excluded_at = ?2 WHERE name = ?1", params![name, at])?;
            Ok(n > 0)
        })
    }

    /// Whether `name` agreed that their data is used for training.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn consents(&self, name: &str) -> Result<bool, StoreError> {
        let sql = "SELECT consented_at IS NOT NULL FROM people WHERE name = ?1";
        Ok(self.connection.query_row(sql, [name], |row| row.get(0)).optional()?.unwrap_or(false))
    }

    /// Stores answers, all or none.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn add_answers(&mut self, answers: &[RecordedAnswer]) -> Result<(), StoreError> {
        let stored = self.insert_answers(answers);
        if matches!(stored, Err(StoreError::DiskFull)) && self.unstored.len() < MOST_UNSTORED {
            self.unstored.extend(answers.iter().map(|answer| answer.id.request.clone()));
        }
        stored
    }

    fn insert_answers(&mut self, answers: &[RecordedAnswer]) -> Result<(), StoreError> {
        self.write(|transaction| {
            for answer in answers {
                let person = answer.person.as_ref().map(|name| person(transaction, name)).transpose()?;
                let model = model(transaction, &answer.model)?;
                transaction.execute(
                    "INSERT OR IGNORE INTO completions (request, choice, person, model, at, prompt, sampling,
                     max_new_tokens, stop, text, n_tokens, tokens, log_prob, finish, item, number)
                     VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16)",
                    params![
                        answer.id.request,
                        answer.id.choice,
                        person,
                        model,
                        now(),
                        json(&answer.prompt),
                        answer.sampling.to_string(),
                        answer.max_new_tokens,
                        json(&answer.stop),
                        answer.text,
                        answer.tokens.as_ref().map_or(0, Vec::len),
                        answer.tokens.as_ref().map(json),
                        answer.log_prob,
                        answer.finish,
                        answer.place.map(|place| place.item),
                        answer.place.map(|place| place.number)
                    ],
                )?;
            }
            Ok(())
        })
    }

    /// All answers, in the order in which they were stored.
    ///
    /// # Errors
    /// When the store is damaged.
    pub fn answers(&self) -> Result<Vec<RecordedAnswer>, StoreError> {
        let sql = format!("{ANSWERS} ORDER BY c.id");
        Ok(self.connection.prepare(&sql)?.query_map([], answer)?.collect::<rusqlite::Result<_>>()?)
    }

    /// The folder of the model that wrote the last answer, if there is one.
    ///
    /// # Errors
    /// When the store is damaged.
    pub fn last_model(&self) -> Result<Option<String>, StoreError> {
        let sql = "SELECT m.folder FROM completions c JOIN models m ON m.id = c.model
            WHERE m.folder <> '' ORDER BY c.id DESC LIMIT 1";
        Ok(self.connection.query_row(sql, [], |row| row.get(0)).optional()?)
    }

    /// Stores what a person did. Returns the number of the record, and whether it is new: a record that was sent twice is
    /// stored once.
    ///
    /// # Errors
    /// When it is about answers that the store does not have, or the store cannot be written.
    pub fn add(&mut self, feedback: &Feedback) -> Result<(i64, bool), StoreError> {
        match self.insert(feedback) {
            // The answer is missing because it did not fit on the disk.
            Err(StoreError::UnknownAnswer(id)) if self.unstored.contains(&id.request) => Err(StoreError::DiskFull),
            added => added,
        }
    }

    fn insert(&mut self, feedback: &Feedback) -> Result<(i64, bool), StoreError> {
        self.write(|transaction| {
            let known = format!("SELECT id FROM {} WHERE client_id = ?1", table(&feedback.act));
            let known = transaction.query_row(&known, [&feedback.client_id], |row| row.get(0)).optional()?;
            match known {
                Some(id) => Ok((id, false)),
                None => Ok((insert(transaction, feedback, &now())?, true)),
            }
        })
    }
}

fn table(act: &Act) -> &'static str {
    match act {
        Act::Ranking(_) => "rankings",
        Act::Rating(_) => "ratings",
        Act::Demonstration(_) => "demonstrations",
    }
}

/// Stores a record that is new. Returns its number.
pub(crate) fn insert(transaction: &Transaction<'_>, feedback: &Feedback, at: &str) -> Result<i64, StoreError> {
    let (table, columns) = (table(&feedback.act), columns(&feedback.act));
    let values: Vec<String> = (7..7 + columns.split(',').count()).map(|i| format!("?{i}")).collect();
    let insert = format!(
        "INSERT INTO {table} (client_id, person, at, seconds, note, supersedes, {columns}) VALUES (?1,?2,?3,?4,?5,?6,{})",
        values.join(",")
    );
    let who = person(transaction, &feedback.person)?;
    let Feedback { client_id: id, seconds, note, supersedes, .. } = feedback;
    match &feedback.act {
        Act::Ranking(Ranking { answers, ranking, skipped, both_bad, shown, blind, task }) => {
            let answers = answers.iter().map(|id| completion(transaction, id));
            let answers: Vec<(i64, String)> = answers.collect::<Result<_, _>>()?;
            if answers.iter().any(|(_, prompt)| *prompt != answers[0].1) {
                return Err(StoreError::DifferentPrompts);
            }
            let ranking = ranking.as_ref().map(json);
            transaction.execute(
                &insert,
                params![id, who, at, seconds, note, supersedes, ranking, json(shown), both_bad, blind, skipped, task],
            )?;
            let record = transaction.last_insert_rowid();
            for (number, (answer, _)) in answers.iter().enumerate() {
                transaction.execute("INSERT INTO ranked VALUES (?1, ?2, ?3)", params![record, number, answer])?;
            }
            let done = skipped.as_deref() != Some(UNDONE);
            transaction.execute("UPDATE tasks SET done = ?2 WHERE id = ?1", params![task, done])?;
            Ok(record)
        }
        Act::Rating(Rating { answer, thumb, likert, marks }) => {
            let (answer, _) = completion(transaction, answer)?;
            let marks = json(marks);
            transaction
                .execute(&insert, params![id, who, at, seconds, note, supersedes, answer, thumb, likert, marks])?;
            Ok(transaction.last_insert_rowid())
        }
        Act::Demonstration(Demonstration { messages, based_on }) => {
            let based_on = based_on.as_ref().map(|id| completion(transaction, id)).transpose()?;
            let based_on = based_on.map(|(id, _)| id);
            transaction.execute(&insert, params![id, who, at, seconds, note, supersedes, json(messages), based_on])?;
            Ok(transaction.last_insert_rowid())
        }
    }
}

fn columns(act: &Act) -> &'static str {
    match act {
        Act::Ranking(_) => "ranking, shown, both_bad, blind, skipped, task",
        Act::Rating(_) => "completion, thumb, likert, marks",
        Act::Demonstration(_) => "messages, based_on",
    }
}

/// The number of a person, who is added as a user when new.
fn person(transaction: &Transaction<'_>, name: &str) -> Result<i64, StoreError> {
    transaction.execute("INSERT OR IGNORE INTO people (name, role) VALUES (?1, 'user')", [name])?;
    Ok(transaction.query_row("SELECT id FROM people WHERE name = ?1", [name], |row| row.get(0))?)
}

fn model(transaction: &Transaction<'_>, model: &ModelIdentity) -> Result<i64, StoreError> {
    let ModelIdentity { name, folder, weights, tokenizer, template, fingerprint, dtype } = model;
    let insert = "INSERT OR IGNORE INTO models (name, folder, weights, tokenizer, template, fingerprint, dtype)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    transaction.execute(insert, params![name, folder, weights, tokenizer, template, fingerprint, dtype])?;
    let found = "SELECT id FROM models WHERE (name, folder, weights, tokenizer, template, fingerprint) =
        (?1, ?2, ?3, ?4, ?5, ?6)";
    let keys = params![name, folder, weights, tokenizer, template, fingerprint];
    Ok(transaction.query_row(found, keys, |row| row.get(0))?)
}

/// The number and the prompt of an answer.
fn completion(transaction: &Transaction<'_>, id: &AnswerId) -> Result<(i64, String), StoreError> {
    let sql = "SELECT id, prompt FROM completions WHERE request = ?1 AND choice = ?2";
    let found = transaction.query_row(sql, params![id.request, id.choice], |row| Ok((row.get(0)?, row.get(1)?)));
    found.optional()?.ok_or_else(|| StoreError::UnknownAnswer(id.clone()))
}

/// Answers with person and model.
pub(crate) const ANSWERS: &str =
    "SELECT c.request, c.choice, p.name, m.name, m.folder, m.weights, m.tokenizer, m.template, m.fingerprint, m.dtype,
    c.prompt, c.sampling, c.max_new_tokens, c.stop, c.text, c.tokens, c.log_prob, c.finish, c.item, c.number, c.id
    FROM completions c LEFT JOIN people p ON p.id = c.person JOIN models m ON m.id = c.model";

/// The column of an answer's number in [`ANSWERS`].
pub(crate) const ANSWER_NUMBER: usize = 20;

/// The condition that no record of `table`, which is called r, supersedes r.
pub(crate) fn stands(table: &str) -> String {
    format!("r.client_id NOT IN (SELECT supersedes FROM {table} WHERE supersedes IS NOT NULL)")
}

/// A row of [`ANSWERS`].
pub(crate) fn answer(row: &Row<'_>) -> rusqlite::Result<RecordedAnswer> {
    let place: (Option<u64>, Option<u64>) = (row.get(18)?, row.get(19)?);
    Ok(RecordedAnswer {
        id: AnswerId { request: row.get(0)?, choice: row.get(1)? },
        person: row.get(2)?,
        model: ModelIdentity {
            name: row.get(3)?,
            folder: row.get(4)?,
            weights: row.get(5)?,
            tokenizer: row.get(6)?,
            template: row.get(7)?,
            fingerprint: row.get(8)?,
            dtype: row.get(9)?,
        },
        prompt: parsed(row, 10)?,
        sampling: parsed(row, 11)?,
        max_new_tokens: row.get(12)?,
        stop: parsed(row, 13)?,
        text: row.get(14)?,
        tokens: optional(row, 15)?,
        log_prob: row.get(16)?,
        finish: row.get(17)?,
        place: place.0.zip(place.1).map(|(item, number)| AnswerPlace { item, number }),
    })
}

/// The JSON value in a column.
pub(crate) fn parsed<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    let wrong = |e: serde_json::Error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(e));
    serde_json::from_str(&text).map_err(wrong)
}

/// The JSON value in a column that may be empty.
pub(crate) fn optional<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<T>> {
    match row.get_ref(column)? {
        ValueRef::Null => Ok(None),
        _ => parsed(row, column).map(Some),
    }
}

pub(crate) fn json(value: &impl Serialize) -> String {
    serde_json::json!(value).to_string()
}

/// The time, as RFC 3339 writes it.
pub fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}
