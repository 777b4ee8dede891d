//! The built-in tasks: the files of `crates/eval/tasks/`, embedded so that their names work anywhere; and the short form in which
//! a task and its records are named.

use crate::records::RecordSource;
use crate::request::TaskRequest;
use crate::task::{Scoring, TaskConfig};
use anyhow::Result;
use gptkit_config::Usage;
use gptkit_data::source::SourceLocation;
use std::path::Path;

macro_rules! tasks {
    ($($name:literal),* $(,)?) => {
        /// Name and text of every embedded file.
        pub const TASKS: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../tasks/", $name, ".toml")))),*];
    };
}

tasks![
    "lambada",
    "lambada-cloze",
    "hellaswag",
    "storycloze",
    "piqa",
    "arc",
    "copa",
    "rte",
    "sst2",
    "gsm8k",
    "questions",
    "tldr",
    "translation",
    "text",
    "positions",
    "wikitext",
    "ptb",
    "arithmetic",
    "words",
    "world-classification",
    "world-endings",
    "world-patterns",
];

/// Names a task and where its records are: `NAME|FILE[:VARIANT][=TEST[,TRAIN]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskSpec {
    name: String,
    variant: Option<String>,
    test: Option<String>,
    train: Option<String>,
}

impl std::str::FromStr for TaskSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, records) = text.split_once('=').map_or((text, None), |(name, records)| (name, Some(records)));
        let (name, variant) = name.split_once(':').map_or((name, None), |(name, variant)| (name, Some(variant)));
        let (test, train) = match records {
            Some(records) => records.split_once(',').map_or((Some(records), None), |(a, b)| (Some(a), Some(b))),
            None => (None, None),
        };
        if name.is_empty() || [variant, test, train].into_iter().flatten().any(str::is_empty) {
            return Err("write NAME, NAME:VARIANT, NAME=TEST or NAME=TEST,TRAIN".to_owned());
        }
        let own = |part: Option<&str>| part.map(str::to_owned);
        Ok(Self { name: name.to_owned(), variant: own(variant), test: own(test), train: own(train) })
    }
}

impl TaskSpec {
    /// A request for each variant of the task that is named, or for all of them.
    ///
    /// # Errors
    /// [`Usage`] when the task, its variant or its records do not exist; [`gptkit_config::Invalid`] when a task file is wrong.
    pub fn requests(&self) -> Result<Vec<TaskRequest>> {
        let (name, config) = load(&self.name)?;
        let variants: Vec<String> = match &self.variant {
            None if config.variants.is_empty() => vec![String::new()],
            None => config.variants.clone(),
            Some(variant) if config.variants.contains(variant) => vec![variant.clone()],
            Some(variant) => {
                let known = if config.variants.is_empty() { "none".to_owned() } else { config.variants.join(", ") };
                return Err(Usage::new(format!("--task {name} has no variant {variant}"))
                    .hint(format!("its variants are {known}"))
                    .into());
            }
        };
        variants.iter().map(|variant| self.request(&name, &config, variant)).collect()
    }

    fn request(&self, name: &str, config: &TaskConfig, variant: &str) -> Result<TaskRequest> {
        let filled = |text: &str| text.replace("{variant}", variant);
        let test = match &self.test {
            // What words are scrambled is theirs to say, not where records are.
            Some(file) if config.test.starts_with("words:") => words_of(&filled(&config.test), file),
            Some(test) => test.clone(),
            None => filled(&config.test),
        };
        let train = self
            .train
            .clone()
            .unwrap_or_else(|| if self.test.is_some() { String::new() } else { filled(&config.train) });
        let usage = |what: String, hint: String| Usage::new(format!("--task {name}: {what}")).hint(hint);
        if test.is_empty() {
            let given = &self.name;
            let hint =
                format!("pass a file: --task {given}=FILE, or {given}=FILE,TRAIN with few-shot examples from TRAIN");
            return Err(usage("it has no built-in records".to_owned(), hint).into());
        }
        let text = config.scoring == Scoring::Perplexity;
        if text && !train.is_empty() {
            return Err(usage(
                "a text has no few-shot examples".to_owned(),
                format!("pass one file: {}={test}", self.name),
            )
            .into());
        }
        if test == train && Path::new(&test).exists() {
            let hint =
                format!("pass it once, {}={test}: few-shot examples are then taken from every tenth record", self.name);
            return Err(usage("the same file is given twice".to_owned(), hint).into());
        }
        for (what, source) in [("test", &test), ("train", &train)].into_iter().filter(|(_, source)| !source.is_empty())
        {
            if text {
                let there = Path::new(source).exists()
                    || matches!(SourceLocation::of(source), Ok(SourceLocation::World { .. }));
                if !there {
                    return Err(usage(
                        format!("{source}: no such file"),
                        "name a file or folder of text, or world".to_owned(),
                    )
                    .into());
                }
                continue;
            }
            let source = RecordSource::of(source)
                .map_err(|e| usage(format!("{source}: {e}"), "see gptkit eval --help".to_owned()))?;
            if let Some(file) = source.file().filter(|file| !file.is_file()) {
                return Err(usage(
                    format!("{}: no such file", file.display()),
                    format!("name a file of {what} records"),
                )
                .into());
            }
        }
        Ok(TaskRequest { name: name.to_owned(), variant: variant.to_owned(), config: config.clone(), test, train })
    }
}

