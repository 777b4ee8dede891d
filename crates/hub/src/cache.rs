//! The folders in which `huggingface_hub` keeps what it downloads, so that each finds the other's files:
//!
//! ```text
//! models--OWNER--NAME/refs/main                 the commit of a branch or tag
//! models--OWNER--NAME/blobs/HASH                contents
//! models--OWNER--NAME/blobs/HASH.incomplete     a part of them
//! models--OWNER--NAME/snapshots/COMMIT/FILE     a link to the contents
//! .locks/models--OWNER--NAME/HASH.lock          held while the contents are downloaded
//! ```

use crate::listing::RemoteFile;
use crate::name::{HubName, is_commit};
use anyhow::{Context, Result};
use gptkit_data::disk;
use gptkit_data::progress::Progress;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// The part of the cache that belongs to a repository.
#[derive(Debug)]
pub(crate) struct RepositoryCache {
    folder: PathBuf,
    locks: PathBuf,
}

impl RepositoryCache {
    pub(crate) fn new(cache: &Path, name: &HubName) -> Self {
        Self { folder: cache.join(name.folder()), locks: cache.join(".locks").join(name.folder()) }
    }

    /// Where the contents of `file` are.
    pub(crate) fn blob(&self, file: &RemoteFile) -> PathBuf {
        self.folder.join("blobs").join(file.hash.digits())
    }

    /// Where they are while they are incomplete.
    pub(crate) fn part(&self, file: &RemoteFile) -> PathBuf {
        self.folder.join("blobs").join(format!("{}.incomplete", file.hash.digits()))
    }

    /// Whether the contents of `file` are there.
    pub(crate) fn has(&self, file: &RemoteFile) -> bool {
        self.blob(file).metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() == file.size)
    }

    /// The folder of a commit.
    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// The commit of a revision, as it was when the hub was last asked.
    pub(crate) fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let text = disk::read_description(&self.folder.join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Notes the commit of a revision.
    pub(crate) fn set_commit(&self, revision: &str, commit: &str) -> Result<()> {
        let _lock = self.locked("refs", &|| ())?;
        if revision == commit || self.commit(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.folder.join("refs").join(revision);
        disk::create_dir(disk::parent(&path))?;
        disk::write(&path, commit.as_bytes())
    }

    /// Holds the contents of `file` until the result is dropped; waits for another process that does.
    pub(crate) fn lock(&self, file: &RemoteFile, progress: &dyn Progress) -> Result<File> {
        let waits = || progress.note(&format!("another process is downloading {}; waiting for it", file.path));
        self.locked(file.hash.digits(), &waits)
    }

    fn locked(&self, name: &str, waits: &dyn Fn()) -> Result<File> {
        disk::create_dir(&self.locks)?;
        let path = self.locks.join(format!("{name}.lock"));
        let lock = disk::append(&path)?;
        if matches!(lock.try_lock(), Err(TryLockError::WouldBlock)) {
            waits();
            lock.lock().with_context(|| format!("{} cannot be locked", path.display()))?;
        }
        Ok(lock) // a file system without locks has no way to tell
    }

    /// Gives the contents of `file` its name in the folder of `commit`.
    pub(crate) fn link(&self, commit: &str, file: &RemoteFile) -> Result<()> {
        let path = self.snapshot(commit).join(&file.path);
        let up = "../".repeat(2 + file.path.matches('/').count());
        let target = PathBuf::from(format!("{up}blobs/{}", file.hash.digits()));
        if std::fs::read_link(&path).is_ok_and(|now| now == target) {
            return Ok(());
        }
        disk::create_dir(disk::parent(&path))?;
        disk::link(&target, &self.blob(file), &path)
    }
}

/// The name on the hub of a folder or a file in a cache: `NAME@COMMIT` or `NAME@COMMIT/FILE`.
pub fn origin(path: &Path) -> Option<String> {
    path.ancestors().find_map(|folder| {
        let commit = folder.file_name()?.to_str().filter(|name| is_commit(name))?;
        let snapshots = folder.parent().filter(|parent| parent.ends_with("snapshots"))?;
        let (kind, repository) = snapshots.parent()?.file_name()?.to_str()?.split_once("--")?;
        let rest = path.strip_prefix(folder).ok()?.to_str()?;
        let slash = if rest.is_empty() { "" } else { "/" };
        let is_known = matches!(kind, "models" | "datasets");
        is_known.then(|| format!("{}@{commit}{slash}{rest}", repository.replace("--", "/")))
    })
}

/// What people call the model in `folder`: the name of its repository without the owner where it is in a cache, the folder's
/// last part elsewhere.
pub fn model_name(folder: &Path) -> String {
    let repository = |origin: String| origin.split('@').next()?.rsplit('/').next().map(str::to_owned);
    let last = || folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned();
    origin(folder).and_then(repository).unwrap_or_else(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_the_cache_says_where_it_is_from() {
        let commit = "0123456789012345678901234567890123456789";
        let of = |path: String| origin(Path::new(&path));
        assert_eq!(of(format!("/c/models--a--b/snapshots/{commit}")), Some(format!("a/b@{commit}")));
        let file = of(format!("/c/datasets--gpt2/snapshots/{commit}/x/1.txt"));
        assert_eq!(file, Some(format!("gpt2@{commit}/x/1.txt")));
        let named = [format!("/c/models--a--b/snapshots/{commit}"), "runs/small-1/".to_owned(), "/".to_owned()];
        assert_eq!(named.map(|path| model_name(Path::new(&path))), ["b", "small-1", "/"]);
        assert_eq!(of(format!("/c/models--gpt2/blobs/{commit}")), None);
        assert_eq!(of("/c/models--gpt2/snapshots/main".to_owned()), None);
        assert_eq!(of(format!("/c/gpt2/snapshots/{commit}")), None);
    }
}
