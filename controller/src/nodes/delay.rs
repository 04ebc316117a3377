//! For how long messages were on their way, without a common clock.
//!
//! Every message says when it was sent, by a clock of its agent's. The difference to the clock here is that of the two clocks and
//! the time it took; the least difference of a while belongs to the message that was quickest, and all others took so much
//! longer. What is left unknown is the time that the quickest one took: in a cluster, far less than a millisecond. Who
//! died first is told by such times, and a network or a controller that has too much to do may hold news up for seconds.

use c4_detect::observation::Timestamp;

/// Two clocks drift apart by some tens of microseconds a second, so the quickest message is forgotten after one to two of
/// these (30 s).
const SPAN_US: u64 = 30_000_000;
/// Nothing is on its way for longer (30 s): a clock has jumped, as that of a virtual machine does which stood still.
const LONGEST_US: i128 = 30_000_000;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Delay {
    began: Timestamp,
    /// The least difference of the span before, and of this one.
    before: Option<i128>,
    least: Option<i128>,
}

impl Delay {
    /// How much longer than the quickest a message took that was sent at `sent_us` and is here now.
    pub(super) fn of(&mut self, sent_us: u64, now: Timestamp) -> u64 {
        let difference = i128::from(now.0) - i128::from(sent_us);
        if now.micros_since(self.began) >= SPAN_US {
            self.before = self.least.take();
            self.began = now;
        }
        self.least = Some(self.least.map_or(difference, |least| least.min(difference)));
        let least = self.before.into_iter().chain(self.least).min().unwrap_or(difference);
        let delay = difference - least;
        if delay > LONGEST_US {
            (self.before, self.least) = (None, Some(difference));
            return 0;
        }
        u64::try_from(delay).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn what_is_held_up_is_told_from_what_is_not() {
        let mut delay = Delay::default();
        let start = Timestamp(7_000_000 * SECOND);
        // The agent's clock began 12 s ago, and messages take 300 µs.
        let mut send =
            |sent_us: u64, took_us: u64| delay.of(sent_us, start.after(sent_us + took_us - 12 * SECOND));
        assert_eq!(send(12 * SECOND, 300), 0);
        assert_eq!(send(13 * SECOND, 450), 150);
        assert_eq!(send(14 * SECOND, 2 * SECOND + 300), 2 * SECOND);
        assert_eq!(send(15 * SECOND, 200), 0, "quicker than all before");
        assert_eq!(send(16 * SECOND, 300), 100);
        // Clocks drift: after a minute, only what was lately is compared.
        for second in 17..120 {
            assert!(send(second * SECOND, 300 + second * 20) < 2_000, "at {second} s");
        }
    }

    #[test]
    fn a_clock_that_jumps_delays_nothing() {
        let mut delay = Delay::default();
        let start = Timestamp(1_000 * SECOND);
        assert_eq!(delay.of(500 * SECOND, start), 0);
        // It stood still for a minute.
        assert_eq!(delay.of(501 * SECOND, start.after(61 * SECOND)), 0);
        assert_eq!(delay.of(502 * SECOND, start.after(62 * SECOND + 40)), 40);
        // And one that says nonsense harms nobody.
        assert_eq!(delay.of(u64::MAX, start.after(63 * SECOND)), 0);
        assert_eq!(delay.of(1, start.after(64 * SECOND)), 0);
    }
}
