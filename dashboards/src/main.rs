//! Writes the dashboards: `cargo run -p c4-dashboards [DIRECTORY]`, by default the directory of this crate.

use std::{env, fs, path::PathBuf};

use anyhow::Context;

fn main() -> anyhow::Result<()> {
    let here = || PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let directory = env::args_os().nth(1).map_or_else(here, PathBuf::from);
    for board in c4_dashboards::boards() {
        let path = directory.join(board.file());
        fs::write(&path, board.text()).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}
