//! Where a task's records come from: files, the embedded world, GPT-3's synthetic tasks.

use crate::arithmetic::Arithmetic;
use crate::scramble::{Scramble, frequent_words};
use anyhow::{Result, anyhow, bail, ensure};
use gptkit_data::progress::Silent;
use gptkit_data::record::{RecordPlace, Row};
use gptkit_data::rows::read_rows;
use gptkit_data::source::OnBadRecord;
use gptkit_data::split::Split;
use gptkit_data::synthetic::{Fields, PatternKind, SyntheticLabeled, SyntheticPatternRecords, SyntheticStories};
use gptkit_data::task::TaskKind;
use serde::Serialize;
use serde_json::Value;
use std::fmt;
use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Records of a source that has any number of them, where it does not say how many.
const COUNT: u64 = 1000;
/// Stories that words are taken from where no text is named.
const STORIES: u64 = 2000;

/// Where records come from.
#[derive(Debug, Clone, PartialEq)]
pub enum RecordSource {
    /// A file.
    File(PathBuf),
    /// As many records as are wanted.
    Made {
        /// Of what.
        kind: GeneratedTask,
        /// How many to measure with.
        count: u64,
        /// Which.
        seed: u64,
    },
}

/// What is made.
#[derive(Debug, Clone, PartialEq)]
pub enum GeneratedTask {
    /// `world:NAME`: a labeled task of the embedded world.
    World(TaskKind),
    /// `patterns:NAME`: a pattern of it.
    Pattern(PatternKind),
    /// `arithmetic:NAME`: Brown et al. 2020, §3.9.1.
    Arithmetic(Arithmetic),
    /// `words:NAME`: Brown et al. 2020, §3.9.2, of the frequent words of a text, or of the world's stories.
    Words(Scramble, Option<PathBuf>),
}

impl RecordSource {
    /// A source as it is written: the path of a file, or `KIND:NAME`, `KIND:NAME:COUNT`, `KIND:NAME:COUNT:SEED`, and for
    /// words `words:NAME:COUNT:SEED:FILE`.
    ///
    /// # Errors
    /// When a name or number is none.
    pub fn of(text: &str) -> Result<Self> {
        let mut parts = text.splitn(5, ':');
        let (kind, name) = (parts.next().unwrap_or_default(), parts.next());
        let Some(name) = name.filter(|_| ["world", "patterns", "arithmetic", "words"].contains(&kind)) else {
            return Ok(Self::File(PathBuf::from(text)));
        };
        let number = |part: Option<&str>, default| match part {
            Some(text) => text.parse::<u64>().map_err(|_| anyhow!("{text:?} is not a number")),
            None => Ok(default),
        };
        let (count, seed) = (number(parts.next(), COUNT)?, number(parts.next(), 1)?);
        let file = parts.next().map(PathBuf::from);
        ensure!(count > 0, "the number of records must be at least 1");
        ensure!(kind == "words" || file.is_none(), "only a words: source can name a file");
        let kind = match kind {
            "world" => GeneratedTask::World(named(name)?),
            "patterns" => GeneratedTask::Pattern(named(name)?),
            "arithmetic" => GeneratedTask::Arithmetic(named(name)?),
            _ => GeneratedTask::Words(named(name)?, file),
        };
        Ok(Self::Made { kind, count, seed })
    }

    /// The file that is read, if one is.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) | Self::Made { kind: GeneratedTask::Words(_, Some(path)), .. } => Some(path),
            Self::Made { .. } => None,
        }
    }

    /// Hands the records of `split` to `sink` in their order, until it breaks; a file is all of one split. A record that
    /// `sink` calls [`BadRecord`](gptkit_data::record::BadRecord) is left out, or ends the reading. Returns how many were left
    /// out.
    ///
    /// # Errors
    /// As [`read_rows`].
    pub fn read(
        &self,
        split: Split,
        on_bad: OnBadRecord,
        sink: &mut dyn FnMut(Row) -> Result<ControlFlow<()>>,
    ) -> Result<u64> {
        match self {
            Self::File(path) => Ok(read_rows(path, on_bad, &Silent, sink)?.total()),
            Self::Made { kind, count, seed } => {
                let file = PathBuf::from(kind.to_string());
                let mut send = |index: u64, fields| {
                    sink(Row { place: RecordPlace { file: file.clone(), line: index + 1 }, fields })
                };
                kind.read(split, *seed, *count, &mut send).map(|()| 0)
            }
        }
    }
}

fn named<T: FromStr<Err = String>>(name: &str) -> Result<T> {
    name.parse().map_err(|way| anyhow!("{name:?} is not a valid name: {way}"))
}

impl GeneratedTask {
    fn read(
        &self,
        split: Split,
        seed: u64,
        count: u64,
        send: &mut dyn FnMut(u64, Fields) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let mut each = |record: &dyn Fn(u64) -> Result<Fields>| -> Result<()> {
            for index in 0..count {
                if send(index, record(index)?)?.is_break() {
                    break;
                }
            }
            Ok(())
        };
        match self {
            Self::World(task) => {
                let records = SyntheticLabeled::new(*task, seed, split);
                each(&|index| records.record(index))
            }
            Self::Pattern(pattern) => {
                let records = SyntheticPatternRecords::new(*pattern, seed, split);
                each(&|index| records.record(index))
            }
            Self::Arithmetic(task) => each(&|index| fields(&task.instance(seed, index, split))),
            Self::Words(task, text) => {
                let words = words_of(text.as_deref())?;
                // Every eighth is for demonstrations.
                let own = |(i, word): (usize, String)| ((i % 8 == 7) == (split == Split::Train)).then_some(word);
                let words: Vec<String> = words.into_iter().enumerate().filter_map(own).collect();
                ensure!(!words.is_empty(), "{self}: the text has too few words of 5 to 14 letters");
                // No word twice: some kinds know one way to scramble it.
                for (word, index) in words.iter().zip(0..count) {
                    if send(index, fields(&task.instance(word, seed, index))?)?.is_break() {
                        break;
                    }
                }
                Ok(())
            }
        }
    }
}

fn fields(record: &impl Serialize) -> Result<Fields> {
    match serde_json::to_value(record)? {
        Value::Object(fields) => Ok(fields),
        other => bail!("{other} is not a record"),
    }
}

/// The frequent words of a text.
fn words_of(text: Option<&Path>) -> Result<Vec<String>> {
    Ok(match text {
        Some(path) => {
            let file = gptkit_data::disk::open(path)?;
            // What is no text has no words.
            frequent_words(BufReader::new(file).lines().map_while(std::result::Result::ok))
        }
        None => {
            let stories = SyntheticStories::new(1);
            frequent_words((0..STORIES).map(|index| stories.story(index)))
        }
    })
}

impl fmt::Display for GeneratedTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::World(task) => write!(f, "world:{task}"),
            Self::Pattern(pattern) => write!(f, "patterns:{pattern}"),
            Self::Arithmetic(task) => write!(f, "arithmetic:{task}"),
            Self::Words(task, _) => write!(f, "words:{task}"),
        }
    }
}
