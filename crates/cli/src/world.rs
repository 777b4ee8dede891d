//! `gptkit world`

use crate::ui::Ui;
use clap::Args;
use gptkit_data::split::Split;
use gptkit_data::synthetic::{PatternKind, SyntheticLabeled, SyntheticPatternRecords};
use gptkit_data::task::TaskKind;
use gptkit_world::{Comparisons, Instructions, Patterns, World as Stories, WorldPart};

/// Print the built-in data: stories, instructions, comparisons, labeled records
#[derive(Debug, Args)]
pub(crate) struct WorldCommand {
    /// Number of items
    #[arg(long, value_name = "N", default_value_t = 3, alias = "stories")]
    count: u64,
    /// Random seed: the same seed gives the same text
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print one JSON object per story: text, the state of the world behind it, and questions with answers
    #[arg(long)]
    json: bool,
    /// Print instructions with answers, one JSON object per line: prompt, completion, kind
    #[arg(long, group = "records", conflicts_with = "json")]
    instructions: bool,
    /// Print comparisons, one JSON object per line: prompt, completions, their ranking by a labeler (1 is the best),
    /// and gold, their true quality
    #[arg(long, group = "records", conflicts_with = "json")]
    comparisons: bool,
    /// Print labeled records of a task, one JSON object per line: classification, entailment, similarity,
    /// multiple-choice, regression
    #[arg(long, value_name = "NAME", group = "records", conflicts_with = "json")]
    task: Option<TaskKind>,
    /// Print documents with examples of a pattern, the training text of `--data world-patterns`
    #[arg(long, conflicts_with_all = ["json", "records"])]
    patterns: bool,
    /// Print records of one pattern, one JSON object per line with input and output: first-word, middle-word,
    /// last-word, reversed, rotated, color, animal, thing, category, labels, lookup
    #[arg(long, value_name = "NAME", group = "records", conflicts_with = "json")]
    pattern: Option<PatternKind>,
    /// Print held-out instructions, comparisons or records, about subjects that do not occur in the training ones
    #[arg(long, requires = "records")]
    held_out: bool,
}

impl WorldCommand {
    pub(crate) fn run(self, ui: &Ui) -> anyhow::Result<()> {
        let (split, part) =
            if self.held_out { (Split::HeldOut, WorldPart::HeldOut) } else { (Split::Train, WorldPart::Train) };
        if let Some(task) = self.task {
            let records = SyntheticLabeled::new(task, self.seed, split);
            return self.print(ui, |index| Ok(serde_json::to_string(&records.record(index)?)?));
        }
        if let Some(pattern) = self.pattern {
            let records = SyntheticPatternRecords::new(pattern, self.seed, split);
            return self.print(ui, |index| Ok(serde_json::to_string(&records.record(index)?)?));
        }
        if self.instructions {
            let instructions = Instructions::new(self.seed, part);
            return self.print(ui, |index| Ok(serde_json::to_string(&instructions.instruction(index))?));
        }
        if self.comparisons {
            let comparisons = Comparisons::new(self.seed, part);
            return self.print(ui, |index| Ok(serde_json::to_string(&comparisons.comparison(index))?));
        }
        if self.patterns {
            let patterns = Patterns::new(self.seed);
            return self.print(ui, |index| Ok(patterns.document(index) + "\n"));
        }
        let stories = Stories::new(self.seed);
        self.print(ui, |index| {
            let story = stories.story(index);
            Ok(if self.json { serde_json::to_string(&story)? } else { format!("{}\n", story.text) })
        })
    }

    fn print(&self, ui: &Ui, line: impl Fn(u64) -> anyhow::Result<String>) -> anyhow::Result<()> {
        (0..self.count).try_for_each(|index| ui.result(&(line(index)? + "\n")))
    }
}
