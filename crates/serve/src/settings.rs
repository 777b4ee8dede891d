//! Who may reach the server, and its limits.

use crate::engine::EngineLimits;
use crate::engine::queue::QueueLimits;
use std::time::Duration;

/// How the server is reached, and by whom.
#[derive(Debug, Clone, Default)]
pub struct ServerSettings {
    /// Keys that are accepted; without any, everybody who reaches the server may use it.
    pub keys: Vec<String>,
    /// Names by which the server may be called, besides addresses and localhost.
    pub allowed_hosts: Vec<String>,
    /// Origins whose pages may use the server.
    pub cors_origins: Vec<String>,
    /// Whether fields that are not known are refused.
    pub strict: bool,
}

/// Limits of the server.
#[derive(Debug, Clone, Copy)]
pub struct ServerLimits {
    /// Of the engine.
    pub engine: EngineLimits,
    /// Of the queue.
    pub queue: QueueLimits,
    /// Bytes of a request's body.
    pub body: usize,
    /// Connections at a time.
    pub connections: usize,
    /// How long the headers of a request may take to arrive, and how long its body may.
    pub patience: Duration,
    /// How long running requests may go on after the server was asked to stop.
    pub drain: Duration,
}
