//! Prompts that wait for a labeler. A task is leased to one person at a time, so that two people do not get the same one.

use crate::store::{FeedbackStore, StoreError, json, parsed};
use gptkit_data::dialogue::Message;
use rusqlite::{OptionalExtension, params};
use serde::Serialize;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long a person has a task for themselves.
const LEASE: Duration = Duration::from_secs(600);

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
}

impl FeedbackStore {
    /// Adds tasks; their ids are drawn by the store.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn add_tasks(&mut self, tasks: &[LabelingTask]) -> Result<(), StoreError> {
        self.write(|transaction| {
            for LabelingTask { messages, k, model, temperature, max_tokens, seed, .. } in tasks {
                transaction.execute(
                    "INSERT INTO tasks (prompt, k, model, temperature, max_tokens, seed) VALUES (?1,?2,?3,?4,?5,?6)",
                    params![json(messages), k, model, temperature, max_tokens, seed],
                )?;
            }
            Ok(())
        })
    }

    /// The next task for `name`, who then has it alone for ten minutes: the one that they hold already, or the first that
    /// nobody holds. Beside it, how many tasks are not done.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn next_task(&mut self, name: &str) -> Result<(Option<LabelingTask>, u64), StoreError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.write(|transaction| {
            transaction.execute("INSERT OR IGNORE INTO people (name, role) VALUES (?1, 'labeler')", [name])?;
            let person: i64 =
                transaction.query_row("SELECT id FROM people WHERE name = ?1", [name], |row| row.get(0))?;
            let waiting = transaction.query_row("SELECT count(*) FROM tasks WHERE done = 0", [], |row| row.get(0))?;
            let next = "SELECT id, prompt, k, model, temperature, max_tokens, seed FROM tasks
                WHERE done = 0 AND (leased_by IS NULL OR leased_by = ?1 OR leased_until < ?2)
                ORDER BY coalesce(leased_by = ?1, 0) DESC, id LIMIT 1";
            let task = transaction
                .query_row(next, params![person, now], |row| {
                    Ok(LabelingTask {
                        id: row.get(0)?,
                        messages: parsed(row, 1)?,
                        k: row.get(2)?,
                        model: row.get(3)?,
                        temperature: row.get(4)?,
                        max_tokens: row.get(5)?,
                        seed: row.get(6)?,
                    })
                })
                .optional()?;
            if let Some(task) = &task {
                let lease = "UPDATE tasks SET leased_by = ?2, leased_until = ?3 WHERE id = ?1";
                transaction.execute(lease, params![task.id, person, now + LEASE.as_secs()])?;
            }
            Ok((task, waiting))
        })
    }
}
