//! Two or three facts about two people, each a sentence with its event, and what can be asked about them: [`Ask`] knows
//! from the state whether the passage tells it.

use super::grammar::Roles;
use super::map::Map;
use super::questions::{QuestionKind, StoryQuestion, article};
use super::state::{Feeling, Lies, Scene, StoryEvent, StoryState, Thing};
use super::teller::Teller;
use super::words;
use gptkit_rng::Dice;

/// A few sentences and the state behind them.
pub(super) struct Passage {
    pub(super) text: String,
    pub(super) state: StoryState,
}

/// What a sentence can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fact {
    Go,
    Find,
    Love,
    Feel,
    Pick,
    Give,
}

const FACTS: [Fact; 6] = [Fact::Go, Fact::Find, Fact::Love, Fact::Feel, Fact::Pick, Fact::Give];

/// Goods that are picked and counted.
pub(super) const GOODS: &[&str] = &["apples", "cherries", "tomatoes", "melons", "pumpkins", "carrots"];

const REASONS: [(Feeling, &str); 8] = [
    (Feeling::Happy, "the storm was over"),
    (Feeling::Sad, "the field was still empty"),
    (Feeling::Angry, "nobody had helped"),
    (Feeling::Afraid, "the thunder was so loud"),
    (Feeling::Worried, "the ground was so dry"),
    (Feeling::Proud, "{a.he} had won the race"),
    (Feeling::Lonely, "{a.he} missed {a.his} friend"),
    (Feeling::Sorry, "{a.he} had told a lie"),
];

impl Passage {
    /// Both people are in it; what is told of whom is drawn.
    pub(super) fn draw(map: &Map, dice: Dice) -> (Self, Dice) {
        let mut teller = Teller::with_people(map, dice, 2);
        let mut told: Vec<(usize, Fact)> = Vec::new();
        let n = 2 + teller.dice.below(2);
        for i in 0..n {
            let who = if i < 2 { i } else { teller.dice.below(2) };
            let fact = loop {
                let fact = teller.dice.pick(&FACTS);
                let apart = teller.at(0) != teller.at(1);
                if !told.contains(&(who, fact)) && (fact != Fact::Give || !apart) {
                    break fact;
                }
            };
            told.push((who, fact));
            fact.tell(&mut teller, who, 1 - who);
        }
        let (text, state, dice) = teller.finish();
        (Self { text, state }, dice)
    }

    /// A passage, a question about `about` that it answers, and the value that it tells.
    pub(super) fn with_ask(map: &Map, mut dice: Dice, about: About) -> (Self, Ask, String, Dice) {
        loop {
            let (passage, mut rest) = Self::draw(map, dice);
            let asks = about.asks(&passage.state, &mut rest).into_iter();
            let mut told: Vec<(Ask, String)> =
                asks.filter_map(|ask| ask.told.clone().map(|told| (ask, told))).collect();
            if !told.is_empty() {
                let (ask, told) = told.swap_remove(rest.below(told.len()));
                return (passage, ask, told, rest);
            }
            dice = rest;
        }
    }

    /// What [`super::part::WorldPart`] goes by.
    pub(super) fn combination(&self) -> String {
        pair(&self.state.ending)
    }
}

/// The first two of a scene, in one order, whoever comes first in the text.
pub(super) fn pair(scene: &Scene) -> String {
    let mut names = [scene.people[0].name, scene.people[1].name];
    names.sort_unstable();
    names.join(" ")
}

/// All nouns that an object can have.
pub(super) fn nouns() -> Vec<&'static str> {
    let mut nouns = [words::TOYS, words::LIGHT, words::FRAGILE, words::TREASURES].concat();
    nouns.sort_unstable();
    nouns.dedup();
    nouns
}

/// `a red kite`, or `a kite` if its color is not told.
pub(super) fn phrase(thing: &Thing) -> String {
    match thing.color {
        Some(color) => article(&format!("{color} {}", thing.noun)),
        None => article(thing.noun),
    }
}

/// Adds an object; the text will tell its color in every second case.
fn some_thing(teller: &mut Teller<'_>, lies: Lies, owner: Option<usize>) -> usize {
    if teller.dice.chance(50) {
        teller.thing(words::TOYS, lies, owner)
    } else {
        teller.thing_of_no_color(words::TOYS, lies, owner)
    }
}

