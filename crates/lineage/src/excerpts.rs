//! Pieces of real data for the report, read from what the stages left: text, prompts, answers, comparisons.
//!
//! A file that is absent gives nothing. Always the first record is taken, so that no example is picked for its outcome.

use crate::config::{DataSources, LineageConfig};
use crate::excerpt_data::{
    AnswersDuringPpo, ComparedAnswers, CompletedPrompt, DemonstrationAnswers, Excerpts, FewShotPrompts, TextExcerpt,
};
use crate::measured::{InContextScores, SeedMeasurements, is_pattern};
use anyhow::{Context, Result};
use gptkit_data::dialogue::Message;
use gptkit_data::disk::read_description;
use gptkit_data::source::{SourceLocation, SyntheticText};
use gptkit_data::split::Split;
use gptkit_data::synthetic::{SyntheticComparisons, SyntheticPatterns, SyntheticStories};
use gptkit_data::tokenizer::Tokenizer;
use gptkit_train::metrics::records;
use serde::Deserialize;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// Characters of an excerpt of text.
const LONGEST: usize = 420;
/// Demonstrations that are shown.
const DEMONSTRATIONS: usize = 2;
/// Answers during PPO that are shown.
const ANSWERS: usize = 5;

/// Reads the examples of a seed, of which `seed` holds what was measured; `folder` is where its stages left their files, and
/// `own` names data of the user's own.
///
/// # Errors
/// When a file is damaged.
pub(crate) fn read(
    config: &LineageConfig,
    folder: &Path,
    own: &[(&str, String)],
    seed: &SeedMeasurements,
) -> Result<Excerpts> {
    let mut all = Excerpts::default();
    let DataSources { text, patterns, .. } = &config.data;
    let text = own.iter().find(|(name, _)| *name == "text").map_or(text, |(_, path)| path);
    let own_instructions = own.iter().any(|(name, _)| *name == "instructions");
    let source = |path: &str| path.replace("{seed}", &seed.seed.to_string());
    if !seed.runs.is_empty() {
        let tokenizer = folder.join("tokenizer");
        let tokenizer = tokenizer.join("tokenizer.json").exists().then(|| Tokenizer::load(&tokenizer)).transpose()?;
        all.text = excerpt(&source(text), tokenizer.as_ref());
        all.patterns = excerpt(&source(patterns), tokenizer.as_ref());
    }
    let ended = |name: &str| seed.stages.iter().any(|stage| stage.name == name);
    for stage in config.stages.iter().filter(|stage| ended(&stage.name)) {
        let left = folder.join(stage.leaves());
        let name = || stage.name.clone();
        match stage.run.split_whitespace().next().unwrap_or("") {
            "pretrain" => all.text_loss.extend(loss_on(&left, &source(text))?.map(|loss| (name(), loss))),
            "predict" => all.labeled.extend(first(&left)?.map(|record| (name(), record))),
            "eval" if stage.run.contains("--shots") => all.few_shot = few_shot(&left, seed.in_context.as_ref())?,
            "sft" => {
                let found = demonstrations(&left)?;
                all.demonstrations.extend((!found.is_empty()).then(|| (name(), found)));
            }
            "compare" => {
                all.compared.extend(compared(&left.join("comparisons-labeler.jsonl"))?.map(|one| (name(), one)));
            }
            "feedback" if stage.run.contains("--comparisons") => {
                all.compared.extend(compared(&left)?.map(|one| (name(), one)));
            }
            "train-rm" if stage.run.contains("{comparisons}") => {
                let own = own.iter().find(|(name, _)| *name == "comparisons").map(|(_, path)| path);
                let found = match own {
                    Some(path) => compared(Path::new(path)).unwrap_or(None),
                    None if own_instructions => compared_in_world(&source(
                        config.data.comparisons_unjudged.as_ref().unwrap_or(&config.data.comparisons),
                    )),
                    None => compared_in_world(&source(&config.data.comparisons)),
                };
                all.compared.extend(found.map(|one| (name(), one)));
            }
            // Scored comparisons hold the answers beside their rewards.
            "score" => all.compared.extend(compared(&left)?.map(|one| (name(), one))),
            "ppo" => {
                all.during_ppo.extend(during_ppo(&left)?.map(|one| (name(), one)));
                let log = folder.join("stages").join(format!("{}.log", stage.name));
                if let Some(loss) = loss_before(&log)? {
                    all.text_loss_before.insert(name(), loss);
                    if stage.run.contains("{sft}") {
                        all.text_loss.entry("sft".to_owned()).or_insert(loss);
                    }
                }
                let last = seed.runs.get(&stage.name).and_then(|run| run.text_loss.last());
                all.text_loss.extend(last.map(|point| (name(), point.1)));
            }
            _ => {}
        }
    }
    Ok(all)
}

