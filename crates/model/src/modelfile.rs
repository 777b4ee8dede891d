//! The `Modelfile` from which Ollama makes a model of a GGUF file. Its templates are Go's, so that a chat template is tried out
//! on a dialogue, and written where it puts the same text around each message of a role.

use anyhow::Result;
use gptkit_data::dialogue::{Message, Role};
use gptkit_data::template::Template;
use gptkit_data::tokenizer::Tokenizer;
use std::fmt::Write;

/// The first line of a file that gptkit wrote.
pub const FIRST_LINE: &str = "# Written by gptkit export; use it with: ollama create NAME -f Modelfile";

/// The file for the GGUF file called `name` beside it, of a model that was trained on `context` positions.
///
/// # Errors
/// When the chat template is damaged.
pub fn modelfile(name: &str, tokenizer: &Tokenizer, context: usize) -> Result<String> {
    let mut text = format!("{FIRST_LINE}\nFROM ./{name}\nPARAMETER num_ctx {context}\n");
    let Some(template) = Template::of(tokenizer)? else {
        text += "TEMPLATE \"\"\"{{ .Prompt }}\"\"\"\n";
        return Ok(text);
    };
    match in_go(&template) {
        Some(go) => writeln!(text, "TEMPLATE \"\"\"{go}\"\"\"")?,
        None => text += "# The chat template of the model has no counterpart in Ollama; Ollama may not know it.\n",
    }
    let stop = template.end_mark()?;
    let stop = stop.trim();
    if !stop.is_empty() {
        writeln!(text, "PARAMETER stop {stop:?}")?;
    }
    Ok(text)
}

/// The template in Go's language, if each message of a role has the same text around it.
fn in_go(template: &Template) -> Option<String> {
    let render = |roles: &[Role], asks: bool| {
        let messages: Vec<Message> = roles.iter().map(|&role| Message::new(role, CONTENT)).collect();
        template.render(&messages, asks).ok()
    };
    const CONTENT: &str = "7b1fcontent9d";
    let (user, assistant, system) = (Role::User, Role::Assistant, Role::System);
    let first = render(&[user], false)?;
    let asks = render(&[user], true)?.strip_prefix(&first)?.to_owned();
    let answered = render(&[user, assistant], false)?.strip_prefix(&first)?.to_owned();
    let mut around = vec![("user", first), ("assistant", answered)];
    // Templates may refuse a system message.
    if let Some(with_system) = render(&[system, user], false) {
        around.insert(0, ("system", with_system.strip_suffix(&around[0].1)?.to_owned()));
        let whole = format!("{}{}{}{1}{asks}", around[0].1, around[1].1, around[2].1);
        if render(&[system, user, assistant, user], true)? != whole {
            return None;
        }
    } else if render(&[user, assistant, user], true)? != format!("{0}{1}{0}{asks}", around[0].1, around[1].1) {
        return None;
    }
    let mut go = "{{ range .Messages }}".to_owned();
    for (i, (role, text)) in around.iter().enumerate() {
        let text = text.replace(CONTENT, "{{ .Content }}");
        write!(go, "{{{{ {} if eq .Role \"{role}\" }}}}{text}", if i == 0 { "" } else { "else" }).ok()?;
    }
    write!(go, "{{{{ end }}}}{{{{ end }}}}{asks}").ok()?;
    let go = go.replace("{{  if", "{{ if");
    let is_plain = around.iter().all(|(_, text)| !text.contains("{{") && !text.contains("\"\"\""));
    (is_plain && !asks.contains("{{") && !asks.contains("\"\"\"")).then_some(go)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_template_is_written_for_ollama() {
        let mut tokenizer = Tokenizer::of_characters(&('a'..='z').collect()).unwrap();
        tokenizer.add_special_tokens(&Template::special_tokens()).unwrap();
        let plain = modelfile("m.gguf", &tokenizer, 100).unwrap();
        assert_eq!(
            plain,
            format!("{FIRST_LINE}\nFROM ./m.gguf\nPARAMETER num_ctx 100\nTEMPLATE \"\"\"{{{{ .Prompt }}}}\"\"\"\n")
        );
        tokenizer.set_chat_template(Some(Template::default_for_chat().source().to_owned()));
        let chat = modelfile("m.gguf", &tokenizer, 100).unwrap();
        let go = "{{ range .Messages }}{{ if eq .Role \"system\" }}<|system|>{{ .Content }}<|end|>\
                  {{ else if eq .Role \"user\" }}<|user|>{{ .Content }}<|end|>\
                  {{ else if eq .Role \"assistant\" }}<|assistant|>{{ .Content }}<|end|>{{ end }}{{ end }}<|assistant|>";
        assert!(chat.contains(&format!("TEMPLATE \"\"\"{go}\"\"\"\nPARAMETER stop \"<|end|>\"\n")), "{chat}");
        let other = "{% for message in messages %}{{ loop.index }}{{ message.content }};{% endfor %}";
        tokenizer.set_chat_template(Some(other.to_owned()));
        assert!(!modelfile("m.gguf", &tokenizer, 100).unwrap().contains("TEMPLATE"));
    }
}
