//! The network: which links are slow, what was planned for them, and whether connections take the paths that were planned.

use crate::model::{Board, Needs, Panel, Row, Unit, View};

pub(super) fn board() -> Board {
    Board {
        uid: "c4-fabric",
        title: "C4 / Fabric",
        about: "The network: which links are slow, what was planned for them, and whether connections take the paths that were planned",
        variable: None,
        rows: vec![now(), planned(), measured(), agents()],
    }
}

fn now() -> Row {
    let number = |title, bad, unit, about, expr: &str| {
        Panel::new(title, View::Number { bad }, unit, about).ask("", expr)
    };
    Row {
        title: "The plan",
        panels: vec![
            number(
                "Fullest link",
                false,
                Unit::Ratio,
                "Link or NIC port; NICs that may send as fast as they can are full",
                "c4_paths_max_utilization_ratio",
            ),
            number(
                "Lower bound",
                false,
                Unit::Ratio,
                "No plan for these flows could make the fullest less full than this",
                "c4_paths_lower_bound_ratio",
            ),
            number("Flows", false, Unit::Count, "Planned, of all jobs", "c4_paths_flows"),
            number(
                "Without a path",
                true,
                Unit::Count,
                "Flows for which there is none",
                "c4_paths_unplaced_flows",
            ),
            number(
                "Avoided links",
                true,
                Unit::Count,
                "Directions of links that are down, or that plans go around",
                "c4_paths_avoided_links",
            ),
            number(
                "Misfits",
                true,
                Unit::Count,
                "Places where the topology and what is seen do not fit; `c4ctl paths` names them",
                "c4_paths_mistakes",
            ),
        ],
    }
}

fn planned() -> Row {
    Row {
        title: "Links and flows, as planned",
        panels: vec![
            Panel::new(
                "Fullest links between switches",
                View::Table(&["from", "to", "index"]),
                Unit::Ratio,
                "What the plan has them carry, as a share of their rate",
            )
            .ask("", "topk(20, c4_paths_link_planned_utilization_ratio)"),
            Panel::new(
                "Out of each switch",
                View::Lines,
                Unit::Ratio,
                "Mean over its links to other switches: where lines part, the fabric is not used evenly",
            )
            .ask("{{from}}", "topk(10, avg by (from) (c4_paths_link_planned_utilization_ratio))"),
            Panel::new("Flows", View::Lines, Unit::Count, "Of all jobs")
                .width(8)
                .ask("planned", "c4_paths_flows")
                .ask("without a path", "c4_paths_unplaced_flows"),
            Panel::new(
                "Moves",
                View::Lines,
                Unit::Count,
                "Pieces of flows that plans moved to other paths, and plans made, in ten minutes",
            )
            .width(8)
            .ask("moves", "increase(c4_paths_moves_total[10m])")
            .ask("plans", "increase(c4_paths_plans_total[10m])"),
            Panel::new(
                "Nodes that follow the plan",
                View::Stack,
                Unit::Count,
                "Learning: they look for source ports that take their paths",
            )
            .width(8)
            .ask("{{state}}", "c4_paths_nodes"),
        ],
    }
}

fn measured() -> Row {
    let nics = |title, direction: &str| {
        let (planned, carried) = (
            format!("c4_paths_nic_planned_{direction}_bytes_per_second"),
            format!("rate(c4_agent_nic_{direction}_bytes_total[$__rate_interval])"),
        );
        Panel::new(
            title,
            View::Lines,
            Unit::BytesPerSecond,
            "The ten that are planned to carry most: planned, and measured by their counters. The plan says what flows may take while they \
             send; the measured mean has their pauses in it. The names of NICs in the topology have to be those of the host",
        )
        .ask("{{node}} {{nic}} planned", format!("topk(10, {planned})"))
        .ask("{{node}} {{nic}} measured", format!("{carried} and on (node, nic) topk(10, {planned})"))
    };
    Row {
        title: "Planned against measured",
        panels: vec![
            nics("NICs, sending", "transmit"),
            nics("NICs, receiving", "receive"),
            Panel::new(
                "Slowest links between ranks",
                View::Table(&["job", "src", "dst"]),
                Unit::Factor,
                "Network time in that of links of the same kind, by ranks, as measured",
            )
            .ask("", "topk(20, c4_link_slowness_ratio)"),
            Panel::new(
                "Slowest link of each job",
                View::Lines,
                Unit::Factor,
                "Network time in that of links of the same kind, as measured",
            )
            .ask("{{job}}", "max by (job) (c4_link_slowness_ratio)"),
        ],
    }
}

fn agents() -> Row {
    Row {
        title: "Agents that follow the plan",
        panels: vec![
            Panel::new("Destinations with planned paths", View::Lines, Unit::Count, "By node")
                .ask("{{node}}", "c4_agent_path_orders > 0"),
            Panel::new(
                "Planned paths without a source port",
                View::Lines,
                Unit::Count,
                "Paths that no probe has found yet, by node: their connections take whatever path ECMP gives them",
            )
            .ask("all nodes", "c4_paths_without_port")
            .ask("{{node}}", "c4_agent_paths_without_port > 0"),
            Panel::new("Probes", View::Lines, Unit::PerSecond, "By node")
                .ask("{{node}}", "rate(c4_agent_path_probes_total[$__rate_interval]) > 0"),
            Panel::new(
                "Paths that changed",
                View::Lines,
                Unit::Count,
                "Times in ten minutes that a port took another path than before, by node",
            )
            .needs(Needs::Fabric)
            .ask("{{node}}", "increase(c4_agent_path_changes_total[10m]) > 0"),
        ],
    }
}
