//! Comparison records → groups of tokens, those of training and those held out: by prompt, never by pair.

use crate::group::{FittedGroup, Group, GroupEncoder};
use anyhow::{Context, Result, bail, ensure};
use gptkit_config::{Check, Problems};
use gptkit_data::comparison::{Comparison, read_comparisons};
use gptkit_data::dialogue::key;
use gptkit_data::examples::{ExamplesWriter, Records};
use gptkit_data::progress::{Progress, grouped};
use gptkit_data::record::BadRecord;
use gptkit_data::source::{OnBadRecord, SourceLocation};
use gptkit_data::sources::{Origin, Reading, Sources, Use};
use gptkit_data::synthetic::SyntheticComparisons;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::path::Path;

/// The comparisons to learn; TOML section `[data]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ComparisonConfig {
    /// Files of records, or `world`, `world:N` or `world:N:SEED` for built-in comparisons.
    pub sources: Vec<String>,
    /// Files of records for validation. Without any, the comparisons of `val_fraction` of the prompts are held out.
    pub validation: Vec<String>,
    /// Share of the prompts held out for validation. `world` has its own validation part.
    pub val_fraction: f64,
    /// What to do with invalid records.
    pub on_bad_record: OnBadRecord,
}

impl Default for ComparisonConfig {
    fn default() -> Self {
        Self {
            sources: vec!["world".to_owned()],
            validation: Vec::new(),
            val_fraction: 0.1,
            on_bad_record: OnBadRecord::Fail,
        }
    }
}

impl ComparisonConfig {
    fn places(&self) -> Sources<'_> {
        let Self { sources, validation, val_fraction, .. } = self;
        Sources { sources, validation, test: &[], val_fraction: *val_fraction }
    }

    /// Whether all that is validated on comes from the embedded world.
    pub(crate) fn is_synthetic(&self) -> bool {
        let validated = if self.validation.is_empty() { &self.sources } else { &self.validation };
        validated.iter().all(|source| SourceLocation::is_world(source))
    }
}

impl Check for ComparisonConfig {
    fn check(&self, problems: &mut Problems) {
        self.places().check(Self::default().val_fraction, problems);
    }
}

/// File of the training part below a run, and of the validation part.
pub const FILES: [&str; 2] = ["train.examples", "val.examples"];

/// What became of the comparisons.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ComparisonCounts {
    /// Groups that are learned, and pairs in them.
    pub train: (u64, u64),
    /// Groups that are validated on, and pairs in them.
    pub val: (u64, u64),
    /// Prompts of the training part, of which some may have several groups.
    pub train_prompts: u64,
    /// Prompts of the validation part.
    pub val_prompts: u64,
    /// Pairs that repeat an earlier pair with the same outcome.
    pub duplicates: u64,
    /// Pairs that repeat an earlier pair with the opposite outcome.
    pub contradictions: u64,
    /// Groups whose completions are all tied or identical.
    pub level: u64,
    /// Completions that equal another one with the same rank.
    pub repeated: u64,
    /// Prompts of which the oldest turns were left out, so that they fit.
    pub cut: u64,
    /// Groups that do not fit the window, and are left out.
    pub too_long: u64,
    /// Tokens of all sequences, and those that are read when what is shared is read once.
    pub tokens: (u64, u64),
}

/// Encodes the comparisons of `config` into the two [`FILES`] below `folder`. Says what it read.
///
/// # Errors
/// When a record cannot be read or rendered, or there is nothing to learn from them.
pub fn encode_all(
    config: &ComparisonConfig,
    encoder: &GroupEncoder,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<ComparisonCounts> {
    let mut split = config.places().split();
    let mut taker = GroupWriter {
        encoder,
        counts: ComparisonCounts::default(),
        seen: HashMap::new(),
        prompts: [HashSet::new(), HashSet::new()],
    };
    let [train, val] = FILES.map(|name| folder.join(name));
    ExamplesWriter::write(&train, |train| {
        ExamplesWriter::write(&val, |val| {
            for reading in config.places().readings()? {
                read(&reading, config.on_bad_record, progress, &mut |comparison| match split
                    .of(&reading, comparison.prompt_key())
                {
                    None => Ok(()),
                    Some(Use::Train) => taker.add(comparison, false, train),
                    Some(Use::Validate | Use::Test) => taker.add(comparison, true, val),
                })?;
            }
            Ok(())
        })
    })?;
    split.warn(progress);
    taker.finish()
}

/// Writes comparisons as groups, and counts.
struct GroupWriter<'a> {
    encoder: &'a GroupEncoder,
    counts: ComparisonCounts,
    /// Of each pair that was told apart, whether the one with the smaller key was better. 16 bytes a pair.
    seen: HashMap<u64, bool>,
    /// Keys of the prompts of both parts.
    prompts: [HashSet<u64>; 2],
}

