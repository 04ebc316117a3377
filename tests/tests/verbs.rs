//! `libc4-path.so` in front of libibverbs, found as NCCL finds it: by `dlopen` and `dlvsym`. No RDMA hardware is there, so a
//! library that says what it was told stands in for the real one.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use c4_path_table::{ANY_RANK, Entry, Key, Table, publish};
use c4_tests::nccl::built;
use tempfile::TempDir;

struct Scene {
    dir: TempDir,
}

fn compile(arguments: &[&str], from: &[PathBuf], to: &Path) {
    let mut command = Command::new("cc");
    command.args(["-O1", "-Wall"]).args(from).args(arguments).arg("-o").arg(to);
    let output = command.output().expect("a C compiler");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/verbs");
        let script = format!("-Wl,--version-script={}", sources.join("library.map").display());
        let library = ["-shared", "-fPIC", "-Wl,-soname,libibverbs.so.1", &script];
        compile(&library, &[sources.join("library.c")], &dir.path().join("libibverbs.so.1"));
        compile(&["-ldl"], &[sources.join("client.c")], &dir.path().join("client"));
        Self { dir }
    }

    fn publish(&self, until: u64) {
        let key = Key::to([10, 0, 1, 1].into(), 4791, ANY_RANK);
        // The first port stands for a label of 0, which drivers take for none.
        let entry = Entry { key, slots: vec![0, 1], paths: vec![vec![0xC000], vec![0xC123, 0xFFFF]] };
        let table = Table { generation: 1, listen: None, entries: vec![entry] };
        publish(&self.dir.path().join("paths"), &table.encode(until).expect("fits")).expect("written");
    }

    /// Ports that the library was told on the way to "ready to receive", 0xC000 standing for no label at all.
    fn run(&self, peers: &[&str], environment: &[(&str, &str)]) -> (Vec<u64>, String) {
        let mut command = Command::new(self.dir.path().join("client"));
        command.args(peers).env("LD_LIBRARY_PATH", self.dir.path());
        command.env("LD_PRELOAD", built::path_shim().expect("the shim is built"));
        command.env("C4_PATH_TABLE", self.dir.path().join("paths"));
        command.envs(environment.iter().copied());
        let output = command.output().expect("runs");
        let said = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        for wrong in ["missing", "wrong", "not"] {
            assert!(!said.contains(wrong), "{said}");
        }
        // What the caller wrote is there again afterwards.
        assert_eq!(said.matches("result 0 label 0").count(), peers.len(), "{said}");
        let ports = said.lines().filter_map(|line| line.strip_prefix("modify state=2 "));
        let ports = ports.map(|line| {
            let value = |name: &str| {
                let text = line.split(' ').find_map(|word| word.strip_prefix(name)).expect(name);
                text.parse::<u64>().expect("a number")
            };
            if value("label=") == 0 { 0 } else { value("port=") }
        });
        (ports.collect(), said)
    }
}

#[test]
fn queue_pairs_to_planned_peers_get_planned_ports() {
    let scene = Scene::new();
    scene.publish(u64::MAX);
    let (ports, said) = scene.run(&["10.0.1.1", "10.0.1.1", "10.0.1.2", "10.0.1.1"], &[]);
    assert_eq!(ports, [0xC000, 0xC123, 0, 0xC000], "{said}");
    assert_eq!(said.matches("state=3").count(), 4, "other changes are passed on\n{said}");
}

#[test]
fn without_a_plan_everything_is_as_it_was() {
    let scene = Scene::new();
    assert_eq!(scene.run(&["10.0.1.1"], &[]).0, [0], "no table");
    scene.publish(1);
    assert_eq!(scene.run(&["10.0.1.1"], &[]).0, [0], "nobody renews it");
    scene.publish(u64::MAX);
    assert_eq!(scene.run(&["10.0.1.1"], &[("C4_PATH", "off")]).0, [0]);
}

#[test]
fn a_label_that_is_refused_is_taken_back() {
    let scene = Scene::new();
    scene.publish(u64::MAX);
    let (ports, said) = scene.run(&["10.0.1.1"], &[("STUB_REFUSES_LABELS", "1")]);
    assert_eq!(ports, [0xC000, 0], "tried, and then as the caller had it\n{said}");
}
