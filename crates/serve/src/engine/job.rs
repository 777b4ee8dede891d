//! Jobs of the engine, and the events that it reports.

use crate::metrics::{CanceledWhere, Metrics};
use crate::models::ServedModel;
use gptkit_data::dialogue::Message;
use gptkit_model::continuation::{Finish, GenerationOptions, LateEnds, TokenLogProb};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// A request to continue a prompt. It is canceled when the receiver of its events is dropped.
#[derive(Debug)]
pub(crate) struct GenerationJob {
    /// Number of the served model.
    pub(crate) model: usize,
    /// Who asks: requests of different clients take turns.
    pub(crate) client: Arc<str>,
    /// Tokens to continue; at least one.
    pub(crate) prompt: Vec<u32>,
    /// How the continuations are written; there are `n_samples` of them.
    pub(crate) options: GenerationOptions,
    /// Tokens that end a continuation at once.
    pub(crate) ends: Vec<u32>,
    /// Tokens that end it from some length on.
    pub(crate) late_ends: LateEnds,
    /// Whether the log-probabilities of the prompt's own tokens are wanted, with so many of the likeliest at each place.
    pub(crate) echo: Option<usize>,
    /// Where events go.
    pub(crate) events: mpsc::UnboundedSender<GenerationEvent>,
    /// When it was asked.
    pub(crate) asked: Instant,
    /// Whether it was counted as canceled.
    pub(crate) counted: AtomicBool,
}

impl GenerationJob {
    /// The most tokens that the model holds for it at once, of prompt and continuations.
    pub(crate) fn tokens(&self) -> usize {
        self.options.n_samples.max(1) * self.longest()
    }

    /// The most tokens of its prompt and one continuation.
    pub(crate) fn longest(&self) -> usize {
        self.prompt.len() + self.options.max_new_tokens
    }

    /// The bytes of keys and values that it needs at most, of `model`.
    pub(crate) fn bytes(&self, model: &ServedModel) -> usize {
        self.options.n_samples.max(1) * model.sequence_bytes(self.longest())
    }

    /// Counts it as canceled, once.
    pub(crate) fn count_canceled(&self, metrics: &Metrics, r#where: CanceledWhere) {
        if !self.counted.swap(true, Ordering::Relaxed) {
            metrics.canceled(r#where);
        }
    }

    /// Whether nobody waits for it any more.
    pub(crate) fn is_canceled(&self) -> bool {
        self.events.is_closed()
    }
}

/// What happens to a [`GenerationJob`].
#[derive(Debug)]
pub(crate) enum GenerationEvent {
    /// The model has begun to read the prompt.
    Begun {
        /// Time in the queue.
        waited: Duration,
        /// Tokens of the prompt that need not be read again.
        cached: usize,
    },
    /// The prompt has been read, in this time since it began.
    PromptRead(Duration),
    /// Log-probabilities of the prompt's tokens from the second on.
    Echo(Vec<TokenLogProb>),
    /// More of a continuation.
    Text {
        /// Number of the continuation.
        index: usize,
        /// Whole characters; it may be empty.
        text: String,
        /// Of the new tokens, when asked for.
        log_probs: Vec<TokenLogProb>,
    },
    /// A continuation has ended.
    Done {
        /// Number of the continuation.
        index: usize,
        /// Why.
        finish: Finish,
        /// Its tokens.
        tokens: Vec<u32>,
    },
    /// The request cannot be answered; nothing follows.
    Failed(EngineFailure),
}

/// Why a request that was accepted is not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EngineFailure {
    /// It waited too long.
    QueueTimeout,
    /// The server is stopping.
    Stopping,
    /// The model's numbers are damaged, or the engine failed.
    Internal(String),
}

/// A request for rewards. It is canceled when the receiver of `reply` is dropped.
#[derive(Debug)]
pub(crate) struct ScoringJob {
    /// Number of the served reward model.
    pub(crate) model: usize,
    /// The messages before the completions.
    pub(crate) prompt: Vec<Message>,
    /// Each completion.
    pub(crate) completions: Vec<Vec<Message>>,
    /// Takes the rewards; `None` when a completion does not fit the context.
    pub(crate) reply: oneshot::Sender<Result<Option<Vec<f32>>, EngineFailure>>,
}
