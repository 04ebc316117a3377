//! The page in a real browser: every view in every state it can be in, at the widths of phones and walls, in both colours.
//! Screenshots are kept in cargo's folder for temporary files, under `page/`.

mod browser;
mod change;
mod decide;
mod fabric;
mod large;
mod stage;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeSet;

use browser::{Browser, Scheme};
use c4_detect::observation::{HealthEvent, Severity};
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
    let node = Seen::recorded("stopped-rank", "llm").open_finding().suspects[0].node.clone().expect("a node");
    let health = HealthEvent {
        node,
        gpu: Some(0),
        nic: None,
        code: "thermal".into(),
        detail: "clocks are held down by temperature, 92 °C".into(),
        severity: Severity::Warning,
        cleared: false,
        ago_us: 0,
    };
    let seen = Seen::recorded_with("stopped-rank", "llm", health).and(Seen::healthy("other"));
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
    browser.wait_for("[aria-label='Health of the suspects'] li", "held down by temperature, 92 °C").await;
    browser.wait_for("[aria-label='The operation that stands still'] figcaption", "wait in it").await;
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
    let mut drawn = BTreeSet::new();
    for (case, name) in [
        ("straggler", "finding-slow"),
        ("nccl-tpdp-blocked-link", "finding-link"),
        ("nccl-dp-slow-link", "finding-slow-link"),
        ("nccl-stragglers", "finding-stragglers"),
        ("killed-rank", "finding-death"),
    ] {
        let seen = Seen::recorded(case, "llm");
        let finding = seen.findings.values().next_back().expect("a finding").finding.clone();
        let scene = seen.kept[&finding.id].clone();
        let changes = seen.jobs.values().flat_map(|job| &job.view.changes).map(|change| change.sentence());
        let changes: Vec<String> = changes.collect();
        let stage = Stage::start(seen).await;
        browser.window(1440, 900, Scheme::Dark).await;
        browser.open(&stage.url(&format!("#/finding/{}", finding.id.0))).await;
        browser.wait_for("h1", &finding.summary).await;
        browser.wait_for("figcaption", "ranks").await;
        // Each picture is there if, and only if, there is something to draw.
        for (heading, wanted) in [
            ("Network delays", !scene.links.is_empty()),
            ("Iteration time", scene.iterations.len() >= 3),
            (" #", !scene.standstills.is_empty()),
        ] {
            let shown = format!(
                "return [...document.querySelectorAll('section.card:not([hidden]) h2')].some((e) => e.textContent.includes({heading:?}))"
            );
            assert_eq!(browser.script(&shown).await, json!(wanted), "{name}: {heading}");
            drawn.extend(wanted.then_some(heading));
        }
        if let Some(slowest) =
            scene.links.iter().max_by(|a, b| a.slow.cmp(&b.slow).then(a.times.total_cmp(&b.times)))
        {
            let rank = |spot: u32| scene.spots[spot as usize].rank.expect("a rank");
            let said = format!("The slowest: rank {} → rank {}", rank(slowest.src), rank(slowest.dst));
            browser.wait_for("figcaption", &said).await;
            browser.press("[aria-label^=Delays]", "\u{e014}").await;
            browser.wait_for(".readout", "times the usual").await;
        }
        if scene.iterations.len() >= 3 {
            browser.press("[aria-label^=Iteration][role=group]", "\u{e012}").await;
            browser.wait_for(".readout", "1 iteration").await;
            let last = changes.last().cloned().unwrap_or("No change was noticed".to_owned());
            browser.wait_for("figcaption", &last).await;
        }
        browser.judge(name, 1440).await;
        stage.die().await;
        // What it complains of now is that the controller is gone.
        browser.open("about:blank").await;
        browser.complaints().await;
    }
    browser.stop().await;
    assert_eq!(drawn, [" #", "Iteration time", "Network delays"].into(), "each was seen once at least");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_moment_at_which_iterations_became_slower_is_drawn() {
    let seen = Seen::of("llm", change::observations());
    let job = seen.jobs.values().next().expect("a job");
    assert!(seen.findings.is_empty() && job.view.changes.len() == 1, "{:#?}", job.view.changes);
    let sentence = job.view.changes[0].sentence();
    let stage = Stage::start(seen).await;
    let browser = Browser::start().await;
    for (width, scheme) in [(1440, Scheme::Dark), (360, Scheme::Light)] {
        browser.window(width, 900, scheme).await;
        browser.open(&stage.url("#/job/llm")).await;
        browser.wait_for("[aria-label='Iteration time'] figcaption", &sentence).await;
        browser.wait_for("[aria-label='When the iteration time changed'] li", &sentence).await;
        browser.wait_for(".marktext", "→").await;
        // Iterations took 200 ms in the first half and 250 ms in the second, so it is drawn in the middle.
        let place = "const [box, mark] = ['svg', 'line.mark.change'].map((one) =>
                 document.querySelector(`[aria-label='Iteration time'] ${one}`).getBoundingClientRect());
             return (mark.left - box.left) / box.width";
        let place = browser.script(place).await.as_f64().expect("a number");
        assert!((0.4..0.65).contains(&place), "{place}");
        browser.judge(&format!("job-change-{width}"), width).await;
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
        // All the way down and up again, a step a frame.
        let longest = browser
            .script(
                "return new Promise((done) => {
                     const end = document.documentElement.scrollHeight - innerHeight;
                     let longest = 0, before, step = 0;
                     const frame = (now) => {
                         if (before !== undefined) longest = Math.max(longest, now - before);
                         before = now;
                         if (++step > 60) return done(longest);
                         scrollTo(0, end * (1 - Math.abs(step - 30) / 30));
                         requestAnimationFrame(frame);
                     };
                     requestAnimationFrame(frame);
                 })",
            )
            .await;
        println!("{name}: drawn in {drawn} ms, {inked} of it inked; longest frame of scrolling {longest} ms");
        browser.judge(name, width).await;
        assert!(inked.as_f64().is_some_and(|share| share > 0.3), "{name}: {inked}");
    }
    browser.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fabrics_are_drawn_as_planned_and_as_they_would_be_hashed() {
    let stage = Stage::start(Seen::default()).await;
    let browser = Browser::start().await;
    for (name, topology, dead, widths) in [
        ("fabric-2", fabric::two_tiers(2, 2), None, &[(1440, Scheme::Light)][..]),
        ("fabric-8", fabric::two_tiers(8, 4), Some(("leaf3", "spine1")), &[(1440, Scheme::Dark)]),
        (
            "fabric-64",
            fabric::two_tiers(64, 16),
            Some(("leaf40", "spine7")),
            &[(1440, Scheme::Light), (3840, Scheme::Dark), (360, Scheme::Light)],
        ),
        ("fabric-pods", fabric::three_tiers(2, 4, 2, 4), None, &[(1440, Scheme::Dark), (360, Scheme::Light)]),
        ("fabric-pods-64", fabric::three_tiers(8, 8, 4, 8), None, &[(1440, Scheme::Light)]),
    ] {
        let view = fabric::planned(topology, dead);
        // As the page rounds: a half is rounded up.
        let percent = |share: f64| format!("{:.0} %", (share * 1e3).round() / 10.0 + 1e-6);
        let max_hashed = view.max_hashed.expect("worked out");
        let (most, hashed) = (percent(view.max_fabric), percent(max_hashed));
        let sentence = if view.max_fabric > 1.005 {
            format!(
                "Jobs ask more than the fabric has: as planned, {most} of the fullest link's rate; hashed, the same flows would ask {hashed} of one"
            )
        } else {
            format!(
                "the fullest link between switches carries {most} of its rate; hashed, the same flows would ask {hashed} of one"
            )
        };
        assert!(view.max_fabric < max_hashed, "{name}: {sentence}");
        stage.show(Seen::healthy("llm").on(view.clone()));
        for (width, scheme) in widths {
            browser.window(*width, 1000, *scheme).await;
            browser.open(&stage.url("")).await;
            browser.wait_for("a", &sentence).await;
            browser.open(&stage.url("#/fabric")).await;
            browser.wait_for("h1", &sentence).await;
            // The fullest is where the keyboard begins, and the table says the same of it.
            browser.press(".pair", "\u{e014}").await;
            let planned = format!("{} planned", percent(view.max_fabric));
            browser.wait_for(".readout", &planned).await;
            browser.click("summary").await;
            let most = view.links.iter().filter_map(|link| link.hashed).max_by(f64::total_cmp);
            browser.wait_for("td", &percent(most.expect("links"))).await;
            if dead.is_some() {
                browser.wait_for(".doubt", "1 link avoided").await;
                browser.wait_for("td", "avoid").await;
            }
            browser.judge(&format!("{name}-{width}"), *width).await;
        }
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
