//! Where a stage's records come from, and which of them it trains on, validates on and tests on: the one place where that
//! is decided, for every kind of record.

use crate::dialogue::read_dialogues;
use crate::message::Message;
use crate::progress::{Progress, grouped};
use crate::source::{OnBadRecord, SourceLocation};
use crate::split::Split;
use crate::synthetic::SyntheticInstructions;
use anyhow::{Result, anyhow};
use gptkit_config::Problems;
use std::collections::HashMap;
use std::ops::{ControlFlow, Range};
use std::path::Path;

/// Sources of records, as a stage's `[data]` names them.
#[derive(Debug, Clone, Copy)]
pub struct Sources<'a> {
    /// Files of records, or the world's.
    pub sources: &'a [String],
    /// Sources to validate on. When there is none, a share of `sources` is held out.
    pub validation: &'a [String],
    /// Sources to test the trained model on.
    pub test: &'a [String],
    /// Share of the prompts in `sources` that is held out when `validation` is empty.
    pub val_fraction: f64,
}

/// What a record is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Use {
    /// The model learns from it.
    Train,
    /// The best weights are chosen by it.
    Validate,
    /// The best weights are measured on it.
    Test,
}

/// Where the records of a [`Reading`] are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// In the file that the source names, or on stdin.
    File,
    /// In the embedded world.
    World {
        /// Seed of the world.
        seed: u64,
        /// Split of its records.
        part: Split,
        /// Numbers of the records in that split.
        numbers: Range<u64>,
    },
}

/// A source, or a part of one, whose records are read together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading<'a> {
    /// The source, as the configuration names it.
    pub source: &'a str,
    /// Where the records are.
    pub origin: Origin,
    /// What all records are used for; none for a file whose prompts are divided between training and validation.
    used: Option<Use>,
}

impl<'a> Reading<'a> {
    /// The records of `source` to train on, all of them.
    ///
    /// # Errors
    /// When `source` names a part of the world that has no records.
    pub fn training(source: &'a str) -> Result<Self> {
        let sources = Sources { sources: &[], validation: &[], test: &[], val_fraction: 0.0 };
        sources.reading(source, Some(Use::Train), &mut HashMap::new())
    }

    /// Whether records of this reading may be trained on.
    pub fn trains(&self) -> bool {
        matches!(self.used, None | Some(Use::Train))
    }

    /// A line that says how many records of the world were read; `what` names them.
    pub fn of_world(&self, what: &str) -> String {
        let Origin::World { part, numbers, .. } = &self.origin else { return format!("{}: {what}", self.source) };
        let held_out = if *part == Split::HeldOut { "held-out " } else { "" };
        format!("{}: {} {held_out}{what} from the embedded world", self.source, grouped(numbers.end - numbers.start))
    }
}

impl<'a> Sources<'a> {
    /// Everything that is read, in an order in which [`SplitAssigner`] can keep training apart from the rest: what is tested and
    /// validated on, then files that are divided, then what is only trained on. A world source gives its held-out part to
    /// validation and tests, and its training part to training.
    ///
    /// # Errors
    /// When a source names a part of the world that has no records.
    pub fn readings(&self) -> Result<Vec<Reading<'a>>> {
        let mut held_out = HashMap::new();
        let mut readings = Vec::new();
        for (sources, used) in [(self.test, Use::Test), (self.validation, Use::Validate)] {
            for source in sources {
                readings.push(self.reading(source, Some(used), &mut held_out)?);
            }
        }
        let divided = if self.validation.is_empty() { None } else { Some(Use::Train) };
        let (mut files, mut worlds) = (Vec::new(), Vec::new());
        for source in self.sources {
            match SourceLocation::of_records(source).map_err(|e| anyhow!("{source}: {e}"))? {
                SourceLocation::World { .. } => {
                    if divided.is_none() {
                        let mut reading = self.reading(source, Some(Use::Validate), &mut held_out)?;
                        if let Origin::World { numbers, .. } = &mut reading.origin {
                            numbers.end = numbers.start + ((numbers.end - numbers.start) / 10).clamp(20, 400);
                        }
                        readings.push(reading);
                    }
                    worlds.push(self.reading(source, Some(Use::Train), &mut held_out)?);
                }
                SourceLocation::Path(_) | SourceLocation::Stdin(_) => {
                    files.push(self.reading(source, divided, &mut held_out)?)
                }
            }
        }
        Ok(readings.into_iter().chain(files).chain(worlds).collect())
    }

    /// `next` has the first number in the held-out part of each world that no reading has taken.
    fn reading(&self, source: &'a str, used: Option<Use>, next: &mut HashMap<u64, u64>) -> Result<Reading<'a>> {
        let origin = match SourceLocation::of_records(source).map_err(|e| anyhow!("{source}: {e}"))? {
            SourceLocation::World { count, seed, .. } if used == Some(Use::Train) => {
                Origin::World { seed, part: Split::Train, numbers: 0..count }
            }
            SourceLocation::World { count, seed, .. } => {
                let first = next.entry(seed).or_default();
                let numbers = *first..*first + count;
                *first = numbers.end;
                Origin::World { seed, part: Split::HeldOut, numbers }
            }
            SourceLocation::Path(_) | SourceLocation::Stdin(_) => Origin::File,
        };
        Ok(Reading { source, origin, used })
    }

    /// Decides what each record of the [`Sources::readings`] is used for.
    pub fn split(&self) -> SplitAssigner {
        let all = self.test.iter().chain(self.validation).chain(self.sources);
        let shadowed = all.filter_map(|source| SourceLocation::shadowed(source)).collect();
        SplitAssigner { val_fraction: self.val_fraction, uses: HashMap::new(), left_out: 0, shadowed }
    }

    /// Reports what cannot be read; `usual` is the stage's own share.
    pub fn check(&self, usual: f64, problems: &mut Problems) {
        problems.require(!self.sources.is_empty(), "sources", "is empty", "use a file of records, or world");
        problems.require(
            (0.0..=0.5).contains(&self.val_fraction),
            "val_fraction",
            "must be between 0 and 0.5",
            format!("use {usual}, or 0 for no validation"),
        );
        for (key, paths) in [("sources", self.sources), ("validation", self.validation), ("test", self.test)] {
            for (i, path) in paths.iter().enumerate() {
                let key = format!("{key}.{i}");
                match SourceLocation::of_records(path) {
                    Err(what) => problems.add(&key, what, "use world:4000, or world:4000:SEED"),
                    Ok(SourceLocation::Path(path)) if !path.exists() => {
                        let way = "use a file of records (.jsonl, .csv, .tsv, .parquet), or world";
                        problems.add(&key, "does not exist", way);
                    }
                    Ok(_) => {}
                }
            }
        }
    }
}

