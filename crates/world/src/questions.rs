//! Questions about a story: from its state and events, never from its text, each with one right answer that the text gives.

use serde::Serialize;

use super::state::{Feeling, Lies, Scene, ScenePlace, StoryEvent, StoryState};
use super::words;
use gptkit_rng::Dice;

/// A question that [`StoryQuestion::grade`] can grade.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoryQuestion {
    /// What it asks for.
    pub kind: QuestionKind,
    /// The question.
    pub ask: String,
    /// The answer, short: `Mia`, `the garden`, `yes`.
    pub answer: String,
    /// Other right wordings.
    pub accept: Vec<String>,
    /// Wrong answers of the same sort: a reply that names one is wrong.
    pub rivals: Vec<String>,
}

/// What a question asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum QuestionKind {
    /// Who has it in the end?
    Holder,
    /// Where was it hidden or found?
    Spot,
    /// Where did somebody go first?
    FirstGo,
    /// What color is it?
    Color,
    /// Which animal?
    Animal,
    /// Why did somebody feel so?
    Cause,
    /// How did somebody feel?
    Feeling,
    /// What does somebody love to do?
    Likes,
    /// Who helped, found, gave, broke, mended, won?
    Who,
    /// What was given, wanted, made?
    What,
    /// How many?
    Count,
    /// Yes or no.
    YesNo,
}

/// At most this many that are not yes or no, and this many that are.
const OPEN: usize = 4;
const YES_NO: usize = 2;

/// The questions of a story.
pub(super) fn about(state: &StoryState, dice: &mut Dice) -> Vec<StoryQuestion> {
    let mut asker = Asker { state, open: Vec::with_capacity(16), closed: Vec::with_capacity(16) };
    asker.facts();
    asker.history();
    let Asker { mut open, closed, .. } = asker;
    dice.shuffle(&mut open);
    let mut questions: Vec<StoryQuestion> = Vec::with_capacity(OPEN + YES_NO);
    // New kinds first, then what is left.
    for repeat in [false, true] {
        let mut i = 0;
        while i < open.len() && questions.len() < OPEN {
            if repeat || !questions.iter().any(|q| q.kind == open[i].kind) {
                questions.push(open.swap_remove(i));
            } else {
                i += 1;
            }
        }
    }
    let mut used = Vec::new();
    for _ in 0..YES_NO {
        let yes = dice.chance(50);
        let left: Vec<&Closed> = closed.iter().filter(|c| c.holds == yes && !used.contains(&c.fact)).collect();
        if left.is_empty() {
            continue;
        }
        let Closed { fact, ask, .. } = left[dice.below(left.len())];
        used.push(*fact);
        let (answer, rival) = if yes { ("yes", "no") } else { ("no", "yes") };
        questions.push(StoryQuestion {
            kind: QuestionKind::YesNo,
            ask: ask.clone(),
            answer: answer.to_string(),
            accept: Vec::new(),
            rivals: vec![rival.to_string()],
        });
    }
    questions
}

/// A yes or no question; questions about one `fact` answer each other.
struct Closed {
    fact: usize,
    ask: String,
    holds: bool,
}

struct Asker<'s> {
    state: &'s StoryState,
    open: Vec<StoryQuestion>,
    closed: Vec<Closed>,
}

