//! What all handlers share.

use crate::engine::queue::Queue;
use crate::metrics::Metrics;
use crate::models::Served;
use crate::settings::ServerSettings;
use gptkit_feedback::FeedbackStore;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What all handlers share.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) served: Arc<Served>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) settings: ServerSettings,
    /// Where feedback is kept.
    pub(crate) feedback: Option<Mutex<FeedbackStore>>,
    /// Bytes of keys and values that a request may need.
    pub(crate) cache_bytes: usize,
    /// Continuations that a request may have.
    pub(crate) rows: usize,
    /// Bytes that a body may have.
    pub(crate) body_bytes: usize,
    /// How long a body may take to arrive.
    pub(crate) body_time: Duration,
}