impl GroupWriter<'_> {
    fn add(&mut self, comparison: Comparison, held_out: bool, file: &mut ExamplesWriter) -> Result<()> {
        let prompt = comparison.prompt_key();
        let Comparison { completions, places, gold, cut, .. } = &comparison;
        self.counts.repeated += comparison.repeated as u64;
        let pairs: Vec<(usize, usize)> = comparison.pairs().collect();
        if pairs.is_empty() {
            self.counts.level += 1;
            return Ok(());
        }
        let bad = |e: anyhow::Error| BadRecord::new(format!("{e:#}"));
        let Some(FittedGroup { sequences, prompt: start, cut }) =
            self.encoder.group_cut(&comparison.prompt, completions, cut).map_err(bad)?
        else {
            self.counts.too_long += 1;
            return Ok(());
        };
        self.counts.cut += u64::from(cut);
        self.prompts[usize::from(held_out)].insert(prompt);
        let keys: Vec<u64> = completions.iter().map(|said| key(said)).collect();
        for &(better, worse) in &pairs {
            let (small, large) = (keys[better].min(keys[worse]), keys[better].max(keys[worse]));
            let of_pair = [prompt, small, large]
                .iter()
                .fold(0u64, |hash, key| (hash.rotate_left(5) ^ key).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            match self.seen.insert(of_pair, keys[better] == small) {
                Some(before) if before == (keys[better] == small) => self.counts.duplicates += 1,
                Some(_) => self.counts.contradictions += 1,
                None => {}
            }
        }
        let gold = gold.as_ref().map(|gold| gold.iter().map(|&x| x as f32).collect());
        let group = Group { sequences, prompt: start, places: places.clone(), gold };
        let counts = &mut self.counts;
        let part = if held_out { &mut counts.val } else { &mut counts.train };
        *part = (part.0 + 1, part.1 + pairs.len() as u64);
        counts.tokens.0 += group.sequences.iter().map(|s| s.len() as u64).sum::<u64>();
        counts.tokens.1 += group.n_tokens() as u64;
        file.push(&group.numbers())
    }

    fn finish(mut self) -> Result<ComparisonCounts> {
        let [train, val] = &self.prompts;
        (self.counts.train_prompts, self.counts.val_prompts) = (train.len() as u64, val.len() as u64);
        let ComparisonCounts { train, val, level, too_long, train_prompts, .. } = self.counts;
        let context = self.encoder.context;
        if train.0 + val.0 == 0 {
            match (level, too_long) {
                (0, 0) => bail!("there are no comparisons"),
                (0, n) => bail!(
                    "all {n} comparisons are longer than the context of {context} tokens; use a model with a longer \
                     context"
                ),
                (n, 0) => bail!("all {n} comparisons are ties, so there is nothing to learn"),
                (n, m) => {
                    bail!(
                        "there is nothing to learn: {n} comparisons are ties, and {m} are longer than the context of \
                         {context} tokens"
                    )
                }
            }
        }
        ensure!(
            train_prompts >= 2,
            "the comparisons have {} to train on; at least two different prompts are needed",
            if train_prompts == 0 { "no prompt" } else { "one prompt" }
        );
        Ok(self.counts)
    }
}

