//! Prompts that wait for a labeler. A task is leased to one person at a time, so that two people do not get the same one.
//!
//! Two kinds of tasks measure the labelers. A task with a *known best answer* has this answer among those of the model; every
//! [`KNOWN_EVERY`]th task of a person is one of them, while there are any. The answers of a *repeated* task are ranked by a
//! second person after the first one, which shows how far people agree.

use crate::records::{AnswerId, ModelIdentity, RecordedAnswer};
use crate::store::{FeedbackStore, StoreError, json, parsed};
use gptkit_data::dialogue::Message;
use rusqlite::{OptionalExtension, Row, Transaction, params};
use serde::Serialize;
use serde_json::Value;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long a person has a task for themselves.
const LEASE: Duration = Duration::from_secs(600);
/// One in this many tasks of a person has a known best answer.
const KNOWN_EVERY: u64 = 10;
/// In place of a model's name: the known best answer of a task.
pub const KNOWN_BEST: &str = "known best answer";

/// A task to add.
#[derive(Debug, Clone, PartialEq)]
pub struct NewTask {
    /// The messages before the answers.
    pub messages: Vec<Message>,
    /// Number of answers.
    pub k: u64,
    /// Name of the served model that answers.
    pub model: String,
    /// Temperature of its sampling.
    pub temperature: f64,
    /// Longest answer, in tokens.
    pub max_tokens: u64,
    /// Seed of its sampling.
    pub seed: u64,
    /// The best answer, which is one of the `k`, with the id under which it is stored.
    pub known_best: Option<(AnswerId, String)>,
    /// Whether a second person ranks the same answers.
    pub is_repeated: bool,
}

/// A prompt whose answers are to be ranked.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LabelingTask {
    /// Its number in the store.
    pub id: i64,
    /// The messages before the answers.
    pub messages: Vec<Message>,
    /// Number of answers.
    pub k: u64,
    /// Name of the served model that answers.
    pub model: String,
    /// Temperature of its sampling.
    pub temperature: f64,
    /// Longest answer, in tokens.
    pub max_tokens: u64,
    /// Seed of its sampling.
    pub seed: u64,
    /// Answers that are stored already; the model generates the others.
    pub answers: Vec<TaskAnswer>,
}

/// A stored answer that belongs to a task.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TaskAnswer {
    /// Its name.
    #[serde(flatten)]
    pub id: AnswerId,
    /// Its text.
    pub text: String,
}

/// The condition that the task t is not done and is not a repetition of what person ?1 has ranked, or of what nobody has
/// ranked yet.
const IS_OPEN: &str = "t.done = 0 AND (t.repeats IS NULL OR (
    EXISTS (SELECT 1 FROM rankings r WHERE r.task = t.repeats AND r.ranking IS NOT NULL)
    AND NOT EXISTS (SELECT 1 FROM rankings r WHERE r.task = t.repeats AND r.person = ?1)))";

