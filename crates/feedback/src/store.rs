//! The store of feedback: one SQLite file, in which nothing is ever changed. A correction is a new record that supersedes
//! an older one.
//!
//! ```text
//! people         name, role, when they agreed to training, when they were excluded
//! models         name, folder, fingerprints of the weights and of the numbers, data type
//! completions    request, choice, person, model, prompt (JSON messages), sampling (JSON, with the seed), text, tokens, finish
//! rankings       client's id, person, ranking and order shown (JSON), both_bad, blind, skipped, task, seconds, note, supersedes
//! ranked         the answers of a ranking, by number
//! ratings        client's id, person, completion, thumb, likert, marks (JSON), seconds, note, supersedes
//! demonstrations client's id, person, messages (JSON), the completion that it corrects, share kept, seconds, note, supersedes
//! tasks          prompt, number of answers, model, sampling, who holds it until when, whether it is done, the known best
//!                answer, the task whose answers a second person ranks
//! exports        files that were written, by their BLAKE3 hash; export_records: the records in each
//! ```
//!
//! A record is on the disk when a function that stores it returns.

use crate::people::AccessRole;
use crate::records::{Act, AnswerId, Demonstration, Feedback, ModelIdentity, Ranking, Rating, RecordedAnswer};
use anyhow::Context;
use gptkit_data::disk;
use rusqlite::types::Type;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Name of the file in its folder.
pub const FILE: &str = "feedback.sqlite";
/// The application id of the file: "gptf".
const APPLICATION: i32 = 0x6770_7466;
/// The version of the tables below.
const VERSION: i32 = 1;
/// How long another process may hold the file before that is an error.
const PATIENCE: Duration = Duration::from_secs(5);
/// Requests that are remembered when the disk is full.
const MOST_UNSTORED: usize = 10_000;
/// Why a ranking is skipped that only takes back an earlier one.
pub const UNDONE: &str = "undone";
const TABLES: &str = "
CREATE TABLE people (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, role TEXT NOT NULL, consented_at TEXT, excluded_at TEXT) STRICT;
CREATE TABLE models (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, folder TEXT NOT NULL, weights TEXT NOT NULL, fingerprint TEXT NOT NULL,
    dtype TEXT NOT NULL, UNIQUE (name, folder, fingerprint)) STRICT;
CREATE TABLE completions (
    id INTEGER PRIMARY KEY, request TEXT NOT NULL, choice INTEGER NOT NULL, person INTEGER NOT NULL REFERENCES people,
    model INTEGER NOT NULL REFERENCES models, at TEXT NOT NULL, prompt TEXT NOT NULL, sampling TEXT NOT NULL,
    max_new_tokens INTEGER NOT NULL, stop TEXT NOT NULL, text TEXT NOT NULL, tokens TEXT NOT NULL, finish TEXT NOT NULL,
    UNIQUE (request, choice)) STRICT;
CREATE TABLE rankings (
    id INTEGER PRIMARY KEY, client_id TEXT NOT NULL UNIQUE, person INTEGER NOT NULL REFERENCES people, at TEXT NOT NULL,
    seconds REAL, note TEXT, supersedes TEXT, ranking TEXT, shown TEXT NOT NULL, both_bad INTEGER NOT NULL,
    blind INTEGER NOT NULL, skipped TEXT, task INTEGER REFERENCES tasks) STRICT;
CREATE TABLE ranked (
    ranking INTEGER NOT NULL REFERENCES rankings, number INTEGER NOT NULL, completion INTEGER NOT NULL
    REFERENCES completions, PRIMARY KEY (ranking, number)) STRICT;
CREATE TABLE ratings (
    id INTEGER PRIMARY KEY, client_id TEXT NOT NULL UNIQUE, person INTEGER NOT NULL REFERENCES people, at TEXT NOT NULL,
    seconds REAL, note TEXT, supersedes TEXT, completion INTEGER NOT NULL REFERENCES completions, thumb INTEGER,
    likert INTEGER CHECK (likert BETWEEN 1 AND 7), marks TEXT NOT NULL) STRICT;
CREATE TABLE demonstrations (
    id INTEGER PRIMARY KEY, client_id TEXT NOT NULL UNIQUE, person INTEGER NOT NULL REFERENCES people, at TEXT NOT NULL,
    seconds REAL, note TEXT, supersedes TEXT, messages TEXT NOT NULL, based_on INTEGER REFERENCES completions) STRICT;
CREATE TABLE tasks (
    id INTEGER PRIMARY KEY, prompt TEXT NOT NULL, k INTEGER NOT NULL, model TEXT NOT NULL, temperature REAL NOT NULL,
    max_tokens INTEGER NOT NULL, seed INTEGER NOT NULL, leased_by INTEGER REFERENCES people, leased_until INTEGER,
    done INTEGER NOT NULL DEFAULT 0, known_best INTEGER REFERENCES completions, repeats INTEGER REFERENCES tasks) STRICT;
