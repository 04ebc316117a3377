//! By which of its addresses a switch answers.

use std::fs;

use anyhow::Context;

use super::Fabric;

impl Fabric {
    /// Has switches sign what they say about a packet with the address of the link that it came in by, instead of that of whichever link
    /// their answer leaves by, which is Linux's way.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn sign_by_links(&self) -> anyhow::Result<()> {
        let path = "/proc/sys/net/ipv4/icmp_errors_use_inbound_ifaddr";
        for switch in self.leaves.iter().chain(&self.spines) {
            switch.run(|| fs::write(path, "1"))?.with_context(|| format!("cannot set {path}"))?;
        }
        Ok(())
    }
}
