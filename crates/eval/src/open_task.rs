//! A task of a request with its records: what is measured, and what demonstrations are drawn from.

use crate::instance::{EvalTask, Instance};
use crate::overlap::{OverlapIndex, SHORTEST};
use crate::records::RecordSource;
use crate::request::{EvalRequest, TaskRequest};
use crate::score;
use crate::shots::{DemonstrationPool, DemonstrationSource, Prompter, is_set_aside};
use crate::task::Scoring;
use anyhow::{Context, Result, ensure};
use gptkit_data::progress::{Progress, grouped};
use gptkit_data::record::Row;
use gptkit_data::split::Split;
use gptkit_data::tokenizer::Tokenizer;
use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Instances in which one demonstration at least must fit.
const TRIED: usize = 32;

/// A task that is ready.
pub(crate) struct OpenTask {
    pub(crate) task: EvalTask,
    pub(crate) test: RecordSource,
    pub(crate) demonstrations: Option<DemonstrationSource>,
    pub(crate) pool: DemonstrationPool,
    /// Instances.
    pub(crate) n: u64,
    pub(crate) skipped: u64,
}

/// An instance that is not yet tokens for a model.
pub(crate) struct UnpromptedInstance {
    pub(crate) n: u64,
    pub(crate) instruction: String,
    pub(crate) instance: Instance,
}

impl EvalRequest {
    /// Hands the records that `task` is measured with to `sink`.
    ///
    /// # Errors
    /// When one cannot be used, or `sink` fails.
    pub fn records(&self, task: &TaskRequest, sink: &mut dyn FnMut(&Row) -> Result<()>) -> Result<()> {
        OpenTask::open(self, task)?.read(self, &mut |row, _| {
            sink(row)?;
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(())
    }
}

impl OpenTask {
    /// Opens `task` and reads all of its records, so that a bad one is found at once.
    pub(crate) fn open(request: &EvalRequest, task: &TaskRequest) -> Result<Self> {
        let TaskRequest { name, variant, config, test, train } = task;
        let task = EvalTask::new(name, config.clone(), variant)?;
        if config.scoring == Scoring::Perplexity {
            let test = RecordSource::File(PathBuf::from(test));
            return Ok(Self { task, test, demonstrations: None, pool: DemonstrationPool::default(), n: 0, skipped: 0 });
        }
        let source = |text: &str| RecordSource::of(text).with_context(|| format!("task {}", task.name));
        let test = source(test)?;
        let demonstrations = if request.shots.iter().all(|&shots| shots == 0) {
            None
        } else if !train.is_empty() {
            Some(DemonstrationSource::Training(source(train)?))
        } else if matches!(test, RecordSource::Made { .. }) {
            Some(DemonstrationSource::Training(test.clone()))
        } else {
            Some(DemonstrationSource::SetAside)
        };
        let mut opened = Self { task, test, demonstrations, pool: DemonstrationPool::default(), n: 0, skipped: 0 };
        let mut n = 0;
        let skipped = opened.read(request, &mut |_, _| {
            n += 1;
            Ok(ControlFlow::Continue(()))
        })?;
        ensure!(n > 0, "task {}: there are no records to evaluate", opened.task.name);
        (opened.n, opened.skipped) = (n, skipped);
        if let Some(from) = &opened.demonstrations {
            opened.pool =
                DemonstrationPool::read(&opened.task, from, &opened.test, request.seed, request.on_bad_record)?;
        }
        Ok(opened)
    }

    /// Passes the test records to `sink`, each with its instance. Returns the number of skipped records.
    pub(crate) fn read(
        &self,
        request: &EvalRequest,
        sink: &mut dyn FnMut(&Row, UnpromptedInstance) -> Result<ControlFlow<()>>,
    ) -> Result<u64> {
        let set_aside = self.demonstrations == Some(DemonstrationSource::SetAside);
        let (mut number, mut n) = (0, 0);
        self.test.read(Split::HeldOut, request.on_bad_record, &mut |row| {
            let shown = set_aside && is_set_aside(number);
            number += 1;
            if request.limit == Some(n) {
                return Ok(ControlFlow::Break(()));
            }
            if shown {
                return Ok(ControlFlow::Continue(()));
            }
            let (instance, instruction) = (self.task.instance(&row)?, self.task.instruction(&row)?);
            let flow = sink(&row, UnpromptedInstance { n, instruction, instance })?;
            n += 1;
            Ok(flow)
        })
    }

    pub(crate) fn prompter<'a>(&'a self, tokenizer: &'a Tokenizer, start: Option<u32>, context: usize) -> Prompter<'a> {
        let config = &self.task.config;
        let room = match config.scoring {
            Scoring::Generation => config.generation.as_ref().map_or(0, |generation| generation.max_new_tokens),
            Scoring::Word => score::WORD_TOKENS,
            Scoring::Choice | Scoring::Perplexity => 0,
        };
        Prompter { tokenizer, start, context, room, separator: &config.separator }
    }

    /// Refuses a window in which no demonstration fits.
    pub(crate) fn fits(&self, prompter: &Prompter, request: &EvalRequest) -> Result<()> {
        let (mut tried, mut fit) = (0, false);
        self.read(request, &mut |_, UnpromptedInstance { n, instruction, instance }| {
            if tried == TRIED || fit {
                return Ok(ControlFlow::Break(()));
            }
            tried += 1;
            fit = prompter.prompt(&instruction, &self.pool, 1, n, &instance)?.shots > 0;
            Ok(ControlFlow::Continue(()))
        })?;
        let (name, context) = (&self.task.name, prompter.context);
        ensure!(
            fit,
            "--shots: the context of {context} tokens is too short for a record of {name} with one few-shot example; \
             use --shots 0, or a model with a longer context"
        );
        Ok(())
    }
}

/// The instances, by task and number, that the training text in `folder` holds. The text is read once for all tasks; a text
/// that is measured has no instances.
pub(crate) fn instances_in_text(
    tasks: &[OpenTask],
    request: &EvalRequest,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<HashSet<(usize, u64)>> {
    let mut wanted = OverlapIndex::default();
    for (t, opened) in tasks.iter().enumerate().filter(|(_, opened)| opened.task.config.scoring != Scoring::Perplexity)
    {
        let before = wanted.too_short;
        opened.read(request, &mut |_, UnpromptedInstance { n, instance, .. }| {
            wanted.add((t, n), &instance.shown());
            Ok(ControlFlow::Continue(()))
        })?;
        if wanted.too_short > before {
            let (name, n) = (&opened.task.name, grouped(wanted.too_short - before));
            progress.warn(&format!(
                "{n} instances of {name} have fewer than {SHORTEST} words and are not checked for overlap with the text"
            ));
        }
    }
    wanted.found_in(folder, progress)
}
