//! Folders and files of stages → [`StoryMeasurements`].

use crate::config::{LineageConfig, LineageStage, Questions};
use crate::excerpts;
use crate::measured::{
    Accuracy, AnswerGrades, Curve, EvaluatedModel, FeedbackMeasurements, InContextCell, InContextScores, OwnDataNote,
    PpoIteration, RewardModelScores, SeedMeasurements, StageWinRates, StoryMeasurements, TracedFeedback,
    TrainingMeasurements, TurnSpeed,
};
use crate::plan::folder_of_seed;
use crate::stages;
use crate::work;
use anyhow::{Context, Result};
use gptkit_data::disk::read_description;
use gptkit_stats::Share;
use gptkit_train::checkpoint::last_state;
use gptkit_train::metrics::{Record, records};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Points that a training curve keeps.
const POINTS: usize = 100;

/// Reads what the stages of `config` have left in `out` for each of `seeds`; `own` names data of the user's own.
///
/// # Errors
/// When something that a finished stage left cannot be read.
pub(crate) fn read(
    config: &LineageConfig,
    out: &Path,
    seeds: &[u64],
    own: &[(&str, String)],
) -> Result<StoryMeasurements> {
    let mut seeds: Vec<SeedMeasurements> =
        seeds.iter().map(|&seed| read_seed(config, out, seed)).collect::<Result<_>>()?;
    for seed in &mut seeds {
        seed.excerpts = excerpts::read(config, &folder_of_seed(out, seed.seed), own, seed)?;
    }
    let has_run =
        |stage: &&LineageStage| seeds.iter().any(|seed| seed.stages.iter().any(|done| done.name == stage.name));
    let not_run = config.stages.iter().filter(|stage| !has_run(stage)).map(|stage| stage.name.clone()).collect();
    let own = own.iter().map(|(name, path)| OwnDataNote { name: (*name).to_owned(), path: path.clone() }).collect();
    let Questions { ask: questions, right } = config.questions.clone();
    Ok(StoryMeasurements { seeds, own, questions, not_run, right })
}

fn read_seed(config: &LineageConfig, out: &Path, number: u64) -> Result<SeedMeasurements> {
    let folder = folder_of_seed(out, number);
    let mut seed = SeedMeasurements { seed: number, ..SeedMeasurements::default() };
    for stage in &config.stages {
        let record = folder.join("stages").join(format!("{}.json", stage.name));
        if !record.exists() {
            continue;
        }
        seed.stages.push(json::<stages::StageRecord>(&record)?);
        read_stage(stage, &folder.join(stage.leaves()), &mut seed)?;
    }
    Ok(seed)
}

/// Reads from `left` what is told of a stage of this kind.
fn read_stage(stage: &LineageStage, left: &Path, seed: &mut SeedMeasurements) -> Result<()> {
    let name = || stage.name.clone();
    let mut words = stage.run.split_whitespace();
    let command = words.next().unwrap_or("");
    if stages::TRAINING_COMMANDS.contains(&command) {
        seed.runs.insert(name(), training(left, command)?);
    }
    match command {
        "finetune" => {
            let ScoresFile { n, scores } = json(&left.join("scores.json"))?;
            seed.accuracies.extend(scores.accuracy.map(|value| (name(), Accuracy { value, n })));
        }
        "train-rm" => {
            let RewardScoresFile { accuracy, length } = json(&left.join("scores.json"))?;
            seed.reward_models.insert(name(), RewardModelScores { accuracy, by_length: length.baseline });
        }
        "eval" => {
            let results: EvalFile = json(&left.join("results.json"))?;
            let is_of = |task: &str| results.cells.iter().any(|cell| cell.task == task);
            match (is_of(POSITIONS), is_of(TEXT)) {
                (true, _) => seed.positions = positions(results),
                (_, true) => seed.perplexities = perplexities(results),
                _ => seed.in_context = Some(in_context(results)),
            }
        }
        "win-rates" => {
            let contest: WinRatesFile = json(left)?;
            match contest.sampling.temperature == 0.0 {
                true => seed.grades.extend(grades(&contest)),
                false => {
                    seed.sampled.extend(grades(&contest));
                    seed.wins.insert(name(), wins(contest));
                }
            }
        }
        "bench" => drop(seed.speeds.insert(name(), lines::<BenchLine>(left)?.into_iter().map(speed).collect())),
        "score" => seed.orders.extend(order(left)?.map(|share| (name(), share))),
        "attention" => seed.attention = Some(json(left)?),
        "feedback" => match words.next() {
            Some("stats") => seed.feedback = Some(feedback(json(left)?)),
            Some("trace") => seed.traced = Some(traced(&json(left)?)),
            _ => {}
        },
        "chat" => drop(seed.answers.insert(name(), answers(left)?)),
        _ => {}
    }
    Ok(())
}

