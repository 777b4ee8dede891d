//! Feedback → files that `train-rm`, `dpo`, `sft` and `ppo` read.
//!
//! Only records count that nothing supersedes, of people who agreed to training and are not excluded. As InstructGPT's
//! authors did (Ouyang et al. 2022, §3.2), a person gives a limited number of prompts, people are split into parts, prompts
//! that share a long prefix count once, and personal data is masked.

use crate::mask::masked;
use crate::records::{RecordId, RecordKind, RecordedAnswer};
use crate::store::{ANSWER_NUMBER, ANSWERS, FeedbackStore, answer, json, parsed, stands};
use anyhow::Result;
use gptkit_data::comparison::pairs;
use gptkit_data::dialogue::{Message, Role};
use serde::Serialize;
use serde_json::{Map, Value, json as json_value};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

/// The kind of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportKind {
    /// Rankings, and corrected answers beside the model's: for `train-rm` and `dpo`.
    Comparisons,
    /// Dialogues that people wrote: for `sft`.
    Demonstrations,
    /// What people asked: for `ppo` and `compare`.
    Prompts,
}

impl ExportKind {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Comparisons => "comparisons",
            Self::Demonstrations => "demonstrations",
            Self::Prompts => "prompts",
        }
    }
}

/// Which records are exported.
#[derive(Debug, Clone, Serialize)]
pub struct ExportFilter {
    /// Only of this person.
    pub person: Option<String>,
    /// Only about answers of this model: its name or its fingerprint.
    pub model: Option<String>,
    /// No answers that anybody gave one of these marks.
    pub without_marks: Vec<String>,
    /// Also of people who did not agree to training.
    pub without_consent: bool,
    /// Most prompts of a person.
    pub prompts_per_person: usize,
    /// The part of the people: its number and the number of parts.
    pub part: Option<(u64, u64)>,
    /// Whether personal data is masked.
    pub mask: bool,
}

impl Default for ExportFilter {
    fn default() -> Self {
        Self {
            person: None,
            model: None,
            without_marks: Vec::new(),
            without_consent: false,
            prompts_per_person: 200,
            part: None,
            mask: true,
        }
    }
}

/// Records of an export, and why others are not in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ExportCounts {
    /// Records written.
    pub records: u64,
    /// Records that were left out, by reason.
    pub left_out: BTreeMap<&'static str, u64>,
    /// Mail addresses, telephone and card numbers that were masked.
    pub masked: u64,
}

/// A file's lines, and what they are made of.
#[derive(Debug, Default)]
pub(crate) struct ExportLines {
    pub(crate) counts: ExportCounts,
    pub(crate) text: String,
    /// The records that are in it.
    records: Vec<RecordId>,
    prompts: HashMap<String, HashSet<String>>,
}

/// Characters in which two prompts must be equal to count as one.
const COMMON_PREFIX: usize = 200;

impl ExportLines {
    fn leave_out(&mut self, why: &'static str) {
        *self.counts.left_out.entry(why).or_default() += 1;
    }

    /// Whether `person` may give this prompt as well.
    fn has_room(&mut self, person: &str, prompt: &str, filter: &ExportFilter) -> bool {
        let prompts = self.prompts.entry(person.to_owned()).or_default();
        prompts.contains(prompt) || prompts.len() < filter.prompts_per_person && prompts.insert(prompt.to_owned())
    }

    fn push(&mut self, record: Map<String, Value>, from: RecordId, mask: bool) {
        let mut record = Value::Object(record);
        record["record"] = json_value!(from);
        if mask {
            for field in ["prompt", "completions", "messages"] {
                self.counts.masked += record.get_mut(field).map_or(0, mask_texts);
            }
        }
        self.text += &(record.to_string() + "\n");
        self.counts.records += 1;
        self.records.push(from);
    }
}

