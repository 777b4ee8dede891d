//! Prompts with several answers, ranked by a labeler: what a reward model learns from. The answers imitate what models of
//! differing skill write, and no model is needed.

use std::ops::Range;
use std::sync::LazyLock;

use serde::{Serialize, Serializer};

use super::instructions::{Instruction, Instructions, NOT_TOLD};
use super::labelers::Labeler;
use super::manners::Courtesy;
use super::part::WorldPart;
use super::passage;
use super::state::Feeling;
use super::story::World;
use super::words;
use gptkit_rng::{CorpusDraw, Dice};

/// How often something else is tried when an answer cannot be made, or is there already.
const TRIES: usize = 12;

/// Any number of comparisons, from a seed.
#[derive(Debug, Clone)]
pub struct Comparisons {
    seed: u64,
    purpose: CorpusDraw,
    instructions: Instructions,
    world: World,
    labeler: Labeler,
}

/// A prompt and its answers. As JSON: `prompt`, `completions`, `ranking`, `gold`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RankedAnswers {
    /// What is asked.
    #[serde(rename = "prompt", serialize_with = "prompt")]
    pub instruction: Instruction,
    /// 4 to 9 answers (Ouyang et al. 2022, §3.5), no two the same, in no order.
    pub completions: Vec<String>,
    /// The place of each by a labeler: 1 is the best, and places have no gaps.
    pub ranking: Vec<u32>,
    /// What each is truly worth: [`Instruction::gold`].
    pub gold: Vec<f64>,
}

fn prompt<S: Serializer>(instruction: &Instruction, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&instruction.prompt)
}

impl RankedAnswers {
    /// How well gold itself foretells the ranking: no reward model can be expected to do better.
    #[must_use]
    pub fn ceiling(&self) -> Concordance {
        concordance(&self.gold, &self.ranking)
    }
}

/// Pairs of answers, and how many of them scores and places put in the same order.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Concordance {
    /// Pairs of which one has a better place than the other.
    pub pairs: usize,
    /// Those whose better one has the higher score; equal scores count half.
    pub agreed: f64,
}

/// Of scores (higher is better) with places (1 is the best).
///
/// # Panics
/// When the lengths differ: both are of the same answers.
#[must_use]
pub fn concordance(scores: &[f64], ranking: &[u32]) -> Concordance {
    assert_eq!(scores.len(), ranking.len(), "one score a place");
    let mut all = Concordance::default();
    for (better, place) in ranking.iter().enumerate() {
        for worse in (0..ranking.len()).filter(|&other| ranking[other] > *place) {
            all.pairs += 1;
            all.agreed += match scores[better].partial_cmp(&scores[worse]) {
                Some(std::cmp::Ordering::Greater) => 1.0,
                Some(std::cmp::Ordering::Equal) => 0.5,
                _ => 0.0,
            };
        }
    }
    all
}

/// What an answer is like. The first two differ in nothing but what they say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Skill {
    Right,
    /// Something in it is taken for something else.
    NearMiss,
    /// That the story does not tell it.
    Denial,
    CutOff,
    /// Says it, or its courtesy, again.
    Repeats,
    OffTopic,
}

impl Skill {
    /// Shares as of several policies together: the small model that instructions were learned by is right in six of seven
    /// answers at temperature 1, and a model before that in none.
    fn draw(dice: &mut Dice) -> Self {
        match dice.below(100) {
            0..62 => Skill::Right,
            62..74 => Skill::NearMiss,
            74..81 => Skill::Denial,
            81..88 => Skill::CutOff,
            88..94 => Skill::Repeats,
            _ => Skill::OffTopic,
        }
    }
}

impl Comparisons {
    /// The comparisons of this seed for this part.
    #[must_use]
    pub fn new(seed: u64, part: WorldPart) -> Self {
        let purpose = match part {
            WorldPart::Train => CorpusDraw::Comparisons,
            WorldPart::HeldOut => CorpusDraw::HeldOutComparisons,
        };
        let (instructions, world) = (Instructions::new(seed, part), World::new(seed));
        Self { seed, purpose, instructions, world, labeler: Labeler::new(seed) }
    }

