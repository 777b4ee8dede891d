//! Who may ask: the names by which the server may be called, pages of other origins, and keys.

use crate::api::error::ApiError;
use crate::settings::ServerSettings;
use axum::http::{HeaderMap, Method, StatusCode, header};
use std::net::IpAddr;
use subtle::ConstantTimeEq;

/// Paths that everybody may read.
const PUBLIC: [&str; 2] = ["/health", "/v1/health"];

/// Whether a request may be answered; returns who asks.
pub(crate) fn check(
    settings: &ServerSettings,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    peer: IpAddr,
) -> Result<String, ApiError> {
    check_host(settings, headers)?;
    check_origin(settings, headers)?;
    if PUBLIC.contains(&path) || method == Method::OPTIONS || settings.keys.is_empty() {
        return Ok(peer.to_string());
    }
    check_key(settings, headers)
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// A page of another origin can have a browser ask for any name that resolves to this machine (DNS rebinding): only addresses
/// and known names are accepted.
fn check_host(settings: &ServerSettings, headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(host) = text(headers, header::HOST) else {
        return Err(ApiError::bad("host_missing", "the request has no Host header"));
    };
    let name = host_name(host);
    let is_address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
    let is_allowed = settings.allowed_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(name));
    if is_address || name.eq_ignore_ascii_case("localhost") || is_allowed {
        return Ok(());
    }
    let message = format!("the server is not called {name}; start it with --allowed-host {name} to accept this name");
    Err(ApiError::forbidden("host_not_allowed", message))
}

/// `host` without its port.
fn host_name(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.chars().all(|c| c.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}

/// Pages of other origins may not ask, unless their origin was named.
fn check_origin(settings: &ServerSettings, headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(origin) = text(headers, header::ORIGIN) else { return Ok(()) };
    let own = text(headers, header::HOST).is_some_and(|host| origin == format!("http://{host}"));
    if own || settings.cors_origins.iter().any(|allowed| allowed == origin) {
        return Ok(());
    }
    let message =
        format!("pages of {origin} may not use this server; start it with --cors-origin {origin} to allow it");
    Err(ApiError::forbidden("origin_not_allowed", message))
}

/// Compares the key with every key that is known, in constant time. Returns who has it.
fn check_key(settings: &ServerSettings, headers: &HeaderMap) -> Result<String, ApiError> {
    let bearer = text(headers, header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
    let given = bearer.or_else(|| headers.get("x-api-key").and_then(|value| value.to_str().ok())).unwrap_or_default();
    let given = blake3::hash(given.trim().as_bytes());
    let mut found = None;
    for (number, key) in settings.keys.iter().enumerate() {
        if bool::from(blake3::hash(key.as_bytes()).as_bytes().ct_eq(given.as_bytes())) {
            found = Some(number);
        }
    }
    found.map(|number| format!("key {number}")).ok_or_else(|| {
        let message = "the API key is missing or wrong; send it as Authorization: Bearer KEY";
        ApiError::new(StatusCode::UNAUTHORIZED, "authentication_error", "invalid_api_key", message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(settings: &ServerSettings, path: &str, headers: &[(&str, &str)]) -> Result<String, String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(header::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        check(settings, &Method::POST, path, &map, [127, 0, 0, 1].into())
            .map_err(|e| e.body.code.unwrap_or_default().to_owned())
    }

    #[test]
    fn only_names_of_this_server_are_accepted() {
        let settings = ServerSettings { allowed_hosts: vec!["gpt.example".to_owned()], ..ServerSettings::default() };
        for host in ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000", "192.168.1.5", "gpt.example:1"] {
            assert_eq!(asked(&settings, "/v1/models", &[("host", host)]).as_deref(), Ok("127.0.0.1"), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:80", "127.0.0.1.evil.example", ""] {
            assert_eq!(asked(&settings, "/v1/models", &[("host", host)]), Err("host_not_allowed".to_owned()), "{host}");
        }
        assert_eq!(asked(&settings, "/v1/models", &[]), Err("host_missing".to_owned()));
    }

    #[test]
    fn pages_of_other_origins_are_refused() {
        let settings =
            ServerSettings { cors_origins: vec!["https://ui.example".to_owned()], ..ServerSettings::default() };
        let from = |origin: &str| asked(&settings, "/v1/models", &[("host", "localhost:8000"), ("origin", origin)]);
        assert!(from("http://localhost:8000").is_ok() && from("https://ui.example").is_ok());
        for origin in ["http://localhost:3000", "https://evil.example", "null"] {
            assert_eq!(from(origin), Err("origin_not_allowed".to_owned()), "{origin}");
        }
    }

    #[test]
    fn a_key_is_needed_where_there_are_keys() {
        let keys = vec!["one".to_owned(), "two".to_owned()];
        let settings = ServerSettings { keys, ..ServerSettings::default() };
        let with = |name: &str, value: &str| asked(&settings, "/v1/models", &[("host", "localhost"), (name, value)]);
        assert_eq!(with("authorization", "Bearer two").as_deref(), Ok("key 1"));
        assert_eq!(with("x-api-key", "one").as_deref(), Ok("key 0"));
        for (name, value) in [("authorization", "Bearer three"), ("authorization", "two"), ("x-other", "one")] {
            assert_eq!(with(name, value), Err("invalid_api_key".to_owned()), "{name}: {value}");
        }
        assert!(asked(&settings, "/health", &[("host", "localhost")]).is_ok(), "health is public");
    }
}
