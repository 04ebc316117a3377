//! What helps around the questions: contexts, watching, reports, bundles, completions, manual pages, the doctor, and the
//! live view on a real terminal.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

#[path = "support/controller.rs"]
mod controller;
mod support;

use c4ctl::cli::Cli;
use clap::CommandFactory;
use controller::Controller;
use flate2::read::GzDecoder;
use support::{command, json, text};

#[test]
fn contexts_choose_the_controller_and_what_is_said_more_directly_wins() {
    let controller = Controller::start();
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("c4/ctl.yaml");
    let run = |args: &[&str], environment: &[(&str, &str)]| {
        let environment = environment.iter().copied();
        command(args).env("C4_CONFIG", &file).envs(environment).output().expect("runs")
    };
    assert!(text(&run(&["context", "list"], &[]).stdout).contains("No contexts; `c4ctl context set"));
    let nowhere = "http://127.0.0.1:9";
    for (name, address) in [("prod", controller.url().as_str()), ("gone", nowhere)] {
        assert_eq!(run(&["context", "set", name, address], &[]).status.code(), Some(0));
    }
    assert_eq!(
        json(&run(&["context", "list", "--json"], &[]))["current"],
        "prod",
        "the first is the current one"
    );
    assert_eq!(run(&["jobs"], &[]).status.code(), Some(0));
    assert_eq!(run(&["jobs", "--context", "gone"], &[]).status.code(), Some(69));
    assert_eq!(run(&["jobs"], &[("C4_CONTEXT", "gone")]).status.code(), Some(69));
    assert_eq!(run(&["jobs", "--context", "prod"], &[("C4_CONTROLLER", nowhere)]).status.code(), Some(0));
    let both = run(&["jobs", "--context", "prod", "--controller", nowhere], &[]);
    assert_eq!(both.status.code(), Some(2), "two that contradict each other are a mistake");
    let none = run(&["jobs", "--context", "x"], &[]);
    assert_eq!(none.status.code(), Some(64));
    assert!(text(&none.stderr).contains("there is no context \"x\"; there are gone, prod"));
    run(&["context", "use", "gone"], &[]);
    assert_eq!(run(&["jobs"], &[]).status.code(), Some(69));
    assert_eq!(run(&["context", "delete", "gone"], &[]).status.code(), Some(0));
    fs::write(&file, "contexts: [1]").expect("room");
    assert_eq!(run(&["jobs"], &[]).status.code(), Some(64));
}

#[test]
fn watching_asks_again_and_wide_tells_more() {
    let controller = Controller::start();
    let mut watching = command(&["jobs", "--watch=1"])
        .env("C4_CONTROLLER", controller.url())
        .stdout(Stdio::piped())
        .spawn()
        .expect("runs");
    let lines = BufReader::new(watching.stdout.take().expect("piped")).lines();
    let answers = lines.map_while(Result::ok).filter(|line| line.starts_with("train")).take(2).count();
    watching.kill().expect("runs still");
    watching.wait().expect("ends");
    assert_eq!(answers, 2);
    let actions = text(&controller.ask(&["actions"]).stdout);
    assert!(actions.contains("restart train in place"), "{actions}");
    let wide = text(&controller.ask(&["findings", "-o", "wide"]).stdout);
    assert!(wide.contains("SUSPECTS") && wide.contains("rank 3 (n1, GPU 3)"), "{wide}");
    assert!(text(&controller.ask(&["jobs", "-o", "wide"]).stdout).contains("1.2 %"));
    assert!(
        text(&controller.ask(&["status", "-o", "wide"]).stdout)
            .contains("nvml: no reason was given (n0, n1)")
    );
    assert_eq!(json(&controller.ask(&["jobs", "-o", "json"]))["jobs"][0]["name"], "train");
}

/// The files of an archive, by the last part of their names.
fn unpacked(archive: &Path) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(GzDecoder::new(fs::File::open(archive).expect("an archive")));
    let entries = archive.entries().expect("entries").map(|entry| {
        let mut entry = entry.expect("an entry");
        let name = entry.path().expect("a path").file_name().expect("a name").to_string_lossy().into_owned();
        let mut content = String::new();
        entry.read_to_string(&mut content).expect("text");
        (name, content)
    });
    entries.collect()
}

