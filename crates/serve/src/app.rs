//! What all handlers share.

use crate::engine::queue::Queue;
use crate::http::ServerSettings;
use crate::metrics::Metrics;
use crate::models::Served;
use std::sync::Arc;

/// What all handlers share.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) served: Arc<Served>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) settings: ServerSettings,
    /// Bytes of keys and values that a request may need.
    pub(crate) cache_bytes: usize,
    /// Continuations that a request may have.
    pub(crate) rows: usize,
    /// Bytes that a body may have.
    pub(crate) body_bytes: usize,
}
