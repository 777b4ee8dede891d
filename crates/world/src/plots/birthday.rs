//! A birthday: it looks as if all had forgotten, while they prepare a surprise.

use crate::cast::CastPool;
use crate::grammar::Roles;
use crate::state::{Feeling, Lies, StoryEvent};
use crate::teller::Teller;
use crate::words;

pub(super) fn tell(t: &mut Teller<'_>) -> String {
    let p = t.place(|site| !site.indoor);
    let a = t.person(CastPool::Friend, p);
    let home = t.house(a, p);
    t.seat(a, home);
    let (b_at, c_at) = (t.place(|_| true), t.place(|_| true));
    let party = t.place(|site| site.name != "the cave");
    let (b, c) = (t.person(CastPool::Friend, b_at), t.person(CastPool::Friend, c_at));
    let gift_b = t.thing(words::TOYS, Lies::With(b), Some(b));
    let gift_c = t.thing(words::TOYS, Lies::With(c), Some(c));
    let roles = Roles { a, b, c, t: gift_b, u: gift_c, p, q: home, r: party, ..Roles::default() };

    t.hero(a, p);
    t.paragraph();
    t.line(
        &roles,
        &[
            "One morning {a} woke up early, for it was {a.his} birthday.",
            "{A} jumped out of bed. It was {a.his} birthday!",
            "The day had come at last. It was {a.s} birthday.",
        ],
    );
    let visits = [(b, b_at), (c, c_at)];
    for (i, (friend, at)) in visits.into_iter().enumerate() {
        t.go(&[a], at);
        let here = Roles { b: friend, p: at, ..roles };
        t.line(&here, &["There {a.he} met {b.new}.", "{b.new} was there.", "{A} found {b.new} there."]);
        if i == 0 {
            t.line(
                &here,
                &[
                    "\"Do you know what day it is?\" asked {a}. \"Of course,\" said {b}. \"It is washing day.\"",
                    "\"It is a special day,\" said {a}. \"Is it?\" said {b}. \"I have no time now.\"",
                    "\"Good morning!\" said {b}, and nothing more.",
                ],
            );
        } else {
            t.line(
                &here,
                &[
                    "But {b} only said, \"I am busy today. Come back in the evening.\"",
                    "{B} quickly put something into a bag. \"I have to go,\" said {b}.",
                    "\"Nice weather today,\" said {b}, and hurried away around a corner.",
                ],
            );
        }
    }
    t.feel(&roles, Feeling::Sad, "it seemed that everybody had forgotten {a.his} birthday");
    t.show(&roles);
    t.go(&[a], home);

    t.paragraph();
    t.happen(StoryEvent::Go { who: vec![b], to: party, past: None });
    t.happen(StoryEvent::Go { who: vec![c], to: party, past: None });
    t.line(
        &roles,
        &[
            "Meanwhile {b} and {c} met {r.at}.",
            "But at that very time {b} and {c} were on their way to {r}.",
            "Soon after that, {b} and {c} were busy {r.at}.",
        ],
    );
    t.line(
        &roles,
        &[
            "They had a plan. They hung up colored lamps and laid a long table.",
            "There they set up a table, with a cloth and candles. Nobody had forgotten anything!",
        ],
    );
    let fetcher = if t.dice.chance(50) { b } else { c };
    let fetch = Roles { b: fetcher, ..roles };
    t.go(&[fetcher], home);
    t.line(
        &fetch,
        &[
            "\"Come with me, {a},\" said {b}. \"I have to show you something.\"",
            "\"{a}, I need your help,\" said {b}. \"Come quickly!\"",
        ],
    );
    t.go(&[a, fetcher], party);
    t.line(
        &roles,
        &[
            "\"Surprise!\" everybody cried. \"Happy birthday, {a}!\"",
            "There were lights and songs. \"Happy birthday, dear {a}!\" they sang.",
        ],
    );
    t.paragraph();
    t.happen(StoryEvent::Give { from: b, to: a, thing: gift_b });
    t.line(&roles, &["{B} gave {a} {t.a}.", "From {b}, {a} got {t.a}.", "First {b} gave {a} {t.a}."]);
    t.happen(StoryEvent::Give { from: c, to: a, thing: gift_c });
    t.line(&roles, &["{C} gave {a} {u.a}.", "From {c}, {a} got {u.a}.", "Then {c} gave {a} {u.a}."]);
    t.feel(&roles, Feeling::Happy, "{a.his} friends had thought of {a.him} all the time");
    t.show(&roles);
    t.line(
        &roles,
        &[
            "\"And I believed that you had forgotten me,\" said {a}. \"Never,\" said {b} and {c}.",
            "They ate cake and danced until the moon stood in the sky.",
            "\"This is the best birthday of my life,\" said {a}.",
            "\"Was it hard to keep the secret?\" asked {a}. \"Very hard!\" said {b}, and all of them laughed.",
        ],
    );
    t.render(&roles, "{a.s} birthday")
}
