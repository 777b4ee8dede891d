//! `gptkit serve`

use crate::data_args::shell;
use crate::device::ComputeArgs;
use crate::hub_names::with_name;
use crate::ui::{Ui, Usage, unusable};
use anyhow::{Context, Result};
use clap::{Args, FromArgMatches};
use gptkit_data::disk;
use gptkit_feedback::FeedbackStore;
use gptkit_feedback::people::AccessRole;
use gptkit_reward::model::Scorer;
use gptkit_serve::{
    ApiKey, EngineLimits, QueueLimits, Served, ServedModel, ServedScorer, Server, ServerLimits, ServerSettings,
    named_folder, stop_signal,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Port of the server unless another is given.
pub(crate) const DEFAULT_PORT: u16 = 8000;

/// Serve models over HTTP, with OpenAI's API
///
/// Every client of that API can use the models: the official packages, LangChain, Open WebUI, curl. The same request with
/// the same seed gets the same answer, whatever else the server does. Ctrl-C or SIGTERM lets running requests finish; a second
/// signal ends the server at once.
#[derive(Debug, Args)]
pub(crate) struct ServeCommand {
    /// Model folder, or NAME=DIR to choose the name that clients use (repeatable)
    #[arg(long, value_name = "[NAME=]DIR", required = true)]
    model: Vec<String>,
    /// Reward model folder, for /v1/score, /v1/rerank and best_of (repeatable)
    #[arg(long, value_name = "[NAME=]DIR")]
    reward: Vec<String>,
    /// Another name for the first model, for programs that have a name built in (repeatable)
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,
    /// Address to listen on; any other than this machine's own needs keys
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port to listen on; 0 takes a free one
    #[arg(long, default_value_t = DEFAULT_PORT)]
    port: u16,
    /// File with the keys that clients must send, one per line: KEY, or KEY NAME, or KEY NAME ROLE, where the role is
    /// user, labeler or admin
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Folder in which answers and what people think of them are stored, for requests with `store: true`
    #[arg(long, value_name = "DIR")]
    feedback: Option<PathBuf>,
    /// Listen on an address that others can reach without keys
    #[arg(long)]
    no_key: bool,
    /// Name by which clients may call the server, besides addresses and localhost (repeatable)
    #[arg(long, value_name = "NAME")]
    allowed_host: Vec<String>,
    /// Origin whose web pages may use the server, such as `https://chat.example.com` (repeatable)
    #[arg(long, value_name = "ORIGIN")]
    cors_origin: Vec<String>,
    /// Refuse fields of requests that the server does not know
    #[arg(long)]
    strict: bool,
    /// Answers that a model generates at the same time
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = positive)]
    max_rows: usize,
    /// Memory for keys and values, in megabytes [default: 16 full contexts of each model, at least 256]
    #[arg(long, value_name = "MB", value_parser = positive)]
    cache: Option<usize>,
    /// Requests that may wait
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = positive)]
    max_queue: usize,
    /// Prompt tokens that may wait
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = positive)]
    max_queue_tokens: usize,
    /// Seconds that a request may wait
    #[arg(long, value_name = "S", default_value_t = 120, value_parser = positive)]
    queue_timeout: usize,
    /// Milliseconds that the prompts of new requests may hold up the answers of others at a time
    #[arg(long, value_name = "MS", default_value_t = 60, value_parser = positive)]
    step_time: usize,
    /// Bytes of a request
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20, value_parser = positive)]
    max_body: usize,
    /// Connections at a time
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = positive)]
    max_connections: usize,
    /// Seconds that running requests get after a signal to stop
    #[arg(long, value_name = "S", default_value_t = 30)]
    drain: u64,
    #[command(flatten)]
    compute: ComputeArgs,
    /// Whether the page is opened in a browser
    #[arg(skip)]
    opens_browser: bool,
}

/// The first model of a server.
#[derive(Debug)]
pub(crate) struct FirstModel {
    /// The name that clients use.
    pub(crate) name: String,
    /// Whether it answers in dialogues.
    pub(crate) chats: bool,
}

fn positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&n| n > 0).ok_or_else(|| format!("{text} is not a positive whole number"))
}

/// How long the headers and the body of a request may take to arrive.
const PATIENCE: Duration = Duration::from_secs(10);

impl ServeCommand {
    /// The server of `gptkit chat --web`: one model, on a free port of this machine, with the page in a browser.
    pub(crate) fn with_browser(model: &Path, compute: ComputeArgs) -> Result<Self> {
        let arguments = ["--port=0".into(), "--model".into(), with_name(model).into()];
        Ok(Self { opens_browser: true, ..Self::with_arguments(&arguments, compute)? })
    }

    pub(crate) fn run(self, ui: &Ui) -> Result<()> {
        let keys = self.keys()?;
        if !self.host.is_loopback() && keys.is_empty() && !self.no_key {
            let message = format!("others can reach {}, and no API key is set", self.host);
            let hint = "use --api-key-file FILE, or --no-key if everybody may use the models";
            return Err(Usage::new(message).hint(hint).into());
        }
        let with_key = !keys.is_empty();
        let (server, first) = self.open(keys)?;
        let address = server.address()?;
        ui.say(&format!("listening on http://{address}; a browser shows a page there; Ctrl-C stops the server"));
        if self.opens_browser && open::that_detached(format!("http://{address}")).is_err() {
            ui.say(&format!("no browser could be opened; open http://{address} in one"));
        }
        if let Some(folder) = &self.feedback {
            ui.say(&format!("feedback is stored in {}; `gptkit feedback export` reads it", folder.display()));
        }
        ui.next(&example(address, &first, with_key));
        let (stop, stopped) = stop_signal();
        watch_signals(move || {
            let _ = stop.send(true); // a server that is gone has stopped
        })?;
        server.run(stopped)?;
        ui.say("stopped");
        Ok(())
    }

