//! Somebody is stuck: one alone cannot help, a tool and a second pair of hands can.

use crate::cast::CastPool;
use crate::grammar::Roles;
use crate::state::{Feeling, Lies, StoryEvent};
use crate::teller::Teller;
use crate::words;

struct Trap {
    where_: &'static str,
    why: &'static str,
    tool: &'static str,
    attempt: &'static str,
    rescue: &'static str,
}

const TRAPS: [Trap; 4] = [
    Trap {
        where_: "in the deep mud",
        why: "{a.he} could not get out of the mud",
        tool: "rope",
        attempt: "{A} pulled as hard as {a.he} could, but the mud held {b} fast.",
        rescue: "{A} threw one end of {t} to {b}, and then {a} and {c} pulled. With a loud plop {b} came out of the mud.",
    },
    Trap {
        where_: "in a deep hole",
        why: "the hole was too deep to climb out",
        tool: "ladder",
        attempt: "{A} reached down into the hole, but {a.his} arm was too short.",
        rescue: "{C} let {t} down into the hole, {a} held it, and {b} climbed up step by step.",
    },
    Trap {
        where_: "in a thorn bush",
        why: "the thorns held {a.him} from all sides",
        tool: "thick blanket",
        attempt: "{A} tried to push the branches aside, but the thorns were too sharp.",
        rescue: "They laid {t} over the thorns, and {a} and {c} lifted {b} out.",
    },
    Trap {
        where_: "under a fallen branch",
        why: "the branch was too heavy to move",
        tool: "long pole",
        attempt: "{A} pushed against the branch, but it did not move at all.",
        rescue: "{C} put {t} under the branch, {a} pushed, and {b} slipped out.",
    },
];

pub(super) fn tell(t: &mut Teller<'_>) -> String {
    let trap = &TRAPS[t.dice.below(TRAPS.len())];
    let p = t.place(|site| !site.indoor && site.name != "the meadow");
    let q = t.place(|site| {
        matches!(site.name, "the forest" | "the river" | "the hill" | "the pond" | "the orchard" | "the lake")
    });
    let a = t.person(CastPool::Friend, p);
    let b = t.person(CastPool::Animal, q);
    let c = t.worker();
    let r = t.at(c);
    let tool = t.plain_thing(trap.tool, Lies::With(c), Some(c));
    let gift = t.thing(words::TOYS, Lies::With(b), Some(b));
    let roles = Roles { a, b, c, t: tool, u: gift, p, q, r, w: trap.where_, ..Roles::default() };

    t.hero(a, p);
    t.paragraph();
    let day = t.day();
    t.line(
        &Roles { w: day, ..roles },
        &[
            "{w} {a} went out to look for berries.",
            "{w} {a} took a walk.",
            "{w} {a} felt like a walk in the fresh air.",
        ],
    );
    t.go(&[a], q);
    t.line(
        &roles,
        &[
            "Suddenly somebody called for help.",
            "\"Help! Help!\" cried a thin voice.",
            "Then {a} heard somebody cry.",
            "But what was that sound? Somebody was calling.",
        ],
    );
    t.happen(StoryEvent::Stick { who: b });
    t.line(
        &roles,
        &[
            "It was {b.new}, stuck {w}.",
            "{A} followed the voice and found {b.new}, stuck {w}.",
            "There, {w}, was {b.new}, and could not move.",
        ],
    );
    let feeling = if t.dice.chance(70) { Feeling::Afraid } else { Feeling::Worried };
    t.feel(&Roles { a: b, ..roles }, feeling, trap.why);
    t.line(
        &roles,
        &[
            "\"Wait, I will help you,\" said {a}.",
            "\"Do not be afraid,\" said {a}. \"I am here now.\"",
            "\"Stay still,\" said {a}. \"I will try to get you out.\"",
        ],
    );
    t.line(&roles, std::slice::from_ref(&trap.attempt));
    t.line(
        &roles,
        &[
            "\"I cannot do it alone,\" said {a}. \"I will be back soon.\"",
            "\"I need somebody strong,\" said {a}, and ran off.",
            "\"I will get help,\" said {a}. \"I promise to come back.\"",
        ],
    );

    t.paragraph();
    t.go(&[a], r);
    t.line(
        &roles,
        &["{c.new} was at work there.", "There {a.he} met {c.new}.", "{c.new} was just eating lunch there."],
    );
    t.line(
        &roles,
        &[
            "\"Please come quickly!\" said {a}. \"{b} is stuck {w}!\"",
            "{A} told {c} all about {b}.",
            "\"{b} is stuck {w}, and I am too weak,\" said {a}.",
        ],
    );
    t.line(
        &roles,
        &[
            "{C} asked no questions, but took {t.a} and came along.",
            "\"Then we will need {t.a},\" said {c}, and took one along.",
            "\"Let us go at once,\" said {c}, and fetched {t.a}.",
        ],
    );
    t.go(&[a, c], q);
    t.happen(StoryEvent::Free { who: b });
    t.happen(StoryEvent::Help { who: a, whom: b });
    t.happen(StoryEvent::Help { who: c, whom: b });
    t.line(&roles, std::slice::from_ref(&trap.rescue));
    t.line(&roles, &["{B} was free!", "At last {b} was free.", "Now {b} was free again."]);
    t.feel(&Roles { a: b, b: a, ..roles }, Feeling::Grateful, "{b} and {c} had come to help");

    t.paragraph();
    t.line(
        &roles,
        &[
            "\"I have only this, but I want you to have it,\" said {b} to {a}, and took out {u.a}.",
            "{B} reached into a little bag and took out {u.a}. \"This is my favorite thing,\" said {b} to {a}.",
            "\"You did not leave me alone,\" said {b} to {a}, and held out {u.a}.",
        ],
    );
    if t.dice.chance(70) {
        t.happen(StoryEvent::Give { from: b, to: a, thing: gift });
        t.line(&roles, &["So {b} gave {u} to {a}.", "Then {b} gave {u} to {a}, who was glad to have it."]);
        t.line(
            &roles,
            &[
                "Who helps others is never without friends.",
                "And so a bad day turned into a good one.",
                "From then on, the three were friends.",
            ],
        );
    } else {
        t.line(
            &roles,
            &[
                "But {a} shook {a.his} head. \"Keep it,\" {a.he} said. \"Be my friend. That is enough.\" So {b} kept {u}.",
                "\"No, keep it,\" said {a}. \"I was glad to help.\" So {b} kept {u}, and {a} had a new friend.",
            ],
        );
    }
    t.render(&roles, "{b} in trouble")
}
