//! Families of metrics whose values are known elsewhere.

use std::collections::BTreeMap;

use prometheus::{
    core::{Collector, Desc},
    proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType},
};

/// What a value means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Grows, or begins again at zero.
    Counter,
    /// Is what it is.
    Gauge,
    /// Counts values by size.
    Histogram,
}

impl Kind {
    /// The name that Prometheus uses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// A declaration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Family {
    /// Full name, after Prometheus' conventions.
    pub name: String,
    /// What its values mean.
    pub kind: Kind,
    /// Names of its labels.
    pub labels: Vec<String>,
    /// One line for people.
    pub help: String,
}

impl Family {
    /// A declaration.
    #[must_use]
    pub fn new(kind: Kind, name: &str, labels: &[&str], help: &str) -> Self {
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        Self { name: name.to_owned(), kind, labels, help: help.to_owned() }
    }
}

/// Somebody who knows values when asked.
pub trait Source: Send + Sync {
    /// What it knows, always the same.
    fn families(&self) -> Vec<Family>;
    /// Its values now.
    fn collect(&self, into: &mut Collected<'_>);
}

/// Takes the values of one scrape.
#[derive(Debug)]
pub struct Collected<'a> {
    families: &'a [Family],
    metrics: BTreeMap<&'a str, Vec<Metric>>,
}

impl<'a> Collected<'a> {
    fn new(families: &'a [Family]) -> Self {
        Self { families, metrics: BTreeMap::new() }
    }

    /// A value of a counter or gauge. Labels are in the order of the declaration.
    ///
    /// # Panics
    /// Debug builds panic if no such family is declared or the number of labels is another.
    pub fn push(&mut self, name: &str, labels: &[&str], value: f64) {
        let Some(family) = self.family(name, labels) else { return };
        let mut metric = metric(family, labels);
        if family.kind == Kind::Counter {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.metrics.entry(&family.name).or_default().push(metric);
    }

    /// A histogram: values by bucket, one more than there are bounds, and their sum.
    ///
    /// # Panics
    /// As [`Collected::push`].
    pub fn push_histogram(&mut self, name: &str, labels: &[&str], bounds: &[f64], counts: &[u64], sum: f64) {
        let Some(family) = self.family(name, labels) else { return };
        let mut metric = metric(family, labels);
        let mut total: u64 = 0;
        let mut buckets = Vec::with_capacity(bounds.len());
        for (bound, count) in bounds.iter().zip(counts.iter().chain(std::iter::repeat(&0))) {
            total = total.saturating_add(*count);
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(total);
            buckets.push(bucket);
        }
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets);
        histogram.set_sample_count(counts.iter().fold(0, |sum: u64, count| sum.saturating_add(*count)));
        histogram.set_sample_sum(sum);
        metric.set_histogram(histogram);
        self.metrics.entry(&family.name).or_default().push(metric);
    }

    fn family(&self, name: &str, labels: &[&str]) -> Option<&'a Family> {
        let family = self.families.iter().find(|family| family.name == name);
        debug_assert!(family.is_some_and(|f| f.labels.len() == labels.len()), "{name} is not declared so");
        family
    }
}

fn metric(family: &Family, labels: &[&str]) -> Metric {
    let pair = |(name, value): (&String, &&str)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.clone());
        pair.set_value((*value).to_owned());
        pair
    };
    Metric::from_label(family.labels.iter().zip(labels).map(pair).collect())
}

/// A source as the prometheus crate wants it.
pub(crate) struct Scraped<S> {
    source: S,
    families: Vec<Family>,
    descs: Vec<Desc>,
}

impl<S: Source> Scraped<S> {
    pub(crate) fn new(source: S) -> Result<Self, prometheus::Error> {
        let families = source.families();
        let desc =
            |f: &Family| Desc::new(f.name.clone(), f.help.clone(), f.labels.clone(), Default::default());
        let descs = families.iter().map(desc).collect::<Result<_, _>>()?;
        Ok(Self { source, families, descs })
    }
}

impl<S: Source> Collector for Scraped<S> {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut collected = Collected::new(&self.families);
        self.source.collect(&mut collected);
        let mut metrics = collected.metrics;
        let family = |family: &Family| {
            let mut made = MetricFamily::default();
            made.set_name(family.name.clone());
            made.set_help(family.help.clone());
            made.set_field_type(match family.kind {
                Kind::Counter => MetricType::COUNTER,
                Kind::Gauge => MetricType::GAUGE,
                Kind::Histogram => MetricType::HISTOGRAM,
            });
            made.set_metric(metrics.remove(family.name.as_str())?);
            Some(made)
        };
        self.families.iter().filter_map(family).collect()
    }
}
