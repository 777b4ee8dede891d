//! The tables of the store, and the conversion of files of an older version.
//!
//! ```text
//! people          name, role, when they agreed to training, when they were excluded
//! models          name, folder, hashes of weights, tokenizer and template, data type, fingerprint of all that decides the bits
//! settings, items the collection of `gptkit compare`: name and value (JSON); number, place, world, prompt (JSON messages)
//! completions     request, choice, person, model, prompt (JSON messages), sampling (JSON, with the seed), text
//!                 tokens, finish, log-probability; prompt and number in the collection
//! rankings        client's id, person, ranking and order shown (JSON), both_bad, blind, skipped, task,
//!                 seconds, note, supersedes
//! ranked          the answers of a ranking, by number
//! judgments       rankings and scores (JSON) by automatic judges of `gptkit compare`
//! ratings         client's id, person, completion, thumb, likert, marks (JSON), seconds, note, supersedes
//! demonstrations  client's id, person, messages (JSON), the completion that it corrects, seconds, note, supersedes
//! tasks           prompt, number of answers, model, sampling, who holds it until when, whether it is done, the known best
//!                 answer, the task whose answers a second person ranks
//! exports         files that were written, by their BLAKE3 hash; export_records: the records in each
//! deleted         records of people who were deleted: kind (a table), number, time; numbers are not used again
//! ```
//!
//! Version 1 was two files: `comparisons.sqlite` of `gptkit compare`, with the tables settings, items, answers and choices; and
//! `feedback.sqlite` of `gptkit serve`, with most of the tables above.

use anyhow::{Context, Result, anyhow, ensure};
use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use serde_json::{Map, Value};
use std::path::Path;

/// The application id of the file: "gptf".
const APPLICATION: i32 = 0x6770_7466;
/// The application id of `comparisons.sqlite` in version 1: "gptc".
const COMPARISONS: i32 = 0x6770_7463;
/// The version of the tables below.
const VERSION: i32 = 2;

const TABLES: &str = "
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE items (number INTEGER PRIMARY KEY, place TEXT NOT NULL, world INTEGER, prompt TEXT NOT NULL) STRICT;
CREATE TABLE people (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, role TEXT NOT NULL, consented_at TEXT, excluded_at TEXT) STRICT;
CREATE TABLE models (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, folder TEXT NOT NULL, weights TEXT NOT NULL, tokenizer TEXT NOT NULL,
    template TEXT NOT NULL, fingerprint TEXT NOT NULL, dtype TEXT NOT NULL,
    UNIQUE (name, folder, weights, tokenizer, template, fingerprint)) STRICT;
CREATE TABLE completions (
    id INTEGER PRIMARY KEY AUTOINCREMENT, request TEXT NOT NULL, choice INTEGER NOT NULL,
    person INTEGER REFERENCES people, model INTEGER NOT NULL REFERENCES models, at TEXT NOT NULL,
    prompt TEXT NOT NULL, sampling TEXT NOT NULL, max_new_tokens INTEGER NOT NULL, stop TEXT NOT NULL, text TEXT NOT NULL,
    n_tokens INTEGER NOT NULL, tokens TEXT, log_prob REAL, finish TEXT NOT NULL, item INTEGER REFERENCES items, number INTEGER,
    UNIQUE (request, choice), UNIQUE (item, number)) STRICT;
CREATE TABLE rankings (
    id INTEGER PRIMARY KEY AUTOINCREMENT, client_id TEXT NOT NULL UNIQUE, person INTEGER NOT NULL REFERENCES people,
    at TEXT NOT NULL, seconds REAL, note TEXT, supersedes TEXT, ranking TEXT, shown TEXT NOT NULL,
    both_bad INTEGER NOT NULL, blind INTEGER NOT NULL, skipped TEXT, task INTEGER REFERENCES tasks) STRICT;
CREATE TABLE ranked (
    ranking INTEGER NOT NULL REFERENCES rankings, number INTEGER NOT NULL, completion INTEGER NOT NULL
    REFERENCES completions, PRIMARY KEY (ranking, number)) STRICT;
