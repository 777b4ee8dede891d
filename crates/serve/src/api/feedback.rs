//! `/api/…`: what people think of answers. A record is on the disk when the server has said so.

use crate::api::body::RequestFields;
use crate::api::chat::{MessageField, messages};
use crate::api::error::ApiError;
use crate::api::models;
use crate::api::storing::with_store;
use crate::app::App;
use crate::guard::Requester;
use axum::http::StatusCode;
use gptkit_data::dialogue::{Message, Role as Speaker};
use gptkit_feedback::export::{ExportFilter, ExportKind};
use gptkit_feedback::people::AccessRole;
use gptkit_feedback::records::{Act, AnswerId, Demonstration, Feedback, MARKS, RANKED, Ranking, Rating, RecordId};
use gptkit_feedback::tasks::NewTask;
use gptkit_feedback::trace::NotedExport;
use gptkit_feedback::{FeedbackStore, StoreError};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use ulid::Ulid;
use utoipa::ToSchema;

/// Characters of a note.
const LONGEST_NOTE: usize = 10_000;
/// Tasks that are made at once.
const MOST_TASKS: usize = 10_000;

/// The name of a stored answer.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub(crate) struct AnswerField {
    /// Id of the response: `chatcmpl-…`.
    request: String,
    /// Index of the choice.
    choice: u64,
}

/// What every record has.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct RecordFields {
    /// An id that the client makes: a record that is sent twice is stored once.
    client_id: String,
    /// How long it took.
    seconds: Option<f64>,
    /// A note.
    note: Option<String>,
    /// `client_id` of an earlier record that this one replaces.
    supersedes: Option<String>,
}

/// A rating of one answer.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct RatingFields {
    answer: AnswerField,
    /// `up` or `down`.
    thumb: Option<Thumb>,
    /// Overall quality, 1 the worst, 7 the best.
    #[schema(minimum = 1, maximum = 7)]
    likert: Option<u8>,
    /// Names of marks, from `/api/session`.
    #[serde(default)]
    marks: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Thumb {
    Up,
    Down,
}

/// An order of answers.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct RankingFields {
    /// 2 to 9 answers to the same prompt.
    answers: Vec<AnswerField>,
    /// The rank of each answer, 1 the best; the same rank is a tie. Absent when they were skipped.
    ranking: Option<Vec<u32>>,
    /// Why they were skipped.
    skipped: Option<String>,
    /// Whether all answers are bad.
    #[serde(default)]
    both_bad: bool,
    /// Indexes of the answers in the order in which they were shown.
    shown: Option<Vec<u64>>,
    /// Whether the names of the models were hidden.
    #[serde(default)]
    blind: bool,
    /// The task that is done with this.
    task: Option<i64>,
}

/// A dialogue that a person wrote.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct DemonstrationFields {
    /// The messages; the last one is the assistant's.
    messages: Vec<MessageField>,
    /// The answer that it corrects.
    based_on: Option<AnswerField>,
}

/// Prompts for labelers.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct TaskFields {
    prompts: Vec<TaskPrompt>,
    /// Answers to each prompt, the known best one included.
    k: u64,
    /// Name of the model that answers.
    model: String,
    temperature: Option<f64>,
    max_tokens: Option<u64>,
    /// Seed of the first task; the others follow.
    #[serde(default)]
    seed: u64,
    /// The answers of one in this many tasks are ranked by two people, which shows how far they agree; 0 is none.
    #[serde(default = "default_repeat_every")]
    repeat_every: u64,
}

fn default_repeat_every() -> u64 {
    10
}

/// A prompt for labelers, alone or with its best answer.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum TaskPrompt {
    Text(String),
    WithKnownBest {
        prompt: String,
        /// An answer that is better than those of the model. It is shown among them, and the figures say how often a labeler
        /// puts it first.
        known_best: String,
    },
}

impl TaskPrompt {
    /// The prompt, and the known best answer.
    fn texts(&self) -> (&str, Option<&str>) {
        match self {
            Self::Text(prompt) => (prompt.trim(), None),
            Self::WithKnownBest { prompt, known_best } => (prompt.trim(), Some(known_best.trim())),
        }
    }
}

/// Whether a person agrees to training.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ConsentFields {
    consent: bool,
}

/// A person who is left out, or no longer.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ExcludedFields {
    name: String,
    excluded: bool,
}

impl From<AnswerField> for AnswerId {
    fn from(field: AnswerField) -> Self {
        Self { request: field.request, choice: field.choice }
    }
}

