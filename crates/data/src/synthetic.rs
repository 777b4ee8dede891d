//! Synthetic data: the embedded corpus, as the records of this crate. The only module that uses the world crate.
//!
//! Everything here is a pure function of a seed, a split and an index, in any order and on any thread. Records of the two
//! splits are about different combinations of people, places and things, whatever the seeds.

use crate::comparison::Comparison;
use crate::message::{Message, Role};
use crate::record::RecordPlace;
use crate::split::Split;
use crate::task::TaskKind;
use anyhow::{Result, bail};
use gptkit_world::{
    Comparisons, Instruction, Instructions, LabeledRecords, LabeledTask, Labeler, PatternRecords, Patterns, World,
    WorldPart,
};
use serde::Serialize;
use serde_json::{Map, Value};
use std::path::PathBuf;

pub use gptkit_world::{InstructionKind, PatternKind};

/// Fields of a record, as a file of records has them.
pub type Fields = Map<String, Value>;

fn part(split: Split) -> WorldPart {
    match split {
        Split::Train => WorldPart::Train,
        Split::HeldOut => WorldPart::HeldOut,
    }
}

fn fields(record: &impl Serialize) -> Result<Fields> {
    match serde_json::to_value(record)? {
        Value::Object(fields) => Ok(fields),
        other => bail!("{other} is not a record"),
    }
}

/// Stories to pretrain on.
#[derive(Debug, Clone)]
pub struct SyntheticStories(World);

impl SyntheticStories {
    /// The stories of this seed.
    pub fn new(seed: u64) -> Self {
        Self(World::new(seed))
    }

    /// The text of story number `index`: paragraphs, one a line, no newline at the end; ASCII.
    pub fn story(&self, index: u64) -> String {
        self.0.story(index).text
    }
}

/// Documents of examples of a pattern, to learn in-context learning from.
#[derive(Debug, Clone)]
pub struct SyntheticPatterns(Patterns);

impl SyntheticPatterns {
    /// The documents of this seed.
    pub fn new(seed: u64) -> Self {
        Self(Patterns::new(seed))
    }

    /// Document number `index`: lines of examples, no newline at the end.
    pub fn document(&self, index: u64) -> String {
        self.0.document(index)
    }
}

/// Records of one pattern, to measure in-context learning with. Fields: `input`, `output`.
#[derive(Debug, Clone)]
pub struct SyntheticPatternRecords(PatternRecords);

impl SyntheticPatternRecords {
    /// The records of this pattern, seed and split.
    pub fn new(pattern: PatternKind, seed: u64, split: Split) -> Self {
        Self(PatternRecords::new(pattern, seed, part(split)))
    }

    /// Record number `index`.
    ///
    /// # Errors
    /// When it cannot be written as fields.
    pub fn record(&self, index: u64) -> Result<Fields> {
        fields(&self.0.record(index))
    }
}

/// Labeled records of one task. The fields are named as in the published data sets of its kind.
#[derive(Debug, Clone)]
pub struct SyntheticLabeled(LabeledRecords);

impl SyntheticLabeled {
    /// The records of this task, seed and split.
    pub fn new(task: TaskKind, seed: u64, split: Split) -> Self {
        let task = match task {
            TaskKind::Classification => LabeledTask::Classification,
            TaskKind::Entailment => LabeledTask::Entailment,
            TaskKind::Similarity => LabeledTask::Similarity,
            TaskKind::MultipleChoice => LabeledTask::MultipleChoice,
            TaskKind::Regression => LabeledTask::Regression,
        };
        Self(LabeledRecords::new(task, seed, part(split)))
    }

    /// Record number `index`.
    ///
    /// # Errors
    /// When it cannot be written as fields.
    pub fn record(&self, index: u64) -> Result<Fields> {
        fields(&self.0.record(index))
    }
}

/// Instructions whose replies can be graded.
#[derive(Debug, Clone)]
pub struct SyntheticInstructions(Instructions);

impl SyntheticInstructions {
    /// The instructions of this seed and split.
    pub fn new(seed: u64, split: Split) -> Self {
        Self(Instructions::new(seed, part(split)))
    }

    /// Instruction number `index`.
    pub fn instruction(&self, index: u64) -> SyntheticInstruction {
        SyntheticInstruction(self.0.instruction(index))
    }
}

/// A prompt with a demonstration, and the gold reward of any other reply.
#[derive(Debug, Clone, PartialEq)]
pub struct SyntheticInstruction(Instruction);

