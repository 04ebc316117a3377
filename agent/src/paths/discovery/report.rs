//! What discovery came to, in numbers.

/// What discovery came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Source ports that were tried.
    pub ports: u32,
    /// Probes sent.
    pub probes: u32,
    /// Ports given up because nobody answered.
    pub silent: u32,
    /// Ports given up because two answers differed.
    pub unsteady: u32,
    /// Ports in use.
    pub busy: u32,
    /// Ports given up because the destination cannot be reached, or is nearer than the TTLs assume.
    pub lost: u32,
    /// Paths found.
    pub paths: u32,
    /// How long it took.
    pub elapsed_us: u64,
}

impl Report {
    /// Adds what discovery of something else came to, beside this.
    pub fn add(&mut self, other: &Self) {
        self.ports += other.ports;
        self.probes += other.probes;
        self.silent += other.silent;
        self.unsteady += other.unsteady;
        self.busy += other.busy;
        self.lost += other.lost;
        self.paths += other.paths;
        self.elapsed_us = self.elapsed_us.max(other.elapsed_us);
    }
}
