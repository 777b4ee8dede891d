//! `POST /v1/completions`

use crate::api::answer::{
    AnswerForm, AnswerHead, FinishedAnswer, GptkitDetails, RunningAnswer, TokenUsage, finish_reason,
};
use crate::api::body::RequestFields;
use crate::api::error::ApiError;
use crate::api::request::{Wanted, job, model_of};
use crate::api::sampling::{SamplingFields, in_range, must_be_neutral};
use crate::app::App;
use crate::guard::Requester;
use crate::models::ServedModel;
use axum::Json;
use axum::response::{IntoResponse, Response};
use gptkit_model::continuation::TokenLogProb;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use ulid::Ulid;
use utoipa::ToSchema;

/// A text to be continued.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct CompletionFields {
    /// A text, a list of texts, a list of token ids, or a list of such lists.
    #[schema(value_type = String)]
    prompt: PromptField,
    /// Whether the prompt is part of the answer.
    echo: Option<bool>,
    /// Log-probabilities, with so many of the most likely tokens at each place.
    #[schema(minimum = 0, maximum = 5)]
    logprobs: Option<i64>,
    /// Generate so many answers and return the `n` with the highest mean log-probability.
    best_of: Option<i64>,
    suffix: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum PromptField {
    Text(String),
    Tokens(Vec<u32>),
    Texts(Vec<String>),
    TokenLists(Vec<Vec<u32>>),
}

const MOST_LOG_PROBS: i64 = 5;
const MOST_BEST_OF: i64 = 20;
/// What OpenAI takes where `max_tokens` is absent.
const DEFAULT_TOKENS: i64 = 16;
/// The most prompts of a request.
const MOST_PROMPTS: usize = 128;

impl CompletionFields {
    fn prompts(&self, model: &ServedModel) -> Result<Vec<Vec<u32>>, ApiError> {
        let encode = |text: &String| {
            let tokens = model.tokenizer.encode_prompt(text);
            tokens.map_err(|e| ApiError::invalid("prompt", format!("{e:#}")))
        };
        let prompts = match &self.prompt {
            PromptField::Text(text) => vec![encode(text)?],
            PromptField::Texts(texts) => texts.iter().map(encode).collect::<Result<_, _>>()?,
            PromptField::Tokens(tokens) => vec![tokens.clone()],
            PromptField::TokenLists(lists) => lists.clone(),
        };
        if prompts.is_empty() || prompts.len() > MOST_PROMPTS {
            return Err(ApiError::invalid("prompt", format!("there must be from 1 to {MOST_PROMPTS} prompts")));
        }
        Ok(prompts)
    }
}

/// Continues texts.
pub(crate) async fn complete(
    app: &Arc<App>,
    client: &Requester,
    mut fields: RequestFields,
) -> Result<(Response, Vec<String>), ApiError> {
    let mut sampling: SamplingFields = fields.get()?;
    let completion: CompletionFields = fields.get()?;
    let ignored = fields.ignored(app.settings.strict)?;
    must_be_neutral("suffix", completion.suffix.as_ref(), &[json!("")])?;
    let number = model_of(app, sampling.model.as_deref())?;
    let model = &app.served.writers[number];
    let n = sampling.n()?;
    let of = in_range("best_of", completion.best_of.unwrap_or(n as i64), n as i64, MOST_BEST_OF)?;
    let log_probs = completion.logprobs.map(|top| in_range("logprobs", top, 0, MOST_LOG_PROBS)).transpose()?;
    let echo = completion.echo.unwrap_or(false);
    let stream = sampling.stream()?;
    if stream.is_some() && of > n {
        return Err(ApiError::invalid(
            "best_of",
            "cannot be streamed: the answers are compared when they are finished",
        ));
    }
    let prompts = completion.prompts(model)?;
    if stream.is_some() && prompts.len() > 1 {
        return Err(ApiError::invalid("prompt", "only one prompt can be streamed"));
    }
    let mut running = Vec::new();
    let id = format!("cmpl-{}", Ulid::new());
    sampling.max_tokens.get_or_insert(DEFAULT_TOKENS);
    for prompt in prompts {
        let wanted = Wanted {
            model: number,
            prompt,
            n: of,
            max_tokens: sampling.max_tokens,
            fewest: 0,
            log_probs: log_probs.or((of > n).then_some(0)),
            echo: log_probs.filter(|_| echo),
            more_ends: None,
            more_stop: None,
        };
        let (job, events) = job(app, &sampling, client, wanted)?;
        let prompt = job.prompt.clone();
        let pieces = |tokens: &[u32]| tokens.iter().map(|&id| model.tokenizer.token_text(id)).collect::<Vec<_>>();
        let form = CompletionForm {
            with_log_probs: log_probs.is_some(),
            prompt: if echo { pieces(&prompt) } else { Vec::new() },
            text: if echo { model.tokenizer.decode(&prompt).unwrap_or_default() } else { String::new() },
            echoed: Vec::new(),
            offsets: vec![0; of],
        };
        running.push(RunningAnswer::begin(app, job, events, id.clone(), form)?);
    }
    if let (Some(with_usage), true) = (stream, running.len() == 1) {
        let answer = running.remove(0);
        return Ok((answer.stream(with_usage), ignored));
    }
    let mut whole: Option<Value> = None;
    for mut answer in running {
        let mut answers = answer.collect().await?;
        if of > n {
            answers.sort_by(|a, b| mean_log_prob(b).total_cmp(&mean_log_prob(a)));
            answers.truncate(n);
        }
        let (usage, details) = answer.counts();
        add(&mut whole, answer.form.whole(&answer.head, answers, usage, details));
    }
    Ok((Json(whole).into_response(), ignored))
}

