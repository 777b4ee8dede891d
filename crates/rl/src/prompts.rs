//! Files of prompts → their tokens, kept in the run's folder.

use crate::config::PpoConfig;
use anyhow::{Context, Result, bail, ensure};
use gptkit_data::dialogue::{Message, key};
use gptkit_data::examples::{ExamplesWriter, Records};
use gptkit_data::progress::{Progress, grouped};
use gptkit_data::prompt::read_prompts;
use gptkit_data::record::BadRecord;
use gptkit_data::source::OnBadRecord;
use gptkit_data::sources::{Origin, Reading, Use};
use gptkit_data::split::Split;
use gptkit_data::synthetic::{SyntheticInstruction, SyntheticInstructions};
use gptkit_data::template::{Template, encode};
use gptkit_data::tokenizer::Tokenizer;
use std::ops::ControlFlow;
use std::path::Path;

/// File of the prompts below a run that are answered to learn, and of those to validate on.
pub const FILES: [&str; 2] = ["train.prompts", "val.prompts"];

/// A prompt, as the policy reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// Seed and number of the embedded world's instruction that it is, and whether it is held out.
    pub world: Option<(u64, u64, bool)>,
}

impl Prompt {
    /// The instruction of the embedded world that it is.
    pub fn instruction(&self) -> Option<SyntheticInstruction> {
        self.world.map(|(seed, number, held_out)| {
            SyntheticInstructions::new(seed, if held_out { Split::HeldOut } else { Split::Train }).instruction(number)
        })
    }

    /// As a list of numbers: 0, or 1 (2 when held out) and seed and number in two each; tokens.
    pub(crate) fn numbers(&self) -> Vec<u32> {
        let halves = |x: u64| [x as u32, (x >> 32) as u32];
        let head = match self.world {
            None => vec![0],
            Some((seed, number, held_out)) => [&[1 + u32::from(held_out)][..], &halves(seed), &halves(number)].concat(),
        };
        [head, self.tokens.clone()].concat()
    }

    /// The opposite; nothing when the numbers are no prompt.
    fn of(numbers: &[u32]) -> Option<Self> {
        let whole = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let (world, tokens) = match numbers {
            [0, tokens @ ..] => (None, tokens),
            [kind @ 1..=2, a, b, c, d, tokens @ ..] => (Some((whole(*a, *b), whole(*c, *d), *kind == 2)), tokens),
            _ => return None,
        };
        (!tokens.is_empty()).then(|| Self { tokens: tokens.to_vec(), world })
    }
}

/// Opens the prompts in the file `path`, in an order that `seed` draws anew each time all were answered.
///
/// # Errors
/// When the file is damaged.
pub(crate) fn open(path: &Path, seed: u64) -> Result<Records<Prompt>> {
    Records::open(path, seed, Prompt::of, |_| ()).with_context(|| format!("the prompts in {}", path.display()))
}

/// What became of the prompts.
#[derive(Debug, Default)]
struct PromptCounts {
    train: u64,
    val: u64,
    too_long: u64,
    /// Tokens of the longest, and of the longest that fits.
    longest: usize,
    longest_kept: usize,
}

