//! Demonstrations: drawn for each record from the training part, as many as fit (Brown et al. 2020, §2.4).

use crate::instance::{EvalTask, Instance, TargetAnswer};
use crate::records::RecordSource;
use anyhow::{Context, Result, ensure};
use gptkit_data::source::OnBadRecord;
use gptkit_data::split::Split;
use gptkit_data::tokenizer::Tokenizer;
use gptkit_model::likelihood::LikelihoodQuestion;
use gptkit_rng::Dice;
use std::ops::ControlFlow;

/// Most records that demonstrations are drawn from; of more, these are a sample.
const POOL: usize = 4096;
/// Of a file that is for training and measuring, every tenth record is for demonstrations.
pub const ONE_IN: u64 = 10;

/// Where demonstrations come from.
#[derive(Debug, Clone, PartialEq)]
pub enum DemonstrationSource {
    /// These records.
    Training(RecordSource),
    /// Every tenth record of those to measure with, which is then not measured.
    SetAside,
}

/// Whether record number `n` is for demonstrations where a file is [set aside](DemonstrationSource::SetAside) from.
pub fn is_set_aside(n: u64) -> bool {
    n % ONE_IN == ONE_IN - 1
}

/// What can be shown.
#[derive(Debug, Default)]
pub struct DemonstrationPool {
    shown: Vec<String>,
    seed: u64,
}

impl DemonstrationPool {
    /// Reads what `task` shows of `from`; `test` is what is measured with.
    ///
    /// # Errors
    /// When a record cannot be read, or there is none.
    pub fn read(
        task: &EvalTask,
        from: &DemonstrationSource,
        test: &RecordSource,
        seed: u64,
        on_bad: OnBadRecord,
    ) -> Result<Self> {
        let (mut shown, mut n, mut dice) = (Vec::new(), 0, Dice::for_evaluation(seed, "pool", 0));
        let mut take = |text: String| {
            n += 1;
            if shown.len() < POOL {
                shown.push(text);
            } else {
                let at = dice.below(n);
                if at < POOL {
                    shown[at] = text;
                }
            }
        };
        match from {
            DemonstrationSource::Training(source) => {
                source.read(Split::Train, on_bad, &mut |row| {
                    take(task.instance(&row)?.shown());
                    Ok(ControlFlow::Continue(()))
                })?;
            }
            DemonstrationSource::SetAside => {
                let mut number = 0;
                test.read(Split::HeldOut, on_bad, &mut |row| {
                    let n = number;
                    number += 1; // bad records have numbers too
                    let shown = task.instance(&row)?.shown();
                    if is_set_aside(n) {
                        take(shown);
                    }
                    Ok(ControlFlow::Continue(()))
                })?;
            }
        }
        ensure!(!shown.is_empty(), "{}: there are no records for few-shot examples", task.name);
        Ok(Self { shown, seed })
    }

    /// The few-shot examples before record number `n`; a smaller number of examples is a prefix of a larger one.
    fn draw(&self, n: u64, shots: usize) -> Vec<&str> {
        let mut dice = Dice::for_evaluation(self.seed, "demonstrations", n);
        let (mut order, mut drawn) = (Vec::<usize>::new(), Vec::new());
        while drawn.len() < shots.min(self.shown.len()) {
            let at = dice.below(self.shown.len());
            if !order.contains(&at) {
                order.push(at);
                drawn.push(self.shown[at].as_str());
            }
        }
        drawn
    }
}

/// A record as tokens for a model.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptTokens {
    /// All that the model reads before the answer.
    pub text: String,
    /// Demonstrations in it.
    pub shots: usize,
    /// Whether its beginning was left out, since it is longer than the window by itself.
    pub cut: bool,
    /// Tokens of the text that a model continues, with room for what it writes.
    pub context: Vec<u32>,
    /// The answers after their context: all in one question, or each by itself where the context is cut for it. Empty where the
    /// model is to write.
    pub questions: Vec<LikelihoodQuestion>,
}