/// `words:NAME:COUNT:SEED` with the file that words are taken from; what is not said is as it would be without one.
fn words_of(spec: &str, file: &str) -> String {
    let parts: Vec<&str> = spec.split(':').take(4).collect();
    let part = |n: usize, default| parts.get(n).copied().unwrap_or(default);
    format!("words:{}:{}:{}:{file}", part(1, ""), part(2, "1000"), part(3, "1"))
}

/// The task that `given` names, a built-in one or a file, and its name.
///
/// # Errors
/// As [`TaskSpec::requests`].
pub fn load(given: &str) -> Result<(String, TaskConfig)> {
    if let Some((name, text)) = TASKS.iter().find(|(name, _)| *name == given) {
        return Ok(((*name).to_owned(), gptkit_config::load(name, text, &[])?));
    }
    let path = Path::new(given);
    if path.extension().is_none() && !path.exists() {
        let near = gptkit_config::nearest(given, TASKS.iter().map(|(name, _)| *name));
        let meant = near.map(|name| format!("did you mean {name}? ")).unwrap_or_default();
        let hint = format!("{meant}`gptkit eval --list` lists the built-in tasks; a custom task is a .toml file");
        return Err(Usage::new(format!("--task {given}: no such task or file")).hint(hint).into());
    }
    let text = gptkit_data::disk::read_named(path).map_err(|e| Usage::new(format!("--task {e:#}")))?;
    let name = path.file_stem().map_or_else(|| given.to_owned(), |stem| stem.to_string_lossy().into_owned());
    Ok((name, gptkit_config::load(given, &text, &[])?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_embedded_and_sound() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tasks");
        let stem = |entry: std::io::Result<std::fs::DirEntry>| {
            entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()
        };
        let mut files: Vec<String> = folder.read_dir().unwrap().map(stem).collect();
        let mut names: Vec<String> = TASKS.iter().map(|(name, _)| (*name).to_owned()).collect();
        files.sort();
        names.sort();
        assert_eq!(files, names);
        for name in names {
            let (_, config) = load(&name).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert!(!config.description.is_empty(), "{name} has no description");
            for published in &config.published {
                assert!(published.variant.is_empty() || config.variants.contains(&published.variant), "{published:?}");
            }
            for variant in &config.variants {
                RecordSource::of(&config.test.replace("{variant}", variant)).unwrap_or_else(|e| panic!("{name}: {e}"));
            }
        }
    }

    #[test]
    fn tasks_are_named_with_variants_and_records() {
        let of = |text: &str| text.parse::<TaskSpec>();
        let parts = |text: &str| of(text).map(|TaskSpec { name, variant, test, train }| (name, variant, test, train));
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(parts("copa"), Ok(("copa".into(), None, None, None)));
        assert_eq!(parts("words:anagrams-1=a:b.txt"), Ok(("words".into(), some("anagrams-1"), some("a:b.txt"), None)));
        assert_eq!(parts("my.toml=a.csv,b.csv"), Ok(("my.toml".into(), None, some("a.csv"), some("b.csv"))));
        for wrong in ["", "=a", "copa=", "copa=a,", "copa:=a"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
        assert_eq!(of("arithmetic").unwrap().requests().unwrap().len(), 10);
        let one = of("arithmetic:2dx").unwrap().requests().unwrap();
        assert_eq!((one.len(), one[0].test.as_str()), (1, "arithmetic:2dx:2000"));
    }
}
