//! Whose turn it is.

/// All paths go round; every other turn is for those that are suspected, if any are.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Whose turn it was last, of all.
    last: usize,
    /// Whose it was, of those that are suspected.
    last_suspect: usize,
    is_suspects: bool,
}

impl Turns {
    /// The next of so many paths; there is one at least.
    pub(super) fn next(&mut self, paths: usize, is_suspect: impl Fn(usize) -> bool) -> usize {
        self.is_suspects = !self.is_suspects;
        let mut after = (1..=paths).map(|step| (self.last_suspect + step) % paths);
        if let Some(suspect) = after.find(|path| is_suspect(*path)).filter(|_| self.is_suspects) {
            self.last_suspect = suspect;
            return suspect;
        }
        self.last = (self.last + 1) % paths;
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(turns: &mut Turns, suspects: &[usize]) -> [usize; 4] {
        let mut counts = [0; 4];
        for _ in 0..240 {
            counts[turns.next(4, |path| suspects.contains(&path))] += 1;
        }
        counts
    }

    #[test]
    fn half_of_all_turns_are_for_those_that_are_suspected() {
        let mut turns = Turns::default();
        assert_eq!(count(&mut turns, &[]), [60; 4]);
        assert_eq!(count(&mut turns, &[2]), [30, 30, 150, 30]);
        assert_eq!(count(&mut turns, &[0, 2]), [90, 30, 90, 30]);
        assert_eq!(count(&mut turns, &[0, 1, 2, 3]), [60; 4]);
        assert_eq!(count(&mut turns, &[]), [60; 4]);
    }
}