    /// The server for those who have `keys`, before it answers, and its first model.
    pub(crate) fn open(&self, keys: Vec<ApiKey>) -> Result<(Server, FirstModel)> {
        let served = self.load()?;
        let cache_bytes = self.cache.map_or_else(|| served.default_cache_bytes(), |mb| mb * 1_000_000);
        let limits = ServerLimits {
            engine: EngineLimits {
                rows: self.max_rows,
                cache_bytes,
                step: Duration::from_millis(self.step_time as u64),
            },
            queue: QueueLimits {
                requests: self.max_queue,
                tokens: self.max_queue_tokens,
                wait: Duration::from_secs(self.queue_timeout as u64),
            },
            body: self.max_body,
            connections: self.max_connections,
            patience: PATIENCE,
            drain: Duration::from_secs(self.drain),
        };
        // Without keys, whoever sits at this machine may do everything; others may chat and rate.
        let open_role = if self.host.is_loopback() { AccessRole::Admin } else { AccessRole::User };
        let feedback = self.feedback.as_deref().map(FeedbackStore::create).transpose().map_err(unusable)?;
        let settings = ServerSettings {
            keys,
            open_role,
            allowed_hosts: self.allowed_host.clone(),
            cors_origins: self.cors_origin.clone(),
            strict: self.strict,
        };
        let first = FirstModel { name: served.writers[0].name.clone(), chats: served.writers[0].chats() };
        let address = SocketAddr::new(self.host, self.port);
        let server = Server::open(served, address, settings, limits, feedback).map_err(unusable)?;
        Ok((server, first))
    }

    /// The command with these arguments and the default values of the others.
    pub(crate) fn with_arguments(arguments: &[OsString], compute: ComputeArgs) -> Result<Self> {
        let command = clap::Command::new("serve").no_binary_name(true);
        let matches = Self::augment_args(command).try_get_matches_from(arguments)?;
        Ok(Self { compute, ..Self::from_arg_matches(&matches)? })
    }

    /// The keys of the file: its lines, without those that are empty or begin with `#`.
    fn keys(&self) -> Result<Vec<ApiKey>> {
        let Some(path) = &self.api_key_file else { return Ok(Vec::new()) };
        let text = disk::read_description(path).map_err(unusable)?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let keys = (1..).zip(lines).map(|(number, line)| key(number, line));
        let keys = keys.collect::<Result<Vec<ApiKey>, _>>().map_err(|what| {
            Usage::new(format!("{}: {what}", path.display())).hint("a line is KEY, KEY NAME or KEY NAME ROLE")
        })?;
        if keys.is_empty() {
            return Err(Usage::new(format!("{} contains no key; write one per line", path.display())).into());
        }
        Ok(keys)
    }

    fn load(&self) -> Result<Served> {
        let mut served = Served { writers: Vec::new(), scorers: Vec::new(), aliases: self.alias.clone() };
        for text in &self.model {
            let (name, folder) = named_folder(text).map_err(unusable)?;
            let (files, gpt) = self.compute.load_writer(&folder)?;
            let model = ServedModel::new(&name, &folder, files, gpt, &self.compute.numbers());
            served.writers.push(model.map_err(unusable)?);
        }
        for text in &self.reward {
            let (name, folder) = named_folder(text).map_err(unusable)?;
            let (files, gpt) = self.compute.load_reader(&folder)?;
            let scorer = Scorer::new(&folder, files, gpt).map_err(unusable)?;
            served.scorers.push(ServedScorer { name, folder, scorer });
        }
        Ok(served)
    }
}

/// A line of the file of keys: the key, who has it, and what they may do.
fn key(number: usize, line: &str) -> Result<ApiKey, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (secret, name, role) = match words[..] {
        [secret] => (secret, format!("key-{number}"), AccessRole::User),
        [secret, name] => (secret, name.to_owned(), AccessRole::User),
        [secret, name, role] => (secret, name.to_owned(), role.parse()?),
        _ => return Err(format!("key {number} has {} words", words.len())),
    };
    Ok(ApiKey { secret: secret.to_owned(), name, role })
}

/// A command that uses the server.
fn example(address: SocketAddr, model: &FirstModel, with_key: bool) -> String {
    let FirstModel { name: model, chats } = model;
    let key = if with_key { " -H 'Authorization: Bearer KEY'" } else { "" };
    let (path, body) = match chats {
        true => {
            let messages = serde_json::json!([{ "role": "user", "content": "Hello!" }]);
            ("chat/completions", serde_json::json!({ "model": model, "messages": messages }))
        }
        false => ("completions", serde_json::json!({ "model": model, "prompt": "Once", "max_tokens": 40 })),
    };
    let body = shell(body.to_string().as_ref());
    format!("curl http://{address}/v1/{path}{key} -H 'Content-Type: application/json' -d {body}")
}

/// Has the first signal call `stop`, and the second end the process.
fn watch_signals(stop: impl FnOnce() + Send + 'static) -> Result<()> {
    let asked = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&asked))?;
        flag::register(signal, Arc::clone(&asked))?;
    }
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("the signal handlers cannot be installed")?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            stop();
        }
    });
    Ok(())
}