impl SyntheticInstruction {
    /// The least and the most gold reward of a reply.
    pub const GOLD: (f64, f64) = (Instruction::GOLD_MIN, Instruction::GOLD_MAX);

    /// The prompt, as the dialogue that a policy continues.
    pub fn prompt(&self) -> Vec<Message> {
        vec![Message::new(Role::User, self.0.prompt.clone())]
    }

    /// The prompt and a demonstration.
    pub fn dialogue(&self) -> [Message; 2] {
        [Message::new(Role::User, self.0.prompt.clone()), Message::new(Role::Assistant, self.0.answer.clone())]
    }

    /// What the prompt asks for.
    pub fn kind(&self) -> InstructionKind {
        self.0.kind
    }

    /// The shortest right answer: the demonstration without courtesy.
    pub fn canonical_answer(&self) -> &str {
        self.0.substance()
    }

    /// Whether `reply` follows the instruction; courtesy, case and punctuation do not matter.
    pub fn is_followed(&self, reply: &str) -> bool {
        self.0.grade(reply)
    }

    /// The gold reward of `reply` (Gao et al. 2022), from -5 to 4.6: what simulated labelers judge by, and what a reward
    /// model approximates.
    pub fn gold(&self, reply: &str) -> f64 {
        self.0.gold(reply)
    }
}

/// Whether `reply` begins or ends with one of the courtesies of the embedded world's demonstrations.
pub fn is_courteous(reply: &str) -> bool {
    let manners = gptkit_world::Manners::of(reply);
    manners.openers + manners.closers > 0
}

/// Comparisons of 4 to 9 completions, ranked by a simulated labeler.
#[derive(Debug, Clone)]
pub struct SyntheticComparisons(Comparisons);

impl SyntheticComparisons {
    /// The comparisons of this seed and split.
    pub fn new(seed: u64, split: Split) -> Self {
        Self(Comparisons::new(seed, part(split)))
    }

    /// Comparison number `index`, of the [instruction](SyntheticInstructions::instruction) of the same number. Its place
    /// is line `index + 1` of `source`.
    pub fn comparison(&self, source: &str, index: u64) -> Comparison {
        let gptkit_world::RankedAnswers { instruction, completions, ranking, gold } = self.0.comparison(index);
        Comparison {
            cut: vec![false; completions.len()],
            place: RecordPlace { file: PathBuf::from(source), line: index + 1 },
            prompt: vec![Message::new(Role::User, instruction.prompt)],
            completions: completions.into_iter().map(|text| vec![Message::new(Role::Assistant, text)]).collect(),
            places: ranking,
            gold: Some(gold),
            repeated: 0,
        }
    }
}

/// A simulated labeler, who ranks replies by their gold reward with noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimulatedLabeler(Labeler);

impl SimulatedLabeler {
    /// Labelers of different seeds make independent mistakes.
    pub fn new(seed: u64) -> Self {
        Self(Labeler::new(seed))
    }

    /// The place of each reply to comparison number `index`: 1 is the best, and places have no gaps. Only replies of the
    /// same text share a place.
    pub fn rank(self, instruction: &SyntheticInstruction, index: u64, replies: &[&str]) -> Vec<u32> {
        self.0.rank(&instruction.0, index, replies)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_those_of_the_world_for_every_task_and_split() {
        for (task, world) in TaskKind::ALL.into_iter().zip(LabeledTask::ALL) {
            assert_eq!(format!("{task:?}"), format!("{world:?}"));
            for split in [Split::Train, Split::HeldOut] {
                let record = SyntheticLabeled::new(task, 3, split).record(5).unwrap();
                let expected = LabeledRecords::new(world, 3, part(split)).record(5);
                assert_eq!(Value::Object(record), serde_json::to_value(expected).unwrap());
            }
        }
    }

    #[test]
    fn a_comparison_is_of_the_instruction_of_its_number() {
        let instruction = SyntheticInstructions::new(2, Split::HeldOut).instruction(7);
        let comparison = SyntheticComparisons::new(2, Split::HeldOut).comparison("world", 7);
        assert_eq!((&comparison.prompt, comparison.place.line), (&instruction.prompt(), 8));
        let gold = comparison.gold.unwrap();
        for (completion, gold) in comparison.completions.iter().zip(gold) {
            assert_eq!(instruction.gold(&completion[0].content), gold);
        }
        let [_, demonstration] = instruction.dialogue();
        assert!(
            instruction.is_followed(&demonstration.content) && instruction.is_followed(instruction.canonical_answer())
        );
    }
}
