//! Takes secrets out of what leaves the cluster in a bundle.
//!
//! C4 collects none on purpose, but command lines, addresses and log lines that it quotes may hold some. What looks like one
//! is replaced, and how often is said: too much is better than too little here.

use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde_json::Value;

const GONE: &str = "[removed]";

/// Names whose values are secret.
const NAMES: &str = r"(?i)(?:pass(?:word|wd|phrase)?|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|credential|authorization|cookie)";

static NAME: LazyLock<Regex> = LazyLock::new(|| compiled(NAMES));

/// Secrets within text; the group called `keep` says what of it stays.
static TEXT: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    [
        // Before names: "Authorization: Bearer abc" is one secret, and its name is one too.
        r"(?i)(?P<keep>\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}",
        // Quotes stay, also escaped ones: a document must remain one.
        &format!(r#"(?P<keep>[\w.-]*{NAMES}[\w.-]*\\?["']?\s*[=:]\s*\\?["'])[^"'\\]+"#),
        &format!(r#"(?P<keep>[\w.-]*{NAMES}[\w.-]*\\?["']?\s*[=:]\s*)[^\s,;&<>"'\\]+"#),
        &format!(r"(?P<keep>--?[\w-]*{NAMES}[\w-]*\s+)[^\s-]\S*"),
        r"(?P<keep>[a-z][a-z0-9+.-]*://)[^\s/@:]*:[^\s/@]+@",
        r"(?P<keep>)\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
        r"(?P<keep>)\b(?:ghp|gho|ghs|github_pat|glpat|hf|xox[abpr]|sk)[_-][A-Za-z0-9_-]{16,}\b",
        r"(?P<keep>)\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*",
        r"(?P<keep>)-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*(?:-----END [A-Z ]*PRIVATE KEY-----)?",
    ]
    .into_iter()
    .map(compiled)
    .collect()
});

#[expect(clippy::expect_used, reason = "constants, which a test compiles")]
fn compiled(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a valid pattern")
}

/// Removes what looks secret from a document; returns how much was removed.
pub(super) fn document(value: &mut Value) -> usize {
    match value {
        Value::Object(fields) => fields
            .iter_mut()
            .map(|(name, value)| match value {
                Value::String(text) if NAME.is_match(name) && !text.is_empty() => {
                    *text = GONE.to_owned();
                    1
                }
                value => document(value),
            })
            .sum(),
        Value::Array(entries) => entries.iter_mut().map(document).sum(),
        Value::String(text) => {
            let (clean, removed) = self::text(text);
            if removed > 0 {
                *text = clean;
            }
            removed
        }
        _ => 0,
    }
}

/// The same for text.
pub(super) fn text(text: &str) -> (String, usize) {
    let (mut clean, mut removed) = (text.to_owned(), 0);
    for pattern in TEXT.iter() {
        let replaced = pattern.replace_all(&clean, |found: &Captures<'_>| {
            // What an earlier pattern removed is not removed again, nor is the word before it.
            let scheme = found[0].to_ascii_lowercase();
            if scheme.contains(GONE) || scheme.ends_with("bearer") || scheme.ends_with("basic") {
                return found[0].to_owned();
            }
            removed += 1;
            format!("{}{GONE}", &found["keep"])
        });
        clean = replaced.into_owned();
    }
    (clean, removed)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_looks_secret_goes_and_the_rest_stays() {
        for (line, clean) in [
            ("export HF_TOKEN=hf_abcdefghijklmnop1234", "export HF_TOKEN=[removed]"),
            ("curl -H 'Authorization: Bearer abcdef.ghijkl'", "curl -H 'Authorization: Bearer [removed]'"),
            ("train.py --wandb-api-key 12345 --lr 0.1", "train.py --wandb-api-key [removed] --lr 0.1"),
            ("s3 AKIAABCDEFGHIJKLMNOP x", "s3 [removed] x"),
            ("proxy http://joe:hunter2@proxy:3128/", "proxy http://[removed]proxy:3128/"),
            (r#"{"password": "a b c", "n": 1}"#, r#"{"password": "[removed]", "n": 1}"#),
            (r#"{"log": "{\"password\": \"a b\"}"}"#, r#"{"log": "{\"password\": \"[removed]\"}"}"#),
            ("<p>token=abc</p>", "<p>token=[removed]</p>"),
        ] {
            assert_eq!(text(line), (clean.to_owned(), 1), "{line}");
        }
        for line in [
            "rank 3 (GPU 1 of node-2, pid 4711) died: killed by signal 9 at 02:58:14 UTC",
            "NVRM: Xid (PCI:0000:00:06): 31, pid=3633, name=python3, channel 0x0000001a",
            "tokens a second: see http://grafana:3000/d/job",
        ] {
            assert_eq!(text(line), (line.to_owned(), 0));
        }
    }

    #[test]
    fn values_of_secret_names_go_wherever_they_are() {
        let mut value = json!({"a": [{"api_key": "x", "rank": 3}], "secret_count": 4, "log": "token=abc"});
        assert_eq!(document(&mut value), 2);
        assert_eq!(
            value,
            json!({"a": [{"api_key": "[removed]", "rank": 3}], "secret_count": 4, "log": "token=[removed]"})
        );
    }
}