/// The beginning of the text at `source`; nothing where it is not text of one file.
fn excerpt(source: &str, tokenizer: Option<&Tokenizer>) -> Option<TextExcerpt> {
    let text = match SourceLocation::of(source).ok()? {
        SourceLocation::World { told: SyntheticText::Stories, seed, .. } => SyntheticStories::new(seed).story(0),
        SourceLocation::World { told: SyntheticText::Patterns, seed, .. } => SyntheticPatterns::new(seed).document(0),
        SourceLocation::Path(path) => beginning(&path)?,
        SourceLocation::Stdin(_) => return None,
    };
    let text = cut(text.trim(), LONGEST);
    let line = text.lines().next().unwrap_or("");
    // A sentence is enough to show what a token is.
    let sentence = line.split_inclusive(". ").next().unwrap_or(line).trim();
    let split = |tokenizer: &Tokenizer| {
        let ids = tokenizer.encode(sentence).ok()?;
        Some(ids.into_iter().map(|id| tokenizer.token_text(id)).collect())
    };
    let tokens = tokenizer.and_then(split).unwrap_or_default();
    (!text.is_empty()).then(|| TextExcerpt { source: source.to_owned(), text, tokens })
}

/// The first lines of a plain text file.
fn beginning(path: &Path) -> Option<String> {
    let is_plain = path.is_file() && path.extension().is_none_or(|ending| ending == "txt" || ending == "md");
    let mut text = String::new();
    let mut lines = BufReader::new(std::fs::File::open(path).ok().filter(|_| is_plain)?).lines();
    while text.chars().count() < LONGEST {
        let Some(Ok(line)) = lines.next() else { break };
        text += &line;
        text.push('\n');
    }
    Some(text)
}

/// At most `most` characters of `text`, up to the end of a sentence or a word.
fn cut(text: &str, most: usize) -> String {
    let Some((end, _)) = text.char_indices().nth(most) else { return text.to_owned() };
    let head = &text[..end];
    let ends = [". ", ".\n", "\n"].iter().filter_map(|end| head.rfind(end)).max();
    let at = ends.map(|at| at + 1).or_else(|| head.rfind(' ')).unwrap_or(end);
    format!("{} …", head[..at].trim_end())
}

/// The first record in the lines of `path`.
fn first<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>> {
    if !path.exists() {
        return Ok(None);
    }
    let text = read_description(path)?;
    let parse =
        |line: &str| serde_json::from_str::<Value>(line).with_context(|| format!("{} is damaged", path.display()));
    let record = text.lines().find(|line| !line.trim().is_empty()).map(parse).transpose()?;
    // A record of another form, as the user's own may have, is no example.
    Ok(record.and_then(|record| serde_json::from_value(record).ok()))
}

/// Loss on the held-out part of `source` of the weights in `folder`, where its validation reports it apart.
fn loss_on(folder: &Path, source: &str) -> Result<Option<f64>> {
    let key = format!("loss/{source}");
    let all = records(folder)?;
    let validated = all.iter().filter_map(|record| Some((record.val_loss?, *record.scores.get(&key)?)));
    Ok(validated.filter(|(loss, _)| loss.is_finite()).min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, loss)| loss))
}

