//! The metrics of one program.

use std::{collections::HashMap, fmt::Write};

use prometheus::{
    Counter, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder, core::Collector,
};

use crate::family::{Family, Kind, Scraped, Source};

/// See the module. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    registry: Registry,
    families: Vec<Family>,
}

impl Catalogue {
    /// An empty one, but for when this program started and what it uses.
    ///
    /// # Errors
    /// Never, unless the prometheus crate changes what it calls its figures.
    pub fn new(program: &str, version: &str) -> Result<Self, prometheus::Error> {
        Self::default().begin(program, version)
    }

    /// The same for a program of which each node has one: everything gets the label `node`.
    ///
    /// # Errors
    /// See [`Catalogue::new`].
    pub fn of_node(program: &str, version: &str, node: &str) -> Result<Self, prometheus::Error> {
        let labels = HashMap::from([("node".to_owned(), node.to_owned())]);
        let registry = Registry::new_custom(None, Some(labels))?;
        Self { registry, ..Self::default() }.begin(program, version)
    }

    fn begin(self, program: &str, version: &str) -> Result<Self, prometheus::Error> {
        let mut catalogue = self;
        let (name, help) = (format!("{program}_build_info"), "1, with the version as a label");
        let build = IntGaugeVec::new(Opts::new(name.clone(), help), &["version"])?;
        build.with_label_values(&[version]).set(1);
        catalogue.add(Family::new(Kind::Gauge, &name, &["version"], help), build)?;
        catalogue.registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        for (kind, name, help) in PROCESS {
            catalogue.families.push(Family::new(kind, name, &[], help));
        }
        Ok(catalogue)
    }

    /// A counter.
    ///
    /// # Errors
    /// The name is taken or no name; so for all below.
    pub fn counter(&mut self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.add(Family::new(Kind::Counter, name, &[], help), IntCounter::new(name, help)?)
    }

    /// A counter of what has fractions, such as seconds.
    ///
    /// # Errors
    /// See [`Catalogue::counter`].
    pub fn real_counter(&mut self, name: &str, help: &str) -> Result<Counter, prometheus::Error> {
        self.add(Family::new(Kind::Counter, name, &[], help), Counter::new(name, help)?)
    }

    /// Counters, by labels.
    ///
    /// # Errors
    /// See [`Catalogue::counter`].
    pub fn counters(
        &mut self,
        name: &str,
        labels: &[&str],
        help: &str,
    ) -> Result<IntCounterVec, prometheus::Error> {
        let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
        self.add(Family::new(Kind::Counter, name, labels, help), counters)
    }

    /// A gauge.
    ///
    /// # Errors
    /// See [`Catalogue::counter`].
    pub fn gauge(&mut self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.add(Family::new(Kind::Gauge, name, &[], help), IntGauge::new(name, help)?)
    }

    /// Gauges, by labels.
    ///
    /// # Errors
    /// See [`Catalogue::counter`].
    pub fn gauges(
        &mut self,
        name: &str,
        labels: &[&str],
        help: &str,
    ) -> Result<IntGaugeVec, prometheus::Error> {
        let gauges = IntGaugeVec::new(Opts::new(name, help), labels)?;
        self.add(Family::new(Kind::Gauge, name, labels, help), gauges)
    }

    /// A histogram with these upper bounds of its buckets.
    ///
    /// # Errors
    /// See [`Catalogue::counter`]; or the bounds do not ascend.
    pub fn histogram(
        &mut self,
        name: &str,
        help: &str,
        bounds: &[f64],
    ) -> Result<Histogram, prometheus::Error> {
        let options = HistogramOpts::new(name, help).buckets(bounds.to_vec());
        self.add(Family::new(Kind::Histogram, name, &[], help), Histogram::with_opts(options)?)
    }

    /// Values that are known elsewhere.
    ///
    /// # Errors
    /// See [`Catalogue::counter`].
    pub fn source(&mut self, source: impl Source + 'static) -> Result<(), prometheus::Error> {
        self.families.extend(source.families());
        self.registry.register(Box::new(Scraped::new(source)?))
    }

