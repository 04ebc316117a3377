//! What the machine writes down besides its actions: the audit trail and what is known of nodes.

use c4_detect::{
    finding::FindingId,
    observation::{JobId, NodeName, Timestamp},
};

use super::{Open, Output, Steer};
use crate::{
    steer::journal::{self, AuditEntry, NodeRecord},
    store::Write,
};

impl Steer {
    /// Says something and writes it into the audit trail.
    #[expect(clippy::too_many_arguments, reason = "each is a field of what is said")]
    pub(super) fn announce(
        &mut self,
        finding: Option<FindingId>,
        job: &str,
        text: String,
        outcome: &'static str,
        who: &str,
        now: Timestamp,
        out: &mut Vec<Output>,
    ) {
        let entry = AuditEntry {
            at: now,
            who: who.to_owned(),
            what: outcome.to_owned(),
            text: text.clone(),
            action: None,
            finding: finding.clone(),
            job: (!job.is_empty()).then(|| JobId(job.to_owned())),
            nodes: Vec::new(),
        };
        let rows = self.note(entry);
        self.persist(rows, out);
        out.push(Output::Said { finding, job: job.to_owned(), text, outcome });
    }

    /// Takes an entry into the audit trail, and returns the rows to write.
    pub(super) fn note(&mut self, mut entry: AuditEntry) -> Vec<Write> {
        if let Some(last) = self.audit.back() {
            entry.at = entry.at.max(last.at.after(1));
        }
        self.version += 1;
        let mut rows = vec![Write::json(journal::AUDIT, journal::audit_key(entry.at), &entry)];
        self.audit.push_back(entry);
        if self.audit.len() > journal::KEPT
            && let Some(old) = self.audit.pop_front()
        {
            rows.push(Write::remove(journal::AUDIT, journal::audit_key(old.at)));
        }
        rows
    }

    /// Has something written down that nothing waits for.
    pub(super) fn persist(&mut self, batch: Vec<Write>, out: &mut Vec<Output>) {
        self.token += 1;
        out.push(Output::Persist { token: self.token, batch });
    }

    /// Somebody else than C4 gave a node back that C4 had isolated, and says why, or where.
    pub fn given_back(&mut self, node: &NodeName, by: &str, now: Timestamp) -> Vec<Output> {
        let mut out = Vec::new();
        let concerned = |open: &Open| open.action.deed.nodes().contains(&node);
        // What is seen while C4 itself takes it or gives it back says nothing of others.
        if !self.is_isolated(node) || self.open.values().any(concerned) {
            return out;
        }
        let record = self.nodes.entry(node.clone()).or_default();
        record.isolated = None;
        record.undone_by = Some(by.to_owned());
        self.save_node(node, &mut out);
        let text = format!(
            "{} is no longer isolated: {by} gave it back; C4 does not take it again by itself",
            node.0
        );
        self.announce(None, "", text, "undone", by, now, &mut out);
        out
    }

    /// Nodes that are isolated by our doing.
    pub fn isolated_nodes(&self) -> impl Iterator<Item = &NodeName> {
        self.nodes.iter().filter(|(_, record)| record.isolated.is_some()).map(|(node, _)| node)
    }

    pub(super) fn save_node(&mut self, node: &NodeName, out: &mut Vec<Output>) {
        let record = self.nodes.entry(node.clone()).or_default();
        let row = if *record == NodeRecord::default() {
            Write::remove(journal::NODES, node.0.clone())
        } else {
            Write::json(journal::NODES, node.0.clone(), record)
        };
        self.version += 1;
        self.persist(vec![row], out);
    }
}
