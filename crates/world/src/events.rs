//! Events that many stories share, each together with its sentence.

use super::grammar::Roles;
use super::state::{Feeling, StoryEvent};
use super::teller::{NO_SITE, Teller};
use super::words::{self, SITES};

impl Teller<'_> {
    /// What happens, without a sentence: the caller's next line tells it.
    pub(super) fn happen(&mut self, event: StoryEvent) {
        let outcome = self.scene.apply(&event);
        debug_assert!(outcome.is_ok(), "{event:?}: {outcome:?}\n{}", self.prose.text());
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
        let been = |event: &StoryEvent| matches!(event, StoryEvent::Go { who: walkers, to: there, .. } if *there == to && walkers.contains(&who[0]));
        let back = self.opening.people[who[0]].at == to || self.events.iter().any(been);
        self.happen(StoryEvent::Go { who: who.to_vec(), to, past });
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
        let before = (self.prose.mentioned, self.prose.first);
        let why = self.render(roles, why);
        let mentioned = self.prose.mentioned;
        self.happen(StoryEvent::Feel { who: roles.a, feeling, why: why.clone() });
        (self.prose.mentioned, self.prose.first) = before;
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
        self.prose.mentioned_before |= mentioned;
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