CREATE TABLE exports (
    id INTEGER PRIMARY KEY, at TEXT NOT NULL, kind TEXT NOT NULL, path TEXT NOT NULL, hash TEXT NOT NULL,
    filter TEXT NOT NULL) STRICT;
CREATE TABLE export_records (
    export INTEGER NOT NULL REFERENCES exports, kind TEXT NOT NULL, record INTEGER NOT NULL,
    PRIMARY KEY (export, kind, record)) STRICT;
";

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
                Self::Other(anyhow::Error::new(error).context("another process uses the store; try again later"))
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

impl FeedbackStore {
    /// Opens the store in `folder`, and creates both where they are missing.
    ///
    /// # Errors
    /// When the file is not a store of feedback, or damaged, or cannot be written.
    pub fn create(folder: &Path) -> anyhow::Result<Self> {
        disk::create_dir(folder)?;
        let mut store = Self::connected(&folder.join(FILE))?;
        if store.is_empty()? {
            store.write(|transaction| {
                transaction.execute_batch(TABLES)?;
                transaction.pragma_update(None, "application_id", APPLICATION)?;
                transaction.pragma_update(None, "user_version", VERSION)?;
                Ok(())
            })?;
        }
        store.check()?;
        Ok(store)
    }

    /// Opens the store in `folder`.
    ///
    /// # Errors
    /// When the folder has no store, or the store is damaged.
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(FILE);
        let hint = "it is written by `gptkit serve --feedback DIR`";
        anyhow::ensure!(path.exists(), "{} does not contain {FILE}; {hint}", folder.display());
        let store = Self::connected(&path)?;
        store.check()?;
        Ok(store)
    }

    fn connected(path: &Path) -> anyhow::Result<Self> {
        if path.exists() {
            disk::open(path)?; // a FIFO would be waited for
        }
        let connection = Connection::open(path).with_context(|| format!("{} cannot be opened", path.display()))?;
        connection.busy_timeout(PATIENCE)?;
        connection.pragma_update(None, "synchronous", "FULL").with_context(|| damaged(path))?;
        connection.pragma_update(None, "foreign_keys", true)?;
        Ok(Self { path: path.to_owned(), connection, unstored: BTreeSet::new() })
    }

    fn is_empty(&self) -> anyhow::Result<bool> {
        let count = self.connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get::<_, i64>(0));
        Ok(count.with_context(|| damaged(&self.path))? == 0)
    }

    fn check(&self) -> anyhow::Result<()> {
        let number = |name: &str| self.connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
        let sound: String = self
            .connection
            .pragma_query_value(None, "quick_check", |row| row.get(0))
            .with_context(|| damaged(&self.path))?;
        anyhow::ensure!(sound == "ok" && number("application_id")? == APPLICATION, damaged(&self.path));
        let version = number("user_version")?;
        anyhow::ensure!(
            version == VERSION,
            "{} has format version {version}, but this version of gptkit reads version {VERSION}",
            self.path.display()
        );
        Ok(())
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
                let (person, model) = (person(transaction, &answer.person)?, model(transaction, &answer.model)?);
                transaction.execute(
                    "INSERT OR IGNORE INTO completions (request, choice, person, model, at, prompt, sampling,
                     max_new_tokens, stop, text, tokens, finish) VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12)",
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
                        json(&answer.tokens),
                        answer.finish
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
        let table = match &feedback.act {
            Act::Ranking(_) => "rankings",
            Act::Rating(_) => "ratings",
            Act::Demonstration(_) => "demonstrations",
        };
        self.write(|transaction| {
            let known = format!("SELECT id FROM {table} WHERE client_id = ?1");
            if let Some(id) = transaction.query_row(&known, [&feedback.client_id], |row| row.get(0)).optional()? {
                return Ok((id, false));
            }
            let insert = format!(
                "INSERT INTO {table} (client_id, person, at, seconds, note, supersedes, {}) VALUES (?1,?2,?3,?4,?5,?6,{})",
                columns(&feedback.act),
                (7..7 + columns(&feedback.act).split(',').count()).map(|i| format!("?{i}")).collect::<Vec<_>>().join(",")
            );
            let who = person(transaction, &feedback.person)?;
            let (id, at, seconds) = (&feedback.client_id, now(), feedback.seconds);
            let (note, supersedes) = (&feedback.note, &feedback.supersedes);
            match &feedback.act {
                Act::Ranking(ranking) => {
                    let answers = ranking.answers.iter().map(|id| completion(transaction, id));
                    let answers: Vec<(i64, String)> = answers.collect::<Result<_, _>>()?;
                    if answers.iter().any(|(_, prompt)| *prompt != answers[0].1) {
                        return Err(StoreError::DifferentPrompts);
                    }
                    let Ranking { ranking, skipped, both_bad, shown, blind, task, .. } = ranking;
                    let ranking = ranking.as_ref().map(json);
                    transaction.execute(
                        &insert,
                        params![
                            id, who, at, seconds, note, supersedes, ranking, json(shown), both_bad, blind, skipped, task
                        ],
                    )?;
                    let record = transaction.last_insert_rowid();
                    for (number, (answer, _)) in answers.iter().enumerate() {
                        transaction.execute("INSERT INTO ranked VALUES (?1, ?2, ?3)", params![record, number, answer])?;
                    }
                    let done = skipped.as_deref() != Some(UNDONE);
                    transaction.execute("UPDATE tasks SET done = ?2 WHERE id = ?1", params![task, done])?;
                    return Ok((record, true));
                }
                Act::Rating(Rating { answer, thumb, likert, marks }) => {
                    let (answer, _) = completion(transaction, answer)?;
                    let marks = json(marks);
                    transaction.execute(
                        &insert,
                        params![id, who, at, seconds, note, supersedes, answer, thumb, likert, marks],
                    )?;
                }
                Act::Demonstration(Demonstration { messages, based_on }) => {
                    let based_on = based_on.as_ref().map(|id| completion(transaction, id)).transpose()?;
                    let based_on = based_on.map(|(id, _)| id);
                    transaction.execute(
                        &insert,
                        params![id, who, at, seconds, note, supersedes, json(messages), based_on],
                    )?;
                }
            }
            Ok((transaction.last_insert_rowid(), true))
        })
    }
}

