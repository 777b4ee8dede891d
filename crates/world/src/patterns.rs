//! Text that shows a pattern by examples and goes on with it, and records of the same patterns to measure with. Asked
//! without examples, nobody can know which pattern is meant; examples in the context tell (Brown et al. 2020, §2).

use super::part::WorldPart;
use super::rule::{PatternKind, PatternRecord, Rule};
use super::tasks::{LabeledRecord, LabeledRecords, LabeledTask};
use gptkit_rng::{CorpusDraw, Dice};

/// Any number of documents, from a seed: a third show a pattern of lists, a third one of words, a third show
/// [`LabeledTask::Classification`].
#[derive(Debug, Clone)]
pub struct Patterns {
    seed: u64,
    tasks: LabeledRecords,
}

impl Patterns {
    /// The documents of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, tasks: LabeledRecords::new(LabeledTask::Classification, seed, WorldPart::Train) }
    }

    /// Document number `index`: a pure function of the seed and the number. Six to fourteen lines as [`PatternRecord`]
    /// prints them, of one pattern and one table, or two to four texts with their labels; no newline at the end.
    #[must_use]
    pub fn document(&self, index: u64) -> String {
        let mut dice = Dice::for_corpus(self.seed, CorpusDraw::PatternDocuments, index);
        let shown: Vec<String> = match dice.below(3) {
            0 => (0..2 + dice.below(3)).map(|_| self.feeling(&mut dice)).collect(),
            kind => {
                let patterns: Vec<PatternKind> =
                    PatternKind::ALL.into_iter().filter(|pattern| pattern.reads_lists() == (kind == 1)).collect();
                let rule = Rule::draw(dice.pick(&patterns), WorldPart::Train, &mut dice);
                (0..6 + dice.below(9)).map(|_| rule.record(WorldPart::Train, &mut dice).to_string()).collect()
            }
        };
        shown.join("\n")
    }

    /// A text of the task, one without an introduction, above its label.
    fn feeling(&self, dice: &mut Dice) -> String {
        const LONGEST: usize = 90; // characters; of four such texts a window of 256 tokens holds all
        loop {
            let index = dice.below(1 << 24) as u64;
            if let LabeledRecord::Classification { text, label } = self.tasks.record(index)
                && text.len() <= LONGEST
            {
                return format!("Text: {text}\nFeeling: {label}");
            }
        }
    }
}

/// Any number of records of a pattern, from a seed. Those of one pattern and seed have one table, whatever their part: one
/// of the tables that are held out, which no document of any seed has.
///
/// The held-out part of lists is about combinations of three words that no record of the train part and no document has in
/// any order; that of [`PatternKind::Category`] and [`PatternKind::Labels`] about words that stand alone in none of them, three
/// of each category. The two parts of [`PatternKind::Lookup`] have the same keys: what stands for a key can only be known from
/// having seen it, so that to know it in new lines is all there is to measure, and what is new is the table.
#[derive(Debug, Clone)]
pub struct PatternRecords {
    rule: Rule,
    seed: u64,
    part: WorldPart,
}

impl PatternRecords {
    /// The records of this seed for this part.
    #[must_use]
    pub fn new(pattern: PatternKind, seed: u64, part: WorldPart) -> Self {
        let mut dice = Dice::for_corpus(seed, CorpusDraw::PatternTable, pattern as u64);
        Self { rule: Rule::draw(pattern, WorldPart::HeldOut, &mut dice), seed, part }
    }

