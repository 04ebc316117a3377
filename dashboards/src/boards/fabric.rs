//! The network: which links are slow, and whether connections take the paths that were planned.

use crate::model::{Board, Needs::Paths, Panel, Row, Unit, View};

pub(super) fn board() -> Board {
    Board {
        uid: "c4-fabric",
        title: "C4 / Fabric",
        about: "The network: which links are slow, and whether connections take the paths that were planned",
        variable: None,
        rows: vec![links(), paths()],
    }
}

fn links() -> Row {
    Row {
        title: "Links between ranks, as measured",
        panels: vec![
            Panel::new(
                "Slowest links",
                View::Table(&["job", "src", "dst"]),
                Unit::Factor,
                "Network time in that of links of the same kind, by ranks",
            )
            .ask("", "topk(20, c4_link_slowness_ratio)"),
            Panel::new(
                "Slowest link of each job",
                View::Lines,
                Unit::Factor,
                "Network time in that of links of the same kind",
            )
            .ask("{{job}}", "max by (job) (c4_link_slowness_ratio)"),
        ],
    }
}

fn paths() -> Row {
    Row {
        title: "Planned paths",
        panels: vec![
            Panel::new("Destinations with planned paths", View::Lines, Unit::Count, "By node").needs(Paths).ask("{{node}}", "c4_agent_path_orders > 0"),
            Panel::new("Planned paths without a source port", View::Lines, Unit::Count, "Paths that no probe has found yet, by node: their connections take whatever path ECMP gives them")
                .needs(Paths)
                .ask("{{node}}", "c4_agent_paths_without_port > 0"),
            Panel::new("Probes", View::Lines, Unit::PerSecond, "By node").needs(Paths).ask("{{node}}", "rate(c4_agent_path_probes_total[$__rate_interval]) > 0"),
            Panel::new("Paths that changed", View::Lines, Unit::Count, "Times in ten minutes that a port took another path than before, by node")
                .needs(Paths)
                .ask("{{node}}", "increase(c4_agent_path_changes_total[10m]) > 0"),
        ],
    }
}
