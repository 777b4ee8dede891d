//! Files of prompts → their tokens, kept in the run's folder.

use crate::config::PpoConfig;
use anyhow::{Context, Result, bail, ensure};
use data::dialogue::{Message, Role};
use data::examples::{ExamplesWriter, Records};
use data::progress::{Progress, grouped};
use data::prompt::read_prompts;
use data::source::Place;
use data::template::{Template, encode};
use data::tokenizer::Tokenizer;
use data::world::{Instruction, Instructions, Part};
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
    pub fn instruction(&self) -> Option<Instruction> {
        self.world.map(|(seed, number, held_out)| {
            Instructions::new(seed, if held_out { Part::HeldOut } else { Part::Train }).instruction(number)
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
struct Counts {
    train: u64,
    val: u64,
    too_long: u64,
    /// Tokens of the longest, and of the longest that fits.
    longest: usize,
    longest_kept: usize,
}

/// What was encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fitted {
    /// Tokens of the longest answer that fits beside every prompt, at most `rollout.max_new_tokens`.
    pub(crate) max_new_tokens: usize,
    /// Prompts to validate on.
    pub(crate) n_validation: u64,
}

/// Encodes the prompts of `config` into the two [`FILES`] below `folder`, for a policy and a reward model that read at most
/// `context` tokens. Says what it read.
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
) -> Result<Fitted> {
    let prompts = &config.prompts;
    let wanted = config.rollout.max_new_tokens;
    let room = context.saturating_sub(wanted.min(context / 2) + 1);
    let mut counts = Counts::default();
    let [train, val] = FILES.map(|name| folder.join(name));
    ExamplesWriter::write(&train, |train| {
        ExamplesWriter::write(&val, |val| {
            for (sources, for_validation) in [(&prompts.sources, false), (&prompts.validation, true)] {
                for source in sources {
                    let mut n = 0;
                    read(source, config, for_validation, progress, &mut |messages, world| {
                        let part = world.map(|(_, _, held_out)| if held_out { Part::HeldOut } else { Part::Train });
                        let held_out = for_validation || prompts.sources().holds_out(n, part);
                        n += 1;
                        let tokens: Vec<u32> =
                            encode(&template.prompt(messages)?, tokenizer)?.into_iter().map(|(id, _)| id).collect();
                        counts.longest = counts.longest.max(tokens.len());
                        if tokens.len() > room {
                            counts.too_long += 1;
                            return Ok(());
                        }
                        counts.longest_kept = counts.longest_kept.max(tokens.len());
                        let (file, count) =
                            if held_out { (&mut *val, &mut counts.val) } else { (&mut *train, &mut counts.train) };
                        *count += 1;
                        file.push(&Prompt { tokens, world }.numbers())
                    })?;
                }
            }
            Ok(())
        })
    })?;
    let Counts { train, val, too_long, longest, longest_kept } = counts;
    if train == 0 {
        ensure!(
            too_long == 0,
            "no prompt fits: the window has {context} tokens, answers take up to {} of them, and the prompts up to {longest}\n  \
             hint: lower rollout.max_new_tokens, give shorter prompts, or models with a longer context",
            wanted.min(context / 2)
        );
        bail!("there are no prompts to learn from");
    }
    progress.note(&format!("{} prompts to learn from, {} to validate on", grouped(train), grouped(val)));
    if too_long > 0 {
        progress.warn(&format!(
            "{} prompts do not fit the window of {context} tokens beside an answer of {}, and are left out",
            grouped(too_long),
            wanted.min(context / 2)
        ));
    }
    let max_new_tokens = wanted.min(context - longest_kept - 1);
    if max_new_tokens < wanted {
        progress.note(&format!(
            "answers have up to {max_new_tokens} tokens, not rollout.max_new_tokens = {wanted}: the context window of {context} \
             leaves no more beside prompts of up to {longest_kept}"
        ));
    }
    let end_after = config.rollout.end_after;
    ensure!(
        end_after < max_new_tokens,
        "rollout.end_after = {end_after} is not below the {max_new_tokens} tokens that an answer may have here\n  hint: lower \
         rollout.end_after, give shorter prompts, or models with a longer context"
    );
    Ok(Fitted { max_new_tokens, n_validation: val })
}

/// Takes a prompt, and which of the world's it is.
type Sink<'a> = &'a mut dyn FnMut(&[Message], Option<(u64, u64, bool)>) -> Result<()>;

fn read(source: &str, config: &PpoConfig, for_validation: bool, progress: &dyn Progress, sink: Sink) -> Result<()> {
    if let Place::World { count: n, seed, .. } = Place::of_records(source).map_err(anyhow::Error::msg)? {
        let parts = match (for_validation, config.prompts.validation.is_empty()) {
            (true, _) => vec![(Part::HeldOut, n)],
            (false, true) => vec![(Part::Train, n), (Part::HeldOut, (n / 10).clamp(20, 400))],
            (false, false) => vec![(Part::Train, n)],
        };
        for (part, n) in parts {
            let instructions = Instructions::new(seed, part);
            for number in 0..n {
                let message = Message::new(Role::User, instructions.instruction(number).prompt);
                sink(&[message], Some((seed, number, part == Part::HeldOut)))?;
            }
        }
        progress.note(&format!("{source}: {} prompts of the embedded world", grouped(n)));
        return Ok(());
    }
    let mut n = 0;
    let skipped = read_prompts(Path::new(source), config.prompts.on_bad_record, progress, &mut |prompt| {
        n += 1;
        sink(&prompt.messages, None).with_context(|| prompt.place.to_string())
    })?;
    progress.note(&format!("{source}: {} prompts", grouped(n)));
    if let (n @ 1.., Some(first)) = (skipped.total(), &skipped.first) {
        progress.warn(&format!("{n} records are left out; the first: {first}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
