//! `POST /v1/chat/completions`

use crate::api::answer::{
    AnswerForm, AnswerHead, FinishedAnswer, GptkitDetails, RunningAnswer, TokenUsage, finish_reason,
};
use crate::api::body::RequestFields;
use crate::api::error::ApiError;
use crate::api::kept::KeptAnswers;
use crate::api::request::{Wanted, job, model_of};
use crate::api::sampling::{SamplingFields, in_range, must_be_neutral};
use crate::app::App;
use crate::engine::job::ScoringJob;
use crate::guard::Requester;
use crate::models::ServedModel;
use axum::response::Response;
use gptkit_data::dialogue::{Message, Role};
use gptkit_model::continuation::TokenLogProb;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::oneshot;
use ulid::Ulid;
use utoipa::ToSchema;

/// A conversation to be continued.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ChatFields {
    /// The messages so far. When the last one is the assistant's, the answer continues it.
    pub(crate) messages: Vec<MessageField>,
    /// Longest answer, in tokens; before `max_tokens`.
    max_completion_tokens: Option<i64>,
    /// Whether log-probabilities are returned.
    logprobs: Option<bool>,
    /// So many of the most likely tokens at each place.
    #[schema(minimum = 0, maximum = 20)]
    top_logprobs: Option<i64>,
    /// Generate so many answers and return the `n` that the reward model finds best.
    best_of: Option<i64>,
    /// Name of the served reward model for `best_of`.
    reward_model: Option<String>,
    response_format: Option<Value>,
    tools: Option<Value>,
    tool_choice: Option<Value>,
    functions: Option<Value>,
    function_call: Option<Value>,
    modalities: Option<Value>,
    audio: Option<Value>,
    prediction: Option<Value>,
    web_search_options: Option<Value>,
    /// Whether the server stores prompt and answers, so that they can be rated and ranked.
    store: Option<bool>,
}

/// A message of a conversation.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct MessageField {
    /// `system`, `developer`, `user` or `assistant`.
    role: String,
    /// A text, or a list of parts of the type `text`.
    #[schema(value_type = String)]
    content: ContentField,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum ContentField {
    Text(String),
    Parts(Vec<PartField>),
}

#[derive(Debug, Deserialize)]
struct PartField {
    r#type: String,
    text: Option<String>,
}

const MOST_LOG_PROBS: i64 = 20;
/// The most answers among which the best are chosen.
const MOST_BEST_OF: i64 = 64;

impl ChatFields {
    /// Refuses what would change the answer.
    pub(crate) fn check(&self, keeps: bool) -> Result<(), ApiError> {
        let text = json!({ "type": "text" });
        must_be_neutral("response_format", self.response_format.as_ref(), &[text])?;
        must_be_neutral("tools", self.tools.as_ref(), &[json!([])])?;
        must_be_neutral("tool_choice", self.tool_choice.as_ref(), &[json!("none"), json!("auto")])?;
        must_be_neutral("functions", self.functions.as_ref(), &[json!([])])?;
        must_be_neutral("function_call", self.function_call.as_ref(), &[json!("none")])?;
        must_be_neutral("modalities", self.modalities.as_ref(), &[json!(["text"])])?;
        must_be_neutral("audio", self.audio.as_ref(), &[])?;
        must_be_neutral("prediction", self.prediction.as_ref(), &[])?;
        must_be_neutral("web_search_options", self.web_search_options.as_ref(), &[])?;
        match self.store {
            Some(true) if !keeps => {
                Err(ApiError::invalid("store", "the server keeps no answers; start it with --feedback DIR"))
            }
            _ => Ok(()),
        }
    }

    /// Log-probabilities of so many tokens at each place.
    pub(crate) fn log_probs(&self) -> Result<Option<usize>, ApiError> {
        match (self.logprobs.unwrap_or(false), self.top_logprobs) {
            (false, None | Some(0)) => Ok(None),
            (false, Some(_)) => Err(ApiError::invalid("top_logprobs", "needs logprobs: true")),
            (true, top) => in_range("top_logprobs", top.unwrap_or(0), 0, MOST_LOG_PROBS).map(Some),
        }
    }
}