    /// Record number `index`: a pure function of pattern, seed, part and number. Its input is the same for all patterns
    /// of lists, and for [`PatternKind::Category`] and [`PatternKind::Labels`].
    #[must_use]
    pub fn record(&self, index: u64) -> PatternRecord {
        let purpose = match self.part {
            WorldPart::Train => CorpusDraw::PatternRecords,
            WorldPart::HeldOut => CorpusDraw::HeldOutPatternRecords,
        };
        self.rule.record(self.part, &mut Dice::for_corpus(self.seed, purpose, index))
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::World;
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    /// Documents of several seeds.
    fn documents() -> Vec<String> {
        let of_seed = |seed| (0..700).map(move |index| Patterns::new(seed).document(index));
        [1, 2, 9, u64::MAX].into_iter().flat_map(of_seed).collect()
    }

    /// Inputs and outputs of a document of lines; none of one of the task.
    fn lines(document: &str) -> Vec<(Vec<&str>, Vec<&str>)> {
        fn parse(line: &str) -> Option<(Vec<&str>, Vec<&str>)> {
            let (input, output) = line.strip_prefix("- ")?.split_once(" -> ")?;
            Some((input.split(' ').collect(), output.split(' ').collect()))
        }
        let parsed: Vec<_> = document.lines().filter_map(parse).collect();
        assert!(parsed.is_empty() || parsed.len() == document.lines().count(), "{document}");
        parsed
    }

    /// What a word is, said here again in other words.
    fn what(word: &str) -> &'static str {
        match word {
            "red" | "blue" | "green" | "yellow" | "white" | "brown" | "purple" | "orange" | "black" | "golden"
            | "silver" | "pink" => "color",
            "rabbit" | "fox" | "bear" | "mouse" | "hedgehog" | "squirrel" | "badger" | "otter" | "duck" | "goat"
            | "turtle" | "cat" => "animal",
            _ => "thing",
        }
    }

    /// The patterns that explain all lines.
    fn explanations(lines: &[(Vec<&str>, Vec<&str>)]) -> Vec<PatternKind> {
        let is_function = |key: fn(&str) -> String, n: usize| {
            let mut table = BTreeMap::new();
            lines.iter().all(|(input, output)| *table.entry(key(input[0])).or_insert(output) == output)
                && table.len() <= n
        };
        let explains = |pattern: &PatternKind| {
            let each = |rule: fn(&[&str], &[&str]) -> bool| lines.iter().all(|(input, output)| rule(input, output));
            let is_list = lines[0].0.len() == 3;
            match pattern {
                PatternKind::FirstWord => is_list && each(|input, output| *output == input[..1]),
                PatternKind::MiddleWord => is_list && each(|input, output| *output == input[1..2]),
                PatternKind::LastWord => is_list && each(|input, output| *output == input[2..]),
                PatternKind::Reversed => is_list && each(|input, output| output.iter().rev().eq(input)),
                PatternKind::Rotated => {
                    is_list && each(|input, output| output.concat() == input[1..].concat() + input[0])
                }
                PatternKind::Color => is_list && each(|_, output| output.len() == 1 && what(output[0]) == "color"),
                PatternKind::Animal => is_list && each(|_, output| output.len() == 1 && what(output[0]) == "animal"),
                PatternKind::Thing => is_list && each(|_, output| output.len() == 1 && what(output[0]) == "thing"),
                PatternKind::Category => !is_list && each(|input, output| *output == [what(input[0])]),
                PatternKind::Labels => !is_list && is_function(|word| what(word).to_owned(), 3),
                PatternKind::Lookup => !is_list && is_function(str::to_owned, 4),
            }
        };
        PatternKind::ALL.into_iter().filter(explains).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_document_is_a_function_of_seed_and_index(seed: u64, index: u64) {
            let document = |seed, index| Patterns::new(seed).document(index);
            prop_assert_eq!(document(seed, index), document(seed, index));
            prop_assert_ne!(document(seed, index), document(seed, index.wrapping_add(1)));
            prop_assert_ne!(document(seed, index), document(seed.wrapping_add(1), index));
        }
    }

    /// Changes whenever the generator does: corpora made before are then no longer reproduced. Change it knowingly.
    #[test]
    fn the_first_documents_are_what_they_were() {
        let begins = |index| Patterns::new(1).document(index).lines().next().unwrap().to_owned();
        let text = "Text: Freya and Oscar found a yellow scarf. Soon Freya lost it again.";
        assert_eq!([0, 3, 4].map(begins), [text, "- brown -> color", "- yellow marble mouse -> mouse"]);
    }

