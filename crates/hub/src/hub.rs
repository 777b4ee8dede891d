//! Models and files of data sets, from the hub or from the cache.

use crate::cache::RepositoryCache;
use crate::choice;
use crate::client::{FailedAttempt, HubClient, Sent, Unreachable};
use crate::download::{Download, damage};
use crate::listing::{Listing, RemoteFile, is_safe};
use crate::name::HubName;
use crate::settings::HubSettings;
use anyhow::{Context, Result, anyhow, ensure};
use gptkit_data::disk;
use gptkit_data::format::needed_bytes;
use gptkit_data::progress::{Progress, Unit};
use std::path::{Path, PathBuf};

/// Bytes of the disk that a download leaves free.
const RESERVE: u64 = 64 << 20;
/// Bytes of the largest description of an account.
const LARGEST_ACCOUNT: u64 = 1 << 20;
/// What to do when the hub cannot be reached.
const NETWORK_HINT: &str = "check the network, HTTPS_PROXY and HF_ENDPOINT";

/// A hub and the cache of its files.
pub struct Hub<'a> {
    client: HubClient,
    cache: PathBuf,
    is_offline: bool,
    progress: &'a dyn Progress,
}

/// Checks of a model before its weights are downloaded.
pub trait ModelChecks {
    /// Checks the folder with the model's descriptions.
    ///
    /// # Errors
    /// When it is not a model that can be used.
    fn check_description(&self, folder: &Path) -> Result<()>;

    /// Checks the bytes that its weights have.
    ///
    /// # Errors
    /// When there is not enough memory for them.
    fn check_size(&self, bytes: u64) -> Result<()>;
}

impl<'a> Hub<'a> {
    /// The hub that `settings` describe.
    pub fn new(settings: &HubSettings, progress: &'a dyn Progress) -> Self {
        let client = HubClient::new(settings);
        Self { client, cache: settings.cache.clone(), is_offline: settings.offline, progress }
    }

    /// The folder of the model `name`: from the cache if it is complete there and its revision is a commit, the hub cannot
    /// be reached, or nothing may be downloaded; otherwise after downloading what is missing.
    ///
    /// # Errors
    /// When there is no such model, it fails `checks`, or it cannot be downloaded.
    pub fn model(&self, name: &HubName, checks: &dyn ModelChecks) -> Result<PathBuf> {
        let cache = RepositoryCache::new(&self.cache, name);
        let cached = cache.commit(&name.revision).map(|commit| cache.snapshot(&commit));
        let cached = cached.filter(|folder| choice::is_complete(folder));
        if let Some(folder) = cached.as_ref().filter(|folder| self.is_offline || folder.ends_with(&name.revision)) {
            return Ok(folder.clone());
        }
        self.must_be_online(name)?;
        let listing = match self.list(name) {
            Ok(listing) => listing,
            Err(e) => return self.instead(cached, e),
        };
        Ok(self.fetch_model(name, &listing, checks)?.0)
    }

