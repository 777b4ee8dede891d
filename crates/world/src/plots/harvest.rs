//! Sowing and reaping: patience, a bad moment, and a harvest that is counted and shared.

use crate::cast::CastPool;
use crate::grammar::Roles;
use crate::state::{Feeling, Lies, StoryEvent};
use crate::teller::Teller;

const CROPS: [(&str, &str); 6] = [
    ("carrots", "pull up"),
    ("pumpkins", "pick"),
    ("tomatoes", "pick"),
    ("melons", "pick"),
    ("onions", "pull up"),
    ("potatoes", "dig up"),
];

pub(super) fn tell(t: &mut Teller<'_>) -> String {
    let p = t.place(|site| matches!(site.name, "the garden" | "the farm" | "the orchard" | "the meadow" | "the hill"));
    let a = t.person(CastPool::Friend, p);
    let b = t.person(CastPool::Friend, p);
    let (crop, verb) = t.dice.pick(&CROPS);
    let needs_can = t.dice.chance(50);
    let water = t.dice.pick(&["the lake", "the pond", "the river"]);
    let lake = t.site_named(water);
    let c = t.worker();
    let far = t.at(c);
    let can = t.thing(&["bucket", "watering can", "jug"], Lies::With(b), Some(b));
    let n = 6 + t.dice.below(6);
    let roles = Roles { a, b, c, t: can, p, q: lake, r: far, w: crop, n, ..Roles::default() };

    t.hero(a, p);
    t.paragraph();
    t.line(
        &roles,
        &[
            "In spring {a} went to a small field {p.at} and put seeds into the earth. \"These will be {w},\" said {a}.",
            "One day in spring {a} dug up a bit of ground {p.at} and planted {w}.",
            "When the snow was gone, {a} wanted to grow {w}. So {a.he} put little seeds into the ground {p.at}.",
        ],
    );
    t.line(
        &roles,
        &[
            "Every morning {a} looked, but there was nothing to see.",
            "{A} waited one week, and another, but nothing came up.",
            "Days went by, and the earth stayed bare.",
        ],
    );
    if needs_can {
        t.feel(&roles, Feeling::Worried, "the ground was so dry");
        t.paragraph();
        t.line(&roles, &["Then a neighbor came by, {b.new}.", "{b.new} looked over the fence."]);
        t.happen(StoryEvent::Hand { from: b, to: a, thing: can });
        t.line(
            &roles,
            &[
                "\"Seeds need water,\" said {b}, and lent {t.a} to {a}.",
                "\"Have you given them water?\" asked {b}, and lent {a} {t.a}.",
            ],
        );
        t.go(&[a], lake);
        t.line(&roles, &["There {a} filled {t} with water.", "{A} filled {t} up to the brim."]);
        t.go(&[a], p);
        t.line(
            &roles,
            &[
                "{A} watered the seeds, and did it again every day.",
                "Slowly {a} poured the water over the earth. From then on {a.he} did so every day.",
            ],
        );
    } else {
        t.feel(&roles, Feeling::Sad, "the field was still empty");
        t.paragraph();
        t.line(&roles, &["Then a neighbor came by, {b.new}.", "{b.new} looked over the fence."]);
        t.line(
            &roles,
            &[
                "\"Good things take time,\" said {b}. \"Look, I have {t.a}. Let us water your field together every day.\" And so they did.",
                "\"Do not give up,\" said {b}, who had brought {t.a}. Together they watered the field every morning.",
            ],
        );
    }
    t.happen(StoryEvent::Help { who: b, whom: a });
    t.line(
        &roles,
        &[
            "In the end there was a small green leaf, and then many more. All summer long the {w} grew.",
            "Then, one morning, there were green tips everywhere! The sun shone, and the {w} grew big.",
        ],
    );
    t.paragraph();
    t.happen(StoryEvent::Gather { who: a, verb, goods: crop, n });
    t.line(
        &roles,
        match verb {
            "pull up" => &["In autumn {a} pulled up {n} {w}.", "Then the time came, and {a} pulled up {n} fine {w}."],
            "dig up" => &["In autumn {a} dug up {n} {w}.", "Then the time came, and {a} dug up {n} fine {w}."],
            _ => &["In autumn {a} picked {n} {w}.", "Then the time came, and {a} picked {n} fine {w}."],
        },
    );
    t.feel(&roles, Feeling::Happy, "{a.he} had grown them all from seed");
    let to_b = 1 + t.dice.below(3);
    t.happen(StoryEvent::Share { from: a, to: b, goods: crop, n: to_b });
    t.line(
        &Roles { n: to_b, ..roles },
        match to_b {
            1 => &[
                "\"You helped me,\" {a} said to {b}, and gave {b} one of them.",
                "{A} gave one of them to {b} as thanks for the help.",
            ],
            _ => &[
                "\"You helped me,\" {a} said to {b}, and gave {b} {n} of them.",
                "{A} gave {n} of them to {b} as thanks for the help.",
            ],
        },
    );
    if needs_can {
        t.happen(StoryEvent::Hand { from: a, to: b, thing: can });
        t.line(&roles, &["{A} also gave {t} back to {b}.", "And {a} did not forget to give {t} back to {b}."]);
    }
    let mut left = n - to_b;
    if t.dice.chance(55) {
        t.go(&[a], far);
        t.line(&roles, &["There {a.he} met {c.new}.", "{c.new} was there and looked hungry."]);
        let to_c = 1 + t.dice.below(left - 2);
        t.happen(StoryEvent::Share { from: a, to: c, goods: crop, n: to_c });
        t.line(
            &Roles { n: to_c, ..roles },
            &["{A} gave {n} of the {w} to {c}.", "\"These are for you,\" said {a}, and gave {n} of the {w} to {c}."],
        );
        left -= to_c;
    }
    t.line(
        &Roles { n: left, ..roles },
        &["Now {a} had {n} left.", "So {a} kept {n} for the winter.", "That left {n} for {a}."],
    );
    t.line(
        &roles,
        &[
            "\"Next year I will plant twice as many,\" said {a}.",
            "Those who can wait and work have something to share.",
            "Nothing tastes so good as what one has grown and shared.",
            "It was the best autumn that {a} could remember.",
        ],
    );
    t.render(&roles, "{a} grows {w}")
}
