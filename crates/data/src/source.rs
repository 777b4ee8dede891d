//! Where text comes from: files, folders, JSONL, gzip and zstd of either, stdin, the embedded world.
//!
//! A plain text file is one document; a file of records has one a record, in one column. What a file is, its name says:
//! `.jsonl`, `.ndjson`, `.json`, `.csv`, `.tsv` and `.parquet` hold records, all else is text, with `.gz` or `.zst` after it
//! when compressed; stdin is text as `-`, records as `-.jsonl` and so on. Text is taken byte for byte, line ends included;
//! only a byte-order mark at its start is dropped, and UTF-16 is decoded.

use gptkit_config::{Check, Problems};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The text to train on; TOML section `[data]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DataConfig {
    /// The sources of the text.
    pub sources: Vec<SourceConfig>,
    /// Column of the text in files of records. If it is `text` and a file has no such column, `content` is read.
    pub text_key: String,
    /// What to do with invalid UTF-8, empty documents and malformed lines.
    pub on_bad_record: OnBadRecord,
    /// Share of the documents held out for validation.
    pub val_fraction: f64,
    /// Folder in which the tokenized text is cached.
    pub shards: PathBuf,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            sources: vec![SourceConfig { path: "world".to_owned(), weight: None }],
            text_key: "text".to_owned(),
            on_bad_record: OnBadRecord::Fail,
            val_fraction: 0.01,
            shards: PathBuf::from("shards"),
        }
    }
}

/// One source of text; an element of `data.sources`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SourceConfig {
    /// File, folder, `-` for stdin, `world`, `world:STORIES` or `world:STORIES:SEED` for built-in stories, `world-patterns`
    /// in the same three forms for built-in patterns, or a folder that `prepare` wrote.
    pub path: String,
    /// Share of the windows that come from this source, relative to the other weights (Brown et al. 2020, table 2.2). All
    /// sources have a weight, or none has one; then each counts by its size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
}

impl FromStr for SourceConfig {
    type Err = String;

    /// `PATH` or `PATH@WEIGHT`; an `@` before anything but a number is part of the path.
    fn from_str(text: &str) -> Result<Self, String> {
        let weighted = text.rsplit_once('@').and_then(|(path, weight)| Some((path, weight.parse::<f64>().ok()?)));
        let (path, weight) = weighted.map_or((text, None), |(path, weight)| (path, Some(weight)));
        if path.is_empty() {
            return Err("the path is empty".to_owned());
        }
        Ok(Self { path: path.to_owned(), weight })
    }
}

/// What to do with a record that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnBadRecord {
    /// Stop, with an error that names file and line.
    Fail,
    /// Leave the record out, and count it.
    Skip,
}

impl FromStr for OnBadRecord {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "fail" => Ok(Self::Fail),
            "skip" => Ok(Self::Skip),
            _ => Err("must be fail or skip".to_owned()),
        }
    }
}

impl Check for DataConfig {
    fn check(&self, problems: &mut Problems) {
        problems.require(!self.sources.is_empty(), "sources", "is empty", "use the path of a file, or \"world\"");
        problems.require(
            (0.0..=0.5).contains(&self.val_fraction),
            "val_fraction",
            "must be between 0 and 0.5",
            "use 0.01, or 0 for no validation",
        );
        problems.require(!self.text_key.is_empty(), "text_key", "is empty", "use \"text\"");
        let weights = self.sources.iter().filter(|s| s.weight.is_some()).count();
        problems.require(weights <= 500, "sources", "has more than 500 weights", "combine the smaller sources");
        problems.require(
            weights == 0 || weights == self.sources.len(),
            "sources",
            "has weights for only some of its entries",
            "set a weight for each source, or for none",
        );
        for (i, source) in self.sources.iter().enumerate() {
            let key = |name: &str| format!("sources.{i}.{name}");
            let sound = source.weight.is_none_or(|w| w.is_finite() && w > 0.0);
            problems.require(sound, &key("weight"), "must be positive", "remove the source if it should not be used");
            match SourceLocation::of(&source.path) {
                Err(what) => {
                    let name = source.path.split(':').next().unwrap_or_default();
                    problems.add(&key("path"), what, format!("use {name}:20000, or {name}:20000:SEED"));
                }
                Ok(SourceLocation::Path(path)) if !path.exists() => {
                    let way = "use a file or folder of text, - for stdin, or world";
                    problems.add(&key("path"), "does not exist", way);
                }
                Ok(_) => {}
            }
        }
        let stdin =
            self.sources.iter().filter(|s| matches!(SourceLocation::of(&s.path), Ok(SourceLocation::Stdin(_)))).count();
        problems.require(stdin < 2, "sources", "contains stdin more than once", "stdin can be read only once");
    }
}

/// A parsed source path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceLocation {
    /// A file or folder.
    Path(PathBuf),
    /// Stdin, with the ending that says what it holds (`.jsonl` for instance, or nothing).
    Stdin(String),
    /// The embedded world.
    World {
        /// The type of text.
        told: SyntheticText,
        /// How many documents.
        count: u64,
        /// The world's seed.
        seed: u64,
    },
}

/// What a document of the embedded world tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyntheticText {
    /// A story: `world`.
    Stories,
    /// A pattern, by examples: `world-patterns`.
    Patterns,
}

impl SyntheticText {
    /// Documents where a path says nothing else: about 11 MB of stories, a third as much of patterns.
    fn usual(self) -> u64 {
        match self {
            SyntheticText::Stories => 10_000,
            SyntheticText::Patterns => 15_000,
        }
    }
}

impl SourceLocation {
    /// Reads a source's path.
    ///
    /// # Errors
    /// When it begins like a source of the world but is not a valid one.
    pub fn of(path: &str) -> Result<Self, String> {
        if let Some(ending) = path.strip_prefix('-').filter(|e| e.is_empty() || e.starts_with('.')) {
            return Ok(Self::Stdin(ending.to_owned()));
        }
        let mut parts = path.split(':');
        let told = match parts.next() {
            Some("world") => SyntheticText::Stories,
            Some("world-patterns") => SyntheticText::Patterns,
            _ => return Ok(Self::Path(PathBuf::from(path))),
        };
        let mut number = |default: u64| match parts.next() {
            Some(text) => text.parse::<u64>().map_err(|_| format!("\"{text}\" is not a number")),
            None => Ok(default),
        };
        let (count, seed) = (number(told.usual())?, number(1)?);
        if count == 0 || parts.next().is_some() {
            let what = if told == SyntheticText::Stories { "stories" } else { "documents" };
            return Err(format!("must have a positive number of {what}"));
        }
        Ok(Self::World { told, count, seed })
    }

    /// What to warn of where `path` names the embedded corpus and the working folder has a file or folder of that name.
    pub fn shadowed(path: &str) -> Option<String> {
        Self::shadowed_in(Path::new(""), path)
    }

    fn shadowed_in(folder: &Path, path: &str) -> Option<String> {
        let name = path.split(':').next().filter(|name| ["world", "world-patterns"].contains(name))?;
        let is_there = folder.join(name).exists();
        is_there.then(|| format!("{path} is the embedded text, not ./{name}; write ./{name} to read the file"))
    }

    /// Whether `source` names records of the embedded corpus.
    pub fn is_world(source: &str) -> bool {
        matches!(Self::of_records(source), Ok(Self::World { .. }))
    }

    /// Reads the path of a source of records: of the world, that is `world` alone.
    ///
    /// # Errors
    /// As [`SourceLocation::of`], and when it is text of the world that no records come with.
    pub fn of_records(path: &str) -> Result<Self, String> {
        match Self::of(path)? {
            Self::World { told: SyntheticText::Patterns, .. } => {
                Err("is text for pretraining and contains no records".to_owned())
            }
            place => Ok(place),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_on_the_command_line_may_have_a_weight() {
        let parsed = |text: &str| text.parse::<SourceConfig>().map(|s| (s.path, s.weight));
        assert_eq!(parsed("a.txt"), Ok(("a.txt".to_owned(), None)));
        assert_eq!(parsed("a.txt@0.6"), Ok(("a.txt".to_owned(), Some(0.6))));
        assert_eq!(parsed("me@home/a.txt"), Ok(("me@home/a.txt".to_owned(), None)));
        assert!(parsed("@3").is_err());
    }

    #[test]
    fn the_world_and_stdin_are_known_by_their_names() {
        let world = |told, count, seed| Ok(SourceLocation::World { told, count, seed });
        assert_eq!(SourceLocation::of("world"), world(SyntheticText::Stories, 10_000, 1));
        assert_eq!(SourceLocation::of("world:50:9"), world(SyntheticText::Stories, 50, 9));
        assert_eq!(SourceLocation::of("world-patterns"), world(SyntheticText::Patterns, 15_000, 1));
        assert_eq!(SourceLocation::of("world-patterns:50:9"), world(SyntheticText::Patterns, 50, 9));
        assert_eq!(SourceLocation::of("world-tour"), Ok(SourceLocation::Path("world-tour".into())));
        assert_eq!(SourceLocation::of("./world"), Ok(SourceLocation::Path("./world".into())));
        assert_eq!(SourceLocation::of("-.jsonl.gz"), Ok(SourceLocation::Stdin(".jsonl.gz".to_owned())));
        assert_eq!(SourceLocation::of("-x"), Ok(SourceLocation::Path("-x".into())));
        for wrong in ["world:", "world:many", "world:0", "world:5:1:2", "world-patterns:0", "world-patterns:5:x"] {
            assert!(SourceLocation::of(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_folder_that_is_named_as_the_embedded_corpus_is_not_passed_over_in_silence() {
        let folder = tempfile::tempdir().unwrap();
        let warning = |path: &str| SourceLocation::shadowed_in(folder.path(), path);
        assert_eq!(warning("world"), None);
        std::fs::create_dir(folder.path().join("world")).unwrap();
        assert_eq!(
            warning("world:50").unwrap(),
            "world:50 is the embedded text, not ./world; write ./world to read the file"
        );
        assert!(warning("world").is_some());
        assert_eq!(["./world", "world-patterns", "a.txt"].map(warning), [None, None, None]);
    }

    #[test]
    fn patterns_are_no_records() {
        assert_eq!(SourceLocation::of_records("world:50"), SourceLocation::of("world:50"));
        assert_eq!(SourceLocation::of_records("a.jsonl"), SourceLocation::of("a.jsonl"));
        assert!(SourceLocation::of_records("world-patterns:50").unwrap_err().contains("no records"));
    }

    #[test]
    fn contradictions_are_problems() {
        let source = |path: &str, weight| SourceConfig { path: path.to_owned(), weight };
        let config = DataConfig {
            sources: vec![
                source("/", Some(-1.0)),
                source("-", None),
                source("-", None),
                source("world-patterns:x", None),
            ],
            val_fraction: 0.9,
            ..DataConfig::default()
        };
        let mut problems = Problems::default();
        config.check(&mut problems);
        let keys: Vec<&str> = problems.iter().map(|p| p.key.as_str()).collect();
        assert_eq!(keys, ["val_fraction", "sources", "sources.0.weight", "sources.3.path", "sources"]);
    }
}