fn json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    serde_json::from_str(&read_description(path)?).with_context(|| format!("{} is damaged", path.display()))
}

fn lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let text = read_description(path)?;
    let line =
        |(i, line)| serde_json::from_str(line).with_context(|| format!("{} line {} is damaged", path.display(), i + 1));
    text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(line).collect()
}

fn training(folder: &Path, command: &str) -> Result<TrainingMeasurements> {
    let records = records(folder)?;
    let n_params = gptkit_model::load::n_params(folder)?;
    let tokens = records.last().map_or(0, |record| record.tokens);
    let validation: Curve = records.iter().filter_map(|r| Some((r.tokens as f64, r.val_loss?))).collect();
    let kept = last_state(folder).and_then(|state| state.best_validation());
    let lowest = || validation.iter().map(|p| p.1).filter(|loss| loss.is_finite()).min_by(f64::total_cmp);
    let best_validation = kept.as_ref().map_or_else(lowest, |kept| kept.loss);
    let mut speeds: Vec<f64> = records.iter().map(|record| record.tokens_per_s).collect();
    speeds.sort_by(f64::total_cmp);
    // PPO's loss is of no text, and most of its work is writing answers.
    let is_ppo = command == "ppo";
    let per_token = if is_ppo { None } else { work::flops_per_token(folder)? };
    Ok(TrainingMeasurements {
        n_params,
        tokens,
        flops: per_token.map(|flops| flops * tokens as f64),
        tokens_per_s: speeds.get(speeds.len() / 2).copied().unwrap_or(0.0),
        training: if is_ppo { Curve::new() } else { smoothed(&records) },
        best_validation,
        chosen_by: kept.map(|kept| kept.criterion),
        validation,
        iterations: records.iter().filter_map(iteration).collect(),
        text_loss: records.iter().filter_map(|r| Some((r.step as f64, *r.scores.get("text/loss")?))).collect(),
    })
}

/// The loss before the first update, and then means of equal groups.
fn smoothed(records: &[Record]) -> Curve {
    let group = records.len().div_ceil(POINTS).max(1);
    let mean = |group: &[Record]| {
        let of = |value: fn(&Record) -> f64| group.iter().map(value).sum::<f64>() / group.len() as f64;
        (of(|record| record.tokens as f64), of(|record| record.train_loss))
    };
    let first = records.first().map(|first| (first.tokens as f64, first.train_loss)).filter(|_| group > 1);
    let means = records.chunks(group).map(mean);
    first.into_iter().chain(means).filter(|point| point.1.is_finite()).collect()
}

fn iteration(record: &Record) -> Option<PpoIteration> {
    let figure = |name: &str| record.figures.get(name).copied();
    let (kl, proxy) = (figure("objective/kl")?, figure("objective/score")?);
    Some(PpoIteration { step: record.step, kl, proxy, gold: figure("objective/gold") })
}

