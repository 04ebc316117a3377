//! Patterns for names of ports: `swp*`, `enp?s0f*`, several with commas between them.

use std::str::FromStr;

/// Some patterns, of which one has to fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Globs(Vec<String>);

impl FromStr for Globs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let patterns: Vec<String> = text.split(',').map(|pattern| pattern.trim().to_owned()).collect();
        if patterns.iter().any(String::is_empty) {
            return Err("expected patterns with commas between them, such as swp*,eth?".to_owned());
        }
        Ok(Self(patterns))
    }
}

impl Globs {
    /// Whether a name fits one of them.
    #[must_use]
    pub fn fit(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| fits(pattern, name))
    }
}

/// `*` stands for any letters, `?` for one.
fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where the last star is, and how much of the name it stands for so far.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => (p, n) = (p + 1, n + 1),
            _ => match &mut star {
                Some((at, taken)) => {
                    *taken += 1;
                    (p, n) = (*at + 1, *taken);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks() {
        for (pattern, name, expected) in [
            ("swp*", "swp49", true),
            ("swp*", "eth0", false),
            ("eth?", "eth0", true),
            ("eth?", "eth10", false),
            ("*f?np*", "enp65s0f1np1", true),
            ("a*b*c", "axxbyybc", true),
            ("a*b*c", "axxbyyb", false),
            ("*", "", true),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
        let globs: Globs = "swp*, eth?".parse().expect("two");
        assert!(globs.fit("eth1") && globs.fit("swp1") && !globs.fit("mgmt0"));
        assert!("a,,b".parse::<Globs>().is_err() && "".parse::<Globs>().is_err());
    }
}
