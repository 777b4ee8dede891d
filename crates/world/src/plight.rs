//! Short courses of events, each with the sentence that must follow: what it says is read from the scene, after the last
//! event, and so is the contradiction of it.

use super::grammar::Roles;
use super::state::{Lies, StoryEvent};
use super::teller::Teller;
use super::words;

/// What happens; each needs three people in one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plight {
    Gift,
    Trade,
    Meeting,
    Hiding,
    Race,
    Breakage,
    Return,
}

/// The sentence that follows: `stem` and `right`; with `wrong` instead it would be false.
#[derive(Debug, Clone)]
pub(super) struct Ending {
    pub(super) stem: String,
    pub(super) right: String,
    pub(super) wrong: String,
}

impl Ending {
    pub(super) fn sentence(&self) -> String {
        format!("{} {}.", self.stem, self.right)
    }

    pub(super) fn contradiction(&self) -> String {
        format!("{} {}.", self.stem, self.wrong)
    }
}

impl Plight {
    pub(super) const ALL: [Plight; 7] =
        [Plight::Gift, Plight::Trade, Plight::Meeting, Plight::Hiding, Plight::Race, Plight::Breakage, Plight::Return];

    /// Tells it of the first two or three people, in drawn roles.
    pub(super) fn tell(self, t: &mut Teller<'_>) -> Ending {
        let turned = t.dice.chance(50);
        let (a, b) = if turned { (1, 0) } else { (0, 1) };
        let c = 2;
        let roles = Roles { a, b, c, ..Roles::default() };
        let (stem, [right, wrong]) = match self {
            Plight::Gift => gift(t, roles),
            Plight::Trade => trade(t, roles),
            Plight::Meeting => meeting(t, roles),
            Plight::Hiding => hiding(t, roles),
            Plight::Race => race(t, roles),
            Plight::Breakage => breakage(t, roles),
            Plight::Return => give_back(t, roles),
        };
        Ending { stem, right, wrong }
    }
}

/// The stem; what holds, and what does not.
type Consequence = (String, [String; 2]);

fn name(t: &Teller<'_>, who: usize) -> String {
    t.scene.people[who].name.to_string()
}

fn the(t: &Teller<'_>, thing: usize) -> String {
    let thing = &t.scene.things[thing];
    format!("the {} {}", thing.color.unwrap_or_default(), thing.noun)
}

/// One or the other, the one that holds first.
fn of_two(first: bool, one: String, other: String) -> [String; 2] {
    if first { [one, other] } else { [other, one] }
}

fn gift(t: &mut Teller<'_>, roles: Roles<'_>) -> Consequence {
    let (a, b) = (roles.a, roles.b);
    let thing = t.thing(words::TOYS, Lies::With(a), Some(a));
    let roles = Roles { t: thing, ..roles };
    t.line(&roles, &["{A} had {t.a}."]);
    t.happen(StoryEvent::Give { from: a, to: b, thing });
    t.line(&roles, &["{A} gave the {t.n} to {b}."]);
    if t.dice.chance(50) {
        t.happen(StoryEvent::Give { from: b, to: a, thing });
        t.line(&roles, &["{b} gave it back to {a}."]);
    }
    let names = of_two(t.scene.things[thing].owner == Some(a), name(t, a), name(t, b));
    (format!("Now the {} belonged to", t.scene.things[thing].noun), names)
}

fn trade(t: &mut Teller<'_>, roles: Roles<'_>) -> Consequence {
    let (a, b) = (roles.a, roles.b);
    let one = t.thing(words::TOYS, Lies::With(a), Some(a));
    let two = t.thing(words::TOYS, Lies::With(b), Some(b));
    let roles = Roles { t: one, u: two, ..roles };
    t.line(&roles, &["{a} had {t.a}, and {b} had {u.a}."]);
    t.happen(StoryEvent::Trade { a, gives: one, b, gets: two });
    t.line(&roles, &["So they traded."]);
    let who = if t.dice.chance(50) { a } else { b };
    let things = of_two(t.scene.things[one].lies == Lies::With(who), the(t, one), the(t, two));
    (format!("Now {} had", name(t, who)), things)
}