/// Refuses who has a smaller role.
fn require(person: &Requester, role: AccessRole) -> Result<(), ApiError> {
    match person.role >= role {
        true => Ok(()),
        false => {
            let message = format!("{} is a {}; this needs the role {role}", person.name, person.role);
            Err(ApiError::forbidden("role", message))
        }
    }
}

/// Who uses the page, what they may do, and what is served.
pub(crate) async fn session(app: &Arc<App>, person: &Requester) -> Result<Value, ApiError> {
    let mut consent = false;
    if app.feedback.is_some() {
        let (name, role) = (person.name.clone(), person.role);
        let seen = with_store(app, move |store| {
            store.see(&name, role)?;
            store.consents(&name)
        });
        consent = seen.await?;
    }
    let marks = MARKS.map(|(name, text)| json!({ "name": name, "text": text }));
    let models = app.served.writers.iter().map(models::summary).collect::<Vec<_>>();
    let rewards = app.served.scorers.iter().map(|scorer| scorer.name.as_str()).collect::<Vec<_>>();
    Ok(json!({
        "version": env!("CARGO_PKG_VERSION"), "feedback": app.feedback.is_some(), "person": person.name,
        "role": person.role, "named": !app.settings.keys.is_empty(), "consent": consent, "models": models,
        "rewards": rewards, "marks": marks,
    }))
}

/// Notes whether the person agrees to training.
pub(crate) async fn consent(app: &Arc<App>, person: &Requester, mut fields: RequestFields) -> Result<Value, ApiError> {
    let ConsentFields { consent } = fields.get()?;
    let name = person.name.clone();
    with_store(app, move |store| store.consent(&name, consent)).await?;
    session(app, person).await
}

/// Stores a record; 201 when it is new.
async fn store(
    app: &Arc<App>,
    person: &Requester,
    record: RecordFields,
    act: Act,
) -> Result<(StatusCode, Value), ApiError> {
    let RecordFields { client_id, seconds, note, supersedes } = record;
    if client_id.is_empty() || client_id.len() > 64 {
        return Err(ApiError::invalid("client_id", "must have 1 to 64 characters"));
    }
    if seconds.is_some_and(|seconds| !(0.0..=1e7).contains(&seconds)) {
        return Err(ApiError::invalid("seconds", "must not be negative"));
    }
    if note.as_ref().is_some_and(|note| note.len() > LONGEST_NOTE) {
        return Err(ApiError::invalid("note", format!("must have at most {LONGEST_NOTE} bytes")));
    }
    let kind = match act {
        Act::Ranking(_) => "ranking",
        Act::Rating(_) => "rating",
        Act::Demonstration(_) => "demonstration",
    };
    let feedback = Feedback { client_id, person: person.name.clone(), seconds, note, supersedes, act };
    let (id, is_new) = with_store(app, move |store| store.add(&feedback)).await?;
    if is_new {
        app.metrics.feedback(kind);
    }
    Ok((if is_new { StatusCode::CREATED } else { StatusCode::OK }, json!({ "id": id })))
}

/// Stores a rating.
pub(crate) async fn rate(
    app: &Arc<App>,
    person: &Requester,
    mut fields: RequestFields,
) -> Result<(StatusCode, Value), ApiError> {
    let (record, rating): (RecordFields, RatingFields) = (fields.get()?, fields.get()?);
    if let Some(mark) = rating.marks.iter().find(|mark| !MARKS.iter().any(|(name, _)| name == mark)) {
        return Err(ApiError::invalid("marks", format!("{mark} is not a mark; GET /api/session lists them")));
    }
    if rating.likert.is_some_and(|likert| !(1..=7).contains(&likert)) {
        return Err(ApiError::invalid("likert", "must be from 1 to 7"));
    }
    let thumb = rating.thumb.map(|thumb| thumb == Thumb::Up);
    let rating = Rating { answer: rating.answer.into(), thumb, likert: rating.likert, marks: rating.marks };
    store(app, person, record, Act::Rating(rating)).await
}