/// `scores.json` of a fine-tuned model.
#[derive(Deserialize)]
struct ScoresFile {
    n: u64,
    scores: AccuracyInFile,
}

#[derive(Deserialize)]
struct AccuracyInFile {
    accuracy: Option<f64>,
}

/// `scores.json` of a reward model.
#[derive(Deserialize)]
struct RewardScoresFile {
    accuracy: Share,
    length: LengthInFile,
}

#[derive(Deserialize)]
struct LengthInFile {
    baseline: f64,
}

/// `results.json` of an evaluation.
#[derive(Deserialize)]
struct EvalFile {
    models: Vec<EvaluatedModel>,
    cells: Vec<EvalFileCell>,
}

#[derive(Deserialize)]
struct EvalFileCell {
    task: String,
    model: String,
    shots: usize,
    measured: EvalFileMeasurement,
}

#[derive(Deserialize)]
struct EvalFileMeasurement {
    chance: Option<f64>,
    figures: Vec<EvalFileFigure>,
}

#[derive(Deserialize)]
struct EvalFileFigure {
    #[serde(default)]
    metric: String,
    value: f64,
    standard_error: Option<f64>,
    unit: String,
}

/// Only figures in percent.
fn in_context(results: EvalFile) -> InContextScores {
    let cell = |EvalFileCell { task, model, shots, measured }: EvalFileCell| {
        let first = measured.figures.first().filter(|figure| figure.unit == "%")?;
        let standard_error = first.standard_error.unwrap_or(0.0);
        Some(InContextCell { task, model, shots, value: first.value, standard_error, chance: measured.chance })
    };
    InContextScores { models: results.models, cells: results.cells.into_iter().filter_map(cell).collect() }
}

/// The task of `gptkit eval` that tells the perplexity of a text, and the figure that does.
const TEXT: &str = "text";
const PER_WORD: &str = "perplexity (per word)";

/// The perplexity of the text for each model.
fn perplexities(results: EvalFile) -> BTreeMap<String, f64> {
    let cell = |cell: EvalFileCell| {
        let figure = cell.measured.figures.into_iter().find(|figure| figure.metric == PER_WORD)?;
        Some((cell.model, figure.value))
    };
    results.cells.into_iter().filter_map(cell).collect()
}

/// The task of `gptkit eval` that tells loss by position.
const POSITIONS: &str = "positions";

/// The loss of each model over the ranges of positions, each by its first position.
fn positions(results: EvalFile) -> BTreeMap<String, Curve> {
    let range = |figure: &EvalFileFigure| {
        let after = figure.metric.strip_prefix("loss at position")?.trim_start_matches('s').trim_start();
        let from: f64 = after.split(' ').next()?.parse().ok()?;
        Some((from, figure.value))
    };
    let of_text = results.cells.into_iter().filter(|cell| cell.task == POSITIONS);
    of_text.map(|cell| (cell.model, cell.measured.figures.iter().filter_map(range).collect())).collect()
}

/// A line of `bench --against --json`.
#[derive(Deserialize)]
struct BenchLine {
    /// The configuration's file, in the folder of the run that it is of.
    config: PathBuf,
    #[serde(flatten)]
    speed: TurnSpeed,
}

fn speed(line: BenchLine) -> (String, TurnSpeed) {
    let folder = line.config.parent().and_then(Path::file_name).unwrap_or(line.config.as_os_str());
    (folder.to_string_lossy().into_owned(), line.speed)
}

/// What `feedback stats --json` prints.
#[derive(Deserialize)]
struct FeedbackFile {
    counts: FeedbackFileCounts,
    people: Vec<FeedbackFilePerson>,
    agreement: Option<Share>,
}

#[derive(Deserialize)]
struct FeedbackFileCounts {
    completions: u64,
    rankings: u64,
    demonstrations: u64,
    skipped: u64,
}

#[derive(Deserialize)]
struct FeedbackFilePerson {
    rankings: u64,
}

