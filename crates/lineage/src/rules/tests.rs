use super::*;
use crate::example;
use crate::shape::ShapeVerdict::{self, NotMeasured, NotReproduced, Reproduced};

fn shape(measured: &StoryMeasurements, name: &str) -> PaperShape {
    all(measured).into_iter().find(|shape| shape.name == name).unwrap_or_else(|| panic!("no shape {name}"))
}

fn verdict(measured: &StoryMeasurements, name: &str) -> ShapeVerdict {
    shape(measured, name).verdict
}

#[test]
fn every_shape_is_found_where_it_is() {
    let shapes = all(&example::measured(3));
    for shape in &shapes {
        assert_eq!(shape.words(), "reproduced", "{shape:#?}");
    }
    let chapters: Vec<Chapter> = shapes.iter().map(|shape| shape.chapter).collect();
    assert!(chapters.is_sorted() && chapters.len() == 18, "{chapters:?}");
    let one = all(&example::measured(1));
    assert!(one.iter().all(|shape| shape.words() == "1 seed: consistent"));
}

#[test]
fn without_seeds_or_stages_nothing_is_measured() {
    for measured in [
        StoryMeasurements::default(),
        StoryMeasurements { seeds: vec![SeedMeasurements::default()], ..StoryMeasurements::default() },
    ] {
        for shape in all(&measured) {
            assert_eq!(shape.words(), "not measured", "{}", shape.name);
            let note = shape.note.unwrap();
            assert!(note.contains("not run"), "{}: {note}", shape.name);
        }
    }
    let mut measured = example::measured(3);
    for seed in &mut measured.seeds {
        seed.speeds.clear();
        seed.stages.retain(|stage| stage.name != "speed");
    }
    assert_eq!(shape(&measured, "speed").note.as_deref(), Some("speed was not run"));
    assert_eq!(verdict(&measured, "recurrence"), Reproduced, "its own stages were run");
    assert_eq!(verdict(&measured, "loss-by-size"), Reproduced, "others are as they were");
}

/// Changes every seed in a way that takes one shape away.
fn spoiled(spoil: impl Fn(&mut SeedMeasurements)) -> StoryMeasurements {
    let mut measured = example::measured(3);
    measured.seeds.iter_mut().for_each(spoil);
    measured
}

#[test]
fn a_shape_is_not_found_where_it_is_not() {
    type Spoil = fn(&mut SeedMeasurements);
    fn run<'a>(seed: &'a mut SeedMeasurements, name: &str) -> &'a mut crate::measured::TrainingMeasurements {
        seed.runs.get_mut(name).unwrap()
    }
    fn level(seed: &mut SeedMeasurements, is: impl Fn(&crate::measured::InContextCell) -> bool, value: f64) {
        let cells = &mut seed.in_context.as_mut().unwrap().cells;
        cells.iter_mut().filter(|cell| is(cell)).for_each(|cell| cell.value = value);
    }
    fn win(seed: &mut SeedMeasurements, stage: &str, model: &str, value: f64) {
        seed.wins.get_mut(stage).unwrap().models.get_mut(model).unwrap().value = value;
    }
    let cases: [(&str, Spoil); 22] = [
        ("speed", |seed| {
            seed.speeds.get_mut("speed").unwrap().get_mut("lstm").unwrap().tokens_per_cpu_s = 3e4;
        }),
        ("recurrence", |seed| seed.grades.get_mut("sft-lstm").unwrap().followed.value = 0.99),
        ("context", |seed| seed.positions.get_mut("lstm").unwrap()[2].1 = 1.0),
        ("context", |seed| seed.positions.get_mut("lstm").unwrap()[1].1 = 3.0),
        ("ppo", |seed| seed.sampled.get_mut("ppo").unwrap().followed.value = 0.6),
        ("second-round", |seed| seed.sampled.get_mut("ppo-2").unwrap().followed.value = 0.7),
        ("fresh-comparisons", |seed| seed.orders.get_mut("order-rm-2").unwrap().value = 0.2),
        ("fine-tuning", |seed| seed.accuracies.values_mut().for_each(|one| one.value = 0.0)),
        ("both-sides", |seed| seed.accuracies.get_mut("first-word-early-bert").unwrap().value = 0.4),
        ("loss-by-size", |seed| run(seed, "gpt2").best_validation = Some(1.45)),
        ("zero-shot-by-size", |seed| *seed.perplexities.get_mut("gpt3").unwrap() = 2.5),
        ("examples", |seed| level(seed, |cell| cell.shots == 0, 70.0)),
        ("few-shot-by-size", |seed| level(seed, |cell| cell.shots == 8 && cell.model == "gpt1", 99.0)),
        ("gain-by-size", |seed| level(seed, |cell| cell.shots == 8 && cell.model == "gpt1", 60.0)),
        ("reward-model", |seed| seed.reward_models.get_mut("rm").unwrap().by_length = 0.72),
        ("sft", |seed| win(seed, "wins-sft", "sft", 0.4)),
        ("ppo", |seed| win(seed, "wins-ppo", "ppo", 0.49)),
        ("ptx", |seed| run(seed, "ppo-no-ptx").text_loss = vec![(40.0, 1.2)]),
        ("small-over-large", |seed| win(seed, "wins-size", "ppo", 0.5)),
        ("overoptimization", |seed| {
            run(seed, "ppo-pressed").iterations.iter_mut().for_each(|i| i.gold = Some(i.proxy))
        }),
        ("second-round", |seed| win(seed, "wins-round-2", "ppo-2", 0.45)),
        ("fine-tuning", |seed| level(seed, |cell| cell.shots == 0, 40.0 + 12.0)),
    ];
    for (name, spoil) in cases {
        let measured = spoiled(spoil);
        assert_eq!(verdict(&measured, name), NotReproduced, "{name}: {:#?}", shape(&measured, name).comparisons);
    }
}

#[test]
fn overoptimization_needs_gold_scores_and_iterations() {
    let no_gold = spoiled(|seed| {
        seed.runs.get_mut("ppo-pressed").unwrap().iterations.iter_mut().for_each(|iteration| iteration.gold = None);
    });
    let found = shape(&no_gold, "overoptimization");
    assert_eq!(found.verdict, NotMeasured);
    assert!(found.note.unwrap().contains("gold score"));
    let short = spoiled(|seed| seed.runs.get_mut("ppo-pressed").unwrap().iterations.truncate(7));
    assert!(shape(&short, "overoptimization").note.unwrap().contains("too few iterations"));
}
