//! Casting: the people, objects and places that a [`Teller`] adds to its scene.

use gptkit_rng::Dice;

use super::map::Map;
use super::state::{Lies, Person, ScenePlace, Thing};
use super::teller::{NO_SITE, Teller};
use super::words::{self, PersonKind, SITES, Site};

/// Which people a plot may be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CastPool {
    /// Animals or children, as the story has it.
    Friend,
    /// Animals only.
    Animal,
}

impl<'w> Teller<'w> {
    /// For a few sentences: `n` people who are in one place and need no introduction.
    pub(super) fn with_people(map: &'w Map, dice: Dice, n: usize) -> Self {
        let mut teller = Self::new(map, dice);
        let place = teller.place(|_| true);
        for _ in 0..n {
            let who = teller.person(CastPool::Friend, place);
            teller.prose.introduce(who);
        }
        teller
    }

    /// The same people in another story.
    pub(super) fn with_cast(map: &'w Map, dice: Dice, people: &[Person]) -> Self {
        let mut teller = Self::with_people(map, dice, 0);
        for person in people {
            let person = Person { at: 0, feels: None, likes: None, stuck: false, goods: Vec::new(), ..person.clone() };
            teller.prose.introduce(teller.scene.people.len());
            teller.opening.people.push(person.clone());
            teller.scene.people.push(person);
        }
        teller
    }

    /// Adds somebody at `at`, not yet mentioned. Every second is a he.
    pub(super) fn person(&mut self, pool: CastPool, at: usize) -> usize {
        let child = pool == CastPool::Friend && self.dice.chance(self.children_percent);
        self.person_of(if child { words::CHILDREN } else { words::ANIMALS }, at)
    }

    /// Adds somebody with a trade, at a workplace that the story has not used.
    pub(super) fn worker(&mut self) -> usize {
        let free: Vec<usize> = (0..words::WORKERS.len())
            .filter(|&w| {
                words::WORKERS[w].works_at.is_some_and(|work| !self.scene.places.iter().any(|p| p.name == work))
            })
            .collect();
        let kind = &words::WORKERS[self.dice.pick(&free)];
        let at = self.site_named(kind.works_at.unwrap_or_default());
        self.person_of(std::slice::from_ref(kind), at)
    }

    /// Adds somebody with this trade.
    pub(super) fn worker_called(&mut self, trade: &str, at: usize) -> usize {
        let kind = words::WORKERS.iter().find(|kind| kind.noun == trade).unwrap_or(&words::WORKERS[0]);
        self.person_of(std::slice::from_ref(kind), at)
    }

    fn person_of(&mut self, kinds: &[PersonKind], at: usize) -> usize {
        let same = self.dice.chance(15);
        let mut female = match self.scene.people.last() {
            Some(last) => last.female == same,
            None => self.dice.chance(50),
        };
        let mut kind = &kinds[self.dice.below(kinds.len())];
        while kind.animal && self.scene.people.iter().any(|p| p.kind == kind.noun) {
            kind = &kinds[self.dice.below(kinds.len())];
        }
        if kind.female.is_some_and(|its| its != female) {
            kind = kinds.iter().find(|k| k.female == Some(female)).unwrap_or(kind);
        }
        female = kind.female.unwrap_or(female);
        let names = if female { words::SHE } else { words::HE };
        let mut name = self.dice.pick(names);
        // Two names with one first letter are easily mixed up.
        while self.scene.people.iter().any(|p| p.name.as_bytes()[0] == name.as_bytes()[0]) {
            name = self.dice.pick(names);
        }
        let mut character = self.dice.pick(words::CHARACTERS);
        while self.scene.people.iter().any(|p| p.character == character) {
            character = self.dice.pick(words::CHARACTERS);
        }
        let person = Person {
            name,
            kind: kind.noun,
            animal: kind.animal,
            female,
            character,
            likes: None,
            at,
            feels: None,
            stuck: false,
            goods: Vec::new(),
        };
        self.opening.people.push(person.clone());
        self.scene.people.push(person);
        self.scene.people.len() - 1
    }

