//! `gptkit compare`

use crate::asking::{AskingEnd, ask};
use crate::data_args::shell;
use crate::device::ComputeArgs;
use crate::judging::{JudgeChoice, check_model, check_prompts_exist};
use crate::sampling_args::SamplingArgs;
use crate::ui::{Stopped, Ui, Usage};
use anyhow::{Context, Result, bail};
use clap::Args;
use gptkit_data::printable::printable_line;
use gptkit_data::source::{OnBadRecord, SourceLocation};
use gptkit_feedback::choices::Judge;
use gptkit_model::load::weights_fingerprint;
use gptkit_model::sampler::Sampling;
use gptkit_preferences::collection::Collection;
use gptkit_preferences::compare::judge_all;
use gptkit_preferences::export::{self, CollectionSummary};
use gptkit_preferences::settings::{K, Settings, Side};
use gptkit_preferences::win_rates::{Agreement, JudgeSummary};
use gptkit_train::interrupt::{Interrupt, Stop};
use std::path::{Path, PathBuf};

/// Collect comparisons: rank the answers of two models, or several answers of one model
///
/// A person sees the answers blind, in random order, and may stop at any time. Answers and choices are saved to the folder
/// --out at once, together with the comparisons as JSONL, which `gptkit train-rm --data` reads. To continue, repeat the
/// command, or give --out and --judge alone. Several judges, and several people, may judge the same answers; their agreement
/// is then reported.
#[derive(Debug, Args)]
pub(crate) struct CompareCommand {
    /// Model: a run of `sft`, or any model with a chat template
    #[arg(long, value_name = "DIR", requires = "prompts", required_unless_present = "out")]
    a: Option<PathBuf>,
    /// Model to compare --a with, prompt by prompt
    #[arg(long, value_name = "DIR", requires = "a", conflicts_with = "k")]
    b: Option<PathBuf>,
    /// Rank K answers of --a instead of comparing two models, 2 to 9
    #[arg(long, value_name = "K", requires = "a")]
    k: Option<usize>,
    /// Prompts: a .txt file with one prompt per line; JSONL, JSON, CSV, TSV or Parquet records with prompts, dialogues
    /// or comparisons (their answers are ignored); or `world`, `world:N`, `world:N:SEED` for instructions of the
    /// built-in world: held-out ones with --b, training ones with --k
    #[arg(long, value_name = "PATH", requires = "a")]
    prompts: Option<String>,
    /// Use only the first N prompts
    #[arg(long, value_name = "N", requires = "a", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Judge: `human`, a person at the terminal; `gold`, the built-in world's true score; `labeler` or `labeler:SEED`, its
    /// simulated, noisy labeler; or the folder of a reward model
    #[arg(long, value_name = "human|gold|labeler|DIR")]
    judge: String,
    /// Name of the person who compares [default: $USER]
    #[arg(long, value_name = "NAME")]
    who: Option<String>,
    /// Folder of the collection [default: comparisons/compare-1, or the first number that is free]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Maximum length of an answer, in tokens [default: 128]
    #[arg(long, value_name = "N", requires = "a", value_parser = clap::value_parser!(u32).range(1..))]
    max_new_tokens: Option<u32>,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// What to do with records without a prompt
    #[arg(long, value_name = "fail|skip", default_value = "fail")]
    on_bad_record: OnBadRecord,
    #[command(flatten)]
    compute: ComputeArgs,
}

impl CompareCommand {
    pub(crate) fn run(self, ui: &Ui) -> Result<()> {
        let sampling = self.sampling.checked()?;
        let judge_choice = JudgeChoice::parse(&self.judge)?;
        if self.who.is_some() && judge_choice != JudgeChoice::Human {
            return Err(Usage::new("--who is the name of a person, so it requires --judge human").into());
        }
        let scorer = judge_choice.scorer(&self.compute)?;
        let judge = judge_choice.judge(self.who.as_deref())?;
        let mut collection = self.collection(sampling, &judge_choice, ui)?;
        let again = format!(
            "gptkit compare --out {} --judge {}{}",
            shell(&collection.folder),
            shell(Path::new(&self.judge)),
            self.who.as_ref().map(|who| format!(" --who {}", shell(Path::new(who)))).unwrap_or_default()
        );
        let interrupt = Interrupt::watch(None)?;
        if let Some(stop) = self.write_answers(&mut collection, &interrupt, ui)? {
            ui.say(&format!("stopped; the answers generated so far are in {}", collection.folder.display()));
            ui.next(&again);
            return Err(Stopped(stop).into());
        }
        let world = collection.settings.prompts().world();
        let ended = match judge_choice.machine(scorer.as_ref(), world) {
            Some(machine) => {
                judge_all(&mut collection, &judge, &machine, &interrupt, ui)?.map_or(AskingEnd::All, AskingEnd::Stopped)
            }
            None => ask(&mut collection, &judge, &interrupt, ui)?,
        };
        let summary = export::write(&mut collection)?;
        let outcome = CompareOutcome {
            collection: &collection,
            summary: &summary,
            judge: &judge,
            judge_choice: &judge_choice,
            ui,
        };
        match ended {
            AskingEnd::All => outcome.print(),
            AskingEnd::Left => outcome.print_so_far(&again),
            AskingEnd::Stopped(stop) => {
                outcome.print_so_far(&again);
                return Err(Stopped(stop).into());
            }
        }
        Ok(())
    }

