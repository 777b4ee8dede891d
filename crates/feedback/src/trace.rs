//! Exports and the records in them: which people a file is from, and where a record went.
//!
//! The store has the BLAKE3 hash of each exported file. `FILE.manifest.json`, in the folder of the file, names the store and the
//! records, so that a run that read the file leads to the store.

use crate::records::{RecordId, RecordKind};
use crate::store::{FeedbackStore, StoreError, json, now, parsed};
use anyhow::{Context, Result};
use gptkit_data::disk;
use rusqlite::{OptionalExtension, params};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json as json_value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// An export.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NotedExport {
    /// Its number in the store.
    pub export: i64,
    /// When it was written.
    pub at: String,
    /// `comparisons`, `demonstrations` or `prompts`.
    pub kind: String,
    /// Where it was written.
    pub path: String,
    /// BLAKE3 hash of the file.
    pub hash: String,
    /// Which records were wanted.
    pub filter: Value,
    /// Its records, by the person or the automatic judge whose they are.
    pub people: BTreeMap<String, Vec<RecordId>>,
    /// Records in it that were deleted since.
    pub deleted: u64,
}

impl NotedExport {
    /// Records in it that are still in the store.
    pub fn n_records(&self) -> usize {
        self.people.values().map(Vec::len).sum()
    }
}

/// The state of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum NotedRecord {
    /// It is there.
    Stored {
        /// The person or the automatic judge whose it is; none where nobody asked for an answer.
        who: Option<String>,
        /// When it was stored.
        at: String,
    },
    /// It was deleted with all that its person wrote.
    Deleted {
        /// When.
        at: String,
    },
}

/// The part of `FILE.manifest.json` that is read back.
#[derive(Debug, Deserialize)]
struct ExportManifest {
    store: PathBuf,
    export: i64,
    at: String,
    kind: String,
    blake3: String,
    records: Vec<serde::de::IgnoredAny>,
}

/// The contents of the manifest beside an exported file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExportSummary {
    /// Name of the file.
    pub file: String,
    /// Number of the export in its store.
    pub export: i64,
    /// When it was written.
    pub at: String,
    /// `comparisons`, `demonstrations` or `prompts`.
    pub kind: String,
    /// Number of records.
    pub records: u64,
    /// BLAKE3 hash of the file.
    pub hash: String,
}

fn manifest_of(export: &Path) -> PathBuf {
    let mut name = export.file_name().unwrap_or_default().to_owned();
    name.push(".manifest.json");
    export.with_file_name(name)
}

/// The folder of the store that the file at `export` is from, as its manifest says; none if it has no manifest.
///
/// # Errors
/// When the manifest is damaged.
pub fn store_of(export: &Path) -> Result<Option<PathBuf>> {
    Ok(read_manifest(export)?.and_then(|manifest| manifest.store.parent().map(Path::to_owned)))
}

/// The export that the file at `path` was when it had this hash, as its manifest says; none if it has no manifest, or one of
/// another export.
///
/// # Errors
/// When the manifest is damaged.
pub fn export_at(path: &Path, hash: &str) -> Result<Option<ExportSummary>> {
    let Some(ExportManifest { export, at, kind, blake3, records, .. }) = read_manifest(path)? else { return Ok(None) };
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let summary = ExportSummary { file, export, at, kind, records: records.len() as u64, hash: blake3 };
    Ok(Some(summary).filter(|summary| summary.hash == hash))
}

fn read_manifest(export: &Path) -> Result<Option<ExportManifest>> {
    let path = manifest_of(export);
    if !path.exists() {
        return Ok(None);
    }
    let manifest: Result<ExportManifest, _> = serde_json::from_str(&disk::read_description(&path)?);
    manifest.map(Some).with_context(|| format!("{} is damaged", path.display()))
}

impl FeedbackStore {
    /// Writes an export to `path` with its manifest, and notes in the store which records are in it.
    ///
    /// # Errors
    /// When a file or the store cannot be written.
    pub fn write_export(
        &mut self,
        kind: &str,
        path: &Path,
        text: &str,
        filter: &Value,
        records: &[RecordId],
    ) -> Result<()> {
        disk::write(path, text.as_bytes())?;
        let place = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let (export, hash) = self.note_export(kind, &place.to_string_lossy(), text, filter, records)?;
        let store = self.path().canonicalize().unwrap_or_else(|_| self.path().to_owned());
        let manifest = json_value!({
            "store": store, "export": export, "at": now(), "kind": kind, "blake3": hash, "filter": filter, "records": records,
        });
        disk::write_json(&manifest_of(path), &manifest)
    }