fn feedback(file: FeedbackFile) -> FeedbackMeasurements {
    let FeedbackFileCounts { completions, rankings, demonstrations, skipped } = file.counts;
    FeedbackMeasurements {
        people: file.people.iter().filter(|person| person.rankings > 0).count() as u64,
        answers: completions,
        rankings,
        skipped,
        corrections: demonstrations,
        agreement: file.agreement,
    }
}

/// What `feedback trace RUN --json` prints.
#[derive(Deserialize)]
struct TraceFile {
    files: Vec<TracedFile>,
}

#[derive(Deserialize)]
struct TracedFile {
    export: Option<TracedFileExport>,
}

#[derive(Deserialize)]
struct TracedFileExport {
    /// The records of each person.
    people: BTreeMap<String, Vec<serde_json::Value>>,
}

fn traced(file: &TraceFile) -> TracedFeedback {
    let exports: Vec<&TracedFileExport> = file.files.iter().filter_map(|file| file.export.as_ref()).collect();
    let people: BTreeSet<&String> = exports.iter().flat_map(|export| export.people.keys()).collect();
    let records = exports.iter().flat_map(|export| export.people.values()).map(Vec::len).sum::<usize>();
    TracedFeedback { records: records as u64, people: people.len() as u64 }
}

/// A record of comparisons with the rewards of their completions.
#[derive(Deserialize)]
struct ScoredComparison {
    /// None where a completion is too long for the reward model.
    rewards: Option<Vec<f64>>,
    gold: Vec<f64>,
}

/// Share of the pairs of completions in `path` that rewards put in the order of gold, a pair of equal rewards counting half;
/// nothing where gold tells no two apart.
fn order(path: &Path) -> Result<Option<Share>> {
    let mut clusters = Vec::new();
    for ScoredComparison { rewards, gold } in lines(path)? {
        let Some(rewards) = rewards else { continue };
        let (mut agreed, mut n) = (0.0, 0.0);
        for (i, (reward, worth)) in rewards.iter().zip(&gold).enumerate() {
            for (other_reward, other_worth) in rewards.iter().zip(&gold).take(i).filter(|(_, other)| *other != worth) {
                n += 1.0;
                agreed += match reward == other_reward {
                    true => 0.5,
                    false => f64::from(u8::from((reward > other_reward) == (worth > other_worth))),
                };
            }
        }
        if n > 0.0 {
            clusters.push((agreed, n));
        }
    }
    Ok((!clusters.is_empty()).then(|| Share::of(&clusters)))
}

/// What `win-rates --json` prints.
#[derive(Deserialize)]
struct WinRatesFile {
    judge: String,
    sampling: WinRatesFileSampling,
    rows: Vec<WinRatesFileRow>,
}

#[derive(Deserialize)]
struct WinRatesFileSampling {
    temperature: f64,
}

#[derive(Deserialize)]
struct WinRatesFileRow {
    name: String,
    win_rate: WinRatesFileRate,
    mean_tokens: f64,
    mean_score: Option<f64>,
    grades: Option<WinRatesFileGrades>,
}

#[derive(Deserialize)]
struct WinRatesFileGrades {
    followed: Share,
    by_kind: BTreeMap<String, (u32, u32)>,
    courteous: f64,
}

/// Of each model that was graded, the reference among them, by its folder's name.
fn grades(contest: &WinRatesFile) -> BTreeMap<String, AnswerGrades> {
    let graded = |row: &WinRatesFileRow| {
        let folder = Path::new(row.name.trim_end_matches(" (reference)")).file_name()?.to_string_lossy().into_owned();
        let WinRatesFileGrades { followed, by_kind, courteous } = row.grades.as_ref()?;
        let (followed, by_kind, courteous) = (*followed, by_kind.clone(), *courteous);
        let (mean_tokens, gold) = (row.mean_tokens, row.mean_score);
        Some((folder, AnswerGrades { followed, by_kind, courteous, mean_tokens, gold }))
    };
    contest.rows.iter().filter_map(graded).collect()
}

