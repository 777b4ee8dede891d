//! The store of a collection of comparisons: prompts, answers, and what was chosen, in one SQLite file.
//!
//! ```text
//! settings  name, value (JSON)                                what the answers were made with
//! items     number, place, world, prompt (JSON messages)      world: number of the embedded world's instruction
//! answers   item, number, model, text, tokens, finish         model: a or b; finish: why it ended
//! choices   item, judge, who, at (RFC 3339, UTC), ranking, scores, shown, seconds
//!           ranking: JSON list, the place of each answer, 1 the best and the same place a tie; null when skipped
//!           scores: JSON list, what the judge gives each answer, if it gives numbers
//!           shown: JSON list, numbers of the answers in the order in which they were shown; null when nobody was asked
//! ```
//!
//! A choice is on disk before the next prompt is shown. The journal is SQLite's default, not the write-ahead log, so
//! that a collection that is not being written is one file.

use anyhow::{Context, Result, bail, ensure};
use gptkit_data::dialogue::Message;
use gptkit_data::disk;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the file says it is: "gptc".
const APPLICATION: i32 = 0x6770_7463;
/// Of the tables below.
const VERSION: i32 = 1;
const TABLES: &str = "
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE items (number INTEGER PRIMARY KEY, place TEXT NOT NULL, world INTEGER, prompt TEXT NOT NULL) STRICT;
CREATE TABLE answers (
    item INTEGER NOT NULL REFERENCES items, number INTEGER NOT NULL, model TEXT NOT NULL, text TEXT NOT NULL,
    tokens INTEGER NOT NULL, finish TEXT NOT NULL, PRIMARY KEY (item, number)) STRICT;
CREATE TABLE choices (
    id INTEGER PRIMARY KEY, item INTEGER NOT NULL REFERENCES items, judge TEXT NOT NULL, who TEXT NOT NULL,
    at TEXT NOT NULL, ranking TEXT, scores TEXT, shown TEXT, seconds REAL, UNIQUE (item, judge, who)) STRICT;
";

/// A prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Counts from 0, without a gap.
    pub number: u64,
    /// Where it stands.
    pub place: String,
    /// Which of the embedded world's instructions it is.
    pub world: Option<u64>,
    /// The dialogue so far.
    pub prompt: Vec<Message>,
}

impl Item {
    /// Which of the embedded world's instructions it is.
    ///
    /// # Errors
    /// When it is none.
    pub(crate) fn number_in_world(&self) -> Result<u64> {
        self.world.with_context(|| format!("{} is not an instruction of the built-in world", self.place))
    }
}

/// What a model answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAnswer {
    /// Number of the prompt.
    pub item: u64,
    /// Number among those of the prompt.
    pub number: u64,
    /// Which model wrote it.
    pub model: String,
    /// It.
    pub text: String,
    /// How long it is.
    pub tokens: u64,
    /// Why it ended.
    pub finish: String,
}

/// Who judges.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Judge {
    /// `human`, `gold`, `labeler`, or the folder of a reward model.
    pub judge: String,
    /// Which of them: a person's name, a labeler's seed, the reward model's weights.
    pub who: String,
}

/// What somebody chose.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgment {
    /// Number of the prompt.
    pub item: u64,
    /// Who chose.
    pub judge: Judge,
    /// When, as RFC 3339 says it.
    pub at: String,
    /// The place of each answer; none when it was skipped.
    pub ranking: Option<Vec<u32>>,
    /// What the judge gives each answer.
    pub scores: Option<Vec<f64>>,
    /// Numbers of the answers in the order in which they were shown; none if no person judged them.
    pub shown: Option<Vec<u64>>,
    /// How long it took.
    pub seconds: Option<f64>,
}

/// The open file.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    connection: Connection,
}