/// Masks every text of `value`; returns how much was masked.
fn mask_texts(value: &mut Value) -> u64 {
    match value {
        Value::String(text) => {
            let (without, n) = masked(text);
            *text = without;
            n
        }
        Value::Array(values) => values.iter_mut().map(mask_texts).sum(),
        Value::Object(fields) => fields.values_mut().map(mask_texts).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

/// A ranking with what an export says of it.
struct RankedRecord {
    id: i64,
    who: String,
    at: String,
    ranking: Option<Vec<u32>>,
    shown: Value,
    seconds: Option<f64>,
}

/// A demonstration with what an export says of it.
struct WrittenRecord {
    id: i64,
    who: String,
    at: String,
    messages: Vec<Message>,
    based_on: Option<i64>,
}

/// Records that nothing supersedes, of people who take part; `{table}` is theirs.
fn counting(table: &str, columns: &str, filter: &ExportFilter) -> String {
    let consent = if filter.without_consent { "" } else { "AND p.consented_at IS NOT NULL" };
    format!(
        "SELECT r.id, p.name, r.at, {columns} FROM {table} r JOIN people p ON p.id = r.person
         WHERE p.excluded_at IS NULL {consent} AND {} ORDER BY r.id",
        stands(table)
    )
}

impl FeedbackStore {
    /// Exports records of `kind` as JSONL that a browser saves, and notes in the store which ones.
    ///
    /// # Errors
    /// When the store is damaged.
    pub fn download(&mut self, kind: ExportKind, filter: &ExportFilter) -> Result<String> {
        let ExportLines { text, records, .. } = self.lines(kind, filter)?;
        self.note_export(kind.name(), "downloaded by a browser", &text, &json_value!(filter), &records)?;
        Ok(text)
    }

    /// Writes records of `kind` to `path`, and notes in the store which ones.
    ///
    /// # Errors
    /// When the store is damaged, or the file cannot be written.
    pub fn export_to(&mut self, kind: ExportKind, filter: &ExportFilter, path: &Path) -> Result<ExportCounts> {
        let lines = self.lines(kind, filter)?;
        self.write_export(kind.name(), path, &lines.text, &json_value!(filter), &lines.records)?;
        Ok(lines.counts)
    }

    pub(crate) fn lines(&self, kind: ExportKind, filter: &ExportFilter) -> Result<ExportLines> {
        let mut lines = ExportLines::default();
        match kind {
            ExportKind::Comparisons => {
                self.rankings(filter, &mut lines)?;
                self.corrections(filter, &mut lines)?;
            }
            ExportKind::Demonstrations => {
                for written in self.written(filter, &mut lines)? {
                    let mut record = Map::new();
                    record.insert("messages".to_owned(), json_value!(written.messages));
                    put_origin(&mut record, &written.who, &written.at);
                    lines.push(record, RecordId { kind: RecordKind::Demonstration, number: written.id }, filter.mask);
                }
            }
            ExportKind::Prompts => self.prompts(filter, &mut lines)?,
        }
        Ok(lines)
    }

    fn rankings(&self, filter: &ExportFilter, lines: &mut ExportLines) -> Result<()> {
        let sql = counting("rankings", "r.ranking, r.shown, r.seconds", filter);
        let one = |row: &rusqlite::Row<'_>| {
            let ranking: Option<String> = row.get(3)?;
            Ok(RankedRecord {
                id: row.get(0)?,
                who: row.get(1)?,
                at: row.get(2)?,
                ranking: ranking.and_then(|text| serde_json::from_str(&text).ok()),
                shown: parsed(row, 4)?,
                seconds: row.get(5)?,
            })
        };
        let marked = self.marked(&filter.without_marks)?;
        let rankings: Vec<RankedRecord> =
            self.connection.prepare(&sql)?.query_map([], one)?.collect::<Result<_, _>>()?;
        for ranked in rankings {
            let sql = format!("{ANSWERS} JOIN ranked k ON k.completion = c.id WHERE k.ranking = ?1 ORDER BY k.number");
            let answers: Vec<RecordedAnswer> =
                self.connection.prepare(&sql)?.query_map([ranked.id], answer)?.collect::<Result<_, _>>()?;
            match self.comparison(&ranked, &answers, &marked, filter, lines) {
                Ok(record) => {
                    lines.push(record, RecordId { kind: RecordKind::Ranking, number: ranked.id }, filter.mask)
                }
                Err(why) => lines.leave_out(why),
            }
        }
        Ok(())
    }

    /// The record of a ranking, or why it has none.
    fn comparison(
        &self,
        ranked: &RankedRecord,
        answers: &[RecordedAnswer],
        marked: &HashSet<(String, u64)>,
        filter: &ExportFilter,
        lines: &mut ExportLines,
    ) -> Result<Map<String, Value>, &'static str> {
        let places = ranked.ranking.as_ref().ok_or("skipped")?;
        if !takes_part(&ranked.who, filter) {
            return Err("of other people");
        }
        let of_model = |answer: &RecordedAnswer| {
            filter.model.as_ref().is_none_or(|name| *name == answer.model.name || *name == answer.model.weights)
        };
        if !answers.iter().all(of_model) {
            return Err("of other models");
        }
        let is_marked = |i: &usize| marked.contains(&(answers[*i].id.request.clone(), answers[*i].id.choice));
        let kept: Vec<usize> = (0..answers.len()).filter(|i| !answers[*i].text.is_empty() && !is_marked(i)).collect();
        let of_kept: Vec<u32> = kept.iter().filter_map(|&i| places.get(i).copied()).collect();
        if of_kept.len() != kept.len() || pairs(&of_kept).next().is_none() {
            return Err("without a difference between answers");
        }
        let prompt = &answers[kept[0]].prompt;
        if !lines.has_room(&ranked.who, &json(prompt), filter) {
            return Err("beyond the limit of prompts of a person");
        }
        let of =
            |value: &dyn Fn(&RecordedAnswer) -> Value| -> Value { kept.iter().map(|&i| value(&answers[i])).collect() };
        let mut record = Map::new();
        let mut put = |name: &str, value: Value| record.insert(name.to_owned(), value);
        put("prompt", prompt_value(prompt));
        put("completions", of(&|answer| json_value!(answer.text)));
        put("ranking", json_value!(dense(&of_kept)));
        if kept.iter().any(|&i| answers[i].finish == "length") {
            put("cut", of(&|answer| json_value!(answer.finish == "length")));
        }
        put("models", of(&|answer| json_value!(answer.model.folder)));
        put("weights", of(&|answer| json_value!(answer.model.weights)));
        put("answers", of(&|answer| json_value!(format!("{}#{}", answer.id.request, answer.id.choice))));
        put("sampling", of(&|answer| answer.sampling.clone()));
        put("shown", ranked.shown.clone());
        put("seconds", json_value!(ranked.seconds));
        put_origin(&mut record, &ranked.who, &ranked.at);
        Ok(record)
    }

    /// Answers that people corrected: theirs is better than the model's.
    fn corrections(&self, filter: &ExportFilter, lines: &mut ExportLines) -> Result<()> {
        for written in self.written(filter, lines)? {
            let (Some(based_on), Some((last, before))) = (written.based_on, written.messages.split_last()) else {
                continue;
            };
            let sql = format!("{ANSWERS} WHERE c.id = ?1");
            let original = self.connection.query_row(&sql, [based_on], answer)?;
            if original.text.is_empty() || original.text == last.content.trim() || original.prompt != before {
                lines.leave_out("without a difference between answers");
                continue;
            }
            let mut record = Map::new();
            record.insert("prompt".to_owned(), prompt_value(before));
            record.insert("completions".to_owned(), json_value!([last.content.trim(), original.text]));
            record.insert("ranking".to_owned(), json_value!([1, 2]));
            record.insert("models".to_owned(), json_value!([Value::Null, original.model.folder]));
            record.insert("weights".to_owned(), json_value!([Value::Null, original.model.weights]));
            put_origin(&mut record, &written.who, &written.at);
            lines.push(record, RecordId { kind: RecordKind::Demonstration, number: written.id }, filter.mask);
        }
        Ok(())
    }

    fn written(&self, filter: &ExportFilter, lines: &mut ExportLines) -> Result<Vec<WrittenRecord>> {
        let one = |row: &rusqlite::Row<'_>| {
            Ok(WrittenRecord {
                id: row.get(0)?,
                who: row.get(1)?,
                at: row.get(2)?,
                messages: parsed(row, 3)?,
                based_on: row.get(4)?,
            })
        };
        let sql = counting("demonstrations", "r.messages, r.based_on", filter);
        let all: Vec<WrittenRecord> = self.connection.prepare(&sql)?.query_map([], one)?.collect::<Result<_, _>>()?;
        let mut kept = Vec::new();
        for written in all {
            let prompt = json(&written.messages[..written.messages.len().saturating_sub(1)].to_vec());
            if !takes_part(&written.who, filter) {
                lines.leave_out("of other people");
            } else if !lines.has_room(&written.who, &prompt, filter) {
                lines.leave_out("beyond the limit of prompts of a person");
            } else {
                kept.push(written);
            }
        }
        Ok(kept)
    }

    fn prompts(&self, filter: &ExportFilter, lines: &mut ExportLines) -> Result<()> {
        let consent = if filter.without_consent { "" } else { "AND p.consented_at IS NOT NULL" };
        let sql = format!(
            "{ANSWERS} WHERE c.choice = 0 AND c.person IS NOT NULL AND p.excluded_at IS NULL {consent} ORDER BY c.id"
        );
        let numbered = |row: &rusqlite::Row<'_>| Ok((row.get(ANSWER_NUMBER)?, answer(row)?));
        let answers: Vec<(i64, RecordedAnswer)> =
            self.connection.prepare(&sql)?.query_map([], numbered)?.collect::<Result<_, _>>()?;
        let mut begun = HashSet::new();
        for (number, answer) in answers {
            let person = answer.person.unwrap_or_default();
            let text: String = answer.prompt.iter().map(|message| message.content.as_str()).collect();
            if !takes_part(&person, filter) {
                lines.leave_out("of other people");
            } else if !begun.insert(text.chars().take(COMMON_PREFIX).collect::<String>()) {
                lines.leave_out("with the same beginning as another prompt");
            } else if !lines.has_room(&person, &text, filter) {
                lines.leave_out("beyond the limit of prompts of a person");
            } else {
                let mut record = Map::new();
                record.insert("prompt".to_owned(), prompt_value(&answer.prompt));
                lines.push(record, RecordId { kind: RecordKind::Answer, number }, filter.mask);
            }
        }
        Ok(())
    }

    /// Answers that have one of `marks`.
    fn marked(&self, marks: &[String]) -> Result<HashSet<(String, u64)>> {
        let sql = format!(
            "SELECT c.request, c.choice, r.marks FROM ratings r JOIN completions c ON c.id = r.completion WHERE {}",
            stands("ratings")
        );
        let mut found = HashSet::new();
        let mut statement = self.connection.prepare(&sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let given: Vec<String> = parsed(row, 2)?;
            if given.iter().any(|mark| marks.contains(mark)) {
                found.insert((row.get(0)?, row.get(1)?));
            }
        }
        Ok(found)
    }
}

