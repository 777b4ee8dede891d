//! Events into sentences. Everything that happens goes through [`Teller`]: the event changes the scene, the sentence
//! tells it, and neither comes without the other.
//!
//! Sentences are templates. A slot is a role and a form: `{a}` Mia, `{a.his}` her, `{A}` Mia or she, whichever cannot be
//! misunderstood; `{ab}` Mia and Tom, or they; `{t}` the red kite, `{t.a}` a red kite (its first mention), `{t.own}` red
//! kite, `{t.n}` kite; `{p}` the garden, `{p.at}` in the garden; `{w}` a word; `{n}` a number in words. Capitals at the
//! start of a sentence and a or an come by themselves.

use gptkit_rng::Dice;

use super::state::{Event, Feeling, Lies, Person, Place, Scene, State, Thing};
use super::words::{self, Kind, SITES, Site};

/// Who and what the slots of a template stand for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Roles<'s> {
    pub(super) a: usize,
    pub(super) b: usize,
    pub(super) c: usize,
    pub(super) t: usize,
    pub(super) u: usize,
    pub(super) v: usize,
    pub(super) p: usize,
    pub(super) q: usize,
    pub(super) r: usize,
    pub(super) w: &'s str,
    pub(super) x: &'s str,
    pub(super) y: &'s str,
    pub(super) n: usize,
    pub(super) m: usize,
}

/// Roads between the sites, and how far each is from each.
#[derive(Debug, Clone)]
pub(super) struct Map {
    steps: Vec<Vec<u8>>,
}

impl Map {
    /// A ring through all sites in drawn order, and as many shortcuts again.
    pub(super) fn new(seed: u64) -> Self {
        let mut dice = Dice::for_story(seed, u64::MAX);
        let n = SITES.len();
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, dice.below(i + 1));
        }
        let mut steps = vec![vec![u8::MAX / 2; n]; n];
        for i in 0..n {
            for (a, b) in [(order[i], order[(i + 1) % n]), (order[i], order[(i + 3 + dice.below(n - 6)) % n])] {
                (steps[a][b], steps[b][a]) = (1, 1);
            }
            steps[i][i] = 0;
        }
        for via in 0..n {
            for a in 0..n {
                for b in 0..n {
                    steps[a][b] = steps[a][b].min(steps[a][via] + steps[via][b]);
                }
            }
        }
        Self { steps }
    }
}

/// Whom a plot asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pool {
    /// Animal or child, as the story has it.
    Friend,
    /// An animal in any case.
    Animal,
}

const NO_SITE: usize = usize::MAX;

pub(super) struct Teller<'w> {
    pub(super) dice: Dice,
    pub(super) scene: Scene,
    opening: Scene,
    events: Vec<Event>,
    text: String,
    map: &'w Map,
    sites: Vec<usize>,
    children_percent: usize,
    told: Vec<&'static str>,
    known_people: u32,
    known_things: u32,
    subject: Option<usize>,
    pronouns: u8,
    before: u32,
    now: u32,
    first: Option<usize>,
    last: Option<usize>,
    starts: bool,
    plain: bool,
}

impl<'w> Teller<'w> {
    pub(super) fn new(map: &'w Map, mut dice: Dice) -> Self {
        let children_percent = dice.pick(&[0, 0, 50, 100, 100]);
        Self {
            dice,
            scene: Scene::default(),
            opening: Scene::default(),
            events: Vec::with_capacity(32),
            text: String::with_capacity(1500),
            map,
            sites: Vec::new(),
            children_percent,
            told: Vec::with_capacity(64),
            known_people: 0,
            known_things: 0,
            subject: None,
            pronouns: 0,
            before: 0,
            now: 0,
            first: None,
            last: None,
            starts: true,
            plain: false,
        }
    }

    /// For a few sentences: `n` people who are in one place and need no introduction.
    pub(super) fn with_people(map: &'w Map, dice: Dice, n: usize) -> Self {
        let mut teller = Self::new(map, dice);
        let place = teller.place(|_| true);
        for _ in 0..n {
            let who = teller.person(Pool::Friend, place);
            teller.known_people |= 1 << who;
        }
        teller
    }

    /// The same people in another story.
    pub(super) fn with_cast(map: &'w Map, dice: Dice, people: &[Person]) -> Self {
        let mut teller = Self::with_people(map, dice, 0);
        for person in people {
            let person = Person { at: 0, feels: None, likes: None, stuck: false, goods: Vec::new(), ..person.clone() };
            teller.known_people |= 1 << teller.scene.people.len();
            teller.opening.people.push(person.clone());
            teller.scene.people.push(person);
        }
        teller
    }

