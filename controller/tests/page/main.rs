//! The page in a real browser: every view in every state it can be in, at the widths of phones and walls, in both colours.
//! Screenshots are kept in cargo's folder for temporary files, under `page/`.

mod browser;
mod large;
mod stage;
#[path = "../support/mod.rs"]
mod support;

use browser::{Browser, Scheme};
use c4_proto::v1::{self, pictures_client::PicturesClient};
use serde_json::json;
use stage::{Seen, Stage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_wrong() {
    let stage = Stage::start(Seen::healthy("llm")).await;
    let browser = Browser::start().await;
    for (width, scheme, name) in
        [(1440, Scheme::Dark, "fleet-fine-dark"), (360, Scheme::Light, "fleet-fine-360")]
    {
        browser.window(width, 900, scheme).await;
        browser.open(&stage.url("")).await;
        browser.wait_for("h1", "Nothing is wrong").await;
        browser.wait_for("table", "healthy").await;
        browser.judge(name, width).await;
    }
    browser.window(1440, 900, Scheme::Light).await;
    browser.click("table a").await;
    browser.wait_for("h1", "llm").await;
    browser.wait_for("figcaption", "Nobody waits for long").await;
    browser.judge("job-fine-light", 1440).await;
    browser.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hang_is_drawn_and_walked_with_the_keyboard_alone() {
    let seen = Seen::recorded("stopped-rank", "llm").and(Seen::healthy("other"));
    let finding = seen.open_finding().clone();
    let rank = finding.suspects[0].rank.expect("a rank");
    let stage = Stage::start(seen).await;
    let browser = Browser::start().await;
    browser.window(1440, 900, Scheme::Dark).await;
    browser.open(&stage.url("")).await;
    browser.wait_for("h1", "One thing is wrong in one job").await;
    browser.wait_for(".sentence", &finding.summary).await;
    browser.judge("fleet-hang-dark", 1440).await;
    browser.press(".sentence a", "\u{e007}").await;
    browser.wait_for("h1", &finding.summary).await;
    browser.wait_for("figcaption", &format!("All waits end at rank {rank} ")).await;
    browser.wait_for("ol", "would restart job llm from checkpoint 120").await;
    browser.press("[role=group]", "\u{e014}").await;
    browser.wait_for(".readout", &format!("rank {rank}")).await;
    browser.judge("finding-hang-dark", 1440).await;
    for (width, scheme, name) in
        [(360, Scheme::Light, "finding-hang-360"), (3840, Scheme::Light, "finding-hang-4k")]
    {
        browser.window(width, 2000, scheme).await;
        browser.open(&stage.url(&format!("#/finding/{}", finding.id.0))).await;
        browser.wait_for("figcaption", "All waits end at").await;
        browser.judge(name, width).await;
    }
    browser.window(1440, 900, Scheme::Light).await;
    browser.open(&stage.url("#/job/llm")).await;
    browser.wait_for("h1", "llm").await;
    browser.wait_for("figcaption", "All waits end at").await;
    browser.judge("job-hang-light", 1440).await;
    browser.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slowness_and_blocked_links_are_drawn() {
    let browser = Browser::start().await;
    for (case, name) in [
        ("straggler", "finding-slow"),
        ("nccl-tpdp-blocked-link", "finding-link"),
        ("killed-rank", "finding-death"),
    ] {
        let seen = Seen::recorded(case, "llm");
        let finding = seen.findings.values().next_back().expect("a finding").finding.clone();
        let stage = Stage::start(seen).await;
        browser.window(1440, 900, Scheme::Dark).await;
        browser.open(&stage.url(&format!("#/finding/{}", finding.id.0))).await;
        browser.wait_for("h1", &finding.summary).await;
        browser.wait_for("figcaption", "ranks").await;
        browser.judge(name, 1440).await;
        stage.die().await;
        // What it complains of now is that the controller is gone.
        browser.open("about:blank").await;
        browser.complaints().await;
    }
    browser.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_shown_follows_the_controller_until_it_is_lost() {
    let stage = Stage::start(Seen::default()).await;
    let browser = Browser::start().await;
    browser.window(1440, 900, Scheme::Light).await;
    browser.open(&stage.url("")).await;
    browser.wait_for("h1", "No agent has connected yet").await;
    stage.show(Seen::healthy("llm"));
    browser.wait_for("h1", "Nothing is wrong").await;
    stage.show(Seen::recorded("killed-rank", "llm"));
    browser.wait_for("h1", "wrong in one job").await;
    browser.wait_for("#line", "live").await;
    browser.judge("fleet-death-light", 1440).await;
    // Names that nobody gave are said not to be there.
    browser.open(&stage.url("#/job/%3Cb%3Enobody%2F")).await;
    browser.wait_for("main p", "knows no job \"<b>nobody/\"").await;
    browser.open(&stage.url("")).await;
    browser.wait_for("h1", "wrong in one job").await;
    stage.die().await;
    browser.wait_for("[role=alert]", "The controller does not answer. What you see is of").await;
    browser.wait_for("#line", "controller lost").await;
    let shown = browser.script("return document.querySelector('h1').textContent").await;
    assert_eq!(shown, json!("One thing is wrong in one job"), "what was known stays");
    let refused = |text: &String| text.contains("ERR_CONNECTION_REFUSED") || text.contains("ERR_");
    let complaints = browser.complaints().await;
    assert!(complaints.iter().all(refused), "{complaints:#?}");
    browser.judge("fleet-lost-light", 1440).await;
    browser.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_of_16384_ranks_is_drawn() {
    let seen = Seen::of("large", large::observations(16_384, 5_555));
    let finding = seen.open_finding().clone();
    assert_eq!(finding.suspects[0].rank, Some(5_555), "{}", finding.summary);
    let stage = Stage::start(seen).await;
    let browser = Browser::start().await;
    for (width, fragment, name) in [
        (1440, "#/job/large".to_owned(), "job-16k"),
        (1440, format!("#/finding/{}", finding.id.0), "finding-16k"),
        (360, format!("#/finding/{}", finding.id.0), "finding-16k-360"),
    ] {
        browser.window(width, 900, Scheme::Dark).await;
        browser.open(&stage.url(&fragment)).await;
        browser.wait_for("figcaption", "All waits end at rank 5555 ").await;
        let drawn = browser
            .script("return Math.max(...performance.getEntriesByName('draw').map((one) => one.duration))")
            .await;
        let inked = browser
            .script(
                "const canvas = document.querySelector('canvas'), { width, height } = canvas;
                 const pixels = canvas.getContext('2d').getImageData(0, 0, width, height).data;
                 let inked = 0;
                 for (let i = 3; i < pixels.length; i += 4) inked += pixels[i] > 0;
                 return inked / (width * height)",
            )
            .await;
        println!("{name}: drawn in {drawn} ms, {inked} of it inked");
        browser.judge(name, width).await;
        assert!(inked.as_f64().is_some_and(|share| share > 0.3), "{name}: {inked}");
    }
    browser.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_come_from_a_running_controller_and_may_load_nothing_else() {
    let running = support::controller("{}").await;
    let mut agent = support::Agent::connect(&running, "n0", "s", 1).await;
    for rank in 0..2 {
        agent.say(support::started(u64::from(rank) + 1, "a/b c", rank, 2)).await;
        let joined = agent.say(support::joined(u64::from(rank) + 1, 7, rank, 2)).await;
        agent.acknowledged(joined).await;
    }
    support::event(&running, |event| event.text.contains("n0 is in sight")).await;
    let (head, page) = support::answer(running.http, "/").await;
    assert!(head.contains("content-security-policy: default-src 'none';"), "{head}");
    assert!(page.contains("<title>C4</title>"));
    // Asking for a job is what has it drawn.
    let job = async {
        loop {
            let (status, job) = support::get(running.http, "/api/page?job=a%2Fb%20c").await;
            if status == 200 {
                return serde_json::from_str::<serde_json::Value>(&job).expect("JSON");
            }
        }
    };
    let job = tokio::time::timeout(support::PATIENCE, job).await.expect("the job is seen");
    assert_eq!(job["scene"]["rank"], json!([0, 1]));
    assert_eq!(job["scene"]["nodes"], json!(["n0"]));
    let (_, fleet) = support::get(running.http, "/api/page").await;
    let fleet: serde_json::Value = serde_json::from_str(&fleet).expect("JSON");
    assert_eq!((&fleet["jobs"][0]["name"], &fleet["nodes"]), (&json!("a/b c"), &json!(1)));
    for missing in ["/api/page?job=x", "/api/page?finding=x", "/page/..%2Findex.html", "/page/nothing.js"] {
        assert_eq!(support::get(running.http, missing).await.0, 404, "{missing}");
    }
    let mut pictures = PicturesClient::connect(format!("http://{}", running.grpc)).await.expect("connects");
    let asked = pictures.get_report(v1::GetReportRequest { job: "a/b c".into() }).await;
    let report = asked.expect("a report").into_inner().html;
    let refused = pictures.get_report(v1::GetReportRequest { job: "x".into() }).await;
    assert_eq!(refused.expect_err("no such job").code(), tonic::Code::NotFound);
    let file = std::env::temp_dir().join(format!("c4-report-{}.html", std::process::id()));
    std::fs::write(&file, &report).expect("room");
    let browser = Browser::start().await;
    browser.window(1440, 900, Scheme::Light).await;
    browser.open(&format!("file://{}", file.display())).await;
    browser.wait_for("h1", "a/b c").await;
    browser.wait_for("figcaption", "Nobody waits for long").await;
    browser.judge("report", 1440).await;
    browser.stop().await;
    std::fs::remove_file(file).expect("it was there");
    assert!(running.drain().await, "viewers hold nothing up");
}