/// Assigns records to training, validation and test by their prompt, so that no prompt is in two of them.
#[derive(Debug)]
pub struct SplitAssigner {
    val_fraction: f64,
    /// Use of each prompt that is not trained on, or that would not be by its key.
    uses: HashMap<u64, Use>,
    left_out: u64,
    /// Warnings of files that are not read, as they are named as the embedded corpus is.
    shadowed: Vec<String>,
}

impl SplitAssigner {
    /// What a record of `reading` is used for whose prompt has the key `prompt`; nothing when the prompt is in another part
    /// already, where it must stay alone.
    pub fn of(&mut self, reading: &Reading, prompt: u64) -> Option<Use> {
        self.assign(reading, prompt, false)
    }

    /// The same, for a record that training needs: it is trained on unless its source or its prompt forbids that.
    pub fn of_needed(&mut self, reading: &Reading, prompt: u64) -> Option<Use> {
        self.assign(reading, prompt, true)
    }

    fn assign(&mut self, reading: &Reading, prompt: u64, needed: bool) -> Option<Use> {
        let held_out = (prompt as f64) < self.val_fraction * u64::MAX as f64;
        let by_key = if held_out { Use::Validate } else { Use::Train };
        match (reading.used, self.uses.get(&prompt)) {
            (Some(wanted), Some(known)) if wanted != *known => {
                self.left_out += 1;
                None
            }
            (None, Some(Use::Test)) => {
                self.left_out += 1;
                None
            }
            (_, Some(known)) => Some(*known),
            (Some(Use::Train), None) => Some(Use::Train),
            (None, None) if by_key == Use::Train => Some(Use::Train),
            (used, None) => {
                let used = used.unwrap_or(if needed { Use::Train } else { by_key });
                self.uses.insert(prompt, used);
                Some(used)
            }
        }
    }

    /// Warns of records and files that are not used.
    pub fn warn(&self, progress: &dyn Progress) {
        self.shadowed.iter().for_each(|line| progress.warn(line));
        if self.left_out > 0 {
            progress.warn(&format!(
                "{} records are not used, because a validation or test record has the same prompt",
                grouped(self.left_out)
            ));
        }
    }
}

/// Takes the messages of a dialogue; says whether to go on.
pub type DialogueSink<'a> = &'a mut dyn FnMut(&[Message]) -> Result<ControlFlow<()>>;

