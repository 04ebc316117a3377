use super::*;

#[test]
fn cpu_times_of_a_virtual_machine() {
    let text = "cpu  100 5 50 800 20 0 5 20 7 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
    assert_eq!(parse_cpu(text), Some(CpuTimes { total: 1000, steal: 20 }));
    for bad in ["", "cpu0 1 2 3", "cpu  1 2 3", "cpu  1 2 3 4 5 6 7 x"] {
        assert_eq!(parse_cpu(bad), None, "{bad:?}");
    }
}

#[test]
fn pressure_and_processes_as_the_kernel_writes_them() {
    let pressure =
        "some avg10=42.10 avg60=1.00 avg300=0.00 total=9\nfull avg10=12.50 avg60=0.50 avg300=0.00 total=5\n";
    assert_eq!(parse_full_pressure(pressure), Some(12.5));
    for bad in ["", "some avg10=1.00", "full avg60=1.00", "full avg10=NaN", "full avg10=-1"] {
        assert_eq!(parse_full_pressure(bad), None, "{bad:?}");
    }
    let task = parse_task("4711 (my) (prog) D 1 4711 4711 0 -1 4194304").unwrap();
    assert_eq!((task.name.as_str(), task.state, task.parent), ("my) (prog", 'D', 1));
    for bad in ["", "4711", "4711 (x", "4711 (x) ", "4711 (x) DD 1", "4711 (x) D y"] {
        assert_eq!(parse_task(bad), None, "{bad:?}");
    }
}

fn good() -> HostReading {
    HostReading { memory_available_percent: 50.0, load_per_cpu: 1.0, ..HostReading::default() }
}

/// The seconds at which something was told, and what.
fn told(readings: impl IntoIterator<Item = HostReading>) -> Vec<(u64, String, bool)> {
    let start = Instant::now();
    let (settings, mut judge) = (HostSettings::default(), Judge::default());
    let looks = (0..).zip(readings);
    let events = looks.flat_map(|(second, reading)| {
        let events = judge.update(&settings, &reading, start + Duration::from_secs(second));
        events.into_iter().map(move |event| (second, event.code, event.cleared))
    });
    events.collect()
}

#[test]
fn one_bad_second_is_nothing_five_are_told_once_and_taken_back() {
    let bad = |second: u64| [1, 3].contains(&second) || (10..20).contains(&second);
    let reading = |second| HostReading { steal_percent: if bad(second) { 30.0 } else { 0.0 }, ..good() };
    let expected = [(14, "cpu-steal".to_owned(), false), (24, "cpu-steal".to_owned(), true)];
    assert_eq!(told((0..40).map(reading)), expected);
    let pressed = |_| HostReading { memory_pressure_percent: Some(25.0), ..good() };
    assert_eq!(told((0..10).map(pressed)), [(4, "memory-pressure".to_owned(), false)]);
}

#[test]
fn a_process_that_waits_for_a_device_without_end_is_told() {
    let reading = |second: u64| {
        let mut blocked = BTreeMap::new();
        if second < 60 {
            blocked.insert(4711, "python".to_owned());
        }
        // Others come and go, as they do on every host.
        blocked.insert(100 + second as u32, "dd".to_owned());
        HostReading { blocked: second.is_multiple_of(10).then_some(blocked), ..good() }
    };
    let expected = [(30, "blocked-processes".to_owned(), false), (60, "blocked-processes".to_owned(), true)];
    assert_eq!(told((0..80).map(reading)), expected);
}

#[test]
fn this_host_can_be_read() {
    let (mut sensor, _) = HostSensor::open(HostSettings::default()).unwrap();
    let reading = sensor.read(Instant::now()).unwrap();
    assert!(reading.blocked.is_some() && reading.memory_available_percent > 0.0);
}

#[test]
fn cpus_of_the_host_are_counted_and_not_those_that_this_process_may_use() {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(read::cpus(root.path()), 1, "not told");
    let stat = "cpu  1 2 3\ncpu0 1 2 3\ncpu1 1 2 3\ncpu11 1 2 3\nintr 5\ncpufreq 3\n";
    std::fs::write(root.path().join("stat"), stat).unwrap();
    assert_eq!(read::cpus(root.path()), 3);
}
