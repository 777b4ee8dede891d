//! A race: pace and rests are drawn, and the clock decides who is first.

use crate::cast::CastPool;
use crate::grammar::Roles;
use crate::state::{Feeling, Lies, StoryEvent};
use crate::teller::Teller;

/// What keeps a runner: how long, and the sentence. `{a}` is kept, `{b}` is the other.
const RESTS: [(usize, &str); 4] = [
    (9, "{A} was so far ahead that {a.he} lay down under a tree and fell asleep."),
    (7, "{A} saw ripe berries by the path and stopped to eat them all."),
    (6, "{A} wanted to take a shorter way, got lost, and had to turn back."),
    (8, "{A} stopped at a puddle to look at {a.self} and forgot the time."),
];

pub(super) fn tell(t: &mut Teller<'_>) -> String {
    let p = t.place(|site| !site.indoor);
    let middle = t.place(|site| !site.indoor);
    let goal = t.place(|site| !site.indoor);
    let quick = t.person(CastPool::Friend, p);
    let steady = t.person(CastPool::Friend, p);
    let judge = t.worker();
    t.seat(judge, goal);
    let prize = t.thing(&["cup", "ribbon", "hat", "bell", "flag", "scarf", "drum"], Lies::With(judge), Some(judge));
    let roles = Roles { a: quick, b: steady, c: judge, t: prize, p, q: middle, r: goal, ..Roles::default() };

    t.hero(quick, p);
    t.line(
        &roles,
        &[
            "{A} could run very fast.",
            "Nobody in the village was faster, or so {a} said.",
            "{A} was a fast runner and knew it well.",
        ],
    );
    t.line(
        &roles,
        &[
            "{a.s} friend was {b.new}, who was slow but never gave up.",
            "Nearby lived {b.new}, who never hurried.",
            "A friend of {a}, {b.new}, was not so fast, but could run for a long time.",
        ],
    );
    t.paragraph();
    let w = t.day();
    t.line(
        &Roles { w, ..roles },
        &[
            "{w} the two met {p.at}. \"I bet that you cannot beat me in a race,\" said {a}.",
            "{w} the two stood {p.at}. \"Shall we race?\" asked {a}. \"Why not?\" said {b}.",
            "{w} {a} said to {b}, {p.at}, \"You are so slow! Let us have a race.\"",
        ],
    );
    t.line(
        &roles,
        &[
            "They would run past {q} to {r}. There {c.new} would wait with the prize, {t.a}.",
            "The way led past {q}, and the race would end {r.at}. {c.new} held the prize, {t.a}.",
        ],
    );
    t.line(
        &roles,
        &[
            "\"One, two, three, go!\" they called, and off they ran.",
            "They stood side by side. \"Go!\" called {b}, and they ran.",
            "A bird sang, and the race began.",
        ],
    );

    t.paragraph();
    // Each half of the way takes 10 quick minutes or 13 steady ones.
    let mut clock = [20, 26];
    t.line(
        &roles,
        &[
            "Soon {a} was far ahead.",
            "{A} ran like the wind, and {b} was soon far behind.",
            "At first {a} was much faster.",
        ],
    );
    let helps = t.dice.chance(30);
    if helps {
        clock[1] += 2;
        t.line(
            &roles,
            &[
                "{A} saw a beetle that lay on its back, but ran on. But {b} stopped and turned it over.",
                "Near {q} an old woman had dropped her apples. {A} ran past, but {b} stopped and picked them up for her.",
            ],
        );
    }
    let rests = t.dice.chance(65);
    if rests {
        let (minutes, why) = &RESTS[t.dice.below(RESTS.len())];
        clock[0] += minutes;
        t.line(&Roles { a: quick, b: steady, ..roles }, std::slice::from_ref(why));
    } else {
        t.line(&roles, &["{A} did not stop once.", "{A} never even looked back.", "{A} ran and ran."]);
    }
    t.line(
        &roles,
        &[
            "{B} just kept on running, step by step.",
            "But {b} did not give up.",
            "All the while {b} ran on, not fast, but without a rest.",
        ],
    );
    let steady_first = clock[1] < clock[0];
    let (first, second) = if steady_first { (steady, quick) } else { (quick, steady) };
    let result = Roles { a: first, b: second, ..roles };
    if steady_first {
        t.line(
            &roles,
            &[
                "Near the end {b} ran past {a}, who could not catch up any more.",
                "When {a} ran on again, {b} was already far away.",
            ],
        );
    } else if rests {
        t.line(&roles, &["But {a} ran on again just in time.", "{A} had to run hard to stay ahead."]);
    }
    t.happen(StoryEvent::Go { who: vec![first, second], to: goal, past: None });
    t.happen(StoryEvent::Win { who: first, over: second });
    t.line(
        &result,
        &[
            "{A} was the first to reach {r}. {b} came second.",
            "It was {a} who won the race. {b} came to {r} a little later.",
            "{A} came to {r} first and won the race. {b} was second.",
        ],
    );
    t.paragraph();
    t.happen(StoryEvent::Give { from: judge, to: first, thing: prize });
    t.line(&result, &["{C} gave {t} to {a}.", "\"Well done!\" said {c}, and gave {t} to {a}."]);
    t.feel(&result, Feeling::Proud, "{a.he} had won the race");
    if steady_first {
        t.feel(&roles, Feeling::Sorry, "{a.he} had laughed at {b}");
        t.line(
            &roles,
            &[
                "\"You ran well,\" said {a}. \"I will never call you slow again.\"",
                "\"I should not have been so sure,\" said {a}. {B} smiled. \"Next time we can run side by side.\"",
            ],
        );
    } else {
        if !helps {
            t.line(
                &roles,
                &[
                    "\"You ran well, too,\" said {a} to {b}. \"You did not give up once.\"",
                    "{B} was not sad. \"I have never run so far before,\" said {b}.",
                ],
            );
        } else {
            t.happen(StoryEvent::Give { from: quick, to: steady, thing: prize });
            t.line(
                &roles,
                &[
                    "Then {a} thought of how {b} had stopped to help, and gave {t} to {b}.",
                    "\"You stopped to help,\" said {a}. \"That was worth more than winning.\" And {a} gave {t} to {b}.",
                ],
            );
        }
    }
    t.maybe(
        60,
        &roles,
        &[
            "After that they sat in the grass and shared a bottle of water.",
            "Then they all had cold milk and bread.",
            "In the evening the whole village talked about the race.",
        ],
    );
    t.render(&roles, "The race to {r}")
}
