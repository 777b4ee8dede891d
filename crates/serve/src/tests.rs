//! The server over a socket.

use crate::settings::{ApiKey, ServerLimits, ServerSettings};
use crate::testing::{CONTEXT, PANIC, TestServer, limits, served};
use gptkit_feedback::FeedbackStore;
use gptkit_feedback::people::AccessRole;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

fn chat(more: Value) -> Value {
    let mut body =
        json!({ "model": "chat", "messages": [{ "role": "user", "content": "Hello" }], "max_tokens": 8, "seed": 3 });
    if let (Value::Object(body), Value::Object(more)) = (&mut body, more) {
        body.extend(more);
    }
    body
}

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

#[test]
fn an_answer_has_openais_form_and_comes_again_with_its_seed() {
    let server = TestServer::standard();
    let answer = server.post(CHAT, &chat(json!({ "n": 2, "logprobs": true, "top_logprobs": 3 })));
    assert_eq!(answer.status, 200, "{answer:?}");
    let body = answer.json();
    assert_eq!((&body["object"], &body["model"]), (&json!("chat.completion"), &json!("chat")));
    assert_eq!(body["choices"].as_array().unwrap().len(), 2);
    let choice = &body["choices"][1];
    assert_eq!((&choice["index"], &choice["message"]["role"]), (&json!(1), &json!("assistant")));
    let entries = choice["logprobs"]["content"].as_array().unwrap();
    assert!(entries.len() <= 8 && entries.iter().all(|one| one["top_logprobs"].as_array().unwrap().len() == 3));
    let usage = &body["usage"];
    let sum = usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap();
    assert_eq!(usage["total_tokens"], sum);
    assert_eq!(body["gptkit"]["seed"], 3);
    let drawn = server.post(CHAT, &chat(json!({ "seed": null }))).json();
    let seed = &drawn["gptkit"]["seed"];
    let again = server.post(CHAT, &chat(json!({ "seed": seed, "logprobs": true }))).json();
    assert_eq!(again["choices"][0]["message"], drawn["choices"][0]["message"]);
    let alias = server.post(CHAT, &chat(json!({ "model": "gpt-x" }))).json();
    assert_eq!(alias["model"], "chat", "what answered, not what was asked for");
}

#[test]
fn a_stream_adds_up_to_the_whole_answer_and_ends_with_done() {
    let server = TestServer::standard();
    let whole = server.post(CHAT, &chat(json!({ "max_tokens": 30 }))).json();
    let options = json!({ "max_tokens": 30, "stream": true, "stream_options": { "include_usage": true } });
    let stream = server.post(CHAT, &chat(options));
    assert!(stream.head.contains("content-type: text/event-stream") && stream.head.contains("cache-control: no-store"));
    let events = stream.events();
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"), "{stream:?}");
    let chunks: Vec<Value> =
        events[..events.len() - 1].iter().map(|data| serde_json::from_str(data).unwrap()).collect();
    assert_eq!(chunks[0]["choices"][0]["delta"], json!({ "role": "assistant", "content": "" }));
    let text: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, whole["choices"][0]["message"]["content"]);
    let last = &chunks[chunks.len() - 1];
    assert_eq!((&last["choices"], &last["usage"]["total_tokens"]), (&json!([]), &whole["usage"]["total_tokens"]));
    let end = &chunks[chunks.len() - 2]["choices"][0];
    assert_eq!(end["finish_reason"], whole["choices"][0]["finish_reason"]);
}

