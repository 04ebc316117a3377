//! The folder with what hosts and switches have printed: `DIR/HOST.json`, `DIR/switches/SWITCH.json`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    cabling::{Dump, Mistake},
    lldp,
};

/// The folder of what switches have printed.
pub const SWITCHES: &str = "switches";
/// How large a file may be: a switch with a thousand neighbours prints a megabyte.
const MOST_BYTES: u64 = 64 << 20;
/// Ends of file names that are not part of the device's name.
const ENDS: [&str; 6] = [".json", ".json0", ".keyvalue", ".kv", ".lldp", ".txt"];

/// Reads all files.
///
/// # Errors
/// Everything that cannot be read.
pub fn read(directory: &Path) -> Result<Vec<Dump>, Vec<Mistake>> {
    let mut mistakes = Vec::new();
    let mut dumps = Vec::new();
    for (folder, is_switch) in [(directory.to_owned(), false), (directory.join(SWITCHES), true)] {
        if is_switch && !folder.exists() {
            continue;
        }
        match list(&folder) {
            Ok(files) => {
                for file in files {
                    match dump(&file, is_switch) {
                        Ok(dump) => dumps.push(dump),
                        Err(mistake) => mistakes.push(mistake),
                    }
                }
            }
            Err(error) => mistakes.push(Mistake::new(&folder, "", format!("cannot be read: {error}"))),
        }
    }
    if mistakes.is_empty() { Ok(dumps) } else { Err(mistakes) }
}

/// Files of a folder by name; hidden ones and folders are left out.
fn list(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn dump(file: &Path, is_switch: bool) -> Result<Dump, Mistake> {
    let wrong = |place: &str, what: String| Mistake::new(file, place, what);
    let Some(name) = file.file_name().and_then(|name| name.to_str()) else {
        return Err(wrong("", "the name of the file is the device's name, and has to be UTF-8".to_owned()));
    };
    let device = ENDS.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
    let size = fs::metadata(file).map_err(|error| wrong("", format!("cannot be read: {error}")))?.len();
    if size > MOST_BYTES {
        return Err(wrong("", format!("{size} bytes are too many for what lldpctl prints")));
    }
    let bytes = fs::read(file).map_err(|error| wrong("", format!("cannot be read: {error}")))?;
    let text = String::from_utf8(bytes).map_err(|_| wrong("", "is not UTF-8 text".to_owned()))?;
    let neighbours = lldp::parse(&text).map_err(|lldp::Wrong { place, what }| wrong(&place, what))?;
    Ok(Dump { file: file.to_owned(), device: device.to_owned(), is_switch, neighbours })
}
