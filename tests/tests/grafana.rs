//! The dashboards against Grafana's own schema: the types that Grafana publishes for its dashboards and panels, by TypeScript's compiler.
//! Both come from npm, where that is to be had: they are not Debian's.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use c4_dashboards::boards;
use tempfile::TempDir;

/// Of the Grafana that deploy/watch starts.
const SCHEMA: &str = "@grafana/schema@11.6.0";
const TYPESCRIPT: &str = "typescript@5.8.3";

fn repository() -> PathBuf {
    fs::canonicalize(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).expect("the repository")
}

/// A package of npm, unpacked to a directory of this name.
fn package(dir: &Path, name: &str, spec: &str) -> Option<PathBuf> {
    let to = dir.join(name);
    fs::create_dir(&to).ok()?;
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).current_dir(&to).output().ok()?;
        output.status.success().then_some(output.stdout)
    };
    let packed = String::from_utf8(run("npm", &["pack", "--silent", spec])?).ok()?;
    run("tar", &["xzf", packed.trim()])?;
    Some(to.join("package"))
}

struct Checker {
    dir: TempDir,
    schema: PathBuf,
    typescript: PathBuf,
}

impl Checker {
    fn new() -> Option<Self> {
        let dir = tempfile::tempdir().expect("a directory");
        let schema = package(dir.path(), "schema", SCHEMA);
        let typescript = package(dir.path(), "typescript", TYPESCRIPT);
        if schema.is_none() || typescript.is_none() {
            eprintln!(
                "no {SCHEMA} or {TYPESCRIPT} to be had: boards are not checked against Grafana's schema"
            );
        }
        Some(Self { schema: schema?, typescript: typescript?, dir })
    }

    /// What the compiler complains about in these files.
    fn complaints(&self, files: &[PathBuf]) -> Vec<String> {
        let typed = repository().join("tests/grafana/typed.mjs");
        let run =
            |command: &mut Command| -> Output { command.current_dir(&self.dir).output().expect("node") };
        let written = run(Command::new("node").arg(typed).arg(&self.schema).args(files));
        assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
        fs::write(self.dir.path().join("boards.ts"), written.stdout).expect("written");
        let options = ["--noEmit", "--strict", "--skipLibCheck", "--target", "es2022", "--module", "esnext"];
        let compiler = self.typescript.join("bin/tsc");
        let checked = run(Command::new("node").arg(compiler).args(options).args([
            "--moduleResolution",
            "bundler",
            "boards.ts",
        ]));
        let said = String::from_utf8_lossy(&checked.stdout).into_owned();
        assert_eq!(checked.status.success(), said.is_empty(), "{said}");
        said.lines().map(str::to_owned).collect()
    }
}

#[test]
fn boards_are_of_grafanas_types() {
    let Some(checker) = Checker::new() else { return };
    let files: Vec<PathBuf> =
        boards().iter().map(|board| repository().join("dashboards").join(board.file())).collect();
    assert_eq!(checker.complaints(&files), Vec::<String>::new());

    // That it would notice.
    let broken = checker.dir.path().join("broken.json");
    for (right, wrong) in [
        ("\"drawStyle\": \"line\"", "\"drawStyle\": \"lines\""),
        ("\"gridPos\": {", "\"gridPosition\": {"),
        ("\"schemaVersion\": 39", "\"schemaVersion\": \"39\""),
    ] {
        let text = fs::read_to_string(&files[0]).expect("a board");
        assert!(text.contains(right), "{right}");
        fs::write(&broken, text.replace(right, wrong)).expect("written");
        assert!(!checker.complaints(std::slice::from_ref(&broken)).is_empty(), "{wrong} is taken");
    }
}