/// Loss on pretraining text before the first iteration of PPO, as its log has it; a resumed run does not repeat it.
fn loss_before(log: &Path) -> Result<Option<f64>> {
    if !log.exists() {
        return Ok(None);
    }
    let text = read_description(log)?;
    let numbers = text.lines().rev().find_map(|line| line.trim().strip_prefix("loss on pretraining text"));
    Ok(numbers.and_then(|numbers| numbers.split_once(" before")?.0.trim().parse().ok()))
}

/// An instance of a task that a model continues.
#[derive(Deserialize)]
struct InstanceFile {
    prompt: String,
    said: String,
    accept: Vec<String>,
}

/// The first instance of the pattern whose score gains the most from examples, by the largest model.
fn few_shot(folder: &Path, scores: Option<&InContextScores>) -> Result<Option<FewShotPrompts>> {
    let Some((scores, model)) = scores.and_then(|scores| Some((scores, scores.largest()?))) else { return Ok(None) };
    let most = scores.shots().last().copied().unwrap_or(0);
    let value = |task: &str, shots: usize| scores.mean(|one| one == task, model, shots).map(|(value, _)| value);
    let mut tasks: Vec<&str> =
        scores.cells.iter().map(|cell| cell.task.as_str()).filter(|one| is_pattern(one)).collect();
    tasks.dedup();
    let gain = |task: &&str| Some(value(task, most)? - value(task, 0)?);
    let gains = tasks.into_iter().filter_map(|task| Some((gain(&task)?, task)));
    let Some((_, task)) = gains.max_by(|a, b| a.0.total_cmp(&b.0)) else { return Ok(None) };
    let mut prompts = Vec::new();
    for shots in [0, most] {
        let file =
            folder.join("instances").join(task.replace(':', "-")).join(model).join(format!("{shots}-shot.jsonl"));
        let Some(InstanceFile { prompt, said, accept }) = first(&file)? else { return Ok(None) };
        let is_right = accept.iter().any(|right| right.trim() == said.trim());
        prompts.push(CompletedPrompt {
            shots,
            prompt,
            completion: said,
            accept,
            is_right,
            accuracy: value(task, shots),
        });
    }
    Ok(Some(FewShotPrompts { task: task.to_owned(), model: model.to_owned(), prompts }))
}

/// A prompt of `answers.json`.
#[derive(Deserialize)]
struct AnswersFileEntry {
    messages: Vec<AnswersFileMessage>,
    reference: String,
    before: String,
    after: Option<String>,
}

#[derive(Deserialize)]
struct AnswersFileMessage {
    content: String,
}

fn demonstrations(folder: &Path) -> Result<Vec<DemonstrationAnswers>> {
    let path = folder.join("answers.json");
    if !path.exists() {
        return Ok(Vec::new());
    }
    let all: Vec<AnswersFileEntry> =
        serde_json::from_str(&read_description(&path)?).with_context(|| format!("{} is damaged", path.display()))?;
    let one = |entry: AnswersFileEntry| {
        let prompt = entry.messages.last()?.content.clone();
        Some(DemonstrationAnswers { prompt, reference: entry.reference, before: entry.before, after: entry.after? })
    };
    Ok(all.into_iter().filter_map(one).take(DEMONSTRATIONS).collect())
}

/// A comparison, with or without what a reward model gives.
#[derive(Deserialize)]
#[serde(untagged)]
enum ComparisonFile {
    Ranked {
        prompt: String,
        completions: Vec<String>,
        ranking: Vec<u32>,
        rewards: Option<Vec<f64>>,
        gold: Option<Vec<f64>>,
    },
    Pair {
        prompt: String,
        chosen: String,
        rejected: String,
        rewards: Option<Vec<f64>>,
        gold: Option<Vec<f64>>,
    },
}

/// The best and the worst answer of the first comparison in `path`.
fn compared(path: &Path) -> Result<Option<ComparedAnswers>> {
    let of = |values: Option<Vec<f64>>, best: usize, worst: usize| {
        let values = values?;
        Some((*values.get(best)?, *values.get(worst)?))
    };
    Ok(first(path)?.and_then(|comparison| match comparison {
        ComparisonFile::Ranked { prompt, completions, ranking, rewards, gold } => {
            let (best, worst) = best_and_worst(&ranking)?;
            let (chosen, rejected) = (completions.get(best)?.clone(), completions.get(worst)?.clone());
            let (rewards, gold) = (of(rewards, best, worst), of(gold, best, worst));
            Some(ComparedAnswers { prompt, chosen, rejected, rewards, gold })
        }
        ComparisonFile::Pair { prompt, chosen, rejected, rewards, gold } => {
            Some(ComparedAnswers { prompt, chosen, rejected, rewards: of(rewards, 0, 1), gold: of(gold, 0, 1) })
        }
    }))
}

