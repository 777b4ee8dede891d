//! A folder → a commit on the hub: large files through git LFS, small ones in the commit itself.

use crate::client::{FailedAttempt, HubClient, Sent};
use crate::download::sha256;
use crate::hub::Hub;
use crate::name::{HubName, quoted};
use anyhow::{Context, Result, anyhow, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gptkit_data::disk;
use gptkit_data::progress::{ProgressTask, Unit};
use serde_json::{Value, json};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Bytes of a file from which the hub decides how it is stored.
const SAMPLE: u64 = 512;
/// Bytes of the largest file that is sent in the commit itself.
const LARGEST_REGULAR: u64 = 64 << 20;
/// The type of the messages of git LFS.
const LFS: &str = "application/vnd.git-lfs+json";

/// A file to upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// Its path in the repository.
    pub path: String,
    /// The file.
    pub file: PathBuf,
}

/// A file to upload with what is sent of it.
struct Measured<'a> {
    upload: &'a Upload,
    size: u64,
    is_lfs: bool,
    /// Of a file that goes through git LFS; empty otherwise.
    sha256: String,
}

impl Hub<'_> {
    /// Creates the repository `name` unless it exists, and commits `files` to its revision. Returns the address of the commit.
    ///
    /// # Errors
    /// When the hub refuses it or cannot be reached, or a file cannot be read.
    pub fn push(&self, name: &HubName, files: &[Upload], message: &str, is_private: bool) -> Result<String> {
        self.must_be_online(name)?;
        let pushing = Pushing { hub: self, client: self.client(), name };
        ensure!(
            pushing.client.has_token(),
            "there is no token, which an upload needs\n  hint: set HF_TOKEN to a token with write access, or run `hf auth \
             login`"
        );
        pushing.create(is_private)?;
        let mut measured = pushing.measured(files)?;
        pushing.upload_large(&mut measured)?;
        pushing.commit(&measured, message)
    }
}

struct Pushing<'a> {
    hub: &'a Hub<'a>,
    client: &'a HubClient,
    name: &'a HubName,
}

