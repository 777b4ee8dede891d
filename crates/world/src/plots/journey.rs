//! A journey: something must be carried from one end of the map to the other, and the way is not what it was.

use crate::cast::CastPool;
use crate::grammar::Roles;
use crate::state::{Feeling, Lies, StoryEvent};
use crate::teller::Teller;

/// What bars the way, what helps, and how it is passed.
const BARS: [(&str, &str, &str); 4] = [
    (
        "Behind {q} a wide stream ran across the path.",
        "the water was so deep",
        "{B} laid a log over the stream, and so they crossed it.",
    ),
    (
        "Not far from {q} a big tree had fallen across the path.",
        "the path was blocked",
        "{B} knew a gap under the tree, and they crept through it one after the other.",
    ),
    (
        "Behind {q} there was thick fog, and the path was hard to see.",
        "{a.he} had lost the path",
        "{B} knew every stone of the path and went ahead.",
    ),
    (
        "Behind {q} the path split in two, and there was no sign.",
        "{a.he} did not know the way",
        "{B} had lived here for a long time and pointed to the left.",
    ),
];

pub(super) fn tell(t: &mut Teller<'_>) -> String {
    let p = t.place(|site| !site.indoor);
    let a = t.person(CastPool::Friend, p);
    let c = t.worker();
    let goal = t.at(c);
    let middle = t.place(|site| !site.indoor);
    let b = t.person(CastPool::Animal, middle);
    let load = t.thing(
        &["basket", "letter", "blanket", "lantern", "clock", "book", "scarf", "box", "jug"],
        Lies::With(a),
        Some(a),
    );
    let roles = Roles { a, b, c, t: load, p, q: middle, r: goal, ..Roles::default() };

    t.hero(a, p);
    t.paragraph();
    let w = t.day();
    t.line(
        &Roles { w, ..roles },
        &[
            "{w} {a} had a task. {A} had to bring {t.a} to {c.new}, far away {r.at}.",
            "{w} {a} packed {t.a}. It was for {c.new}, who was {r.at} and waited for it.",
            "{w} {a.s} mother said, \"Please take this to {c.first} the {c.kind}. You will find {c.him} {r.at}.\" It was {t.a}.",
        ],
    );
    t.line(
        &roles,
        &[
            "\"I can do that,\" said {a}.",
            "It was a long way, but {a} was not afraid.",
            "\"Do not lose it,\" said {a.his} mother.",
            "{A} had never gone so far alone.",
        ],
    );
    t.go(&[a], middle);
    let (bar, why, way) = &BARS[t.dice.below(BARS.len())];
    t.line(&roles, std::slice::from_ref(bar));
    t.feel(&roles, Feeling::Worried, why);
    t.maybe(
        50,
        &roles,
        &[
            "\"What shall I do now?\" said {a}.",
            "{A} looked left and right, but nobody was there to ask.",
            "{A} nearly turned back.",
        ],
    );

    t.paragraph();
    t.line(
        &roles,
        &[
            "Then {b.new} came along.",
            "\"Hello there!\" somebody called. It was {b.new}.",
            "In the grass sat {b.new} and looked up.",
        ],
    );
    let hungry = t.dice.chance(50);
    if hungry {
        t.happen(StoryEvent::Help { who: a, whom: b });
        t.line(
            &roles,
            &[
                "\"I am so hungry,\" said {b}. {A} helped {b} and shared {a.his} bread.",
                "{B} had hurt one foot. {A} helped {b} and washed it with clean water.",
            ],
        );
    }
    t.line(
        &roles,
        &[
            "\"Where are you going?\" asked {b}. \"To {r},\" said {a}, \"but I cannot get on.\"",
            "\"I have to get to {r},\" said {a}. \"Is there a way?\"",
        ],
    );
    t.happen(StoryEvent::Help { who: b, whom: a });
    t.line(
        &roles,
        &[
            "\"Let me help you,\" said {b}.",
            "\"There is always a way,\" said {b}, and helped {a}.",
            "\"I will help you,\" said {b}.",
        ],
    );
    t.line(&roles, std::slice::from_ref(way));
    let along = t.dice.chance(50);
    t.paragraph();
    if along {
        t.go(&[a, b], goal);
    } else {
        t.line(
            &roles,
            &[
                "\"Good luck!\" called {b} and stayed behind.",
                "{A} said thank you and went on alone, while {b} stayed behind.",
            ],
        );
        t.go(&[a], goal);
    }
    t.line(
        &roles,
        &["{C} was waiting at the door.", "{C} looked up from work and waved.", "{C} was glad to see somebody come."],
    );
    t.happen(StoryEvent::Give { from: a, to: c, thing: load });
    t.line(&roles, &["{A} gave {t} to {c}.", "\"I have something for you,\" said {a}, and gave {t} to {c}."]);
    t.feel(&Roles { a: c, b: a, ..roles }, Feeling::Grateful, "{b} had come such a long way");
    t.feel(&roles, Feeling::Proud, "{a.he} had made the whole journey");
    t.line(
        &roles,
        &[
            "They drank hot tea and talked until it was dark.",
            "\"You must be tired,\" said {c}, and brought soup and bread.",
            "\"You can sleep here tonight,\" said {c}. And that night {a} dreamed of long, winding paths.",
            "\"Who asks for help gets far,\" said {c}.",
        ],
    );
    t.render(&roles, "The long way to {r}")
}
