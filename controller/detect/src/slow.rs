//! Stragglers (placeholder for the numbers of one communicator).
use crate::{
    observation::{Block, Timestamp},
    rhythm::Shape,
};
#[derive(Debug, Default)]
pub(crate) struct Slowness {}
impl Slowness {
    pub(crate) fn take(
        &mut self,
        _comm_rank: u32,
        _blocks: &[Block],
        _iteration: Option<Shape>,
        _now: Timestamp,
    ) {
    }
}
pub(crate) fn assess(
    _job: &mut crate::model::Job,
    _nodes: &crate::model::Nodes,
    _config: &crate::config::Config,
    _now: Timestamp,
    _out: &mut Vec<crate::finding::Finding>,
) {
}
