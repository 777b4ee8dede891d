//! Names in commands → folders and files: what a stage runs, reads and leaves.

use crate::config::{LineageConfig, LineageStage, names};
use crate::own::{OwnData, parts};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A stage of one seed, ready to run.
#[derive(Debug, Clone, PartialEq)]
pub struct LineageStep {
    /// The stage.
    pub stage: LineageStage,
    /// The command's words, without `gptkit`.
    pub words: Vec<String>,
    /// The stages whose results it reads, in the order in which it names them.
    pub reads: Vec<String>,
    /// The folder or file that it leaves.
    pub leaves: PathBuf,
    /// What it is told on stdin.
    pub stdin: Option<String>,
    /// Changes with the command, with what stages before it did, and with the user's own files.
    pub fingerprint: String,
}

impl LineageStep {
    /// The command as a shell would take it.
    pub fn command(&self) -> String {
        command(&self.words)
    }
}

/// `gptkit` and `words`, as a shell would take them.
pub(crate) fn command(words: &[String]) -> String {
    let words = std::iter::once("gptkit").chain(words.iter().map(String::as_str));
    shlex::try_join(words).unwrap_or_default() // no word has a NUL: arguments cannot
}

/// Folder of what the stages of `seed` leave, below the folder of the whole story.
pub fn folder_of_seed(out: &Path, seed: u64) -> PathBuf {
    out.join(format!("seed-{seed}"))
}

/// The stages of `config` for `seed`, in order, below the folder `out`; `own` data replaces that of the built-in world.
///
/// # Errors
/// When a file of the user's cannot be looked at, or a command is none.
pub fn steps(config: &LineageConfig, own: &OwnData, out: &Path, seed: u64) -> Result<Vec<LineageStep>> {
    let folder = folder_of_seed(out, seed);
    let given = given(config, own, &folder, seed);
    let files = own.named().map(|(name, path)| Ok(format!("{name} {}", state(path)?))).collect::<Result<Vec<_>>>()?;
    let mut left: BTreeMap<&str, PathBuf> = BTreeMap::new();
    let mut fingerprints: BTreeMap<&str, String> = BTreeMap::new();
    let mut steps = Vec::new();
    for stage in config.stages.iter().filter(|stage| !(stage.judged && own.instructions.is_some())) {
        let leaves = folder.join(stage.leaves());
        let value = |name: &str| -> Option<String> {
            match name {
                "out" => Some(leaves.display().to_string()),
                "judge" if own.instructions.is_some() => left.get("rm").map(|rm| rm.display().to_string()),
                _ => given.get(name).cloned().or_else(|| left.get(name).map(|path| path.display().to_string())),
            }
        };
        // A source may itself be what a stage left.
        let value = |name: &str| value(name).and_then(|text| filled(&text, &value).ok());
        let words =
            shlex::split(&stage.run).with_context(|| format!("the command of stage {} is not valid", stage.name))?;
        let words = words.iter().map(|word| filled(word, &value)).collect::<Result<Vec<_>>>();
        let words = words.with_context(|| format!("stage {}", stage.name))?;
        let mut reads: Vec<String> = Vec::new();
        let judge = (own.instructions.is_some() && names(&stage.run).any(|name| name == "judge")).then_some("rm");
        let of_sources = names(&stage.run).filter_map(|name| given.get(name)).flat_map(|source| names(source));
        for name in names(&stage.run).chain(of_sources).chain(judge).filter(|name| left.contains_key(name)) {
            if !reads.iter().any(|read| read == name) {
                reads.push(name.to_owned());
            }
        }
        let stdin = stage.asks.then(|| questions(&config.questions.ask, &leaves));
        let below = folder.display().to_string();
        let moved = |text: &String| text.replace(&below, ""); // the story may be moved
        let mut parts: Vec<String> = words.iter().map(moved).collect();
        parts.extend(reads.iter().filter_map(|name| fingerprints.get(name.as_str()).cloned()));
        // A configuration of the user's own, say.
        let read = words.iter().map(Path::new).filter(|path| !path.starts_with(&folder) && path.is_file());
        parts.extend(read.map(state).collect::<Result<Vec<_>>>()?);
        parts.extend(files.iter().cloned().chain(stdin.as_ref().map(moved)));
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(part.as_bytes()).update(&[0]);
        }
        let fingerprint = hasher.finalize().to_hex().to_string();
        left.insert(&stage.name, leaves.clone());
        fingerprints.insert(&stage.name, fingerprint.clone());
        steps.push(LineageStep { stage: stage.clone(), words, reads, leaves, stdin, fingerprint });
    }
    Ok(steps)
}

