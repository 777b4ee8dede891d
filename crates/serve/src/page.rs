//! The web page: files that are part of the binary. They load nothing from elsewhere.

use axum::http::HeaderValue;
use axum::response::{IntoResponse, Response};

/// The file of every screen.
const INDEX: &str = include_str!("page/index.html");
/// Screens, each with an address of its own.
const SCREENS: [&str; 6] = ["/", "/compare", "/label", "/write", "/data", "/served"];
/// The other files: name, type, content.
const FILES: [(&str, &str, &str); 11] = [
    ("page.css", "text/css", include_str!("page/page.css")),
    ("page.js", JAVASCRIPT, include_str!("page/page.js")),
    ("api.js", JAVASCRIPT, include_str!("page/api.js")),
    ("dom.js", JAVASCRIPT, include_str!("page/dom.js")),
    ("settings.js", JAVASCRIPT, include_str!("page/settings.js")),
    ("chat.js", JAVASCRIPT, include_str!("page/chat.js")),
    ("compare.js", JAVASCRIPT, include_str!("page/compare.js")),
    ("label.js", JAVASCRIPT, include_str!("page/label.js")),
    ("write.js", JAVASCRIPT, include_str!("page/write.js")),
    ("data.js", JAVASCRIPT, include_str!("page/data.js")),
    ("models.js", JAVASCRIPT, include_str!("page/models.js")),
];
const JAVASCRIPT: &str = "text/javascript";
/// What the page may load, and from where: from this server alone, and nothing that is written into the HTML.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// Whether `path` is a file of the page.
pub(crate) fn is_part(path: &str) -> bool {
    content(path).is_some()
}

/// Type and content of the file at `path`.
fn content(path: &str) -> Option<(&'static str, &'static str)> {
    if SCREENS.contains(&path) {
        return Some(("text/html", INDEX));
    }
    let name = path.strip_prefix("/page/")?;
    FILES.into_iter().find(|(file, ..)| *file == name).map(|(_, kind, content)| (kind, content))
}

/// The file at `path`.
pub(crate) fn file(path: &str) -> Option<Response> {
    let (kind, content) = content(path)?;
    let mut response = content.into_response();
    let headers = response.headers_mut();
    let kind = format!("{kind}; charset=utf-8");
    for (name, value) in [
        ("content-type", kind.as_str()),
        ("content-security-policy", POLICY),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-cache"),
    ] {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
    Some(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_small_and_asks_no_other_host_for_anything() {
        let files = FILES.iter().map(|(_, _, content)| *content).chain([INDEX]);
        let bytes: usize = files.clone().map(str::len).sum();
        assert!(bytes <= 100 << 10, "{bytes} bytes");
        for file in files {
            assert!(!file.contains("https://") && !file.contains("src=\"//"), "the page names another host");
            assert!(!file.contains("innerHTML") && !file.contains("eval("), "text could become markup or code");
        }
        assert!(!INDEX.contains("<style") && !INDEX.contains("style=") && !INDEX.contains(" onclick"));
    }

    #[test]
    fn only_files_of_the_page_are_served() {
        assert!(is_part("/") && is_part("/label") && is_part("/page/chat.js"));
        assert!(!is_part("/page/../Cargo.toml") && !is_part("/page/") && !is_part("/etc/passwd"));
    }
}