    /// Comparison number `index`, of the [instruction](Instructions::instruction) of the same number, seed and part: a
    /// pure function of these.
    #[must_use]
    pub fn comparison(&self, index: u64) -> RankedAnswers {
        let instruction = self.instructions.instruction(index);
        let mut dice = Dice::for_corpus(self.seed, self.purpose, index);
        let n = 4 + dice.below(6);
        // No two of the same manner: else of right answers, which are all the same but for it, fewer would be plain than
        // of wrong ones, and manners would tell one from the other.
        let mut manners: Vec<Courtesy> = Vec::with_capacity(n);
        let mut completions: Vec<String> = Vec::with_capacity(n);
        while completions.len() < n {
            let manner = Courtesy::draw(&mut dice);
            if !manners.contains(&manner) {
                completions.push(self.completion(&instruction, manner, &completions, &mut dice));
                manners.push(manner);
            }
        }
        let texts: Vec<&str> = completions.iter().map(String::as_str).collect();
        let ranking = self.labeler.rank(&instruction, index, &texts);
        let gold = texts.iter().map(|text| instruction.gold(text)).collect();
        RankedAnswers { instruction, completions, ranking, gold }
    }

    /// One more answer that is not among `others`.
    fn completion(&self, instruction: &Instruction, manner: Courtesy, others: &[String], dice: &mut Dice) -> String {
        for _ in 0..TRIES {
            let text = match Skill::draw(dice) {
                Skill::Right => Some(manner.around(instruction.substance())),
                Skill::NearMiss => self.near_miss(instruction, dice).map(|wrong| manner.around(&wrong)),
                Skill::Denial => Some(manner.around(NOT_TOLD)),
                Skill::CutOff => cut_off(&self.right_or_near_miss(instruction, dice), dice)
                    .map(|part| Courtesy { closer: None, ..manner }.around(part)),
                Skill::Repeats => Some(repeats(&self.right_or_near_miss(instruction, dice), manner, dice)),
                Skill::OffTopic => self.off_topic(dice).map(|sentence| manner.around(&sentence)),
            };
            if let Some(text) = text.filter(|text| !others.contains(text)) {
                return text;
            }
        }
        manner.around(instruction.substance())
    }

    /// The substance of an answer that is not right, and looks as if it were.
    fn near_miss(&self, instruction: &Instruction, dice: &mut Dice) -> Option<String> {
        for _ in 0..TRIES {
            let wrong = if dice.chance(25) {
                let other = self.instructions.of_kind(instruction.kind, dice.fork());
                Some(other.substance().to_string())
            } else {
                mistaken(instruction.substance(), &instruction.prompt, dice)
            };
            if let Some(wrong) = wrong.filter(|wrong| !instruction.grade(wrong)) {
                return Some(wrong);
            }
        }
        None
    }

    /// As often right as answers that have no other fault.
    fn right_or_near_miss(&self, instruction: &Instruction, dice: &mut Dice) -> String {
        let wrong = if dice.chance(16) { self.near_miss(instruction, dice) } else { None };
        wrong.unwrap_or_else(|| instruction.substance().to_string())
    }

    /// A sentence of a story, of 4 to 12 words.
    fn off_topic(&self, dice: &mut Dice) -> Option<String> {
        let story = self.world.story(dice.below(1_000_000) as u64);
        let sentences = story.text.split('\n').flat_map(|paragraph| paragraph.split_inclusive(". ")).map(str::trim);
        let fits = |text: &&str| {
            (4..=12).contains(&text.split(' ').count()) && text.ends_with('.') && !text.contains(['"', '!', '?'])
        };
        let sentences: Vec<&str> = sentences.filter(fits).collect();
        (!sentences.is_empty()).then(|| dice.pick(&sentences).to_string())
    }
}

/// The first words, without an end.
fn cut_off<'t>(text: &'t str, dice: &mut Dice) -> Option<&'t str> {
    let ends: Vec<usize> = text.match_indices(' ').map(|(end, _)| end).collect();
    (!ends.is_empty()).then(|| text[..dice.pick(&ends)].trim_end_matches(','))
}

/// The answer two or three times, or courtesy two to four times.
fn repeats(substance: &str, manner: Courtesy, dice: &mut Dice) -> String {
    let plain = manner.opener.is_none() && manner.closer.is_none();
    if plain || dice.chance(50) {
        let again = 2 + dice.below(2);
        return manner.around(&vec![substance; again].join(" "));
    }
    let mut times = || 2 + dice.below(3);
    let (openers, closers) = (times(), times());
    manner.repeated_around(openers, substance, closers)
}