    pub(super) fn finish(self) -> (String, State, Dice) {
        (self.text, State { opening: self.opening, events: self.events, ending: self.scene }, self.dice)
    }

    // --- the cast and the stage ---

    /// Adds somebody at `at`, not yet mentioned. Every second is a he.
    pub(super) fn person(&mut self, pool: Pool, at: usize) -> usize {
        let child = pool == Pool::Friend && self.dice.chance(self.children_percent);
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

    fn person_of(&mut self, kinds: &[Kind], at: usize) -> usize {
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
    fn site(&mut self, site: usize) -> usize {
        if let Some(place) = self.sites.iter().position(|&s| s == site) {
            return place;
        }
        let Site { name, preposition, indoor, .. } = SITES[site];
        let id = self.stage(Place { name: name.to_string(), preposition, indoor, home_of: None }, site);
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
        let id = self.stage(Place { name, preposition: "at", indoor: true, home_of: Some(who) }, NO_SITE);
        self.scene.roads.push((near, id));
        self.opening.roads.push((near, id));
        id
    }

    fn stage(&mut self, place: Place, site: usize) -> usize {
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

    /// What is told so far.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Where `who` is.
    pub(super) fn at(&self, who: usize) -> usize {
        self.scene.people[who].at
    }

    // --- sentences ---

    /// A new paragraph; names come before pronouns again.
    pub(super) fn paragraph(&mut self) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        (self.subject, self.before, self.pronouns) = (None, 0, 0);
    }

    /// One of the paraphrases, one not yet used in this story if there is any.
    pub(super) fn line(&mut self, roles: &Roles, variants: &[&'static str]) {
        let start = self.dice.below(variants.len());
        let fresh =
            (0..variants.len()).map(|i| variants[(start + i) % variants.len()]).find(|v| !self.told.contains(v));
        let template = fresh.unwrap_or(variants[start]);
        self.told.push(template);
        if !self.text.is_empty() && !self.text.ends_with('\n') {
            self.text.push(' ');
        }
        (self.starts, self.first) = (true, None);
        self.fill(roles, template);
        self.before = self.now;
        self.subject = self.first;
        self.now = 0;
    }

    /// The line in `percent` of the stories.
    pub(super) fn maybe(&mut self, percent: usize, roles: &Roles, variants: &[&'static str]) {
        if self.dice.chance(percent) {
            self.line(roles, variants);
        }
    }

    /// What a template says, apart from the text.
    pub(super) fn render(&mut self, roles: &Roles, template: &'static str) -> String {
        let from = self.text.len();
        self.plain = true;
        self.fill(roles, template);
        self.plain = false;
        self.text.split_off(from)
    }

    /// What a template says, without a trace: nobody counts as mentioned.
    pub(super) fn render_aside(&mut self, roles: &Roles, template: &'static str) -> String {
        let kept = (self.now, self.first, self.last);
        let said = self.render(roles, template);
        (self.now, self.first, self.last) = kept;
        said
    }

    fn fill(&mut self, roles: &Roles, template: &str) {
        let mut rest = template;
        while let Some(open) = rest.find('{') {
            self.literal(&rest[..open]);
            let Some(close) = rest[open..].find('}') else { break };
            self.slot(roles, &rest[open + 1..open + close]);
            rest = &rest[open + close + 1..];
        }
        self.literal(rest);
    }

    fn literal(&mut self, words: &str) {
        self.text.push_str(words);
        self.starts &= words.is_empty() || words == "\"";
    }

    /// Adds the value of a slot, with the capital and the article its place asks for.
    fn value(&mut self, words: &str) {
        let tail = self.text.as_bytes();
        let inner = matches!(tail, [.., b'.' | b'!' | b'?', b' '] | [.., b' ', b'"']);
        let capital = !self.plain && (self.starts || inner);
        let vowel =
            matches!(words.as_bytes().first(), Some(b'a' | b'e' | b'i' | b'o' | b'u')) || words.starts_with("hon");
        if vowel && !words.starts_with("honey") && (self.text.ends_with(" a ") || self.text.ends_with("A ")) {
            self.text.pop();
            self.text.push_str("n ");
        }
        let mut chars = words.chars();
        match chars.next() {
            Some(first) if capital => {
                self.text.push(first.to_ascii_uppercase());
                self.text.push_str(chars.as_str());
            }
            _ => self.text.push_str(words),
        }
        self.starts = false;
    }

    fn slot(&mut self, roles: &Roles, slot: &str) {
        let (role, form) = slot.split_once('.').unwrap_or((slot, ""));
        match role {
            "a" => self.person_slot(roles.a, form),
            "b" => self.person_slot(roles.b, form),
            "c" => self.person_slot(roles.c, form),
            "A" => self.subject_slot(roles.a),
            "B" => self.subject_slot(roles.b),
            "C" => self.subject_slot(roles.c),
            "they" => {
                self.mention(roles.a);
                self.mention(roles.b);
                self.value("they");
            }
            "ab" => self.pair_slot(roles.a, roles.b),
            "t" => self.thing_slot(roles.t, form),
            "u" => self.thing_slot(roles.u, form),
            "v" => self.thing_slot(roles.v, form),
            "p" => self.place_slot(roles.p, form),
            "q" => self.place_slot(roles.q, form),
            "r" => self.place_slot(roles.r, form),
            "w" => self.value(roles.w),
            "x" => self.value(roles.x),
            "y" => self.value(roles.y),
            "n" => self.value(words::NUMBERS[roles.n]),
            "m" => self.value(words::NUMBERS[roles.m]),
            _ => debug_assert!(false, "no such slot: {slot}"),
        }
    }

    /// A pronoun where the sentence before had this subject and nobody else whom it could mean.
    fn subject_slot(&mut self, who: usize) {
        let female = self.scene.people[who].female;
        let rivals = |mask: u32| {
            (0..self.scene.people.len())
                .any(|p| p != who && mask >> p & 1 == 1 && self.scene.people[p].female == female)
        };
        let clear = self.subject == Some(who) && self.last == Some(who);
        if clear && self.pronouns < 2 && !rivals(self.before) && !rivals(self.now) {
            self.pronouns += 1;
            self.mention(who);
            self.value(if female { "she" } else { "he" });
        } else {
            self.pronouns = 0;
            self.person_slot(who, "");
        }
    }

    fn pair_slot(&mut self, a: usize, b: usize) {
        if self.before == 1 << a | 1 << b && self.pronouns < 2 {
            self.pronouns += 1;
            self.mention(a);
            self.mention(b);
            self.value("they");
        } else {
            self.pronouns = 0;
            self.person_slot(a, "");
            self.text.push_str(" and ");
            self.person_slot(b, "");
        }
    }

    fn mention(&mut self, who: usize) {
        self.now |= 1 << who;
        self.first = self.first.or(Some(who));
        self.last = Some(who);
    }

    fn person_slot(&mut self, who: usize, form: &str) {
        let Person { name, kind, female, character, animal, .. } = self.scene.people[who];
        let known = self.known_people >> who & 1 == 1;
        self.mention(who);
        match form {
            "" => {
                debug_assert!(known, "{name} was not introduced");
                self.value(name);
            }
            "s" => {
                debug_assert!(known, "{name} was not introduced");
                self.value(name);
                self.text.push_str("'s");
            }
            "he" => self.value(if female { "she" } else { "he" }),
            "He" => self.text.push_str(if female { "She" } else { "He" }),
            "him" => self.value(if female { "her" } else { "him" }),
            "his" => self.value(if female { "her" } else { "his" }),
            "self" => self.value(if female { "herself" } else { "himself" }),
            "kind" => self.value(kind),
            "trait" => self.value(character),
            "hands" => self.text.push_str(match kind {
                "duck" => "wings",
                "goat" => "hooves",
                _ if animal => "paws",
                _ => "hands",
            }),
            "new" => {
                debug_assert!(!known, "{name} was introduced before");
                self.known_people |= 1 << who;
                if self.dice.chance(40) && !matches!(kind, "girl" | "boy") {
                    self.value(name);
                    self.text.push_str(" the ");
                } else {
                    self.value("a ");
                    self.value(character);
                    self.text.push(' ');
                    self.text.push_str(kind);
                    self.text.push_str(" named ");
                    self.text.push_str(name);
                    return;
                }
                self.text.push_str(kind);
            }
            // The name is about to fall: in "a kind fox named Tom" written out in the template.
            "first" => {
                self.known_people |= 1 << who;
                self.value(name);
            }
            _ => debug_assert!(false, "no such form: {form}"),
        }
    }

    fn thing_slot(&mut self, id: usize, form: &str) {
        let Thing { noun, color, mass, plural, .. } = self.scene.things[id];
        let known = self.known_things >> id & 1 == 1;
        let full = |teller: &mut Self, lead: &str| {
            teller.value(lead);
            if let Some(color) = color {
                teller.value(color);
                teller.text.push(' ');
            }
            teller.value(noun);
            teller.known_things |= 1 << id;
        };
        match form {
            "" => {
                debug_assert!(known, "{noun} was not introduced");
                if self.dice.chance(50) {
                    full(self, "the ");
                } else {
                    self.value("the ");
                    self.text.push_str(noun);
                }
            }
            "a" if mass => full(self, "some "),
            "a" => full(self, "a "),
            "own" => full(self, ""),
            "n" => {
                self.value(noun);
                if color.is_none() {
                    self.known_things |= 1 << id;
                }
            }
            "it" => self.value(if plural { "them" } else { "it" }),
            "color" => self.value(color.unwrap_or("plain")),
            _ => debug_assert!(false, "no such form: {form}"),
        }
    }

    fn place_slot(&mut self, id: usize, form: &str) {
        let Place { preposition, home_of, .. } = self.scene.places[id];
        if let Some(owner) = home_of {
            self.mention(owner);
        }
        if form == "at" {
            self.value(preposition);
            self.text.push(' ');
        }
        let name = std::mem::take(&mut self.scene.places[id].name);
        self.value(&name);
        self.scene.places[id].name = name;
    }

    // --- events, each with its sentence ---

    /// What happens, without a sentence: the caller's next line tells it.
    pub(super) fn happen(&mut self, event: Event) {
        let outcome = self.scene.apply(&event);
        debug_assert!(outcome.is_ok(), "{event:?}: {outcome:?}\n{}", self.text);
        self.events.push(event);
    }

    /// Sets what somebody loves to do; the caller tells it with `{w}`.
    pub(super) fn liking(&mut self, who: usize) -> &'static str {
        let mut likes = self.dice.pick(words::LIKES);
        while self.scene.people.iter().any(|p| p.likes == Some(likes)) {
            likes = self.dice.pick(words::LIKES);
        }
        self.scene.people[who].likes = Some(likes);
        self.opening.people[who].likes = Some(likes);
        likes
    }

    /// The first words of a story: the hero, where the home is, and perhaps what the hero loves.
    pub(super) fn hero(&mut self, a: usize, p: usize) {
        let roles = Roles { a, p, ..Roles::default() };
        self.line(
            &roles,
            &[
                "Once upon a time there was a {a.trait} {a.kind} named {a.first}. {a.He} lived near {p}.",
                "Near {p} lived a {a.trait} {a.kind} named {a.first}.",
                "{a.first} was a {a.trait} {a.kind} who lived near {p}.",
                "In a little house near {p} lived a {a.trait} {a.kind} called {a.first}.",
                "There once was a {a.trait} {a.kind} called {a.first}, who lived near {p}.",
                "This is the story of {a.first}, a {a.trait} {a.kind} from a house near {p}.",
            ],
        );
        if self.dice.chance(55) {
            let w = self.liking(a);
            self.line(
                &Roles { w, ..roles },
                &[
                    "{A} loved {w}.",
                    "{A} liked {w} more than anything.",
                    "Nothing made {a} happier than {w}.",
                    "{A} liked {w} best of all.",
                    "Every day {a.he} spent some time {w}.",
                ],
            );
        }
    }

    /// How a day begins: goes into `{w}`.
    pub(super) fn day(&mut self) -> &'static str {
        self.dice.pick(&[
            "one morning",
            "one day",
            "one sunny day",
            "early one morning",
            "one warm afternoon",
            "one day in spring",
            "one bright summer morning",
            "one cool autumn day",
        ])
    }

    /// Walks; says which place lies on the way where the map has one.
    pub(super) fn go(&mut self, who: &[usize], to: usize) {
        let from = self.at(who[0]);
        let past = self.dice.chance(35).then(|| self.on_the_way(from, to)).flatten();
        let been = |event: &Event| matches!(event, Event::Go { who: walkers, to: there, .. } if *there == to && walkers.contains(&who[0]));
        let back = self.opening.people[who[0]].at == to || self.events.iter().any(been);
        self.happen(Event::Go { who: who.to_vec(), to, past });
        let home = who.len() == 1 && self.scene.places[to].home_of == Some(who[0]);
        let b = who.get(1).copied().unwrap_or(0);
        let c = who.get(2).copied().unwrap_or(0);
        let roles = Roles { a: who[0], b, c, p: past.unwrap_or(0), q: to, ..Roles::default() };
        let variants: &[&'static str] = match (who.len(), past.is_some()) {
            (1, _) if home => {
                &["Then {a} went home.", "{A} walked home.", "After that, {a} went home.", "{A} hurried home."]
            }
            (1, _) if past.is_none() && back => &[
                "{A} went back to {q}.",
                "{A} walked back to {q}.",
                "Then {a} returned to {q}.",
                "{A} ran back to {q}.",
            ],
            (2, _) if past.is_none() && back => {
                &["{ab} went back to {q}.", "{ab} walked back to {q}.", "Together {ab} returned to {q}."]
            }
            (1, false) => &[
                "{A} walked to {q}.",
                "{A} went to {q}.",
                "{A} hurried to {q}.",
                "{A} set off for {q} and was soon there.",
                "Then {a} walked to {q}.",
                "It was not far to {q}, and {a} was soon there.",
            ],
            (1, true) => &[
                "{A} walked past {p} to {q}.",
                "{A} went past {p} and came to {q}.",
                "{A} took the path past {p} to {q}.",
                "The way to {q} led past {p}, and {a} walked it with quick steps.",
            ],
            (2, false) => &[
                "{ab} walked to {q}.",
                "{ab} went together to {q}.",
                "{ab} went to {q} side by side.",
                "So {ab} set off, and soon they were {q.at}.",
                "{ab} hurried to {q}.",
            ],
            (2, true) => &[
                "{ab} walked past {p} to {q}.",
                "Together {ab} went past {p} to {q}.",
                "{ab} took the path past {p} to {q}.",
            ],
            (_, false) => &["{a}, {b} and {c} walked to {q}.", "All three of them, {a}, {b} and {c}, went to {q}."],
            (_, true) => {
                &["{a}, {b} and {c} walked past {p} to {q}.", "{a}, {b} and {c} took the path past {p} to {q}."]
            }
        };
        self.line(&roles, variants);
    }

    /// A neighbor of `to` on a shortest way from `from`, if the way is longer than a step.
    fn on_the_way(&mut self, from: usize, to: usize) -> Option<usize> {
        let (from, to) = (self.sites[from], self.sites[to]);
        if from == NO_SITE || to == NO_SITE {
            return None;
        }
        let steps = &self.map.steps;
        let via = (0..SITES.len())
            .find(|&via| via != from && steps[via][to] == 1 && steps[from][via] + 1 == steps[from][to])?;
        Some(self.site(via))
    }

    /// Feels `feeling`, with the reason: a clause about `a`, such as `{a.he} had lost {a.his} {t.n}`.
    pub(super) fn feel(&mut self, roles: &Roles, feeling: Feeling, why: &'static str) {
        let kept = (self.now, self.first);
        let why = self.render(roles, why);
        let mentioned = self.now;
        self.happen(Event::Feel { who: roles.a, feeling, why: why.clone() });
        (self.now, self.first) = kept;
        let roles = Roles { w: feeling.word(), x: &why, ..*roles };
        self.line(
            &roles,
            &[
                "{A} felt {w} because {x}.",
                "{A} was {w} because {x}.",
                "{A} was very {w} because {x}.",
                "Now {a} was {w} because {x}.",
                "{A} felt very {w} because {x}.",
            ],
        );
        self.before |= mentioned;
    }

    /// How the last feeling shows.
    pub(super) fn show(&mut self, roles: &Roles) {
        let variants: &[&'static str] = match self.scene.people[roles.a].feels {
            Some(Feeling::Happy | Feeling::Grateful) => &[
                "{A} smiled from ear to ear.",
                "{A} laughed out loud.",
                "{A} jumped up and down.",
                "{A} clapped {a.his} {a.hands}.",
                "{A} danced around in a circle.",
            ],
            Some(Feeling::Sad | Feeling::Lonely | Feeling::Sorry) => &[
                "A tear ran down {a.his} cheek.",
                "{A} sat down and sighed.",
                "{A} looked at the ground and said nothing.",
                "{A} wiped {a.his} eyes.",
            ],
            Some(Feeling::Angry) => &["{A} stamped on the ground.", "{A} turned away.", "{A} made an angry face."],
            Some(Feeling::Afraid | Feeling::Worried) => &[
                "{a.s} heart beat fast.",
                "{A} bit {a.his} lip.",
                "{A} did not know what to do.",
                "{A} took a deep breath.",
            ],
            Some(Feeling::Proud) => &["{A} held {a.his} head high.", "{A} could not stop smiling."],
            None => return,
        };
        self.line(roles, variants);
    }
}