/// Stores a ranking.
pub(crate) async fn rank(
    app: &Arc<App>,
    person: &Requester,
    mut fields: RequestFields,
) -> Result<(StatusCode, Value), ApiError> {
    let (record, ranking): (RecordFields, RankingFields) = (fields.get()?, fields.get()?);
    let n = ranking.answers.len();
    if !RANKED.contains(&n) {
        return Err(ApiError::invalid("answers", format!("{n} answers; there must be 2 to 9")));
    }
    match (&ranking.ranking, &ranking.skipped) {
        (Some(ranks), None) if ranks.len() == n && ranks.iter().all(|&rank| (1..=n as u32).contains(&rank)) => {}
        (None, Some(_)) => {}
        _ => {
            let message =
                format!("must have a rank from 1 to {n} for each answer, or be absent with a reason in skipped");
            return Err(ApiError::invalid("ranking", message));
        }
    }
    let shown = ranking.shown.unwrap_or_else(|| (0..n as u64).collect());
    let mut sorted = shown.clone();
    sorted.sort_unstable();
    if sorted.windows(2).any(|two| two[0] == two[1]) || shown.iter().any(|&index| index >= n as u64) {
        return Err(ApiError::invalid("shown", "must name each answer that was shown once"));
    }
    // A user may choose between an answer and its retry; the order of more answers is a labeler's work.
    require(person, if n > 2 || ranking.task.is_some() { AccessRole::Labeler } else { AccessRole::User })?;
    let ranking = Ranking {
        answers: ranking.answers.into_iter().map(AnswerId::from).collect(),
        ranking: ranking.ranking,
        skipped: ranking.skipped,
        both_bad: ranking.both_bad,
        shown,
        blind: ranking.blind,
        task: ranking.task,
    };
    store(app, person, record, Act::Ranking(ranking)).await
}

/// Stores a demonstration.
pub(crate) async fn demonstrate(
    app: &Arc<App>,
    person: &Requester,
    mut fields: RequestFields,
) -> Result<(StatusCode, Value), ApiError> {
    let (record, demonstration): (RecordFields, DemonstrationFields) = (fields.get()?, fields.get()?);
    let messages = messages(&demonstration.messages)?;
    let is_whole = messages.len() > 1 && messages.last().is_some_and(|last| last.role == Speaker::Assistant);
    if !is_whole || messages.iter().any(|message| message.content.trim().is_empty()) {
        let what = "must end with an answer of the assistant, and no message may be empty";
        return Err(ApiError::invalid("messages", what));
    }
    if demonstration.based_on.is_none() {
        require(person, AccessRole::Labeler)?;
    }
    let based_on = demonstration.based_on.map(AnswerId::from);
    store(app, person, record, Act::Demonstration(Demonstration { messages, based_on })).await
}

/// Makes tasks for labelers.
pub(crate) async fn make_tasks(
    app: &Arc<App>,
    person: &Requester,
    mut fields: RequestFields,
) -> Result<Value, ApiError> {
    require(person, AccessRole::Admin)?;
    let wanted: TaskFields = fields.get()?;
    if !RANKED.contains(&(wanted.k as usize)) {
        return Err(ApiError::invalid("k", "must be from 2 to 9"));
    }
    if !app.served.writers.iter().any(|model| model.name == wanted.model && model.chats()) {
        return Err(ApiError::not_found("model_not_found", format!("no chat model {} is served", wanted.model)));
    }
    let prompts = wanted.prompts.iter().map(TaskPrompt::texts).filter(|(prompt, _)| !prompt.is_empty());
    let prompts: Vec<(&str, Option<&str>)> = prompts.collect();
    if prompts.is_empty() || prompts.len() > MOST_TASKS {
        return Err(ApiError::invalid("prompts", format!("must be 1 to {MOST_TASKS} texts")));
    }
    let task = |(number, (prompt, known_best)): (u64, &(&str, Option<&str>))| NewTask {
        messages: vec![Message::new(Speaker::User, *prompt)],
        k: wanted.k,
        model: wanted.model.clone(),
        temperature: wanted.temperature.unwrap_or(1.0),
        max_tokens: wanted.max_tokens.unwrap_or(128),
        seed: wanted.seed + number,
        known_best: known_best
            .filter(|text| !text.is_empty())
            .map(|text| (AnswerId { request: format!("known-{}", Ulid::new()), choice: 0 }, text.to_owned())),
        is_repeated: wanted.repeat_every > 0 && number % wanted.repeat_every == 0,
    };
    let tasks: Vec<NewTask> = (0..).zip(&prompts).map(task).collect();
    let (made, name) = (tasks.len(), person.name.clone());
    with_store(app, move |store| store.add_tasks(&name, &tasks)).await?;
    Ok(json!({ "made": made }))
}

/// The next task for a labeler.
pub(crate) async fn next_task(app: &Arc<App>, person: &Requester) -> Result<Value, ApiError> {
    require(person, AccessRole::Labeler)?;
    let name = person.name.clone();
    let (task, waiting) = with_store(app, move |store| store.next_task(&name)).await?;
    Ok(json!({ "task": task, "waiting": waiting }))
}

