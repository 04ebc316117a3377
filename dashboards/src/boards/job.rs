//! One job: how fast, since when, and who holds it up.

use super::JOB;
use crate::model::{Board, Panel, Row, Unit, View};

pub(super) fn board() -> Board {
    Board {
        uid: "c4-job",
        title: "C4 / Job",
        about: "One job: how fast it is, since when, and who holds it up",
        variable: Some(JOB),
        rows: vec![now(), pace(), suspects(), collectives(), cost()],
    }
}

fn now() -> Row {
    let number = |title, unit, about, expr: &str| {
        Panel::new(title, View::Number { bad: false }, unit, about).ask("", expr)
    };
    Row {
        title: "Now",
        panels: vec![
            Panel::new("State", View::Word, Unit::Count, "What the controller makes of it")
                .ask("{{state}}", r#"c4_job_state{job="$job"} == 1"#),
            number(
                "Ranks",
                Unit::Count,
                "Alive",
                r#"sum(c4_job_ranks{job="$job",state=~"running|waiting|stopped"})"#,
            ),
            number("of", Unit::Count, "Ranks that the job says it has", r#"c4_job_world_size{job="$job"}"#),
            number(
                "Iteration",
                Unit::Seconds,
                "Learned duration",
                r#"c4_job_usual_iteration_seconds{job="$job"}"#,
            ),
            number(
                "Iterations",
                Unit::PerSecond,
                "In a second, over the last minute",
                r#"rate(c4_job_iterations_total{job="$job"}[1m])"#,
            ),
            number("Restarts", Unit::Count, "Begun by C4", r#"c4_job_restarts_total{job="$job"}"#),
        ],
    }
}

fn pace() -> Row {
    Row {
        title: "Pace",
        panels: vec![
            Panel::new(
                "Iteration time",
                View::Lines,
                Unit::Seconds,
                "Findings are marked red, changes of the iteration time orange",
            )
            .ask("median", quantile(0.5, "c4_job_iteration_seconds"))
            .ask("99 of 100", quantile(0.99, "c4_job_iteration_seconds"))
            .ask("usual", r#"c4_job_usual_iteration_seconds{job="$job"}"#),
            Panel::new("Iterations by duration", View::Heatmap, Unit::Count, "").ask(
                "{{le}}",
                r#"sum by (le) (increase(c4_job_iteration_seconds_bucket{job="$job"}[$__rate_interval]))"#,
            ),
            Panel::new(
                "Last change",
                View::Table(&["job"]),
                Unit::Factor,
                "How many times as long iterations have been since the last change of their duration",
            )
            .ask("", r#"c4_job_last_change_ratio{job="$job"}"#),
            Panel::new(
                "Noise",
                View::Lines,
                Unit::Ratio,
                "How much iterations usually differ from each other: a standard deviation, as a share",
            )
            .ask("noise", r#"c4_job_iteration_noise_ratio{job="$job"}"#),
        ],
    }
}

fn suspects() -> Row {
    Row {
        title: "Who holds it up",
        panels: vec![
            Panel::new("Findings", View::Table(&["finding", "kind", "node", "rank", "gpu"]), Unit::Ratio, "Open, each with its first suspect and how sure it is that this one is to blame")
                .ask("", r#"c4_finding_confidence_ratio{job="$job"}"#),
            Panel::new("Ranks by what they do", View::Stack, Unit::Count, "Waiting: in a collective for longer than usual")
                .ask("{{state}}", r#"c4_job_ranks{job="$job"}"#),
            Panel::new("Slow ranks", View::Lines, Unit::Seconds, "How late ranks that are called slow come to collectives, an iteration")
                .ask("rank {{rank}} on {{node}}", r#"c4_rank_late_seconds{job="$job"}"#),
            Panel::new("Lateness of the latest rank", View::Lines, Unit::Seconds, "An iteration, whoever it is; in a healthy job it is small and taken in turns")
                .ask("median", quantile(0.5, "c4_job_straggler_lateness_seconds"))
                .ask("99 of 100", quantile(0.99, "c4_job_straggler_lateness_seconds")),
            Panel::new(
                "Delay by sender and receiver",
                View::Matrix { row: "src", column: "dst" },
                Unit::Factor,
                "Network time of links, in that of links of their kind; the slowest only. A row is a slow sender, a column a slow receiver, a cell a slow link",
            )
            .width(24)
            .ask("", r#"c4_link_slowness_ratio{job="$job"}"#),
        ],
    }
}

fn collectives() -> Row {
    let by = "operation, size, le";
    let quantile = |q: f64, metric: &str| {
        format!(
            r#"histogram_quantile({q}, sum by ({by}) (rate({metric}_bucket{{job="$job"}}[$__rate_interval])))"#
        )
    };
    Row {
        title: "Collectives",
        panels: vec![
            Panel::new(
                "Duration",
                View::Lines,
                Unit::Seconds,
                "Median over ranks, by operation and size up to so much; waiting for late ranks is in it",
            )
            .ask("{{operation}} up to {{size}}", quantile(0.5, "c4_agent_collective_seconds")),
            Panel::new(
                "Bus bandwidth",
                View::Lines,
                Unit::BytesPerSecond,
                "Median over ranks, as nccl-tests counts it: what the job gets, not what the network can do",
            )
            .ask("{{operation}} up to {{size}}", quantile(0.5, "c4_agent_bus_bandwidth_bytes_per_second")),
        ],
    }
}

fn cost() -> Row {
    Row {
        title: "What faults cost",
        panels: vec![
            Panel::new("Downtime by part", View::Stack, Unit::Seconds, "Since the controller started")
                .ask("{{part}}", r#"c4_job_downtime_seconds{job="$job"}"#),
            Panel::new("Incarnation", View::Lines, Unit::Count, "How often the job had been restarted")
                .ask("incarnation", r#"c4_job_incarnation{job="$job"}"#),
        ],
    }
}

fn quantile(q: f64, metric: &str) -> String {
    format!(r#"histogram_quantile({q}, sum by (le) (rate({metric}_bucket{{job="$job"}}[$__rate_interval])))"#)
}
