//! Files for switches, or whoever reads exports. They may look at any moment, so each file is replaced as a whole; and what a
//! newer plan has written is never overwritten by an older one.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use c4_traffic::actuators::Document;

/// A directory for files.
#[derive(Clone, Debug)]
pub struct Exporter {
    directory: PathBuf,
    /// The number of the newest plan that was written.
    newest: Arc<Mutex<u64>>,
}

impl Exporter {
    /// Writes to this directory, which is made when it is needed.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, newest: Arc::default() }
    }

    /// Writes the files of a plan, as long as `may_write` says so. Blocks.
    pub fn write(&self, plan: u64, documents: &[Document], may_write: impl Fn() -> bool) {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if plan < *newest {
            return;
        }
        *newest = plan;
        for document in documents {
            if !may_write() {
                return;
            }
            // Names of switches may be anything.
            let name = document.name.replace('/', "_");
            if let Err(error) = replace(&self.directory, &name, &document.text) {
                let file = self.directory.join(name);
                tracing::error!(file = %file.display(), %error, "a plan cannot be written");
            }
        }
    }
}

fn replace(directory: &Path, name: &str, text: &str) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let beside = directory.join(format!("{name}.new"));
    fs::write(&beside, text)?;
    fs::rename(&beside, directory.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_plan_is_what_is_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let exporter = Exporter::new(dir.path().join("made"));
        let document = |text: &str| [Document { name: "leaf/0.ip4".into(), text: text.into() }];
        let there = || fs::read_to_string(dir.path().join("made/leaf_0.ip4")).expect("there");
        exporter.write(1, &document("first"), || true);
        assert_eq!(there(), "first");
        exporter.write(3, &document("third"), || true);
        exporter.write(2, &document("second"), || true);
        exporter.write(4, &document("fourth, by one that leads no more"), || false);
        assert_eq!(there(), "third");
    }
}
