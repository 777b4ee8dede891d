//! Where a record is from: who made it and when, the answers that it is about, with the model and the settings of each, and
//! the exports that hold it.

use crate::people::AccessRole;
use crate::records::{ModelIdentity, RecordId, RecordKind};
use crate::store::{ANSWERS, FeedbackStore, StoreError, answer, parsed, stands};
use gptkit_data::dialogue::{Message, Role as Speaker};
use rusqlite::{OptionalExtension, Row, types as sql};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// Records of a list.
const LISTED: u64 = 20;
/// Characters of a prompt in a list.
const SHOWN: usize = 200;

/// A person beside a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecordPerson {
    /// Number in the store.
    pub number: i64,
    /// Role at the last visit.
    pub role: AccessRole,
    /// Name.
    pub name: String,
}

/// A record in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecordSummary {
    /// Its name.
    pub id: RecordId,
    /// When it was stored.
    pub at: String,
    /// Who made it.
    pub person: RecordPerson,
    /// The beginning of the last message before the answers.
    pub prompt: String,
    /// Whether a later record replaces it.
    pub is_superseded: bool,
}

/// An answer that a record is about.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AnswerProvenance {
    /// Id of the request.
    pub request: String,
    /// Number of the answer, from 0.
    pub choice: u64,
    /// Its rank, in a ranking.
    pub rank: Option<u32>,
    /// Its text.
    pub text: String,
    /// The model that wrote it.
    pub model: ModelIdentity,
    /// How tokens were chosen, the seed included.
    pub sampling: Value,
    /// Longest answer, in tokens.
    pub max_new_tokens: u64,
    /// Why it ended.
    pub finish: String,
}

/// An export that holds a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExportPlace {
    /// When it was written.
    pub at: String,
    /// The file.
    pub path: String,
    /// BLAKE3 hash of the file.
    pub hash: String,
}

/// All that is known about a record.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RecordProvenance {
    /// A short description of it, for lists.
    #[serde(flatten)]
    pub summary: RecordSummary,
    /// How long it took.
    pub seconds: Option<f64>,
    /// A note.
    pub note: Option<String>,
    /// The client's id of the record that it replaces.
    pub supersedes: Option<String>,
    /// The columns of its kind.
    pub fields: Map<String, Value>,
    /// The messages before the answers; of a demonstration, all messages.
    pub messages: Vec<Message>,
    /// The answers that it is about.
    pub answers: Vec<AnswerProvenance>,
    /// Exports that hold it.
    pub exports: Vec<ExportPlace>,
}

/// Records of all kinds: kind, number, time, person, messages, whether a later one replaces them.
fn all_records() -> String {
    let of = |table: &str, messages: &str| {
        let counts = stands(table);
        format!(
            "SELECT '{table}' AS kind, r.id, r.at, r.person, ({messages}) AS messages, NOT {counts} AS old FROM {table} r"
        )
    };
    let of_ranking =
        "SELECT c.prompt FROM ranked k JOIN completions c ON c.id = k.completion WHERE k.ranking = r.id LIMIT 1";
    let parts = [
        of("rankings", of_ranking),
        of("ratings", "SELECT prompt FROM completions WHERE id = r.completion"),
        of("demonstrations", "r.messages"),
    ];
    format!(
        "SELECT a.kind, a.id, a.at, p.id, p.role, p.name, a.messages, a.old FROM ({}) a JOIN people p ON p.id = a.person",
        parts.join(" UNION ALL ")
    )
}

fn summary(row: &Row<'_>) -> rusqlite::Result<(RecordSummary, Vec<Message>)> {
    let (kind, number): (String, i64) = (row.get(0)?, row.get(1)?);
    let kind = RecordKind::of_table(&kind).unwrap_or(RecordKind::Ranking); // the tables of `all_records`
    let role: String = row.get(4)?;
    let person =
        RecordPerson { number: row.get(3)?, role: role.parse().unwrap_or(AccessRole::User), name: row.get(5)? };
    let messages: Vec<Message> = parsed(row, 6)?;
    let last = messages.iter().rev().find(|message| message.role == Speaker::User);
    let prompt = last.map_or_else(String::new, |message| message.content.chars().take(SHOWN).collect());
    let summary =
        RecordSummary { id: RecordId { kind, number }, at: row.get(2)?, person, prompt, is_superseded: row.get(7)? };
    Ok((summary, messages))
}