/// Hands the comparisons of `reading` to `sink`.
fn read(
    reading: &Reading,
    on_bad: OnBadRecord,
    progress: &dyn Progress,
    sink: &mut dyn FnMut(Comparison) -> Result<()>,
) -> Result<()> {
    let source = reading.source;
    if let Origin::World { seed, part, numbers } = &reading.origin {
        let comparisons = SyntheticComparisons::new(*seed, *part);
        for number in numbers.clone() {
            sink(comparisons.comparison(source, number))?;
        }
        progress.note(&reading.of_world("comparisons"));
        return Ok(());
    }
    let mut n = 0;
    let (shape, skipped) = read_comparisons(Path::new(source), on_bad, progress, &mut |comparison| {
        sink(comparison)?;
        n += 1;
        Ok(ControlFlow::Continue(()))
    })?;
    progress.note(&format!("{source}: {} comparisons, read as {shape}", grouped(n)));
    skipped.warn(progress);
    Ok(())
}

/// The groups of a part, each as what is kept of it: itself, or more.
#[derive(Debug)]
pub struct Groups<T = Group> {
    /// In an order that a seed draws.
    pub records: Records<T>,
    /// Tokens that are read of one, on average.
    pub mean_tokens: usize,
    /// How often the longer of two completions is the better.
    pub longer_wins: f64,
}

impl<T: AsRef<Group>> Groups<T> {
    /// Those in the file `path`, in an order that `seed` draws; `decode` makes each from its numbers.
    ///
    /// # Errors
    /// When the file is damaged.
    pub fn open(path: &Path, seed: u64, decode: fn(&[u32]) -> Option<T>) -> Result<Self> {
        let mut n_tokens = 0;
        let (mut hits, mut pairs) = (0.0, 0.0);
        let records = Records::open(path, seed, decode, |kept| {
            let group = kept.as_ref();
            n_tokens += group.n_tokens();
            let lengths: Vec<usize> = (0..group.len()).map(|i| group.length(i)).collect();
            let n = group.pairs().count() as f64;
            if n > 0.0 {
                hits += n * crate::report::longer_wins(std::iter::once((group.places.as_slice(), lengths.as_slice())));
                pairs += n;
            }
        })
        .with_context(|| format!("the comparisons in {}", path.display()))?;
        let mean_tokens = (n_tokens as u64 / records.len().max(1)).max(1) as usize;
        Ok(Self { records, mean_tokens, longer_wins: if pairs > 0.0 { hits / pairs } else { 0.5 } })
    }
}

