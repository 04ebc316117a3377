//! Where flight recorders are kept: shared memory that both the job and the agent reach.

use std::path::Path;

use rustix::fs::{Access, access, statvfs};

use super::Check;
use crate::words::{bytes, count};

const NAME: &str = "recorders";
/// What eight processes of a node take, with room to spare.
const ENOUGH_BYTES: u64 = 256 << 20;

pub(super) fn recorders(dir: &Path) -> Vec<Check> {
    let shown = dir.display();
    let there = dir.exists();
    // The plugin makes the folder where it may.
    let place = if there { dir } else { dir.parent().unwrap_or(dir) };
    if let Err(error) = access(place, Access::WRITE_OK | Access::EXEC_OK) {
        let advice = format!(
            "make {shown} writable for the users that run jobs (mode 1777), and mount it into their containers"
        );
        return vec![Check::bad(
            NAME,
            format!("this user cannot write to {}: {error}", place.display()),
            advice,
        )];
    }
    let files = std::fs::read_dir(dir).map_or(0, |entries| entries.flatten().count());
    let mut checks = vec![if there {
        Check::good(NAME, format!("{shown} is writable and holds {}", count(files as u64, "file")))
    } else {
        Check::good(NAME, format!("{shown} is not there yet; the first job can make it"))
    }];
    checks.push(room(place));
    checks
}

fn room(place: &Path) -> Check {
    const NAME: &str = "shared memory";
    match statvfs(place) {
        Ok(stat) => {
            let (free, total) = (stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize);
            let found = format!("{} of {} are free at {}", bytes(free), bytes(total), place.display());
            if free >= ENOUGH_BYTES {
                Check::good(NAME, found)
            } else {
                Check::doubtful(
                    NAME,
                    found,
                    "containers get 64 MiB by default: give them more (--shm-size, or an emptyDir of medium Memory)",
                )
            }
        }
        Err(error) => Check::bad(NAME, format!("{}: {error}", place.display()), "is it mounted?"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Grade;

    #[test]
    fn a_folder_that_can_be_made_will_do() {
        let dir = tempfile::tempdir().expect("a folder");
        let checks = recorders(&dir.path().join("c4"));
        assert_eq!((checks[0].grade, checks.len()), (Grade::Good, 2));
        let nowhere = recorders(&dir.path().join("a/b/c"));
        assert_eq!((nowhere[0].grade, nowhere.len()), (Grade::Bad, 1));
    }
}
