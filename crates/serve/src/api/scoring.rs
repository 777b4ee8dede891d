//! `POST /v1/score` and `POST /v1/rerank`: rewards from a served reward model.

use crate::api::answer::now;
use crate::api::body::RequestFields;
use crate::api::chat::{MessageField, messages, rewards, scorer_of};
use crate::api::error::ApiError;
use crate::api::sampling::in_range;
use crate::app::App;
use gptkit_data::dialogue::{Message, Role};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

/// Completions to be scored.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ScoreFields {
    /// Name of a served reward model.
    model: Option<String>,
    /// The conversation before the completions.
    messages: Option<Vec<MessageField>>,
    /// A message of the user, in place of `messages`.
    prompt: Option<String>,
    /// The assistant's messages.
    completions: Vec<String>,
}

/// Documents to be ordered: as answers to a message of the user.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct RerankFields {
    /// Name of a served reward model.
    model: Option<String>,
    /// The message of the user.
    query: String,
    /// The answers.
    documents: Vec<String>,
    /// Return so many.
    top_n: Option<i64>,
}

/// The most completions of a request.
const MOST_COMPLETIONS: usize = 256;

async fn rewards_of(
    app: &App,
    scorer: usize,
    prompt: Vec<Message>,
    texts: &[String],
    param: &str,
) -> Result<Vec<f32>, ApiError> {
    if texts.is_empty() || texts.len() > MOST_COMPLETIONS {
        return Err(ApiError::invalid(param, format!("there must be from 1 to {MOST_COMPLETIONS}")));
    }
    let completions = texts.iter().map(|text| vec![Message::new(Role::Assistant, text.as_str())]).collect();
    rewards(app, scorer, prompt, completions).await
}

/// The reward of each completion.
pub(crate) async fn score(app: &App, mut fields: RequestFields) -> Result<(Value, Vec<String>), ApiError> {
    let score: ScoreFields = fields.get()?;
    let ignored = fields.ignored(app.settings.strict)?;
    let scorer = scorer_of(app, score.model.as_deref(), "model")?;
    let prompt = match (&score.messages, score.prompt) {
        (Some(fields), None) => messages(fields)?,
        (None, Some(text)) => vec![Message::new(Role::User, text)],
        _ => return Err(ApiError::invalid("prompt", "give either messages or prompt")),
    };
    let rewards = rewards_of(app, scorer, prompt, &score.completions, "completions").await?;
    let model = &app.served.scorers[scorer].name;
    Ok((json!({ "object": "score", "created": now(), "model": model, "rewards": rewards }), ignored))
}

/// The documents by reward, best first.
pub(crate) async fn rerank(app: &App, mut fields: RequestFields) -> Result<(Value, Vec<String>), ApiError> {
    let rerank: RerankFields = fields.get()?;
    let ignored = fields.ignored(app.settings.strict)?;
    let scorer = scorer_of(app, rerank.model.as_deref(), "model")?;
    let prompt = vec![Message::new(Role::User, rerank.query)];
    let rewards = rewards_of(app, scorer, prompt, &rerank.documents, "documents").await?;
    let mut order: Vec<usize> = (0..rewards.len()).collect();
    order.sort_by(|&a, &b| rewards[b].total_cmp(&rewards[a]));
    let top = rerank.top_n.map(|n| in_range("top_n", n, 1, i64::MAX)).transpose()?.unwrap_or(order.len());
    let result =
        |&i: &usize| json!({ "index": i, "relevance_score": rewards[i], "document": { "text": rerank.documents[i] } });
    let results: Vec<Value> = order.iter().take(top).map(result).collect();
    Ok((json!({ "model": app.served.scorers[scorer].name, "results": results }), ignored))
}