impl PromptTokens {
    /// Tokens of each answer, in their order.
    pub fn answers(&self) -> impl Iterator<Item = &[u32]> {
        self.questions.iter().flat_map(|question| question.continuations.iter().map(Vec::as_slice))
    }
}

/// How records become tokens.
#[derive(Debug, Clone, Copy)]
pub struct Prompter<'a> {
    /// Of the model.
    pub tokenizer: &'a Tokenizer,
    /// What stands for an empty prompt: the token that begins a text, else the one that ends the text before.
    pub start: Option<u32>,
    /// Tokens of the model's window.
    pub context: usize,
    /// Tokens that are kept free for what the model writes.
    pub room: usize,
    /// Between instruction, demonstrations and question.
    pub separator: &'a str,
}

impl Prompter<'_> {
    /// `instance`, record number `n`, after as many of `shots` demonstrations as fit the window.
    ///
    /// # Errors
    /// When an answer has no tokens, or does not fit the window by itself.
    pub fn prompt(
        &self,
        instruction: &str,
        pool: &DemonstrationPool,
        shots: usize,
        n: u64,
        instance: &Instance,
    ) -> Result<PromptTokens> {
        let drawn = pool.draw(n, shots);
        let with = |k: usize| -> Result<(String, LikelihoodQuestion, usize)> {
            let parts = (!instruction.is_empty()).then_some(instruction);
            let parts: Vec<&str> = parts.into_iter().chain(drawn[..k].iter().copied()).collect();
            let mut text = parts.join(self.separator);
            if !parts.is_empty() {
                text += self.separator;
            }
            text += &instance.prompt;
            let question = self.question(&text, &instance.asked).with_context(|| instance.place.clone())?;
            let longest = question.continuations.iter().map(|tokens| tokens.len() - 1).max().unwrap_or(0);
            let length = question.context.len() + longest.max(self.room);
            Ok((text, question, length))
        };
        // The most that fit, by halving: more demonstrations are longer.
        let (mut fit, mut over) = (0, drawn.len() + 1);
        let mut best = None;
        let mut k = drawn.len();
        while fit + 1 < over {
            let tried = with(k)?;
            if tried.2 <= self.context {
                (fit, best) = (k, Some(tried));
            } else {
                over = k;
            }
            k = (fit + over) / 2;
        }
        let (text, question, length) = match best {
            Some(best) => best,
            None => with(0)?,
        };
        let cut = length > self.context;
        let (context, questions) = self.cut(question, &instance.place)?;
        Ok(PromptTokens { text, shots: fit, cut, context, questions })
    }

    /// Cuts the beginning of a context that is too long: for each answer so that the two fit the window, and for what a model
    /// writes so that there is room for it. The last token of an answer is not read. Returns the context for what is written,
    /// and the questions.
    ///
    /// # Errors
    /// When an answer does not fit the window by itself.
    pub(crate) fn cut(&self, question: LikelihoodQuestion, place: &str) -> Result<(Vec<u32>, Vec<LikelihoodQuestion>)> {
        let LikelihoodQuestion { context, continuations } = question;
        let last = |n_read: usize| -> Result<Vec<u32>> {
            let most = self.context.saturating_sub(n_read);
            ensure!(most > 0, "{place}: an answer is longer than the context of {} tokens", self.context);
            Ok(context[context.len().saturating_sub(most)..].to_vec())
        };
        let written = last(self.room)?;
        let longest = continuations.iter().map(Vec::len).max().unwrap_or(0);
        if continuations.is_empty() || context.len() + longest - 1 <= self.context {
            let all =
                (!continuations.is_empty()).then(|| LikelihoodQuestion { context: context.clone(), continuations });
            return Ok((written, all.into_iter().collect()));
        }
        let alone =
            |tokens: Vec<u32>| Ok(LikelihoodQuestion { context: last(tokens.len() - 1)?, continuations: vec![tokens] });
        let questions = continuations.into_iter().map(alone).collect::<Result<_>>()?;
        Ok((written, questions))
    }

    /// The answers of `asked` after `text` alone.
    ///
    /// # Errors
    /// As [`Prompter::prompt`].
    pub fn question(&self, text: &str, asked: &TargetAnswer) -> Result<LikelihoodQuestion> {
        let answers: Vec<&String> = match asked {
            TargetAnswer::Choice { answers, .. } => answers.iter().collect(),
            TargetAnswer::Word(answer) => vec![answer],
            TargetAnswer::Free { .. } => Vec::new(),
        };
        if answers.is_empty() {
            return Ok(LikelihoodQuestion { context: self.or_start(self.encode(text)?)?, continuations: vec![] });
        }
        // Spaces at the end belong to the word that follows: they are one token with it.
        let context = text.trim_end();
        let encode = |text: &str| match context {
            "" => self.tokenizer.encode(text),
            _ => self.encode(text),
        };
        let tokens = if context.is_empty() { Vec::new() } else { encode(context)? };
        let continuation = |answer: &&String| {
            let whole = encode(&format!("{text}{answer}"))?;
            let rest = whole.get(tokens.len()..).filter(|rest| !rest.is_empty());
            rest.map(<[u32]>::to_vec).with_context(|| format!("the answer {answer:?} adds no tokens to the prompt"))
        };
        let continuations = answers.iter().map(continuation).collect::<Result<_>>()?;
        Ok(LikelihoodQuestion { context: self.or_start(tokens)?, continuations })
    }

    /// Tokens of a prompt, with those that the tokenizer puts around a text unless it begins with the first of them.
    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let begins = self.start.and_then(|id| self.tokenizer.token_name(id));
        if begins.is_some_and(|name| text.starts_with(&name)) {
            return self.tokenizer.encode(text);
        }
        self.tokenizer.encode_prompt(text)
    }

    fn or_start(&self, tokens: Vec<u32>) -> Result<Vec<u32>> {
        if !tokens.is_empty() {
            return Ok(tokens);
        }
        let start = self.start.context("the prompt is empty, and the model has no end-of-text token to start with")?;
        Ok(vec![start])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn tokenizer() -> Tokenizer {
        Tokenizer::of_characters(&('a'..='z').chain(" \n:".chars()).collect()).unwrap()
    }

    fn instance(prompt: &str, answers: &[&str]) -> Instance {
        let answers = answers.iter().map(|&a| a.to_owned()).collect();
        Instance { place: "a line 1".into(), prompt: prompt.into(), asked: TargetAnswer::Choice { answers, right: 0 } }
    }

    fn pool(n: usize) -> DemonstrationPool {
        DemonstrationPool { shown: (0..n).map(|i| format!("{}: x", char::from(b'a' + i as u8))).collect(), seed: 7 }
    }

    #[test]
    fn demonstrations_are_distinct_nested_and_a_records_own() {
        let pool = pool(20);
        let all: BTreeSet<Vec<&str>> = (0..50).map(|n| pool.draw(n, 4)).collect();
        assert!(all.len() > 45, "each record draws for itself");
        for n in 0..50 {
            let many = pool.draw(n, 20);
            assert_eq!(many.iter().collect::<BTreeSet<_>>().len(), 20);
            assert_eq!(pool.draw(n, 4), many[..4]);
        }
        assert_eq!(pool.draw(3, 64).len(), 20, "no more than there are");
        let first: BTreeSet<&str> = (0..200).map(|n| pool.draw(n, 1)[0]).collect();
        assert_eq!(first.len(), 20, "all of them have their turn");
    }

    #[test]
    fn as_many_demonstrations_as_fit_stand_before_the_question() {
        let (tokenizer, pool) = (tokenizer(), pool(20));
        let at = |context| Prompter { tokenizer: &tokenizer, start: None, context, room: 0, separator: "\n\n" };
        let instance = instance("q:", &[" yes", " no"]);
        let wide = at(100).prompt("say", &pool, 3, 5, &instance).unwrap();
        let shown = pool.draw(5, 3).join("\n\n");
        assert_eq!((wide.text.as_str(), wide.shots, wide.cut), (&*format!("say\n\n{shown}\n\nq:"), 3, false));
        let said: Vec<String> = wide.answers().map(|tokens| tokenizer.decode(tokens).unwrap()).collect();
        assert_eq!(said, [" yes", " no"]);
        // 5 + 6 k + 2 of the prompt, and 3 of the longest answer that are read.
        assert_eq!(at(22).prompt("say", &pool, 3, 5, &instance).unwrap().shots, 2);
        assert_eq!(at(21).prompt("say", &pool, 3, 5, &instance).unwrap().shots, 1);
        assert_eq!(
            at(10).prompt("say", &pool, 3, 5, &instance).unwrap(),
            at(10).prompt("say", &pool, 0, 5, &instance).unwrap()
        );
        let cut = at(6).prompt("say", &pool, 3, 5, &instance).unwrap();
        assert_eq!((cut.shots, cut.cut), (0, true));
        // For each answer as much as fits with it, but for its last token.
        let contexts: Vec<String> =
            cut.questions.iter().map(|question| tokenizer.decode(&question.context).unwrap()).collect();
        assert_eq!(contexts, ["\nq:", "\n\nq:"]);
        assert!(at(3).prompt("", &pool, 0, 5, &instance).unwrap_err().to_string().contains("longer than the context"));
    }

    #[test]
    fn one_long_demonstration_does_not_keep_the_shorter_ones_out() {
        let tokenizer = tokenizer();
        let long = "l".repeat(200);
        let pool =
            DemonstrationPool { shown: [&*long, "a: x", "b: x", "c: x", "d: x"].map(str::to_owned).to_vec(), seed: 7 };
        let prompter = Prompter { tokenizer: &tokenizer, start: None, context: 60, room: 0, separator: "\n" };
        let instance = instance("q:", &[" yes"]);
        let mut seen = BTreeSet::new();
        for n in 0..40 {
            let before = pool.draw(n, 5).iter().position(|shown| *shown == long).unwrap();
            assert_eq!(prompter.prompt("", &pool, 5, n, &instance).unwrap().shots, before, "all that come before it");
            seen.insert(before);
        }
        assert_eq!(seen.len(), 5);
    }

    #[test]
    fn room_is_kept_for_what_is_written() {
        let tokenizer = tokenizer();
        let at = |room| Prompter { tokenizer: &tokenizer, start: None, context: 30, room, separator: "\n" };
        let word = Instance { place: "a".into(), prompt: "p".repeat(29), asked: TargetAnswer::Word(" ab".into()) };
        let lengths = |room| {
            let prompted = at(room).prompt("", &DemonstrationPool::default(), 0, 0, &word).unwrap();
            (prompted.context.len(), prompted.questions[0].context.len())
        };
        assert_eq!(lengths(0), (29, 28));
        assert_eq!(lengths(6), (24, 28));
    }

    #[test]
    fn spaces_before_an_answer_are_the_answers() {
        let tokenizer = tokenizer();
        let prompter = Prompter { tokenizer: &tokenizer, start: Some(3), context: 30, room: 0, separator: "\n" };
        let question = prompter.question("a: ", &TargetAnswer::Word("b".into())).unwrap();
        assert_eq!(tokenizer.decode(&question.context).unwrap(), "a:");
        assert_eq!(tokenizer.decode(&question.continuations[0]).unwrap(), " b");
        assert_eq!(
            prompter.question(" ", &TargetAnswer::Word("b".into())).unwrap().context,
            [3],
            "nothing to begin with"
        );
    }
}