/// What the names stand for that are no stage's.
fn given(config: &LineageConfig, own: &OwnData, folder: &Path, seed: u64) -> BTreeMap<&'static str, String> {
    let data = &config.data;
    let of_seed = |text: &str| text.replace("{seed}", &seed.to_string());
    let shown = |path: &Path| path.display().to_string();
    let [learn, held_out] = parts(folder);
    let mut given: BTreeMap<&str, String> = [
        ("seed", seed.to_string()),
        ("text", of_seed(&data.text)),
        ("patterns", of_seed(&data.patterns)),
        ("instructions", of_seed(&data.instructions)),
        ("held-out", of_seed(&data.held_out)),
        (
            "comparisons",
            of_seed(match &data.comparisons_unjudged {
                Some(unjudged) if own.instructions.is_some() => unjudged,
                _ => &data.comparisons,
            }),
        ),
        ("judge", "gold".to_owned()),
        ("on-bad-record", serde_json::json!(own.on_bad_record).as_str().unwrap_or_default().to_owned()),
    ]
    .into();
    given.extend(own.text.as_deref().map(|path| ("text", shown(path))));
    given.extend(own.comparisons.as_deref().map(|path| ("comparisons", shown(path))));
    if own.instructions.is_some() {
        given.extend([("instructions", shown(&learn)), ("held-out", shown(&held_out))]);
    }
    given
}

/// `word` with the value of each name in it.
fn filled(word: &str, value: &dyn Fn(&str) -> Option<String>) -> Result<String> {
    let mut text = word.to_owned();
    for name in names(word) {
        let value = value(name).with_context(|| format!("{{{name}}} is the output of a stage that does not run"))?;
        text = text.replace(&format!("{{{name}}}"), &value);
    }
    Ok(text)
}

/// What `gptkit chat` is told so that each of `questions` begins a conversation, which is then kept in `file`.
fn questions(questions: &[String], file: &Path) -> String {
    // A line break in a question goes on in the next line.
    let line = |question: &String| format!("{}\n/save {}\n/reset\n", question.replace('\n', "\\\n"), file.display());
    questions.iter().map(line).collect()
}

