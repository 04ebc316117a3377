//! Any bytes as what NCCL's RAS subsystem printed: whoever it speaks against is a rank of the job, and never most of them.

use c4ctl::analyze::ras;

/// Plays one input.
pub fn run(bytes: &[u8]) {
    let Ok(ras) = ras::parse(bytes) else { return };
    for size in [0, 1, 2, 8, 1 << 20] {
        assert!(ras.against(size).len() <= size / 2);
    }
}