CREATE TABLE judgments (
    id INTEGER PRIMARY KEY AUTOINCREMENT, item INTEGER NOT NULL REFERENCES items, judge TEXT NOT NULL,
    who TEXT NOT NULL, at TEXT NOT NULL, ranking TEXT, scores TEXT, UNIQUE (item, judge, who)) STRICT;
CREATE TABLE ratings (
    id INTEGER PRIMARY KEY AUTOINCREMENT, client_id TEXT NOT NULL UNIQUE, person INTEGER NOT NULL REFERENCES people,
    at TEXT NOT NULL, seconds REAL, note TEXT, supersedes TEXT, completion INTEGER NOT NULL REFERENCES completions,
    thumb INTEGER, likert INTEGER CHECK (likert BETWEEN 1 AND 7), marks TEXT NOT NULL) STRICT;
CREATE TABLE demonstrations (
    id INTEGER PRIMARY KEY AUTOINCREMENT, client_id TEXT NOT NULL UNIQUE, person INTEGER NOT NULL REFERENCES people,
    at TEXT NOT NULL, seconds REAL, note TEXT, supersedes TEXT, messages TEXT NOT NULL,
    based_on INTEGER REFERENCES completions) STRICT;
CREATE TABLE tasks (
    id INTEGER PRIMARY KEY, prompt TEXT NOT NULL, k INTEGER NOT NULL, model TEXT NOT NULL, temperature REAL NOT NULL,
    max_tokens INTEGER NOT NULL, seed INTEGER NOT NULL, leased_by INTEGER REFERENCES people, leased_until INTEGER,
    done INTEGER NOT NULL DEFAULT 0, known_best INTEGER REFERENCES completions, repeats INTEGER REFERENCES tasks) STRICT;
CREATE TABLE exports (
    id INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, kind TEXT NOT NULL, path TEXT NOT NULL, hash TEXT NOT NULL,
    filter TEXT NOT NULL) STRICT;
CREATE TABLE export_records (
    export INTEGER NOT NULL REFERENCES exports, kind TEXT NOT NULL, record INTEGER NOT NULL,
    PRIMARY KEY (export, kind, record)) STRICT;
CREATE TABLE deleted (kind TEXT NOT NULL, record INTEGER NOT NULL, at TEXT NOT NULL, PRIMARY KEY (kind, record)) STRICT;
CREATE INDEX ranked_completions ON ranked (completion);
";

/// Renames the tables of `comparisons.sqlite`, so that the new tables can have their names.
const RENAMES: &str = "
ALTER TABLE settings RENAME TO old_settings; ALTER TABLE items RENAME TO old_items;
ALTER TABLE answers RENAME TO old_answers; ALTER TABLE choices RENAME TO old_choices;
";
/// Copies the answers of side ?1. ?2 is the number of the model, ?3 its sampling settings, ?4 the longest answer, ?5 the texts
/// that end it. Version 1 did not store the time of an answer.
const ANSWERS: &str = "
INSERT INTO completions (request, choice, model, at, prompt, sampling, max_new_tokens, stop, text, n_tokens, finish, item,
    number)
SELECT 'compare-' || a.model || '-' || a.item, CASE a.model WHEN 'b' THEN 0 ELSE a.number END, ?2, '', i.prompt, ?3, ?4, ?5,
    a.text, a.tokens, a.finish, a.item, a.number
FROM old_answers a JOIN old_items i ON i.number = a.item WHERE a.model = ?1 ORDER BY a.item, a.number
";
/// Copies the choices of people and of automatic judges.
const CHOICES: &str = "
INSERT INTO people (name, role, consented_at)
SELECT who, 'labeler', min(at) FROM old_choices WHERE judge = 'human' GROUP BY who;
INSERT INTO rankings (id, client_id, person, at, seconds, ranking, shown, both_bad, blind, skipped)
SELECT c.id, lower(hex(randomblob(16))), p.id, c.at, c.seconds, c.ranking, coalesce(c.shown, '[]'), 0, 1,
    CASE WHEN c.ranking IS NULL THEN 'skipped' END
