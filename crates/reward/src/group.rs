//! A prompt with its completions, as tokens.

use anyhow::{Context, Result, ensure};
use data::comparison;
use data::dialogue::{Message, Role};
use data::template::{Template, encode};
use data::tokenizer::Tokenizer;

/// Completions of one prompt, and which are better.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// The prompt and a completion each, up to the sign that ends it, whose token is where the reward is read.
    pub sequences: Vec<Vec<u32>>,
    /// Tokens of the prompt, with which all begin.
    pub prompt: usize,
    /// The place of each: 1 is the best, the same place a tie.
    pub places: Vec<u32>,
    /// What each is worth in truth, where it is known.
    pub gold: Option<Vec<f32>>,
}

impl Group {
    /// K.
    pub fn len(&self) -> usize {
        self.sequences.len()
    }

    /// Whether it has no completion.
    pub fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    /// Numbers of the better and the worse completion of each pair that is not tied.
    pub fn pairs(&self) -> impl Iterator<Item = (usize, usize)> {
        comparison::pairs(&self.places)
    }

    /// Tokens with which all sequences begin; each has more.
    pub fn shared(&self) -> usize {
        let [first, rest @ ..] = self.sequences.as_slice() else { return 0 };
        let alike = |other: &Vec<u32>| first.iter().zip(other).take_while(|(a, b)| a == b).count();
        let shortest = self.sequences.iter().map(Vec::len).min().unwrap_or(0);
        rest.iter().map(alike).min().unwrap_or(0).min(shortest.saturating_sub(1))
    }

    /// Tokens that are read when what all share is read once.
    pub fn n_tokens(&self) -> usize {
        let shared = self.shared();
        shared + self.sequences.iter().map(|sequence| sequence.len() - shared).sum::<usize>()
    }

    /// Tokens of completion `i`.
    pub fn length(&self, i: usize) -> usize {
        self.sequences[i].len() - self.prompt
    }

    /// As a list of numbers: K, tokens of the prompt, 1 when the truth is known; places; bits of the truth; lengths; the
    /// shared tokens; the rest of each.
    pub(crate) fn numbers(&self) -> Vec<u32> {
        let shared = self.shared();
        let mut numbers = vec![self.len() as u32, self.prompt as u32, u32::from(self.gold.is_some()), shared as u32];
        numbers.extend(&self.places);
        numbers.extend(self.gold.iter().flatten().map(|gold| gold.to_bits()));
        numbers.extend(self.sequences.iter().map(|sequence| sequence.len() as u32));
        numbers.extend(self.sequences.first().map_or(&[][..], |first| &first[..shared]));
        self.sequences.iter().for_each(|sequence| numbers.extend(&sequence[shared..]));
        numbers
    }

    /// The opposite; nothing when the numbers are no group.
    pub(crate) fn of(numbers: &[u32]) -> Option<Self> {
        let [k, prompt, has_gold @ 0..=1, shared, rest @ ..] = numbers else { return None };
        let (k, shared) = (*k as usize, *shared as usize);
        let (places, rest) = rest.split_at_checked(k)?;
        let (gold, rest) = rest.split_at_checked(if *has_gold == 1 { k } else { 0 })?;
        let (lengths, rest) = rest.split_at_checked(k)?;
        let (stem, mut rest) = rest.split_at_checked(shared)?;
        let mut sequences = Vec::with_capacity(k);
        for &length in lengths {
            let (own, after) = rest.split_at_checked((length as usize).checked_sub(shared)?)?;
            sequences.push([stem, own].concat());
            rest = after;
        }
        let whole = rest.is_empty() && k >= 1 && sequences.iter().all(|s| s.len() > *prompt as usize);
        let gold = (*has_gold == 1).then(|| gold.iter().map(|&bits| f32::from_bits(bits)).collect());
        whole.then(|| Self { sequences, prompt: *prompt as usize, places: places.to_vec(), gold })
    }
}

/// Writes dialogues as a reward model reads them.
#[derive(Debug)]
pub struct Encoder {
    /// Its tokens.
    pub tokenizer: Tokenizer,
    /// How dialogues are written.
    pub template: Template,
    /// The longest sequence.
    pub context: usize,
}

/// Sequences that fit the window, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fitted {
    /// The prompt and a completion each.
    pub sequences: Vec<Vec<u32>>,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Whether the prompt's oldest turns were left out.
    pub cut: bool,
}

impl Encoder {
    /// `prompt` with each of `completions`. Where the longest is over the window, the prompt's oldest turns are left out;
    /// nothing when the last alone is too long.
    ///
    /// # Errors
    /// When the template refuses the messages, or does not write a completion after its prompt.
    pub fn group(&self, prompt: &[Message], completions: &[Vec<Message>]) -> Result<Option<Fitted>> {
        let system = usize::from(prompt.first().is_some_and(|first| first.role == Role::System));
        let (system, all) = prompt.split_at(system);
        let mut turns = all;
        loop {
            let prompt = [system, turns].concat();
            let start = ids(encode(&self.template.prompt(&prompt)?, &self.tokenizer)?);
            let sequences: Vec<Vec<u32>> =
                completions.iter().map(|said| self.sequence(&prompt, said)).collect::<Result<_>>()?;
            ensure!(
                sequences.iter().all(|sequence| sequence.starts_with(&start) && sequence.len() > start.len()),
                "the chat template does not write an answer after its prompt as it writes the prompt alone"
            );
            if sequences.iter().all(|sequence| sequence.len() <= self.context) {
                let cut = turns.len() < all.len();
                return Ok(Some(Fitted { sequences, prompt: start.len(), cut }));
            }
            match turns {
                [_, _, rest @ ..] if !rest.is_empty() => turns = rest,
                _ => return Ok(None),
            }
        }
    }

    /// The tokens of `prompt` and what was `said`, up to the sign that ends it.
    fn sequence(&self, prompt: &[Message], said: &[Message]) -> Result<Vec<u32>> {
        let mut tokens = encode(&self.template.segments(&[prompt, said].concat())?, &self.tokenizer)?;
        let end = tokens.iter().rposition(|&(_, trained)| trained).context("the chat template writes no answer")?;
        tokens.truncate(end + 1);
        Ok(ids(tokens))
    }
}

fn ids(tokens: Vec<(u32, bool)>) -> Vec<u32> {
    tokens.into_iter().map(|(id, _)| id).collect()
}