impl Fact {
    /// Lets it happen to `a`, and tells it.
    pub(super) fn tell(self, teller: &mut Teller<'_>, a: usize, b: usize) {
        let roles = Roles { a, b, ..Roles::default() };
        match self {
            Fact::Go => {
                let q = teller.place(|_| true);
                teller.happen(StoryEvent::Go { who: vec![a], to: q, past: None });
                teller.line(&Roles { q, ..roles }, &["{A} went to {q}.", "{A} walked to {q}."]);
            }
            Fact::Find => {
                let place = teller.at(a);
                let spot = if teller.dice.chance(50) { Some(teller.spot(place)) } else { None };
                let t = some_thing(teller, Lies::At { place, spot }, None);
                teller.happen(StoryEvent::Find { who: a, thing: t });
                match spot {
                    Some(w) => teller.line(&Roles { t, w, ..roles }, &["{A} found {t.a} {w}."]),
                    None => teller.line(&Roles { t, ..roles }, &["{A} found {t.a}."]),
                }
            }
            Fact::Love => {
                let w = teller.liking(a);
                teller.line(&Roles { w, ..roles }, &["{A} loved {w}.", "{A} liked {w} best of all."]);
            }
            Fact::Feel => {
                let (feeling, why) = teller.dice.pick(&REASONS);
                let told = teller.dice.chance(50);
                let why = if told { teller.render_aside(&roles, why) } else { String::new() };
                teller.happen(StoryEvent::Feel { who: a, feeling, why: why.clone() });
                let roles = Roles { w: feeling.word(), x: &why, ..roles };
                if told {
                    teller.line(&roles, &["{A} was {w} because {x}.", "{A} felt {w} because {x}."]);
                } else {
                    teller.line(&roles, &["{A} was {w}.", "{A} felt {w}."]);
                }
            }
            Fact::Pick => {
                let goods = teller.dice.pick(GOODS);
                let n = 2 + teller.dice.below(8);
                teller.happen(StoryEvent::Gather { who: a, verb: "pick", goods, n });
                teller.line(&Roles { n, w: goods, ..roles }, &["{A} picked {n} {w}."]);
            }
            Fact::Give => {
                let t = some_thing(teller, Lies::With(a), Some(a));
                teller.happen(StoryEvent::Give { from: a, to: b, thing: t });
                teller.line(&Roles { t, ..roles }, &["{A} gave {t.a} to {b}."]);
            }
        }
    }
}

/// What a question is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum About {
    Went,
    Found,
    Loved,
    Felt,
    Why,
    Picked,
    Gave,
    Color,
    Spot,
}

impl About {
    pub(super) const ALL: [About; 9] = [
        About::Went,
        About::Found,
        About::Loved,
        About::Felt,
        About::Why,
        About::Picked,
        About::Gave,
        About::Color,
        About::Spot,
    ];
}

/// A question about a passage, with its answer if the passage tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) question: String,
    kind: QuestionKind,
    /// The answer is said as `lead`, value, `tail`.
    lead: String,
    tail: String,
    /// The value, if it is told: `the pond`.
    pub(super) told: Option<String>,
    accept: Vec<String>,
    /// Wrong values of the same sort, in the same form.
    pub(super) rivals: Vec<String>,
}

impl Ask {
    /// The answer as a sentence, with this value.
    pub(super) fn say(&self, value: &str) -> String {
        format!("{}{value}{}", self.lead, self.tail)
    }

    /// For the grader, with `told` for the answer: it refuses what is said of another person or thing than the question names.
    pub(super) fn graded(&self, told: &str) -> StoryQuestion {
        let mut strangers = [words::SHE, words::HE].concat();
        if matches!(self.kind, QuestionKind::Color | QuestionKind::Spot) {
            strangers.extend(nouns());
        }
        StoryQuestion {
            kind: self.kind,
            ask: self.question.clone(),
            answer: told.to_string(),
            accept: self.accept.clone(),
            rivals: self.rivals.iter().map(String::as_str).chain(strangers).map(str::to_string).collect(),
        }
    }
}

fn others<'s>(all: impl IntoIterator<Item = &'s str>, told: Option<&str>) -> Vec<String> {
    all.into_iter().filter(|other| Some(*other) != told).map(str::to_string).collect()
}

impl About {
    /// One question for every person or thing of whom it can be asked.
    pub(super) fn asks(self, state: &StoryState, dice: &mut Dice) -> Vec<Ask> {
        let n = match self {
            About::Color | About::Spot => state.ending.things.len(),
            _ => state.ending.people.len(),
        };
        (0..n).filter_map(|of| self.ask(of, state, dice)).collect()
    }

