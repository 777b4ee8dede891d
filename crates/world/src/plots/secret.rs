//! A hidden treasure: somebody hides it for a friend, and notes lead from place to place.

use crate::cast::CastPool;
use crate::grammar::Roles;
use crate::state::{Feeling, Lies, StoryEvent};
use crate::teller::Teller;
use crate::words;

pub(super) fn tell(t: &mut Teller<'_>) -> String {
    let p = t.place(|site| !site.indoor);
    let a = t.person(CastPool::Friend, p);
    let b = t.person(CastPool::Friend, p);
    let treasure = t.thing(words::TREASURES, Lies::With(b), Some(b));
    let (middle, last) = (t.place(|_| true), t.place(|_| true));
    let (middle_spot, last_spot) = (t.spot(middle), t.spot(last));
    let long = t.dice.chance(65);
    let roles = Roles { a, b, t: treasure, p, q: middle, r: last, w: middle_spot, x: last_spot, ..Roles::default() };

    t.hero(a, p);
    t.line(
        &roles,
        &[
            "{a.s} best friend was {b.new}.",
            "{A} had a good friend, and that was {b.new}.",
            "Next door lived {b.new}, and the two were good friends.",
        ],
    );
    t.paragraph();
    let day = t.day();
    t.line(
        &Roles { w: day, ..roles },
        &[
            "{w} {b} had a plan. There was {t.a} that {b.he} wanted to give to {a}, but not in the usual way.",
            "{w} {b} bought {t.a} for {a}. But {b.he} wanted to make a game of it.",
            "{w} {b} took {t.a} out of a drawer. It was meant for {a}, but first it had to be hidden.",
        ],
    );
    t.go(&[b], last);
    t.happen(StoryEvent::Put { who: b, thing: treasure, spot: last_spot });
    t.line(
        &roles,
        &[
            "There {b} hid {t} {x}.",
            "{B} looked around, saw nobody, and hid {t} {x}.",
            "With great care {b} hid {t} {x}.",
        ],
    );
    if long {
        t.go(&[b], middle);
        t.line(
            &roles,
            &[
                "{B} left a note {w}.",
                "There {b.he} left a note {w}.",
                "{B} wrote a few words on a note and left it {w}.",
            ],
        );
    }
    t.go(&[b], p);
    t.line(
        &roles,
        &[
            "\"There is a secret in this village,\" said {b} to {a}. \"Can you find it?\"",
            "\"{a}, I have hidden something for you,\" said {b}.",
            "\"Do you like riddles?\" {b} asked {a}. \"Then here is one for you.\"",
        ],
    );
    t.paragraph();
    if long {
        t.line(&roles, &["\"Go to {q} and look {w},\" said {b}.", "\"The first note is {w}, {q.at},\" said {b}."]);
        t.go(&[a], middle);
        t.line(
            &roles,
            &[
                "{A} looked {w} and found the note. It said: \"Now go on to {r}.\"",
                "And really, {w} there was a note. \"What you seek is {r.at},\" it said.",
            ],
        );
    } else {
        t.line(&roles, &["\"Look for it {r.at},\" said {b}.", "\"What you seek is {r.at},\" said {b}."]);
    }
    t.go(&[a], last);
    let wrong = t.spot(last);
    if wrong != last_spot {
        t.line(
            &Roles { w: wrong, ..roles },
            &[
                "{A} looked {w} first, but there was nothing.",
                "First {a} searched {w}, but that was wrong.",
                "There was nothing {w}, and {a} almost gave up.",
            ],
        );
    }
    t.happen(StoryEvent::Find { who: a, thing: treasure });
    t.line(
        &roles,
        &[
            "Then {a} looked {x}, and there was {t}!",
            "But what was that {x}? It was {t}!",
            "At last {a} found {t} {x}.",
        ],
    );
    t.feel(&roles, Feeling::Proud, "{a.he} had found the secret all alone");
    t.paragraph();
    t.go(&[a], p);
    t.line(
        &roles,
        &[
            "\"I found it!\" called {a}. \"It is yours now,\" said {b}.",
            "{B} was waiting. \"You are clever,\" said {b}. \"Keep it.\"",
            "\"Is this really for me?\" asked {a}. {B} nodded.",
        ],
    );
    t.happen(StoryEvent::Leave { from: b, to: a, thing: treasure });
    t.feel(&roles, Feeling::Grateful, "{b} had thought of such a fine game");
    t.line(
        &roles,
        &[
            "\"Tomorrow,\" said {a}, \"it is my turn to hide something.\"",
            "\"The looking was as nice as the finding,\" said {a}.",
            "They laughed, and {a} told {b} about every step of the way.",
            "Some gifts are best when one has to look for them.",
        ],
    );
    t.render(&roles, "The secret {r.at}")
}