/// The first answers of the best and of the worst place; nothing without answers.
fn best_and_worst(places: &[u32]) -> Option<(usize, usize)> {
    let at = |place: Option<&u32>| places.iter().position(|one| Some(one) == place);
    Some((at(places.iter().min())?, at(places.iter().max())?))
}

/// The same of the embedded world's comparisons.
fn compared_in_world(source: &str) -> Option<ComparedAnswers> {
    let SourceLocation::World { seed, .. } = SourceLocation::of_records(source).ok()? else { return None };
    let comparison = SyntheticComparisons::new(seed, Split::Train).comparison(source, 0);
    let (best, worst) = best_and_worst(&comparison.places)?;
    let text = |messages: &[Message]| messages.last().map(|message| message.content.clone());
    Some(ComparedAnswers {
        prompt: text(&comparison.prompt)?,
        chosen: text(&comparison.completions[best])?,
        rejected: text(&comparison.completions[worst])?,
        rewards: None,
        gold: comparison.gold.map(|gold| (gold[best], gold[worst])),
    })
}

/// The first prompt of `answers.md`.
fn during_ppo(folder: &Path) -> Result<Option<AnswersDuringPpo>> {
    let path = folder.join("answers.md");
    Ok(if path.exists() { answers_in(&read_description(&path)?) } else { None })
}

/// The first prompt of a document of prompts in bold, each with a table of iterations and answers.
fn answers_in(document: &str) -> Option<AnswersDuringPpo> {
    let mut lines = document.lines().skip_while(|line| !line.starts_with("**"));
    let prompt = lines.next()?.trim().trim_matches('*');
    let rows = lines.take_while(|line| !line.starts_with("**")).filter_map(row);
    let mut answers: Vec<(u64, String)> = rows.collect();
    answers.dedup_by(|next, one| next.1 == one.1);
    // The first, the last, and some between them.
    let n = answers.len();
    let kept = |i: usize| n <= ANSWERS || (0..ANSWERS).any(|k| k * (n - 1) / (ANSWERS - 1) == i);
    let answers: Vec<(u64, String)> =
        answers.into_iter().enumerate().filter(|(i, _)| kept(*i)).map(|(_, row)| row).collect();
    (!answers.is_empty()).then(|| AnswersDuringPpo { prompt: without_special_tokens(&plain(prompt)), answers })
}

/// `| 3 | text |` as 3 and the text.
fn row(line: &str) -> Option<(u64, String)> {
    let cells = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    let (iteration, answer) = cells.split_once('|')?;
    Some((iteration.trim().parse().ok()?, without_special_tokens(&plain(answer.trim()))))
}

/// Markdown of a cell as text.
fn plain(cell: &str) -> String {
    cell.replace("<br>", "\n").replace("\\|", "|")
}

