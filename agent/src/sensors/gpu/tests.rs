use super::*;

/// What GPU 4 is said to have, second by second, beside neighbours that are busy and well.
fn judge(steps: impl IntoIterator<Item = GpuReading>) -> Vec<Vec<(String, bool)>> {
    let start = Instant::now();
    let mut judge = Judge::default();
    let neighbour = GpuReading { sm_mhz: Some(1_900), busy_percent: Some(99), ..GpuReading::default() };
    let step = |(second, reading): (u64, GpuReading)| {
        let mut readings: BTreeMap<u32, GpuReading> = (0..4).map(|gpu| (gpu, neighbour.clone())).collect();
        readings.insert(4, reading);
        let events = judge.update(&GpuLimits::default(), &readings, start + Duration::from_secs(second));
        assert!(events.iter().all(|event| event.gpu == Some(4)), "{events:?}");
        events.into_iter().map(|event| (event.code, event.cleared)).collect()
    };
    (0..).zip(steps).map(step).collect()
}

/// The looks at which something was told, and what.
fn told(steps: impl IntoIterator<Item = GpuReading>) -> Vec<(usize, String, bool)> {
    let looks = judge(steps).into_iter().enumerate();
    looks
        .flat_map(|(look, events)| events.into_iter().map(move |(code, cleared)| (look, code, cleared)))
        .collect()
}

fn one(look: usize, code: &str, cleared: bool) -> (usize, String, bool) {
    (look, code.to_owned(), cleared)
}

fn well() -> GpuReading {
    GpuReading {
        sm_mhz: Some(1_850),
        busy_percent: Some(97),
        pcie_width: Some((16, 16)),
        ..GpuReading::default()
    }
}

#[test]
fn errors_of_before_are_no_news_new_ones_are() {
    let with =
        |now, ever| GpuReading { ecc_uncorrected: Some(now), ecc_uncorrected_ever: Some(ever), ..well() };
    assert_eq!(told([with(3, 9), with(3, 9), with(4, 10)]), [one(2, "ecc-uncorrectable", false)]);
    assert_eq!(
        told([with(3, 9), with(0, 9), with(0, 10)]),
        [one(2, "ecc-uncorrectable", false)],
        "the driver came anew"
    );
}

#[test]
fn corrected_errors_are_judged_by_rate() {
    let with = |count| GpuReading { ecc_corrected: Some(count), ..well() };
    assert_eq!(told([5_000, 5_001, 5_100, 5_101].map(with)), [one(3, "ecc-correctable", false)]);
}

#[test]
fn rows_and_lost_gpus() {
    let rows = GpuReading { remap_pending: Some(true), ..well() };
    assert_eq!(told([well(), rows]), [one(1, "row-remap-pending", false)]);
    let lost = GpuReading { lost: Some("gone".into()), remap_failed: Some(true), ..well() };
    assert_eq!(told([well(), lost]), [one(1, "gpu-lost", false)], "it says only that");
}

#[test]
fn what_the_driver_asks_for_is_told() {
    let asks = |action| GpuReading { recovery: Some(action), ..well() };
    assert_eq!(
        told([0, 2, 0].map(asks)),
        [one(1, "recovery-reboot", false), one(2, "recovery-reboot", true)]
    );
}

#[test]
fn a_slowdown_must_last_and_is_over_when_it_is_long_gone() {
    let hot = || GpuReading { slowdown: Some("thermal-slowdown"), ..well() };
    let brief = (0..60).map(|look| if look % 3 == 0 { hot() } else { well() });
    assert_eq!(told(brief), [], "a third of the time is not most of it");
    let lasting = (0..40).map(|look| if look < 20 { hot() } else { well() });
    assert_eq!(told(lasting), [one(5, "thermal-slowdown", false), one(29, "thermal-slowdown", true)]);
}

#[test]
fn a_clock_far_below_the_neighbours_is_low_only_while_busy() {
    let at = |mhz, busy| GpuReading { sm_mhz: Some(mhz), busy_percent: Some(busy), ..well() };
    assert_eq!(told((0..40).map(|_| at(1_200, 99))), [one(20, "clock-low", false)]);
    assert_eq!(told((0..40).map(|_| at(345, 0))), [], "idle");
    assert_eq!(told((0..40).map(|_| at(1_600, 99))), [], "a power cap makes such differences");
}

#[test]
fn pcie_is_judged_by_rate_by_width_and_when_busy_by_generation() {
    let replays = |count| GpuReading { pcie_replays: Some(count), ..well() };
    assert_eq!(told([1_000, 1_050, 1_101].map(replays)), [one(2, "pcie-replay", false)]);
    let narrow = |_| GpuReading { pcie_width: Some((8, 16)), ..well() };
    assert_eq!(told((0..10).map(narrow)), [one(5, "pcie-width", false)]);
    let old =
        |busy| move |_| GpuReading { pcie_generation: Some((1, 5)), busy_percent: Some(busy), ..well() };
    assert_eq!(told((0..10).map(old(0))), [], "idle");
    assert_eq!(told((0..10).map(old(90))), [one(5, "pcie-generation", false)]);
    let unknown = |_| GpuReading { pcie_width: Some((0, 16)), ..well() };
    assert_eq!(told((0..10).map(unknown)), [], "a virtual machine may not know");
}

#[test]
fn a_link_that_was_never_up_is_not_down() {
    let with = |active| GpuReading { nvlinks: Some(BTreeMap::from([(0, (active, 0))])), ..well() };
    assert_eq!(told([false, false].map(with)), []);
    // A look that leaves the links out changes nothing.
    let steps = [with(true), with(false), well(), with(true)];
    assert_eq!(told(steps), [one(1, "nvlink-down", false), one(3, "nvlink-down", true)]);
}

#[test]
fn a_link_recovers_now_and_then_but_not_at_every_other_look() {
    let with = |errors| GpuReading { nvlinks: Some(BTreeMap::from([(3, (true, errors))])), ..well() };
    assert_eq!(told((0..60).map(|look| with(look / 3))), []);
    assert_eq!(told((0..20).map(with)), [one(16, "nvlink-errors", false)]);
}

#[test]
fn what_is_busy_and_touches_no_memory_spins() {
    let at = |busy_percent, memory_percent| GpuReading { busy_percent, memory_percent, ..well() }.spins();
    assert!(at(Some(100), Some(0)));
    assert!(!at(Some(100), Some(1)), "it computes");
    assert!(!at(Some(60), Some(0)) && !at(None, Some(0)) && !at(Some(100), None));
}
