//! `gptkit serve` as a program: it starts, answers over a socket as `gptkit sample` and `gptkit chat` do, and stops.

use super::{gptkit, pretrain, run};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

struct Serving {
    child: Child,
    address: String,
    said: BufReader<std::process::ChildStderr>,
}

impl Serving {
    fn start(folder: &Path, more: &str) -> Self {
        Self::listening(folder, &format!("serve --port 0 {more}"))
    }

    /// Runs `gptkit` with `words` until it listens; it finds no browser.
    fn listening(folder: &Path, words: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_gptkit"))
            .args(words.split(' '))
            .env("PATH", "")
            .current_dir(folder)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        let address = line.split_once("http://").and_then(|(_, rest)| rest.split_once(';'));
        let address = address.unwrap_or_else(|| panic!("{line}")).0.to_owned();
        Self { child, address, said }
    }

    fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let body = body.to_string();
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_server_answers_as_the_other_commands_do_and_stops_when_asked() {
    let folder = tempfile::tempdir().unwrap();
    pretrain(folder.path(), "--config char --data world:60 --out run").ok();
    let mut server = Serving::start(folder.path(), "--model run --alias text-model");
    let mut example = String::new();
    server.said.read_line(&mut example).unwrap();
    assert!(example.starts_with("next: curl http://127.0.0.1:") && example.contains("/v1/completions"), "{example}");
    let healthy = gptkit(folder.path(), &format!("doctor --server http://{}", server.address)).ok();
    assert!(healthy.out.starts_with("ok  server  http://127.0.0.1:"), "{}", healthy.out);
    let body = json!({ "prompt": "The", "max_tokens": 9, "seed": 5, "temperature": 0.8, "logprobs": 0 });
    let (status, answer) = server.post("/v1/completions", &body);
    assert_eq!(status, 200, "{answer}");
    let sample = "sample --model run --prompt The --max-new-tokens 9 --seed 5 --temperature 0.8 --json --log-probs 0";
    let sampled: Value = serde_json::from_str(&gptkit(folder.path(), sample).ok().out).unwrap();
    assert_eq!(answer["choices"][0]["text"], sampled["text"]);
    let log_probs: Vec<&Value> = sampled["log_probs"].as_array().unwrap().iter().map(|one| &one["log_prob"]).collect();
    assert_eq!(answer["choices"][0]["logprobs"]["token_logprobs"], json!(log_probs), "bit for bit");
    let question = json!({ "model": "text-model", "messages": [{ "role": "user", "content": "Hi" }] });
    let (status, refused) = server.post("/v1/chat/completions", &question);
    assert_eq!((status, &refused["error"]["code"]), (400, &json!("not_a_chat_model")));
    let pid = server.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    let mut rest = String::new();
    server.said.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "stopped\n");
}

#[test]
fn a_server_that_could_be_misused_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    pretrain(folder.path(), "--config char --data world:60 --out run").ok();
    fs::write(folder.path().join("no-keys.txt"), "# nothing\n\n").unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().port();
    for (more, says) in [
        ("--model run --host 0.0.0.0", "others can reach 0.0.0.0, and no API key is set"),
        ("--model run --api-key-file no-keys.txt", "no-keys.txt contains no key"),
        ("--model run --api-key-file none.txt", "none.txt"),
        ("--model run --model run", "two models are called run; name them: --model NAME=DIR"),
        ("--model none", "none"),
        ("--model run --reward run", "is not a reward model"),
        ("--model run --max-rows 0", "0 is not a positive whole number"),
        (&format!("--model run --port {taken}"), "cannot listen on 127.0.0.1"),
    ] {
        let ran = gptkit(folder.path(), &format!("serve {more}"));
        assert!(
            ran.code == Some(2) && ran.err.contains(says) && ran.out.is_empty(),
            "{more}: {:?} {}",
            ran.code,
            ran.err
        );
    }
}