impl Store {
    /// Opens `path`, which may be new.
    ///
    /// # Errors
    /// When it is no store, or damaged.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_within(path, PATIENCE)
    }

    /// The same, where another process may hold the file for as long as `patience`.
    fn open_within(path: &Path, patience: Duration) -> Result<Self> {
        if path.exists() {
            disk::open(path)?; // a FIFO would be waited for
        }
        let open = || -> rusqlite::Result<(Connection, i32, i32, i64, String)> {
            let connection = Connection::open(path)?;
            connection.busy_timeout(patience)?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            connection.pragma_update(None, "foreign_keys", true)?;
            let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
            let (application, version) = (number("application_id")?, number("user_version")?);
            let tables = connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0))?;
            let sound = connection.pragma_query_value(None, "quick_check", |row| row.get(0))?;
            Ok((connection, application, version, tables, sound))
        };
        let damaged = || {
            format!(
                "{} is damaged or was not written by `gptkit compare`; use another --out, or restore the file from a \
                 copy",
                path.display()
            )
        };
        let opened = open().map_err(|e| explained(path, e, &damaged()));
        let (connection, application, version, tables, sound) = opened?;
        ensure!(sound == "ok", "{}: {sound}", damaged());
        ensure!(tables == 0 || application == APPLICATION, damaged());
        ensure!(
            tables == 0 || version == VERSION,
            "{} has format version {version}, but this version of gptkit reads version {VERSION}",
            path.display()
        );
        Ok(Self { path: path.to_owned(), connection })
    }

    /// Whether nothing was put into it yet.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn is_new(&self) -> Result<bool> {
        let tables: i64 =
            self.read(|connection| connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0)))?;
        Ok(tables == 0)
    }

    /// Begins a collection: all of it, or nothing.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn begin(&mut self, settings: &Map<String, Value>, items: &[Item]) -> Result<()> {
        self.write(|transaction| {
            transaction.execute_batch(TABLES)?;
            transaction.pragma_update(None, "application_id", APPLICATION)?;
            transaction.pragma_update(None, "user_version", VERSION)?;
            for (name, value) in settings {
                transaction.execute("INSERT INTO settings VALUES (?1, ?2)", params![name, value.to_string()])?;
            }
            let mut insert = transaction.prepare("INSERT INTO items VALUES (?1, ?2, ?3, ?4)")?;
            for Item { number, place, world, prompt } in items {
                insert.execute(params![number, place, world, json(prompt)])?;
            }
            Ok(())
        })
    }

    /// What the answers were made with.
    ///
    /// # Errors
    /// When the file is damaged.
    pub fn settings(&self) -> Result<Map<String, Value>> {
        let rows = self.all("SELECT name, value FROM settings ORDER BY rowid", |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
        })?;
        rows.into_iter().map(|(name, value)| Ok((name, self.parsed(&value)?))).collect()
    }

    /// The prompts, in their order.
    ///
    /// # Errors
    /// When the file is damaged.
    pub fn items(&self) -> Result<Vec<Item>> {
        let rows = self.all("SELECT number, place, world, prompt FROM items ORDER BY number", |row| {
            let prompt: String = row.get(3)?;
            Ok((Item { number: row.get(0)?, place: row.get(1)?, world: row.get(2)?, prompt: Vec::new() }, prompt))
        })?;
        rows.into_iter().map(|(item, prompt)| Ok(Item { prompt: self.parsed(&prompt)?, ..item })).collect()
    }

    /// The answers, by prompt and number.
    ///
    /// # Errors
    /// When the file is damaged.
    pub fn answers(&self) -> Result<Vec<StoredAnswer>> {
        self.all("SELECT item, number, model, text, tokens, finish FROM answers ORDER BY item, number", |row| {
            Ok(StoredAnswer {
                item: row.get(0)?,
                number: row.get(1)?,
                model: row.get(2)?,
                text: row.get(3)?,
                tokens: row.get(4)?,
                finish: row.get(5)?,
            })
        })
    }

    /// Keeps `answers`: all of them, or none.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn add_answers(&mut self, answers: &[StoredAnswer]) -> Result<()> {
        self.write(|transaction| {
            let mut insert = transaction.prepare("INSERT OR REPLACE INTO answers VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
            for StoredAnswer { item, number, model, text, tokens, finish } in answers {
                insert.execute(params![item, number, model, text, tokens, finish])?;
            }
            Ok(())
        })
    }

    /// The choices, in the order in which they were made.
    ///
    /// # Errors
    /// When the file is damaged.
    pub fn choices(&self) -> Result<Vec<Judgment>> {
        type Texts = [Option<String>; 3];
        let sql = "SELECT item, judge, who, at, ranking, scores, shown, seconds FROM choices ORDER BY id";
        let rows = self.all(sql, |row| {
            let texts: Texts = [row.get(4)?, row.get(5)?, row.get(6)?];
            let judge = Judge { judge: row.get(1)?, who: row.get(2)? };
            let (item, at, seconds) = (row.get(0)?, row.get(3)?, row.get(7)?);
            Ok((Judgment { item, judge, at, ranking: None, scores: None, shown: None, seconds }, texts))
        })?;
        let choice = |(choice, [ranking, scores, shown]): (Judgment, Texts)| {
            Ok(Judgment {
                ranking: ranking.map(|text| self.parsed(&text)).transpose()?,
                scores: scores.map(|text| self.parsed(&text)).transpose()?,
                shown: shown.map(|text| self.parsed(&text)).transpose()?,
                ..choice
            })
        };
        rows.into_iter().map(choice).collect()
    }

    /// Keeps `choices`: all of them, or none. A judge's second choice of an item takes the place of the first.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn add_choices(&mut self, choices: &[Judgment]) -> Result<()> {
        self.write(|transaction| {
            let mut insert = transaction.prepare(
                "INSERT OR REPLACE INTO choices (item, judge, who, at, ranking, scores, shown, seconds)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?;
            for Judgment { item, judge: Judge { judge, who }, at, ranking, scores, shown, seconds } in choices {
                let (ranking, scores, shown) =
                    (ranking.as_ref().map(json), scores.as_ref().map(json), shown.as_ref().map(json));
                insert.execute(params![item, judge, who, at, ranking, scores, shown, seconds])?;
            }
            Ok(())
        })
    }

    /// Removes the last choice that was shown to `judge`, and returns its item.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn undo(&mut self, judge: &Judge) -> Result<Option<u64>> {
        self.write(|transaction| {
            let last = "DELETE FROM choices WHERE id =
                (SELECT max(id) FROM choices WHERE judge = ?1 AND who = ?2 AND shown IS NOT NULL) RETURNING item";
            transaction.query_row(last, params![judge.judge, judge.who], |row| row.get(0)).optional()
        })
    }

    fn all<T>(&self, sql: &str, one: impl FnMut(&Row<'_>) -> rusqlite::Result<T>) -> Result<Vec<T>> {
        self.read(|connection| connection.prepare(sql)?.query_map([], one)?.collect())
    }

    fn read<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        let otherwise = || format!("{} cannot be read; it may be damaged", self.path.display());
        read(&self.connection).map_err(|e| explained(&self.path, e, &otherwise()))
    }

    fn write<T>(&mut self, write: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<T> {
        let whole = || {
            let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let done = write(&transaction)?;
            transaction.commit()?;
            Ok::<T, rusqlite::Error>(done)
        };
        let otherwise = || format!("{} cannot be written", self.path.display());
        whole().map_err(|e| explained(&self.path, e, &otherwise()))
    }

    fn parsed<T: DeserializeOwned>(&self, text: &str) -> Result<T> {
        match serde_json::from_str(text) {
            Ok(value) => Ok(value),
            Err(e) => bail!("{} is damaged: it contains the invalid value {text:?} ({e})", self.path.display()),
        }
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::json!(value).to_string()
}

/// How long another process may hold the file, before that is an error.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why the file `path` could not be used: another process holds it, or `otherwise`.
fn explained(path: &Path, error: rusqlite::Error, otherwise: &str) -> anyhow::Error {
    let held = matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked));
    let what = format!("{} is locked by another process; try again when that process has finished", path.display());
    anyhow::Error::new(error).context(if held { what } else { otherwise.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use gptkit_data::dialogue::Role;

    fn ann() -> Judge {
        Judge { judge: "human".to_owned(), who: "ann".to_owned() }
    }

    fn choice(item: u64, who: &str, ranking: Option<Vec<u32>>) -> Judgment {
        let shown = Some(vec![1, 0]);
        let judge = Judge { who: who.to_owned(), ..ann() };
        Judgment {
            item,
            judge,
            at: "2024-05-01T10:00:00Z".to_owned(),
            ranking,
            scores: None,
            shown,
            seconds: Some(2.5),
        }
    }

    fn begun(path: &Path) -> Store {
        let mut store = Store::open(path).unwrap();
        assert!(store.is_new().unwrap());
        let item = |number| Item {
            number,
            place: format!("p.txt line {}", number + 1),
            world: (number == 0).then_some(7),
            prompt: vec![Message::new(Role::User, "q \"1\"")],
        };
        let settings = [("seed".to_owned(), Value::from(u64::MAX)), ("stop".to_owned(), serde_json::json!(["\n"]))];
        store.begin(&settings.into_iter().collect(), &[item(0), item(1)]).unwrap();
        store
    }

    #[test]
    fn what_is_kept_is_there_when_it_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.sqlite");
        let mut store = begun(&path);
        let answer = |number, text: &str| StoredAnswer {
            item: 0,
            number,
            model: "a".to_owned(),
            text: text.to_owned(),
            tokens: 3,
            finish: "stop".to_owned(),
        };
        let answers = [answer(0, "x\0y"), answer(1, "")];
        store.add_answers(&answers).unwrap();
        let scored = Judgment { scores: Some(vec![0.1, -1e-9]), shown: None, seconds: None, ..choice(1, "bob", None) };
        let choices = [choice(0, "ann", Some(vec![2, 1])), scored];
        store.add_choices(&choices).unwrap();
        // No goodbye: as if the process had been killed.
        std::mem::forget(store);
        let store = Store::open(&path).unwrap();
        assert!(!store.is_new().unwrap());
        assert_eq!(store.settings().unwrap()["seed"], u64::MAX);
        let items = store.items().unwrap();
        assert_eq!((items.len(), items[0].world, items[1].world), (2, Some(7), None));
        assert_eq!(items[0].prompt, [Message::new(Role::User, "q \"1\"")]);
        assert_eq!(store.answers().unwrap(), answers);
        assert_eq!(store.choices().unwrap(), choices);
    }

    #[test]
    fn what_a_killed_write_began_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.sqlite");
        let mut store = begun(&path);
        store.add_choices(&[choice(0, "ann", Some(vec![1, 2]))]).unwrap();
        // The second of the two is of an item that does not exist.
        let error = store.add_choices(&[choice(1, "ann", None), choice(9, "ann", None)]).unwrap_err();
        assert!(error.to_string().contains("cannot be written"), "{error}");
        assert_eq!(store.choices().unwrap().len(), 1);
    }

    #[test]
    fn only_what_somebody_was_asked_for_is_taken_back_and_only_from_them() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = begun(&folder.path().join("c.sqlite"));
        assert_eq!(store.undo(&ann()).unwrap(), None);
        let unasked = Judgment { shown: None, ..choice(1, "ann", Some(vec![1, 1])) };
        store.add_choices(&[choice(0, "ann", Some(vec![2, 1])), unasked, choice(1, "bob", None)]).unwrap();
        assert_eq!(store.undo(&ann()).unwrap(), Some(0));
        assert_eq!(store.undo(&ann()).unwrap(), None);
        assert_eq!(store.choices().unwrap().len(), 2);
        store.add_choices(&[choice(0, "ann", Some(vec![1, 2])), choice(0, "ann", Some(vec![2, 1]))]).unwrap();
        let choices = store.choices().unwrap();
        assert_eq!(choices.len(), 3, "a second choice takes the place of the first");
        assert_eq!(choices[2].ranking, Some(vec![2, 1]));
    }

    #[test]
    fn a_store_that_another_process_holds_is_not_called_damaged_and_stays_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.sqlite");
        let mut store = begun(&path);
        store.connection.busy_timeout(Duration::ZERO).unwrap();
        let other = Connection::open(&path).unwrap();
        other.execute_batch("BEGIN EXCLUSIVE").unwrap();
        let refused = [
            Store::open_within(&path, Duration::ZERO).map(drop),
            store.items().map(drop),
            store.add_choices(&[choice(0, "ann", Some(vec![1, 2]))]),
        ];
        for result in refused {
            let said = format!("{:#}", result.unwrap_err());
            assert!(said.contains("c.sqlite is locked by another process") && !said.contains("damaged"), "{said}");
        }
        other.execute_batch("ROLLBACK").unwrap();
        store.add_choices(&[choice(0, "ann", Some(vec![1, 2]))]).unwrap();
        assert_eq!(Store::open(&path).unwrap().choices().unwrap().len(), 1);
    }

    #[test]
    fn files_that_are_no_store_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.sqlite");
        let refused = |bytes: &[u8]| {
            gptkit_data::disk::write(&path, bytes).unwrap();
            format!("{:#}", Store::open(&path).unwrap_err())
        };
        assert!(refused(&[7; 5000]).contains("c.sqlite is damaged or was not written by `gptkit compare`"));
        let other = folder.path().join("other.sqlite");
        Connection::open(&other).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
        assert!(refused(&std::fs::read(&other).unwrap()).contains("was not written by `gptkit compare`"));
        let sound = folder.path().join("sound.sqlite");
        drop(begun(&sound));
        let bytes = std::fs::read(&sound).unwrap();
        assert!(refused(&bytes[..bytes.len() / 2]).contains("is damaged"));
        for from in (0..bytes.len()).step_by(97) {
            let mut bytes = bytes.clone();
            bytes[from..].iter_mut().take(40).for_each(|byte| *byte ^= 0x5a);
            gptkit_data::disk::write(&path, &bytes).unwrap();
            // Whatever is found, nothing panics.
            let _ = Store::open(&path).and_then(|store| Ok((store.settings()?, store.items()?, store.choices()?)));
        }
    }
}