/// The messages of a request.
pub(crate) fn messages(fields: &[MessageField]) -> Result<Vec<Message>, ApiError> {
    let mut messages: Vec<Message> = Vec::new();
    for (i, MessageField { role, content }) in fields.iter().enumerate() {
        let role = match role.as_str() {
            "system" | "developer" => Role::System,
            "user" => Role::User,
            "assistant" => Role::Assistant,
            other => {
                let message = format!("the role {other} is not supported; use system, developer, user or assistant");
                return Err(ApiError::invalid(format!("messages[{i}].role"), message));
            }
        };
        let content = match content {
            ContentField::Text(text) => text.clone(),
            ContentField::Parts(parts) => {
                let text = |(n, part): (usize, &PartField)| match (part.r#type.as_str(), &part.text) {
                    ("text", Some(text)) => Ok(text.clone()),
                    (other, _) => {
                        let message = format!("parts of the type {other} are not supported; only text is");
                        Err(ApiError::invalid(format!("messages[{i}].content[{n}]"), message))
                    }
                };
                parts.iter().enumerate().map(text).collect::<Result<String, _>>()?
            }
        };
        if role == Role::Assistant && messages.last().is_some_and(|last| last.role == Role::Assistant) {
            return Err(ApiError::invalid(format!("messages[{i}].role"), "two messages of the assistant in a row"));
        }
        messages.push(Message::new(role, content));
    }
    if messages.is_empty() {
        return Err(ApiError::invalid("messages", "is empty; a conversation needs a message"));
    }
    Ok(messages)
}

/// The tokens of `messages` up to where the answer begins, or goes on.
pub(crate) fn prompt(model: &ServedModel, messages: &[Message]) -> Result<Vec<u32>, ApiError> {
    let (before, begun) = match messages.split_last() {
        Some((last, before)) if last.role == Role::Assistant => (before, last.content.as_str()),
        _ => (messages, ""),
    };
    let refused = |e: anyhow::Error| ApiError::invalid("messages", format!("{e:#}"));
    let mut tokens = model.form.prompt(&model.tokenizer, before).map_err(refused)?;
    if !begun.is_empty() {
        tokens.extend(model.tokenizer.encode(begun).map_err(refused)?);
    }
    Ok(tokens)
}

/// Answers a conversation.
pub(crate) async fn complete(
    app: &Arc<App>,
    client: &Requester,
    mut fields: RequestFields,
) -> Result<(Response, Vec<String>), ApiError> {
    let sampling: SamplingFields = fields.get()?;
    let chat: ChatFields = fields.get()?;
    let ignored = fields.ignored(app.settings.strict)?;
    chat.check(app.feedback.is_some())?;
    let number = model_of(app, sampling.model.as_deref())?;
    let model = &app.served.writers[number];
    if !model.chats() {
        let message = format!(
            "{} was not trained for dialogue; use /v1/completions, or train it with `gptkit sft --init {}`",
            model.name,
            model.folder.display()
        );
        return Err(ApiError::bad("not_a_chat_model", message).about("model"));
    }
    let messages = messages(&chat.messages)?;
    let n = sampling.n()?;
    let best = best_of(app, &chat, n)?;
    let stream = sampling.stream()?;
    if best.is_some() && stream.is_some() {
        return Err(ApiError::invalid(
            "best_of",
            "cannot be streamed: the answers are compared when they are finished",
        ));
    }
    let (log_probs, is_stored) = (chat.log_probs()?, chat.store == Some(true));
    let wanted = Wanted {
        model: number,
        prompt: prompt(model, &messages)?,
        n: best.as_ref().map_or(n, |best| best.of),
        max_tokens: chat.max_completion_tokens.or(sampling.max_tokens),
        fewest: 1,
        log_probs: log_probs.or(is_stored.then_some(0)),
        echo: None,
        more_ends: model.form.end_of_turn(),
        more_stop: model.form.stop(),
    };
    let (job, events) = job(app, &sampling, client, wanted)?;
    let form = ChatForm { with_log_probs: log_probs.is_some(), begun: vec![false; job.options.n_samples] };
    let id = format!("chatcmpl-{}", Ulid::new());
    let kept = is_stored.then(|| KeptAnswers::new(app, client, &id, &messages, &job));
    let mut running = RunningAnswer::begin(app, job, events, id, form)?;
    running.kept = kept;
    if let Some(with_usage) = stream {
        return Ok((running.stream(with_usage), ignored));
    }
    let mut answers = running.collect().await?;
    if let Some(best) = best {
        answers = best.choose(app, messages, answers, n).await?;
    }
    Ok((running.whole(answers), ignored))
}

/// The best of several answers by a reward model.
struct BestAnswers {
    /// Number of the reward model.
    scorer: usize,
    of: usize,
}

fn best_of(app: &App, chat: &ChatFields, n: usize) -> Result<Option<BestAnswers>, ApiError> {
    let Some(of) = chat.best_of.filter(|&of| of != n as i64) else { return Ok(None) };
    let of = in_range("best_of", of, n as i64, MOST_BEST_OF)?;
    let scorer = scorer_of(app, chat.reward_model.as_deref(), "reward_model")?;
    Ok(Some(BestAnswers { scorer, of }))
}

