//! Keys that are no settings any more. A plain "unknown field" would leave their owners to guess; these say what to do.

use serde::{Deserialize, Deserializer, de::Error};

/// Where the plan of paths was kept, in a file of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlanFile;

impl<'de> Deserialize<'de> for PlanFile {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(D::Error::custom(
            "is no setting any more, since the plan is kept in `state` with everything else. Take this line out; to keep the \
             plan of before, move its file into the directory of `state`, as paths.redb",
        ))
    }
}
