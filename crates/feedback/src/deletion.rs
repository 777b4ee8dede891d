//! Deletion of all that a person wrote: records, prompts with their answers, and the records of others about these answers,
//! which quote them.

use crate::records::RecordKind;
use crate::store::{FeedbackStore, StoreError, now};
use rusqlite::{OptionalExtension, Transaction, params};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// What was deleted with a person.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DeletionReport {
    /// Records that were deleted, by kind.
    pub records: BTreeMap<&'static str, u64>,
    /// Numbers of the exports that hold some of them.
    pub exports: BTreeSet<i64>,
}

/// Answers to prompts of the person ?1.
const ANSWERS: &str = "SELECT id FROM completions WHERE person = ?1";

impl FeedbackStore {
    /// Deletes a person with all that they wrote. Numbers of deleted records stay, without texts. None if nobody has this name.
    ///
    /// # Errors
    /// When the store cannot be written. When another process reads it for too long, the records are deleted, but their texts
    /// may still be in the file; the error says so.
    pub fn delete_person(&mut self, name: &str) -> Result<Option<DeletionReport>, StoreError> {
        let report = self.write(|transaction| {
            let person = transaction.query_row("SELECT id FROM people WHERE name = ?1", [name], |row| row.get(0));
            person.optional()?.map(|person| delete(transaction, person, name)).transpose()
        })?;
        // Also where nobody has this name: an earlier deletion may have been interrupted here.
        let what = "the records are deleted, but the file still contains their texts; delete the person again";
        self.vacuum().map_err(|e| StoreError::Other(e.context(what)))?;
        Ok(report)
    }

    /// Writes the file anew, without what was deleted, and empties the write-ahead log.
    fn vacuum(&mut self) -> anyhow::Result<()> {
        self.connection.execute_batch("VACUUM")?;
        let blocked: bool = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        anyhow::ensure!(!blocked, "another process reads the store");
        Ok(())
    }
}

fn delete(transaction: &Transaction<'_>, person: i64, name: &str) -> Result<DeletionReport, StoreError> {
    // Records before the answers that they are about.
    let wanted = [
        (
            RecordKind::Ranking,
            format!("person = ?1 OR id IN (SELECT ranking FROM ranked WHERE completion IN ({ANSWERS}))"),
        ),
        (RecordKind::Rating, format!("person = ?1 OR completion IN ({ANSWERS})")),
        (RecordKind::Demonstration, format!("person = ?1 OR based_on IN ({ANSWERS})")),
        (RecordKind::Answer, "person = ?1".to_owned()),
    ];
    let (at, mut report) = (now(), DeletionReport::default());
    for (kind, condition) in wanted {
        let table = kind.table();
        let numbers: Vec<i64> = transaction
            .prepare(&format!("SELECT id FROM {table} WHERE {condition}"))?
            .query_map([person], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        for &number in &numbers {
            if kind == RecordKind::Answer {
                transaction.execute("UPDATE tasks SET known_best = NULL WHERE known_best = ?1", [number])?;
            }
            if kind == RecordKind::Ranking {
                transaction.execute("DELETE FROM ranked WHERE ranking = ?1", [number])?;
            }
            transaction.execute(&format!("DELETE FROM {table} WHERE id = ?1"), [number])?;
            transaction.execute("INSERT INTO deleted VALUES (?1, ?2, ?3)", params![table, number, at])?;
            let exports = "SELECT export FROM export_records WHERE kind = ?1 AND record = ?2";
            let mut statement = transaction.prepare(exports)?;
            for export in statement.query_map(params![table, number], |row| row.get(0))? {
                report.exports.insert(export?);
            }
        }
        if !numbers.is_empty() {
            report.records.insert(kind.name(), numbers.len() as u64);
        }
    }
    transaction.execute("UPDATE tasks SET leased_by = NULL WHERE leased_by = ?1", [person])?;
    let filters =
        "UPDATE exports SET filter = json_set(filter, '$.person', NULL) WHERE json_extract(filter, '$.person') = ?1";
    transaction.execute(filters, [name])?;
    transaction.execute("DELETE FROM people WHERE id = ?1", [person])?;
    Ok(report)
}
