//! A server that plays a Hugging Face hub on this machine, with a second port for large files, and faults on request.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha1::Digest;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A commit of a repository.
#[derive(Debug, Clone, Default)]
pub struct StubCommit {
    /// Path of the repository: `OWNER/NAME`, or `datasets/OWNER/NAME`.
    pub repository: String,
    /// Its 40 digits.
    pub commit: String,
    /// Branches and tags that name it.
    pub revisions: Vec<String>,
    /// Its files.
    pub files: Vec<StubFile>,
}

/// A file of a commit.
#[derive(Debug, Clone)]
pub struct StubFile {
    /// Its path.
    pub path: String,
    /// Contents.
    pub bytes: Vec<u8>,
    /// Whether it is stored through git LFS, on the second port.
    pub is_large: bool,
    /// The size in the list, where that is wrong.
    pub listed_size: Option<u64>,
    /// The checksum in the list, where that is wrong.
    pub listed_hash: Option<String>,
}

impl StubFile {
    /// A file whose path says how it is stored.
    #[must_use]
    pub fn new(path: &str, bytes: impl Into<Vec<u8>>) -> Self {
        let is_large = [".safetensors", ".bin", ".jsonl"].iter().any(|ending| path.ends_with(ending));
        Self { path: path.to_owned(), bytes: bytes.into(), is_large, listed_size: None, listed_hash: None }
    }

    fn hash(&self) -> String {
        self.listed_hash.clone().unwrap_or_else(|| hash_of(&self.bytes, self.is_large))
    }
}

/// SHA-256, or the hash of git's blobs.
#[must_use]
pub fn hash_of(bytes: &[u8], is_large: bool) -> String {
    let digits = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    match is_large {
        true => digits(&sha2::Sha256::digest(bytes)),
        false => {
            let hasher = sha1::Sha1::new_with_prefix(format!("blob {}\0", bytes.len()));
            digits(&hasher.chain_update(bytes).finalize())
        }
    }
}

/// What goes wrong with a request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The connection is closed after so many bytes of the body.
    CutAfter(usize),
    /// Bytes of the right number, all wrong.
    WrongBytes,
    /// A status with a header.
    Status(u16, &'static str, &'static str),
    /// A body without a length, and without an end.
    Endless,
    /// No answer for so long.
    Slow(Duration),
    /// The range is ignored.
    NoRange,
}

/// A request that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenRequest {
    /// Whether it came to the second port.
    pub is_second: bool,
    /// Method and path.
    pub line: String,
    /// Its token.
    pub token: Option<String>,
    /// Its range.
    pub range: Option<String>,
}

#[derive(Default)]
struct HubState {
    commits: Vec<StubCommit>,
    faults: Vec<(String, Fault, usize)>,
    seen: Vec<SeenRequest>,
    /// Files of git LFS that were uploaded.
    uploaded: Vec<Vec<u8>>,
    /// Bytes of a part of an upload; 0: whole files.
    chunk: usize,
    first: String,
    second: String,
}

/// A running hub. Its threads end with the process.
pub struct StubHub {
    /// Address of the hub.
    pub url: String,
    state: Arc<Mutex<HubState>>,
}

