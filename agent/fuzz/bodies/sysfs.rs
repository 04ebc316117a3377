//! Any bytes as the files that the agent reads below `/sys` and `/proc`, as a checkpoint's marker, and two looks of the NIC sensor. The input is
//! cut at zero bytes, one piece a file.

use std::{fs, path::Path, sync::LazyLock, time::Duration};

use c4_agent::{
    procfs::parse_stat,
    sensors::{NicSensor, NicSettings, Sensor, parse_cpu, parse_full_pressure, parse_task, read_nics},
    supervise::parse_marker,
};
use tempfile::TempDir;
use tokio::time::Instant;

const FILES: [&str; 9] = [
    "class/net/eth0/operstate",
    "class/net/eth0/carrier_down_count",
    "class/net/eth0/speed",
    "class/net/eth0/statistics/rx_errors",
    "class/infiniband/mlx5_0/ports/1/state",
    "class/infiniband/mlx5_0/ports/1/rate",
    "class/infiniband/mlx5_0/ports/1/counters/symbol_error",
    "class/infiniband/mlx5_0/ports/1/counters/link_downed",
    "class/infiniband/mlx5_0/ports/1/hw_counters/rnr_nak_retry_err",
];

static ROOT: LazyLock<TempDir> = LazyLock::new(|| {
    let root = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    for file in FILES {
        fs::create_dir_all(root.path().join(file).parent().expect("a parent")).expect("directories");
    }
    fs::create_dir_all(root.path().join("class/net/eth0/device")).expect("a device");
    root
});

fn write<'a>(root: &Path, pieces: &mut impl Iterator<Item = &'a [u8]>) {
    for file in FILES {
        fs::write(root.join(file), pieces.next().unwrap_or_default()).expect("a file");
    }
}

/// Plays one input.
pub fn run(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    drop((parse_cpu(&text), parse_task(&text)));
    if let Some(stat) = parse_stat(&text) {
        assert!(stat.signal().is_none() || stat.exit_code().is_none(), "it ended in two ways");
    }
    let _ = parse_marker(&text);
    assert!(parse_full_pressure(&text).is_none_or(|percent| (0.0..=100.0).contains(&percent)));
    let root = ROOT.path();
    let mut pieces = bytes.split(|byte| *byte == 0);
    write(root, &mut pieces);
    let settings = NicSettings { sys_root: root.to_owned(), ..NicSettings::default() };
    let (mut sensor, _) = NicSensor::open(settings).expect("there are ports");
    let start = Instant::now();
    drop(sensor.sample(start, Duration::ZERO));
    write(root, &mut pieces);
    let told = sensor.sample(start + Duration::from_secs(1), Duration::ZERO);
    assert!(told.health.iter().all(|event| !event.cleared && event.nic.is_some()));
    drop(read_nics(root, &["symbol_error".to_owned()]));
}
