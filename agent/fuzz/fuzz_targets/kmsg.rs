//! Any bytes as records of the kernel log: programs may write into it. What becomes an event is short, names what is known,
//! and says the same when it is read again. `cargo +nightly fuzz run kmsg` in `agent`.

#![no_main]

use std::{collections::BTreeMap, sync::LazyLock};

use c4_agent::sensors::{Address, Places, parse_record};
use libfuzzer_sys::fuzz_target;

static PLACES: LazyLock<Places> = LazyLock::new(|| {
    let at = |text| Address::parse(text).expect("an address");
    Places::new(
        BTreeMap::from([(at("0000:3b:00.0"), 7)]),
        BTreeMap::from([(at("0000:5e:00.0"), "mlx5_0".to_owned())]),
    )
});

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    for line in text.lines() {
        let Some(event) = parse_record(line, &PLACES) else { continue };
        assert!(event.detail.chars().count() <= 300 && !event.code.is_empty());
        assert!(event.gpu.is_none_or(|gpu| gpu == 7));
        assert!(event.nic.as_ref().is_none_or(|nic| nic.chars().count() <= 64));
        assert_eq!(parse_record(line, &PLACES), Some(event));
    }
});