impl Pushing<'_> {
    /// Sends `body` to `url`, and repeats that when it fails for a time.
    fn post(&self, url: &str, body: &[u8], kind: &'static str) -> Result<Value> {
        let accept = [("accept", if kind == LFS { LFS } else { "application/json" }.to_owned())];
        let attempt = || self.client.json(url, Sent::Post(body, kind), &accept, self.name);
        Ok(self.client.repeated(self.hub.progress(), attempt)?.0)
    }

    fn post_json(&self, path: &str, body: &Value) -> Result<Value> {
        self.post(&format!("{}/{path}", self.client.endpoint()), body.to_string().as_bytes(), "application/json")
    }

    fn create(&self, is_private: bool) -> Result<()> {
        let (owner, name) = self.name.repository.split_once('/').with_context(|| {
            format!("{} has no owner\n  hint: write OWNER/NAME, with the name of your account", self.name)
        })?;
        let body = json!({ "type": "model", "name": name, "organization": owner, "private": is_private }).to_string();
        let url = format!("{}/api/repos/create", self.client.endpoint());
        self.client.repeated(self.hub.progress(), || {
            let mut response = self.client.send(&url, Sent::Post(body.as_bytes(), "application/json"), &[])?;
            match response.status().as_u16() {
                200..300 | 409 => Ok(()), // 409: it exists
                _ => Err(self.client.refusal(&mut response, self.name, "the new repository")),
            }
        })
    }

    /// The files, and how the hub wants to have each.
    fn measured<'b>(&self, files: &'b [Upload]) -> Result<Vec<Measured<'b>>> {
        let mut described = Vec::new();
        let mut sizes = Vec::new();
        for upload in files {
            let file = disk::open(&upload.file)?;
            let size = file.metadata()?.len();
            let mut sample = Vec::new();
            file.take(SAMPLE).read_to_end(&mut sample)?;
            described.push(json!({ "path": upload.path, "sample": STANDARD.encode(sample), "size": size }));
            sizes.push(size);
        }
        let path = format!("{}/preupload/{}", self.name.api(), quoted(&self.name.revision));
        let modes = self.post_json(&path, &json!({ "files": described }))?;
        let modes = modes["files"].as_array().context("the hub did not say how it stores the files")?;
        let mut measured = Vec::new();
        for (upload, size) in files.iter().zip(sizes) {
            let mode = modes.iter().find(|mode| mode["path"] == upload.path.as_str());
            let mode = mode.with_context(|| format!("the hub did not say how it stores {}", upload.path))?;
            ensure!(mode["shouldIgnore"] != true, "the repository's .gitignore excludes {}", upload.path);
            // Object stores refuse empty files.
            let is_lfs = size > 0 && mode["uploadMode"] == "lfs";
            ensure!(
                is_lfs || size <= LARGEST_REGULAR,
                "the hub wants {} in the commit, but it is too large",
                upload.path
            );
            let sha256 = if is_lfs { sha256(&upload.file)? } else { String::new() };
            measured.push(Measured { upload, size, is_lfs, sha256 });
        }
        Ok(measured)
    }

    /// Uploads the files of git LFS that the hub does not have.
    fn upload_large(&self, files: &mut [Measured]) -> Result<()> {
        let large: Vec<&Measured> = files.iter().filter(|file| file.is_lfs).collect();
        if large.is_empty() {
            return Ok(());
        }
        let objects: Vec<Value> = large.iter().map(|file| json!({ "oid": file.sha256, "size": file.size })).collect();
        let body = json!({
            "operation": "upload", "transfers": ["basic", "multipart"], "objects": objects, "hash_algo": "sha256",
            "ref": { "name": self.name.revision },
        });
        let url = format!("{}/{}.git/info/lfs/objects/batch", self.client.endpoint(), self.name.path());
        let batch = self.post(&url, body.to_string().as_bytes(), LFS)?;
        let objects = batch["objects"].as_array().context("the hub did not say where large files go")?;
        let total = large.iter().map(|file| file.size).sum();
        let task = self.hub.progress().task(&format!("upload to {}", self.name), Some(total), Unit::Bytes);
        for file in large {
            let path = &file.upload.path;
            let object = objects.iter().find(|object| object["oid"] == file.sha256.as_str());
            let object = object.with_context(|| format!("the hub did not say where {path} goes"))?;
            if let Some(message) = object["error"]["message"].as_str() {
                bail!("the hub does not take {path}: {message}");
            }
            match object["actions"]["upload"].as_object() {
                None => task.resume_at(file.size), // it has it
                Some(upload) => self.upload(file, &Value::Object(upload.clone()), &*task)?,
            }
            if let Some(url) = object["actions"]["verify"]["href"].as_str() {
                let body = json!({ "oid": file.sha256, "size": file.size }).to_string();
                self.post_anything(url, body.as_bytes()).with_context(|| format!("{path} was not received whole"))?;
            }
        }
        Ok(())
    }

    /// Sends JSON of git LFS to `url`, whose answer need not have a body.
    fn post_anything(&self, url: &str, body: &[u8]) -> Result<()> {
        self.client.repeated(self.hub.progress(), || {
            let mut response = self.client.send(url, Sent::Post(body, LFS), &[("accept", LFS.to_owned())])?;
            if response.status().is_success() {
                Ok(())
            } else {
                Err(self.client.refusal(&mut response, self.name, url))
            }
        })
    }

    /// Sends a large file to where `action` says, whole or in parts.
    fn upload(&self, file: &Measured, action: &Value, task: &dyn ProgressTask) -> Result<()> {
        let path = &file.upload.file;
        let url = action["href"].as_str().context("the hub did not say where large files go")?;
        let header = &action["header"];
        let chunk = header["chunk_size"].as_u64().or_else(|| header["chunk_size"].as_str()?.parse().ok());
        let Some(chunk) = chunk.filter(|&chunk| chunk > 0) else {
            self.put(url, path, 0, file.size, task)?;
            return Ok(());
        };
        let mut parts = Vec::new();
        for number in 1..=file.size.div_ceil(chunk) {
            let from = (number - 1) * chunk;
            let url = (1..=6).find_map(|width| header[format!("{number:0width$}")].as_str());
            let url = url.with_context(|| format!("the hub did not say where part {number} goes"))?;
            let etag = self.put(url, path, from, chunk.min(file.size - from), task)?;
            parts.push(json!({ "partNumber": number, "etag": etag }));
        }
        self.post_anything(url, json!({ "oid": file.sha256, "parts": parts }).to_string().as_bytes())
    }

    /// Sends a part of a file. Returns the tag that the store gives it.
    fn put(&self, url: &str, path: &Path, from: u64, n: u64, task: &dyn ProgressTask) -> Result<String> {
        let tag = self.client.repeated(self.hub.progress(), || -> Result<_, FailedAttempt> {
            let mut response = self.client.send(url, Sent::Put(path, from, n), &[])?;
            if !response.status().is_success() {
                let what = path.file_name().unwrap_or_default().to_string_lossy();
                return Err(self.client.refusal(&mut response, self.name, &what));
            }
            let tag = response.headers().get("etag").and_then(|tag| tag.to_str().ok());
            Ok(tag.unwrap_or_default().to_owned())
        })?;
        task.advance(n);
        Ok(tag)
    }

    /// Commits the files: a line of JSON for each, after one for the message.
    fn commit(&self, files: &[Measured], message: &str) -> Result<String> {
        let mut lines = vec![json!({ "key": "header", "value": { "summary": message, "description": "" } })];
        for file in files {
            let path = &file.upload.path;
            lines.push(match file.is_lfs {
                true => json!({
                    "key": "lfsFile",
                    "value": { "path": path, "algo": "sha256", "oid": file.sha256, "size": file.size },
                }),
                false => json!({
                    "key": "file",
                    "value": {
                        "path": path, "encoding": "base64", "content": STANDARD.encode(disk::read(&file.upload.file)?),
                    },
                }),
            });
        }
        let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let revision = quoted(&self.name.revision);
        let url = format!("{}/{}/commit/{revision}", self.client.endpoint(), self.name.api());
        // Once: the hub may have made the commit although its answer was lost.
        let answer = self.client.json(&url, Sent::Post(body.as_bytes(), "application/x-ndjson"), &[], self.name);
        let (answer, _) = answer.map_err(|failed| match failed {
            FailedAttempt::Final(error) => error,
            FailedAttempt::Temporary { error, .. } => {
                anyhow!("the commit may not have been made: {error:#}\n  hint: the same command tries again")
            }
        })?;
        let page = || format!("{}/{}", self.client.endpoint(), self.name.path());
        Ok(answer["commitUrl"].as_str().map_or_else(page, str::to_owned))
    }
}