    #[test]
    fn lines_of_a_document_have_one_explanation_and_all_patterns_occur() {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        let mut ambiguous = 0;
        let documents = documents();
        for document in &documents {
            let lines = lines(document);
            if lines.is_empty() {
                *counts.entry("task".to_owned()).or_insert(0) += 1;
                continue;
            }
            assert!((6..=14).contains(&lines.len()), "{document}");
            let mut explanations = explanations(&lines);
            assert!(!explanations.is_empty(), "{document}");
            // What a word is follows from the word: the known labels are labels, too.
            if explanations[0] == PatternKind::Category {
                explanations.retain(|pattern| *pattern == PatternKind::Category);
            }
            ambiguous += usize::from(explanations.len() > 1);
            *counts.entry(explanations[0].to_string()).or_insert(0) += 1;
        }
        assert!(ambiguous * 50 < documents.len(), "{ambiguous} of {}", documents.len());
        assert_eq!(counts.len(), PatternKind::ALL.len() + 1, "{counts:?}");
        for (name, n) in counts {
            let share = match name.parse::<PatternKind>() {
                Err(_) => 3,
                Ok(pattern) if pattern.reads_lists() => 3 * 8,
                Ok(_) => 3 * 3,
            };
            let fair = documents.len() / share;
            assert!(n.abs_diff(fair) < fair / 3, "{name}: {n}, not {fair}");
        }
    }

    #[test]
    fn the_same_records_are_asked_whatever_the_pattern() {
        let inputs = |pattern, part| {
            let records = PatternRecords::new(pattern, 3, part);
            (0..200).map(|index| records.record(index).input).collect::<Vec<_>>()
        };
        for part in [WorldPart::Train, WorldPart::HeldOut] {
            let lists = inputs(PatternKind::FirstWord, part);
            assert!(lists.iter().collect::<BTreeSet<_>>().len() > 100);
            for pattern in PatternKind::ALL.into_iter().filter(|pattern| pattern.reads_lists()) {
                assert_eq!(inputs(pattern, part), lists, "{pattern}");
            }
            assert_eq!(inputs(PatternKind::Labels, part), inputs(PatternKind::Category, part));
        }
    }

    #[test]
    fn a_color_an_animal_and_a_thing_stand_in_every_order() {
        let mut orders = BTreeMap::new();
        let records = PatternRecords::new(PatternKind::Reversed, 3, WorldPart::HeldOut);
        for index in 0..1200 {
            let input = records.record(index).input;
            *orders.entry(input.split(' ').map(what).collect::<Vec<_>>()).or_insert(0) += 1;
        }
        assert_eq!(orders.len(), 6, "{orders:?}");
        assert!(orders.values().all(|n| (150..250).contains(n)), "{orders:?}");
    }

    /// Words of an input in one order, or the word alone.
    fn combination(input: &[&str]) -> String {
        let mut input = input.to_vec();
        input.sort_unstable();
        input.join(" ")
    }

    #[test]
    fn what_is_held_out_is_in_no_document_of_any_seed() {
        let documents = documents();
        let shown: BTreeSet<String> =
            documents.iter().flat_map(|document| lines(document)).map(|(input, _)| combination(&input)).collect();
        let mut also_in_train = 0;
        for pattern in [PatternKind::Rotated, PatternKind::Labels] {
            let of = |part, seed| {
                let records = PatternRecords::new(pattern, seed, part);
                (0..500).map(move |index| combination(&records.record(index).input.split(' ').collect::<Vec<_>>()))
            };
            for seed in [1, 5] {
                assert!(of(WorldPart::HeldOut, seed).all(|held_out| !shown.contains(&held_out)), "{pattern}");
                also_in_train += of(WorldPart::Train, seed).filter(|train| shown.contains(train)).count();
            }
        }
        assert!(also_in_train > 1500, "documents have what records to learn from have: {also_in_train}");
    }