impl StubHub {
    /// Starts a hub with `commits` on two free ports.
    #[must_use]
    pub fn start(commits: Vec<StubCommit>) -> Self {
        let listeners = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let [url, second] = [0, 1].map(|i: usize| format!("http://{}", listeners[i].local_addr().unwrap()));
        let state = Arc::new(Mutex::new(HubState { commits, first: url.clone(), second, ..HubState::default() }));
        for (i, listener) in listeners.into_iter().enumerate() {
            let state = Arc::clone(&state);
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let state = Arc::clone(&state);
                    std::thread::spawn(move || serve(stream, i == 1, &state));
                }
            });
        }
        Self { url, state }
    }

    fn state(&self) -> MutexGuard<'_, HubState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the next `n` requests fail whose line contains `part`.
    pub fn fail(&self, part: &str, fault: Fault, n: usize) {
        self.state().faults.push((part.to_owned(), fault, n));
    }

    /// Has files uploaded in parts of `bytes`.
    pub fn upload_in_parts_of(&self, bytes: usize) {
        self.state().chunk = bytes;
    }

    /// Changes the commits.
    pub fn change(&self, change: impl FnOnce(&mut Vec<StubCommit>)) {
        change(&mut self.state().commits);
    }

    /// The requests that arrived since this was last called.
    pub fn seen(&self) -> Vec<SeenRequest> {
        std::mem::take(&mut self.state().seen)
    }

    /// The newest commit of `repository`.
    #[must_use]
    pub fn newest(&self, repository: &str) -> Option<StubCommit> {
        self.state().commits.iter().rfind(|commit| commit.repository == repository).cloned()
    }
}

struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    fn read(stream: &TcpStream) -> Option<Self> {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let mut words = line.split_whitespace();
        let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            headers.push((name.to_lowercase(), value.to_owned()));
        }
        let mut request = Self { method, path, headers, body: Vec::new() };
        let n = request.header("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
        request.body = vec![0; n];
        reader.read_exact(&mut request.body).ok()?;
        Some(request)
    }

    fn header(&self, name: &str) -> Option<String> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    }
}

/// Status, headers, body.
type Answered = (u16, Vec<(String, String)>, Vec<u8>);

fn serve(mut stream: TcpStream, is_second: bool, state: &Mutex<HubState>) {
    let Some(request) = Request::read(&stream) else { return };
    let line = format!("{} {}", request.method, request.path);
    let (answer, fault) = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let (token, range) = (request.header("authorization"), request.header("range"));
        state.seen.push(SeenRequest { is_second, line: line.clone(), token, range });
        let fault = state.faults.iter_mut().find(|(part, _, n)| *n > 0 && line.contains(part.as_str()));
        let fault = fault.map(|(_, fault, n)| {
            *n -= 1;
            fault.clone()
        });
        let ranged = !matches!(fault, Some(Fault::NoRange));
        let answer = match fault {
            Some(Fault::Status(..)) => (0, Vec::new(), Vec::new()),
            _ if is_second => state.second(&request, ranged),
            _ => state.first(&request),
        };
        (answer, fault)
    };
    let (mut status, mut headers, mut body) = answer;
    let mut cut = body.len();
    let mut length = Some(body.len());
    let mut is_endless = false;
    match fault {
        Some(Fault::CutAfter(n)) => cut = n.min(cut),
        Some(Fault::WrongBytes) => body.iter_mut().for_each(|byte| *byte = !*byte),
        Some(Fault::Status(code, name, value)) => {
            (status, headers, body) = (code, vec![(name.to_owned(), value.to_owned())], Vec::new());
            (cut, length) = (0, Some(0));
        }
        Some(Fault::Endless) => (length, is_endless) = (None, true),
        Some(Fault::Slow(time)) => std::thread::sleep(time),
        Some(Fault::NoRange) | None => {}
    }
    let mut head = format!("HTTP/1.1 {status} X\r\nconnection: close\r\n");
    length.iter().for_each(|n| head += &format!("content-length: {n}\r\n"));
    headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
    // The client may be gone.
    let _ = stream.write_all((head + "\r\n").as_bytes()).and_then(|()| stream.write_all(&body[..cut]));
    while is_endless && stream.write_all(&[b'x'; 4096]).is_ok() {}
}

/// A path of a URL without its escapes.
fn decoded(path: &str) -> String {
    percent_encoding::percent_decode_str(path).decode_utf8_lossy().into_owned()
}

fn refused(status: u16, code: &str) -> Answered {
    (status, vec![("x-error-code".to_owned(), code.to_owned())], Vec::new())
}

fn answered(value: &Value) -> Answered {
    (200, Vec::new(), value.to_string().into_bytes())
}

