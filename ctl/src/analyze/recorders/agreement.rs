//! Whether recorders agree with each other. A file that was damaged, or belongs to another job of the same name, must not turn the
//! others' records into a picture of something that never was: what cannot be is left out, and said by file.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Arc,
};

use c4_recorder::snapshot::{Communicator, Snapshot};

use crate::{analyze::problem::Problems, recorder::Seen};

/// Leaves out ranks that the job does not have, and communicators of which a rank cannot be a member as it says it is.
pub(super) fn keep_agreeing(files: &mut Vec<(PathBuf, Seen)>, problems: &mut Problems) {
    files.retain(|(path, seen)| {
        let Some((rank, size)) = rank_beyond(&seen.snapshot) else { return true };
        let what = format!("rank is {rank}, expected less than the job's {size} ranks; left out");
        problems.add(&Arc::new(path.clone()), None, what);
        false
    });
    let sizes = usual_sizes(files);
    let mut members: HashMap<(u64, u32), Arc<PathBuf>> = HashMap::new();
    for (path, seen) in files {
        let path = Arc::new(path.clone());
        seen.snapshot.communicators.retain_mut(|comm| {
            let Some(&usual) = sizes.get(&comm.id) else { return true };
            if comm.size != usual {
                let what = format!(
                    "{} has {} ranks here, but {usual} in most recorders; expected the same on all its ranks",
                    label(comm),
                    comm.size
                );
                problems.add(&path, None, what);
                comm.size = usual;
            }
            let wrong = if comm.rank >= usual {
                Some(format!("rank {} of {}, expected less than its {usual} ranks", comm.rank, label(comm)))
            } else {
                let other = members.entry((comm.id, comm.rank)).or_insert_with(|| Arc::clone(&path));
                (*other != path).then(|| {
                    format!(
                        "rank {} of {}, which {} is as well; expected one recorder a rank",
                        comm.rank,
                        label(comm),
                        other.display()
                    )
                })
            };
            if let Some(wrong) = &wrong {
                problems.add(&path, None, format!("{wrong}; its operations there are left out"));
            }
            wrong.is_none()
        });
    }
}

/// The rank and the number of ranks, as one launcher tells both, if such a rank cannot be.
fn rank_beyond(snapshot: &Snapshot) -> Option<(u32, u32)> {
    let pairs = [("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")];
    let told = pairs
        .iter()
        .find_map(|(rank, size)| super::number(snapshot, rank).zip(super::number(snapshot, size)));
    told.filter(|(rank, size)| rank >= size)
}

/// The size that most recorders give a communicator; of as many, the larger one, which more ranks fit into. Those whose size or
/// id is not told are not among them.
fn usual_sizes(files: &[(PathBuf, Seen)]) -> HashMap<u64, u32> {
    let mut told: HashMap<u64, BTreeMap<u32, usize>> = HashMap::new();
    let comms = files.iter().flat_map(|(_, seen)| &seen.snapshot.communicators);
    for comm in comms.filter(|comm| comm.id != 0 && comm.size > 0) {
        *told.entry(comm.id).or_default().entry(comm.size).or_default() += 1;
    }
    let usual = |sizes: BTreeMap<u32, usize>| sizes.into_iter().max_by_key(|(size, times)| (*times, *size));
    told.into_iter().filter_map(|(id, sizes)| Some((id, usual(sizes)?.0))).collect()
}

fn label(comm: &Communicator) -> String {
    match comm.name.as_str() {
        "" => format!("communicator {:x}", comm.id),
        name => format!("communicator {name} ({:x})", comm.id),
    }
}
