//! Fields of a request → a job of the engine.

use crate::api::error::ApiError;
use crate::api::sampling::{SamplingFields, in_range};
use crate::app::App;
use crate::engine::job::{GenerationEvent, GenerationJob};
use crate::guard::Requester;
use crate::models::ServedModel;
use gptkit_model::continuation::{GenerationOptions, LateEnds};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// The part of a job that its endpoint decides.
pub(crate) struct Wanted {
    /// Number of the served model.
    pub(crate) model: usize,
    pub(crate) prompt: Vec<u32>,
    pub(crate) n: usize,
    /// Longest answer; up to the end of the context when absent.
    pub(crate) max_tokens: Option<i64>,
    /// The least value of `max_tokens`.
    pub(crate) fewest: i64,
    /// Log-probabilities of so many tokens at each place.
    pub(crate) log_probs: Option<usize>,
    pub(crate) echo: Option<usize>,
    /// Tokens and texts that end an answer besides those that the request names.
    pub(crate) more_ends: Option<u32>,
    pub(crate) more_stop: Option<&'static str>,
}

/// The number of the language model that a request names.
pub(crate) fn model_of(app: &App, name: Option<&str>) -> Result<usize, ApiError> {
    let Some(name) = name else { return Ok(0) };
    app.served.writer(name).ok_or_else(|| {
        if app.served.scorer(name).is_some() {
            let what = format!("{name} is a reward model; it scores answers (/v1/score, /v1/rerank) and generates no text");
            return ApiError::invalid("model", what);
        }
        let names: Vec<&str> = app.served.writers.iter().map(|model| model.name.as_str()).collect();
        let message = format!(
            "the model {name} is not served; the models are {} (a server started with --alias {name} accepts this name)",
            names.join(", ")
        );
        ApiError::not_found("model_not_found", message).about("model")
    })
}

/// Creates the job of a request, and the channel for its events.
pub(crate) fn job(
    app: &App,
    fields: &SamplingFields,
    client: &Requester,
    wanted: Wanted,
) -> Result<(GenerationJob, UnboundedReceiver<GenerationEvent>), ApiError> {
    let model = &app.served.writers[wanted.model];
    let prompt = check_prompt(model, wanted.prompt)?;
    let room = model.context() - prompt.len();
    let max_new_tokens = match wanted.max_tokens {
        None => room,
        Some(most) => in_range("max_tokens", most, wanted.fewest, i64::MAX)?.min(room),
    };
    if room == 0 && max_new_tokens == 0 && wanted.fewest > 0 {
        return Err(too_long(model, prompt.len()));
    }
    let ends: Vec<u32> = model.end_of_text.iter().copied().chain(wanted.more_ends).collect();
    let least = fields.min_tokens.map(|least| in_range("min_tokens", least, 0, i64::MAX)).transpose()?.unwrap_or(0);
    let (ends, late_ends) = match (fields.ignore_eos.unwrap_or(false), least) {
        (true, _) => (Vec::new(), LateEnds::default()),
        (false, 0) => (ends, LateEnds::default()),
        (false, after) => (Vec::new(), LateEnds { tokens: ends, after }),
    };
    let options = GenerationOptions {
        n_samples: wanted.n,
        max_new_tokens,
        stop: fields.stop()?.into_iter().chain(wanted.more_stop.map(str::to_owned)).collect(),
        log_probs: wanted.log_probs,
        sampling: fields.sampling(model.config().vocab_size)?,
    };
    let (events, receiver) = unbounded_channel();
    let client = match &fields.user {
        Some(user) => format!("{} {user}", client.client).into(),
        None => Arc::clone(&client.client),
    };
    let (model, echo, asked, counted) = (wanted.model, wanted.echo, Instant::now(), AtomicBool::new(false));
    let job = GenerationJob { model, client, prompt, options, ends, late_ends, echo, events, asked, counted };
    let bytes = job.bytes(&app.served.writers[model]);
    if wanted.n > app.rows || bytes > app.cache_bytes {
        let what = "the request needs more memory than the server has for keys and values";
        return Err(ApiError::invalid("n", format!("{what}; ask for fewer answers or tokens")));
    }
    Ok((job, receiver))
}

fn check_prompt(model: &ServedModel, prompt: Vec<u32>) -> Result<Vec<u32>, ApiError> {
    let vocab_size = model.config().vocab_size;
    if prompt.is_empty() {
        return Err(ApiError::invalid("prompt", "the prompt is empty"));
    }
    if let Some(token) = prompt.iter().find(|&&token| token as usize >= vocab_size) {
        return Err(ApiError::invalid("prompt", format!("{token} is not a token id below {vocab_size}")));
    }
    if prompt.len() > model.context() {
        return Err(too_long(model, prompt.len()));
    }
    Ok(prompt)
}

/// That a prompt leaves no room for an answer.
fn too_long(model: &ServedModel, tokens: usize) -> ApiError {
    let context = model.context();
    let message =
        format!("the prompt has {tokens} tokens; the model reads at most {context}, and the answer needs room");
    ApiError::bad("context_length_exceeded", message)
}