impl FeedbackStore {
    /// Adds tasks for `person`, who made them; their ids are drawn by the store.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn add_tasks(&mut self, person: &str, tasks: &[NewTask]) -> Result<(), StoreError> {
        let known = tasks.iter().filter_map(|task| Some((task, task.known_best.as_ref()?)));
        let known: Vec<RecordedAnswer> = known.map(|(task, best)| known_best(person, task, best)).collect();
        self.add_answers(&known)?;
        self.write(|transaction| {
            for task in tasks {
                let NewTask { messages, k, model, temperature, max_tokens, seed, known_best, is_repeated } = task;
                let known_best = known_best.as_ref().map(|(id, _)| &id.request);
                let add = |repeats: Option<i64>| {
                    transaction.execute(
                        "INSERT INTO tasks (prompt, k, model, temperature, max_tokens, seed, known_best, repeats)
                        VALUES (?1,?2,?3,?4,?5,?6,(SELECT id FROM completions WHERE request = ?7),?8)",
                        params![json(messages), k, model, temperature, max_tokens, seed, known_best, repeats],
                    )
                };
                add(None)?;
                if *is_repeated {
                    add(Some(transaction.last_insert_rowid()))?;
                }
            }
            Ok(())
        })
    }

    /// The next task for `name`, who then has it alone for ten minutes: the one that they hold already, or the first that
    /// nobody holds. Beside it, how many tasks wait for them, this one included.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn next_task(&mut self, name: &str) -> Result<(Option<LabelingTask>, u64), StoreError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.write(|transaction| {
            transaction.execute("INSERT OR IGNORE INTO people (name, role) VALUES (?1, 'labeler')", [name])?;
            let person: i64 =
                transaction.query_row("SELECT id FROM people WHERE name = ?1", [name], |row| row.get(0))?;
            let number = |sql: &str| transaction.query_row(sql, [person], |row| row.get::<_, u64>(0));
            let waiting = number(&format!("SELECT count(*) FROM tasks t WHERE {IS_OPEN}"))?;
            let done = number("SELECT count(DISTINCT task) FROM rankings WHERE person = ?1")?;
            let wants_known = (done + 1) % KNOWN_EVERY == 0;
            let next = format!(
                "SELECT id, prompt, k, model, temperature, max_tokens, seed, known_best, repeats FROM tasks t
                WHERE {IS_OPEN} AND (leased_by IS NULL OR leased_by = ?1 OR leased_until < ?2)
                ORDER BY coalesce(leased_by = ?1, 0) DESC, ((known_best IS NOT NULL) = ?3) DESC, id LIMIT 1"
            );
            let columns = |row: &Row<'_>| Ok((task(row)?, row.get(7)?, row.get(8)?));
            let found = transaction.query_row(&next, params![person, now, wants_known], columns).optional()?;
            let Some((mut task, known_best, repeats)) = found else { return Ok((None, waiting)) };
            task.answers = stored_answers(transaction, known_best, repeats)?;
            let lease = "UPDATE tasks SET leased_by = ?2, leased_until = ?3 WHERE id = ?1";
            transaction.execute(lease, params![task.id, person, now + LEASE.as_secs()])?;
            Ok((Some(task), waiting))
        })
    }
}

/// The known best answer of a task, in the form of a model's answer.
fn known_best(person: &str, task: &NewTask, (id, text): &(AnswerId, String)) -> RecordedAnswer {
    RecordedAnswer {
        id: id.clone(),
        person: Some(person.to_owned()),
        model: ModelIdentity { name: KNOWN_BEST.to_owned(), ..ModelIdentity::default() },
        prompt: task.messages.clone(),
        sampling: Value::Null,
        max_new_tokens: 0,
        stop: Vec::new(),
        text: text.clone(),
        tokens: None,
        log_prob: None,
        finish: "stop".to_owned(),
        place: None,
    }
}

fn task(row: &Row<'_>) -> rusqlite::Result<LabelingTask> {
    Ok(LabelingTask {
        id: row.get(0)?,
        messages: parsed(row, 1)?,
        k: row.get(2)?,
        model: row.get(3)?,
        temperature: row.get(4)?,
        max_tokens: row.get(5)?,
        seed: row.get(6)?,
        answers: Vec::new(),
    })
}

/// The answers of a task that are stored: those that were ranked with the task that it repeats, or the known best one.
fn stored_answers(
    transaction: &Transaction<'_>,
    known_best: Option<i64>,
    repeats: Option<i64>,
) -> Result<Vec<TaskAnswer>, StoreError> {
    let of = match repeats {
        Some(_) => {
            "JOIN ranked k ON k.completion = c.id WHERE k.ranking =
            (SELECT max(id) FROM rankings WHERE task = ?1 AND ranking IS NOT NULL) ORDER BY k.number"
        }
        None => "WHERE c.id = ?1",
    };
    let answer = |row: &Row<'_>| {
        Ok(TaskAnswer { id: AnswerId { request: row.get(0)?, choice: row.get(1)? }, text: row.get(2)? })
    };
    let mut statement = transaction.prepare(&format!("SELECT c.request, c.choice, c.text FROM completions c {of}"))?;
    Ok(statement.query_map([repeats.or(known_best)], answer)?.collect::<rusqlite::Result<_>>()?)
}
