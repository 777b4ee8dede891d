//! Any chat template renders any dialogue, or is refused, with a bounded amount of work and memory.
#![no_main]

use gptkit_data::dialogue::{Message, Role};
use gptkit_data::template::Template;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|parts: (&str, &str)| {
    let (source, said) = parts;
    let Ok(template) = Template::new("fuzzed", source.to_owned()) else { return };
    let messages = [
        Message::new(Role::System, "Be brief."),
        Message::new(Role::User, said),
        Message::new(Role::Assistant, "yes"),
    ];
    let _ = template.segments(&messages);
    let _ = template.prompt(&messages[..2]);
});
