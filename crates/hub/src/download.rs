//! One file: a part that is there is resumed, and the whole is checked before it gets its name.

use crate::cache::RepositoryCache;
use crate::client::{FailedAttempt, HubClient, Sent};
use crate::listing::{FileHash, RemoteFile};
use crate::name::{HubName, quoted_path};
use anyhow::{Result, anyhow, bail};
use gptkit_data::disk;
use gptkit_data::progress::{Progress, ProgressTask};
use sha1::Digest;
use std::io::{Read, Write};
use std::path::Path;

/// A file of a commit, where it comes from and where it goes.
pub(crate) struct Download<'a> {
    pub(crate) client: &'a HubClient,
    pub(crate) cache: &'a RepositoryCache,
    pub(crate) name: &'a HubName,
    pub(crate) commit: &'a str,
    pub(crate) file: &'a RemoteFile,
}

impl Download<'_> {
    /// Bytes that are still to be downloaded.
    pub(crate) fn missing(&self) -> u64 {
        if self.cache.has(self.file) { 0 } else { self.file.size - self.part_size().min(self.file.size) }
    }

    fn part_size(&self) -> u64 {
        self.cache.part(self.file).metadata().map_or(0, |metadata| metadata.len())
    }

    /// Downloads the file into the cache, unless it is there, and links it in the folder of the commit.
    pub(crate) fn run(&self, task: &dyn ProgressTask, progress: &dyn Progress) -> Result<()> {
        let blob = self.cache.blob(self.file);
        disk::create_dir(disk::parent(&blob))?;
        let _lock = self.cache.lock(self.file, progress)?;
        if !self.cache.has(self.file) {
            self.fetch(task, progress)?;
            disk::publish_file(&self.cache.part(self.file), &blob)?;
        }
        self.cache.link(self.commit, self.file)
    }

    /// Completes the part. If the whole is damaged, it is downloaded once more, from its beginning.
    fn fetch(&self, task: &dyn ProgressTask, progress: &dyn Progress) -> Result<()> {
        let part = self.cache.part(self.file);
        for again in [true, false] {
            self.client.repeated(progress, || self.fetch_rest(&part, task))?;
            let Some(wrong) = damage(&part, self.file)? else { return Ok(()) };
            std::fs::remove_file(&part)?;
            let what = format!("{} of {} arrived damaged: {wrong}", self.file.path, self.name);
            if !again {
                bail!("{what}\n  hint: it was downloaded twice; try again later, or tell the owner of the repository");
            }
            progress.warn(&format!("{what}; downloading it again"));
        }
        Ok(())
    }

    /// Appends to the part what is missing of it, as far as it comes.
    fn fetch_rest(&self, part: &Path, task: &dyn ProgressTask) -> Result<(), FailedAttempt> {
        let (path, size) = (&self.file.path, self.file.size);
        let mut file = disk::append(part)?;
        let mut have = file.metadata()?.len();
        if have > size {
            file.set_len(0)?;
            have = 0;
        }
        if have == size {
            return Ok(());
        }
        let place = format!("{}/resolve/{}/{}", self.name.path(), self.commit, quoted_path(path));
        let url = format!("{}/{place}", self.client.endpoint());
        let range = (have > 0).then(|| ("range", format!("bytes={have}-")));
        let mut response = self.client.send(&url, Sent::Nothing, range.as_slice())?;
        match response.status().as_u16() {
            206 if have > 0 => {
                let range = response.headers().get("content-range").and_then(|value| value.to_str().ok());
                if range.is_none_or(|range| !range.starts_with(&format!("bytes {have}-"))) {
                    file.set_len(0)?;
                    return Err(FailedAttempt::temporary(anyhow!("the server sent another part of {path}")));
                }
            }
            200 => {
                file.set_len(0)?; // the host cannot resume
                have = 0;
            }
            416 => {
                file.set_len(0)?;
                return Err(FailedAttempt::temporary(anyhow!("{path} could not be resumed")));
            }
            _ => return Err(self.client.refusal(&mut response, self.name, path)),
        }
        let length =
            response.headers().get("content-length").and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if let Some(length) = length.filter(|&length| length != size - have) {
            return Err(anyhow!(
                "{path} of {} is {} bytes long, but the hub lists {size}\n  hint: try again later, or tell the owner \
                 of the repository",
                self.name,
                have + length
            )
            .into());
        }
        let mut body = response.body_mut().as_reader();
        let mut buffer = vec![0; 1 << 16];
        let begin = have;
        loop {
            let n = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) => return Err(cut(path, have, size, have > begin, &e.to_string())),
            };
            if have + n as u64 > size {
                file.set_len(0)?;
                return Err(
                    anyhow!("{path} of {} is longer than the {size} bytes that the hub lists", self.name).into()
                );
            }
            file.write_all(&buffer[..n]).map_err(|e| anyhow!("{} cannot be written: {e}", part.display()))?;
            task.advance(n as u64);
            have += n as u64;
        }
        if have < size { Err(cut(path, have, size, have > begin, "the connection was closed")) } else { Ok(()) }
    }
}

/// That a connection ended early.
fn cut(path: &str, have: u64, size: u64, advanced: bool, why: &str) -> FailedAttempt {
    let error = anyhow!("{path} arrived up to byte {have} of {size} ({why})\n  hint: the same command continues there");
    FailedAttempt::Temporary { error, wait: None, advanced }
}

/// Compares the contents of `path` with the hash of `file`, and describes the difference if there is one.
pub(crate) fn damage(path: &Path, file: &RemoteFile) -> Result<Option<String>> {
    let (kind, found) = match &file.hash {
        FileHash::Sha256(_) => ("SHA-256", hex(&hashed(sha2::Sha256::new(), path)?)),
        FileHash::GitBlob(_) => {
            let hasher = sha1::Sha1::new_with_prefix(format!("blob {}\0", path.metadata()?.len()));
            ("git blob", hex(&hashed(hasher, path)?))
        }
    };
    let expected = file.hash.digits();
    let is_same = found.eq_ignore_ascii_case(expected);
    Ok((!is_same).then(|| format!("its {kind} hash is {found}, and the hub lists {expected}")))
}

fn hashed<D: Digest>(mut hasher: D, path: &Path) -> Result<Vec<u8>> {
    let mut file = disk::open(path)?;
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().to_vec()),
            n => hasher.update(&buffer[..n]),
        }
    }
}

/// The SHA-256 of a file.
pub(crate) fn sha256(path: &Path) -> Result<String> {
    Ok(hex(&hashed(sha2::Sha256::new(), path)?))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