fn mean_log_prob(answer: &FinishedAnswer) -> f32 {
    let sum: f32 = answer.log_probs.iter().map(|one| one.log_prob).sum();
    sum / answer.log_probs.len().max(1) as f32
}

/// Adds the choices and counts of one prompt's answers to those of the prompts before.
fn add(whole: &mut Option<Value>, one: Value) {
    let Some(whole) = whole else {
        *whole = Some(one);
        return;
    };
    let Value::Object(mut one) = one else { return };
    if let (Some(choices), Some(Value::Array(more))) = (whole["choices"].as_array_mut(), one.remove("choices")) {
        let first = choices.len();
        choices.extend(more.into_iter().enumerate().map(|(i, mut choice)| {
            choice["index"] = json!(first + i);
            choice
        }));
    }
    for key in ["prompt_tokens", "completion_tokens", "total_tokens"] {
        let sum = whole["usage"][key].as_u64().unwrap_or(0) + one["usage"][key].as_u64().unwrap_or(0);
        whole["usage"][key] = json!(sum);
    }
}

/// How a continuation looks.
#[derive(Debug)]
struct CompletionForm {
    with_log_probs: bool,
    /// The text of each token of the prompt, where it is part of the answer.
    prompt: Vec<String>,
    /// The text of the prompt, where it is part of the answer.
    text: String,
    /// Log-probabilities of the prompt's tokens from the second on.
    echoed: Vec<TokenLogProb>,
    /// Characters of each answer that have been sent.
    offsets: Vec<usize>,
}

impl AnswerForm for CompletionForm {
    fn chunk_object(&self) -> &'static str {
        "text_completion"
    }

    fn opening(&self, index: usize) -> Option<Value> {
        let choice = json!({ "index": index, "text": self.text, "logprobs": null, "finish_reason": null });
        (!self.text.is_empty()).then_some(choice)
    }

    fn piece(&mut self, index: usize, text: &str, log_probs: &[TokenLogProb]) -> Value {
        let mut table = LogProbTable { offset: self.offsets[index], ..LogProbTable::default() };
        log_probs.iter().for_each(|one| table.add(&one.token, Some(one)));
        self.offsets[index] = table.offset;
        let log_probs = if self.with_log_probs { table.value() } else { Value::Null };
        json!({ "index": index, "text": text, "logprobs": log_probs, "finish_reason": null })
    }

    fn ending(&self, index: usize, finish: &str) -> Value {
        json!({ "index": index, "text": "", "logprobs": null, "finish_reason": finish })
    }

    fn echo(&mut self, log_probs: Vec<TokenLogProb>) {
        self.echoed.extend(log_probs);
    }

    fn whole(
        &self,
        head: &AnswerHead,
        answers: Vec<FinishedAnswer>,
        usage: TokenUsage,
        details: GptkitDetails,
    ) -> Value {
        let choice = |(index, answer): (usize, &FinishedAnswer)| {
            let mut table = LogProbTable::default();
            for (i, token) in self.prompt.iter().enumerate() {
                table.add(token, i.checked_sub(1).and_then(|i| self.echoed.get(i)));
            }
            answer.log_probs.iter().for_each(|one| table.add(&one.token, Some(one)));
            json!({
                "index": index, "text": format!("{}{}", self.text, answer.text),
                "logprobs": if self.with_log_probs { table.value() } else { Value::Null },
                "finish_reason": answer.finish.map(finish_reason),
            })
        };
        json!({
            "id": head.id, "object": "text_completion", "created": head.created, "model": head.model,
            "system_fingerprint": head.fingerprint,
            "choices": answers.iter().enumerate().map(choice).collect::<Vec<_>>(),
            "usage": usage, "gptkit": details,
        })
    }
}

/// Log-probabilities in the form of the older endpoint.
#[derive(Debug, Default)]
struct LogProbTable {
    tokens: Vec<String>,
    token_logprobs: Vec<Option<f32>>,
    top_logprobs: Vec<Value>,
    text_offset: Vec<usize>,
    /// Characters before the next token.
    offset: usize,
}

impl LogProbTable {
    /// Adds a token; the first of a text has no log-probability.
    fn add(&mut self, token: &str, log_prob: Option<&TokenLogProb>) {
        self.tokens.push(token.to_owned());
        self.token_logprobs.push(log_prob.map(|one| one.log_prob));
        self.top_logprobs.push(log_prob.map_or(Value::Null, |one| {
            // The chosen token is always there, as in OpenAI's answers.
            let mut top: Map<String, Value> = Map::new();
            for likely in one.top.iter().chain([one]) {
                top.entry(likely.token.clone()).or_insert(json!(likely.log_prob));
            }
            Value::Object(top)
        }));
        self.text_offset.push(self.offset);
        self.offset += token.chars().count();
    }

    fn value(self) -> Value {
        let Self { tokens, token_logprobs, top_logprobs, text_offset, .. } = self;
        json!({
            "tokens": tokens, "token_logprobs": token_logprobs, "top_logprobs": top_logprobs, "text_offset": text_offset,
        })
    }
}