    /// Notes an export, unless it is the last one at this path again. Returns its number and its hash.
    pub(crate) fn note_export(
        &mut self,
        kind: &str,
        path: &str,
        text: &str,
        filter: &Value,
        records: &[RecordId],
    ) -> Result<(i64, String), StoreError> {
        let hash = blake3::hash(text.as_bytes()).to_hex().to_string();
        let export = self.write(|transaction| {
            let last = "SELECT id, hash FROM exports WHERE path = ?1 ORDER BY id DESC LIMIT 1";
            let last = transaction.query_row(last, [path], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)));
            if let Some((export, _)) = last.optional()?.filter(|(_, of_last)| *of_last == hash) {
                return Ok(export);
            }
            let insert = "INSERT INTO exports (at, kind, path, hash, filter) VALUES (?1, ?2, ?3, ?4, ?5)";
            transaction.execute(insert, params![now(), kind, path, hash, json(filter)])?;
            let export = transaction.last_insert_rowid();
            let mut insert = transaction.prepare("INSERT OR IGNORE INTO export_records VALUES (?1, ?2, ?3)")?;
            for record in records {
                insert.execute(params![export, record.kind.table(), record.number])?;
            }
            Ok(export)
        })?;
        Ok((export, hash))
    }

    /// All exports, in the order in which they were written.
    ///
    /// # Errors
    /// When the store is damaged.
    pub fn exports(&self) -> Result<Vec<NotedExport>> {
        let sql = "SELECT id, at, kind, path, hash, filter FROM exports ORDER BY id";
        let mut statement = self.connection.prepare(sql)?;
        let rows = statement.query_map([], |row| {
            Ok(NotedExport {
                export: row.get(0)?,
                at: row.get(1)?,
                kind: row.get(2)?,
                path: row.get(3)?,
                hash: row.get(4)?,
                filter: parsed(row, 5)?,
                people: BTreeMap::new(),
                deleted: 0,
            })
        })?;
        let mut exports = rows.collect::<rusqlite::Result<Vec<_>>>()?;
        for export in &mut exports {
            for (id, record) in self.records_in(export.export)? {
                match record {
                    NotedRecord::Stored { who, .. } => {
                        export.people.entry(who.unwrap_or_default()).or_default().push(id);
                    }
                    NotedRecord::Deleted { .. } => export.deleted += 1,
                }
            }
        }
        Ok(exports)
    }

    fn records_in(&self, export: i64) -> Result<Vec<(RecordId, NotedRecord)>> {
        let sql = "SELECT kind, record FROM export_records WHERE export = ?1 ORDER BY kind, record";
        let mut statement = self.connection.prepare(sql)?;
        let rows = statement.query_map([export], |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))?;
        let mut records = Vec::new();
        for row in rows {
            let (table, number) = row?;
            let kind = RecordKind::of_table(&table)
                .with_context(|| format!("{} is damaged: {table} is not a kind of record", self.path().display()))?;
            let id = RecordId { kind, number };
            let record = self.record(id)?;
            let lost = || format!("{} is damaged: {id} of export {export} is missing", self.path().display());
            records.push((id, record.with_context(lost)?));
        }
        Ok(records)
    }

    /// The state of a record; none if there never was one of this name.
    ///
    /// # Errors
    /// When the store is damaged.
    pub fn record(&self, id: RecordId) -> Result<Option<NotedRecord>> {
        let sql = match id.kind {
            RecordKind::Judgment => "SELECT judge || ' (' || who || ')', at FROM judgments WHERE id = ?1".to_owned(),
            kind => format!(
                "SELECT p.name, r.at FROM {} r LEFT JOIN people p ON p.id = r.person WHERE r.id = ?1",
                kind.table()
            ),
        };
        let stored = self
            .connection
            .prepare(&sql)?
            .query_row([id.number], |row| Ok(NotedRecord::Stored { who: row.get(0)?, at: row.get(1)? }));
        if let Some(record) = stored.optional()? {
            return Ok(Some(record));
        }
        let sql = "SELECT at FROM deleted WHERE kind = ?1 AND record = ?2";
        let deleted = self
            .connection
            .prepare(sql)?
            .query_row(params![id.kind.table(), id.number], |row| Ok(NotedRecord::Deleted { at: row.get(0)? }));
        Ok(deleted.optional()?)
    }

    /// The numbers of the exports that hold a record.
    ///
    /// # Errors
    /// When the store is damaged.
    pub fn exports_with(&self, id: RecordId) -> Result<Vec<i64>> {
        let sql = "SELECT export FROM export_records WHERE kind = ?1 AND record = ?2 ORDER BY export";
        let mut statement = self.connection.prepare(sql)?;
        let rows = statement.query_map(params![id.kind.table(), id.number], |row| row.get(0))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }
}
