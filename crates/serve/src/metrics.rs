//! Counters and histograms for Prometheus. The names follow vLLM's, so that its dashboards can be used.

use gptkit_model::continuation::Finish;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::fmt::Write;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// All that is counted.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    /// Continuations that are written, or whose prompts are read.
    pub(crate) running: Gauge,
    /// Requests in the queue.
    pub(crate) waiting: Gauge,
    /// Bytes of keys and values, reserved or held.
    pub(crate) cache_bytes: Gauge,
    /// Share of the bytes for keys and values.
    pub(crate) cache_usage: Gauge<f64, AtomicU64>,
    /// Continuations in a step.
    pub(crate) step_rows: Histogram,
    /// Steps that failed.
    pub(crate) failures: Counter,
    requests: Family<RouteLabels, Counter>,
    rejections: Family<ReasonLabels, Counter>,
    prompt_tokens: Counter,
    cached_tokens: Counter,
    generation_tokens: Counter,
    success: Family<FinishLabels, Counter>,
    canceled: Family<WhereLabels, Counter>,
    feedback: Family<KindLabels, Counter>,
    feedback_failures: Counter,
    first_token: Histogram,
    between_tokens: Histogram,
    latency: Histogram,
    queue_time: Histogram,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RouteLabels {
    route: String,
    code: u16,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabels {
    reason: String,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabels {
    kind: String,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FinishLabels {
    finish_reason: String,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct WhereLabels {
    r#where: CanceledWhere,
}

/// What a canceled request was doing.
#[derive(Debug, Clone, Copy, Hash, PartialEq, Eq)]
pub(crate) enum CanceledWhere {
    Queue,
    Prompt,
    Writing,
}

impl EncodeLabelValue for CanceledWhere {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> std::fmt::Result {
        encoder.write_str(match self {
            Self::Queue => "queue",
            Self::Prompt => "prompt",
            Self::Writing => "writing",
        })
    }
}

/// vLLM's bounds, in seconds.
const FIRST_TOKEN: [f64; 18] =
    [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0];
const BETWEEN_TOKENS: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0];
const LATENCY: [f64; 14] = [0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 20.0, 60.0, 120.0];
const ROWS: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("gptkit");
        let mut metrics = Self {
            running: Gauge::default(),
            waiting: Gauge::default(),
            cache_bytes: Gauge::default(),
            cache_usage: Gauge::default(),
            step_rows: Histogram::new(ROWS),
            failures: Counter::default(),
            requests: Family::default(),
            rejections: Family::default(),
            prompt_tokens: Counter::default(),
            cached_tokens: Counter::default(),
            generation_tokens: Counter::default(),
            success: Family::default(),
            canceled: Family::default(),
            feedback: Family::default(),
            feedback_failures: Counter::default(),
            first_token: Histogram::new(FIRST_TOKEN),
            between_tokens: Histogram::new(BETWEEN_TOKENS),
            latency: Histogram::new(LATENCY),
            queue_time: Histogram::new(LATENCY),
            registry: Registry::default(),
        };
        registry.register("requests_running", "Continuations that are being generated", metrics.running.clone());
        registry.register("requests_waiting", "Requests in the queue", metrics.waiting.clone());
        registry.register("requests", "Requests by route and status code", metrics.requests.clone());
        registry.register("admission_rejections", "Requests that were not accepted", metrics.rejections.clone());
        registry.register("prompt_tokens", "Tokens of prompts", metrics.prompt_tokens.clone());
        registry.register(
            "prompt_tokens_cached",
            "Tokens of prompts that were not read again",
            metrics.cached_tokens.clone(),
        );
        registry.register("generation_tokens", "Generated tokens", metrics.generation_tokens.clone());
        registry.register("request_success", "Continuations by reason of their end", metrics.success.clone());
        registry.register("cancelled", "Requests that the client gave up", metrics.canceled.clone());
        registry.register("feedback", "Records of feedback by kind", metrics.feedback.clone());
        registry.register("feedback_failures", "Answers that could not be stored", metrics.feedback_failures.clone());
        registry.register("engine_failures", "Steps of the engine that failed", metrics.failures.clone());
        registry.register(
            "time_to_first_token_seconds",
            "Time from a request to its first token",
            metrics.first_token.clone(),
        );
        registry.register(
            "inter_token_latency_seconds",
            "Time between two tokens of a continuation",
            metrics.between_tokens.clone(),
        );
        registry.register(
            "e2e_request_latency_seconds",
            "Time from a request to the end of its answer",
            metrics.latency.clone(),
        );
        registry.register("request_queue_time_seconds", "Time in the queue", metrics.queue_time.clone());
        registry.register("step_rows", "Continuations in a step of the engine", metrics.step_rows.clone());
        registry.register("kv_cache_bytes", "Bytes of keys and values, reserved or held", metrics.cache_bytes.clone());
        registry.register(
            "kv_cache_usage_ratio",
            "Share of the memory for keys and values",
            metrics.cache_usage.clone(),
        );
        metrics.registry = registry;
        metrics
    }

    /// Everything in Prometheus' text format.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let _ = encode(&mut text, &self.registry); // writing to a string does not fail
        text
    }

    pub(crate) fn canceled(&self, r#where: CanceledWhere) {
        self.canceled.get_or_create(&WhereLabels { r#where }).inc();
    }

    /// A record of feedback was stored.
    pub(crate) fn feedback(&self, kind: &str) {
        self.feedback.get_or_create(&KindLabels { kind: kind.to_owned() }).inc();
    }

    /// An answer could not be stored.
    pub(crate) fn feedback_failed(&self) {
        self.feedback_failures.inc();
    }

    pub(crate) fn begun(&self, waited: Duration, prompt: usize, cached: usize) {
        self.queue_time.observe(waited.as_secs_f64());
        self.prompt_tokens.inc_by(prompt as u64);
        self.cached_tokens.inc_by(cached as u64);
    }

    /// The first token comes with the last one of the prompt.
    pub(crate) fn prompt_read(&self, since_asked: Duration) {
        self.first_token.observe(since_asked.as_secs_f64());
    }

    /// A continuation got a token, this time after the one before, if there is one.
    pub(crate) fn token(&self, after: Option<Duration>) {
        self.generation_tokens.inc();
        after.iter().for_each(|after| self.between_tokens.observe(after.as_secs_f64()));
    }

    pub(crate) fn done(&self, finish: Finish) {
        let finish_reason = if finish == Finish::Length { "length" } else { "stop" }.to_owned();
        self.success.get_or_create(&FinishLabels { finish_reason }).inc();
    }

    /// A request was answered in this time.
    pub(crate) fn answered(&self, took: Duration) {
        self.latency.observe(took.as_secs_f64());
    }

    pub(crate) fn rejected(&self, reason: &str) {
        self.rejections.get_or_create(&ReasonLabels { reason: reason.to_owned() }).inc();
    }

    pub(crate) fn responded(&self, route: &str, code: u16) {
        self.requests.get_or_create(&RouteLabels { route: route.to_owned(), code }).inc();
    }
}