/// Says what `counts` are.
pub fn say(counts: &ComparisonCounts, progress: &dyn Progress) {
    let ComparisonCounts { train, val, duplicates, contradictions, level, repeated, cut, too_long, tokens, .. } =
        *counts;
    progress.note(&format!(
        "{} training prompts, {} validation prompts · pairs: {} and {} · {} tokens per epoch, {} after sharing common \
         prefixes",
        grouped(counts.train_prompts),
        grouped(counts.val_prompts),
        grouped(train.1),
        grouped(val.1),
        grouped(tokens.0),
        grouped(tokens.1)
    ));
    let all = [
        (duplicates, "pairs repeat an earlier pair with the same outcome"),
        (contradictions, "pairs repeat an earlier pair with the opposite outcome"),
        (repeated, "completions are identical to another one for their prompt and count once"),
        (level, "comparisons are ties and were skipped"),
    ];
    for (n, what) in all.into_iter().filter(|(n, _)| *n > 0) {
        progress.note(&format!("{} {what}", grouped(n)));
    }
    if cut > 0 {
        progress
            .warn(&format!("{} prompts are longer than the context; their oldest messages were removed", grouped(cut)));
    }
    if too_long > 0 {
        progress.warn(&format!("{} comparisons do not fit into the context and were skipped", grouped(too_long)));
    }
    if val.0 == 0 {
        progress.warn("there is no validation set, so the accuracy is not measured");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gptkit_data::progress::Silent;
    use gptkit_data::split::Split;
    use gptkit_data::template::Template;
    use gptkit_data::tokenizer::Tokenizer;
    use std::collections::BTreeSet;

    fn encoder() -> GroupEncoder {
        let letters: BTreeSet<char> = (' '..='~').collect();
        let mut tokenizer = Tokenizer::of_characters(&letters).unwrap();
        tokenizer.add_special_tokens(&Template::special_tokens()).unwrap();
        GroupEncoder { tokenizer, template: Template::default_for_chat(), context: 400 }
    }

    fn config(sources: &[&str], validation: &[&str]) -> ComparisonConfig {
        let owned = |list: &[&str]| list.iter().map(|&path| path.to_owned()).collect();
        ComparisonConfig { sources: owned(sources), validation: owned(validation), ..ComparisonConfig::default() }
    }

    fn prompts(folder: &Path, name: &str) -> HashSet<Vec<u32>> {
        let groups = Groups::open(&folder.join(name), 1, Group::of).unwrap().records;
        (0..groups.len()).map(|i| groups.get(i)).map(|group| group.sequences[0][..group.prompt].to_vec()).collect()
    }

    #[test]
    fn a_prompt_is_in_one_part_whichever_records_it_comes_in() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pairs.jsonl");
        let line = |i: u32| {
            let (prompt, chosen) = (i % 60, i / 60);
            format!("{{\"prompt\":\"p{prompt}\",\"chosen\":\"a{chosen}\",\"rejected\":\"b\"}}\n")
        };
        gptkit_data::disk::write(&path, (0..180).map(line).collect::<String>().as_bytes()).unwrap();
        let config = ComparisonConfig { val_fraction: 0.3, ..config(&[&path.to_string_lossy()], &[]) };
        let counts = encode_all(&config, &encoder(), folder.path(), &Silent).unwrap();
        assert_eq!(counts.train_prompts + counts.val_prompts, 60);
        assert_eq!((counts.train.0, counts.val.0), (3 * counts.train_prompts, 3 * counts.val_prompts));
        assert!((8..=30).contains(&counts.val_prompts), "{counts:?}");
        let [train, val] = FILES.map(|name| prompts(folder.path(), name));
        assert!(train.is_disjoint(&val) && train.len() + val.len() == 60);
    }

    /// Whatever is read to learn and to validate.
    #[test]
    fn no_prompt_is_trained_on_and_validated_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        let file = |name: &str, numbers: std::ops::Range<u32>| {
            let line = |n: u32| format!("{{\"prompt\":\"p{}\",\"chosen\":\"a{n}\",\"rejected\":\"b\"}}\n", n % 30);
            gptkit_data::disk::write(Path::new(&path(name)), numbers.map(line).collect::<String>().as_bytes()).unwrap();
        };
        file("own.jsonl", 0..80);
        file("both.jsonl", 20..40);
        let (own, both) = (path("own.jsonl"), path("both.jsonl"));
        for sources in [&[own.as_str()][..], &["world:40"], &[&own, "world:40"]] {
            for validation in [&[][..], &[both.as_str()], &["world:30"], &["world:30", &both]] {
                let config = ComparisonConfig { val_fraction: 0.2, ..config(sources, validation) };
                encode_all(&config, &encoder(), folder.path(), &Silent).unwrap();
                let [train, val] = FILES.map(|name| prompts(folder.path(), name));
                assert!(!train.is_empty() && !val.is_empty() && train.is_disjoint(&val), "{sources:?} {validation:?}");
            }
        }
    }

    #[test]
    fn the_worlds_truth_comes_with_its_comparisons_and_its_parts_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let counts = encode_all(&config(&["world:50"], &[]), &encoder(), folder.path(), &Silent).unwrap();
        assert_eq!((counts.train.0, counts.val.0, counts.too_long), (50, 20, 0));
        let groups = Groups::open(&folder.path().join(FILES[1]), 1, Group::of).unwrap();
        let group = groups.records.get(0);
        let truth = SyntheticComparisons::new(1, Split::HeldOut).comparison("world", 0);
        assert_eq!(group.places, truth.places);
        assert!(
            group.gold.unwrap().iter().zip(truth.gold.as_ref().unwrap()).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-6)
        );
        assert!((0.3..0.7).contains(&groups.longer_wins), "{}", groups.longer_wins);
    }
}
