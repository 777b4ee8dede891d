//! The simulated world of one story: who is where, who holds what, who feels what, and the events that change it.
//!
//! [`Scene::apply`] is the only thing that changes a scene, and it refuses what cannot happen: a gift of something one
//! does not hold, a trade between two who are apart, a search that overlooks what lies there.

use serde::Serialize;

/// What a story comes to, beside its text: ids in events and fields are positions in the scene's lists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoryState {
    /// Before the first event.
    pub opening: Scene,
    /// In the order of the text.
    pub events: Vec<StoryEvent>,
    /// After the last event.
    pub ending: Scene,
}

/// One moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
pub struct Scene {
    /// The cast; the hero is the first.
    pub people: Vec<Person>,
    /// Objects with a history.
    pub things: Vec<Thing>,
    /// Where the story happens.
    pub places: Vec<ScenePlace>,
    /// Pairs of neighboring places.
    pub roads: Vec<(usize, usize)>,
    /// Pairs that are not on speaking terms.
    pub quarrels: Vec<(usize, usize)>,
}

/// Somebody in the story.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Person {
    /// Unique in its story.
    pub name: &'static str,
    /// Animal, child or trade: `fox`, `girl`, `baker`.
    pub kind: &'static str,
    /// Whether `kind` is an animal.
    pub animal: bool,
    /// Spoken of as she, otherwise as he.
    pub female: bool,
    /// `brave`, `shy`, …
    pub character: &'static str,
    /// What the text says they love to do.
    pub likes: Option<&'static str>,
    /// Place.
    pub at: usize,
    /// The last feeling that the text tells.
    pub feels: Option<Feeling>,
    /// Cannot move.
    pub stuck: bool,
    /// Counted goods, by their plural: (`apples`, 7).
    pub goods: Vec<(&'static str, usize)>,
}

/// An object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Thing {
    /// Unique in its story.
    pub noun: &'static str,
    /// Absent for flour, eggs and the like.
    pub color: Option<&'static str>,
    /// `some` instead of `a`.
    pub mass: bool,
    /// `them` instead of `it`.
    pub plural: bool,
    /// Person it belongs to.
    pub owner: Option<usize>,
    /// Where it is.
    pub lies: Lies,
    /// False after it broke.
    pub whole: bool,
}

/// Where an object is: exactly one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Lies {
    /// In somebody's hands or pocket.
    With(usize),
    /// Somewhere, perhaps at a spot such as `under a bench`.
    At {
        /// Place.
        place: usize,
        /// Where there.
        spot: Option<&'static str>,
    },
    /// Not made yet.
    Unmade,
    /// Eaten, or baked into something.
    Gone,
}

/// A place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ScenePlace {
    /// `the garden`, or `Mia's house`.
    pub name: String,
    /// `in`, `at`, `by`, `on`.
    pub preposition: &'static str,
    /// Dry in the rain.
    pub indoor: bool,
    /// Whose house.
    pub home_of: Option<usize>,
}

/// Feelings that the text names and gives a reason for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each is its own explanation")]
pub enum Feeling {
    Happy,
    Sad,
    Angry,
    Afraid,
    Worried,
    Proud,
    Lonely,
    Sorry,
    Grateful,
}

impl Feeling {
    /// All of them.
    pub const ALL: [Feeling; 9] = [
        Feeling::Happy,
        Feeling::Sad,
        Feeling::Angry,
        Feeling::Afraid,
        Feeling::Worried,
        Feeling::Proud,
        Feeling::Lonely,
        Feeling::Sorry,
        Feeling::Grateful,
    ];

    /// The adjective.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Feeling::Happy => "happy",
            Feeling::Sad => "sad",
            Feeling::Angry => "angry",
            Feeling::Afraid => "afraid",
            Feeling::Worried => "worried",
            Feeling::Proud => "proud",
            Feeling::Lonely => "lonely",
            Feeling::Sorry => "sorry",
            Feeling::Grateful => "grateful",
        }
    }
}

