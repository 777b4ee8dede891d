//! A person's connection to a server that keeps feedback: JSON requests with their key.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::time::Duration;

/// The longest time that a server may take to accept a connection, and to begin its answer.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));

/// A client of a server, with the key of one person.
#[derive(Debug, Clone)]
pub(crate) struct PersonClient {
    /// Address of the server, such as `http://127.0.0.1:8000`.
    url: String,
    key: String,
    agent: ureq::Agent,
}

impl PersonClient {
    pub(crate) fn new(url: &str, key: &str) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_connect(Some(PATIENCE.0))
            .timeout_recv_response(Some(PATIENCE.1))
            .http_status_as_error(false)
            .build();
        Self { url: url.to_owned(), key: key.to_owned(), agent: config.into() }
    }

    /// Sends `body` to `path`, and returns the answer.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let url = format!("{}{path}", self.url);
        let request = self.agent.post(&url).header("authorization", format!("Bearer {}", self.key));
        let mut response = request.send_json(body).with_context(|| format!("{url} cannot be reached"))?;
        let answer: Value = response.body_mut().read_json().with_context(|| format!("{url} did not answer in JSON"))?;
        if !response.status().is_success() {
            let message = answer["error"]["message"].as_str().unwrap_or("no reason is given");
            bail!("{url} answered {}: {message}", response.status());
        }
        Ok(answer)
    }
}
