//! A Slurm of one machine: munged, slurmctld and a slurmd for each of three nodes, all in one temporary directory and as
//! whoever runs the test. Everything is killed when it is dropped.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use c4_controller::config::Slurm as Config;
use rustix::process::{Pid, Signal, kill_process_group};

/// Time between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Looks until something that is waited for never happens.
const LOOKS: u32 = 1500;

pub(crate) struct Slurm {
    dir: tempfile::TempDir,
    programs: Vec<(String, Child)>,
}

impl Slurm {
    /// Starts it, and waits until all nodes are idle.
    pub(crate) fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("c4-slurm-").tempdir().expect("a directory");
        let path = dir.path();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("ours");
        for name in ["state", "cgroup", "spool-n1", "spool-n2", "spool-n3"] {
            fs::create_dir(path.join(name)).expect("a directory");
        }
        let key: Vec<u8> = (0..=255).collect();
        fs::write(path.join("munge.key"), key).expect("written");
        fs::set_permissions(path.join("munge.key"), fs::Permissions::from_mode(0o600)).expect("ours");
        fs::write(path.join("slurm.conf"), configuration(path)).expect("written");
        // What slurmd of Debian 12 insists on loading, and nothing uses.
        let cgroup = format!("CgroupPlugin=cgroup/v1\nCgroupMountpoint={}\n", path.join("cgroup").display());
        fs::write(path.join("cgroup.conf"), cgroup).expect("written");

        let mut slurm = Self { dir, programs: Vec::new() };
        let place = |name: &str| slurm.dir.path().join(name).display().to_string();
        let munged = [
            "--foreground".to_owned(),
            "--force".to_owned(),
            format!("--socket={}", place("munge.sock")),
            format!("--key-file={}", place("munge.key")),
            format!("--pid-file={}", place("munged.pid")),
            format!("--log-file={}", place("munged.log")),
            format!("--seed-file={}", place("munge.seed")),
        ];
        slurm.run("munged", &munged);
        let socket = slurm.dir.path().join("munge.sock");
        wait("munged", || socket.exists().then_some(()));
        slurm.run("slurmctld", &["-D".to_owned()]);
        for node in ["n1", "n2", "n3"] {
            slurm.start_node(node);
        }
        wait("three idle nodes", || {
            let nodes = slurm.ask("sinfo", &["--noheader", "--Node", "--format=%T"])?;
            (nodes.lines().filter(|state| *state == "idle").count() == 3).then_some(())
        });
        slurm
    }

    /// How C4 speaks to it.
    pub(crate) fn config(&self) -> Config {
        Config { conf: Some(self.conf()), poll_seconds: 0.5, ..Config::default() }
    }

    pub(crate) fn conf(&self) -> PathBuf {
        self.dir.path().join("slurm.conf")
    }

    pub(crate) fn start_node(&mut self, node: &str) {
        self.run(&format!("slurmd-{node}"), &["-D".into(), "-N".into(), node.into()]);
    }

    /// Kills a node's slurmd and everything it has started, as the node's death does.
    pub(crate) fn kill_node(&mut self, node: &str) {
        let name = format!("slurmd-{node}");
        for (program, child) in &mut self.programs {
            if *program == name {
                end(child);
            }
        }
        // Job steps are in sessions of their own; they name the node in their command lines.
        let spool = self.dir.path().join(format!("spool-{node}")).display().to_string();
        for entry in fs::read_dir("/proc").expect("/proc").flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
            let read = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
            let (line, environment) = (read("cmdline"), read("environ"));
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let ours = text(&environment).contains(&self.conf().display().to_string());
            let there = text(&environment).contains(&format!("SLURMD_NODENAME={node}"))
                || text(&line).contains(&spool);
            if ours
                && there
                && let Some(pid) = Pid::from_raw(pid)
            {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
    }

    /// Submits a job that runs until it is ended, on `nodes` if they are named; returns its number.
    pub(crate) fn submit(&self, arguments: &[&str]) -> u32 {
        let script = self.dir.path().join("job.sh");
        fs::write(&script, "#!/bin/sh\nexec sleep 100000\n").expect("written");
        let output = self.dir.path().join("job-%j.out").display().to_string();
        let mut all = vec!["--parsable", "--requeue", "--chdir=/", "--output", &output];
        all.extend(arguments);
        let script = script.display().to_string();
        all.push(&script);
        self.ask("sbatch", &all).expect("submitted").trim().parse().expect("a number")
    }

    /// A field of `scontrol show job`.
    pub(crate) fn job(&self, number: u32, field: &str) -> Option<String> {
        let text = self.ask("scontrol", &["--oneliner", "show", "job", &number.to_string()])?;
        let wanted = format!("{field}=");
        text.split_ascii_whitespace().find_map(|word| word.strip_prefix(&wanted)).map(str::to_owned)
    }

    pub(crate) fn ask(&self, program: &str, arguments: &[&str]) -> Option<String> {
        let output = Command::new(program).args(arguments).env("SLURM_CONF", self.conf()).output();
        let output = output.unwrap_or_else(|error| panic!("{program} (see tests/packages.sh): {error}"));
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn run(&mut self, name: &str, arguments: &[String]) {
        let program = name.split('-').next().unwrap_or(name);
        let log = fs::File::create(self.dir.path().join(format!("{name}.out"))).expect("a log");
        let mut command = Command::new(PathBuf::from("/usr/sbin").join(program));
        command.args(arguments).env("SLURM_CONF", self.conf());
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log).process_group(0);
        let child =
            command.spawn().unwrap_or_else(|error| panic!("{program} (see tests/packages.sh): {error}"));
        self.programs.push((name.to_owned(), child));
    }

    fn logs(&self) -> String {
        let mut text = String::new();
        for (name, _) in &self.programs {
            let log = fs::read_to_string(self.dir.path().join(format!("{name}.out"))).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            text += &format!("--- {name}\n{}\n", lines[lines.len().saturating_sub(15)..].join("\n"));
        }
        text
    }
}