/// Something that happens, and that the text tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
#[expect(missing_docs, reason = "fields are people, things and places by what they do")]
pub enum StoryEvent {
    /// All of `who` walk from one place to another, past a neighbor of it.
    Go { who: Vec<usize>, to: usize, past: Option<usize> },
    /// Picks up what lies openly, or is known to lie there.
    Take { who: usize, thing: usize },
    /// Puts down on purpose, perhaps to hide it.
    Put { who: usize, thing: usize, spot: &'static str },
    /// Drops without noticing.
    Lose { who: usize, thing: usize, spot: &'static str },
    /// The wind carries it away.
    Blow { thing: usize, to: usize, spot: &'static str },
    /// Looks for it where it is not.
    Search { who: usize, thing: usize },
    /// Comes upon it and picks it up.
    Find { who: usize, thing: usize },
    /// Owner and holder change.
    Give { from: usize, to: usize, thing: usize },
    /// Owner changes to who holds it already.
    Leave { from: usize, to: usize, thing: usize },
    /// Holder changes, owner does not.
    Hand { from: usize, to: usize, thing: usize },
    /// Two gifts at once.
    Trade { a: usize, gives: usize, b: usize, gets: usize },
    /// Wishes to have.
    Want { who: usize, thing: usize },
    /// Can be played with no more.
    Break { who: usize, thing: usize },
    /// Whole again.
    Mend { who: usize, thing: usize },
    /// Comes into being, in the hands of its maker.
    Make { who: usize, thing: usize, from: Vec<usize> },
    /// Nothing is left of it.
    Eat { who: Vec<usize>, thing: usize },
    /// Cannot move.
    Stick { who: usize },
    /// Can move again.
    Free { who: usize },
    /// Does somebody good.
    Help { who: usize, whom: usize },
    /// Counted goods appear: `verb` is the infinitive (`pick`).
    Gather { who: usize, verb: &'static str, goods: &'static str, n: usize },
    /// Counted goods change hands.
    Share { from: usize, to: usize, goods: &'static str, n: usize },
    /// Feels, and the text says why; `why` is a clause: `she had lost her kite`.
    Feel { who: usize, feeling: Feeling, why: String },
    /// Is first.
    Win { who: usize, over: usize },
    /// Falls out with.
    Quarrel { a: usize, b: usize },
    /// Is friends again.
    MakeUp { a: usize, b: usize },
}

impl Scene {
    fn together(&self, a: usize, b: usize) -> Result<(), &'static str> {
        (self.people[a].at == self.people[b].at).then_some(()).ok_or("they are not in one place")
    }

    fn holds(&self, who: usize, thing: usize) -> Result<(), &'static str> {
        (self.things[thing].lies == Lies::With(who)).then_some(()).ok_or("does not have it")
    }

    fn in_reach(&self, who: usize, thing: usize) -> Result<(), &'static str> {
        match self.things[thing].lies {
            Lies::At { place, .. } if place == self.people[who].at => Ok(()),
            _ => Err("it does not lie there"),
        }
    }

    fn near(&self, who: usize, thing: usize) -> Result<(), &'static str> {
        match self.things[thing].lies {
            Lies::With(other) => self.together(who, other),
            _ => self.in_reach(who, thing),
        }
    }

    /// Whether a road joins two places.
    #[must_use]
    pub fn joined(&self, a: usize, b: usize) -> bool {
        self.roads.contains(&(a, b)) || self.roads.contains(&(b, a))
    }

    /// How many of `goods` a person has.
    #[must_use]
    pub fn count(&self, who: usize, goods: &str) -> usize {
        self.people[who].goods.iter().find(|(name, _)| *name == goods).map_or(0, |&(_, n)| n)
    }

    fn add_goods(&mut self, who: usize, goods: &'static str, n: usize) {
        match self.people[who].goods.iter_mut().find(|(name, _)| *name == goods) {
            Some((_, have)) => *have += n,
            None => self.people[who].goods.push((goods, n)),
        }
    }

