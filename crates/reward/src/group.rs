//! A prompt with its completions, as tokens.

use anyhow::{Context, Result, ensure};
use gptkit_data::comparison;
use gptkit_data::dialogue::{Message, Role};
use gptkit_data::template::{Template, encode};
use gptkit_data::tokenizer::Tokenizer;

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

impl AsRef<Group> for Group {
    fn as_ref(&self) -> &Group {
        self
    }
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
    pub fn numbers(&self) -> Vec<u32> {
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
    pub fn of(numbers: &[u32]) -> Option<Self> {
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
pub struct GroupEncoder {
    /// Its tokens.
    pub tokenizer: Tokenizer,
    /// How dialogues are written.
    pub template: Template,
    /// The longest sequence.
    pub context: usize,
}

/// Sequences that fit the window, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FittedGroup {
    /// The prompt and a completion each.
    pub sequences: Vec<Vec<u32>>,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Whether the prompt's oldest turns were left out.
    pub cut: bool,
}

impl GroupEncoder {
    /// `prompt` with each of `completions`. Where the longest is over the window, the prompt's oldest turns are left out;
    /// nothing when the last alone is too long.
    ///
    /// # Errors
    /// When the template refuses the messages, or does not write a completion after its prompt.
    pub fn group(&self, prompt: &[Message], completions: &[Vec<Message>]) -> Result<Option<FittedGroup>> {
        self.group_cut(prompt, completions, &vec![false; completions.len()])
    }

    /// The same, where some completions were `cut` off before their end, and have no sign that ends them.
    ///
    /// # Errors
    /// As [`GroupEncoder::group`].
    pub fn group_cut(
        &self,
        prompt: &[Message],
        completions: &[Vec<Message>],
        cut: &[bool],
    ) -> Result<Option<FittedGroup>> {
        let sign = self.template.end_token(&self.tokenizer)?;
        let system = usize::from(prompt.first().is_some_and(|first| first.role == Role::System));
        let (system, all) = prompt.split_at(system);
        let mut turns = all;
        loop {
            let prompt = [system, turns].concat();
            let start = ids(encode(&self.template.prompt(&prompt)?, &self.tokenizer)?);
            let mut sequences: Vec<Vec<u32>> =
                completions.iter().map(|said| self.sequence(&prompt, said)).collect::<Result<_>>()?;
            for (sequence, _) in sequences.iter_mut().zip(cut).filter(|(_, cut)| **cut) {
                sequence.pop_if(|last| Some(*last) == sign);
            }
            // The last token of the prompt may be another one before an answer: the two are tokenized as one text.
            let shared = |sequence: &Vec<u32>| sequence.iter().zip(&start).take_while(|(a, b)| a == b).count();
            let shared = sequences.iter().map(shared).min().unwrap_or(0);
            ensure!(
                shared > 0 && sequences.iter().all(|sequence| sequence.len() > shared),
                "the chat template formats a prompt differently when an answer follows"
            );
            if sequences.iter().all(|sequence| sequence.len() <= self.context) {
                let cut = turns.len() < all.len();
                return Ok(Some(FittedGroup { sequences, prompt: shared, cut }));
            }
            match turns {
                [_, _, rest @ ..] if !rest.is_empty() => turns = rest,
                _ => return Ok(None),
            }
        }
    }

    /// The tokens of `prompt` and what was `said`, up to the sign that ends it.
    fn sequence(&self, prompt: &[Message], said: &[Message]) -> Result<Vec<u32>> {
        let mut tokens = encode(&self.template.segments(&[prompt, said].concat())?.segments, &self.tokenizer)?;
        let end =
            tokens.iter().rposition(|&(_, trained)| trained).context("the chat template leaves out the answer")?;
        tokens.truncate(end + 1);
        Ok(ids(tokens))
    }
}

fn ids(tokens: Vec<(u32, bool)>) -> Vec<u32> {
    tokens.into_iter().map(|(id, _)| id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn encoder(context: usize) -> GroupEncoder {
        let letters: BTreeSet<char> = ('a'..='z').chain([' ', '?', '.']).collect();
        let mut tokenizer = Tokenizer::of_characters(&letters).unwrap();
        tokenizer.add_special_tokens(&Template::special_tokens()).unwrap();
        GroupEncoder { tokenizer, template: Template::default_for_chat(), context }
    }

    fn user(text: &str) -> Message {
        Message::new(Role::User, text)
    }

    fn says(text: &str) -> Message {
        Message::new(Role::Assistant, text)
    }

    #[test]
    fn a_sequence_ends_with_the_sign_that_ends_an_answer() {
        let encoder = encoder(64);
        let fitted = encoder.group(&[user("who?")], &[vec![says("me")], vec![says("not me")]]).unwrap().unwrap();
        let end = encoder.template.end_token(&encoder.tokenizer).unwrap().unwrap();
        // <|user|> who? <|end|> <|assistant|>
        assert_eq!((fitted.prompt, fitted.cut), (7, false));
        for (sequence, n) in fitted.sequences.iter().zip([2, 6]) {
            assert_eq!((sequence.len(), sequence.last()), (7 + n + 1, Some(&end)));
        }
    }

    #[test]
    fn a_completion_that_was_cut_off_has_no_end() {
        let encoder = encoder(64);
        let completions = [vec![says("me")], vec![says("not m")]];
        let whole = encoder.group(&[user("who?")], &completions).unwrap().unwrap().sequences;
        let cut = encoder.group_cut(&[user("who?")], &completions, &[false, true]).unwrap().unwrap().sequences;
        assert_eq!((&cut[0], cut[1].as_slice()), (&whole[0], &whole[1][..whole[1].len() - 1]));
    }

    #[test]
    fn the_oldest_turns_go_when_the_window_is_too_small_and_the_last_never() {
        let prompt = [Message::new(Role::System, "be"), user("one?"), says("two"), user("six?")];
        let completions = [vec![says("ab")], vec![says("abc")]];
        let lengths = |context: usize| {
            let fitted = encoder(context).group(&prompt, &completions).unwrap();
            fitted.map(|fitted| (fitted.sequences[1].len(), fitted.cut))
        };
        let whole = lengths(64).unwrap().0;
        assert_eq!(lengths(whole), Some((whole, false)));
        // Without <|user|>one?<|end|><|assistant|>two<|end|>.
        assert_eq!(lengths(whole - 1), Some((whole - 11, true)));
        assert_eq!(lengths(whole - 11), Some((whole - 11, true)));
        assert_eq!(lengths(whole - 12), None);
    }

    #[test]
    fn a_template_that_forgets_the_prompt_is_refused() {
        let source = "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}?{% endif %}";
        let encoder = GroupEncoder { template: Template::new("odd", source.to_owned()).unwrap(), ..encoder(64) };
        assert!(encoder.group(&[user("who")], &[vec![says("me")]]).is_err());
    }

    proptest! {
        #[test]
        fn groups_come_back_from_their_numbers(
            stem in prop::collection::vec(0u32..9, 1..5),
            rests in prop::collection::vec(prop::collection::vec(0u32..4, 1..6), 1..9),
            known: bool,
        ) {
            let k = rests.len();
            let group = Group {
                sequences: rests.iter().map(|rest| [stem.as_slice(), rest].concat()).collect(),
                prompt: stem.len(),
                places: (1..=k as u32).collect(),
                gold: known.then(|| (0..k).map(|i| i as f32 * 0.7 - 1.0).collect()),
            };
            let numbers = group.numbers();
            prop_assert_eq!(Group::of(&numbers), Some(group.clone()));
            prop_assert!(group.shared() >= stem.len() && group.sequences.iter().all(|s| s.len() > group.shared()) || k == 1);
            prop_assert!(numbers.len() <= 4 + 3 * k + group.n_tokens());
            for cut in 0..numbers.len() {
                prop_assert_eq!(Group::of(&numbers[..cut]), None);
            }
        }
    }
}
