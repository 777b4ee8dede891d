//! The form of a file's contents, as its name gives it.

use std::path::Path;

/// The form of a file's contents, as its name gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileForm {
    /// How it holds records; if not, it is text.
    pub(crate) records: Option<Format>,
    /// Whether the name says so, rather than leaves it open, so that it is read where a folder is.
    pub(crate) named: bool,
    pub(crate) compression: Option<Compression>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    Gzip,
    Zstd,
}

impl FileForm {
    /// The form that the name `path` says.
    pub(crate) fn of(path: &Path) -> Self {
        let (ending, compression) = ending(path);
        let records = Format::of(path);
        // A folder's .json files describe it more often than they hold its text.
        let named =
            records.is_some_and(|format| format != Format::Json) || matches!(ending.as_str(), "txt" | "text" | "md");
        Self { records, named, compression }
    }

    /// Whether the name says that it is text.
    pub(crate) fn is_text(self) -> bool {
        self.named && self.records.is_none()
    }
}

/// The ending of the name `path`, in small letters, and the compression that a further one says.
pub(crate) fn ending(path: &Path) -> (String, Option<Compression>) {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let (stem, compression) = match name.rsplit_once('.') {
        Some((stem, "gz")) => (stem, Some(Compression::Gzip)),
        Some((stem, "zst" | "zstd")) => (stem, Some(Compression::Zstd)),
        _ => (name.as_str(), None),
    };
    (stem.rsplit_once('.').map_or("", |(_, ending)| ending).to_owned(), compression)
}

/// How a file holds records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Jsonl,
    Csv,
    Tsv,
    Parquet,
}

impl Format {
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let (ending, compression) = ending(path);
        match ending.as_str() {
            "json" => Some(Self::Json),
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            "csv" => Some(Self::Csv),
            "tsv" => Some(Self::Tsv),
            "parquet" if compression.is_none() => Some(Self::Parquet),
            _ => None,
        }
    }
}