    /// Downloads what the cache lacks of a model: first its descriptions, which are checked, then its weights. Returns its
    /// folder in the cache and its files.
    ///
    /// # Errors
    /// As [`Hub::model`].
    pub fn fetch_model<'f>(
        &self,
        name: &HubName,
        listing: &'f Listing,
        checks: &dyn ModelChecks,
    ) -> Result<(PathBuf, Vec<&'f RemoteFile>)> {
        let mut files = choice::descriptions(&listing.files);
        let folder = self.fetch(name, listing, &files)?;
        checks.check_description(&folder)?;
        let weights = choice::weights(&listing.files, &folder, name)?;
        checks.check_size(weights.iter().map(|file| file.size).sum())?;
        self.fetch(name, listing, &weights)?;
        files.extend(weights);
        Ok((folder, files))
    }

    /// The path of `file` in the data set `name`, downloaded if need be.
    ///
    /// # Errors
    /// When there is no such file, or it cannot be downloaded.
    pub fn dataset_file(&self, name: &HubName, file: &str) -> Result<PathBuf> {
        ensure!(is_safe(file), "{file:?} is not the name of a file of {name}");
        let cache = RepositoryCache::new(&self.cache, name);
        let cached = cache.commit(&name.revision).map(|commit| cache.snapshot(&commit).join(file));
        let cached = cached.filter(|path| path.is_file());
        let is_pinned = |path: &&PathBuf| path.parent().is_some_and(|folder| folder.ends_with(&name.revision));
        if let Some(path) = cached.as_ref().filter(|path| self.is_offline || is_pinned(path)) {
            return Ok(path.clone());
        }
        self.must_be_online(name)?;
        let listing = match self.list(name) {
            Ok(listing) => listing,
            Err(e) => return self.instead(cached, e),
        };
        let pattern = glob::Pattern::escape(file);
        let chosen = choice::matching(&listing.files, &[pattern], name)?;
        Ok(self.fetch(name, &listing, &chosen)?.join(file))
    }

    /// The commit of a revision and its files, as the hub lists them.
    ///
    /// # Errors
    /// When there is no such repository or revision, or the hub cannot be reached.
    pub fn list(&self, name: &HubName) -> Result<Listing> {
        self.must_be_online(name)?;
        Listing::of(&self.client, name, self.progress)
    }

    /// Downloads those of `files` that the cache does not have. Returns the folder in the cache that has them under their
    /// names.
    ///
    /// # Errors
    /// When there is no room for them, or one cannot be downloaded.
    pub fn fetch(&self, name: &HubName, listing: &Listing, files: &[&RemoteFile]) -> Result<PathBuf> {
        let cache = &RepositoryCache::new(&self.cache, name);
        let download = |file| Download { client: &self.client, cache, name, commit: &listing.commit, file };
        let downloads: Vec<Download> = files.iter().map(|file| download(file)).collect();
        let missing: u64 = downloads.iter().map(Download::missing).sum();
        let total: u64 = downloads.iter().filter(|one| !cache.has(one.file)).map(|one| one.file.size).sum();
        disk::create_dir(&self.cache)?;
        check_room(&self.cache, missing)?;
        let label = match files {
            [file] => format!("{} of {name}", file.path),
            _ => format!("{} files of {name}", files.len()),
        };
        let task = (total > 0).then(|| self.progress.task(&label, Some(total), Unit::Bytes));
        let silent: Box<dyn gptkit_data::progress::ProgressTask> = Box::new(gptkit_data::progress::Silent);
        let task = task.unwrap_or(silent);
        task.resume_at(total - missing);
        downloads.iter().try_for_each(|one| one.run(&*task, self.progress))?;
        cache.set_commit(&name.revision, &listing.commit)?;
        Ok(cache.snapshot(&listing.commit))
    }

    /// Compares `files`, which the cache has, with their checksums on the hub. Those that are damaged are removed.
    ///
    /// # Errors
    /// When one was damaged.
    pub fn verify(&self, name: &HubName, files: &[&RemoteFile]) -> Result<()> {
        let cache = RepositoryCache::new(&self.cache, name);
        for file in files {
            let blob = cache.blob(file);
            if let Some(wrong) = damage(&blob, file)? {
                std::fs::remove_file(&blob)?;
                return Err(anyhow!(
                    "{} of {name} was damaged in the cache, and is removed: {wrong}\n  hint: the same command \
                     downloads it again",
                    file.path
                ));
            }
        }
        Ok(())
    }

    /// The account of the token; none without a token. Asks the hub once.
    ///
    /// # Errors
    /// When the hub cannot be reached or refuses the token.
    pub fn account(&self) -> Result<Option<String>> {
        let endpoint = self.client.endpoint();
        let answer = self.client.send(&format!("{endpoint}/api/whoami-v2"), Sent::Nothing, &[]);
        let mut response = answer.map_err(|e| match e {
            FailedAttempt::Final(error) | FailedAttempt::Temporary { error, .. } => {
                anyhow!("{error:#}\n  hint: {NETWORK_HINT}")
            }
        })?;
        let status = response.status();
        ensure!(!status.is_server_error(), "{endpoint} fails ({status})\n  hint: try again later");
        if !self.client.has_token() {
            return Ok(None);
        }
        ensure!(
            status.is_success(),
            "{endpoint} refuses the token ({status})\n  hint: run `hf auth login`, or set HF_TOKEN to a valid token"
        );
        let body = response.body_mut().with_config().limit(LARGEST_ACCOUNT).read_to_string()?;
        let name = serde_json::from_str::<serde_json::Value>(&body)?["name"].as_str().map(str::to_owned);
        Ok(Some(name.with_context(|| format!("{endpoint} names no account"))?))
    }

    /// The client, to upload with.
    pub(crate) fn client(&self) -> &HubClient {
        &self.client
    }

    /// What long work reports to.
    pub(crate) fn progress(&self) -> &dyn Progress {
        self.progress
    }

    /// Refuses to ask the hub for `name` where nothing may be downloaded.
    pub(crate) fn must_be_online(&self, name: &HubName) -> Result<()> {
        ensure!(
            !self.is_offline,
            "{name} is not complete in {}, and nothing is downloaded offline\n  hint: remove --offline and \
             HF_HUB_OFFLINE, or run `gptkit pull {name}` where there is a network",
            self.cache.display()
        );
        Ok(())
    }

    /// Falls back to the cached file if the hub could not be reached; otherwise returns `error`.
    fn instead(&self, cached: Option<PathBuf>, error: anyhow::Error) -> Result<PathBuf> {
        match cached.filter(|_| error.is::<Unreachable>() || error.chain().any(|cause| cause.is::<Unreachable>())) {
            Some(path) => {
                self.progress.warn(&format!("{error:#}; using {}, which was downloaded before", path.display()));
                Ok(path)
            }
            None if error.chain().any(|cause| cause.is::<Unreachable>()) => {
                Err(anyhow!("{error:#}\n  hint: {NETWORK_HINT}"))
            }
            None => Err(error),
        }
    }
}

/// Refuses to write `bytes` to `folder` when its disk has no room for them.
///
/// # Errors
/// When it has not.
pub fn check_room(folder: &Path, bytes: u64) -> Result<()> {
    let free = disk::free_bytes(folder).unwrap_or(u64::MAX);
    ensure!(
        bytes == 0 || bytes.saturating_add(RESERVE) <= free,
        "{} has to hold {}, and its disk has {} free\n  hint: free some space, or set HF_HOME to a folder on another disk",
        folder.display(),
        needed_bytes(bytes),
        needed_bytes(free)
    );
    Ok(())
}