    #[test]
    fn tables_differ_and_those_of_records_are_in_no_document() {
        for (pattern, n) in [(PatternKind::Labels, 3), (PatternKind::Lookup, 4)] {
            let table = |lines: &[(String, String)]| lines.iter().cloned().collect::<BTreeSet<_>>();
            let mut shown = BTreeSet::new();
            let mut many = 0;
            for document in documents() {
                let lines = lines(&document);
                if lines.is_empty() || explanations(&lines)[0] != pattern {
                    continue;
                }
                let key = |word: &str| if n == 3 { what(word).to_owned() } else { word.to_owned() };
                let rows: Vec<_> = lines.iter().map(|(i, o)| (key(i[0]), o[0].to_owned())).collect();
                if table(&rows).len() == n {
                    shown.insert(table(&rows));
                    many += 1;
                }
            }
            assert!(many > 50 && shown.len() * 10 > many * 9, "{pattern}: {} of {many}", shown.len());
            for seed in 0..40 {
                let of = |part| {
                    let records = PatternRecords::new(pattern, seed, part);
                    let row = |index| {
                        let record = records.record(index);
                        let key = if n == 3 { what(&record.input).to_owned() } else { record.input };
                        (key, record.output)
                    };
                    (0..200).map(row).collect::<BTreeSet<_>>()
                };
                assert_eq!(of(WorldPart::Train).len(), n, "{pattern}");
                assert_eq!(of(WorldPart::Train), of(WorldPart::HeldOut), "{pattern}");
                assert!(!shown.contains(&of(WorldPart::Train)), "{pattern}");
            }
        }
    }

    #[test]
    fn texts_of_the_task_are_short_with_every_label_as_often() {
        let mut labels: BTreeMap<String, usize> = BTreeMap::new();
        let held_out = LabeledRecords::new(LabeledTask::Classification, 1, WorldPart::HeldOut);
        let held_out: BTreeSet<String> = (0..2000)
            .filter_map(|index| match held_out.record(index) {
                LabeledRecord::Classification { text, .. } => Some(text),
                _ => None,
            })
            .collect();
        for document in documents().iter().filter(|document| lines(document).is_empty()) {
            let shown: Vec<&str> = document.lines().collect();
            assert!([4, 6, 8].contains(&shown.len()), "{document}");
            for example in shown.chunks(2) {
                let text = example[0].strip_prefix("Text: ").unwrap();
                assert!(text.ends_with('.') && !held_out.contains(text), "{text}");
                *labels.entry(example[1].strip_prefix("Feeling: ").unwrap().to_owned()).or_insert(0) += 1;
            }
        }
        let names: BTreeSet<&str> = labels.keys().map(String::as_str).collect();
        assert_eq!(names, LabeledTask::Classification.labels().iter().copied().collect());
        let fair = labels.values().sum::<usize>() / 4;
        assert!(labels.values().all(|n| n.abs_diff(fair) < fair / 5), "{labels:?}");
    }

    #[test]
    fn documents_are_short_ascii_of_words_that_the_stories_have() {
        let world = World::new(7);
        let words = |text: &str| -> Vec<String> {
            text.split(|c: char| !c.is_ascii_alphabetic()).map(str::to_lowercase).collect()
        };
        let mut known: BTreeSet<String> = (0..1500).flat_map(|index| words(&world.story(index).text)).collect();
        known.extend(["animal", "color", "text", "feeling"].map(str::to_owned));
        for document in documents() {
            assert!(document.bytes().all(|b| b == b'\n' || (b' '..=b'~').contains(&b)), "{document}");
            assert!(document.len() < 640, "{} characters: {document}", document.len());
            assert!(document.lines().all(|line| !line.is_empty()) && !document.ends_with('\n'), "{document}");
            for word in words(&document) {
                assert!(known.contains(&word), "{word} in: {document}");
            }
        }
    }
}
