//! `gptkit win-rates`

use crate::data_args::shell;
use crate::device::ComputeArgs;
use crate::judging::{JudgeChoice, check_model, check_prompts_exist};
use crate::sampling_args::SamplingArgs;
use crate::ui::{Ui, Usage, unusable};
use anyhow::{Context, Result};
use clap::Args;
use gptkit_data::progress::grouped;
use gptkit_data::source::OnBadRecord;
use gptkit_data::split::Split;
use gptkit_data::template::Template;
use gptkit_data::text_table::aligned;
use gptkit_data::tokenizer::Tokenizer;
use gptkit_model::sampler::Sampling;
use gptkit_preferences::answering::CompletionWriter;
use gptkit_preferences::contest::{Contest, ContestRow};
use gptkit_preferences::prompts::PromptSource;
use gptkit_preferences::settings::StoredSampling;
use gptkit_reward::model::Scorer;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Compare models with a reference model: win rate, rewards, length, KL
///
/// Each model answers every prompt once, and the judge compares the answer with the reference model's. The first row compares
/// the reference model with a second answer from itself: its distance from 50% is chance. KL is the divergence from the
/// reference model in nats per answer, on the model's answers; it is computed at --temperature 1 without filters. For the
/// best of N answers, an upper bound is given. With prompts of the built-in world, two columns give the share of right
/// answers and of answers that begin or end with a courtesy.
#[derive(Debug, Args)]
#[command(mut_arg("temperature", |arg| arg.default_value("1")))]
pub(crate) struct WinRatesCommand {
    /// Model that the others are compared with, for instance the run of `sft` that they started from
    #[arg(long, value_name = "DIR")]
    reference: PathBuf,
    /// Model to compare (repeatable)
    #[arg(long, value_name = "DIR", required_unless_present = "best_of")]
    model: Vec<PathBuf>,
    /// Also compare the best of N answers of the reference, as --reward ranks them; several N with commas
    #[arg(long, value_name = "N,…", value_delimiter = ',', requires = "reward",
        value_parser = clap::value_parser!(u16).range(2..))]
    best_of: Vec<u16>,
    /// Reward model; the table then has a column with the mean reward
    #[arg(long, value_name = "DIR")]
    reward: Option<PathBuf>,
    /// Prompts, in the formats of `compare`: a file, or `world`, `world:N`, `world:N:SEED` for held-out instructions of
    /// the built-in world
    #[arg(long, value_name = "PATH")]
    prompts: String,
    /// Use only the first N prompts
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Judge: `gold`, the built-in world's true score; `labeler` or `labeler:SEED`, its simulated, noisy labeler; or
    /// the folder of a reward model
    #[arg(long, value_name = "gold|labeler|DIR")]
    judge: String,
    /// Maximum length of an answer, in tokens
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    max_new_tokens: u32,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// What to do with records without a prompt
    #[arg(long, value_name = "fail|skip", default_value = "fail")]
    on_bad_record: OnBadRecord,
    #[command(flatten)]
    compute: ComputeArgs,
}

impl WinRatesCommand {
    pub(crate) fn run(self, ui: &Ui) -> Result<()> {
        let sampling = self.sampling.checked()?;
        let judge_choice = JudgeChoice::parse_automatic(&self.judge)?;
        let best_of = self.checked(&sampling, &judge_choice, ui)?;
        let judging = judge_choice.scorer(&self.compute)?;
        let rewarding = self.rewarding()?;
        let prompts = PromptSource { source: &self.prompts, count: self.count, part: Split::HeldOut };
        let models: Vec<&Path> = std::iter::once(&self.reference).chain(&self.model).map(PathBuf::as_path).collect();
        let items = prompts.items(&models, self.on_bad_record, ui)?;
        // Before anything is written, which takes long.
        models.iter().try_for_each(|model| self.is_read(model, rewarding.as_ref()))?;
        let (files, gpt) = self.compute.load_writer(&self.reference)?;
        let world = prompts.world();
        let contest = Contest {
            items: &items,
            world: world.as_ref(),
            reference: CompletionWriter::new(&self.reference, &files, &gpt)?,
            machine: judge_choice.machine(judging.as_ref(), world.clone()).context("there is no judge")?,
            reward: rewarding.as_ref(),
            max_new_tokens: self.max_new_tokens as usize,
            stop: self.sampling.stop.clone(),
            ranks: ui.ranks(),
            sampling: sampling.clone(),
        };
        let reference = self.reference.display().to_string();
        let opponent = contest.opponent(&reference, ui)?;
        let mut rows = contest.reference(&opponent, &best_of, &reference, ui)?;
        for (n, folder) in self.model.iter().enumerate() {
            let (files, gpt) = self.compute.load_writer(folder)?;
            let model = CompletionWriter::new(folder, &files, &gpt)?;
            let row = contest.model(&model, &opponent, &folder.display().to_string(), ui)?;
            rows.insert(1 + n, row);
        }
        if !ui.ranks().is_first() {
            return Ok(());
        }
        self.result(&rows, items.len(), &sampling, &judge_choice, ui)
    }