    fn ask(self, of: usize, state: &StoryState, dice: &mut Dice) -> Option<Ask> {
        let Scene { people, things, places, .. } = &state.ending;
        let happened = |wanted: &dyn Fn(&StoryEvent) -> bool| state.events.iter().find(|event| wanted(event));
        let went =
            |who: usize| happened(&|event| matches!(event, StoryEvent::Go { who: all, .. } if all.contains(&who)));
        let name = people[of.min(people.len() - 1)].name;
        Some(match self {
            About::Went => {
                let told = went(of).and_then(|event| match event {
                    StoryEvent::Go { to, .. } => Some(places[*to].name.as_str()),
                    _ => None,
                });
                Ask {
                    question: format!("Where did {name} go?"),
                    kind: QuestionKind::FirstGo,
                    lead: format!("{name} went to "),
                    tail: ".".to_string(),
                    accept: Vec::new(),
                    rivals: others(words::SITES.iter().map(|site| site.name), told),
                    told: told.map(str::to_string),
                }
            }
            About::Found | About::Gave => {
                let thing = state.events.iter().find_map(|event| match *event {
                    StoryEvent::Find { who, thing } if self == About::Found && who == of => Some(thing),
                    StoryEvent::Give { from, thing, .. } if self == About::Gave && from == of => Some(thing),
                    _ => None,
                });
                let other = people[1 - of].name;
                let (question, lead, tail) = if self == About::Found {
                    (format!("What did {name} find?"), format!("{name} found "), ".".to_string())
                } else {
                    (format!("What did {name} give to {other}?"), format!("{name} gave "), format!(" to {other}."))
                };
                let thing = thing.map(|thing| &things[thing]);
                let noun = thing.map(|thing| thing.noun);
                let color = thing.and_then(|thing| thing.color);
                let told = thing.map(phrase);
                let mut rivals: Vec<String> = others(nouns(), noun).iter().map(|noun| article(noun)).collect();
                rivals.extend(others(words::COLORS.iter().copied(), color));
                let accept = noun.map(str::to_string).into_iter().collect();
                Ask { question, kind: QuestionKind::What, lead, tail, told, accept, rivals }
            }
            About::Loved => Ask {
                question: format!("What did {name} love to do?"),
                kind: QuestionKind::Likes,
                lead: format!("{name} loved "),
                tail: ".".to_string(),
                told: people[of].likes.map(str::to_string),
                accept: Vec::new(),
                rivals: others(words::LIKES.iter().copied(), people[of].likes),
            },
            About::Felt => {
                let told = people[of].feels.map(Feeling::word);
                Ask {
                    question: format!("How did {name} feel?"),
                    kind: QuestionKind::Feeling,
                    lead: format!("{name} felt "),
                    tail: ".".to_string(),
                    told: told.map(str::to_string),
                    accept: Vec::new(),
                    rivals: others(Feeling::ALL.map(Feeling::word), told),
                }
            }
            About::Why => {
                let word = people[of].feels?.word(); // a question that presupposes the feeling
                let why = state.events.iter().find_map(|event| match event {
                    StoryEvent::Feel { who, why, .. } if *who == of && !why.is_empty() => Some(why.clone()),
                    _ => None,
                });
                let bare = why.as_deref().and_then(|why| why.strip_prefix("she ").or(why.strip_prefix("he ")));
                Ask {
                    question: format!("Why was {name} {word}?"),
                    kind: QuestionKind::Cause,
                    lead: format!("{name} was {word} because "),
                    tail: ".".to_string(),
                    accept: bare.map(str::to_string).into_iter().collect(),
                    rivals: reasons(why.as_deref(), people[of].female),
                    told: why,
                }
            }
            About::Picked => {
                let told = people[of].goods.first().copied();
                let seen = people.iter().find_map(|person| person.goods.first()).map(|(goods, _)| *goods);
                let goods = told.map(|(goods, _)| goods).or(seen).unwrap_or_else(|| dice.pick(GOODS));
                let n = told.map(|(_, n)| words::NUMBERS[n]);
                Ask {
                    question: format!("How many {goods} did {name} pick?"),
                    kind: QuestionKind::Count,
                    lead: format!("{name} picked "),
                    tail: format!(" {goods}."),
                    told: n.map(str::to_string),
                    accept: Vec::new(),
                    rivals: others(words::NUMBERS[2..10].iter().copied(), n),
                }
            }
            About::Color => {
                let noun = things[of].noun;
                let told = things[of].color;
                Ask {
                    question: format!("What color was the {noun}?"),
                    kind: QuestionKind::Color,
                    lead: format!("The {noun} was "),
                    tail: ".".to_string(),
                    told: told.map(str::to_string),
                    accept: Vec::new(),
                    rivals: others(words::COLORS.iter().copied(), told),
                }
            }
            About::Spot => {
                let noun = things[of].noun;
                let finder = state.events.iter().find_map(|event| match *event {
                    StoryEvent::Find { who, thing } if thing == of => Some(who),
                    _ => None,
                });
                let spot = match state.opening.things[of].lies {
                    Lies::At { spot, .. } => spot,
                    _ => None,
                };
                // Whoever went somewhere may have found it there: neither told nor not told.
                if spot.is_none() && finder.is_some_and(|who| went(who).is_some()) {
                    return None;
                }
                Ask {
                    question: format!("Where was the {noun} found?"),
                    kind: QuestionKind::Spot,
                    lead: format!("The {noun} was found "),
                    tail: ".".to_string(),
                    told: spot.map(str::to_string),
                    accept: Vec::new(),
                    rivals: others(words::SITES.iter().flat_map(|site| site.spots), spot),
                }
            }
        })
    }
}

/// All reasons but this, for a person spoken of so.
pub(super) fn reasons(but: Option<&str>, female: bool) -> Vec<String> {
    let (he, his) = if female { ("she", "her") } else { ("he", "his") };
    REASONS
        .iter()
        .map(|(_, why)| why.replace("{a.he}", he).replace("{a.his}", his))
        .filter(|why| Some(why.as_str()) != but)
        .collect()
}