#[test]
fn a_prompt_is_echoed_with_its_log_probabilities() {
    let server = TestServer::standard();
    let body = json!({ "model": "base", "prompt": "Hello there", "max_tokens": 0, "echo": true, "logprobs": 1 });
    let answer = server.post(TEXT, &body).json();
    let choice = &answer["choices"][0];
    assert_eq!(choice["text"], "Hello there");
    let table = &choice["logprobs"];
    assert_eq!(table["tokens"].as_array().unwrap().len(), 11);
    assert_eq!((&table["token_logprobs"][0], &table["text_offset"][10]), (&Value::Null, &json!(10)));
    // The same tokens, generated: each as likely as it was read.
    let likely = json!({ "model": "base", "prompt": "Hello", "max_tokens": 6, "temperature": 0, "logprobs": 0 });
    let written = server.post(TEXT, &likely).json();
    let text = format!("Hello{}", written["choices"][0]["text"].as_str().unwrap());
    let body = json!({ "model": "base", "prompt": text, "max_tokens": 0, "echo": true, "logprobs": 0 });
    let read = server.post(TEXT, &body).json();
    let read = read["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap()[5..].to_vec();
    assert_eq!(json!(read), written["choices"][0]["logprobs"]["token_logprobs"], "bit for bit");
    let several = json!({ "model": "base", "prompt": ["a", "bc"], "n": 2, "max_tokens": 2 });
    let indices: Vec<Value> = server.post(TEXT, &several).json()["choices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["index"].clone())
        .collect();
    assert_eq!(json!(indices), json!([0, 1, 2, 3]));
}

#[test]
fn wrong_requests_are_refused_by_name() {
    let server = TestServer::standard();
    let long = "x".repeat(CONTEXT + 1);
    for (path, body, status, code, param) in [
        (CHAT, chat(json!({ "model": "gpt-5" })), 404, "model_not_found", "model"),
        (CHAT, chat(json!({ "model": "base" })), 400, "not_a_chat_model", "model"),
        (CHAT, chat(json!({ "messages": [] })), 400, "invalid_value", "messages"),
        (
            CHAT,
            chat(json!({ "messages": [{ "role": "tool", "content": "x" }] })),
            400,
            "invalid_value",
            "messages[0].role",
        ),
        (
            CHAT,
            chat(json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url" }] }] })),
            400,
            "invalid_value",
            "messages[0].content[0]",
        ),
        (CHAT, chat(json!({ "messages": [{ "role": "user" }] })), 400, "invalid_value", "messages[0]"),
        (CHAT, chat(json!({ "messages": [{ "role": "user", "content": long }] })), 400, "context_length_exceeded", ""),
        (CHAT, chat(json!({ "temperature": 2.5 })), 400, "invalid_value", "temperature"),
        (CHAT, chat(json!({ "temperature": "hot" })), 400, "invalid_value", "temperature"),
        (CHAT, chat(json!({ "top_p": 0 })), 400, "invalid_value", "top_p"),
        (CHAT, chat(json!({ "n": 0 })), 400, "invalid_value", "n"),
        (CHAT, chat(json!({ "n": 10 })), 400, "invalid_value", "n"),
        (CHAT, chat(json!({ "seed": "one" })), 400, "invalid_value", "seed"),
        (CHAT, chat(json!({ "stop": [""] })), 400, "invalid_value", "stop"),
        (CHAT, chat(json!({ "max_tokens": 0 })), 400, "invalid_value", "max_tokens"),
        (CHAT, chat(json!({ "presence_penalty": 3 })), 400, "invalid_value", "presence_penalty"),
        (CHAT, chat(json!({ "logit_bias": { "99999": 1 } })), 400, "invalid_value", "logit_bias"),
        (CHAT, chat(json!({ "logit_bias": { "5": 101 } })), 400, "invalid_value", "logit_bias"),
        (CHAT, chat(json!({ "top_logprobs": 2 })), 400, "invalid_value", "top_logprobs"),
        (CHAT, chat(json!({ "stream_options": {} })), 400, "invalid_value", "stream_options"),
        (CHAT, chat(json!({ "tools": [{ "type": "function" }] })), 400, "unsupported_parameter", "tools"),
        (
            CHAT,
            chat(json!({ "response_format": { "type": "json_object" } })),
            400,
            "unsupported_parameter",
            "response_format",
        ),
        (CHAT, chat(json!({ "best_of": 3 })), 404, "model_not_found", "reward_model"),
        (TEXT, json!({ "prompt": "a", "suffix": "b" }), 400, "unsupported_parameter", "suffix"),
        (TEXT, json!({ "prompt": [] }), 400, "invalid_value", "prompt"),
        (TEXT, json!({ "prompt": [99999] }), 400, "invalid_value", "prompt"),
        (TEXT, json!({ "prompt": "a", "logprobs": 6 }), 400, "invalid_value", "logprobs"),
        (TEXT, json!({}), 400, "invalid_value", ""),
        ("/v1/score", json!({ "prompt": "a", "completions": ["b"] }), 404, "model_not_found", "model"),
        ("/v1/embeddings", json!({ "input": "a" }), 404, "not_supported", ""),
        ("/v1/nothing", json!({}), 404, "unknown_path", ""),
        ("/detokenize", json!({ "tokens": [99999] }), 400, "invalid_value", "tokens"),
        ("/tokenize", json!({}), 400, "invalid_value", "prompt"),
    ] {
        let answer = server.post(path, &body);
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{path} {body}: {answer:?}");
        let error = &answer.json()["error"];
        if !param.is_empty() {
            assert_eq!(error["param"], param, "{path} {body}: {answer:?}");
        }
        assert!(
            error["type"].is_string() && error["message"].as_str().is_some_and(|text| text.len() > 3),
            "{answer:?}"
        );
    }
    assert_eq!(server.get("/health").json(), json!({ "status": "ok" }));
    assert_eq!(server.metric("gptkit_requests_running"), 0.0);
}

#[test]
fn fields_that_nobody_knows_are_named_or_refused() {
    let body = chat(json!({ "top_q": 1, "user": "anna", "metadata": {} }));
    let answer = TestServer::standard().post(CHAT, &body);
    assert!(answer.status == 200 && answer.head.contains("x-gptkit-ignored: metadata, top_q"), "{answer:?}");
    let strict = TestServer::start(served(), ServerSettings { strict: true, ..ServerSettings::default() }, limits());
    let answer = strict.post(CHAT, &body);
    assert_eq!((answer.status, answer.code().as_str()), (400, "unknown_parameter"));
}

#[test]
fn bodies_and_headers_that_are_no_requests_are_refused() {
    let server = TestServer::start(served(), ServerSettings::default(), ServerLimits { body: 2000, ..limits() });
    let json_type = "content-type: application/json\r\n";
    let refused = |answer: crate::testing::Answer| (answer.status, answer.code());
    assert_eq!(refused(server.request("POST", CHAT, json_type, "{")), (400, "invalid_json".to_owned()));
    assert_eq!(refused(server.request("POST", CHAT, json_type, &"[".repeat(100))), (413, "body_too_large".to_owned()));
    assert_eq!(refused(server.request("POST", CHAT, json_type, &"x".repeat(2001))), (413, "body_too_large".to_owned()));
    assert_eq!(refused(server.request("POST", CHAT, "content-type: text/plain\r\n", "{}")).0, 415);
    let form = "content-type: application/x-www-form-urlencoded\r\n";
    assert_eq!(refused(server.request("POST", CHAT, form, "a=b")).0, 415);
    let get = server.get(CHAT);
    assert_eq!((get.status, get.code().as_str()), (405, "method_not_allowed"));
    assert!(get.head.contains("allow: post"), "{get:?}");
    // A body that says it is a gigabyte is refused before it comes, and one that grows without end when it is too long.
    let huge = format!("POST {CHAT} HTTP/1.1\r\nhost: localhost\r\n{json_type}content-length: 1073741824\r\n\r\n{{");
    assert_eq!(refused(server.raw(huge.as_bytes())).0, 413);
    let chunk = format!("3e8\r\n{}\r\n", " ".repeat(1000));
    let endless = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{json_type}transfer-encoding: chunked\r\n\r\n{}",
        chunk.repeat(5)
    );
    assert_eq!(refused(server.raw(endless.as_bytes())).0, 413);
    let foreign = "GET /v1/models HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n";
    assert_eq!(refused(server.raw(foreign.as_bytes())), (403, "host_not_allowed".to_owned()));
    let origin = server.request("GET", "/v1/models", "origin: https://evil.example\r\n", "");
    assert_eq!(refused(origin), (403, "origin_not_allowed".to_owned()));
    assert_eq!(server.get("/v1/models").status, 200);
}

#[test]
fn clients_that_send_slowly_are_not_waited_for() {
    let limits = ServerLimits { patience: Duration::from_millis(300), ..limits() };
    let server = TestServer::start(served(), ServerSettings::default(), limits);
    let begun = Instant::now();
    let headers = server.raw(b"POST /v1/completions HTTP/1.1\r\nhost: loc");
    assert!(headers.status != 200, "{headers:?}");
    let slow = format!(
        "POST {TEXT} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: 100\r\n\r\n{{\"prompt\""
    );
    let body = server.raw(slow.as_bytes());
    assert_eq!((body.status, body.code().as_str()), (408, "body_timeout"));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn a_key_is_needed_where_one_is_set() {
    let settings = ServerSettings {
        keys: vec![ApiKey { secret: "secret".to_owned(), name: "ann".to_owned(), role: AccessRole::User }],
        ..ServerSettings::default()
    };
    let server = TestServer::start(served(), settings, limits());
    let asked = |headers: &str| server.request("GET", "/v1/models", headers, "");
    let refused = asked("authorization: Bearer wrong\r\n");
    assert_eq!((refused.status, refused.code().as_str()), (401, "invalid_api_key"));
    assert!(refused.head.contains("www-authenticate: bearer"), "{refused:?}");
    assert_eq!(asked("authorization: Bearer secret\r\n").status, 200);
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn tokens_and_templates_can_be_looked_at() {
    let server = TestServer::standard();
    let tokens = server.post("/tokenize", &json!({ "content": "Hi", "with_pieces": true })).json();
    assert_eq!((&tokens["count"], &tokens["pieces"][1]["piece"]), (&json!(2), &json!("i")));
    let text = server.post("/detokenize", &json!({ "tokens": tokens["tokens"] })).json();
    assert_eq!(text["content"], "Hi");
    let messages = json!([{ "role": "user", "content": "Hi" }]);
    let template = server.post("/apply-template", &json!({ "messages": messages })).json();
    assert!(template["prompt"].as_str().unwrap().contains("Hi"), "{template}");
    let models = server.get("/v1/models").json();
    let ids: Vec<&Value> = models["data"].as_array().unwrap().iter().map(|one| &one["id"]).collect();
    assert_eq!(ids, ["chat", "base", "gpt-x"]);
    assert_eq!(server.get("/v1/models/base").json()["meta"]["chat"], false);
    assert_eq!(server.get("/v1/models/other").status, 404);
    let description = server.get("/openapi.json").json();
    assert!(description["paths"]["/v1/chat/completions"]["post"].is_object());
}

/// Each answer is cut to what fits, and what cannot be answered now is refused with a time.
#[test]
fn a_full_queue_says_when_to_come_again() {
    let mut limits = limits();
    (limits.engine.rows, limits.queue.requests) = (1, 1);
    let server = TestServer::start(served(), ServerSettings::default(), limits);
    let refused = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                let answer = server.post(CHAT, &chat(json!({ "max_tokens": 60, "ignore_eos": true })));
                if answer.status == 429 {
                    assert!(answer.code() == "queue_full" && answer.head.contains("retry-after: "), "{answer:?}");
                    refused.fetch_add(1, Ordering::Relaxed);
                } else {
                    assert_eq!(answer.status, 200, "{answer:?}");
                }
            });
        }
    });
    let refused = refused.into_inner();
    assert!((1..12).contains(&refused), "{refused} of 12 were refused");
    server.wait_until_idle();
    assert_eq!(server.metric("gptkit_admission_rejections_total{reason=\"queue_full\"}"), refused as f64);
}