impl Asker<'_> {
    fn name(&self, who: usize) -> &'static str {
        self.state.ending.people[who].name
    }

    fn noun(&self, thing: usize) -> &'static str {
        self.state.ending.things[thing].noun
    }

    /// `the red kite`.
    fn the(&self, thing: usize) -> String {
        let thing = &self.state.ending.things[thing];
        match thing.color {
            Some(color) => format!("the {color} {}", thing.noun),
            None => format!("the {}", thing.noun),
        }
    }

    fn push(&mut self, kind: QuestionKind, ask: String, answer: String, accept: Vec<String>, rivals: Vec<String>) {
        // Two events can lead to one question; if they answer it differently, it has no one answer.
        if let Some(i) = self.open.iter().position(|q| q.ask == ask) {
            if self.open[i].answer != answer {
                self.open[i].answer.clear();
            }
            return;
        }
        self.open.push(StoryQuestion { kind, ask, answer, accept, rivals });
    }

    fn who(&mut self, kind: QuestionKind, ask: String, who: usize) {
        let people = &self.state.ending.people;
        let rivals = people.iter().map(|p| p.name.to_string()).filter(|name| name != people[who].name).collect();
        self.push(kind, ask, self.name(who).to_string(), Vec::new(), rivals);
    }

    fn what(&mut self, ask: String, thing: usize) {
        let rivals = (0..self.state.ending.things.len()).filter(|&t| t != thing).map(|t| self.noun(t).to_string());
        let (rivals, accept) = (rivals.collect(), vec![self.noun(thing).to_string()]);
        self.push(QuestionKind::What, ask, self.the(thing), accept, rivals);
    }

    fn where_(&mut self, kind: QuestionKind, ask: String, place: usize, spot: Option<&'static str>) {
        let places = &self.state.ending.places;
        let name = places[place].name.clone();
        let rivals = places.iter().map(|p| p.name.clone()).filter(|other| *other != name).collect();
        match spot {
            Some(spot) => self.push(kind, ask, spot.to_string(), vec![name], rivals),
            None => self.push(kind, ask, name, Vec::new(), rivals),
        }
    }

    fn count(&mut self, ask: String, n: usize) {
        let rivals =
            words::NUMBERS.iter().filter(|&&other| other != words::NUMBERS[n]).map(|w| (*w).to_string()).collect();
        self.push(QuestionKind::Count, ask, words::NUMBERS[n].to_string(), Vec::new(), rivals);
    }

    fn yes_no(&mut self, fact: usize, ask: String, holds: bool) {
        self.closed.push(Closed { fact, ask, holds });
    }

    /// What holds all the time, or in the end.
    fn facts(&mut self) {
        let state = self.state;
        let Scene { people, things, .. } = &state.ending;
        for (who, person) in people.iter().enumerate() {
            let name = person.name;
            let mut kinds: Vec<&str> = people.iter().map(|p| p.kind).filter(|kind| *kind != person.kind).collect();
            kinds.dedup();
            if person.animal {
                let rivals =
                    words::ANIMALS.iter().filter(|k| k.noun != person.kind).map(|k| k.noun.to_string()).collect();
                self.push(
                    QuestionKind::Animal,
                    format!("What kind of animal was {name}?"),
                    article(person.kind),
                    Vec::new(),
                    rivals,
                );
            }
            self.yes_no(100 + who, format!("Was {name} {}?", article(person.kind)), true);
            if let Some(kind) = kinds.first() {
                self.yes_no(100 + who, format!("Was {name} {}?", article(kind)), false);
            }
            if let Some(likes) = person.likes {
                let rivals = words::LIKES.iter().filter(|l| **l != likes).map(|l| (*l).to_string()).collect();
                let object = likes.split_once(' ').map_or(likes, |(_, object)| object).to_string();
                self.push(
                    QuestionKind::Likes,
                    format!("What did {name} love to do?"),
                    likes.to_string(),
                    vec![object],
                    rivals,
                );
            }
        }
        for (id, thing) in things.iter().enumerate() {
            if let Some(color) = thing.color {
                let rivals = words::COLORS.iter().filter(|c| **c != color).map(|c| (*c).to_string()).collect();
                let noun = thing.noun;
                self.push(
                    QuestionKind::Color,
                    format!("What color was the {noun}?"),
                    color.to_string(),
                    Vec::new(),
                    rivals,
                );
                self.yes_no(200 + id, format!("Was the {noun} {color}?"), true);
                let other = things.iter().filter_map(|t| t.color).find(|c| *c != color);
                let other = other.unwrap_or(if color == "red" { "blue" } else { "red" });
                self.yes_no(200 + id, format!("Was the {noun} {other}?"), false);
            }
            if let (Lies::With(holder), Some(_)) = (thing.lies, thing.owner) {
                let the = self.the(id);
                self.who(QuestionKind::Holder, format!("Who has {the} at the end of the story?"), holder);
                for (who, person) in people.iter().enumerate().take(3) {
                    let ask = format!("Does {} have {the} at the end of the story?", person.name);
                    self.yes_no(300 + id, ask, who == holder);
                }
            }
        }
        for (who, person) in people.iter().enumerate() {
            for &(goods, n) in &person.goods {
                if who == 0 {
                    self.count(format!("How many {goods} did {} have at the end?", person.name), n);
                }
            }
        }
    }

    /// What happened, event by event, with the scene as it was before each.
    fn history(&mut self) {
        let state = self.state;
        let mut scene = state.opening.clone();
        let mut walked = 0u32;
        for event in &state.events {
            self.event(event, &scene, &mut walked);
            if scene.apply(event).is_err() {
                break; // the teller has made sure that it can happen
            }
        }
        self.open.retain(|question| !question.answer.is_empty());
        self.visits();
        self.helpers();
    }

    fn event(&mut self, event: &StoryEvent, scene: &Scene, walked: &mut u32) {
        match *event {
            StoryEvent::Go { ref who, to, past } => {
                for &person in who {
                    let races = self.state.events.iter().any(|event| matches!(event, StoryEvent::Win { .. }));
                    if *walked >> person & 1 == 0
                        && !races
                        && past.is_none()
                        && scene.places[to].home_of != Some(person)
                    {
                        let ask = format!("Where did {} go first?", self.name(person));
                        self.where_(QuestionKind::FirstGo, ask, to, None);
                    }
                    *walked |= 1 << person;
                }
            }
            StoryEvent::Put { who, thing, spot } => {
                let ask = format!("Where did {} hide {}?", self.name(who), self.the(thing));
                self.where_(QuestionKind::Spot, ask, scene.people[who].at, Some(spot));
            }
            StoryEvent::Find { who, thing } => {
                let the = self.the(thing);
                self.who(QuestionKind::Who, format!("Who found {the}?"), who);
                if let Lies::At { place, spot: Some(spot) } = scene.things[thing].lies {
                    let ask = format!("Where was {the} found?");
                    self.where_(QuestionKind::Spot, ask, place, Some(spot));
                }
            }
            StoryEvent::Give { from, to, thing } => self.gift(from, to, thing),
            StoryEvent::Trade { a, gives, b, gets } => {
                self.gift(a, b, gives);
                self.gift(b, a, gets);
            }
            StoryEvent::Want { who, thing } => self.what(format!("What did {} want to have?", self.name(who)), thing),
            StoryEvent::Make { who, thing, .. } => self.what(format!("What did {} make?", self.name(who)), thing),
            StoryEvent::Break { who, thing } => self.deed("broke", "break", who, thing),
            StoryEvent::Mend { who, thing } => self.deed("mended", "mend", who, thing),
            StoryEvent::Gather { who, verb, goods, n } => {
                self.count(format!("How many {goods} did {} {verb}?", self.name(who)), n);
            }
            StoryEvent::Share { from, to, goods, n } => {
                self.count(format!("How many {goods} did {} give to {}?", self.name(from), self.name(to)), n);
            }
            StoryEvent::Feel { who, feeling, ref why } => self.cause(who, feeling, why),
            StoryEvent::Win { who, over } => {
                self.who(QuestionKind::Who, "Who won the race?".to_string(), who);
                self.yes_no(1, format!("Did {} win the race?", self.name(who)), true);
                self.yes_no(1, format!("Did {} win the race?", self.name(over)), false);
            }
            _ => {}
        }
    }

    fn gift(&mut self, from: usize, to: usize, thing: usize) {
        let (giver, taker, the) = (self.name(from), self.name(to), self.the(thing));
        self.who(QuestionKind::Who, format!("Who gave {the} to {taker}?"), from);
        self.what(format!("What did {giver} give to {taker}?"), thing);
        self.yes_no(400 + thing, format!("Did {giver} give {the} to {taker}?"), true);
        self.yes_no(400 + thing, format!("Did {taker} give {the} to {giver}?"), false);
    }

    fn deed(&mut self, past: &str, verb: &str, who: usize, thing: usize) {
        let the = self.the(thing);
        self.who(QuestionKind::Who, format!("Who {past} {the}?"), who);
        let fact = 500 + usize::from(past == "mended");
        self.yes_no(fact, format!("Did {} {verb} {the}?", self.name(who)), true);
        let other = (0..self.state.ending.people.len()).find(|&p| p != who).unwrap_or(who);
        if other != who {
            self.yes_no(fact, format!("Did {} {verb} {the}?", self.name(other)), false);
        }
    }

    fn cause(&mut self, who: usize, feeling: Feeling, why: &str) {
        let feelings = &self.state.events;
        let reasons = feelings.iter().filter_map(|event| match event {
            StoryEvent::Feel { why: other, .. } if other != why => Some(other.clone()),
            _ => None,
        });
        let rivals = reasons.collect();
        let bare = why.strip_prefix("she ").or_else(|| why.strip_prefix("he "));
        let accept = bare.map(|bare| bare.strip_prefix("had ").unwrap_or(bare).to_string()).into_iter().collect();
        let ask = format!("Why was {} {}?", self.name(who), feeling.word());
        self.push(QuestionKind::Cause, ask, why.to_string(), accept, rivals);
    }

    /// Yes or no: where the hero was and was not.
    fn visits(&mut self) {
        let state = self.state;
        let hero = self.name(0);
        let mut seen = vec![false; state.ending.places.len()];
        seen[state.opening.people[0].at] = true;
        let mut gone = seen.clone();
        gone.fill(false);
        for event in &state.events {
            if let StoryEvent::Go { who, to, past } = event
                && who.contains(&0)
            {
                gone[*to] = true;
                seen[*to] = true;
                past.iter().for_each(|&past| seen[past] = true);
            }
        }
        for (place, ScenePlace { name, home_of, .. }) in state.ending.places.iter().enumerate() {
            // Whoever lives near a place may be said to be there: not asked.
            let near_home = |other: &ScenePlace| other.home_of == Some(0);
            let near =
                state.ending.places.iter().enumerate().any(|(o, p)| near_home(p) && state.ending.joined(o, place));
            if home_of.is_none() && !near && (gone[place] || !seen[place]) {
                self.yes_no(600 + place, format!("Did {hero} go to {name}?"), gone[place]);
            }
        }
    }

    /// Who helped whom, where it was one alone.
    fn helpers(&mut self) {
        let mut pairs: Vec<(usize, usize)> = Vec::new();
        for event in &self.state.events {
            if let StoryEvent::Help { who, whom } = *event
                && !pairs.contains(&(who, whom))
            {
                pairs.push((who, whom));
            }
        }
        for &(who, whom) in &pairs {
            if pairs.iter().filter(|pair| pair.1 == whom).count() == 1 {
                self.who(QuestionKind::Who, format!("Who helped {}?", self.name(whom)), who);
            }
            self.yes_no(700, format!("Did {} help {}?", self.name(who), self.name(whom)), true);
            if !pairs.contains(&(whom, who)) {
                self.yes_no(700, format!("Did {} help {}?", self.name(whom), self.name(who)), false);
            }
        }
    }
}

/// With a or an.
pub(super) fn article(noun: &str) -> String {
    let vowel = matches!(noun.as_bytes().first(), Some(b'a' | b'e' | b'i' | b'o' | b'u'));
    format!("{} {noun}", if vowel { "an" } else { "a" })
}
