//! The files of a revision, as the hub lists them.

use crate::client::{FailedAttempt, HubClient, Sent, Unreachable};
use crate::name::{HubName, is_commit, quoted};
use anyhow::{Context, Result, ensure};
use gptkit_data::progress::Progress;
use serde_json::Value;

/// Pages of the list of files that are read.
const PAGES: usize = 200;

/// How the hub names the contents of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileHash {
    /// SHA-256 of the file, of large ones.
    Sha256(String),
    /// SHA-1 of the file as a blob of git.
    GitBlob(String),
}

impl FileHash {
    /// Its digits, which are the name of the file in the cache.
    pub fn digits(&self) -> &str {
        match self {
            Self::Sha256(digits) | Self::GitBlob(digits) => digits,
        }
    }
}

/// A file on the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    /// Its path in the repository; it leads nowhere else.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Hash of its contents.
    pub hash: FileHash,
}

/// A revision of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// Its commit.
    pub commit: String,
    /// Its files.
    pub files: Vec<RemoteFile>,
}

impl Listing {
    /// Asks the hub for the commit of a revision and for its files.
    pub(crate) fn of(client: &HubClient, name: &HubName, progress: &dyn Progress) -> Result<Self> {
        let api = format!("{}/{}", client.endpoint(), name.api());
        let page = |url: &str| -> Result<(Value, Option<String>)> {
            let mut is_repeated = false;
            client.repeated(progress, || match client.json(url, Sent::Nothing, &[], name) {
                // Without a network, the cache is used soon.
                Err(FailedAttempt::Temporary { error, .. }) if error.is::<Unreachable>() && is_repeated => {
                    Err(FailedAttempt::Final(error))
                }
                answer => {
                    is_repeated = true;
                    answer
                }
            })
        };
        let (info, _) = page(&format!("{api}/revision/{}", quoted(&name.revision)))?;
        let commit = info["sha"].as_str().filter(|sha| is_commit(sha));
        let commit = commit.with_context(|| format!("{} did not name the commit of {name}", client.endpoint()))?;
        let mut next = Some(format!("{api}/tree/{commit}?recursive=true&expand=false"));
        let mut files = Vec::new();
        for _ in 0..PAGES {
            let Some(url) = next else { break };
            let (list, after) = page(&url)?;
            let list = list.as_array().with_context(|| format!("{url} is not a list of files"))?;
            for entry in list.iter().filter(|entry| entry["type"] == "file") {
                files.push(parsed(entry).with_context(|| format!("the hub's list of the files of {name} is invalid"))?);
            }
            next = after;
        }
        ensure!(next.is_none(), "{name} has more files than gptkit reads");
        Ok(Self { commit: commit.to_owned(), files })
    }
}

fn parsed(entry: &Value) -> Result<RemoteFile> {
    let path = entry["path"].as_str().context("a file has no name")?;
    ensure!(is_safe(path), "the file name {path:?} leads out of the repository's folder; nothing was downloaded");
    let lfs = &entry["lfs"];
    let is_lfs = lfs.is_object();
    let digits = if is_lfs { &lfs["oid"] } else { &entry["oid"] };
    let n = if is_lfs { 64 } else { 40 };
    let digits = digits.as_str().filter(|digits| digits.len() == n && digits.bytes().all(|c| c.is_ascii_hexdigit()));
    let digits = digits.with_context(|| format!("{path} has no checksum"))?.to_owned();
    let size = if is_lfs { &lfs["size"] } else { &entry["size"] };
    let size = size.as_u64().with_context(|| format!("{path} has no size"))?;
    let hash = if is_lfs { FileHash::Sha256(digits) } else { FileHash::GitBlob(digits) };
    Ok(RemoteFile { path: path.to_owned(), size, hash })
}

/// Whether `path` stays below the folder that it is relative to, on every system.
pub(crate) fn is_safe(path: &str) -> bool {
    let is_part = |part: &str| {
        !matches!(part, "" | "." | "..") && !part.chars().any(|c| c.is_control() || matches!(c, '\\' | ':'))
    };
    path.len() <= 1024 && path.split('/').all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for safe in ["config.json", "a/b.txt", "..a", "a..b/c"] {
            assert!(is_safe(safe), "{safe}");
        }
        for hostile in
            ["", "/etc/x", "../x", "a/../../x", "a/..", "./x", "a//b", "..\\x", "C:\\x", "C:x", "a\0b", "a\nb"]
        {
            assert!(!is_safe(hostile), "{hostile:?}");
            let entry = json!({ "type": "file", "path": hostile, "oid": "0".repeat(40), "size": 1 });
            assert!(parsed(&entry).unwrap_err().to_string().contains("nothing was downloaded"));
        }
    }

    #[test]
    fn checksums_that_are_none_are_refused() {
        for oid in ["../../../x", "00", &"g".repeat(40), &"0".repeat(64)] {
            let entry = json!({ "type": "file", "path": "a", "oid": oid, "size": 1 });
            assert!(parsed(&entry).unwrap_err().to_string().contains("a has no checksum"), "{oid}");
        }
        let large =
            json!({ "path": "a", "oid": "0".repeat(40), "size": 9, "lfs": { "oid": "1".repeat(64), "size": 7 } });
        let file = parsed(&large).unwrap();
        assert_eq!((file.size, file.hash), (7, FileHash::Sha256("1".repeat(64))));
    }
}