    /// The collection in `--out`, which must agree with the other options, or a new one.
    fn collection(&self, sampling: Sampling, judge_choice: &JudgeChoice, ui: &Ui) -> Result<Collection> {
        let here = self.settings(sampling, ui)?;
        if let Some(here) = &here {
            judge_choice.check_prompts(&here.prompts)?;
        }
        let there = match &self.out {
            Some(out) => Collection::open(out)?.map(|there| (out, there)),
            None => None,
        };
        let Some((out, there)) = there else {
            let Some(here) = here else {
                let out = self.out.as_deref().unwrap_or(Path::new("comparisons"));
                let hint = "to start one, pass --a, --prompts, and --b or --k";
                return Err(Usage::new(format!("{} does not contain a collection of comparisons", out.display()))
                    .hint(hint)
                    .into());
            };
            if let Some(why) = here.answers_are_alike() {
                return Err(Usage::new(why).hint("use --temperature 0.8").into());
            }
            let collection = Collection::begin(self.out.as_deref(), here, self.on_bad_record, ui)?;
            ui.say(&format!("new collection of comparisons in {}", collection.folder.display()));
            return Ok(collection);
        };
        let differences = here.map_or(Ok(Vec::new()), |here| there.settings.differences(&here))?;
        if !differences.is_empty() {
            let what = format!(
                "{} contains a collection with different settings:\n  {}",
                out.display(),
                differences.join("\n  ")
            );
            let hint = "to continue it, pass only --out and --judge; to start a new one, use another --out";
            return Err(Usage::new(what).hint(hint).into());
        }
        judge_choice.check_prompts(&there.settings.prompts)?;
        ui.say(&format!("resuming {}: {} prompts", out.display(), there.items.len()));
        Ok(there)
    }

    /// The settings of a new collection; none if the options name no model, so that the saved settings apply.
    fn settings(&self, sampling: Sampling, ui: &Ui) -> Result<Option<Settings>> {
        let (Some(a), Some(prompts)) = (&self.a, &self.prompts) else {
            if self.sampling.are_given() {
                let what = "sampling options can only be set when a collection is started";
                return Err(Usage::new(what).hint("remove these options, or start a new collection with --a").into());
            }
            return Ok(None);
        };
        match (&self.b, self.k) {
            (None, None) => {
                let hint = "add --b DIR to compare it with another model, or --k 4 to rank four of its answers";
                return Err(Usage::new("--a also needs --b or --k").hint(hint).into());
            }
            (_, Some(k)) if !K.contains(&k) => {
                let what =
                    format!("--k {k}: the number of answers to rank must be between {} and {}", K.start(), K.end());
                return Err(Usage::new(what).into());
            }
            _ => {}
        }
        check_model("a", a, ui)?;
        self.b.as_deref().map_or(Ok(()), |b| check_model("b", b, ui))?;
        if matches!(SourceLocation::of(prompts), Ok(SourceLocation::Stdin(_))) {
            return Err(Usage::new("--prompts -: stdin is used for choices; name a file").into());
        }
        check_prompts_exist(prompts)?;
        Ok(Some(Settings {
            weights_of_a: weights_fingerprint(a)?,
            a: a.clone(),
            weights_of_b: self.b.as_deref().map(weights_fingerprint).transpose()?,
            b: self.b.clone(),
            k: self.k,
            prompts: prompts.clone(),
            count: self.count,
            max_new_tokens: self.max_new_tokens.unwrap_or(128) as usize,
            stop: self.sampling.stop.clone(),
            sampling: sampling.into(),
        }))
    }

    /// Generates the missing answers, one model after the other.
    fn write_answers(&self, collection: &mut Collection, interrupt: &Interrupt, ui: &Ui) -> Result<Option<Stop>> {
        let own = |side: Side| if side == Side::A { self.a.clone() } else { self.b.clone() };
        let models: Vec<(Side, PathBuf)> = collection
            .settings
            .models()
            .into_iter()
            .map(|(side, model)| (side, own(side).unwrap_or(model.into())))
            .collect();
        for (side, folder) in models {
            if collection.unanswered(side)?.is_empty() {
                continue;
            }
            let settings = &collection.settings;
            let before = if side == Side::A { Some(&settings.weights_of_a) } else { settings.weights_of_b.as_ref() };
            let now = weights_fingerprint(&folder)
                .with_context(|| format!("some answers are not generated yet, and --{} was not given", side.name()))?;
            if before.is_some_and(|before| *before != now) {
                bail!(
                    "{} has different weights from the model that wrote the existing answers; use a new --out",
                    folder.display()
                );
            }
            let (files, gpt) = self.compute.load_writer(&folder)?;
            let numbers = self.compute.numbers();
            if let Some(stop) = collection.write_answers(side, &folder, (&files, &gpt), &numbers, interrupt, ui)? {
                return Ok(Some(stop));
            }
        }
        Ok(None)
    }
}

