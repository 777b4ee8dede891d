//! A trade: the one who has what you want does not want what you have.

use crate::cast::CastPool;
use crate::grammar::Roles;
use crate::state::{Feeling, Lies, StoryEvent};
use crate::teller::Teller;
use crate::words;

pub(super) fn tell(t: &mut Teller<'_>) -> String {
    let p = t.place(|site| !site.indoor);
    let a = t.person(CastPool::Friend, p);
    let owner_at = t.place(|_| true);
    let middle_at = t.place(|_| true);
    let c = t.person(CastPool::Friend, owner_at);
    let b = t.person(CastPool::Friend, middle_at);
    let [has, middle, wish] = [a, b, c].map(|who| t.thing(words::TOYS, Lies::With(who), Some(who)));
    let roles = Roles { a, b, c, t: has, u: middle, v: wish, p, ..Roles::default() };

    t.hero(a, p);
    t.line(
        &roles,
        &[
            "{A} had {t.a}, but {a.he} had grown tired of it.",
            "{A} owned {t.a}, but hardly ever looked at it now.",
            "In {a.his} bag {a} carried {t.a}.",
        ],
    );
    t.paragraph();
    let w = t.day();
    t.line(&Roles { w, ..roles }, &["{w} {a} was out for a walk.", "{w} {a} left {p}.", "{w} {a} set out early."]);
    t.go(&[a], owner_at);
    t.line(
        &roles,
        &[
            "There {a.he} met {c.new}, who had {v.a}.",
            "{c.new} was there and held {v.a}.",
            "There sat {c.new} with {v.a}.",
        ],
    );
    t.happen(StoryEvent::Want { who: a, thing: wish });
    t.line(
        &roles,
        &[
            "{A} wanted {v} more than anything else.",
            "{A} looked at {v} and wanted to have it.",
            "{A} had never seen such a fine {v.n}, and wanted it at once.",
        ],
    );
    t.line(
        &roles,
        &[
            "\"Will you trade your {v.n} for my {t.n}?\" asked {a}.",
            "\"I will give you my {t.n} for your {v.n},\" said {a}.",
            "\"Please, can I have your {v.n} for my {t.n}?\" asked {a}.",
        ],
    );
    if t.dice.chance(75) {
        t.happen(StoryEvent::Want { who: c, thing: middle });
        t.line(
            &roles,
            &[
                "{C} shook {c.his} head. \"I do not need that. But I have always wanted {u.a}.\"",
                "\"No,\" said {c}, \"but for {u.a} I would do it.\"",
                "{C} thought for a while. \"What I really want is {u.a},\" said {c}. \"Bring me that, and we can trade.\"",
            ],
        );
        t.paragraph();
        t.go(&[a], middle_at);
        t.line(&roles, &["There {a.he} met {b.new}.", "{b.new} was playing there.", "{b.new} was resting there."]);
        t.line(
            &roles,
            &[
                "And {b} had just what {a} needed, {u.a}!",
                "{A} could hardly believe it: {b} had {u.a}!",
                "What luck! {b} was holding {u.a}.",
            ],
        );
        t.happen(StoryEvent::Trade { a, gives: has, b, gets: middle });
        t.line(
            &roles,
            &[
                "\"A {t.n}!\" cried {b}. \"I would love to have one.\" So {a} gave {t} to {b} and got {u} for it.",
                "\"Shall we trade?\" asked {a}. {B} said yes at once, took {t}, and gave {a} {u}.",
                "{B} liked {t} very much. So they traded: {b} got {t}, and {a} got {u}.",
            ],
        );
        t.go(&[a], owner_at);
        t.line(&roles, &["{C} was still there.", "{C} was waiting.", "\"Back so soon?\" asked {c}."]);
        t.happen(StoryEvent::Trade { a, gives: middle, b: c, gets: wish });
        t.line(
            &roles,
            &[
                "\"Look what I have,\" said {a}, and held up {u}. {C} took it with a shout of joy, and {a} got {v} at last.",
                "{A} gave {u} to {c}, and {c} gave {v} to {a}.",
                "\"A promise is a promise,\" said {c}. {A} handed over {u} and got {v}.",
            ],
        );
        t.feel(&Roles { a: c, ..roles }, Feeling::Happy, "{a.he} had {u.a} at last");
    } else {
        t.happen(StoryEvent::Trade { a, gives: has, b: c, gets: wish });
        t.line(
            &roles,
            &[
                "\"With pleasure,\" said {c}. So {c} took {t}, and {a} took {v}.",
                "{C} said yes at once. {A} gave {t} to {c}, and {c} gave {v} to {a}.",
            ],
        );
        t.feel(&roles, Feeling::Happy, "{a.he} had {a.his} own {v.n} now");
        t.paragraph();
        t.go(&[a], middle_at);
        t.line(&roles, &["{b.new} sat there alone and did not smile.", "There sat {b.new}, all alone."]);
        t.happen(StoryEvent::Give { from: b, to: a, thing: middle });
        t.line(
            &roles,
            &[
                "\"What a fine {v.n}!\" said {b}. \"Come and play with me, and you can have my {u.own}.\" {A} sat down and played. In the evening {b} gave {u} to {a}.",
                "{A} let {b} hold {v} for a long time. That was so kind that {b} gave {a.him} {u.a} before they parted.",
            ],
        );
        t.feel(&Roles { a: b, ..roles }, Feeling::Happy, "{a.he} was not alone any more");
    }
    t.paragraph();
    t.line(
        &roles,
        &[
            "{A} walked on and sang. It is good to have what one likes, and better when others have it, too.",
            "That evening {a} thought of the long day. A fair trade makes everybody glad.",
            "\"That was a good day,\" said {a}. And it was a good day for the others, too.",
        ],
    );
    t.render(&roles, "{a} and the {v.own}")
}
