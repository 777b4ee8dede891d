//! A request to a model from its job to its answer: in one piece, or as a stream of server-sent events.

use crate::api::error::{ApiError, ErrorResponse};
use crate::api::kept::KeptAnswers;
use crate::app::App;
use crate::engine::job::{GenerationEvent, GenerationJob};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use gptkit_model::continuation::{Finish, TokenLogProb};
use serde::Serialize;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc::UnboundedReceiver;
use utoipa::ToSchema;

/// Time between two comments of a stream in which nothing happens.
const PING: Duration = Duration::from_secs(10);

/// Counts of tokens.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub(crate) struct TokenUsage {
    /// Tokens of the prompt.
    pub(crate) prompt_tokens: usize,
    /// Generated tokens of all answers.
    pub(crate) completion_tokens: usize,
    /// Both together.
    pub(crate) total_tokens: usize,
    /// More about the prompt.
    pub(crate) prompt_tokens_details: PromptTokensDetails,
}

/// More about the tokens of a prompt.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub(crate) struct PromptTokensDetails {
    /// Tokens that the server had read before.
    pub(crate) cached_tokens: usize,
}

/// gptkit's own part of an answer.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct GptkitDetails {
    /// The seed that was used: the same request with it gives the same answer.
    pub(crate) seed: u64,
    /// Fingerprint of the weights.
    pub(crate) weights: String,
    /// Time in the queue, in milliseconds.
    pub(crate) queue_ms: f64,
    /// Time for the prompt.
    pub(crate) prompt_ms: f64,
    /// Time from the request to the first token.
    pub(crate) first_token_ms: f64,
    /// Generated tokens a second, after the prompt.
    pub(crate) tokens_per_s: f64,
}

/// What every answer to one request says of itself.
#[derive(Debug, Clone)]
pub(crate) struct AnswerHead {
    pub(crate) id: String,
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) fingerprint: String,
    pub(crate) weights: String,
    pub(crate) seed: u64,
    pub(crate) prompt_tokens: usize,
    pub(crate) asked: Instant,
}

/// How a kind of answer looks.
pub(crate) trait AnswerForm: Send + Sync + 'static {
    /// `object` of a chunk of a stream.
    fn chunk_object(&self) -> &'static str;
    /// The first chunk of each answer, if it has one before its text.
    fn opening(&self, index: usize) -> Option<Value>;
    /// A piece of an answer.
    fn piece(&mut self, index: usize, text: &str, log_probs: &[TokenLogProb]) -> Value;
    /// The end of an answer.
    fn ending(&self, index: usize, finish: &str) -> Value;
    /// The log-probabilities of the prompt's own tokens.
    fn echo(&mut self, log_probs: Vec<TokenLogProb>);
    /// All answers in one piece.
    fn whole(
        &self,
        head: &AnswerHead,
        answers: Vec<FinishedAnswer>,
        usage: TokenUsage,
        details: GptkitDetails,
    ) -> Value;
}

/// An answer that has its end.
#[derive(Debug, Clone, Default)]
pub(crate) struct FinishedAnswer {
    pub(crate) text: String,
    pub(crate) log_probs: Vec<TokenLogProb>,
    pub(crate) finish: Option<Finish>,
}