/// The number of the reward model `name`; the first one when it is absent.
pub(crate) fn scorer_of(app: &App, name: Option<&str>, param: &str) -> Result<usize, ApiError> {
    let names: Vec<&str> = app.served.scorers.iter().map(|scorer| scorer.name.as_str()).collect();
    let found = match name {
        None => (!names.is_empty()).then_some(0),
        Some(name) => app.served.scorer(name),
    };
    found.ok_or_else(|| {
        let message = match (name, names.is_empty()) {
            (_, true) => "no reward model is served; start the server with --reward DIR".to_owned(),
            (name, false) => {
                format!("the reward model {} is not served; there are {}", name.unwrap_or_default(), names.join(", "))
            }
        };
        ApiError::not_found("model_not_found", message).about(param)
    })
}

impl BestAnswers {
    /// The `n` of `answers` with the highest rewards, best first.
    async fn choose(
        &self,
        app: &App,
        prompt: Vec<Message>,
        answers: Vec<FinishedAnswer>,
        n: usize,
    ) -> Result<Vec<FinishedAnswer>, ApiError> {
        let completions =
            answers.iter().map(|answer| vec![Message::new(Role::Assistant, answer.text.trim())]).collect();
        let rewards = rewards(app, self.scorer, prompt, completions).await?;
        let mut ranked: Vec<(f32, FinishedAnswer)> = rewards.into_iter().zip(answers).collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
        ranked.truncate(n);
        Ok(ranked.into_iter().map(|(_, answer)| answer).collect())
    }
}

/// The reward of each of `completions` of `prompt`, by the reward model with the number `model`.
pub(crate) async fn rewards(
    app: &App,
    model: usize,
    prompt: Vec<Message>,
    completions: Vec<Vec<Message>>,
) -> Result<Vec<f32>, ApiError> {
    let (reply, rewards) = oneshot::channel();
    app.queue.push_scoring(ScoringJob { model, prompt, completions, reply })?;
    let rewards = rewards.await.map_err(|_| ApiError::stopping())??;
    rewards.ok_or_else(|| {
        let message = "the prompt and a completion do not fit into the context of the reward model";
        ApiError::bad("context_length_exceeded", message)
    })
}

/// How an answer to a conversation looks.
#[derive(Debug)]
struct ChatForm {
    with_log_probs: bool,
    /// Whether an answer has text already: the space before the first word belongs to the form of the dialogue.
    begun: Vec<bool>,
}

impl AnswerForm for ChatForm {
    fn chunk_object(&self) -> &'static str {
        "chat.completion.chunk"
    }

    fn opening(&self, index: usize) -> Option<Value> {
        let delta = json!({ "role": "assistant", "content": "" });
        Some(json!({ "index": index, "delta": delta, "logprobs": null, "finish_reason": null }))
    }

    fn piece(&mut self, index: usize, text: &str, log_probs: &[TokenLogProb]) -> Value {
        let text = if self.begun[index] { text } else { text.trim_start() };
        self.begun[index] |= !text.is_empty();
        json!({
            "index": index, "delta": { "content": text }, "logprobs": self.log_probs(log_probs), "finish_reason": null,
        })
    }

    fn ending(&self, index: usize, finish: &str) -> Value {
        json!({ "index": index, "delta": {}, "logprobs": null, "finish_reason": finish })
    }

    fn echo(&mut self, _: Vec<TokenLogProb>) {}

    fn whole(
        &self,
        head: &AnswerHead,
        answers: Vec<FinishedAnswer>,
        usage: TokenUsage,
        details: GptkitDetails,
    ) -> Value {
        let choice = |(index, answer): (usize, &FinishedAnswer)| {
            let content = answer.text.trim_start();
            json!({
                "index": index, "message": { "role": "assistant", "content": content, "refusal": null },
                "logprobs": self.log_probs(&answer.log_probs), "finish_reason": answer.finish.map(finish_reason),
            })
        };
        json!({
            "id": head.id, "object": "chat.completion", "created": head.created, "model": head.model,
            "system_fingerprint": head.fingerprint,
            "choices": answers.iter().enumerate().map(choice).collect::<Vec<_>>(),
            "usage": usage, "gptkit": details,
        })
    }
}

impl ChatForm {
    fn log_probs(&self, log_probs: &[TokenLogProb]) -> Value {
        fn entry(one: &TokenLogProb) -> Value {
            json!({ "token": one.token, "logprob": one.log_prob, "bytes": one.token.as_bytes() })
        }
        let token = |one: &TokenLogProb| {
            let mut value = entry(one);
            value["top_logprobs"] = one.top.iter().map(entry).collect();
            value
        };
        match self.with_log_probs {
            true => json!({ "content": log_probs.iter().map(token).collect::<Vec<_>>(), "refusal": null }),
            false => Value::Null,
        }
    }
}
