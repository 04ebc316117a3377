//! One node: what its sensors say.

use super::NODE;
use crate::model::{Board, Needs::Gpu, Panel, Row, Unit, View};

pub(super) fn board() -> Board {
    Board {
        uid: "c4-node",
        title: "C4 / Node",
        about: "One node: what its sensors say",
        variable: Some(NODE),
        rows: vec![now(), trouble(), gpus(), nics()],
    }
}

fn now() -> Row {
    let number = |title, bad, about, expr: &str| {
        Panel::new(title, View::Number { bad }, Unit::Count, about).ask("", expr)
    };
    Row {
        title: "Now",
        panels: vec![
            number("In sight", false, "1 if an agent of it is connected", r#"c4_node_up{node="$node"}"#),
            number("Ranks", false, "Alive on it", r#"c4_node_ranks{node="$node"}"#),
            number(
                "Trouble",
                true,
                "What its sensors have reported and not taken back",
                r#"count(c4_agent_health_trouble{node="$node"}) or vector(0)"#,
            ),
            number(
                "Sensors missing",
                false,
                "Of recorder, host, nvml, nic and kmsg",
                r#"count(c4_agent_sensor_present{node="$node"} == 0) or vector(0)"#,
            ),
            number(
                "Recorders",
                false,
                "Of training processes that live",
                r#"sum(c4_agent_recorders{node="$node"})"#,
            ),
            number(
                "Open findings",
                true,
                "Findings whose first suspect is on it",
                r#"count(c4_finding_confidence_ratio{node="$node"}) or vector(0)"#,
            ),
        ],
    }
}

fn trouble() -> Row {
    Row {
        title: "Trouble",
        panels: vec![
            Panel::new(
                "Trouble",
                View::Table(&["code", "gpu", "nic"]),
                Unit::Count,
                "Reported and not taken back; the runbook of health findings says what each means",
            )
            .ask("", r#"c4_agent_health_trouble{node="$node"}"#),
            Panel::new("XIDs and other reports", View::Stack, Unit::Count, "By code, in a minute").ask(
                "{{code}}",
                r#"sum by (code) (increase(c4_agent_health_events_total{node="$node"}[1m]))"#,
            ),
            Panel::new(
                "Findings that suspect it",
                View::Table(&["finding", "kind", "job", "rank", "gpu"]),
                Unit::Ratio,
                "First suspects only",
            )
            .ask("", r#"c4_finding_confidence_ratio{node="$node"}"#),
            Panel::new("Sensors", View::Lines, Unit::Count, "1: there; 0: missing")
                .ask("{{sensor}}", r#"c4_agent_sensor_present{node="$node"}"#),
        ],
    }
}

fn gpus() -> Row {
    let gpu = |title, unit, about, metric: &str| {
        Panel::new(title, View::Lines, unit, about)
            .needs(Gpu)
            .width(8)
            .ask("GPU {{gpu}}", format!(r#"{metric}{{node="$node"}}"#))
    };
    Row {
        title: "GPUs",
        panels: vec![
            gpu("Temperature", Unit::Celsius, "", "c4_agent_gpu_temperature_celsius"),
            gpu("Power", Unit::Watts, "", "c4_agent_gpu_power_watts"),
            gpu(
                "SM clock",
                Unit::Hertz,
                "GPUs of one job do the same at the same time: one whose clock is lower than its neighbours' is not well",
                "c4_agent_gpu_sm_clock_hertz",
            ),
            gpu("Busy", Unit::Ratio, "Part of the time that a kernel ran", "c4_agent_gpu_busy_ratio"),
            gpu(
                "Memory errors not corrected",
                Unit::Count,
                "Since the driver was loaded",
                "c4_agent_gpu_ecc_uncorrected_total",
            ),
            Panel::new("Memory errors corrected, PCIe replays", View::Lines, Unit::PerSecond, "")
                .needs(Gpu)
                .width(8)
                .ask(
                    "GPU {{gpu}} memory",
                    r#"rate(c4_agent_gpu_ecc_corrected_total{node="$node"}[$__rate_interval])"#,
                )
                .ask(
                    "GPU {{gpu}} PCIe",
                    r#"rate(c4_agent_gpu_pcie_replays_total{node="$node"}[$__rate_interval])"#,
                ),
        ],
    }
}

fn nics() -> Row {
    let nic = |title, unit, about| Panel::new(title, View::Lines, unit, about);
    Row {
        title: "NICs",
        panels: vec![
            nic("Sent", Unit::BytesPerSecond, "")
                .ask("{{nic}}", r#"rate(c4_agent_nic_transmit_bytes_total{node="$node"}[$__rate_interval])"#),
            nic("Received", Unit::BytesPerSecond, "")
                .ask("{{nic}}", r#"rate(c4_agent_nic_receive_bytes_total{node="$node"}[$__rate_interval])"#),
            nic("Links up", Unit::Count, "1: up; 0: down").ask("{{nic}}", r#"c4_agent_nic_up{node="$node"}"#),
            nic("Link losses", Unit::Count, "In ten minutes")
                .ask("{{nic}}", r#"increase(c4_agent_nic_link_losses_total{node="$node"}[10m])"#),
        ],
    }
}