/// Hands the dialogues of `reading` to `sink` until it breaks, and reports what it read.
///
/// # Errors
/// As [`read_dialogues`], and those of `sink`.
pub fn read_dialogues_of(
    reading: &Reading,
    on_bad: OnBadRecord,
    progress: &dyn Progress,
    sink: DialogueSink,
) -> Result<()> {
    if let Origin::World { seed, part, numbers } = &reading.origin {
        let instructions = SyntheticInstructions::new(*seed, *part);
        for number in numbers.clone() {
            if sink(&instructions.instruction(number).dialogue())?.is_break() {
                break;
            }
        }
        progress.note(&reading.of_world("instructions"));
        return Ok(());
    }
    let mut n = 0;
    let (shape, skipped) = read_dialogues(Path::new(reading.source), on_bad, progress, &mut |dialogue| {
        n += 1;
        sink(&dialogue.messages)
    })?;
    let s = if n == 1 { "" } else { "s" };
    progress.note(&format!("{}: {} dialogue{s}, read as {shape}", reading.source, grouped(n)));
    skipped.warn(progress);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Message, Role};
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn owned(list: &[&str]) -> Vec<String> {
        list.iter().map(|&source| source.to_owned()).collect()
    }

    /// A world's numbers, or a file's name, with what the reading is for.
    fn described(reading: &Reading) -> String {
        let used = reading.used.map_or("divided".to_owned(), |used| format!("{used:?}"));
        match &reading.origin {
            Origin::File => format!("{} {used}", reading.source),
            Origin::World { seed, part, numbers } => format!("{seed} {part:?} {numbers:?} {used}"),
        }
    }

    #[test]
    fn a_world_gives_training_its_training_part_and_everything_else_its_held_out_part() {
        for (sources, validation, test, expected) in [
            (&["world:30:2"][..], &[][..], &[][..], vec!["2 HeldOut 0..20 Validate", "2 Train 0..30 Train"]),
            (&["world:30"], &["world:9"], &[], vec!["1 HeldOut 0..9 Validate", "1 Train 0..30 Train"]),
            (&["world:30"], &["a.csv"], &[], vec!["a.csv Validate", "1 Train 0..30 Train"]),
            (&["a.csv"], &["world:9"], &[], vec!["1 HeldOut 0..9 Validate", "a.csv Train"]),
            (
                &["world:300", "a.csv"],
                &[],
                &["world:9"],
                vec!["1 HeldOut 0..9 Test", "1 HeldOut 9..39 Validate", "a.csv divided", "1 Train 0..300 Train"],
            ),
        ] {
            let [sources, validation, test] = [sources, validation, test].map(owned);
            let all = Sources { sources: &sources, validation: &validation, test: &test, val_fraction: 0.1 };
            assert_eq!(all.readings().unwrap().iter().map(described).collect::<Vec<_>>(), expected);
        }
        assert_eq!(described(&Reading::training("world:7:3").unwrap()), "3 Train 0..7 Train");
    }

    const FILES: [&str; 6] = ["a.csv", "b.csv", "world:20", "world:20:2", "c.csv", "-.jsonl"];

    proptest! {
        /// Whatever the sources, and however often a prompt comes.
        #[test]
        fn no_prompt_is_in_two_parts_and_what_is_named_for_validation_is_not_trained_on(
            chosen in prop::collection::vec(prop::collection::vec(prop::sample::select(&FILES[..]), 0..4), 3),
            fraction in prop::sample::select(&[0.0, 0.1, 0.5][..]),
            prompts in prop::collection::vec(0u64..40, 1..200),
            needed in prop::collection::vec(any::<bool>(), 200),
        ) {
            let [sources, validation, test]: [Vec<String>; 3] =
                std::array::from_fn(|i| chosen[i].iter().map(|&s| s.to_owned()).collect());
            let all = Sources { sources: &sources, validation: &validation, test: &test, val_fraction: fraction };
            let (mut split, mut parts) = (all.split(), HashMap::<Use, HashSet<u64>>::new());
            for reading in all.readings().unwrap() {
                for (prompt, needed) in prompts.iter().zip(&needed) {
                    // World and files share some prompts, as a file that was written from the world does.
                    let prompt = prompt.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    let used = if *needed { split.of_needed(&reading, prompt) } else { split.of(&reading, prompt) };
                    if let Some(used) = used {
                        parts.entry(used).or_default().insert(prompt);
                        match &reading.origin {
                            Origin::World { part: Split::HeldOut, .. } => prop_assert_ne!(used, Use::Train),
                            Origin::World { part: Split::Train, .. } => prop_assert_eq!(used, Use::Train),
                            Origin::File if !validation.is_empty() => prop_assert_eq!(Some(used), reading.used),
                            Origin::File => {}
                        }
                    }
                }
            }
            let of = |used| parts.get(&used).cloned().unwrap_or_default();
            let (train, validated, tested) = (of(Use::Train), of(Use::Validate), of(Use::Test));
            prop_assert!(train.is_disjoint(&validated) && train.is_disjoint(&tested) && validated.is_disjoint(&tested));
        }
    }

    #[test]
    fn the_share_that_is_held_out_is_the_one_asked_for() {
        let sources = owned(&["a.csv"]);
        let all = Sources { sources: &sources, validation: &[], test: &[], val_fraction: 0.1 };
        let (readings, mut split) = (all.readings().unwrap(), all.split());
        let keys = (0..10_000).map(|i| crate::message::key(&[Message::new(Role::User, i.to_string())]));
        let n = keys.filter(|&key| split.of(&readings[0], key) == Some(Use::Validate)).count();
        assert!((900..1100).contains(&n), "{n}");
    }
}