    /// Lets `event` happen.
    ///
    /// # Errors
    /// When it cannot happen now; the scene is then as it was.
    pub fn apply(&mut self, event: &StoryEvent) -> Result<(), &'static str> {
        match *event {
            StoryEvent::Go { ref who, to, past } => {
                if who.iter().any(|&p| self.people[p].stuck) {
                    return Err("who is stuck does not walk");
                }
                if who.iter().any(|&p| self.people[p].at == to) {
                    return Err("is there already");
                }
                if past.is_some_and(|past| !self.joined(past, to)) {
                    return Err("no road leads there");
                }
                who.iter().for_each(|&p| self.people[p].at = to);
            }
            StoryEvent::Take { who, thing } | StoryEvent::Find { who, thing } => {
                self.in_reach(who, thing)?;
                self.things[thing].lies = Lies::With(who);
            }
            StoryEvent::Put { who, thing, spot } | StoryEvent::Lose { who, thing, spot } => {
                self.holds(who, thing)?;
                self.things[thing].lies = Lies::At { place: self.people[who].at, spot: Some(spot) };
            }
            StoryEvent::Blow { thing, to, spot } => {
                if matches!(self.things[thing].lies, Lies::Unmade | Lies::Gone) {
                    return Err("there is nothing to blow away");
                }
                self.things[thing].lies = Lies::At { place: to, spot: Some(spot) };
            }
            StoryEvent::Search { who, thing } => {
                if self.near(who, thing).is_ok() {
                    return Err("it is there after all");
                }
            }
            StoryEvent::Give { from, to, thing } | StoryEvent::Hand { from, to, thing } => {
                self.together(from, to)?;
                self.holds(from, thing)?;
                self.things[thing].lies = Lies::With(to);
                if matches!(event, StoryEvent::Give { .. }) {
                    self.things[thing].owner = Some(to);
                }
            }
            StoryEvent::Leave { from, to, thing } => {
                self.together(from, to)?;
                self.holds(to, thing)?;
                self.things[thing].owner = Some(to);
            }
            StoryEvent::Trade { a, gives, b, gets } => {
                self.together(a, b)?;
                self.holds(a, gives)?;
                self.holds(b, gets)?;
                for (thing, to) in [(gives, b), (gets, a)] {
                    self.things[thing].lies = Lies::With(to);
                    self.things[thing].owner = Some(to);
                }
            }
            StoryEvent::Want { who, thing } => {
                if self.holds(who, thing).is_ok() {
                    return Err("has it already");
                }
            }
            StoryEvent::Break { who, thing } => {
                self.near(who, thing)?;
                self.things[thing].whole = false;
            }
            StoryEvent::Mend { who, thing } => {
                self.near(who, thing)?;
                if self.things[thing].whole {
                    return Err("it is whole");
                }
                self.things[thing].whole = true;
            }
            StoryEvent::Make { who, thing, ref from } => {
                if self.things[thing].lies != Lies::Unmade {
                    return Err("it exists already");
                }
                for &part in from {
                    self.near(who, part)?;
                }
                from.iter().for_each(|&part| self.things[part].lies = Lies::Gone);
                self.things[thing].lies = Lies::With(who);
                self.things[thing].owner = Some(who);
            }
            StoryEvent::Eat { ref who, thing } => {
                for &person in who {
                    self.near(person, thing)?;
                }
                self.things[thing].lies = Lies::Gone;
            }
            StoryEvent::Stick { who } => self.people[who].stuck = true,
            StoryEvent::Free { who } => {
                if !self.people[who].stuck {
                    return Err("is free");
                }
                self.people[who].stuck = false;
            }
            StoryEvent::Help { who, whom } => self.together(who, whom)?,
            StoryEvent::Gather { who, goods, n, .. } => self.add_goods(who, goods, n),
            StoryEvent::Share { from, to, goods, n } => {
                self.together(from, to)?;
                if self.count(from, goods) < n {
                    return Err("does not have so many");
                }
                let left = self.count(from, goods) - n;
                self.people[from].goods.retain(|(name, _)| *name != goods);
                self.people[from].goods.push((goods, left));
                self.add_goods(to, goods, n);
            }
            StoryEvent::Feel { who, feeling, .. } => self.people[who].feels = Some(feeling),
            StoryEvent::Win { who, over } => self.together(who, over)?,
            StoryEvent::Quarrel { a, b } => {
                self.together(a, b)?;
                self.quarrels.push((a, b));
            }
            StoryEvent::MakeUp { a, b } => {
                self.together(a, b)?;
                let before = self.quarrels.len();
                self.quarrels.retain(|&pair| pair != (a, b) && pair != (b, a));
                if self.quarrels.len() == before {
                    return Err("there was no quarrel");
                }
            }
        }
        Ok(())
    }
}
