//! Who may reach the server, and its limits.

use crate::engine::EngineLimits;
use crate::engine::queue::QueueLimits;
use gptkit_feedback::people::AccessRole;
use std::time::Duration;

/// A key of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// What the client sends.
    pub secret: String,
    /// Who has it.
    pub name: String,
    /// What they may do.
    pub role: AccessRole,
}

/// How the server is reached, and by whom.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// Keys that are accepted; without any, everybody who reaches the server may use it.
    pub keys: Vec<ApiKey>,
    /// What everybody may do where there are no keys.
    pub open_role: AccessRole,
    /// Names by which the server may be called, besides addresses and localhost.
    pub allowed_hosts: Vec<String>,
    /// Origins whose pages may use the server.
    pub cors_origins: Vec<String>,
    /// Whether fields that are not known are refused.
    pub strict: bool,
}

impl Default for ServerSettings {
    fn default() -> Self {
        let (keys, allowed_hosts, cors_origins) = (Vec::new(), Vec::new(), Vec::new());
        Self { keys, open_role: AccessRole::User, allowed_hosts, cors_origins, strict: false }
    }
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