#[test]
fn clients_that_leave_or_read_nothing_do_no_harm() {
    let server = TestServer::standard();
    let stream = chat(json!({ "stream": true, "ignore_eos": true, "max_tokens": 70 })).to_string();
    let request = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{stream}",
        stream.len()
    );
    let whole = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for i in 0..48 {
            let (server, request, whole) = (&server, &request, &whole);
            scope.spawn(move || match i % 6 {
                // Leaves after some bytes.
                0 => {
                    let mut connection = server.connect();
                    connection.write_all(request.as_bytes()).unwrap();
                    let mut some = vec![0; 50 * i + 1];
                    let _ = connection.read(&mut some);
                }
                // Never reads.
                1 => {
                    let mut connection = server.connect();
                    connection.write_all(request.as_bytes()).unwrap();
                    std::thread::sleep(Duration::from_millis(300));
                }
                // Sends garbage.
                2 => drop(server.raw(b"\x00\xff garbage\r\n\r\n")),
                _ => {
                    let answer = server.post(CHAT, &chat(json!({ "stream": true, "seed": i })));
                    assert!(answer.status == 200 && answer.body.ends_with("data: [DONE]\n\n"), "{answer:?}");
                    whole.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(whole.into_inner(), 24);
    server.wait_until_idle();
    assert_eq!(server.metric("gptkit_engine_failures_total"), 0.0);
}

/// Its requests get an error, also in a stream that has begun; another model's requests and later ones do not notice it.
#[test]
fn a_panic_in_a_step_fails_the_requests_of_its_model_alone() {
    let server = TestServer::standard();
    let prompt = json!({ "model": "base", "prompt": "Hello", "max_tokens": 80, "seed": 3, "ignore_eos": true });
    let text = || server.post(TEXT, &prompt).json()["choices"].clone();
    let answer = || server.post(CHAT, &chat(json!({ "max_tokens": 20 }))).json()["choices"].clone();
    let before = (text(), answer());
    let wrong = json!({ "stop": [PANIC], "ignore_eos": true });
    std::thread::scope(|scope| {
        let others: Vec<_> = (0..8).map(|_| scope.spawn(text)).collect();
        while server.metric("gptkit_requests_running") == 0.0 && !others[0].is_finished() {}
        let failed = server.post(CHAT, &chat(wrong.clone()));
        assert_eq!((failed.status, failed.code().as_str()), (500, "internal"), "{failed:?}");
        assert!(failed.head.contains("x-should-retry: false"), "{failed:?}");
        for other in others {
            assert_eq!(other.join().unwrap(), before.0);
        }
    });
    assert_eq!(server.metric("gptkit_engine_failures_total"), 1.0);
    let stream = server.post(CHAT, &chat(json!({ "stop": [PANIC], "ignore_eos": true, "stream": true })));
    let events = stream.events();
    let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert_eq!((stream.status, &last["error"]["code"]), (200, &json!("internal")), "{stream:?}");
    assert_eq!((text(), answer()), before);
    server.wait_until_idle();
    assert_eq!(server.metric("gptkit_engine_failures_total"), 2.0);
}

#[test]
fn a_server_that_stops_finishes_what_runs_and_accepts_nothing_more() {
    let server = TestServer::standard();
    let address = server.address;
    let answer = std::thread::scope(|scope| {
        let running =
            scope.spawn(|| server.post(CHAT, &chat(json!({ "max_tokens": 60, "stream": true, "ignore_eos": true }))));
        while server.metric("gptkit_requests_running") == 0.0 && !running.is_finished() {}
        server.stop.send(true).unwrap();
        running.join().unwrap()
    });
    assert!(answer.body.ends_with("data: [DONE]\n\n"), "{answer:?}");
    let begun = Instant::now();
    drop(server);
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    assert!(std::net::TcpStream::connect(address).is_err(), "it still listens");
}

/// A server that keeps feedback in `folder`, and whose page may do what `role` may.
fn with_feedback(folder: &std::path::Path, role: AccessRole) -> TestServer {
    let settings = ServerSettings { open_role: role, ..ServerSettings::default() };
    TestServer::keeping(served(), settings, limits(), Some(FeedbackStore::create(folder).unwrap()))
}

#[test]
fn a_click_becomes_a_record_once() {
    let folder = tempfile::tempdir().unwrap();
    let server = with_feedback(folder.path(), AccessRole::Admin);
    let stored = server.post(CHAT, &chat(json!({ "n": 2, "store": true, "temperature": 1 }))).json();
    let request = stored["id"].as_str().unwrap();
    let of = |choice: u64| json!({ "request": request, "choice": choice });
    let ranking =
        json!({ "client_id": "r1", "answers": [of(0), of(1)], "ranking": [2, 1], "shown": [1, 0], "blind": true });
    let first = server.post("/api/rankings", &ranking);
    assert_eq!(first.status, 201, "{first:?}");
    let again = server.post("/api/rankings", &ranking);
    assert_eq!((again.status, again.json()), (200, first.json()));
    let rating =
        json!({ "client_id": "r2", "answer": of(0), "thumb": "down", "likert": 2, "marks": ["hallucination"] });
    assert_eq!(server.post("/api/ratings", &rating).status, 201);
    let messages = json!([{ "role": "user", "content": "Hello" }, { "role": "assistant", "content": "Good day!" }]);
    let written = json!({ "client_id": "r3", "messages": messages, "based_on": of(1) });
    assert_eq!(server.post("/api/demonstrations", &written).status, 201);
    let figures = server.get("/api/feedback").json();
    assert_eq!(figures["counts"]["completions"], 2);
    assert_eq!([&figures["counts"]["rankings"], &figures["counts"]["ratings"]], [&json!(1), &json!(1)]);
    assert!(server.get("/api/export?kind=comparisons").body.is_empty(), "nobody has agreed to training");
    assert_eq!(server.post("/api/session", &json!({ "consent": true })).json()["consent"], true);
    assert!(server.get("/api/export?kind=comparisons").body.lines().count() >= 1);
    let tasks = json!({ "prompts": ["Hello", " "], "k": 3, "model": "chat" });
    assert_eq!(server.post("/api/tasks", &tasks).json()["made"], 1);
    assert_eq!(server.post("/api/tasks/next", &json!({})).json()["task"]["k"], 3);
    assert_eq!(server.metric("gptkit_feedback_total{kind=\"ranking\"}"), 1.0);
}

#[test]
fn an_administrator_deletes_a_person() {
    let folder = tempfile::tempdir().unwrap();
    let server = with_feedback(folder.path(), AccessRole::Admin);
    let headers = "content-type: application/json\r\nx-gptkit-person: eve\r\n";
    let as_eve = |path: &str, body: &Value| server.request("POST", path, headers, &body.to_string());
    assert_eq!(as_eve("/api/session", &json!({ "consent": true })).status, 200);
    let stored = as_eve(CHAT, &chat(json!({ "n": 2, "store": true, "temperature": 1 }))).json();
    let of = |choice: u64| json!({ "request": stored["id"], "choice": choice });
    let ranking = json!({ "client_id": "r1", "answers": [of(0), of(1)], "ranking": [2, 1] });
    assert_eq!(as_eve("/api/rankings", &ranking).status, 201);
    assert_eq!(server.get("/api/export?kind=comparisons").body.lines().count(), 1);
    let delete = || server.request("DELETE", "/api/people/eve", "", "");
    let deleted = delete().json();
    assert_eq!(deleted["deleted"], json!({ "answer": 2, "ranking": 1 }));
    assert_eq!(deleted["exports"][0]["path"], "downloaded by a browser");
    assert_eq!((delete().status, delete().code().as_str()), (404, "unknown_person"));
    assert_eq!(server.get("/api/feedback").json()["counts"]["completions"], 0);
    drop(server);
    let user = with_feedback(folder.path(), AccessRole::User);
    let refused = user.request("DELETE", "/api/people/ann", "", "");
    assert_eq!((refused.status, refused.code().as_str()), (403, "role"));
}

#[test]
fn a_record_says_where_it_is_from_and_a_known_best_answer_is_ranked_with_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let server = with_feedback(folder.path(), AccessRole::Admin);
    let prompts = json!([{ "prompt": "Hello", "known_best": " Good day! " }]);
    assert_eq!(server.post("/api/tasks", &json!({ "prompts": prompts, "k": 2, "model": "chat" })).json()["made"], 1);
    let task = server.post("/api/tasks/next", &json!({})).json()["task"].clone();
    let known = &task["answers"][0];
    assert_eq!((known["text"].as_str(), task["answers"].as_array().unwrap().len()), (Some("Good day!"), 1));
    let question = json!({ "model": "chat", "messages": task["messages"], "seed": task["seed"], "store": true });
    let request = server.post(CHAT, &question).json()["id"].clone();
    let answers = json!([{ "request": known["request"], "choice": 0 }, { "request": request, "choice": 0 }]);
    let ranking = json!({ "client_id": "r1", "answers": answers, "ranking": [1, 2], "task": task["id"] });
    assert_eq!(server.post("/api/rankings", &ranking).status, 201);
    assert_eq!(server.get("/api/feedback").json()["people"][0]["known_best"]["value"], 1.0);
    let records = server.get("/api/feedback/records").json();
    assert_eq!((records[0]["id"].as_str(), records[0]["prompt"].as_str()), (Some("ranking-1"), Some("Hello")));
    assert_eq!(server.get("/api/feedback/records?from=1").json(), json!([]));
    let record = server.get("/api/feedback/records/ranking-1").json();
    assert_eq!((&record["fields"]["ranking"], &record["answers"][1]["request"]), (&json!([1, 2]), &request));
    assert_eq!(record["answers"][1]["sampling"]["seed"], task["seed"]);
    for unknown in ["ranking-2", "rating-1", "x", "ranking--1"] {
        assert_eq!(server.get(&format!("/api/feedback/records/{unknown}")).code(), "unknown_record", "{unknown}");
    }
    assert_eq!(server.get("/api/feedback/records?from=-1").code(), "invalid_value");
    assert_eq!(server.get("/api/models/chat").status, 200);
    assert_eq!(server.get("/api/models/none").code(), "model_not_found");
}

#[test]
fn streamed_answers_are_stored_before_their_end_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let server = with_feedback(folder.path(), AccessRole::User);
    let stream = server.post(CHAT, &chat(json!({ "stream": true, "store": true, "max_tokens": 20 })));
    let first: Value = serde_json::from_str(&stream.events()[0]).unwrap();
    let rating = json!({ "client_id": "r1", "answer": { "request": first["id"], "choice": 0 }, "thumb": "up" });
    assert_eq!(server.post("/api/ratings", &rating).status, 201);
    drop(server);
    let answers = FeedbackStore::open(folder.path()).unwrap().answers().unwrap();
    let whole = TestServer::standard().post(CHAT, &chat(json!({ "max_tokens": 20 }))).json();
    let text = whole["choices"][0]["message"]["content"].as_str().unwrap();
    assert_eq!((answers.len(), answers[0].text.as_str()), (1, text.trim()));
    let n_tokens = answers[0].tokens.as_ref().map(|tokens| tokens.len() as u64);
    assert_eq!(n_tokens, whole["usage"]["completion_tokens"].as_u64());
    assert!(answers[0].log_prob.is_some_and(|log_prob| log_prob < 0.0), "{answers:?}");
}

#[test]
fn feedback_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let server = with_feedback(folder.path(), AccessRole::User);
    let answer = json!({ "request": "chatcmpl-x", "choice": 0 });
    for (path, body, status, code) in [
        ("/api/ratings", json!({ "client_id": "a", "answer": answer, "thumb": "up" }), 404, "unknown_answer"),
        ("/api/ratings", json!({ "client_id": "", "answer": answer }), 400, "invalid_value"),
        ("/api/ratings", json!({ "client_id": "a", "answer": answer, "likert": 8 }), 400, "invalid_value"),
        ("/api/ratings", json!({ "client_id": "a", "answer": answer, "marks": ["rude"] }), 400, "invalid_value"),
        ("/api/rankings", json!({ "client_id": "a", "answers": [answer], "ranking": [1] }), 400, "invalid_value"),
        (
            "/api/rankings",
            json!({ "client_id": "a", "answers": [answer, answer], "ranking": [1] }),
            400,
            "invalid_value",
        ),
        (
            "/api/rankings",
            json!({ "client_id": "a", "answers": [answer, answer, answer], "ranking": [1, 2, 3] }),
            403,
            "role",
        ),
        ("/api/tasks", json!({ "prompts": ["a"], "k": 2, "model": "chat" }), 403, "role"),
        ("/api/tasks/next", json!({}), 403, "role"),
        ("/api/people", json!({ "name": "a", "excluded": true }), 403, "role"),
    ] {
        let refused = server.post(path, &body);
        assert_eq!((refused.status, refused.code().as_str()), (status, code), "{path} {body}");
    }
    assert_eq!(server.get("/api/export?kind=prompts").status, 403);
    let off = TestServer::standard();
    assert_eq!(off.post(CHAT, &chat(json!({ "store": true }))).code(), "invalid_value");
    assert_eq!(off.post("/api/ratings", &json!({ "client_id": "a", "answer": answer })).code(), "feedback_off");
}

#[test]
fn the_page_and_its_files_are_served_without_a_key() {
    let key = ApiKey { secret: "secret".to_owned(), name: "ann".to_owned(), role: AccessRole::Labeler };
    let settings = ServerSettings { keys: vec![key], ..ServerSettings::default() };
    let server = TestServer::start(served(), settings, limits());
    for path in ["/", "/compare", "/served", "/page/chat.js"] {
        let page = server.get(path);
        assert!(page.status == 200 && page.head.contains("content-security-policy: default-src 'none'"), "{page:?}");
    }
    assert_eq!((server.get("/api/session").status, server.get("/page/other.js").status), (401, 401));
    let session = server.request("GET", "/api/session", "authorization: Bearer secret\r\n", "").json();
    assert_eq!(
        (&session["person"], &session["role"], &session["named"]),
        (&json!("ann"), &json!("labeler"), &json!(true))
    );
}