fn columns(act: &Act) -> &'static str {
    match act {
        Act::Ranking(_) => "ranking, shown, both_bad, blind, skipped, task",
        Act::Rating(_) => "completion, thumb, likert, marks",
        Act::Demonstration(_) => "messages, based_on",
    }
}

fn damaged(path: &Path) -> String {
    format!("{} is damaged or is not a store of feedback; restore it from a copy", path.display())
}

/// The number of a person, who is added as a user when new.
fn person(transaction: &Transaction<'_>, name: &str) -> Result<i64, StoreError> {
    transaction.execute("INSERT OR IGNORE INTO people (name, role) VALUES (?1, 'user')", [name])?;
    Ok(transaction.query_row("SELECT id FROM people WHERE name = ?1", [name], |row| row.get(0))?)
}

fn model(transaction: &Transaction<'_>, model: &ModelIdentity) -> Result<i64, StoreError> {
    let ModelIdentity { name, folder, weights, fingerprint, dtype } = model;
    let insert = "INSERT OR IGNORE INTO models (name, folder, weights, fingerprint, dtype) VALUES (?1, ?2, ?3, ?4, ?5)";
    transaction.execute(insert, params![name, folder, weights, fingerprint, dtype])?;
    let found = "SELECT id FROM models WHERE name = ?1 AND folder = ?2 AND fingerprint = ?3";
    Ok(transaction.query_row(found, params![name, folder, fingerprint], |row| row.get(0))?)
}

/// The number and the prompt of an answer.
fn completion(transaction: &Transaction<'_>, id: &AnswerId) -> Result<(i64, String), StoreError> {
    let sql = "SELECT id, prompt FROM completions WHERE request = ?1 AND choice = ?2";
    let found = transaction.query_row(sql, params![id.request, id.choice], |row| Ok((row.get(0)?, row.get(1)?)));
    found.optional()?.ok_or_else(|| StoreError::UnknownAnswer(id.clone()))
}

/// Answers with person and model.
pub(crate) const ANSWERS: &str =
    "SELECT c.request, c.choice, p.name, m.name, m.folder, m.weights, m.fingerprint, m.dtype,
    c.prompt, c.sampling, c.max_new_tokens, c.stop, c.text, c.tokens, c.finish, c.id
    FROM completions c JOIN people p ON p.id = c.person JOIN models m ON m.id = c.model";

/// The column of an answer's number in [`ANSWERS`].
pub(crate) const ANSWER_NUMBER: usize = 15;

/// The condition that no record of `table`, which is called r, supersedes r.
pub(crate) fn stands(table: &str) -> String {
    format!("r.client_id NOT IN (SELECT supersedes FROM {table} WHERE supersedes IS NOT NULL)")
}

/// A row of [`ANSWERS`].
pub(crate) fn answer(row: &Row<'_>) -> rusqlite::Result<RecordedAnswer> {
    Ok(RecordedAnswer {
        id: AnswerId { request: row.get(0)?, choice: row.get(1)? },
        person: row.get(2)?,
        model: ModelIdentity {
            name: row.get(3)?,
            folder: row.get(4)?,
            weights: row.get(5)?,
            fingerprint: row.get(6)?,
            dtype: row.get(7)?,
        },
        prompt: parsed(row, 8)?,
        sampling: parsed(row, 9)?,
        max_new_tokens: row.get(10)?,
        stop: parsed(row, 11)?,
        text: row.get(12)?,
        tokens: parsed(row, 13)?,
        finish: row.get(14)?,
    })
}

/// The JSON value in a column.
pub(crate) fn parsed<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    let wrong = |e: serde_json::Error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(e));
    serde_json::from_str(&text).map_err(wrong)
}

pub(crate) fn json(value: &impl Serialize) -> String {
    serde_json::json!(value).to_string()
}

/// The time, as RFC 3339 writes it.
pub(crate) fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}