impl HubState {
    /// The hub itself.
    fn first(&mut self, request: &Request) -> Answered {
        let path = decoded(request.path.split('?').next().unwrap_or_default());
        let api = path.strip_prefix("/api/").map(|rest| rest.strip_prefix("models/").unwrap_or(rest));
        match (request.method.as_str(), api) {
            ("POST", Some("repos/create")) => (if self.commits.is_empty() { 200 } else { 409 }, Vec::new(), Vec::new()),
            ("POST", Some(rest)) if rest.contains("/preupload/") => preupload(&request.body),
            ("POST", Some(rest)) if rest.contains("/commit/") => self.commit(rest, &request.body),
            ("POST", None) if path.ends_with("/info/lfs/objects/batch") => self.batch(&request.body),
            ("POST", None) if path == "/complete" || path == "/verify" => (200, Vec::new(), Vec::new()),
            ("GET", Some("whoami-v2")) => answered(&json!({ "name": "tester" })),
            ("GET", Some(rest)) => match rest.split_once("/revision/").or_else(|| rest.split_once("/tree/")) {
                None => refused(404, "RepoNotFound"),
                Some((name, revision)) => match self.find(name, revision) {
                    Err(answer) => answer,
                    Ok(commit) if rest.contains("/revision/") => {
                        let siblings: Vec<Value> =
                            commit.files.iter().map(|file| json!({ "rfilename": file.path })).collect();
                        answered(&json!({ "id": name, "sha": commit.commit, "siblings": siblings }))
                    }
                    Ok(commit) => answered(&commit.files.iter().map(entry).collect()),
                },
            },
            ("GET" | "HEAD", None) => self.resolve(&path),
            _ => refused(405, "Method"),
        }
    }

    fn find(&self, name: &str, revision: &str) -> Result<&StubCommit, Answered> {
        let mut of_name = self.commits.iter().rev().filter(|commit| commit.repository == name).peekable();
        of_name.peek().ok_or_else(|| refused(404, "RepoNotFound"))?;
        let names = |commit: &&StubCommit| commit.commit == revision || commit.revisions.iter().any(|r| r == revision);
        of_name.find(names).ok_or_else(|| refused(404, "RevisionNotFound"))
    }

    fn resolve(&self, path: &str) -> Answered {
        let Some((name, rest)) = path.trim_start_matches('/').split_once("/resolve/") else {
            return refused(404, "RepoNotFound");
        };
        let (revision, path) = rest.split_once('/').unwrap_or((rest, ""));
        let commit = match self.find(name, revision) {
            Err(answer) => return answer,
            Ok(commit) => commit,
        };
        let Some(file) = commit.files.iter().find(|file| file.path == path) else {
            return refused(404, "EntryNotFound");
        };
        let mut headers = vec![("x-repo-commit".to_owned(), commit.commit.clone())];
        if !file.is_large {
            headers.push(("etag".to_owned(), format!("\"{}\"", file.hash())));
            return (200, headers, file.bytes.clone());
        }
        headers.push(("x-linked-etag".to_owned(), format!("\"{}\"", file.hash())));
        headers.push(("x-linked-size".to_owned(), file.bytes.len().to_string()));
        headers.push(("location".to_owned(), format!("{}/{name}/{}/{path}", self.second, commit.commit)));
        (302, headers, Vec::new())
    }