    /// Everything declared, by name.
    #[must_use]
    pub fn families(&self) -> Vec<Family> {
        let mut families = self.families.clone();
        families.sort_by(|a, b| a.name.cmp(&b.name));
        families
    }

    /// The exposition text.
    ///
    /// # Errors
    /// A value cannot be written.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    fn add<C: Collector + Clone + 'static>(
        &mut self,
        family: Family,
        collector: C,
    ) -> Result<C, prometheus::Error> {
        self.registry.register(Box::new(collector.clone()))?;
        self.families.push(family);
        Ok(collector)
    }
}

/// What the prometheus crate tells of a process, on Linux.
const PROCESS: [(Kind, &str, &str); 7] = [
    (Kind::Counter, "process_cpu_seconds_total", "CPU time this process has used"),
    (Kind::Gauge, "process_max_fds", "Files it may have open"),
    (Kind::Gauge, "process_open_fds", "Files it has open"),
    (Kind::Gauge, "process_resident_memory_bytes", "Memory it holds"),
    (Kind::Gauge, "process_start_time_seconds", "When it started, in Unix time"),
    (Kind::Gauge, "process_threads", "Its threads"),
    (Kind::Gauge, "process_virtual_memory_bytes", "Memory it has mapped"),
];

/// The table of the documentation, in Markdown.
#[must_use]
pub fn table(families: &[Family]) -> String {
    let mut text = String::from("| metric | kind | labels | |\n|---|---|---|---|\n");
    for family in families {
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        let (name, kind) = (&family.name, family.kind.name());
        // Writing to a string does not fail.
        let _ = writeln!(text, "| `{name}` | {kind} | {} | {} |", labels.join(", "), family.help);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Collected;

    struct Fleet;

    impl Source for Fleet {
        fn families(&self) -> Vec<Family> {
            vec![
                Family::new(Kind::Gauge, "x_jobs", &["state"], "Jobs"),
                Family::new(Kind::Histogram, "x_seconds", &[], "Times"),
                Family::new(Kind::Counter, "x_none_total", &[], "Nothing"),
            ]
        }

        fn collect(&self, into: &mut Collected<'_>) {
            into.push("x_jobs", &["a \"b\"\n"], 2.0);
            into.push_histogram("x_seconds", &[], &[1.0, 2.0], &[3, 0, 4], 30.5);
        }
    }

    #[test]
    fn a_source_is_read_when_scraped() {
        let mut catalogue = Catalogue::new("x", "1.2.3").unwrap();
        catalogue.source(Fleet).unwrap();
        let text = catalogue.text().unwrap();
        for line in [
            "x_jobs{state=\"a \\\"b\\\"\\n\"} 2",
            "x_seconds_bucket{le=\"1\"} 3",
            "x_seconds_bucket{le=\"2\"} 3",
            "x_seconds_bucket{le=\"+Inf\"} 7",
            "x_seconds_sum 30.5",
            "x_build_info{version=\"1.2.3\"} 1",
        ] {
            assert!(text.lines().any(|known| known == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("x_none_total"), "a family without values is not there");
        assert!(catalogue.source(Fleet).is_err(), "no name twice");
    }

    #[test]
    fn a_node_is_on_everything() {
        let text = Catalogue::of_node("x", "1", "n7").unwrap().text().unwrap();
        assert!(text.lines().all(|line| line.starts_with('#') || line.contains("node=\"n7\"")), "{text}");
    }

    #[test]
    fn everything_exposed_is_declared() {
        let mut catalogue = Catalogue::new("x", "1").unwrap();
        catalogue.counter("x_things_total", "Things").unwrap().inc();
        let declared = catalogue.families();
        let text = catalogue.text().unwrap();
        for name in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()) {
            assert!(declared.iter().any(|family| family.name == name), "{name}");
        }
        assert!(table(&declared).contains("| `x_things_total` | counter |  | Things |\n"));
    }
}
