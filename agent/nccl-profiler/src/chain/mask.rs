//! For which events NCCL would call a plugin with a mask: a bit for a child switches on its parents.

use crate::abi::event::{
    CE_BATCH, CE_COLL, CE_SYNC, COLL, COLL_API, GROUP, GROUP_API, KERNEL_CH, KERNEL_LAUNCH, KERNEL_PHASE,
    NET_PLUGIN, P2P, P2P_API, PROXY_OP, PROXY_STEP,
};

/// What an operation has below it.
const CHILDREN: u64 = PROXY_OP | PROXY_STEP | KERNEL_CH | KERNEL_PHASE | NET_PLUGIN;

/// Whether a plugin with this mask hears of events of this type.
pub(super) fn hears(mask: u32, kind: u64) -> bool {
    let any = match kind {
        GROUP_API => GROUP_API | COLL_API | P2P_API | KERNEL_LAUNCH | GROUP | COLL | P2P | CHILDREN,
        COLL_API => COLL_API | COLL | CHILDREN,
        P2P_API => P2P_API | P2P | CHILDREN,
        GROUP => GROUP | COLL | P2P | CHILDREN,
        COLL => COLL | CHILDREN,
        P2P => P2P | CHILDREN,
        PROXY_OP => PROXY_OP | PROXY_STEP | NET_PLUGIN,
        PROXY_STEP => PROXY_STEP | NET_PLUGIN,
        KERNEL_CH => KERNEL_CH | KERNEL_PHASE,
        CE_COLL => CE_COLL | CE_SYNC | CE_BATCH,
        other => other,
    };
    u64::from(mask) & any != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_switch_on_their_parents_and_nothing_else() {
        let steps = PROXY_STEP as u32;
        for kind in [GROUP_API, COLL_API, P2P_API, GROUP, COLL, P2P, PROXY_OP, PROXY_STEP] {
            assert!(hears(steps, kind), "{kind:#x}");
        }
        assert!(!hears(steps, KERNEL_CH) && !hears(steps, KERNEL_LAUNCH) && !hears(steps, NET_PLUGIN));
        assert!(hears(KERNEL_LAUNCH as u32, GROUP_API) && !hears(KERNEL_LAUNCH as u32, COLL));
        assert!(!hears(0, GROUP_API));
    }
}
