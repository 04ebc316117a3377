//! Any bytes as records of the kernel log: programs may write into it. What becomes an event is short, names what is known,
//! and says the same when it is read again.

use std::{collections::BTreeMap, sync::LazyLock};

use c4_agent::sensors::{Address, Gpus, Places, parse_record};

static PLACES: LazyLock<Places> = LazyLock::new(|| {
    let at = |text| Address::parse(text).expect("an address");
    let gpus = Gpus::default();
    gpus.learn([at("0000:3b:00.0")]);
    Places::new(gpus, BTreeMap::from([(at("0000:5e:00.0"), "mlx5_0".to_owned())]))
});

/// Plays one input.
pub fn run(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for line in text.lines() {
        let Some(event) = parse_record(line, &PLACES) else { continue };
        assert!(event.detail.chars().count() <= 300 && !event.code.is_empty());
        assert!(event.gpu.is_none_or(|gpu| gpu == 0));
        assert!(event.nic.as_ref().is_none_or(|nic| nic.chars().count() <= 64));
        assert_eq!(parse_record(line, &PLACES), Some(event));
    }
}
