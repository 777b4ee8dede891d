//! A model behind OpenAI's API, wherever it is served.

use anyhow::{Context, Result, bail, ensure};
use gptkit_data::dialogue::Message;
use gptkit_model::continuation::Finish;
use gptkit_model::sampler::Sampling;
use serde_json::{Map, Value, json};
use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::time::Duration;

/// Where a model is served.
#[derive(Debug, Clone)]
pub struct ModelServer {
    /// The address without `/v1`.
    url: String,
    /// The model's name there.
    model: String,
    /// Sent with every request.
    key: Option<String>,
    agent: ureq::Agent,
}

/// A request to a server.
#[derive(Debug)]
pub(crate) struct ServerRequest<'a> {
    pub(crate) messages: &'a [Message],
    pub(crate) max_new_tokens: Option<usize>,
    pub(crate) stop: &'a [String],
    pub(crate) sampling: &'a Sampling,
}

/// The result of a request.
#[derive(Debug)]
pub(crate) enum ServerAnswer {
    /// The answer, its length in tokens, and why it ended.
    Text(String, usize, Finish),
    /// The messages are longer than the model's context.
    TooLong(String),
}

/// The longest time that a server may take to accept a connection, and to begin its answer.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));

/// Checks that the server at `url`, with or without `/v1` at its end, accepts requests. Its `GET /health` needs no key.
///
/// # Errors
/// When the server cannot be reached within `patience`, or answers that it accepts none.
pub fn check_health(url: &str, patience: Duration) -> Result<()> {
    let config = ureq::Agent::config_builder().timeout_global(Some(patience)).http_status_as_error(false).build();
    let url = format!("{}/health", without_version(url));
    let answer = ureq::Agent::from(config).get(&url).call().with_context(|| format!("{url} cannot be reached"))?;
    ensure!(answer.status().is_success(), "{url} answered {}", answer.status());
    Ok(())
}

/// `url` without `/v1` at its end.
fn without_version(url: &str) -> &str {
    url.trim_end_matches('/').trim_end_matches("/v1")
}

impl ModelServer {
    /// The server at `url`, with or without `/v1` at its end. Without a name, the model is the first language model that it
    /// lists.
    ///
    /// # Errors
    /// When the server cannot be reached, refuses the key, or lists no model.
    pub fn connect(url: &str, model: Option<&str>, key: Option<String>) -> Result<Self> {
        let config = ureq::Agent::config_builder()
            .timeout_connect(Some(PATIENCE.0))
            .timeout_recv_response(Some(PATIENCE.1))
            .http_status_as_error(false)
            .build();
        let mut server = Self { url: without_version(url).to_owned(), model: String::new(), key, agent: config.into() };
        server.model = match model {
            Some(name) => name.to_owned(),
            None => server.first_model()?,
        };
        Ok(server)
    }

    /// The address and the model's name.
    pub fn name(&self) -> String {
        format!("{} at {}", self.model, self.url)
    }

    fn first_model(&self) -> Result<String> {
        let url = format!("{}/v1/models", self.url);
        let mut request = self.agent.get(&url);
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let mut response = request.call().with_context(|| format!("{url} cannot be reached"))?;
        let answer: Value = response.body_mut().read_json().with_context(|| format!("{url} did not answer in JSON"))?;
        if !response.status().is_success() {
            bail!("{url} answered {}: {}", response.status(), error_message(&answer));
        }
        let models = answer["data"].as_array().map(Vec::as_slice).unwrap_or_default();
        let writers = models.iter().filter(|model| model["meta"]["kind"] != "reward");
        let name = writers.filter_map(|model| model["id"].as_str()).next();
        name.map(str::to_owned).with_context(|| format!("{url} lists no model; name one with --model-name"))
    }

