//! GPUs, NICs, and the kernel's log, as an agent would see them.

use std::{fs, path::Path};

use nvml_wrapper::Nvml;

use super::Check;
use crate::words::count;

/// This machine's name.
pub(super) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Whether NVML answers.
pub(super) fn gpus() -> Check {
    const NAME: &str = "GPUs";
    let seen = Nvml::init().and_then(|nvml| Ok((nvml.device_count()?, nvml.sys_driver_version()?)));
    match seen {
        Ok((0, driver)) => {
            Check::doubtful(NAME, format!("driver {driver} sees none"), "is this a node with GPUs?")
        }
        Ok((gpus, driver)) => {
            Check::good(NAME, format!("NVML sees {} with driver {driver}", count(gpus.into(), "GPU")))
        }
        Err(error) => Check::doubtful(
            NAME,
            format!("NVML: {error}"),
            "without libnvidia-ml.so.1, XIDs, ECC and throttling cannot be told; in a container, ask for the `utility` capability",
        ),
    }
}

/// The NICs that carry training traffic, and whether their links are up.
pub(super) fn nics() -> Check {
    nics_in(Path::new("/sys/class"))
}

fn nics_in(class: &Path) -> Check {
    const NAME: &str = "NICs";
    let mut up = Vec::new();
    let mut down = Vec::new();
    for device in names(&class.join("infiniband")) {
        let ports = class.join("infiniband").join(&device).join("ports");
        for port in names(&ports) {
            let state = fs::read_to_string(ports.join(&port).join("state")).unwrap_or_default();
            let place = format!("{device}:{port}");
            if state.contains("ACTIVE") { up.push(place) } else { down.push(place) }
        }
    }
    if up.is_empty() && down.is_empty() {
        let ethernet: Vec<String> =
            names(&class.join("net")).into_iter().filter(|name| name != "lo").collect();
        return Check::doubtful(
            NAME,
            format!(
                "no RDMA device; network interfaces: {}",
                if ethernet.is_empty() { "none".into() } else { ethernet.join(", ") }
            ),
            "NCCL will use sockets here; slow links are found all the same",
        );
    }
    if down.is_empty() {
        return Check::good(NAME, format!("{} up: {}", count(up.len() as u64, "RDMA port"), up.join(", ")));
    }
    Check::doubtful(
        NAME,
        format!("{} up, down: {}", count(up.len() as u64, "RDMA port"), down.join(", ")),
        "a port that is meant to be used has to be ACTIVE: look at `ibstat` or `rdma link`",
    )
}

/// Whether XIDs can be read from the kernel's log.
pub(super) fn kernel_log() -> Check {
    const NAME: &str = "kernel log";
    match fs::File::open("/dev/kmsg") {
        Ok(_) => Check::good(NAME, "/dev/kmsg can be read"),
        Err(error) => Check::doubtful(
            NAME,
            format!("/dev/kmsg: {error}"),
            "run the agent with CAP_SYSLOG (its unit has it), or XIDs come from NVML alone",
        ),
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Grade;

    #[test]
    fn a_port_that_is_down_is_named() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(nics_in(dir.path()).grade, Grade::Doubtful);
        for (device, state) in [("mlx5_0", "4: ACTIVE\n"), ("mlx5_1", "1: DOWN\n")] {
            let port = dir.path().join("infiniband").join(device).join("ports/1");
            fs::create_dir_all(&port).expect("room");
            fs::write(port.join("state"), state).expect("room");
        }
        let check = nics_in(dir.path());
        assert_eq!((check.grade, check.found.as_str()), (Grade::Doubtful, "1 RDMA port up, down: mlx5_1:1"));
        fs::write(dir.path().join("infiniband/mlx5_1/ports/1/state"), "4: ACTIVE").expect("room");
        assert_eq!(nics_in(dir.path()).grade, Grade::Good);
    }
}