impl FeedbackStore {
    /// Records of `person`, or of all people, the newest first: at most 20, after the first `from`.
    ///
    /// # Errors
    /// When the store is damaged.
    pub fn records(&self, person: Option<&str>, from: u64) -> Result<Vec<RecordSummary>, StoreError> {
        let sql = format!(
            "{} WHERE ?1 IS NULL OR p.name = ?1 ORDER BY a.at DESC, a.id DESC LIMIT {LISTED} OFFSET ?2",
            all_records()
        );
        let mut statement = self.connection.prepare(&sql)?;
        let records = statement.query_map((person, from), |row| Ok(summary(row)?.0))?;
        Ok(records.collect::<rusqlite::Result<_>>()?)
    }

    /// All about the record `id` of `person`, or of anybody; none when there is no such record.
    ///
    /// # Errors
    /// When the store is damaged.
    pub fn provenance(&self, id: RecordId, person: Option<&str>) -> Result<Option<RecordProvenance>, StoreError> {
        let table = id.kind.table();
        let sql = format!("{} WHERE a.kind = ?1 AND a.id = ?2 AND (?3 IS NULL OR p.name = ?3)", all_records());
        let found = self.connection.query_row(&sql, (table, id.number, person), summary).optional()?;
        let Some((summary, messages)) = found else { return Ok(None) };
        let (columns, answers) = match id.kind {
            RecordKind::Ranking => (
                "ranking, shown, both_bad, blind, skipped, task",
                "SELECT completion, number FROM ranked WHERE ranking = ?1",
            ),
            RecordKind::Rating => (
                "CASE thumb WHEN 1 THEN 'up' WHEN 0 THEN 'down' END AS thumb, likert, marks",
                "SELECT completion, 0 AS number FROM ratings WHERE id = ?1",
            ),
            _ => ("based_on", "SELECT based_on AS completion, 0 AS number FROM demonstrations WHERE id = ?1"),
        };
        let sql = format!("SELECT seconds, note, supersedes, {columns} FROM {table} WHERE id = ?1");
        let (seconds, note, supersedes, fields) = self.connection.query_row(&sql, [id.number], |row| {
            let value = |(i, column): (usize, &str)| {
                let name = column.rsplit(' ').next().unwrap_or(column);
                Ok((name.to_owned(), value_of(row, 3 + i, name)?))
            };
            let fields = columns.split(", ").enumerate().map(value).collect::<rusqlite::Result<Map<_, _>>>()?;
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, fields))
        })?;
        let ranks: Vec<u32> =
            serde_json::from_value(fields.get("ranking").cloned().unwrap_or_default()).unwrap_or_default();
        let sql = format!("{ANSWERS} JOIN ({answers}) k ON k.completion = c.id ORDER BY k.number");
        let mut statement = self.connection.prepare(&sql)?;
        let answers = statement.query_map([id.number], answer)?.collect::<rusqlite::Result<Vec<_>>>()?;
        let answers = answers.into_iter().enumerate().map(|(i, answer)| AnswerProvenance {
            request: answer.id.request,
            choice: answer.id.choice,
            rank: ranks.get(i).copied(),
            text: answer.text,
            model: answer.model,
            sampling: answer.sampling,
            max_new_tokens: answer.max_new_tokens,
            finish: answer.finish,
        });
        let answers = answers.collect();
        let sql = "SELECT e.at, e.path, e.hash FROM export_records r JOIN exports e ON e.id = r.export
            WHERE r.kind = ?1 AND r.record = ?2 ORDER BY e.id";
        let mut statement = self.connection.prepare(sql)?;
        let place = |row: &Row<'_>| Ok(ExportPlace { at: row.get(0)?, path: row.get(1)?, hash: row.get(2)? });
        let exports = statement.query_map((table, id.number), place)?.collect::<rusqlite::Result<_>>()?;
        Ok(Some(RecordProvenance { summary, seconds, note, supersedes, fields, messages, answers, exports }))
    }
}

/// The column `name` as JSON.
fn value_of(row: &Row<'_>, index: usize, name: &str) -> rusqlite::Result<Value> {
    Ok(match row.get(index)? {
        sql::Value::Null | sql::Value::Blob(_) => Value::Null,
        sql::Value::Integer(n) if ["both_bad", "blind"].contains(&name) => json!(n != 0),
        sql::Value::Integer(n) => json!(n),
        sql::Value::Real(x) => json!(x),
        sql::Value::Text(_) if ["ranking", "shown", "marks"].contains(&name) => parsed(row, index)?,
        sql::Value::Text(text) => Value::String(text),
    })
}
