//! The documentation: what is generated is up to date, every page is in the summary, and every link leads somewhere.
//! `C4_WRITE_DOCS=1 cargo test -p c4-tests --test docs` writes what is generated.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
};

use c4_metrics::table;
use clap::CommandFactory;

fn repository() -> PathBuf {
    fs::canonicalize(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).expect("the repository")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Compares a generated page with its file, or writes it.
fn generated(page: &str, text: &str) {
    let path = repository().join("docs/reference").join(page);
    if env::var_os("C4_WRITE_DOCS").is_some() {
        fs::write(&path, text).expect("written");
    }
    let known = fs::read_to_string(&path).unwrap_or_default();
    assert!(known == text, "{} is out of date; set C4_WRITE_DOCS=1 to write it", path.display());
}

/// Everything that the controller and an agent may tell, also where it needs hardware or a plan to be told.
fn families() -> [Vec<c4_metrics::Family>; 2] {
    let (_, pictures) =
        tokio::sync::watch::channel(std::sync::Arc::new(c4_controller::snapshot::Snapshot::empty(
            c4_controller::config::Mode::Observe,
            c4_detect::observation::Timestamp(0),
        )));
    let mut controller = c4_controller::metrics::Metrics::new().expect("metrics");
    controller.show(pictures).expect("metrics");
    let agent = c4_agent::metrics::Metrics::new("n0").expect("metrics");
    [controller.families(), agent.families()]
}

#[test]
fn all_metrics_are_named_as_prometheus_likes() {
    for families in families() {
        let mut page = String::new();
        for c4_metrics::Family { name, kind, labels, help } in families {
            let labels: Vec<String> = labels.iter().map(|label| format!("{label}=\"x\"")).collect();
            let labels = labels.join(",");
            page += &format!("# HELP {name} {help}\n# TYPE {name} {}\n", kind.name());
            page += &match kind {
                c4_metrics::Kind::Histogram => format!(
                    "{name}_bucket{{{labels},le=\"+Inf\"}} 1\n{name}_sum{{{labels}}} 1\n{name}_count{{{labels}}} 1\n"
                )
                .replace("{,", "{"),
                _ => format!("{name}{{{labels}}} 1\n"),
            };
        }
        c4_tests::prometheus::lint(&page);
    }
}

#[test]
fn all_metrics_are_in_their_table() {
    let [controller, agent] = families();
    let text = format!(
        "# Metrics\n\nGenerated from the programs. Units are Prometheus' base units. A series begins with what it is about and ends \
         with it.\n\n## Controller (port 4401)\n\nJobs (the 1,000 with findings or most ranks), nodes (20,000) and open findings (500) have series \
         of their own; `c4_series_left_out` counts what has none.\n\n{}\n## Agent (port 4402)\n\nEverything has the label `node` besides.\n\n{}",
        table(&controller),
        table(&agent)
    );
    generated("metrics.md", &text);
}

#[test]
fn all_settings_are_on_their_page() {
    let sample = |name: &str| read(&repository().join("deploy").join(name));
    let text = format!(
        "# Configuration\n\nThe samples of [deploy/](../../deploy), which the programs' tests hold against their code: every key is \
         here, with its default.\n\n## c4-controller\n\n```yaml\n{}```\n\n## c4-agent\n\n```yaml\n{}```\n",
        sample("controller.yaml"),
        sample("agent.yaml")
    );
    generated("configuration.md", &text);
}

#[test]
fn all_commands_are_on_their_page() {
    let mut command = c4ctl::cli::Cli::command();
    let mut text = String::from(
        "# c4ctl\n\nGenerated from the program: what `--help` says. Every command takes the options of the first part.\n\n",
    );
    command.build();
    describe(&mut command, "##", &mut text);
    generated("command-line.md", &text);
}

/// The help of a command and of those below it, with headings that begin so.
fn describe(command: &mut clap::Command, heading: &str, text: &mut String) {
    let path = command.get_bin_name().unwrap_or("c4ctl").to_owned();
    let is_first = path == "c4ctl";
    // Options of all commands are told once. What this environment sets is not for everybody.
    let told = std::mem::take(command).term_width(100).mut_args(|arg| {
        let hide = arg.is_hide_set() || !is_first && (arg.is_global_set() || arg.get_id() == "help");
        arg.hide(hide).hide_env_values(true)
    });
    *command = told;
    let help = command.render_long_help().to_string();
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    text.push_str(&format!("{heading} {path}\n\n```\n{}\n```\n\n", lines.join("\n").trim_end()));
    for below in command.get_subcommands_mut() {
        describe(below, "###", text);
    }
}

/// Every Markdown file of the documentation, and the README.
fn pages() -> Vec<PathBuf> {
    let mut pages = vec![repository().join("README.md")];
    let mut folders = vec![repository().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == "md") {
                pages.push(entry);
            }
        }
    }
    pages.sort();
    pages
}

/// Targets of links outside of code.
fn links(text: &str) -> Vec<String> {
    let mut links = Vec::new();
    let mut code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            code = !code;
        }
        // What is between backticks is no link.
        let prose: String = line.split('`').step_by(2).collect();
        if !code {
            links.extend(
                prose.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())),
            );
        }
    }
    links
}

/// Anchors of a page's headings, as GitHub and mdBook make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings =
        text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let anchor = |heading: &str| -> String {
        let kept = heading.to_lowercase();
        kept.chars()
            .filter(|c| c.is_alphanumeric() || *c == ' ' || *c == '-' || *c == '_')
            .map(|c| if c == ' ' { '-' } else { c })
            .collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut checked = 0;
    for page in pages() {
        let text = read(&page);
        for link in links(&text) {
            if let Some((scheme, rest)) = link.split_once("://") {
                // Whether anybody answers there is not for a test to ask.
                let host = rest.split('/').next().unwrap_or_default();
                let is_well_formed =
                    scheme == "https" && host.contains('.') && !rest.contains(char::is_whitespace);
                assert!(is_well_formed, "{}: {link} is no address of a page", page.display());
                continue;
            }
            let (file, anchor) =
                link.split_once('#').map_or((link.as_str(), None), |(file, anchor)| (file, Some(anchor)));
            let target =
                if file.is_empty() { page.clone() } else { page.parent().expect("a folder").join(file) };
            assert!(target.exists(), "{}: {link} leads nowhere", page.display());
            if let Some(anchor) = anchor {
                assert!(
                    anchors(&read(&target)).contains(anchor),
                    "{}: no heading for {link}",
                    page.display()
                );
            }
            checked += 1;
        }
    }
    assert!(checked > 30, "only {checked} links were found");
}

#[test]
fn every_page_is_in_the_summary() {
    let docs = repository().join("docs");
    let summary: BTreeSet<PathBuf> =
        links(&read(&docs.join("SUMMARY.md"))).iter().map(|link| docs.join(link)).collect();
    for page in pages().into_iter().filter(|page| page.starts_with(&docs) && !page.ends_with("SUMMARY.md")) {
        assert!(summary.contains(&page), "{} is not in docs/SUMMARY.md", page.display());
    }
}