/// A request that the engine works on.
pub(crate) struct RunningAnswer<F> {
    pub(crate) head: AnswerHead,
    pub(crate) form: F,
    pub(crate) n: usize,
    /// Stores the answers, if the request asks for that.
    pub(crate) kept: Option<KeptAnswers>,
    events: UnboundedReceiver<GenerationEvent>,
    app: Arc<App>,
    times: Times,
    done: usize,
    n_tokens: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct Times {
    waited: Duration,
    cached: usize,
    prompt: Duration,
    /// When the prompt had been read.
    first: Option<Instant>,
}

/// `finish_reason` as OpenAI names it.
pub(crate) fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Length => "length",
        Finish::EndOfText | Finish::Stop | Finish::Interrupted => "stop",
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl<F: AnswerForm> RunningAnswer<F> {
    /// Hands `job` to the engine; its events arrive at `events`.
    pub(crate) fn begin(
        app: &Arc<App>,
        job: GenerationJob,
        events: UnboundedReceiver<GenerationEvent>,
        id: String,
        form: F,
    ) -> Result<Self, ApiError> {
        let model = &app.served.writers[job.model];
        let head = AnswerHead {
            id,
            created: now(),
            model: model.name.clone(),
            fingerprint: model.identity.fingerprint.clone(),
            weights: model.identity.weights.clone(),
            seed: job.options.sampling.seed,
            prompt_tokens: job.prompt.len(),
            asked: job.asked,
        };
        let n = job.options.n_samples;
        app.queue.push(job).map_err(|refusal| {
            app.metrics.rejected("queue_full");
            ApiError::from(refusal)
        })?;
        let times = Times::default();
        Ok(Self { head, form, n, kept: None, events, app: Arc::clone(app), times, done: 0, n_tokens: 0 })
    }

    /// The next event; `None` after the last.
    async fn next(&mut self) -> Option<Result<GenerationEvent, ApiError>> {
        if self.done == self.n {
            return None;
        }
        let event = self.events.recv().await;
        match &event {
            Some(GenerationEvent::Begun { waited, cached }) => {
                (self.times.waited, self.times.cached) = (*waited, *cached);
            }
            Some(GenerationEvent::PromptRead(took)) => {
                (self.times.prompt, self.times.first) = (*took, Some(Instant::now()));
            }
            Some(GenerationEvent::Done { index, finish, tokens }) => {
                self.done += 1;
                self.n_tokens += tokens.len();
                if let Some(kept) = &mut self.kept {
                    kept.end(&self.app, *index, finish_reason(*finish), tokens.clone()).await;
                }
                if self.done == self.n {
                    self.app.metrics.answered(self.head.asked.elapsed());
                }
            }
            Some(GenerationEvent::Text { index, text, log_probs }) => {
                if let Some(kept) = &mut self.kept {
                    kept.push(*index, text, log_probs);
                }
            }
            Some(GenerationEvent::Echo(_)) => {}
            Some(GenerationEvent::Failed(failure)) => {
                self.done = self.n;
                return Some(Err(failure.clone().into()));
            }
            // The engine has dropped the request without a word.
            None => {
                self.done = self.n;
                return Some(Err(ApiError::internal("the engine has stopped")));
            }
        }
        event.map(Ok)
    }

    fn usage(&self) -> TokenUsage {
        TokenUsage {
            prompt_tokens: self.head.prompt_tokens,
            completion_tokens: self.n_tokens,
            total_tokens: self.head.prompt_tokens + self.n_tokens,
            prompt_tokens_details: PromptTokensDetails { cached_tokens: self.times.cached },
        }
    }

    fn details(&self) -> GptkitDetails {
        let ms = |time: Duration| (time.as_secs_f64() * 1e5).round() / 100.0;
        let first = self.times.first.unwrap_or(self.head.asked);
        let writing = first.elapsed().as_secs_f64().max(1e-6);
        GptkitDetails {
            seed: self.head.seed,
            weights: self.head.weights.clone(),
            queue_ms: ms(self.times.waited),
            prompt_ms: ms(self.times.prompt),
            first_token_ms: ms(first.duration_since(self.head.asked)),
            tokens_per_s: (self.n_tokens as f64 / writing * 10.0).round() / 10.0,
        }
    }

    /// Waits for all answers.
    pub(crate) async fn collect(&mut self) -> Result<Vec<FinishedAnswer>, ApiError> {
        let mut answers = vec![FinishedAnswer::default(); self.n];
        while let Some(event) = self.next().await {
            match event? {
                GenerationEvent::Text { index, text, log_probs } => {
                    answers[index].text += &text;
                    answers[index].log_probs.extend(log_probs);
                }
                GenerationEvent::Done { index, finish, .. } => {
                    answers[index].finish = Some(finish);
                }
                GenerationEvent::Echo(log_probs) => self.form.echo(log_probs),
                GenerationEvent::Begun { .. } | GenerationEvent::PromptRead(_) | GenerationEvent::Failed(_) => {}
            }
        }
        Ok(answers)
    }

    /// Counts of tokens, and gptkit's own part of the answer.
    pub(crate) fn counts(&self) -> (TokenUsage, GptkitDetails) {
        (self.usage(), self.details())
    }

    /// `answers` in one piece.
    pub(crate) fn whole(&self, answers: Vec<FinishedAnswer>) -> Response {
        axum::Json(self.form.whole(&self.head, answers, self.usage(), self.details())).into_response()
    }

    /// The answers as a stream, which ends with `[DONE]` or with an error, whatever happens: clients take a stream that just
    /// ends for a whole one.
    pub(crate) fn stream(self, with_usage: bool) -> Response {
        let opening: Vec<Value> = (0..self.n).filter_map(|index| self.form.opening(index)).collect();
        let mut state = StreamState { answer: self, with_usage, ready: Vec::new(), over: false };
        state.ready = opening.into_iter().rev().map(|choice| state.chunk(vec![choice])).collect();
        let events = futures_util::stream::unfold(state, |mut state| async move {
            let event = state.next().await?;
            Some((Ok::<Event, Infallible>(event), state))
        });
        let keep_alive = KeepAlive::new().interval(PING).text("ping");
        let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
        let headers = response.headers_mut();
        headers.insert("cache-control", axum::http::HeaderValue::from_static("no-store"));
        headers.insert("x-accel-buffering", axum::http::HeaderValue::from_static("no"));
        response
    }
}

struct StreamState<F> {
    answer: RunningAnswer<F>,
    with_usage: bool,
    /// Events that come next, the next one last.
    ready: Vec<Event>,
    /// Whether nothing more comes from the engine.
    over: bool,
}

impl<F: AnswerForm> StreamState<F> {
    /// A chunk with these choices.
    fn chunk(&self, choices: Vec<Value>) -> Event {
        Event::default().data(self.chunk_value(choices).to_string())
    }

    fn chunk_value(&self, choices: Vec<Value>) -> Value {
        let head = &self.answer.head;
        let mut chunk = json!({
            "id": head.id, "object": self.answer.form.chunk_object(), "created": head.created, "model": head.model,
            "system_fingerprint": head.fingerprint, "choices": choices,
        });
        if self.with_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop() {
                return Some(event);
            }
            if self.over {
                return None;
            }
            match self.answer.next().await {
                None => self.end(),
                Some(Err(error)) => {
                    self.over = true;
                    let body = json!(ErrorResponse { error: error.body });
                    return Some(Event::default().data(body.to_string()));
                }
                Some(Ok(GenerationEvent::Text { index, text, log_probs })) => {
                    let piece = self.answer.form.piece(index, &text, &log_probs);
                    return Some(self.chunk(vec![piece]));
                }
                Some(Ok(GenerationEvent::Done { index, finish, .. })) => {
                    return Some(self.chunk(vec![self.answer.form.ending(index, finish_reason(finish))]));
                }
                Some(Ok(_)) => {}
            }
        }
    }

    /// The counts of tokens, then the mark of the end.
    fn end(&mut self) {
        self.over = true;
        self.ready.push(Event::default().data("[DONE]"));
        if self.with_usage {
            let mut last = self.chunk_value(Vec::new());
            last["usage"] = json!(self.answer.usage());
            last["gptkit"] = json!(self.answer.details());
            self.ready.push(Event::default().data(last.to_string()));
        }
    }
}
