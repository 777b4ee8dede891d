//! Events into sentences. Everything that happens goes through [`Teller`]: the event changes the scene, the sentence
//! tells it, and neither comes without the other. Who takes part is cast in `cast.rs`, how a template becomes a sentence
//! stands in `grammar.rs`, and events that many stories share in `events.rs`.

use gptkit_rng::Dice;

use super::grammar::{Prose, Roles};
use super::map::Map;
use super::state::{Scene, StoryEvent, StoryState};

/// Stands in [`Teller::sites`] for a place that is no site of the map: somebody's house.
pub(super) const NO_SITE: usize = usize::MAX;

/// A story while it is told.
pub(super) struct Teller<'w> {
    pub(super) dice: Dice,
    /// As it is now.
    pub(super) scene: Scene,
    /// As it was before the first event: everything that was cast is here, too.
    pub(super) opening: Scene,
    /// In the order of the text.
    pub(super) events: Vec<StoryEvent>,
    pub(super) prose: Prose,
    pub(super) map: &'w Map,
    /// For each place of the scene, the site of the map that it is, or [`NO_SITE`].
    pub(super) sites: Vec<usize>,
    /// Percent of the story's friends who are children; the others are animals.
    pub(super) children_percent: usize,
    /// Templates that the story has used.
    used: Vec<&'static str>,
}

impl<'w> Teller<'w> {
    /// An empty scene on `map`.
    pub(super) fn new(map: &'w Map, mut dice: Dice) -> Self {
        let children_percent = dice.pick(&[0, 0, 50, 100, 100]);
        Self {
            dice,
            scene: Scene::default(),
            opening: Scene::default(),
            events: Vec::with_capacity(32),
            prose: Prose::new(),
            map,
            sites: Vec::new(),
            children_percent,
            used: Vec::with_capacity(64),
        }
    }

    /// The text, the state behind it, and the dice for whatever is drawn next.
    pub(super) fn finish(self) -> (String, StoryState, Dice) {
        (
            self.prose.into_text(),
            StoryState { opening: self.opening, events: self.events, ending: self.scene },
            self.dice,
        )
    }

    /// The text so far.
    pub(super) fn text(&self) -> &str {
        self.prose.text()
    }

    /// The place where `who` is.
    pub(super) fn at(&self, who: usize) -> usize {
        self.scene.people[who].at
    }

    /// Starts a paragraph; names come before pronouns again.
    pub(super) fn paragraph(&mut self) {
        self.prose.paragraph();
    }

    /// Tells one of the paraphrases, one that this story has not used yet if there is any.
    pub(super) fn line(&mut self, roles: &Roles, variants: &[&'static str]) {
        let start = self.dice.below(variants.len());
        let fresh =
            (0..variants.len()).map(|i| variants[(start + i) % variants.len()]).find(|v| !self.used.contains(v));
        let template = fresh.unwrap_or(variants[start]);
        self.used.push(template);
        self.prose.sentence(&self.scene, &mut self.dice, roles, template);
    }

    /// The line in `percent` of the stories.
    pub(super) fn maybe(&mut self, percent: usize, roles: &Roles, variants: &[&'static str]) {
        if self.dice.chance(percent) {
            self.line(roles, variants);
        }
    }

    /// The filled template as a part of a sentence that is still to come; people in it count as mentioned.
    pub(super) fn render(&mut self, roles: &Roles, template: &'static str) -> String {
        self.prose.fragment(&self.scene, &mut self.dice, roles, template)
    }

    /// The same, but nobody counts as mentioned.
    pub(super) fn render_aside(&mut self, roles: &Roles, template: &'static str) -> String {
        self.prose.aside(&self.scene, &mut self.dice, roles, template)
    }
}
