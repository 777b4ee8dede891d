//! Small models, and a server that tests talk to over a socket.

use crate::engine::EngineLimits;
use crate::engine::queue::QueueLimits;
use crate::http::{Server, stop_signal};
use crate::models::{Served, ServedModel};
use crate::settings::{ServerLimits, ServerSettings};
use candle_core::Device;
use gptkit_data::form::DialogueForm;
use gptkit_data::template::Template;
use gptkit_data::tokenizer::Tokenizer;
use gptkit_feedback::FeedbackStore;
use gptkit_feedback::records::ModelIdentity;
use gptkit_model::{Gpt, ModelConfig, Packing, Params};
use gptkit_ops::{Precision, Quantized};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::watch;

/// A stop string that makes the engine panic when it writes the fourth token of a continuation.
pub(crate) const PANIC: &str = "panic\u{0}";

/// Panics when a continuation of `n_new` tokens has the stop string [`PANIC`].
pub(crate) fn panic_if_wanted(stop: &[String], n_new: usize) {
    assert!(n_new < 3 || stop.iter().all(|text| text != PANIC), "a panic that a test wants");
}

/// Tokens that the models of tests read.
pub(crate) const CONTEXT: usize = 96;

/// A model of drawn weights that knows printable ASCII, and reads dialogues when `chats`. Its width is 64, or the 256 that
/// q4_k needs.
pub(crate) fn model(name: &str, chats: bool, precision: Precision, quantized: Option<Quantized>) -> ServedModel {
    let mut tokenizer = Tokenizer::of_characters(&(' '..='~').chain(['\n']).collect()).unwrap();
    if chats {
        tokenizer.add_special_tokens(&Template::special_tokens()).unwrap();
        tokenizer.set_chat_template(Some(Template::default_for_chat().source().to_owned()));
    }
    let d_model = if quantized == Some(Quantized::Q4K) { 256 } else { 64 };
    let config: ModelConfig = serde_json::from_value(serde_json::json!({
        "kind": "gpt2", "n_layer": 2, "n_head": 2, "d_model": d_model, "context": CONTEXT,
        "vocab_size": tokenizer.vocab_size(),
    }))
    .unwrap();
    let params = Params::init(&config, 1, &Device::Cpu).unwrap();
    // Larger weights, so that what is likely depends on all that was read.
    for (_, parameter) in params.iter().filter(|(_, parameter)| parameter.var().rank() == 2) {
        parameter.set(&(parameter.var().as_tensor() * 8.0).unwrap()).unwrap();
    }
    let params = params.packed(&config, Packing { precision, quantized }).unwrap();
    let gpt = Gpt::new(&config, &params, precision).unwrap();
    ServedModel {
        name: name.to_owned(),
        folder: name.into(),
        gpt,
        form: DialogueForm::of(&tokenizer).unwrap(),
        end_of_text: tokenizer.end_of_text().into_iter().collect(),
        tokenizer,
        identity: ModelIdentity {
            name: name.to_owned(),
            folder: name.to_owned(),
            weights: name.to_owned(),
            tokenizer: name.to_owned(),
            template: name.to_owned(),
            fingerprint: format!("fp_{name}"),
            dtype: "f32".to_owned(),
        },
    }
}

/// A chat model and a base model.
pub(crate) fn served() -> Served {
    let of = |name, chats| model(name, chats, Precision::F32, None);
    Served {
        writers: vec![of("chat", true), of("base", false)],
        scorers: Vec::new(),
        aliases: vec!["gpt-x".to_owned()],
    }
}

/// Limits that no test meets by accident.
pub(crate) fn limits() -> ServerLimits {
    ServerLimits {
        engine: EngineLimits { rows: 32, cache_bytes: 64 << 20, step: Duration::from_millis(20) },
        queue: QueueLimits { requests: 100, tokens: 100_000, wait: Duration::from_secs(60) },
        body: 1 << 20,
        connections: 64,
        patience: Duration::from_secs(10),
        drain: Duration::from_secs(5),
    }
}

/// A server that runs until it is dropped.
pub(crate) struct TestServer {
    pub(crate) address: SocketAddr,
    pub(crate) stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

/// What a server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The lines of the head, in lower case.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// `code` of the error.
    pub(crate) fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_else(|| panic!("{self:?}")).to_owned()
    }

    /// The data of the events of a stream.
    pub(crate) fn events(&self) -> Vec<String> {
        self.body.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).map(str::to_owned).collect()
    }
}

impl TestServer {
    pub(crate) fn start(served: Served, settings: ServerSettings, limits: ServerLimits) -> Self {
        Self::keeping(served, settings, limits, None)
    }

    /// A server that keeps feedback.
    pub(crate) fn keeping(
        served: Served,
        settings: ServerSettings,
        limits: ServerLimits,
        feedback: Option<FeedbackStore>,
    ) -> Self {
        let server = Server::open(served, ([127, 0, 0, 1], 0).into(), settings, limits, feedback).unwrap();
        let (stop, stopped) = stop_signal();
        let address = server.address().unwrap();
        let thread = std::thread::spawn(move || server.run(stopped).unwrap());
        Self { address, stop, thread: Some(thread) }
    }

    pub(crate) fn standard() -> Self {
        Self::start(served(), ServerSettings::default(), limits())
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// Sends the bytes of a request, and reads the answer to its end.
    pub(crate) fn raw(&self, request: &[u8]) -> Answer {
        let mut stream = self.connect();
        let _ = stream.write_all(request); // a server may refuse before it has read all
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        let head = head.to_lowercase();
        let body = if head.contains("transfer-encoding: chunked") { unchunked(body) } else { body.to_owned() };
        Answer { status, head, body }
    }

    pub(crate) fn request(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.raw(request.as_bytes())
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.request("GET", path, "", "")
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.request("POST", path, "content-type: application/json\r\n", &body.to_string())
    }

    /// The value of a counter or gauge, its labels included in `name`.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").body;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    /// Waits until nothing runs and nothing waits.
    pub(crate) fn wait_until_idle(&self) {
        for _ in 0..600 {
            let busy = ["gptkit_requests_running", "gptkit_requests_waiting"].map(|name| self.metric(name));
            if busy == [0.0, 0.0] {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the server is still busy: {}", self.get("/metrics").body);
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The body of a chunked answer.
fn unchunked(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((size, more)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if size == 0 || more.len() < size {
            break;
        }
        body += &more[..size];
        rest = more[size..].trim_start_matches("\r\n");
    }
    body
}