/// How a file or folder is told from what it was: by its size and time.
fn state(path: &Path) -> Result<String> {
    let metadata = path.metadata().with_context(|| format!("{} cannot be read", path.display()))?;
    let modified = metadata.modified()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos();
    Ok(format!("{} {} {modified}", path.display(), metadata.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Chapter, DataSources, Questions};
    use gptkit_data::source::OnBadRecord;

    fn stage(name: &str, run: &str) -> LineageStage {
        LineageStage {
            name: name.to_owned(),
            chapter: Chapter::Gpt1,
            run: run.to_owned(),
            out: None,
            stdout: None,
            asks: false,
            judged: false,
            alone: false,
            seconds: 1.0,
            megabytes: 150,
        }
    }

    fn story(stages: Vec<LineageStage>) -> LineageConfig {
        let of = |name: &str| format!("{name}:{{seed}}");
        LineageConfig {
            description: String::new(),
            data: DataSources {
                text: of("text"),
                patterns: of("patterns"),
                instructions: of("instructions"),
                held_out: of("held-out"),
                comparisons: of("comparisons"),
                comparisons_unjudged: Some(of("unjudged")),
            },
            questions: Questions { ask: vec!["one".to_owned(), "a\nb".to_owned()], right: Vec::new() },
            stages,
        }
    }

    const NONE: OwnData =
        OwnData { text: None, instructions: None, comparisons: None, on_bad_record: OnBadRecord::Fail };

    #[test]
    fn names_become_what_stages_left_and_the_worlds_data() {
        let mut judge = stage("judge", "win-rates --judge {judge} --model {b} --prompts {held-out} --json");
        judge.stdout = Some("judge.json".to_owned());
        let config = story(vec![
            stage("a", "pretrain --data {text}@0.5 --set 'x=[{ path = \"{patterns}\" }]' --out {out}"),
            stage("b", "sft --init {a} --data {instructions} --seed {seed} --out {out}"),
            judge,
        ]);
        let steps = steps(&config, &NONE, Path::new("runs/x"), 7).unwrap();
        assert_eq!(
            steps[0].words,
            ["pretrain", "--data", "text:7@0.5", "--set", "x=[{ path = \"patterns:7\" }]", "--out", "runs/x/seed-7/a"]
        );
        assert_eq!(
            steps[1].command(),
            "gptkit sft --init runs/x/seed-7/a --data instructions:7 --seed 7 --out runs/x/seed-7/b"
        );
        assert_eq!(steps[1].reads, ["a"]);
        assert_eq!(steps[2].words[2], "gold");
        assert_eq!(steps[2].leaves, Path::new("runs/x/seed-7/judge.json"));
    }

    #[test]
    fn own_data_takes_the_place_of_the_worlds_and_the_reward_model_that_of_its_judge() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("own.jsonl");
        gptkit_data::disk::write(&file, b"{}").unwrap();
        let own = OwnData { instructions: Some(file.clone()), text: Some(file.clone()), ..NONE };
        let mut judged = stage("c", "compare --judge labeler");
        judged.judged = true;
        let config = story(vec![
            stage("rm", "train-rm --data {comparisons} --out {out}"),
            stage("b", "win-rates --judge {judge} --prompts {held-out} --data {text}"),
            judged,
        ]);
        let planned = steps(&config, &own, Path::new("o"), 1).unwrap();
        let own_file = file.display().to_string();
        assert_eq!(planned[0].words[2], "unjudged:1", "nobody ranked answers to these instructions");
        assert_eq!(
            planned[1].words[1..],
            ["--judge", "o/seed-1/rm", "--prompts", "o/seed-1/held-out.jsonl", "--data", &own_file]
        );
        assert_eq!(planned[1].reads, ["rm"]);
        assert_eq!(planned.len(), 2, "nobody is there to judge");
    }

    #[test]
    fn a_source_may_be_what_a_stage_left() {
        let mut config =
            story(vec![stage("answers", "compare --out {out}"), stage("rm", "train-rm --data {comparisons}")]);
        config.data.comparisons = "{answers}/ranked.jsonl".to_owned();
        let planned = steps(&config, &NONE, Path::new("o"), 1).unwrap();
        assert_eq!(planned[1].words[2], "o/seed-1/answers/ranked.jsonl");
        assert_eq!(planned[1].reads, ["answers"]);
        let own = OwnData { comparisons: Some("/dev/null".into()), ..NONE };
        let planned = steps(&config, &own, Path::new("o"), 1).unwrap();
        assert_eq!((planned[1].words[2].as_str(), planned[1].reads.len()), ("/dev/null", 0));
    }

    #[test]
    fn a_fingerprint_changes_with_the_command_and_with_what_it_reads_not_with_the_folder() {
        let of = |first: &str, second: &str, out: &str| {
            let config = story(vec![stage("a", first), stage("b", second), stage("c", "world --out {out}")]);
            let steps = steps(&config, &NONE, Path::new(out), 1).unwrap();
            steps.into_iter().map(|step| step.fingerprint).collect::<Vec<_>>()
        };
        let one = of("x --out {out}", "y {a}", "o");
        assert_eq!(one, of("x --out {out}", "y {a}", "elsewhere/o"));
        let other = of("x --more --out {out}", "y {a}", "o");
        assert!(one[0] != other[0] && one[1] != other[1] && one[2] == other[2]);
        let file = tempfile::NamedTempFile::new().unwrap();
        let named = format!("x --config {} --out {{out}}", file.path().display());
        let before = of(&named, "y {a}", "o");
        assert_eq!(before, of(&named, "y {a}", "o"));
        gptkit_data::disk::write(file.path(), b"changed").unwrap();
        assert_ne!(before[..2], of(&named, "y {a}", "o")[..2]);
    }

    #[test]
    fn each_question_begins_a_conversation() {
        let text = questions(&["one".to_owned(), "a\nb".to_owned()], Path::new("f.jsonl"));
        assert_eq!(text, "one\n/save f.jsonl\n/reset\na\\\nb\n/save f.jsonl\n/reset\n");
    }
}