    /// The host of large files.
    fn second(&mut self, request: &Request, ranged: bool) -> Answered {
        if request.method == "PUT" {
            self.uploaded.push(request.body.clone());
            return (200, vec![("etag".to_owned(), format!("\"{}\"", self.uploaded.len()))], Vec::new());
        }
        let path = decoded(&request.path);
        let is_it = |commit: &&StubCommit| path.starts_with(&format!("/{}/{}/", commit.repository, commit.commit));
        let commit = self.commits.iter().find(is_it);
        let file = commit.and_then(|c| c.files.iter().find(|file| path.ends_with(&format!("/{}", file.path))));
        let Some(file) = file else { return (404, Vec::new(), Vec::new()) };
        let range = request.header("range").filter(|_| ranged);
        let from = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
        let n = file.bytes.len();
        match from {
            None => (200, Vec::new(), file.bytes.clone()),
            Some(from) if from >= n => (416, Vec::new(), Vec::new()),
            Some(from) => {
                let range = format!("bytes {from}-{}/{n}", n - 1);
                (206, vec![("content-range".to_owned(), range)], file.bytes[from..].to_vec())
            }
        }
    }

    fn batch(&self, body: &[u8]) -> Answered {
        let body: Value = serde_json::from_slice(body).unwrap();
        let object = |object: &Value| {
            let (oid, size) = (object["oid"].as_str().unwrap(), object["size"].as_u64().unwrap());
            let action = match self.chunk {
                0 => json!({ "href": format!("{}/put/{oid}", self.second) }),
                chunk => {
                    let mut header = json!({ "chunk_size": chunk.to_string() });
                    for part in 1..=size.div_ceil(chunk as u64) {
                        header[format!("{part:05}")] = json!(format!("{}/put/{oid}/{part}", self.second));
                    }
                    json!({ "href": format!("{}/complete", self.first), "header": header })
                }
            };
            json!({ "oid": oid, "size": size, "actions": { "upload": action } })
        };
        let objects: Vec<Value> = body["objects"].as_array().unwrap().iter().map(object).collect();
        answered(&json!({ "transfer": "basic", "objects": objects }))
    }

    /// Makes a commit of the lines of `body`.
    fn commit(&mut self, rest: &str, body: &[u8]) -> Answered {
        let (name, revision) = rest.split_once("/commit/").unwrap();
        let mut files = Vec::new();
        for line in String::from_utf8(body.to_vec()).unwrap().lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let value = &line["value"];
            let path = value["path"].as_str().unwrap_or_default();
            match line["key"].as_str() {
                Some("file") => {
                    let bytes = STANDARD.decode(value["content"].as_str().unwrap()).unwrap();
                    files.push(StubFile { is_large: false, ..StubFile::new(path, bytes) });
                }
                Some("lfsFile") => {
                    let parts = self.uploaded.concat();
                    let whole = self.uploaded.iter().chain([&parts]).find(|one| value["oid"] == hash_of(one, true));
                    let Some(bytes) = whole else { return refused(400, "LfsMissing") };
                    files.push(StubFile { is_large: true, ..StubFile::new(path, bytes.clone()) });
                }
                _ => assert_eq!(line["key"], "header"),
            }
        }
        let commit = hash_of(body, false);
        let revisions = vec![revision.to_owned()];
        self.commits.push(StubCommit { repository: name.to_owned(), commit: commit.clone(), revisions, files });
        answered(&json!({ "commitUrl": format!("http://hub/{name}/commit/{commit}"), "commitOid": commit }))
    }
}

fn preupload(body: &[u8]) -> Answered {
    let body: Value = serde_json::from_slice(body).unwrap();
    let mode = |file: &Value| {
        let path = file["path"].as_str().unwrap();
        let mode = if path.ends_with(".safetensors") { "lfs" } else { "regular" };
        json!({ "path": path, "uploadMode": mode, "shouldIgnore": false })
    };
    let modes: Vec<Value> = body["files"].as_array().unwrap().iter().map(mode).collect();
    answered(&json!({ "files": modes }))
}

fn entry(file: &StubFile) -> Value {
    let size = file.listed_size.unwrap_or(file.bytes.len() as u64);
    let mut entry = json!({ "type": "file", "path": file.path, "size": size, "oid": file.hash() });
    if file.is_large {
        entry["oid"] = json!("0".repeat(40));
        entry["lfs"] = json!({ "oid": file.hash(), "size": size, "pointerSize": 134 });
    }
    entry
}
