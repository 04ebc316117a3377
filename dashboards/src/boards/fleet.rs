//! All jobs: is anything wrong, where, and what did it cost.

use crate::model::{Board, Panel, Row, Unit, View};

pub(super) fn board() -> Board {
    Board {
        uid: "c4-fleet",
        title: "C4 / Fleet",
        about: "All jobs: is anything wrong, where, and what did it cost",
        variable: None,
        rows: vec![now(), jobs(), cost()],
    }
}

fn now() -> Row {
    let number = |title, bad, about| Panel::new(title, View::Number { bad }, Unit::Count, about);
    Row {
        title: "Now",
        panels: vec![
            number("Jobs in trouble", true, "Jobs with a finding, being restarted, or of which too little is seen")
                .ask("", r#"sum(c4_jobs{state=~"faulty|restarting|unknown"})"#),
            number("Open findings", true, "Diagnoses whose cause is not gone").ask("", "sum(c4_findings_open)"),
            number("Nodes out of sight", true, "Nodes of which no agent is connected: what their ranks do is unknown")
                .ask("", r#"c4_nodes{state="lost"}"#),
            number("Jobs", false, "Jobs that run").ask("", r#"sum(c4_jobs{state!="ended"})"#),
            number("Ranks", false, "Ranks that are alive").ask("", "c4_ranks"),
            Panel::new(
                "Goodput, last hour",
                View::Number { bad: false },
                Unit::Ratio,
                "Part of the last hour in which jobs made progress that was kept; each rank counts the same",
            )
            .ask("", "1 - sum(clamp_min(sum by (job) (delta(c4_job_downtime_seconds[1h])), 0) * on (job) c4_job_world_size) / (3600 * sum(c4_job_world_size))"),
            Panel::new(
                "Open findings",
                View::Table(&["finding", "kind", "job", "node", "rank", "gpu"]),
                Unit::Ratio,
                "Each with its first suspect; the value says how sure it is that this one is to blame",
            )
            .width(24)
            .ask("", "c4_finding_confidence_ratio"),
        ],
    }
}

fn jobs() -> Row {
    Row {
        title: "Jobs",
        panels: vec![
            Panel::new("Jobs", View::Table(&["job", "state"]), Unit::Count, "Jobs with the state they are in; the value is how many ranks are alive")
                .ask("", r#"(c4_job_state == 1) * on (job) group_left sum by (job) (c4_job_ranks{state=~"running|waiting|stopped"})"#),
            Panel::new("Jobs by state", View::Stack, Unit::Count, "").ask("{{state}}", "sum by (state) (c4_jobs)"),
            Panel::new("Iteration time", View::Lines, Unit::Seconds, "Median, by job").ask(
                "{{job}}",
                "histogram_quantile(0.5, sum by (job, le) (rate(c4_job_iteration_seconds_bucket[$__rate_interval])))",
            ),
            Panel::new("Findings", View::Stack, Unit::Count, "Open findings, by kind").ask("{{kind}}", "c4_findings_open"),
        ],
    }
}

fn cost() -> Row {
    Row {
        title: "What faults cost",
        panels: vec![
            Panel::new(
                "Downtime by part",
                View::Stack,
                Unit::Seconds,
                "Since the controller started: work since the last checkpoint that is done again; until the fault was found; until the job had stopped; until it made progress again",
            )
            .ask("{{part}}", "sum by (part) (c4_job_downtime_seconds)"),
            Panel::new("Downtime by job", View::Lines, Unit::Seconds, "Since the controller started")
                .ask("{{job}}", "sum by (job) (c4_job_downtime_seconds)"),
            Panel::new("What came of findings", View::Stack, Unit::Count, "Actions that were proposed, done or withheld, by outcome, in the time shown")
                .ask("{{outcome}}", "sum by (outcome) (increase(c4_actions_total[$__range]))"),
            Panel::new("Restarts", View::Lines, Unit::Count, "Begun by C4, by job").ask("{{job}}", "c4_job_restarts_total"),
        ],
    }
}
