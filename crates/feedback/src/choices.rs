//! The collection of `gptkit compare` in a store: prompts, and what people and automatic judges chose. Answers and rankings
//! are the same records as those of the server; the collection adds which prompt they belong to.

use crate::records::{Act, AnswerId, Feedback, Ranking, RecordId, RecordKind};
use crate::store::{FeedbackStore, StoreError, UNDONE, insert, json, optional, parsed, stands};
use anyhow::{Context, Result};
use gptkit_data::dialogue::Message;
use rusqlite::{OptionalExtension, Transaction, params};
use serde::Serialize;
use serde_json::{Map, Value};

/// The judge of people.
pub const HUMAN: &str = "human";
/// Why a ranking has no order when a person gave no reason.
const SKIPPED: &str = "skipped";

/// A prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Counts from 0, without a gap.
    pub number: u64,
    /// File and line, or the name of the built-in world.
    pub place: String,
    /// Number of the built-in world's instruction, if it is one.
    pub world: Option<u64>,
    /// The dialogue so far.
    pub prompt: Vec<Message>,
}

impl Item {
    /// Number of the built-in world's instruction.
    ///
    /// # Errors
    /// When the prompt is from elsewhere.
    pub fn number_in_world(&self) -> Result<u64> {
        self.world.with_context(|| format!("{} is not an instruction of the built-in world", self.place))
    }
}

/// An answer to a prompt of the collection, as judges see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAnswer {
    /// Number of the prompt.
    pub item: u64,
    /// Number among the answers to the prompt.
    pub number: u64,
    /// Its text.
    pub text: String,
    /// Length, in tokens.
    pub tokens: u64,
    /// Why it ended: `stop` or `length`.
    pub finish: String,
}

/// A judge.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Judge {
    /// [`HUMAN`], `gold`, `labeler`, or the folder of a reward model.
    pub judge: String,
    /// A person's name, a labeler's seed, or the reward model's weights.
    pub who: String,
}

/// A judge's choice between the answers to a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgment {
    /// Its name in the store, once it is stored.
    pub record: Option<RecordId>,
    /// Number of the prompt.
    pub item: u64,
    /// The judge.
    pub judge: Judge,
    /// Time, as RFC 3339 writes it.
    pub at: String,
    /// The rank of each answer, 1 the best; none when the prompt was skipped.
    pub ranking: Option<Vec<u32>>,
    /// Scores of an automatic judge for each answer.
    pub scores: Option<Vec<f64>>,
    /// Numbers of the answers in the order in which a person saw them; none if nobody saw them.
    pub shown: Option<Vec<u64>>,
    /// How long it took.
    pub seconds: Option<f64>,
}

