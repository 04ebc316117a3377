//! The order in which people would write names: node2 before node10.

/// A key to sort by.
pub(super) fn natural(name: &str) -> Vec<(u128, String)> {
    let mut parts = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let text = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (word, more) = rest.split_at(text);
        let digits = more.find(|c: char| !c.is_ascii_digit()).unwrap_or(more.len());
        let (number, more) = more.split_at(digits);
        // A number that is too large for one is at least behind the others.
        parts.push((0, word.to_owned()));
        if !number.is_empty() {
            parts.push((
                number.parse::<u128>().map_or(u128::MAX, |number| number.saturating_add(1)),
                number.to_owned(),
            ));
        }
        rest = more;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_count() {
        let mut names = ["node10", "node2", "node", "leaf-2-1", "leaf-10-1", "leaf-2-10", "1", "02"];
        names.sort_by_key(|name| natural(name));
        assert_eq!(names, ["1", "02", "leaf-2-1", "leaf-2-10", "leaf-10-1", "node", "node2", "node10"]);
    }
}