FROM old_choices c JOIN people p ON p.name = c.who WHERE c.judge = 'human' ORDER BY c.id;
INSERT INTO ranked (ranking, number, completion)
SELECT c.id, a.number, a.id FROM old_choices c JOIN completions a ON a.item = c.item WHERE c.judge = 'human';
INSERT INTO judgments (id, item, judge, who, at, ranking, scores)
SELECT id, item, judge, who, at, ranking, scores FROM old_choices WHERE judge <> 'human' ORDER BY id;
";
const DROPS: &str = "
DROP TABLE old_choices; DROP TABLE old_answers; DROP TABLE old_items; DROP TABLE old_settings;
";

/// The tables of `feedback.sqlite` in version 1, each after those that it refers to, with the columns that they have today.
const OLD_TABLES: [(&str, &str); 10] = [
    ("people", "id, name, role, consented_at, excluded_at"),
    ("models", "id, name, folder, weights, fingerprint, dtype"),
    (
        "completions",
        "id, request, choice, person, model, at, prompt, sampling, max_new_tokens, stop, text, tokens, finish",
    ),
    ("tasks", "id, prompt, k, model, temperature, max_tokens, seed, leased_by, leased_until, done"),
    (
        "rankings",
        "id, client_id, person, at, seconds, note, supersedes, ranking, shown, both_bad, blind, skipped, task",
    ),
    ("ranked", "ranking, number, completion"),
    ("ratings", "id, client_id, person, at, seconds, note, supersedes, completion, thumb, likert, marks"),
    ("demonstrations", "id, client_id, person, at, seconds, note, supersedes, messages, based_on"),
    ("exports", "id, at, kind, path, hash, filter"),
    ("export_records", "export, kind, record"),
];

/// Whether the file has no tables.
pub(crate) fn is_empty(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("SELECT count(*) = 0 FROM sqlite_master", [], |row| row.get(0))
}

fn number(connection: &Connection, name: &str) -> rusqlite::Result<i32> {
    connection.pragma_query_value(None, name, |row| row.get(0))
}

/// Refuses a file of another program, a damaged one, and one of a later version.
///
/// # Errors
/// Says which it is.
pub(crate) fn check(connection: &Connection, path: &Path) -> Result<()> {
    if is_empty(connection)? {
        return Ok(());
    }
    let sound: String = connection.pragma_query_value(None, "quick_check", |row| row.get(0))?;
    let (application, version) = (number(connection, "application_id")?, number(connection, "user_version")?);
    ensure!(sound == "ok", "{}: {sound}", damaged(path));
    ensure!([APPLICATION, COMPARISONS].contains(&application), damaged(path));
    let is_known = version == 1 || version == VERSION && application == APPLICATION;
    let name = path.display();
    ensure!(is_known, "{name} has format version {version}, but this version of gptkit reads version {VERSION}");
    Ok(())
}

/// The error message for a file that cannot be a store.
pub(crate) fn damaged(path: &Path) -> String {
    format!(
        "{} is damaged or is not a store of feedback; restore it from a copy, or use another folder",
        path.display()
    )
}