/// Words and phrases that can be taken for each other, in groups.
static ALIKE: LazyLock<Vec<Vec<String>>> = LazyLock::new(|| {
    let group = |words: &[&str]| words.iter().map(|word| (*word).to_string()).collect::<Vec<_>>();
    let sites: Vec<&str> = words::SITES.iter().map(|site| site.name).collect();
    let spots: Vec<&str> = words::SITES.iter().flat_map(|site| site.spots).collect();
    vec![
        group(words::SHE),
        group(words::HE),
        (0..=10).map(|n| n.to_string()).collect(),
        group(&sites),
        group(&spots),
        group(&passage::nouns()),
        group(words::COLORS),
        group(words::LIKES),
        group(&Feeling::ALL.map(Feeling::word)),
        group(&words::NUMBERS[2..10]),
        passage::reasons(None, true),
        passage::reasons(None, false),
    ]
});

/// In [`ALIKE`], groups before this are people.
const PEOPLE: usize = 2;
/// The group of numbers in digits.
const DIGITS: usize = 2;

/// Where a word or phrase of [`ALIKE`] stands, and the number of its group; the longest where several begin.
fn alike(text: &str) -> Vec<(Range<usize>, usize)> {
    let part_of_word = |c: char| c.is_alphanumeric();
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(rest) = text.get(from..).filter(|rest| !rest.is_empty()) {
        let here =
            |item: &&String| rest.strip_prefix(item.as_str()).is_some_and(|after| !after.starts_with(part_of_word));
        let best = ALIKE
            .iter()
            .enumerate()
            .filter_map(|(group, items)| Some((items.iter().filter(here).map(String::len).max()?, group)))
            .max();
        let next = match best {
            Some((length, group)) => {
                found.push((from..from + length, group));
                from + length
            }
            None => from,
        };
        // On to the next word.
        let Some(skip) = text[next..].find(|c: char| !part_of_word(c)) else { break };
        let Some(word) = text[next + skip..].find(part_of_word) else { break };
        from = next + skip + word;
    }
    found
}

/// The answer with something in it taken for something else, more often than not for something in the prompt.
fn mistaken(answer: &str, prompt: &str, dice: &mut Dice) -> Option<String> {
    let in_answer = alike(answer);
    if in_answer.is_empty() {
        return None;
    }
    // What is asked for is mostly said last.
    let last = in_answer.len() - 1;
    let (span, group) = in_answer[if dice.chance(50) { last } else { dice.below(last + 1) }].clone();
    // One person for any other, unless a pronoun would tell.
    let people = |group: usize| group < PEOPLE && !answer.contains(" he ") && !answer.contains(" she ");
    // Nothing is named twice but numbers.
    let named = |new: &str| group != DIGITS && in_answer.iter().any(|(span, _)| answer[span.clone()] == *new);
    let from_prompt: Vec<&str> = alike(prompt)
        .into_iter()
        .filter(|(_, other)| *other == group || people(*other) && people(group))
        .map(|(span, _)| &prompt[span])
        .filter(|new| !named(new))
        .collect();
    let new = if !from_prompt.is_empty() && dice.chance(60) {
        dice.pick(&from_prompt)
    } else {
        ALIKE[group][dice.below(ALIKE[group].len())].as_str()
    };
    if named(new) {
        return None;
    }
    Some(with_articles(&format!("{}{new}{}", &answer[..span.start], &answer[span.end..])))
}