    /// Refuses arguments that cannot be obeyed. Returns the numbers of completions of which the best is chosen, each once, in
    /// order.
    fn checked(&self, sampling: &Sampling, judge_choice: &JudgeChoice, ui: &Ui) -> Result<Vec<usize>> {
        check_model("reference", &self.reference, ui)?;
        self.model.iter().try_for_each(|model| check_model("model", model, ui))?;
        check_prompts_exist(&self.prompts)?;
        judge_choice.check_prompts(&self.prompts)?;
        let mut best_of: Vec<usize> = self.best_of.iter().map(|&n| usize::from(n)).collect();
        best_of.sort_unstable();
        best_of.dedup();
        if !best_of.is_empty() && (sampling.temperature == 0.0 || sampling.top_k == Some(1)) {
            let what = "--best-of needs random sampling; with --temperature 0 or --top-k 1 all answers are identical";
            return Err(Usage::new(what).hint("remove that option or --best-of").into());
        }
        Ok(best_of)
    }

    fn rewarding(&self) -> Result<Option<Scorer>> {
        let Some(folder) = &self.reward else { return Ok(None) };
        if !folder.is_dir() {
            let hint = "name a run of `gptkit train-rm`";
            return Err(Usage::new(format!("--reward {}: no such folder", folder.display())).hint(hint).into());
        }
        let (files, gpt) = self.compute.load(folder)?;
        Ok(Some(Scorer::new(folder, files, gpt).map_err(unusable)?))
    }

    /// Refuses a reward model that cannot read what `model` writes.
    fn is_read(&self, model: &Path, scorer: Option<&Scorer>) -> Result<()> {
        let (Some(reward), Some(scorer)) = (&self.reward, scorer) else { return Ok(()) };
        let tokenizer = Tokenizer::load(model)?;
        if Template::of(&tokenizer)?.is_some_and(|template| scorer.reads_as(&tokenizer, &template)) {
            return Ok(());
        }
        let (reward, model) = (reward.display(), model.display());
        let what = format!("--reward {reward}: its tokenizer or chat template differs from that of {model}");
        Err(Usage::new(what).hint(format!("train a reward model with --init {model}")).into())
    }

    fn result(
        &self,
        rows: &[ContestRow],
        n: usize,
        sampling: &Sampling,
        judge_choice: &JudgeChoice,
        ui: &Ui,
    ) -> Result<()> {
        if self.json {
            let object = json!({
                "reference": self.reference,
                "judge": self.judge,
                "reward": self.reward,
                "prompts": { "from": self.prompts, "n": n },
                "max_new_tokens": self.max_new_tokens,
                "sampling": StoredSampling::from(sampling.clone()),
                "rows": rows,
            });
            ui.json(&(object.to_string() + "\n"))?;
        } else {
            ui.result(&table(rows, judge_choice.score_name()))?;
        }
        if let Some(skipped) = rows.iter().map(|row| row.skipped).max().filter(|&n| n > 0) {
            ui.say(&format!("too long for the judge's context: up to {} answers per row", grouped(skipped)));
        }
        // People are worth asking about the model that did best, if it is better at all.
        let rate = |row: &ContestRow| row.win_rate.a_over_b.map_or(0.0, |share| share.value);
        let models = rows[1..].iter().zip(&self.model);
        let best = models.max_by(|(a, _), (b, _)| rate(a).total_cmp(&rate(b)));
        if let Some((_, best)) = best.filter(|(row, _)| rate(row) > 0.5) {
            let (best, reference) = (shell(best), shell(&self.reference));
            let prompts = shell(Path::new(&self.prompts));
            ui.next(&format!("gptkit compare --a {best} --b {reference} --prompts {prompts} --judge human"));
        }
        Ok(())
    }
}

/// The table of results; columns without any value are omitted.
fn table(rows: &[ContestRow], score: &str) -> String {
    let number = |x: Option<f64>, digits: usize| x.map(|x| format!("{x:.digits$}"));
    let kl = |row: &ContestRow| match (row.kl, row.kl_bound) {
        // Sums of many draws, which may be below 0 where there is no difference.
        (Some(kl), _) => Some(format!("{:.2}", if kl.abs() < 0.005 { 0.0 } else { kl })),
        (None, bound) => bound.map(|bound| format!("≤ {bound:.2}")),
    };
    let column = |head: &str, cell: &dyn Fn(&ContestRow) -> Option<String>| {
        (head.to_owned(), rows.iter().map(cell).collect::<Vec<_>>())
    };
    let columns = [
        column("wins over reference", &|row| row.win_rate.a_over_b.map(|share| share.to_string())),
        column(if score == "gold" { "gold" } else { "judge" }, &|row| number(row.mean_score, 3)),
        column("followed", &|row| row.grades.as_ref().map(|grades| grades.followed.to_string())),
        column("courteous", &|row| row.grades.as_ref().map(|grades| format!("{:.1}%", 100.0 * grades.courteous))),
        column("reward", &|row| number(row.mean_reward, 3)),
        column("tokens", &|row| number(Some(row.mean_tokens), 1)),
        column("ended", &|row| Some(format!("{:.1}%", 100.0 * row.ended))),
        column("KL", &kl),
    ];
    let shown: Vec<_> = columns.into_iter().filter(|(_, cells)| cells.iter().any(Option::is_some)).collect();
    let heads = std::iter::once(String::new()).chain(shown.iter().map(|(head, _)| head.clone())).collect();
    let line = |(i, row): (usize, &ContestRow)| {
        let cells = shown.iter().map(|(_, cells)| cells[i].clone().unwrap_or_else(|| "-".to_owned()));
        std::iter::once(row.name.clone()).chain(cells).collect()
    };
    let lines: Vec<Vec<String>> = std::iter::once(heads).chain(rows.iter().enumerate().map(line)).collect();
    aligned(&lines, 1)
}