    /// Adds a colored object whose noun is in none of the story's others.
    pub(super) fn thing(&mut self, nouns: &[&'static str], lies: Lies, owner: Option<usize>) -> usize {
        let mut noun = self.dice.pick(nouns);
        while self.scene.things.iter().any(|thing| thing.noun == noun) {
            noun = self.dice.pick(nouns);
        }
        let mut color = self.dice.pick(words::COLORS);
        while self.scene.things.iter().any(|thing| thing.color == Some(color)) {
            color = self.dice.pick(words::COLORS);
        }
        self.add(Thing { noun, color: Some(color), mass: false, plural: false, owner, lies, whole: true })
    }

    /// Adds an object whose color the text does not tell.
    pub(super) fn thing_of_no_color(&mut self, nouns: &[&'static str], lies: Lies, owner: Option<usize>) -> usize {
        let mut noun = self.dice.pick(nouns);
        while self.scene.things.iter().any(|thing| thing.noun == noun) {
            noun = self.dice.pick(nouns);
        }
        self.plain_thing(noun, lies, owner)
    }

    /// Adds an object without a color: flour, eggs, a rope, a cake.
    pub(super) fn plain_thing(&mut self, noun: &'static str, lies: Lies, owner: Option<usize>) -> usize {
        let plural = noun.ends_with('s');
        let mass =
            plural || matches!(noun, "flour" | "sugar" | "milk" | "butter" | "honey" | "salt" | "string" | "soup");
        self.add(Thing { noun, color: None, mass, plural, owner, lies, whole: true })
    }

    fn add(&mut self, thing: Thing) -> usize {
        self.opening.things.push(thing.clone());
        self.scene.things.push(thing);
        self.scene.things.len() - 1
    }

    /// Adds a site that `fits`, rather near the story's first.
    pub(super) fn place(&mut self, fits: fn(&Site) -> bool) -> usize {
        let mut best = None;
        for _ in 0..3 {
            let site = loop {
                let site = self.dice.below(SITES.len());
                if fits(&SITES[site]) && !self.sites.contains(&site) {
                    break site;
                }
            };
            let steps = self.sites.first().map_or(0, |&first| self.map.steps[first][site]);
            if best.is_none_or(|(least, _)| steps < least) {
                best = Some((steps, site));
            }
        }
        self.site(best.map_or(0, |(_, site)| site))
    }

    /// The place of one of the sites, added if need be.
    pub(super) fn site(&mut self, site: usize) -> usize {
        if let Some(place) = self.sites.iter().position(|&s| s == site) {
            return place;
        }
        let Site { name, preposition, indoor, .. } = SITES[site];
        let id = self.stage(ScenePlace { name: name.to_string(), preposition, indoor, home_of: None }, site);
        for other in 0..id {
            if self.sites[other] != NO_SITE && self.map.steps[self.sites[other]][site] == 1 {
                self.scene.roads.push((other, id));
                self.opening.roads.push((other, id));
            }
        }
        id
    }

    pub(super) fn site_named(&mut self, name: &str) -> usize {
        self.site(SITES.iter().position(|site| site.name == name).unwrap_or(0))
    }

    /// Somebody's house, near `near`.
    pub(super) fn house(&mut self, who: usize, near: usize) -> usize {
        let name = format!("{}'s house", self.scene.people[who].name);
        let id = self.stage(ScenePlace { name, preposition: "at", indoor: true, home_of: Some(who) }, NO_SITE);
        self.scene.roads.push((near, id));
        self.opening.roads.push((near, id));
        id
    }

    fn stage(&mut self, place: ScenePlace, site: usize) -> usize {
        self.opening.places.push(place.clone());
        self.scene.places.push(place);
        self.sites.push(site);
        self.sites.len() - 1
    }

    /// Moves somebody before the story has said where they are.
    pub(super) fn seat(&mut self, who: usize, at: usize) {
        self.scene.people[who].at = at;
        self.opening.people[who].at = at;
    }

    /// A hiding place there.
    pub(super) fn spot(&mut self, place: usize) -> &'static str {
        match self.sites[place] {
            NO_SITE => self.dice.pick(&["under the bed", "behind the curtain", "in the big chest"]),
            site => self.dice.pick(&SITES[site].spots),
        }
    }
}