impl Drop for Slurm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        // Jobs first, as long as there is somebody to end them.
        let _ = self.ask("scancel", &["--signal=KILL", "--full", "--state=RUNNING", "--partition=p"]);
        let _ = self.ask("scancel", &["--partition=p"]);
        for node in ["n1", "n2", "n3"] {
            self.kill_node(node);
        }
        for (_, child) in self.programs.iter_mut().rev() {
            end(child);
        }
    }
}

/// Waits until something is there.
pub(crate) fn wait<T>(what: &str, mut there: impl FnMut() -> Option<T>) -> T {
    for _ in 0..LOOKS {
        if let Some(found) = there() {
            return found;
        }
        sleep(LOOK_AGAIN);
    }
    panic!("{what}: never came");
}

fn end(child: &mut Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(pid, Signal::KILL);
    }
    let _ = child.wait();
}

fn configuration(dir: &Path) -> String {
    let word = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).output().expect("coreutils");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let host = word("uname", "-n");
    let host = host.split('.').next().unwrap_or(&host).to_owned();
    let user = word("id", "-un");
    // Whoever gets these ports between here and Slurm's start breaks the test, not the machine.
    let listeners: Vec<TcpListener> =
        (0..4).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
    let port = |index: usize| listeners[index].local_addr().expect("bound").port();
    let at = dir.display();
    let mut text = format!(
        "ClusterName=c4test\nSlurmctldHost={host}(127.0.0.1)\nSlurmctldPort={}\nAuthType=auth/munge\n\
         AuthInfo=socket={at}/munge.sock\nSlurmUser={user}\nSlurmdUser={user}\nStateSaveLocation={at}/state\n\
         SlurmdSpoolDir={at}/spool-%n\nSlurmctldPidFile={at}/slurmctld.pid\nSlurmdPidFile={at}/slurmd-%n.pid\n\
         ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nSelectType=select/cons_tres\n\
         SelectTypeParameters=CR_Core\nReturnToService=1\nMpiDefault=none\nJobRequeue=1\nSlurmdTimeout=5\n\
         KillWait=1\nSchedulerParameters=sched_interval=1\nMailProg=/bin/true\n",
        port(0)
    );
    for node in 1..=3 {
        text += &format!(
            "NodeName=n{node} NodeHostname={host} NodeAddr=127.0.0.1 Port={} CPUs=1 RealMemory=100 State=UNKNOWN\n",
            port(node)
        );
    }
    text + "PartitionName=p Nodes=n1,n2,n3 Default=YES MaxTime=INFINITE State=UP\n"
}