/// Text without special tokens such as `<|user|>`.
fn without_special_tokens(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("<|") {
        out += before;
        let Some((name, after)) = after.split_once("|>").filter(|(name, _)| !name.contains(char::is_whitespace)) else {
            out += "<|";
            rest = after;
            continue;
        };
        // Turns stay apart.
        out += if name.is_empty() || out.is_empty() || out.ends_with(' ') { "" } else { " " };
        rest = after;
    }
    (out + rest).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use gptkit_data::disk::write;

    #[test]
    fn answers_during_ppo_are_the_first_prompts_where_they_change() {
        let document = "**<\\|user\\|>Who?<\\|end\\|><\\|assistant\\|>**\n\n| iteration | answer |\n| --- | --- |\n\
            | 0 | Ben \\| Max |\n| 1 | Ben \\| Max |\n| 2 | Max.<br>I hope so. |\n\n**<\\|user\\|>Where?**\n\n| iteration | answer |\n| --- | --- |\n| 0 | here |\n";
        let found = answers_in(document).unwrap();
        assert_eq!(found.prompt, "Who?");
        assert_eq!(found.answers, [(0, "Ben | Max".to_owned()), (2, "Max.\nI hope so.".to_owned())]);
        assert_eq!(answers_in("nothing"), None);
        let many: String = (0..40).map(|i| format!("| {i} | answer {i} |\n")).collect();
        let steps: Vec<u64> = answers_in(&format!("**a**\n{many}")).unwrap().answers.iter().map(|row| row.0).collect();
        assert_eq!(steps, [0, 9, 19, 29, 39], "the first and the last are there");
    }

    #[test]
    fn special_tokens_are_left_out_and_others_stay() {
        assert_eq!(without_special_tokens("<|user|>Is 1 <| 2?<|end|><|assistant|>"), "Is 1 <| 2?");
        assert_eq!(without_special_tokens("<|user|>a<|end|>b"), "a b");
    }

    #[test]
    fn a_comparison_gives_its_best_and_its_worst_answer() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            write(&folder.path().join(name), text.as_bytes()).unwrap();
            compared(&folder.path().join(name)).unwrap()
        };
        let ranked = put(
            "a.jsonl",
            "{\"prompt\":\"p\",\"completions\":[\"x\",\"y\",\"z\"],\"ranking\":[2,3,1],\"gold\":[1.0,0.0,3.0],\"rewards\":[0.1,0.3,0.2]}\n",
        )
        .unwrap();
        assert_eq!((ranked.chosen.as_str(), ranked.rejected.as_str()), ("z", "y"));
        assert_eq!((ranked.rewards, ranked.gold), (Some((0.2, 0.3)), Some((3.0, 0.0))));
        let pair = put("b.jsonl", "{\"prompt\":\"p\",\"chosen\":\"x\",\"rejected\":\"y\"}\n").unwrap();
        assert_eq!((pair.chosen.as_str(), pair.rewards, pair.gold), ("x", None, None));
        assert_eq!(put("c.jsonl", "{\"prompt\":[]}\n"), None, "a record of another form");
        assert_eq!(compared(&folder.path().join("absent")).unwrap(), None);
        let world = compared_in_world("world:8000:1").unwrap();
        assert!(world.chosen != world.rejected && world.gold.is_some(), "{world:?}");
        write(&folder.path().join("d.jsonl"), b"{").unwrap();
        let error = compared(&folder.path().join("d.jsonl")).unwrap_err();
        assert!(format!("{error:#}").contains("d.jsonl is damaged"), "{error:#}");
    }

    #[test]
    fn the_loss_before_ppo_is_read_from_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("ppo.log");
        assert_eq!(loss_before(&log).unwrap(), None);
        write(&log, b"saved x\nloss on pretraining text           0.833 before, 0.786 after\nnext: y\n").unwrap();
        assert_eq!(loss_before(&log).unwrap(), Some(0.833));
        write(&log, b"loss on pretraining text           0.786 after\n").unwrap();
        assert_eq!(loss_before(&log).unwrap(), None);
    }

    #[test]
    fn text_is_cut_after_a_sentence_or_a_word() {
        assert_eq!(cut("One two. Three four five.", 15), "One two. …");
        assert_eq!(cut("One two three", 9), "One two …");
        assert_eq!(cut("One.", 9), "One.");
    }

    #[test]
    fn text_is_the_beginning_of_the_source() {
        let world = excerpt("world:5:3", None).unwrap();
        assert!(SyntheticStories::new(3).story(0).starts_with(world.text.trim_end_matches(" …")), "{}", world.text);
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("mine.txt"), b"My own text.\n").unwrap();
        let own = excerpt(&folder.path().join("mine.txt").display().to_string(), None).unwrap();
        assert_eq!(own.text, "My own text.");
        assert_eq!(excerpt(&folder.path().display().to_string(), None), None, "a folder has no beginning");
    }
}