fn meeting(t: &mut Teller<'_>, roles: Roles<'_>) -> Consequence {
    let Roles { a, b, c, .. } = roles;
    let [q, r] = [t.place(|_| true), t.place(|_| true)];
    t.seat(b, q);
    t.seat(c, r);
    let to = if t.dice.chance(50) { q } else { r };
    t.line(&Roles { q, r, ..roles }, &["{b} was {q.at}, and {c} was {r.at}."]);
    t.happen(StoryEvent::Go { who: vec![a], to, past: None });
    t.line(&Roles { q: to, ..roles }, &["{A} went to {q}."]);
    let names = of_two(t.at(b) == t.at(a), name(t, b), name(t, c));
    (format!("There {} met", name(t, a)), names)
}

fn hiding(t: &mut Teller<'_>, roles: Roles<'_>) -> Consequence {
    let (a, b) = (roles.a, roles.b);
    let place = t.at(a);
    let w = t.spot(place);
    let x = loop {
        let other = t.spot(place);
        if other != w {
            break other;
        }
    };
    let one = t.thing(words::TREASURES, Lies::With(a), Some(a));
    let two = t.thing(words::TREASURES, Lies::With(b), Some(b));
    let roles = Roles { t: one, u: two, w, x, ..roles };
    t.happen(StoryEvent::Put { who: a, thing: one, spot: w });
    t.line(&roles, &["{A} hid {t.a} {w}."]);
    t.happen(StoryEvent::Put { who: b, thing: two, spot: x });
    t.line(&roles, &["{B} hid {u.a} {x}."]);
    let (sought, other) = if t.dice.chance(50) { (one, two) } else { (two, one) };
    let lies = |thing: usize| match t.scene.things[thing].lies {
        Lies::At { spot: Some(spot), .. } => spot.to_string(),
        _ => String::new(),
    };
    (format!("So the {} lay", t.scene.things[sought].noun), [lies(sought), lies(other)])
}

fn race(t: &mut Teller<'_>, roles: Roles<'_>) -> Consequence {
    let (a, b) = (roles.a, roles.b);
    t.line(&roles, &["{a} and {b} ran a race."]);
    let first = t.dice.chance(50);
    if first {
        t.line(&roles, &["{a} ran faster.", "{b} fell over a stone."]);
        t.happen(StoryEvent::Win { who: a, over: b });
    } else {
        t.line(&roles, &["{b} ran faster.", "{a} fell over a stone."]);
        t.happen(StoryEvent::Win { who: b, over: a });
    }
    ("So the race was won by".to_string(), of_two(first, name(t, a), name(t, b)))
}

fn breakage(t: &mut Teller<'_>, roles: Roles<'_>) -> Consequence {
    let a = roles.a;
    let one = t.thing(words::FRAGILE, Lies::With(a), Some(a));
    let two = t.thing(words::FRAGILE, Lies::With(a), Some(a));
    let broken = if t.dice.chance(50) { one } else { two };
    t.line(&Roles { t: one, u: two, ..roles }, &["{A} had {t.a} and {u.a}."]);
    t.happen(StoryEvent::Break { who: roles.b, thing: broken });
    t.line(&Roles { t: broken, ..roles }, &["{B} broke the {t.n}."]);
    let things = of_two(t.scene.things[one].whole, the(t, one), the(t, two));
    ("Now the only whole toy was".to_string(), things)
}

fn give_back(t: &mut Teller<'_>, roles: Roles<'_>) -> Consequence {
    let Roles { a, b, c, .. } = roles;
    let place = t.at(a);
    let spot = t.spot(place);
    let one = t.thing(words::TOYS, Lies::With(a), Some(a));
    let two = t.thing(words::TOYS, Lies::With(b), Some(b));
    for (who, thing) in [(a, one), (b, two)] {
        t.happen(StoryEvent::Lose { who, thing, spot });
    }
    t.line(&Roles { t: one, u: two, ..roles }, &["{a} lost {t.a}, and {b} lost {u.a}."]);
    let found = if t.dice.chance(50) { one } else { two };
    t.happen(StoryEvent::Find { who: c, thing: found });
    t.line(&Roles { t: found, ..roles }, &["{C} found the {t.n}."]);
    let names = of_two(t.scene.things[found].owner == Some(a), name(t, a), name(t, b));
    (format!("So {} gave it back to", name(t, c)), names)
}