fn put_origin(record: &mut Map<String, Value>, who: &str, at: &str) {
    record.insert("judge".to_owned(), json_value!("human"));
    record.insert("who".to_owned(), json_value!(who));
    record.insert("at".to_owned(), json_value!(at));
}

/// Whether the records of `person` are in the part that is asked for; a person is in one part only.
fn takes_part(person: &str, filter: &ExportFilter) -> bool {
    let is_named = filter.person.as_ref().is_none_or(|name| name == person);
    let hash = u64::from_le_bytes(blake3::hash(person.as_bytes()).as_bytes()[..8].try_into().unwrap_or_default());
    is_named && filter.part.is_none_or(|(part, parts)| hash % parts.max(1) == part)
}

/// Ranks without a gap.
pub fn dense(ranks: &[u32]) -> Vec<usize> {
    let mut taken: Vec<u32> = ranks.to_vec();
    taken.sort_unstable();
    taken.dedup();
    ranks.iter().map(|rank| taken.partition_point(|other| other < rank) + 1).collect()
}

/// The prompt of a record: a text if it is one message of the user that cannot be taken for a transcript, else messages.
pub fn prompt_value(messages: &[Message]) -> Value {
    let is_transcript = |text: &str| ["Human:", "Assistant:"].iter().any(|turn| text.trim_start().starts_with(turn));
    match messages {
        [Message { role: Role::User, content, .. }] if !is_transcript(content) => json_value!(content),
        messages => json_value!(messages),
    }
}