/// Encodes the prompts of `config` into the two [`FILES`] below `folder`, for a policy and a reward model that read at most
/// `context` tokens. Returns the longest response that fits beside every prompt, in tokens, at most `rollout.max_new_tokens`.
///
/// An answer gets what the window leaves beside the longest prompt, its end taken off, at most `rollout.max_new_tokens`.
/// Prompts that would leave it less than half of the window, or less than that setting, are left out (Ouyang et al. 2022,
/// appendix C: prompts and answers of at most 1,000 tokens each, of 2,048).
///
/// # Errors
/// When a prompt cannot be read or rendered, or none fits the window beside its answer.
pub(crate) fn encode_all(
    config: &PpoConfig,
    tokenizer: &Tokenizer,
    template: &Template,
    context: usize,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<usize> {
    let prompts = &config.prompts;
    let wanted = config.rollout.max_new_tokens;
    let room = context.saturating_sub(wanted.min(context / 2) + 1);
    let mut counts = PromptCounts::default();
    let mut split = prompts.sources().split();
    let [train, val] = FILES.map(|name| folder.join(name));
    ExamplesWriter::write(&train, |train| {
        ExamplesWriter::write(&val, |val| {
            for reading in prompts.sources().readings()? {
                read(&reading, prompts.on_bad_record, progress, &mut |messages, world| {
                    let Some(used) = split.of(&reading, key(messages)) else { return Ok(()) };
                    let bad = |e: anyhow::Error| BadRecord::new(format!("{e:#}"));
                    let tokens = encode(&template.prompt(messages).map_err(bad)?, tokenizer).map_err(bad)?;
                    let tokens: Vec<u32> = tokens.into_iter().map(|(id, _)| id).collect();
                    counts.longest = counts.longest.max(tokens.len());
                    if tokens.len() > room {
                        counts.too_long += 1;
                        return Ok(());
                    }
                    counts.longest_kept = counts.longest_kept.max(tokens.len());
                    let (file, count) = match used {
                        Use::Train => (&mut *train, &mut counts.train),
                        Use::Validate | Use::Test => (&mut *val, &mut counts.val),
                    };
                    *count += 1;
                    file.push(&Prompt { tokens, world }.numbers())
                })?;
            }
            Ok(())
        })
    })?;
    split.warn(progress);
    let PromptCounts { train, val, too_long, longest, longest_kept } = counts;
    if train == 0 {
        ensure!(
            too_long == 0,
            "no prompt fits: the context has {context} tokens, answers take up to {} of them, and the longest prompt \
             has {longest}\n  hint: lower rollout.max_new_tokens, use shorter prompts, or use models with a longer \
             context",
            wanted.min(context / 2)
        );
        bail!("there are no training prompts");
    }
    progress.note(&format!("{} training prompts, {} validation prompts", grouped(train), grouped(val)));
    if too_long > 0 {
        progress.warn(&format!(
            "{} prompts do not fit into the context of {context} tokens together with an answer of {}; they were \
             skipped",
            grouped(too_long),
            wanted.min(context / 2)
        ));
    }
    let max_new_tokens = wanted.min(context - longest_kept - 1);
    if max_new_tokens < wanted {
        progress.note(&format!(
            "answers are limited to {max_new_tokens} tokens instead of rollout.max_new_tokens = {wanted}: the context \
             of {context} tokens must also hold prompts of up to {longest_kept}"
        ));
    }
    let end_after = config.rollout.end_after;
    ensure!(
        end_after < max_new_tokens,
        "rollout.end_after = {end_after} must be below the limit of {max_new_tokens} tokens per answer\n  hint: lower \
         rollout.end_after, use shorter prompts, or use models with a longer context"
    );
    Ok(max_new_tokens)
}

/// Takes a prompt, and which of the world's it is.
type PromptSink<'a> = &'a mut dyn FnMut(&[Message], Option<(u64, u64, bool)>) -> Result<()>;

fn read(reading: &Reading, on_bad: OnBadRecord, progress: &dyn Progress, sink: PromptSink) -> Result<()> {
    if let Origin::World { seed, part, numbers } = &reading.origin {
        let instructions = SyntheticInstructions::new(*seed, *part);
        for number in numbers.clone() {
            let prompt = instructions.instruction(number).prompt();
            sink(&prompt, Some((*seed, number, *part == Split::HeldOut)))?;
        }
        progress.note(&reading.of_world("prompts"));
        return Ok(());
    }
    let mut n = 0;
    let skipped = read_prompts(Path::new(reading.source), on_bad, progress, &mut |prompt| {
        sink(&prompt.messages, None)?;
        n += 1;
        Ok(ControlFlow::Continue(()))
    })?;
    progress.note(&format!("{}: {} prompts", reading.source, grouped(n)));
    skipped.warn(progress);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use gptkit_data::progress::Silent;
    use std::collections::HashSet;

    /// Whatever is read to learn and to validate.
    #[test]
    fn no_prompt_is_trained_on_and_validated_on() {
        let folder = tempfile::tempdir().unwrap();
        let mut tokenizer = Tokenizer::of_characters(&(' '..='~').collect()).unwrap();
        tokenizer.add_special_tokens(&Template::special_tokens()).unwrap();
        let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        let file = |name: &str, numbers: std::ops::Range<u32>| {
            let line = |n: u32| format!("p{}\n", n % 30);
            gptkit_data::disk::write(Path::new(&path(name)), numbers.map(line).collect::<String>().as_bytes()).unwrap();
        };
        file("own.txt", 0..80);
        file("both.txt", 20..40);
        let (own, both) = (path("own.txt"), path("both.txt"));
        for sources in [&[own.as_str()][..], &["world:40"], &[&own, "world:40"]] {
            for validation in [&[][..], &[both.as_str()], &["world:30"], &["world:30", &both]] {
                let list = |sources: &[&str]| serde_json::json!(sources).to_string();
                let set = [
                    format!("prompts.sources={}", list(sources)),
                    format!("prompts.validation={}", list(validation)),
                    "prompts.val_fraction=0.2".to_owned(),
                ];
                let preset = include_str!("../../cli/presets/ppo-small.toml");
                let config: PpoConfig = gptkit_config::load("ppo-small", preset, &set).unwrap();
                encode_all(&config, &tokenizer, &Template::default_for_chat(), 400, folder.path(), &Silent).unwrap();
                let [train, val] = FILES.map(|name| {
                    let prompts = open(&folder.path().join(name), 1).unwrap();
                    (0..prompts.len()).map(|i| prompts.get(i)).collect::<Vec<_>>()
                });
                let tokens = |part: &[Prompt]| part.iter().map(|one| one.tokens.clone()).collect::<HashSet<_>>();
                let what = format!("{sources:?}, validated on {validation:?}");
                assert!(!train.is_empty() && !val.is_empty() && tokens(&train).is_disjoint(&tokens(&val)), "{what}");
                assert!(train.iter().all(|prompt| prompt.world.is_none_or(|(_, _, held_out)| !held_out)), "{what}");
                assert!(val.iter().all(|prompt| prompt.world.is_none_or(|(_, _, held_out)| held_out)), "{what}");
            }
        }
    }

    #[test]
    fn prompts_come_back_from_their_numbers() {
        for world in [None, Some((u64::MAX, 1 << 40, true)), Some((1, 0, false))] {
            let prompt = Prompt { tokens: vec![7, 0, 9], world };
            assert_eq!(Prompt::of(&prompt.numbers()), Some(prompt.clone()));
        }
        for damaged in [&[][..], &[0], &[1, 0, 0, 0, 0], &[3, 1]] {
            assert_eq!(Prompt::of(damaged), None, "{damaged:?}");
        }
    }
}
