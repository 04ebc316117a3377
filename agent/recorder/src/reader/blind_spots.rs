//! What the interface does not show. It is said with every recorder, so that nobody reads silence as absence.

/// Bit of kernel events in the mask.
pub(super) const KERNEL_CH: u32 = 1 << 6;

/// NCCL's version as text, from its own code or, where that is unknown, from the interface it took.
pub(super) fn nccl_version(code: u32, api: u32) -> String {
    if code >= 10_000 {
        return format!("{}.{}.{}", code / 10_000, code / 100 % 100, code % 100);
    }
    let family = match api {
        1 => "2.23",
        2 => "2.24",
        3 => "2.26",
        4 => "2.27",
        5 => "2.28",
        6 => "2.29",
        7 => "2.31",
        _ => "",
    };
    family.to_owned()
}

/// Blind spots of an interface with a mask.
pub(super) fn of(api: u32, mask: u32) -> Vec<String> {
    if api == 0 {
        return Vec::new();
    }
    let spots = [
        (true, "transfers inside a node have no network steps"),
        (true, "one-sided operations (RMA, GIN) and the device API send no events"),
        (true, "copy-engine collectives are not recorded"),
        (api < 7, "symmetric kernels send no kernel or network events"),
        (api >= 6, "variable-size all-gathers (AllGatherV) may be missing or miscounted"),
        (
            api < 4,
            "a sender that waits for its peer's credit is not told apart from one that waits for its GPU",
        ),
        (api < 4, "the communicator's size and number of nodes are not told"),
        (api < 5, "operations captured into a graph are not marked"),
        (
            mask & KERNEL_CH == 0,
            "no kernel events: operations that stay inside a node show neither start nor end",
        ),
    ];
    spots.into_iter().filter(|(applies, _)| *applies).map(|(_, spot)| spot.to_owned()).collect()
}
