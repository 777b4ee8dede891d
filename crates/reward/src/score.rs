//! Records → records with the rewards of what they hold, streaming.

use crate::group::FittedGroup;
use crate::model::Scorer;
use anyhow::Result;
use gptkit_data::comparison;
use gptkit_data::dialogue;
use gptkit_data::progress::Progress;
use gptkit_data::record::{BadRecord, Row};
use gptkit_data::rows::read_rows;
use gptkit_data::source::OnBadRecord;
use gptkit_data::unused::Unused;
use gptkit_ranks::Ranks;
use serde_json::{Map, Value, json};
use std::ops::ControlFlow;
use std::path::Path;

/// Records that are read before the first of them is written.
const READ_AHEAD: usize = 256;

/// What came of a file of records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScoringCounts {
    /// Records.
    pub n: u64,
    /// Prompts of which the oldest turns were left out.
    pub cut: u64,
    /// Records whose completions do not fit the window: their rewards are null.
    pub too_long: u64,
}

/// What is wanted of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScoringOutput {
    /// Rewards: `reward` of a dialogue, `rewards` of completions, or of chosen and rejected.
    Rewards,
    /// The same, of completions alone, and `ranking`: the place of each, 1 for the highest reward.
    Ranking,
}

/// Reads the records of `path` as [`read_rows`] does, and hands each, with what `scorer` says of it, to `sink` as lines of
/// JSON, in their order. `ranks` share out the completions.
///
/// # Errors
/// When a record cannot be used, or `sink` fails.
pub fn score(
    (scorer, ranks): (&Scorer, &Ranks),
    wanted: ScoringOutput,
    path: &Path,
    on_bad: OnBadRecord,
    progress: &dyn Progress,
    sink: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<ScoringCounts> {
    let (waiting, counts, unused) = (Vec::new(), ScoringCounts::default(), Unused::default());
    let mut reader = ScoringReader { scorer, ranks, wanted, waiting, counts, unused, sink };
    let skipped = read_rows(path, on_bad, progress, &mut |row| {
        reader.take(row)?;
        Ok(ControlFlow::Continue(()))
    })?;
    reader.write()?;
    reader.unused.warn(&path.display(), progress);
    skipped.warn(progress);
    Ok(reader.counts)
}

/// A record that waits for its rewards.
struct UnscoredRecord {
    fields: Map<String, Value>,
    /// The prompt with each of its completions; none when they do not fit.
    sequences: Vec<Vec<u32>>,
    /// Whether it has one completion, and one reward.
    alone: bool,
}

struct ScoringReader<'a> {
    scorer: &'a Scorer,
    ranks: &'a Ranks,
    wanted: ScoringOutput,
    waiting: Vec<UnscoredRecord>,
    counts: ScoringCounts,
    unused: Unused,
    sink: &'a mut dyn FnMut(&str) -> Result<()>,
}

impl ScoringReader<'_> {
    fn take(&mut self, row: Row) -> Result<()> {
        let compares = self.wanted == ScoringOutput::Ranking || comparison::ComparisonShape::of(&row).is_ok();
        let (prompt, completions) = if compares {
            let shape = comparison::ComparisonShape::of(&row)?;
            self.unused.take(&row, &shape.fields());
            shape.completions(&row)?
        } else {
            let shape = dialogue::DialogueShape::of(&row)?;
            self.unused.take(&row, &shape.fields());
            let mut dialogues = shape.dialogues(&row)?;
            let (Some(mut messages), true) = (dialogues.pop(), dialogues.is_empty()) else {
                return Err(BadRecord::new("contains several dialogues; write one dialogue per record").into());
            };
            let said = messages.split_off(messages.len() - 1);
            (messages, vec![said])
        };
        let fitted = self.scorer.encoder.group(&prompt, &completions);
        let sequences = match fitted.map_err(|e| BadRecord::new(format!("{e:#}")))? {
            Some(FittedGroup { sequences, cut, .. }) => {
                self.counts.cut += u64::from(cut);
                sequences.into_iter().map(|sequence| self.scorer.without_padding(sequence)).collect()
            }
            None => {
                self.counts.too_long += 1;
                Vec::new()
            }
        };
        self.waiting.push(UnscoredRecord { fields: row.fields, sequences, alone: !compares });
        if self.waiting.len() >= READ_AHEAD { self.write() } else { Ok(()) }
    }

    /// Rewards all that wait, and writes them.
    fn write(&mut self) -> Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        let all: Vec<Vec<u32>> = waiting.iter().flat_map(|one| one.sequences.iter().cloned()).collect();
        let mut rewards = self.ranks.share_parts(all.len(), |own| self.scorer.model.rewards(&all[own]))?.into_iter();
        let mut lines = String::new();
        for UnscoredRecord { mut fields, sequences, alone } in waiting {
            self.counts.n += 1;
            let own: Vec<f32> = rewards.by_ref().take(sequences.len()).collect();
            if alone {
                fields.insert("reward".to_owned(), json!(own.first()));
            } else {
                let fits = !own.is_empty();
                fields.insert("rewards".to_owned(), if fits { json!(own) } else { Value::Null });
                if self.wanted == ScoringOutput::Ranking {
                    fields.insert("ranking".to_owned(), if fits { json!(places(&own)) } else { Value::Null });
                }
            }
            lines += &Value::Object(fields).to_string();
            lines.push('\n');
        }
        if lines.is_empty() { Ok(()) } else { (self.sink)(&lines) }
    }
}

/// The place of each reward: 1 for the highest, the same for equal ones.
pub fn places(rewards: &[f32]) -> Vec<u32> {
    let mut sorted = rewards.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    sorted.dedup();
    rewards.iter().map(|reward| sorted.iter().position(|other| other == reward).map_or(0, |i| i as u32 + 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_from_the_highest_and_ties_share_one() {
        assert_eq!(places(&[0.5, 2.0, 0.5, -1.0]), [2, 1, 2, 3]);
        assert!(places(&[]).is_empty());
    }
}
