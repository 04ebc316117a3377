use std::fs;

use super::*;

fn write(root: &Path, file: &str, text: &str) {
    let path = root.join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn fixture() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let at = root.path();
    write(at, "class/net/eth0/operstate", "up\n");
    write(at, "class/net/eth0/carrier_down_count", "1\n");
    write(at, "class/net/eth0/speed", "-1\n");
    write(at, "class/net/eth0/device/vendor", "0x15b3\n");
    write(at, "class/net/docker0/operstate", "down\n");
    write(at, "class/infiniband/mlx5_0/ports/1/state", "4: ACTIVE\n");
    write(at, "class/infiniband/mlx5_0/ports/1/rate", "400 Gb/sec (4X NDR)\n");
    write(at, "class/infiniband/mlx5_0/ports/1/counters/symbol_error", "7\n");
    write(at, "class/infiniband/mlx5_0/ports/1/counters/link_downed", "0\n");
    write(at, "class/infiniband/mlx5_0/ports/1/counters/port_rcv_errors", "not a number\n");
    write(at, "class/infiniband/mlx5_0/ports/1/hw_counters/rnr_nak_retry_err", "0\n");
    root
}

fn settings(root: &Path) -> NicSettings {
    NicSettings { sys_root: root.to_owned(), ..NicSettings::default() }
}

/// What a look tells: port, code, whether it is taken back.
fn told(sampled: Sampled) -> Vec<(String, String, bool)> {
    let one = |event: Health| (event.nic.unwrap_or_default(), event.code, event.cleared);
    sampled.health.into_iter().map(one).collect()
}

struct Looks {
    sensor: NicSensor,
    start: Instant,
}

impl Looks {
    fn new(settings: NicSettings) -> Self {
        Self { sensor: NicSensor::open(settings).unwrap().0, start: Instant::now() }
    }

    fn at(&mut self, second: u64) -> Vec<(String, String, bool)> {
        told(self.sensor.sample(self.start + Duration::from_secs(second), Duration::ZERO))
    }
}

fn event(nic: &str, code: &str, cleared: bool) -> (String, String, bool) {
    (nic.to_owned(), code.to_owned(), cleared)
}

const RDMA: &str = "class/infiniband/mlx5_0/ports/1";

#[test]
fn physical_ports_are_found_virtual_ones_are_not() {
    let root = fixture();
    let counters = ["symbol_error", "port_rcv_errors"].map(str::to_owned);
    let readings = read_all(root.path(), &counters);
    assert_eq!(readings.keys().collect::<Vec<_>>(), ["eth0", "mlx5_0:1"]);
    assert_eq!((readings["eth0"].up, readings["eth0"].mbps), (Some(true), None));
    assert_eq!(readings["mlx5_0:1"].mbps, Some(400_000));
    assert_eq!(readings["mlx5_0:1"].counters, BTreeMap::from([("symbol_error".to_owned(), 7)]));
}

#[test]
fn a_link_that_is_lost_is_told_at_once_and_called_down_when_it_stays_so() {
    let root = fixture();
    let mut looks = Looks::new(settings(root.path()));
    assert_eq!(looks.at(0), []);
    write(root.path(), "class/net/eth0/operstate", "down\n");
    assert_eq!(looks.at(1), [event("eth0", "link-lost", false)]);
    assert_eq!(looks.at(5), []);
    assert_eq!(looks.at(6), [event("eth0", "link-down", false)]);
    write(root.path(), "class/net/eth0/operstate", "up\n");
    assert_eq!(looks.at(7), [event("eth0", "link-down", true)]);
    assert_eq!(looks.at(61), [event("eth0", "link-lost", true)]);
}

#[test]
fn a_port_that_was_never_up_is_free() {
    let root = fixture();
    write(root.path(), "class/net/eth0/operstate", "down\n");
    let mut looks = Looks::new(settings(root.path()));
    assert_eq!((looks.at(0), looks.at(100)), (vec![], vec![]));
}

#[test]
fn a_device_that_vanishes_and_a_rate_that_falls_are_told() {
    let root = fixture();
    let mut looks = Looks::new(settings(root.path()));
    assert_eq!(looks.at(0), []);
    write(root.path(), &format!("{RDMA}/rate"), "200 Gb/sec (2X NDR)\n");
    assert_eq!(looks.at(1), [event("mlx5_0:1", "link-slow", false)]);
    fs::remove_dir_all(root.path().join("class/infiniband/mlx5_0")).unwrap();
    assert_eq!(looks.at(2), [event("mlx5_0:1", "nic-lost", false), event("mlx5_0:1", "link-slow", true)]);
}

#[test]
fn counters_have_a_limit_and_a_window_each() {
    let root = fixture();
    let mut looks = Looks::new(settings(root.path()));
    assert_eq!(looks.at(0), []);
    write(root.path(), &format!("{RDMA}/hw_counters/rnr_nak_retry_err"), "1\n");
    assert_eq!(looks.at(1), [event("mlx5_0:1", "nic-rnr-retry-exceeded", false)]);
    write(root.path(), &format!("{RDMA}/counters/symbol_error"), "100\n");
    assert_eq!(looks.at(2), [], "93 errors: within both limits");
    write(root.path(), &format!("{RDMA}/counters/symbol_error"), "128\n");
    let sampled = looks.sensor.sample(looks.start + Duration::from_secs(3), Duration::ZERO);
    let severities: Vec<_> =
        sampled.health.iter().map(|event| (event.code.as_str(), event.severity)).collect();
    assert_eq!(
        severities,
        [("nic-symbol-errors", Severity::Warning), ("nic-symbol-errors-hourly", Severity::Fatal)]
    );
}

#[test]
fn three_losses_in_ten_minutes_are_a_flap_which_ends_by_itself_or_stays() {
    for sticky in [false, true] {
        let root = fixture();
        let mut settings = settings(root.path());
        settings.flap.sticky = sticky;
        let mut looks = Looks::new(settings);
        assert_eq!(looks.at(0), []);
        let flap = |told: Vec<(String, String, bool)>| told.contains(&event("eth0", "link-flap", false));
        for (second, count, expected) in [(1, "2", false), (100, "3", false), (200, "4", true)] {
            write(root.path(), "class/net/eth0/carrier_down_count", count);
            assert_eq!(flap(looks.at(second)), expected);
        }
        let over = looks.at(900).contains(&event("eth0", "link-flap", true));
        assert_eq!(over, !sticky);
    }
}

#[test]
fn no_device_is_a_missing_sensor_with_a_reason() {
    let root = tempfile::tempdir().unwrap();
    assert!(NicSensor::open(settings(root.path())).unwrap_err().contains("no network device"));
}