#[derive(Deserialize)]
struct WinRatesFileRate {
    a_over_b: Option<Share>,
}

/// The first row is the reference against itself.
fn wins(contest: WinRatesFile) -> StageWinRates {
    let model = |row: WinRatesFileRow| {
        let name = Path::new(&row.name).file_name()?.to_string_lossy().into_owned();
        Some((name, row.win_rate.a_over_b?))
    };
    StageWinRates { judge: contest.judge, models: contest.rows.into_iter().skip(1).filter_map(model).collect() }
}

/// A conversation as the chat saves it.
#[derive(Deserialize)]
struct ChatFile {
    messages: Vec<ChatFileMessage>,
}

#[derive(Deserialize)]
struct ChatFileMessage {
    role: String,
    content: String,
}

/// What was answered last in each conversation.
fn answers(path: &Path) -> Result<Vec<String>> {
    let last = |conversation: ChatFile| {
        let answer = conversation.messages.into_iter().rfind(|message| message.role == "assistant");
        answer.map_or(String::new(), |message| message.content)
    };
    Ok(lines(path)?.into_iter().map(last).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Chapter, DataSources};
    use gptkit_data::disk::{create_dir, write};
    use gptkit_train::state::State;

    fn stage(name: &str, run: &str, stdout: Option<&str>) -> LineageStage {
        let stdout = stdout.map(str::to_owned);
        let (name, run) = (name.to_owned(), run.to_owned());
        LineageStage {
            name,
            chapter: Chapter::Gpt1,
            run,
            out: None,
            stdout,
            asks: false,
            judged: false,
            alone: false,
            seconds: 1.0,
            megabytes: 150,
        }
    }

    fn config(stages: Vec<LineageStage>) -> LineageConfig {
        let none = String::new;
        let data = DataSources {
            text: none(),
            patterns: none(),
            instructions: none(),
            held_out: none(),
            comparisons: none(),
            comparisons_unjudged: None,
        };
        LineageConfig {
            description: none(),
            data,
            questions: Questions { ask: vec!["why?".to_owned()], right: Vec::new() },
            stages,
        }
    }

    fn put(folder: &Path, name: &str, text: &str) {
        let path = folder.join("seed-7").join(name);
        create_dir(path.parent().unwrap()).unwrap();
        write(&path, text.as_bytes()).unwrap();
    }

    fn record(folder: &Path, name: &str) {
        let text = format!(
            r#"{{"name":"{name}","chapter":"gpt1","command":"gptkit x","reads":[],"leaves":"{name}","elapsed_s":2.5,"peak_bytes":null,"fingerprint":""}}"#
        );
        put(folder, &format!("stages/{name}.json"), &text);
    }

    #[test]
    fn stages_are_read_once_they_have_ended() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path();
        let config = config(vec![
            stage("other", "eval --task text=world:9", None),
            stage("wins", "win-rates --json", Some("wins.json")),
            stage("ask", "chat --model x", Some("ask.jsonl")),
        ]);
        let figure = r#"{"metric":"perplexity (per word)","value":2.5,"standard_error":0.1,"unit":""}"#;
        let cell =
            format!(r#"{{"task":"text","model":"gpt1","shots":0,"measured":{{"chance":null,"figures":[{figure}]}}}}"#);
        put(out, "other/results.json", &format!(r#"{{"models":[],"cells":[{cell}]}}"#));
        let empty = read(&config, out, &[7], &[("text", "mine.txt".to_owned())]).unwrap();
        assert!(
            empty.seeds[0] == SeedMeasurements { seed: 7, ..SeedMeasurements::default() }
                && empty.not_run == ["other", "wins", "ask"]
        );
        assert_eq!(empty.own, [OwnDataNote { name: "text".to_owned(), path: "mine.txt".to_owned() }]);
        let share = |x: f64| format!(r#"{{"value":{x},"low":0.1,"high":0.9,"n":4}}"#);
        let row =
            |name: &str, x| format!(r#"{{"name":"{name}","mean_tokens":9.0,"win_rate":{{"a_over_b":{}}}}}"#, share(x));
        let rows = [row("runs/a (reference)", 0.5), row("runs/ppo", 0.75)].join(",");
        put(out, "wins.json", &format!(r#"{{"judge":"gold","sampling":{{"temperature":1.0}},"rows":[{rows}]}}"#));
        let message = |role: &str, text: &str| format!(r#"{{"role":"{role}","content":"{text}"}}"#);
        let said = [message("user", "why?"), message("assistant", "because")].join(",");
        put(out, "ask.jsonl", &format!("{{\"messages\":[{said}]}}\n"));
        ["other", "wins", "ask"].iter().for_each(|name| record(out, name));
        let all = read(&config, out, &[7], &[]).unwrap();
        let seed = &all.seeds[0];
        assert_eq!(seed.perplexities["gpt1"], 2.5);
        assert_eq!(seed.wins["wins"].models.keys().collect::<Vec<_>>(), ["ppo"]);
        assert_eq!(seed.wins["wins"].models["ppo"].value, 0.75);
        assert_eq!(seed.answers["ask"], ["because"]);
        assert!(all.not_run.is_empty() && seed.stages.len() == 3 && seed.stages[0].peak_bytes.is_none());
    }

    /// Pairs by hand: 2 of 3 in the order of gold, with one pair of equal gold left out; a record without rewards says nothing.
    #[test]
    fn rewards_are_held_against_gold_pair_by_pair() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scored.jsonl");
        let records = [
            r#"{"rewards":[1.0,0.5,0.5],"gold":[4.0,3.0,3.0]}"#,
            r#"{"rewards":[1.0,2.0],"gold":[4.0,1.0]}"#,
            r#"{"rewards":null,"gold":[4.0,1.0]}"#,
        ];
        write(&path, records.join("\n").as_bytes()).unwrap();
        let share = order(&path).unwrap().unwrap();
        assert!((share.value - 2.0 / 3.0).abs() < 1e-12, "{share}");
        write(&path, br#"{"rewards":[1.0,2.0],"gold":[4.0,4.0]}"#).unwrap();
        assert_eq!(order(&path).unwrap(), None);
    }

    #[test]
    fn a_damaged_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), "wins.json", "{");
        record(folder.path(), "wins");
        let config = config(vec![stage("wins", "win-rates --json", Some("wins.json"))]);
        let error = read(&config, folder.path(), &[7], &[]).unwrap_err();
        assert!(format!("{error:#}").contains("wins.json is damaged"), "{error:#}");
    }

    #[test]
    fn runs_give_curves_iterations_and_work() {
        let folder = tempfile::tempdir().unwrap();
        let line = |step: u64| {
            let val = if step.is_multiple_of(100) {
                format!(",\"val_loss\":{}", 2.0 - step as f64 / 1000.0)
            } else {
                String::new()
            };
            format!(
                "{{\"step\":{step},\"tokens\":{},\"train_loss\":2.0,\"learning_rate\":0.1,\"grad_norm\":1.0,\"tokens_per_s\":{step}{val},\"figures\":{{\"objective/kl\":1.5,\"objective/score\":0.5}},\"scores\":{{\"text/loss\":3.0}}}}\n",
                step * 10
            )
        };
        put(folder.path(), "a/metrics.jsonl", &(1..=300).map(line).collect::<String>());
        put(
            folder.path(),
            "a/config.json",
            r#"{"model_type":"gptkit-lstm","n_layer":1,"n_head":1,"n_embd":4,"n_positions":8,"vocab_size":5}"#,
        );
        put(folder.path(), "a/config.toml", "[train]\nlength = \"300 steps\"\nbatch_size = 1\nlr = 0.1\n");
        let run = folder.path().join("seed-7/a");
        let header = br#"{"__metadata__":{"format":"pt"},"w":{"dtype":"F32","shape":[3,5],"data_offsets":[0,60]},"b":{"dtype":"F32","shape":[5],"data_offsets":[60,80]}}"#;
        let weights = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 80]].concat();
        write(&run.join("model.safetensors"), &weights).unwrap();
        let pretrained = training(&run, "pretrain").unwrap();
        assert_eq!((pretrained.n_params, pretrained.tokens, pretrained.tokens_per_s), (Some(20), 3000, 151.0));
        assert_eq!(pretrained.flops, Some(6.0 * (8.0 * 4.0 * 4.0 + 5.0 * 4.0) * 3000.0));
        assert_eq!(pretrained.training.len(), 101);
        assert_eq!(pretrained.training[0], (10.0, 2.0), "before the first update");
        assert_eq!(pretrained.training[1], (20.0, 2.0), "the mean of three updates");
        assert_eq!(pretrained.validation.iter().map(|p| p.0).collect::<Vec<_>>(), [1000.0, 2000.0, 3000.0]);
        assert_eq!(pretrained.best_validation, Some(1.7));
        // A checkpoint says which weights were kept: here by accuracy, not those of the lowest loss.
        let state =
            State { best: Some((1.9, 100)), best_by: Some(-0.9), criterion: "accuracy".to_owned(), ..State::default() };
        put(folder.path(), "a/checkpoints/step-000300/state.json", &serde_json::to_string(&state).unwrap());
        let kept = training(&run, "finetune").unwrap();
        assert_eq!((kept.best_validation, kept.chosen_by.as_deref()), (Some(1.9), Some("accuracy")));
        let ppo = training(&run, "ppo").unwrap();
        assert!(ppo.flops.is_none() && ppo.training.is_empty() && ppo.iterations.len() == 300);
        assert_eq!(ppo.iterations[1], PpoIteration { step: 2, kl: 1.5, proxy: 0.5, gold: None });
        assert_eq!(ppo.text_loss[0], (1.0, 3.0));
    }

    #[test]
    fn what_people_did_is_read_and_that_a_run_was_trained_on_it() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(vec![
            stage("stats", "feedback stats f --json", Some("stats.json")),
            stage("trace", "feedback trace rm --json", Some("trace.json")),
        ]);
        let person = |rankings: u32| format!(r#"{{"name":"a","rankings":{rankings}}}"#);
        let counts = r#"{"completions":9,"rankings":4,"ratings":3,"demonstrations":2,"skipped":1,"tasks_waiting":0}"#;
        let people = [person(3), person(1), person(0)].join(",");
        let stats = format!(r#"{{"counts":{counts},"people":[{people}],"agreement":null,"models":[]}}"#);
        put(folder.path(), "stats.json", &stats);
        let export = r#"{"export":1,"people":{"a":["ranking-1","ranking-2"],"b":["demonstration-1"]}}"#;
        let files = format!(r#"[{{"path":"x","export":{export}}},{{"path":"y","export":null}}]"#);
        put(folder.path(), "trace.json", &format!(r#"{{"run":"rm","files":{files},"models":{{}}}}"#));
        ["stats", "trace"].iter().for_each(|name| record(folder.path(), name));
        let all = read(&config, folder.path(), &[7], &[]).unwrap();
        let feedback = all.seeds[0].feedback.clone().unwrap();
        let FeedbackMeasurements { people, answers, rankings, skipped, corrections, agreement } = feedback;
        assert_eq!([people, answers, rankings, skipped, corrections], [2, 9, 4, 1, 2]);
        assert_eq!(agreement, None);
        assert_eq!(all.seeds[0].traced, Some(TracedFeedback { records: 3, people: 2 }));
    }
}