    /// Asks for an answer, and hands it to `on_text` as it comes; [`ControlFlow::Break`] closes the connection, which ends
    /// the answer.
    pub(crate) fn ask(
        &self,
        request: &ServerRequest,
        mut on_text: impl FnMut(&str) -> Result<ControlFlow<()>>,
    ) -> Result<ServerAnswer> {
        let url = format!("{}/v1/chat/completions", self.url);
        let mut post = self.agent.post(&url);
        if let Some(key) = &self.key {
            post = post.header("authorization", format!("Bearer {key}"));
        }
        let mut response =
            post.send_json(self.body(request)).with_context(|| format!("{} cannot be reached", self.url))?;
        if !response.status().is_success() {
            let status = response.status();
            let answer: Value = response.body_mut().read_json().unwrap_or_default();
            let message = error_message(&answer);
            return match answer["error"]["code"].as_str() {
                Some("context_length_exceeded") => Ok(ServerAnswer::TooLong(message)),
                _ => bail!("{} answered {status}: {message}", self.url),
            };
        }
        let (mut text, mut n_tokens, mut finish) = (String::new(), 0, None);
        for line in BufReader::new(response.into_body().into_reader()).lines() {
            let line = line.with_context(|| format!("the connection to {} was lost", self.url))?;
            let Some(data) = line.strip_prefix("data:").map(str::trim) else { continue };
            if data == "[DONE]" {
                let finish = finish.unwrap_or(Finish::EndOfText);
                return Ok(ServerAnswer::Text(text, n_tokens, finish));
            }
            let chunk: Value =
                serde_json::from_str(data).with_context(|| format!("{} sent a chunk that is not JSON", self.url))?;
            if chunk["error"].is_object() {
                bail!("{} failed: {}", self.url, error_message(&chunk));
            }
            if let Some(n) = chunk["usage"]["completion_tokens"].as_u64() {
                n_tokens = n as usize;
            }
            let choice = &chunk["choices"][0];
            match choice["finish_reason"].as_str() {
                Some("length") => finish = Some(Finish::Length),
                Some(_) => finish = Some(Finish::EndOfText),
                None => {}
            }
            if let Some(piece) = choice["delta"]["content"].as_str().filter(|piece| !piece.is_empty()) {
                text += piece;
                if on_text(piece)?.is_break() {
                    return Ok(ServerAnswer::Text(text, n_tokens, Finish::Interrupted));
                }
            }
        }
        bail!("{} closed the connection before the end of the answer", self.url)
    }

    /// The fields of a request: those that are not OpenAI's own only where they change something.
    fn body(&self, request: &ServerRequest) -> Value {
        let Sampling { temperature, top_p, top_k, min_p, repetition_penalty, .. } = *request.sampling;
        let Sampling { frequency_penalty, presence_penalty, seed, .. } = *request.sampling;
        let number = |x: f32| json!(x.to_string().parse::<f64>().unwrap_or(f64::from(x)));
        let mut body = json!({
            "model": self.model, "messages": request.messages, "stream": true,
            "stream_options": { "include_usage": true }, "temperature": number(temperature), "seed": seed,
        });
        let optional = [
            ("max_tokens", request.max_new_tokens.map(|n| json!(n))),
            ("top_p", top_p.map(number)),
            ("top_k", top_k.map(|k| json!(k))),
            ("min_p", min_p.map(number)),
            ("repetition_penalty", (repetition_penalty != 1.0).then(|| number(repetition_penalty))),
            ("frequency_penalty", (frequency_penalty != 0.0).then(|| number(frequency_penalty))),
            ("presence_penalty", (presence_penalty != 0.0).then(|| number(presence_penalty))),
            ("stop", (!request.stop.is_empty()).then(|| json!(request.stop))),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                body[name] = value;
            }
        }
        if !request.sampling.logit_bias.is_empty() {
            let biases = request.sampling.logit_bias.iter().map(|&(id, bias)| (id.to_string(), number(bias)));
            body["logit_bias"] = Value::Object(biases.collect::<Map<_, _>>());
        }
        body
    }
}

/// The message of an error answer.
fn error_message(answer: &Value) -> String {
    let message = answer["error"]["message"].as_str().or(answer["error"].as_str());
    message.unwrap_or("without a reason").to_owned()
}
