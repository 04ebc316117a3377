//! What a board is made of.

use serde_json::Value;

use crate::grafana;

/// One dashboard.
#[derive(Clone, Debug)]
pub struct Board {
    /// Its name in addresses and of its file.
    pub uid: &'static str,
    /// Its title.
    pub title: &'static str,
    /// What it is for, one sentence.
    pub about: &'static str,
    /// The label whose value is chosen at the top, with a query for its values.
    pub variable: Option<Variable>,
    /// Rows of panels.
    pub rows: Vec<Row>,
}

/// A choice at the top of a board.
#[derive(Clone, Copy, Debug)]
pub struct Variable {
    /// The label, and name of the variable.
    pub name: &'static str,
    /// The metric whose values of the label are offered.
    pub metric: &'static str,
}

/// Panels that belong together.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its title.
    pub title: &'static str,
    /// Its panels, from the left.
    pub panels: Vec<Panel>,
}

/// One panel.
#[derive(Clone, Debug)]
pub struct Panel {
    /// Its title.
    pub title: &'static str,
    /// What to make of it.
    pub about: &'static str,
    /// How it shows what it shows.
    pub view: View,
    /// Of its values.
    pub unit: Unit,
    /// What it asks Prometheus.
    pub queries: Vec<Query>,
    /// What has to be there for it to show anything.
    pub needs: Needs,
    /// Columns of 24.
    pub width: u8,
}

/// A form of panel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Lines over time.
    Lines,
    /// Areas over time, one on the other.
    Stack,
    /// One large number. Green at zero, red above, if `bad` is set.
    Number {
        /// Whether anything but zero is bad.
        bad: bool,
    },
    /// One large word: the legend of whatever the query gives.
    Word,
    /// A table of the labels named, and the value.
    Table(&'static [&'static str]),
    /// A matrix: rows and columns by two labels.
    Matrix {
        /// Label of the rows.
        row: &'static str,
        /// Label of the columns.
        column: &'static str,
    },
    /// Buckets of a histogram over time.
    Heatmap,
}

/// Units, as Grafana names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A number of things.
    Count,
    /// Things in a second.
    PerSecond,
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// Bytes a second.
    BytesPerSecond,
    /// A part of one.
    Ratio,
    /// Times as much.
    Factor,
    /// Degrees.
    Celsius,
    /// Watts.
    Watts,
    /// Hertz.
    Hertz,
    /// A moment, in seconds of Unix time.
    Moment,
}

/// What a panel needs to show anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// A job that runs on a planned network, that was restarted, and of which a rank is late.
    Job,
    /// GPUs.
    Gpu,
    /// A network whose paths change.
    Fabric,
}

/// A question to Prometheus.
#[derive(Clone, Debug)]
pub struct Query {
    /// PromQL, with Grafana's variables in it.
    pub expr: String,
    /// The name of each line, with labels in double braces.
    pub legend: &'static str,
}

impl Board {
    /// Name of its file.
    #[must_use]
    pub fn file(&self) -> String {
        format!("{}.json", self.uid)
    }

    /// As Grafana takes it.
    #[must_use]
    pub fn json(&self) -> Value {
        grafana::board(self)
    }

    /// The content of its file.
    ///
    /// # Panics
    /// Never: it is a tree of strings and numbers.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{:#}\n", self.json())
    }

    /// All panels.
    pub fn panels(&self) -> impl Iterator<Item = &Panel> {
        self.rows.iter().flat_map(|row| &row.panels)
    }
}

impl Panel {
    /// A panel of half the width that needs nothing but a job.
    #[must_use]
    pub fn new(title: &'static str, view: View, unit: Unit, about: &'static str) -> Self {
        let width = match view {
            View::Number { .. } | View::Word => 4,
            _ => 12,
        };
        Self { title, about, view, unit, queries: Vec::new(), needs: Needs::Job, width }
    }

    /// Asks this, too.
    #[must_use]
    pub fn ask(mut self, legend: &'static str, expr: impl Into<String>) -> Self {
        self.queries.push(Query { expr: expr.into(), legend });
        self
    }

    /// Shows nothing without this.
    #[must_use]
    pub fn needs(mut self, needs: Needs) -> Self {
        self.needs = needs;
        self
    }

    /// Takes so many of 24 columns.
    #[must_use]
    pub fn width(mut self, width: u8) -> Self {
        self.width = width;
        self
    }
}