/// Creates the tables in an empty file, and converts a file of version 1, in one transaction.
///
/// # Errors
/// When the file cannot be written, or is damaged.
pub(crate) fn prepare(connection: &mut Connection, path: &Path) -> Result<()> {
    // Another process may do the same at this moment.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let is_new = is_empty(&transaction)?;
    if !is_new && number(&transaction, "user_version")? == VERSION {
        return Ok(());
    }
    let cannot =
        |e: anyhow::Error| anyhow!("{} cannot be converted to format version {VERSION}: {e:#}", path.display());
    if is_new {
        transaction.execute_batch(TABLES)?;
    } else if number(&transaction, "application_id")? == COMPARISONS {
        convert_comparisons(&transaction).map_err(cannot)?;
    } else {
        convert_feedback(&transaction).map_err(cannot)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    Ok(transaction.commit()?)
}

/// Copies all records of `feedback.sqlite`. Version 1 did not store hashes of tokenizers and templates, nor log-probabilities.
fn convert_feedback(transaction: &Transaction<'_>) -> Result<()> {
    for (table, _) in OLD_TABLES {
        transaction.execute_batch(&format!("ALTER TABLE {table} RENAME TO old_{table}"))?;
    }
    transaction.execute_batch(TABLES)?;
    for (table, columns) in OLD_TABLES {
        let (more, values) = match table {
            "models" => (", tokenizer, template", ", '', ''"),
            "completions" => (", n_tokens", ", json_array_length(tokens)"),
            _ => ("", ""),
        };
        transaction.execute_batch(&format!(
            "INSERT INTO {table} ({columns}{more}) SELECT {columns}{values} FROM old_{table} ORDER BY rowid"
        ))?;
    }
    for (table, _) in OLD_TABLES.iter().rev() {
        transaction.execute_batch(&format!("DROP TABLE old_{table}"))?;
    }
    Ok(())
}

fn convert_comparisons(transaction: &Transaction<'_>) -> Result<()> {
    transaction.execute_batch(RENAMES)?;
    transaction.execute_batch(TABLES)?;
    transaction.execute_batch("INSERT INTO settings SELECT * FROM old_settings ORDER BY rowid")?;
    transaction.execute_batch("INSERT INTO items SELECT * FROM old_items")?;
    let mut settings = Map::new();
    let mut statement = transaction.prepare("SELECT name, value FROM settings")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        settings.insert(row.get(0)?, serde_json::from_str(&row.get::<_, String>(1)?)?);
    }
    let mut take = |name: &str| settings.remove(name);
    let text = |value: Option<Value>| value.as_ref().and_then(Value::as_str).map(str::to_owned);
    let models =
        [("a", text(take("a")), text(take("weights-of-a"))), ("b", text(take("b")), text(take("weights-of-b")))];
    let longest = take("max-new-tokens").as_ref().and_then(Value::as_u64).context("max-new-tokens is missing")?;
    let stop = take("stop").unwrap_or_else(|| Value::Array(Vec::new())).to_string();
    // The rest says how tokens were chosen.
    settings.retain(|name, _| !["k", "prompts", "count"].contains(&name.as_str()));
    let mut sampling = settings;
    for (side, folder, weights) in models {
        let (Some(folder), Some(weights)) = (folder, weights) else { continue };
        let name = Path::new(&folder).file_name().map_or(folder.clone(), |name| name.to_string_lossy().into_owned());
        let insert = "INSERT INTO models (name, folder, weights, tokenizer, template, fingerprint, dtype)
            VALUES (?1, ?2, ?3, '', '', '', '')";
        // A model that is compared with itself has one row.
        let known = "SELECT id FROM models WHERE folder = ?1 AND weights = ?2";
        let model = match transaction.query_row(known, [&folder, &weights], |row| row.get::<_, i64>(0)) {
            Ok(model) => model,
            Err(rusqlite::Error::QueryReturnedNoRows) => {
                transaction.execute(insert, [&name, &folder, &weights])?;
                transaction.last_insert_rowid()
            }
            Err(e) => return Err(e.into()),
        };
        transaction
            .execute(ANSWERS, params![side, model, Value::Object(sampling.clone()).to_string(), longest, stop])?;
        // The second side draws by the next seed.
        let seed = sampling.get("seed").and_then(Value::as_u64).context("the seed is missing")?;
        sampling.insert("seed".to_owned(), seed.wrapping_add(1).into());
    }
    transaction.execute_batch(CHOICES)?;
    // The copies leave out an answer without a model and a choice without answers.
    let moved = "SELECT (SELECT count(*) FROM old_answers) = (SELECT count(*) FROM completions)
        AND (SELECT count(*) FROM old_choices) = (SELECT count(*) FROM rankings) + (SELECT count(*) FROM judgments)";
    let is_whole: bool = transaction.query_row(moved, [], |row| row.get(0))?;
    ensure!(is_whole, "some answers or choices belong to no prompt or model");
    Ok(transaction.execute_batch(DROPS)?)
}