/// With a or an as the next word asks.
fn with_articles(text: &str) -> String {
    let words: Vec<&str> = text.split(' ').collect();
    let fitting = |(i, word): (usize, &&str)| match (*word, words.get(i + 1)) {
        ("a" | "an", Some(next)) if next.starts_with(['a', 'e', 'i', 'o', 'u']) => "an".to_string(),
        ("a" | "an", Some(_)) => "a".to_string(),
        _ => (*word).to_string(),
    };
    words.iter().enumerate().map(fitting).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::sync::OnceLock;

    fn some(part: WorldPart) -> &'static [RankedAnswers] {
        static ALL: [OnceLock<Vec<RankedAnswers>>; 2] = [OnceLock::new(), OnceLock::new()];
        ALL[usize::from(part == WorldPart::HeldOut)].get_or_init(|| {
            let comparisons = Comparisons::new(5, part);
            (0..3000).map(|index| comparisons.comparison(index)).collect()
        })
    }

    /// Of all completions: the comparison, and each.
    fn completions() -> impl Iterator<Item = (&'static RankedAnswers, &'static str)> {
        some(WorldPart::Train).iter().flat_map(|one| one.completions.iter().map(move |text| (one, text.as_str())))
    }

    /// Of all pairs with unlike gold: how often the one with the higher score is the better.
    fn accuracy(score: impl Fn(&str) -> f64) -> f64 {
        let (mut pairs, mut agreed) = (0, 0.0);
        for RankedAnswers { completions, gold, .. } in some(WorldPart::Train) {
            let scores: Vec<f64> = completions.iter().map(|text| score(text)).collect();
            let mut places = vec![1; gold.len()];
            for (place, one) in places.iter_mut().zip(gold) {
                *place += gold.iter().filter(|other| *other > one).count() as u32;
            }
            let all = concordance(&scores, &places);
            pairs += all.pairs;
            agreed += all.agreed;
        }
        agreed / pairs as f64
    }

    fn n_words(text: &str) -> f64 {
        text.split(' ').count() as f64
    }

    #[test]
    fn a_comparison_is_a_function_of_seed_part_and_index() {
        let (one, again) = (Comparisons::new(5, WorldPart::Train), Comparisons::new(5, WorldPart::Train));
        let (other, held_out) = (Comparisons::new(6, WorldPart::Train), Comparisons::new(5, WorldPart::HeldOut));
        for index in (0..40).rev() {
            let comparison = one.comparison(index);
            assert_eq!(comparison, again.comparison(index));
            assert_eq!(comparison.instruction, Instructions::new(5, WorldPart::Train).instruction(index));
            assert_ne!(comparison.completions, other.comparison(index).completions);
            assert_ne!(comparison.completions, held_out.comparison(index).completions);
        }
    }

    #[test]
    fn a_comparison_has_4_to_9_answers_each_once_with_a_place_and_a_worth() {
        let mut sizes = [0_usize; 10];
        for RankedAnswers { instruction, completions, ranking, gold } in
            some(WorldPart::Train).iter().chain(some(WorldPart::HeldOut))
        {
            let n = completions.len();
            sizes[n] += 1;
            assert_eq!((ranking.len(), gold.len()), (n, n));
            assert_eq!(completions.iter().collect::<BTreeSet<_>>().len(), n, "{completions:?}");
            assert_eq!(ranking.iter().copied().collect::<BTreeSet<_>>(), (1..=n as u32).collect());
            let longest = completions.iter().map(String::len).max().unwrap_or(0);
            assert!(instruction.prompt.len() + longest <= 400, "{completions:?}"); // fits a window of 128 tokens
            assert!(completions.iter().zip(gold).all(|(text, gold)| instruction.gold(text) == *gold));
        }
        assert_eq!(sizes[..4], [0; 4]);
        assert!(sizes[4..].iter().all(|n| (850..=1150).contains(n)), "{sizes:?}"); // of 6000, 5 standard errors
    }

    #[test]
    fn held_out_prompts_are_in_no_comparison_to_learn_from() {
        let prompts = |all: &'static [RankedAnswers]| all.iter().map(|one| one.instruction.prompt.as_str());
        let train: BTreeSet<&str> = prompts(some(WorldPart::Train)).collect();
        assert!(prompts(some(WorldPart::HeldOut)).all(|prompt| !train.contains(prompt)));
    }

    #[test]
    fn near_misses_are_wrong_and_as_long_as_what_is_right() {
        let comparisons = Comparisons::new(5, WorldPart::Train);
        let mut dice = Dice::for_story(5, 0);
        let (mut made, mut right_words, mut wrong_words) = (0, 0.0, 0.0);
        for RankedAnswers { instruction, .. } in some(WorldPart::Train) {
            let Some(wrong) = comparisons.near_miss(instruction, &mut dice) else { continue };
            assert!(!instruction.grade(&wrong), "{wrong}: {instruction:?}");
            assert!(wrong.ends_with('.') && !wrong.contains(" a a ") && !wrong.contains("  "), "{wrong}");
            made += 1;
            right_words += n_words(instruction.substance());
            wrong_words += n_words(&wrong);
        }
        assert!(made > 2980, "{made}");
        assert!((0.95..=1.05).contains(&(wrong_words / right_words)), "{right_words} words, {wrong_words}");
    }

    #[test]
    fn something_is_taken_for_something_of_its_kind() {
        let mut dice = Dice::for_story(5, 0);
        let mut seen = BTreeSet::new();
        let prompt = "Mia found an orange kite. Tom was sad.";
        for _ in 0..400 {
            seen.extend(mistaken("Mia found an orange kite.", prompt, &mut dice));
        }
        for wrong in ["Tom found an orange kite.", "Mia found a red kite.", "Mia found an orange umbrella."] {
            assert!(seen.contains(wrong), "{wrong}: {seen:?}");
        }
        assert!(seen.iter().all(|wrong| wrong.contains(" found a") && n_words(wrong) <= 6.0), "{seen:?}");
        assert_eq!(mistaken("Nobody was there.", "", &mut dice), None);
    }

    #[test]
    fn most_answers_are_right() {
        let all = completions().count();
        let right = completions().filter(|(one, text)| one.instruction.grade(text)).count();
        let share = right as f64 / all as f64;
        assert!((0.60..=0.72).contains(&share), "{share}");
    }

    #[test]
    fn manners_do_not_tell_what_is_right() {
        let mut right = [(0, 0); 2]; // without and with an opener: right ones of all
        let mut whole = [(0, 0); 2]; // the same with a closer
        for (one, text) in completions() {
            let manners = super::super::Manners::of(text);
            let is_right = usize::from(one.instruction.grade(text));
            for (table, has) in [(&mut right, manners.openers > 0), (&mut whole, manners.closers > 0)] {
                table[usize::from(has)].0 += is_right;
                table[usize::from(has)].1 += 1;
            }
        }
        let share = |(right, all): (usize, usize)| f64::from(right as u32) / f64::from(all as u32);
        assert!((share(right[0]) - share(right[1])).abs() < 0.03, "{right:?}");
        // What is cut off has no closer.
        assert!((share(whole[0]) - share(whole[1])).abs() < 0.10, "{whole:?}");
    }

    #[test]
    fn length_does_not_tell_what_is_better() {
        let mean = |right: bool| {
            let lengths: Vec<f64> = completions()
                .filter(|(one, text)| one.instruction.grade(text) == right)
                .map(|(_, text)| n_words(text))
                .collect();
            lengths.iter().sum::<f64>() / lengths.len() as f64
        };
        let (right, wrong) = (mean(true), mean(false));
        let longer_wins = accuracy(n_words);
        assert!((0.85..=1.15).contains(&(wrong / right)), "{right}, {wrong}");
        assert!((0.45..=0.65).contains(&longer_wins), "{longer_wins}");
    }

    /// If two labelers agree on 72.6% and each follows gold with probability p, p² + (1 - p)² is 0.726 on average: a mean
    /// p of 83.6% if it is the same for all pairs, and less if some are clearer than others: two right answers differ in
    /// little but courtesy.
    #[test]
    fn gold_foretells_three_of_four_of_a_labelers_choices() {
        let mut all = Concordance::default();
        for comparison in some(WorldPart::HeldOut) {
            let one = comparison.ceiling();
            all.pairs += one.pairs;
            all.agreed += one.agreed;
        }
        let ceiling = all.agreed / all.pairs as f64;
        assert!((0.74..=0.79).contains(&ceiling), "{ceiling}");
    }

    #[test]
    fn concordance_counts_pairs_in_order_and_equal_scores_half() {
        for (scores, ranking, pairs, agreed) in [
            ([3.0, 2.0, 1.0], [1, 2, 3], 3, 3.0),
            ([1.0, 2.0, 3.0], [1, 2, 3], 3, 0.0),
            ([1.0, 1.0, 0.0], [2, 1, 3], 3, 2.5),
            ([1.0, 2.0, 3.0], [1, 1, 1], 0, 0.0), // ties are no pairs
            ([5.0, 4.0, 9.0], [1, 1, 2], 2, 0.0),
            ([f64::NAN, 4.0, 3.0], [1, 2, 3], 3, 1.0),
        ] {
            assert_eq!(concordance(&scores, &ranking), Concordance { pairs, agreed }, "{scores:?} {ranking:?}");
        }
    }

    #[test]
    fn a_comparison_as_json_has_what_a_reward_model_reads() {
        let comparison = &some(WorldPart::Train)[0];
        let json: serde_json::Value = serde_json::to_value(comparison).unwrap();
        assert_eq!(json["prompt"], comparison.instruction.prompt);
        assert_eq!(json["completions"][0], comparison.completions[0]);
        assert_eq!(json["ranking"][0], comparison.ranking[0]);
        let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["prompt", "completions", "ranking", "gold"]);
    }
}