impl FeedbackStore {
    /// Begins a collection, all of it or nothing. Returns false if the store has one already.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn begin_collection(&mut self, settings: &Map<String, Value>, items: &[Item]) -> Result<bool, StoreError> {
        self.write(|transaction| {
            if transaction.query_row("SELECT count(*) > 0 FROM settings", [], |row| row.get(0))? {
                return Ok(false);
            }
            for (name, value) in settings {
                transaction.execute("INSERT INTO settings VALUES (?1, ?2)", params![name, value.to_string()])?;
            }
            let mut insert = transaction.prepare("INSERT INTO items VALUES (?1, ?2, ?3, ?4)")?;
            for Item { number, place, world, prompt } in items {
                insert.execute(params![number, place, world, json(prompt)])?;
            }
            Ok(true)
        })
    }

    /// The settings of the collection; empty if the store has none.
    ///
    /// # Errors
    /// When the store is damaged.
    pub fn collection_settings(&self) -> Result<Map<String, Value>, StoreError> {
        let mut statement = self.connection.prepare("SELECT name, value FROM settings ORDER BY rowid")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, parsed(row, 1)?)))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// The prompts of the collection, in their order.
    ///
    /// # Errors
    /// When the store is damaged.
    pub fn items(&self) -> Result<Vec<Item>, StoreError> {
        let mut statement =
            self.connection.prepare("SELECT number, place, world, prompt FROM items ORDER BY number")?;
        let rows = statement.query_map([], |row| {
            Ok(Item { number: row.get(0)?, place: row.get(1)?, world: row.get(2)?, prompt: parsed(row, 3)? })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// The answers to the prompts of the collection, by prompt and number.
    ///
    /// # Errors
    /// When the store is damaged.
    pub fn item_answers(&self) -> Result<Vec<StoredAnswer>, StoreError> {
        let sql = "SELECT item, number, text, n_tokens, finish FROM completions WHERE item IS NOT NULL
            ORDER BY item, number";
        let mut statement = self.connection.prepare(sql)?;
        let rows = statement.query_map([], |row| {
            Ok(StoredAnswer {
                item: row.get(0)?,
                number: row.get(1)?,
                text: row.get(2)?,
                tokens: row.get(3)?,
                finish: row.get(4)?,
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// The choices that count: those of people, then those of automatic judges, each in the order in which they were made.
    ///
    /// # Errors
    /// When the store is damaged.
    pub fn choices(&self) -> Result<Vec<Judgment>, StoreError> {
        let sql = format!(
            "SELECT r.id, c.item, p.name, r.at, r.ranking, r.shown, r.seconds
            FROM rankings r JOIN people p ON p.id = r.person JOIN ranked k ON k.ranking = r.id AND k.number = 0
            JOIN completions c ON c.id = k.completion
            WHERE c.item IS NOT NULL AND coalesce(r.skipped, '') <> '{UNDONE}' AND {} ORDER BY r.id",
            stands("rankings")
        );
        let mut statement = self.connection.prepare(&sql)?;
        let people = statement.query_map([], |row| {
            let shown: Vec<u64> = parsed(row, 5)?;
            Ok(Judgment {
                record: Some(RecordId { kind: RecordKind::Ranking, number: row.get(0)? }),
                item: row.get(1)?,
                judge: Judge { judge: HUMAN.to_owned(), who: row.get(2)? },
                at: row.get(3)?,
                ranking: optional(row, 4)?,
                scores: None,
                shown: (!shown.is_empty()).then_some(shown),
                seconds: row.get(6)?,
            })
        })?;
        let mut choices = people.collect::<rusqlite::Result<Vec<_>>>()?;
        let sql = "SELECT id, item, judge, who, at, ranking, scores FROM judgments ORDER BY id";
        let mut statement = self.connection.prepare(sql)?;
        let automatic = statement.query_map([], |row| {
            Ok(Judgment {
                record: Some(RecordId { kind: RecordKind::Judgment, number: row.get(0)? }),
                item: row.get(1)?,
                judge: Judge { judge: row.get(2)?, who: row.get(3)? },
                at: row.get(4)?,
                ranking: optional(row, 5)?,
                scores: optional(row, 6)?,
                shown: None,
                seconds: None,
            })
        })?;
        choices.extend(automatic.collect::<rusqlite::Result<Vec<_>>>()?);
        Ok(choices)
    }

    /// Stores `choices`, all or none. A person's second choice of a prompt supersedes the first. An automatic judge is
    /// deterministic, so its first judgment is kept.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn add_choices(&mut self, choices: &[Judgment]) -> Result<(), StoreError> {
        self.write(|transaction| {
            for choice in choices {
                let Judgment { item, judge: Judge { judge, who }, at, ranking, scores, .. } = choice;
                if judge == HUMAN {
                    add_choice(transaction, choice)?;
                } else {
                    transaction.execute(
                        "INSERT INTO judgments (item, judge, who, at, ranking, scores) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                         ON CONFLICT DO NOTHING",
                        params![item, judge, who, at, ranking.as_ref().map(json), scores.as_ref().map(json)],
                    )?;
                }
            }
            Ok(())
        })
    }

    /// Takes the last choice back that was shown to the person `who`, and returns its prompt.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn undo_choice(&mut self, who: &str, at: &str) -> Result<Option<u64>, StoreError> {
        self.write(|transaction| {
            let sql = format!("{STANDING} AND r.shown <> '[]' AND {} ORDER BY r.id DESC LIMIT 1", stands("rankings"));
            let last = transaction
                .query_row(&sql, [who], |row| Ok((row.get(0)?, row.get::<_, u64>(1)?, parsed::<Vec<u64>>(row, 2)?)))
                .optional()?;
            let Some((client_id, item, shown)) = last else { return Ok(None) };
            let act = Act::Ranking(Ranking {
                answers: answers_to(transaction, item)?,
                ranking: None,
                skipped: Some(UNDONE.to_owned()),
                both_bad: false,
                shown,
                blind: true,
                task: None,
            });
            insert_choice(transaction, who, at, None, Some(client_id), act)?;
            Ok(Some(item))
        })
    }
}

/// Rankings of a person, by client id, prompt and order shown, that are not taken back.
const STANDING: &str = "SELECT r.client_id, c.item, r.shown FROM rankings r JOIN people p ON p.id = r.person
    JOIN ranked k ON k.ranking = r.id AND k.number = 0 JOIN completions c ON c.id = k.completion
    WHERE p.name = ?1 AND c.item IS NOT NULL AND coalesce(r.skipped, '') <> 'undone'";

fn add_choice(transaction: &Transaction<'_>, choice: &Judgment) -> Result<(), StoreError> {
    let Judgment { item, judge, at, ranking, shown, seconds, .. } = choice;
    // A new person agrees to training by using this command, which makes training data.
    transaction.execute(
        "INSERT INTO people (name, role, consented_at) VALUES (?1, 'labeler', ?2) ON CONFLICT DO NOTHING",
        params![judge.who, at],
    )?;
    let sql = format!("{STANDING} AND c.item = ?2 AND {} LIMIT 1", stands("rankings"));
    let earlier = transaction.query_row(&sql, params![judge.who, item], |row| row.get(0)).optional()?;
    let act = Act::Ranking(Ranking {
        answers: answers_to(transaction, *item)?,
        ranking: ranking.clone(),
        skipped: ranking.is_none().then(|| SKIPPED.to_owned()),
        both_bad: false,
        shown: shown.clone().unwrap_or_default(),
        blind: true,
        task: None,
    });
    insert_choice(transaction, &judge.who, at, *seconds, earlier, act)
}

fn insert_choice(
    transaction: &Transaction<'_>,
    who: &str,
    at: &str,
    seconds: Option<f64>,
    supersedes: Option<String>,
    act: Act,
) -> Result<(), StoreError> {
    let client_id = transaction.query_row("SELECT lower(hex(randomblob(16)))", [], |row| row.get(0))?;
    let feedback = Feedback { client_id, person: who.to_owned(), seconds, note: None, supersedes, act };
    insert(transaction, &feedback, at).map(drop)
}

/// The answers to a prompt of the collection, by number.
fn answers_to(transaction: &Transaction<'_>, item: u64) -> Result<Vec<AnswerId>, StoreError> {
    let mut statement =
        transaction.prepare("SELECT request, choice FROM completions WHERE item = ?1 ORDER BY number")?;
    let rows = statement.query_map([item], |row| Ok(AnswerId { request: row.get(0)?, choice: row.get(1)? }))?;
    let answers = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    match answers.is_empty() {
        true => Err(StoreError::Other(anyhow::anyhow!("prompt {item} has no answers"))),
        false => Ok(answers),
    }
}