/// Prints the results of a collection.
struct CompareOutcome<'a> {
    collection: &'a Collection,
    summary: &'a CollectionSummary,
    judge: &'a Judge,
    judge_choice: &'a JudgeChoice,
    ui: &'a Ui,
}

impl CompareOutcome<'_> {
    fn verdict(&self) -> Option<&JudgeSummary> {
        self.summary.verdicts.iter().find(|verdict| verdict.judge == *self.judge)
    }

    /// Prints the progress, without revealing which model is which.
    fn print_so_far(&self, again: &str) {
        let judged = self.verdict().map_or(0, |verdict| verdict.judged);
        let (n, folder) = (self.summary.prompts, self.collection.folder.display());
        self.ui.say(&format!("stopped; {judged} of {n} prompts are judged and saved in {folder}"));
        self.ui.next(again);
    }

    fn print(&self) {
        let Some(verdict) = self.verdict() else { return };
        let Self { collection, summary, judge_choice, ui, .. } = self;
        let (settings, score) = (&collection.settings, judge_choice.score_name());
        let a = settings.a.display();
        if let (Some(rate), Some(b)) = (&verdict.win_rate, &settings.b) {
            let b = b.display();
            if let (Some(of_a), Some(of_b)) = (rate.a_over_b, rate.b_over_a) {
                let (wins, losses, ties) = (rate.wins_of_a, rate.wins_of_b, rate.ties);
                ui.say(&format!(
                    "win rate of A over B {of_a} on {} prompts · wins {wins} · losses {losses} · ties {ties}",
                    of_a.n
                ));
                ui.say(&format!("win rate of B over A {of_b} · a tie counts as half a win"));
                ui.say(&format!("A is {a} · B is {b}"));
            }
            if let Some([of_a, of_b]) = verdict.mean_scores.as_deref() {
                ui.say(&format!("mean {score}: A {of_a:.3} · B {of_b:.3}"));
            }
            if let Some(first) = rate.shown_first {
                ui.say(&format!("the answer shown first was preferred in {first}"));
            }
        }
        if let Some(rankings) = &verdict.rankings {
            let (groups, pairs, ties) = (rankings.groups, rankings.pairs, rankings.ties);
            ui.say(&format!(
                "groups of {} answers of {a}: {groups} · pairs {pairs} · ties {ties}",
                settings.n_answers()
            ));
            if let (Some([mean]), Some([best, worst])) = (verdict.mean_scores.as_deref(), verdict.best_and_worst) {
                ui.say(&format!("mean {score} {mean:.3} · best answers {best:.3} · worst answers {worst:.3}"));
            }
        }
        let counts = [
            (
                verdict.skipped,
                if *self.judge_choice == JudgeChoice::Human { "skipped" } else { "too long for the judge's context" },
            ),
            (verdict.alike, "tied because all answers are identical"),
        ];
        for (n, what) in counts.into_iter().filter(|(n, _)| *n > 0) {
            ui.say(&format!("{what}: {n}"));
        }
        if summary.cut_answers > 0 {
            ui.say(&format!("answers cut off by --max-new-tokens or the context window: {}", summary.cut_answers));
        }
        let own = |agreement: &&Agreement| agreement.judges.contains(self.judge);
        summary.agreements.iter().filter(own).for_each(|agreement| ui.say(&agreement_line(agreement)));
        self.print_export();
    }

    fn print_export(&self) {
        let Self { collection, summary, judge, judge_choice, ui } = self;
        let Some(export) = summary.exports.get(&judge.judge) else { return };
        let left_out = [(export.ties, "tied"), (export.empty, "with an empty answer")];
        let left_out: String =
            left_out.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!(" · left out: {n} {what}")).collect();
        ui.say(&format!("comparisons: {} in {}{left_out}", export.comparisons, export.path.display()));
        let settings = &collection.settings;
        // What is held out of the world is not for learning.
        let to_learn =
            settings.k.is_some() || **judge_choice == JudgeChoice::Human && settings.prompts().world().is_none();
        if to_learn && export.comparisons > 0 {
            ui.next(&format!("gptkit train-rm --init {} --data {}", shell(&settings.a), shell(&export.path)));
        } else if **judge_choice != JudgeChoice::Human {
            ui.next(&format!("gptkit compare --out {} --judge human", shell(&collection.folder)));
        } else {
            ui.next(&format!("gptkit feedback stats {}", shell(&collection.folder)));
        }
    }
}

fn agreement_line(agreement: &Agreement) -> String {
    let Agreement { judges: [one, other], prompts, agreed, one_tied, both_tied } = agreement;
    let named = |Judge { judge, who }: &Judge| format!("{} ({})", printable_line(judge), printable_line(who));
    let agreed = match agreed {
        Some(share) => format!("agree on {share} of the {} pairs that neither judged as a tie", share.n),
        None => "at least one of them judged every pair as a tie".to_owned(),
    };
    format!(
        "{} and {}, on {prompts} prompts: {agreed} · ties: {one_tied} by one of them, {both_tied} by both",
        named(one),
        named(other)
    )
}