/// The chat asks any server with OpenAI's API.
#[test]
fn the_chat_talks_to_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let source = "--set model.context=96 --set data.sources=[{path=\"world:50\"}] --out base";
    pretrain(folder.path(), source).ok();
    let sft = "sft --init base --data world:30 --set train.batch_size=4 --steps 4 --out chat";
    gptkit(folder.path(), sft).ok();
    let server = Serving::start(folder.path(), "--model chat");
    let url = format!("http://{}", server.address);
    let ask = |model: &str| {
        let words = ["chat", "--model", model, "--max-new-tokens", "12", "--seed", "3"];
        run(folder.path(), &words, b"Who are you?\nAnd now?\n/save talk.jsonl\n").ok()
    };
    let (near, far) = (ask("chat"), ask(&url));
    assert_eq!(near.out, far.out);
    assert_eq!(fs::read_to_string(folder.path().join("talk.jsonl")).unwrap().lines().count(), 2);
    let refused = run(folder.path(), &["chat", "--model", &url, "--model-name", "other"], b"Hi\n");
    assert!(refused.code == Some(1) && refused.err.contains("the model other is not served"), "{}", refused.err);
    let gone = run(folder.path(), &["chat", "--model", "http://127.0.0.1:9"], b"Hi\n");
    assert!(gone.code == Some(1) && gone.err.contains("http://127.0.0.1:9"), "{}", gone.err);
}

#[test]
fn chat_on_the_web_serves_the_model_and_says_where_when_there_is_no_browser() {
    let folder = tempfile::tempdir().unwrap();
    pretrain(folder.path(), "--config char --data world:60 --out run").ok();
    let mut server = Serving::listening(folder.path(), "chat --model run --web");
    let mut line = String::new();
    server.said.read_line(&mut line).unwrap();
    assert!(line.contains("no browser could be opened; open http://127.0.0.1:"), "{line}");
    let (status, answer) = server.post("/v1/completions", &json!({ "prompt": "Once", "max_tokens": 2 }));
    assert_eq!(status, 200, "{answer}");
    let mixed = gptkit(folder.path(), "chat --model run --web --temperature 0");
    assert!(mixed.code == Some(2) && mixed.err.contains("cannot be used with"), "{}", mixed.err);
}

#[test]
fn what_people_prefer_on_a_server_that_was_killed_trains_a_reward_model() {
    let folder = tempfile::tempdir().unwrap();
    let source = "--set model.context=96 --set data.sources=[{path=\"world:50\"}] --out run";
    pretrain(folder.path(), source).ok();
    let sft = "sft --init run --data world:30 --set train.batch_size=4 --steps 4 --out sft";
    gptkit(folder.path(), sft).ok();
    let server = Serving::start(folder.path(), "--model sft --feedback fb");
    assert_eq!(server.post("/api/session", &json!({ "consent": true })).1["role"], "admin");
    for number in 0..24 {
        let question = json!({
            "messages": [{ "role": "user", "content": format!("Count to {number}.") }], "n": 2, "store": true,
            "max_tokens": 8, "temperature": 1.5, "seed": number,
        });
        let (status, answer) = server.post("/v1/chat/completions", &question);
        assert_eq!(status, 200, "{answer}");
        let of = |choice: u64| json!({ "request": answer["id"], "choice": choice });
        let client_id = format!("r{number}");
        let ranking = json!({ "client_id": client_id, "answers": [of(0), of(1)], "ranking": [2, 1], "shown": [1, 0] });
        assert_eq!(server.post("/api/rankings", &ranking).0, 201);
    }
    drop(server); // killed
    let stats: Value = serde_json::from_str(&gptkit(folder.path(), "feedback stats fb --json").ok().out).unwrap();
    assert_eq!([&stats["counts"]["rankings"], &stats["counts"]["completions"]], [&json!(24), &json!(48)]);
    let verified = gptkit(folder.path(), "feedback verify fb --model sft").ok().err;
    assert!(verified.contains("48 of 48 answers came again token by token"), "{verified}");
    let exported = gptkit(folder.path(), "feedback export fb --comparisons c.jsonl --prompts p.jsonl").ok().err;
    assert!(exported.contains("comparisons: 2") && exported.contains("prompts: 24"), "{exported}");
    gptkit(folder.path(), "train-rm --init sft --data c.jsonl --steps 2 --batch-size 4 --out rm").ok();
    let other = gptkit(folder.path(), "feedback verify fb --model run");
    assert!(
        other.code == Some(1) && other.err.contains("none of the 48 stored answers was generated with the weights"),
        "{}",
        other.err
    );
    let nothing = gptkit(folder.path(), "feedback export fb");
    assert!(nothing.code == Some(2) && nothing.err.contains("there is nothing to export"), "{}", nothing.err);
}
