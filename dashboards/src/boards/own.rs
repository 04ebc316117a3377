//! C4 itself: what it costs, what it loses, and how far behind it is.

use crate::model::{Board, Panel, Row, Unit, View};

pub(super) fn board() -> Board {
    Board {
        uid: "c4-self",
        title: "C4 / Itself",
        about: "C4 itself: what it costs, what it loses, and how far behind it is",
        variable: None,
        rows: vec![controller(), agents(), plugin()],
    }
}

/// A metric of a process, of programs of one kind.
fn of(program: &str, expr: &str) -> String {
    format!("{expr} * on (instance) group_left () c4_{program}_build_info")
}

fn controller() -> Row {
    Row {
        title: "Controller",
        panels: vec![
            Panel::new("CPU", View::Lines, Unit::Factor, "Cores in use").width(8).ask(
                "{{instance}}",
                of("controller", "rate(process_cpu_seconds_total[$__rate_interval])"),
            ),
            Panel::new("Memory", View::Lines, Unit::Bytes, "Resident")
                .width(8)
                .ask("{{instance}}", of("controller", "process_resident_memory_bytes")),
            Panel::new("Lag", View::Lines, Unit::Seconds, "99 of 100 messages are younger when agents send them; 99 of 100 batches are taken in faster")
                .width(8)
                .ask("age of messages", "histogram_quantile(0.99, sum by (le) (rate(c4_controller_message_age_seconds_bucket[$__rate_interval])))")
                .ask("work on a batch", "histogram_quantile(0.99, sum by (le) (rate(c4_controller_turn_seconds_bucket[$__rate_interval])))"),
            Panel::new("Messages", View::Lines, Unit::PerSecond, "Taken, by what they say")
                .width(8)
                .ask("{{body}}", "sum by (body) (rate(c4_controller_messages_total[$__rate_interval]))"),
            Panel::new("Waiting inputs, streams", View::Lines, Unit::Count, "")
                .width(8)
                .ask("inputs waiting", "c4_controller_queue_messages")
                .ask("streams", "c4_controller_streams"),
            Panel::new("Lost and refused", View::Lines, Unit::PerSecond, "All of these should be zero")
                .width(8)
                .ask("missing", "rate(c4_controller_messages_missing_total[$__rate_interval])")
                .ask("dropped by agents", "rate(c4_controller_agent_spool_dropped_total[$__rate_interval])")
                .ask("replies dropped", "rate(c4_controller_replies_dropped_total[$__rate_interval])")
                .ask("left out of this page", "c4_series_left_out > 0 or vector(0)"),
            Panel::new("Refused messages", View::Lines, Unit::PerSecond, "By reason")
                .ask("{{reason}}", "sum by (reason) (rate(c4_controller_messages_refused_total[$__rate_interval]))"),
            Panel::new("Deliveries of alerts", View::Lines, Unit::Count, "By receiver and outcome, in five minutes")
                .ask("{{receiver}} {{outcome}}", "sum by (receiver, outcome) (increase(c4_controller_alerts_total[5m]))"),
        ],
    }
}

fn agents() -> Row {
    Row {
        title: "Agents",
        panels: vec![
            Panel::new("CPU", View::Lines, Unit::Factor, "Cores in use: the median and the most expensive agent. The promise is 0.01")
                .width(8)
                .ask("median", format!("quantile(0.5, {})", of("agent", "rate(process_cpu_seconds_total[$__rate_interval])")))
                .ask("most", format!("max({})", of("agent", "rate(process_cpu_seconds_total[$__rate_interval])"))),
            Panel::new("Memory", View::Lines, Unit::Bytes, "Resident: the median and the largest agent")
                .width(8)
                .ask("median", format!("quantile(0.5, {})", of("agent", "process_resident_memory_bytes")))
                .ask("most", format!("max({})", of("agent", "process_resident_memory_bytes"))),
            Panel::new("A look at all recorders", View::Lines, Unit::Seconds, "99 of 100 looks are shorter")
                .width(8)
                .ask("all agents", "histogram_quantile(0.99, sum by (le) (rate(c4_agent_sample_seconds_bucket[$__rate_interval])))"),
            Panel::new("Agents not connected", View::Number { bad: true }, Unit::Count, "Agents that Prometheus sees and the controller does not")
                .ask("", "count(c4_agent_connected == 0) or vector(0)"),
            Panel::new("Spools", View::Lines, Unit::Bytes, "What waits in agents: all, and the fullest")
                .width(10)
                .ask("all", "sum(c4_agent_spool_bytes)")
                .ask("fullest", "max(c4_agent_spool_bytes)"),
            Panel::new("Dropped by agents", View::Lines, Unit::PerSecond, "Messages that found no room in a spool")
                .width(10)
                .ask("all agents", "sum(rate(c4_agent_spool_dropped_total[$__rate_interval]))"),
        ],
    }
}

fn plugin() -> Row {
    Row {
        title: "Plugin",
        panels: vec![
            Panel::new(
                "Recorders",
                View::Lines,
                Unit::Count,
                "Of processes that live; silent ones have profiling switched off",
            )
            .width(8)
            .ask("live", "sum(c4_agent_recorders)")
            .ask("silent", "sum(c4_agent_recorders_silent)")
            .ask("unreadable", "sum(c4_agent_recorders_unreadable)"),
            Panel::new(
                "Operations recorded",
                View::Lines,
                Unit::PerSecond,
                "Collectives seen to complete; the plugin takes some 10 ns for each event of one",
            )
            .width(8)
            .ask("all ranks", "sum(rate(c4_agent_collective_seconds_count[$__rate_interval]))"),
            Panel::new(
                "Lost in recorders",
                View::Lines,
                Unit::PerSecond,
                "Where anything is lost, absence is no evidence, and verdicts may be \"unknown\"",
            )
            .width(8)
            .ask("found no room", "sum(rate(c4_agent_plugin_dropped_total[$__rate_interval]))")
            .ask("overwritten unread", "sum(rate(c4_agent_operations_unread_total[$__rate_interval]))"),
        ],
    }
}