#[test]
fn a_bundle_has_all_evidence_and_no_secrets() {
    let controller = Controller::start();
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("bundle.tar.gz");
    let told = json(&controller.ask(&["bundle", "f-1", "--file", file.to_str().expect("utf-8"), "--json"]));
    assert_eq!(told["removed"], 5, "one in each picture, one in the report, one in the audit trail");
    let files = unpacked(&file);
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    let expected = [
        "README.txt",
        "actions.json",
        "audit.json",
        "events.json",
        "evidence.json",
        "finding.json",
        "fleet.json",
        "job.json",
        "paths.json",
        "picture.json",
        "report.html",
        "status.json",
    ];
    assert_eq!(names, expected);
    assert!(files["finding.json"].contains("never entered AllReduce #120"));
    assert!(files["picture.json"].contains("train --api-key [removed]"));
    assert_eq!(files["report.html"], "<!doctype html><p>token=[removed]</p>");
    assert!(files.values().all(|content| !content.contains("12345") && !content.contains("=abc")));
    assert!(files["README.txt"].contains("ledger.json: the controller refuses: no ledger is kept"));
    let unknown = controller.ask(&["bundle", "x"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(text(&unknown.stderr).contains("`c4ctl findings --all` lists all it remembers"));
}

#[test]
fn a_report_is_one_file() {
    let controller = Controller::start();
    let dir = tempfile::tempdir().expect("a folder");
    let run = |args: &[&str]| {
        command(args).env("C4_CONTROLLER", controller.url()).current_dir(&dir).output().expect("runs")
    };
    assert_eq!(run(&["report", "train"]).status.code(), Some(0));
    let html = fs::read_to_string(dir.path().join("c4-report-train.html")).expect("written");
    assert!(html.starts_with("<!doctype html>"));
    assert_eq!(run(&["report", "../x"]).status.code(), Some(1));
    let failed = run(&["report", "train", "--file", "no/such/folder.html"]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(text(&failed.stderr).contains("cannot be written"));
}

#[test]
fn completions_and_manual_pages_know_every_command() {
    let names: Vec<String> =
        Cli::command().get_subcommands().map(|command| command.get_name().to_owned()).collect();
    for (shell, mark) in [("bash", "complete -F"), ("zsh", "#compdef c4ctl"), ("fish", "complete -c c4ctl")] {
        let script = text(&command(&["completions", shell]).output().expect("runs").stdout);
        assert!(script.contains(mark), "{shell}");
        for name in &names {
            assert!(script.contains(name.as_str()), "{name} in {shell}'s");
        }
    }
    let dir = tempfile::tempdir().expect("a folder");
    let out = command(&["man", dir.path().to_str().expect("utf-8")]).output().expect("runs");
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    let pages = names.iter().map(|name| format!("c4ctl-{name}.1"));
    for page in pages.chain(["c4ctl.1".to_owned(), "c4ctl-context-set.1".to_owned()]) {
        let content =
            fs::read_to_string(dir.path().join(&page)).unwrap_or_else(|error| panic!("{page}: {error}"));
        assert!(content.contains(".SH"), "{page}");
    }
}

#[test]
fn bash_completes_commands_and_options() {
    let script = text(&command(&["completions", "bash"]).output().expect("runs").stdout);
    for (words, expected) in
        [("app", "approve"), ("pa", "paths pause"), ("paths --j", "--job --json"), ("context s", "set")]
    {
        let typed: Vec<&str> = words.split(' ').collect();
        let last = typed.last().expect("a word");
        let before = if typed.len() > 1 { typed[typed.len() - 2] } else { "c4ctl" };
        let ask = format!(
            "{script}\nCOMP_WORDS=(c4ctl {words}); COMP_CWORD={}; _c4ctl c4ctl {last} {before}; echo \"${{COMPREPLY[*]}}\"",
            typed.len()
        );
        let out = Command::new("bash").args(["--norc", "-c", &ask]).output().expect("bash");
        let mut offered: Vec<String> = text(&out.stdout).split_whitespace().map(str::to_owned).collect();
        offered.sort();
        assert_eq!(offered.join(" "), expected, "{words:?}: {}", text(&out.stderr));
    }
}

#[test]
fn the_doctor_says_what_is_wrong_and_what_to_do() {
    let controller = Controller::start();
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().to_str().expect("utf-8");
    let args = ["doctor", "--recorders", folder, "--plugin", "/nowhere/plugin.so"];
    let out = controller.ask(&args);
    let shown = text(&out.stdout);
    assert_eq!(out.status.code(), Some(1), "{shown}");
    for expected in [
        "/nowhere/plugin.so: No such file",
        "→ install libnccl-profiler-c4.so",
        "is writable",
        "answers within",
    ] {
        assert!(shown.contains(expected), "{expected:?} in\n{shown}");
    }
    let document = json(&controller.ask(&[&args[..], &["--json"]].concat()));
    let check = |name: &str| {
        let checks = document["checks"].as_array().expect("checks");
        checks.iter().find(|check| check["check"] == name).unwrap_or_else(|| panic!("{name}")).clone()
    };
    assert_eq!(check("plugin")["result"], "bad");
    assert_eq!(check("recorders")["result"], "good");
    assert_eq!(check("clock")["result"], "doubtful");
    let cluster = controller.ask(&["doctor", "--cluster"]);
    let shown = text(&cluster.stdout);
    assert_eq!(cluster.status.code(), Some(1), "{shown}");
    assert!(shown.contains("1 of 2 out of sight: n1") && !shown.contains("plugin"), "{shown}");
    let alone =
        command(&[&args[..], &["--controller", "http://127.0.0.1:9"]].concat()).output().expect("runs");
    assert!(text(&alone.stdout).contains("connection refused"));
}

/// How often a screen is looked at before what is waited for counts as never coming: some 30 s.
const LOOKS: usize = 600;

/// A terminal of its own, with a program on it.
struct Terminal(tempfile::TempDir);

impl Terminal {
    fn run(program: &str, columns: u16) -> Self {
        let terminal = Self(tempfile::tempdir().expect("a folder"));
        terminal.tmux(&["new-session", "-d", "-x", &columns.to_string(), "-y", "30", program]);
        terminal.tmux(&["set-option", "-g", "remain-on-exit", "on"]);
        terminal
    }

    fn tmux(&self, args: &[&str]) -> String {
        let socket = self.0.path().join("tmux");
        let output = Command::new("tmux").arg("-S").arg(socket).args(["-f", "/dev/null"]).args(args).output();
        text(&output.expect("tmux, of Debian's package of that name").stdout)
    }

    fn wait_for(&self, wanted: impl Fn(&str) -> bool) -> String {
        let mut screen = String::new();
        for _ in 0..LOOKS {
            screen = self.tmux(&["capture-pane", "-p"]);
            if wanted(&screen) {
                return screen;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("it never came; the screen is:\n{screen}");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

#[test]
fn top_lives_on_a_terminal_and_leaves_it_as_it_was() {
    let controller = Controller::start();
    let program = format!(
        "echo before; C4_CONFIG=/nowhere {} top --controller {}; echo left with $?; sleep 60",
        env!("CARGO_BIN_EXE_c4ctl"),
        controller.url()
    );
    let terminal = Terminal::run(&program, 100);
    let screen = terminal.wait_for(|screen| screen.contains("never entered AllReduce #120"));
    for expected in [
        "1 open finding",
        "train",
        "faulty",
        "7/8",
        "1 out of sight",
        "suspects: rank 3 (n1, GPU 3)",
        "q leave",
    ] {
        assert!(screen.contains(expected), "{expected:?} in\n{screen}");
    }
    terminal.tmux(&["send-keys", "Enter"]);
    terminal.wait_for(|screen| screen.contains("Findings of train"));
    terminal.tmux(&["resize-window", "-x", "60", "-y", "20"]);
    terminal.wait_for(|screen| screen.contains("Findings of train") && screen.lines().count() <= 20);
    // It says that it has lost the controller, and goes on.
    drop(controller);
    terminal.wait_for(|screen| screen.contains("controller lost"));
    terminal.tmux(&["send-keys", "q"]);
    let screen = terminal.wait_for(|screen| screen.contains("left with 0"));
    assert!(screen.contains("before") && !screen.contains("AllReduce"), "the old screen is back:\n{screen}");
}

#[test]
fn tables_fit_the_terminal_and_colours_are_for_terminals() {
    let controller = Controller::start();
    let commands = ["findings", "actions", "jobs", "paths --job train", "status"];
    let each: String = commands
        .iter()
        .map(|asked| format!("{} {asked} --controller {}; ", env!("CARGO_BIN_EXE_c4ctl"), controller.url()))
        .collect();
    let terminal = Terminal::run(
        &format!("export C4_CONFIG=/nowhere; unset NO_COLOR; {each}echo the end; sleep 60"),
        64,
    );
    terminal.wait_for(|screen| screen.contains("the end"));
    // Lines that the terminal had to wrap are one again.
    let joined = terminal.tmux(&["capture-pane", "-p", "-J", "-S", "-200"]);
    let tables: Vec<&str> = joined.lines().filter(|line| line.contains("  ")).collect();
    assert!(tables.len() > 10, "{joined}");
    for line in tables {
        assert!(line.trim_end().chars().count() <= 64, "{line:?} in\n{joined}");
    }
    assert!(joined.contains('…'), "something was cut:\n{joined}");
    let colours = terminal.tmux(&["capture-pane", "-p", "-e", "-S", "-200"]);
    assert!(colours.contains("\u{1b}[31m") && colours.contains("\u{1b}[32m"), "{colours:?}");
    for asked in commands {
        let words: Vec<&str> = asked.split(' ').collect();
        let piped = text(&controller.ask(&words).stdout);
        assert!(!piped.contains('\u{1b}') && !piped.contains('…'), "{piped:?}");
    }
}

#[test]
fn away_from_a_terminal_top_says_what_to_use_instead() {
    let controller = Controller::start();
    let out = controller.ask(&["top"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(text(&out.stderr).contains("c4ctl jobs --watch"));
}
