//! `NAME@REVISION`, as a command line names a repository of the hub.

use anyhow::{Result, ensure};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::fmt;

/// Prefix that distinguishes the name of a repository from a path.
pub const PREFIX: &str = "hf:";

/// The revision of a name that has none.
const MAIN: &str = "main";

/// The kind of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepositoryKind {
    /// A model.
    Model,
    /// A data set.
    Dataset,
}

impl RepositoryKind {
    /// Part of the hub's addresses below `/api`, and of the names of folders in the cache.
    pub(crate) fn plural(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
        }
    }
}

/// A repository at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubName {
    /// Model or dataset.
    pub kind: RepositoryKind,
    /// Name of the repository: `gpt2`, or `OWNER/NAME`.
    pub repository: String,
    /// Branch, tag or commit.
    pub revision: String,
}

impl HubName {
    /// Parses `NAME[@REVISION]`, the name of a model.
    ///
    /// # Errors
    /// When no repository can be called that.
    pub fn model(text: &str) -> Result<Self> {
        let text = text.strip_prefix(PREFIX).unwrap_or(text);
        let (repository, revision) = text.split_once('@').unwrap_or((text, MAIN));
        Self::new(RepositoryKind::Model, repository, revision)
    }

    /// Parses `NAME[@REVISION]`, the name of a data set.
    ///
    /// # Errors
    /// When no repository can be called that.
    pub fn dataset(text: &str) -> Result<Self> {
        Ok(Self { kind: RepositoryKind::Dataset, ..Self::model(text)? })
    }

    /// Parses `NAME[@REVISION]/FILE`, a file of a data set. Without a revision, a name of three or more parts begins with
    /// the owner.
    ///
    /// # Errors
    /// When it has no file, or no repository can be called that.
    pub fn dataset_file(text: &str) -> Result<(Self, String)> {
        let text = text.strip_prefix(PREFIX).unwrap_or(text);
        let (repository, revision, file) = match text.split_once('@') {
            Some((repository, rest)) => {
                let (revision, file) = rest.split_once('/').unwrap_or((rest, ""));
                (repository, revision, file)
            }
            None => {
                let n = if text.matches('/').count() > 1 { 2 } else { 1 };
                let end = text.match_indices('/').nth(n - 1).map_or(text.len(), |(at, _)| at);
                (&text[..end], MAIN, text[end..].trim_start_matches('/'))
            }
        };
        ensure!(!file.is_empty(), "{PREFIX}{text} names no file; write {PREFIX}NAME/FILE");
        Ok((Self::new(RepositoryKind::Dataset, repository, revision)?, file.to_owned()))
    }

    fn new(kind: RepositoryKind, repository: &str, revision: &str) -> Result<Self> {
        ensure!(
            is_repository(repository),
            "{repository:?} is not the name of a repository; write NAME or OWNER/NAME, as in openai-community/gpt2"
        );
        let is_part = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-+".contains(c))
        };
        ensure!(
            revision.split('/').all(is_part) && !revision.contains(".."),
            "{revision:?} is not a revision; write a branch, a tag or a commit after the @"
        );
        Ok(Self { kind, repository: repository.to_owned(), revision: revision.to_owned() })
    }

    /// Its folder in the cache.
    pub(crate) fn folder(&self) -> String {
        format!("{}--{}", self.kind.plural(), self.repository.replace('/', "--"))
    }

    /// Path of its pages and files below the address of the hub.
    pub(crate) fn path(&self) -> String {
        match self.kind {
            RepositoryKind::Model => self.repository.clone(),
            RepositoryKind::Dataset => format!("datasets/{}", self.repository),
        }
    }

    /// Path of its part of the API.
    pub(crate) fn api(&self) -> String {
        format!("api/{}/{}", self.kind.plural(), self.repository)
    }
}

impl fmt::Display for HubName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        if self.revision == MAIN { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

/// Whether the hub has repositories with names like `text`.
pub fn is_repository(text: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty()
            && part.len() <= 96
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
            && !part.starts_with(['.', '-'])
            && !part.ends_with(['.', '-'])
            && !part.contains("--")
            && !part.contains("..")
    };
    text.split('/').count() <= 2 && text.split('/').all(is_part)
}

/// Whether `text` is 40 hexadecimal digits, as the hub names commits.
pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|c| c.is_ascii_hexdigit())
}

/// Characters that are escaped in one segment of a URL path.
const PART: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Characters that are escaped in a path of several segments.
const PATH: &AsciiSet = &PART.remove(b'/');

/// `text` as one part of the path of a URL.
pub(crate) fn quoted(text: &str) -> String {
    utf8_percent_encode(text, PART).to_string()
}

/// The path `text` as the end of a URL.
pub(crate) fn quoted_path(text: &str) -> String {
    utf8_percent_encode(text, PATH).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_an_owner_and_a_revision_or_not() {
        let name = |text| HubName::model(text).map(|name| (name.repository, name.revision)).unwrap();
        assert_eq!(name("gpt2"), ("gpt2".into(), "main".into()));
        assert_eq!(name("a/b@refs/pr/1"), ("a/b".into(), "refs/pr/1".into()));
        assert_eq!(HubName::model("a/b@v1.0").unwrap().to_string(), "a/b@v1.0");
        assert_eq!(HubName::model("a/b").unwrap().folder(), "models--a--b");
        for wrong in
            ["", "/x", "a/b/c", "../x", "a/..", "a--b", "a b", ".a", "a@", "a@../x", "a@x/../y", "a@/x", "a\\b"]
        {
            assert!(HubName::model(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn files_of_data_sets_come_after_the_name() {
        let file = |text| HubName::dataset_file(text).map(|(name, file)| (name.to_string(), file)).unwrap();
        assert_eq!(file("a/b/c.jsonl"), ("a/b".into(), "c.jsonl".into()));
        assert_eq!(file("a/b/c/d.jsonl"), ("a/b".into(), "c/d.jsonl".into()));
        assert_eq!(file("squad/c.jsonl"), ("squad".into(), "c.jsonl".into()));
        assert_eq!(file("squad@v1/c/d.jsonl"), ("squad@v1".into(), "c/d.jsonl".into()));
        assert!(HubName::dataset_file("squad").unwrap_err().to_string().contains("names no file"));
        assert!(HubName::dataset_file("a/b@main").is_err());
    }

    #[test]
    fn addresses_are_quoted() {
        assert_eq!(quoted("refs/pr/1"), "refs%2Fpr%2F1");
        assert_eq!(quoted_path("a b/c#1?.txt"), "a%20b/c%231%3F.txt");
    }
}
