//! A world and its stories.

use serde::Serialize;

use super::map::Map;
use super::plots::StoryPlot;
use super::questions::{self, StoryQuestion};
use super::state::StoryState;
use super::teller::Teller;
use gptkit_rng::Dice;

/// A world: a map, and as many stories as one likes.
#[derive(Debug, Clone)]
pub struct World {
    seed: u64,
    map: Map,
}

/// A story, with all that it says in a form that can be asked about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Story {
    /// Its number in its world.
    pub index: u64,
    /// What kind of story it is.
    pub plot: StoryPlot,
    /// `The Lost Kite`.
    pub title: String,
    /// Paragraphs, one a line, no newline at the end; ASCII.
    pub text: String,
    /// The scene before and after, and the events between.
    pub state: StoryState,
    /// About the text, each with one right answer.
    pub questions: Vec<StoryQuestion>,
}

impl World {
    /// The world of this seed; worlds differ in their map and in every story.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, map: Map::new(seed) }
    }

    /// Story number `index`: a pure function of the seed and the number, in any order, on any thread.
    #[must_use]
    pub fn story(&self, index: u64) -> Story {
        let mut dice = Dice::for_story(self.seed, index);
        let plot = dice.pick(&StoryPlot::ALL);
        let mut teller = Teller::new(&self.map, dice);
        let title = in_capitals(&plot.tell(&mut teller));
        let (text, state, mut dice) = teller.finish();
        let questions = questions::about(&state, &mut dice);
        Story { index, plot, title, text, state, questions }
    }
}

/// A capital for every word of a title but the small ones.
fn in_capitals(words: &str) -> String {
    let mut title = String::with_capacity(words.len());
    for (i, word) in words.split(' ').enumerate() {
        let small = matches!(word, "a" | "an" | "the" | "of" | "and" | "to" | "in" | "at" | "by" | "on" | "for");
        let mut chars = word.chars();
        if i > 0 {
            title.push(' ');
        }
        match chars.next() {
            Some(first) if i == 0 || !small => {
                title.push(first.to_ascii_uppercase());
                title.push_str(chars.as_str());
            }
            _ => title.push_str(word),
        }
    }
    title
}