/// Figures: a labeler's own, or all.
pub(crate) async fn figures(app: &Arc<App>, person: &Requester) -> Result<Value, ApiError> {
    require(person, AccessRole::Labeler)?;
    let name = (person.role < AccessRole::Admin).then(|| person.name.clone());
    let figures = with_store(app, move |store| store.figures(name.as_deref()).map_err(StoreError::Other)).await?;
    Ok(json!(figures))
}

/// Records, the newest first: a labeler's own, or all. `from=N` of the query leaves the first N out.
pub(crate) async fn records(app: &Arc<App>, person: &Requester, query: Option<&str>) -> Result<Value, ApiError> {
    require(person, AccessRole::Labeler)?;
    let from = parameter(query, "from").unwrap_or("0").parse();
    let from: u32 = from.map_err(|_| ApiError::invalid("from", "must be a number of records"))?;
    let name = (person.role < AccessRole::Admin).then(|| person.name.clone());
    Ok(json!(with_store(app, move |store| store.records(name.as_deref(), from.into())).await?))
}

/// Where a record is from. Only administrators see folders and files of the server.
pub(crate) async fn record(app: &Arc<App>, person: &Requester, id: &str) -> Result<Value, ApiError> {
    require(person, AccessRole::Labeler)?;
    let unknown = || ApiError::not_found("unknown_record", format!("there is no record {id}"));
    let wanted: RecordId = id.parse().map_err(|_| unknown())?;
    let name = (person.role < AccessRole::Admin).then(|| person.name.clone());
    let is_admin = name.is_none();
    let mut record =
        with_store(app, move |store| store.provenance(wanted, name.as_deref())).await?.ok_or_else(unknown)?;
    if !is_admin {
        record.answers.iter_mut().for_each(|answer| answer.model.folder.clear());
        record.exports.iter_mut().for_each(|export| export.path.clear());
    }
    Ok(json!(record))
}

/// The value of `name` in the query.
fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<&'a str> {
    let mut pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    pairs.find_map(|(key, value)| (key == name).then_some(value))
}

/// Leaves a person out of exports and figures, or takes them in again.
pub(crate) async fn exclude(app: &Arc<App>, person: &Requester, mut fields: RequestFields) -> Result<Value, ApiError> {
    require(person, AccessRole::Admin)?;
    let ExcludedFields { name, excluded } = fields.get()?;
    let wanted = name.clone();
    if !with_store(app, move |store| store.exclude(&wanted, excluded)).await? {
        return Err(ApiError::not_found("unknown_person", format!("nobody is called {name}")).about("name"));
    }
    Ok(json!({}))
}

/// Deletes all that a person wrote, and names the exports that hold some of it.
pub(crate) async fn delete(app: &Arc<App>, person: &Requester, name: &str) -> Result<Value, ApiError> {
    require(person, AccessRole::Admin)?;
    let wanted = name.to_owned();
    let deleted = with_store(app, move |store| {
        let Some(report) = store.delete_person(&wanted)? else { return Ok(None) };
        let mut exports = store.exports().map_err(StoreError::Other)?;
        exports.retain(|export| report.exports.contains(&export.export));
        Ok(Some((report.records, exports)))
    });
    let Some((records, exports)) = deleted.await? else {
        return Err(ApiError::not_found("unknown_person", format!("nobody is called {name}")).about("name"));
    };
    let place = |export: &NotedExport| json!({ "export": export.export, "at": export.at, "path": export.path });
    Ok(json!({ "deleted": records, "exports": exports.iter().map(place).collect::<Vec<_>>() }))
}

/// Records of a kind as JSONL.
pub(crate) async fn export(
    app: &Arc<App>,
    person: &Requester,
    query: Option<&str>,
) -> Result<(String, String), ApiError> {
    require(person, AccessRole::Admin)?;
    let all = [ExportKind::Comparisons, ExportKind::Demonstrations, ExportKind::Prompts];
    let wanted = parameter(query, "kind");
    let kind = all.into_iter().find(|kind| Some(kind.name()) == wanted);
    let kind = kind.ok_or_else(|| ApiError::invalid("kind", "must be comparisons, demonstrations or prompts"))?;
    let download =
        move |store: &mut FeedbackStore| store.download(kind, &ExportFilter::default()).map_err(StoreError::Other);
    let text = with_store(app, download).await?;
    Ok((format!("{}.jsonl", kind.name()), text))
}
