//! The store in etcd, for the leader of several controllers.
//!
//! A batch is one transaction on two conditions: that the leader's key is the one of this term, and that exactly the batches
//! before were written. The first keeps a leader of before from writing. With the second, a batch whose answer was lost can be
//! sent again: it is written once, whether the first attempt has arrived, arrives later, or never does; and two of them
//! cannot overtake each other.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use c4_proto::etcd::{
    Compare, DeleteRangeRequest, KeyValue, RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse,
    compare::{CompareResult, CompareTarget, TargetUnion},
    range_request::SortOrder,
    request_op::Request,
    response_op::Response,
};
use tokio::runtime::Handle;

use super::{Row, Store, StoreError, Tables, Write};
use crate::ha::{
    election::{Keys, Leadership, put, range, range_end, txn},
    etcd::{Etcd, EtcdError},
    fence::Fence,
};

/// Changes in one batch: etcd takes 128 operations by default.
const MAX_CHANGES: usize = 120;
/// Rows read at once.
const PAGE: usize = 200;
/// Pause between two attempts when no member answers.
const AGAIN: Duration = Duration::from_millis(100);

/// See the module. Calls block, and are not to be made on a task.
#[derive(Debug)]
pub struct EtcdStore {
    etcd: Etcd,
    keys: Keys,
    fence: Fence,
    lease: i64,
    written: Mutex<u64>,
    runtime: Handle,
}

impl EtcdStore {
    /// The store of a term that has just begun. To be made on a task.
    #[must_use]
    pub fn new(etcd: Etcd, keys: Keys, leadership: &Leadership) -> Self {
        let (fence, lease) = (leadership.fence.clone(), leadership.lease());
        Self { etcd, keys, fence, lease, written: Mutex::new(0), runtime: Handle::current() }
    }

    fn key(&self, table: &str, key: &str) -> Vec<u8> {
        let mut bytes = self.table(table);
        bytes.extend(key.as_bytes());
        bytes
    }

    fn table(&self, table: &str) -> Vec<u8> {
        let mut bytes = self.keys.rows();
        bytes.extend(table.as_bytes());
        bytes.push(b'/');
        bytes
    }

    fn position(&self, number: u64) -> Vec<u8> {
        format!("{:x}:{number}", self.lease).into_bytes()
    }

    /// The transaction that writes a batch as number `number`.
    fn request(&self, batch: &[Write], number: u64) -> TxnRequest {
        let same = |target: CompareTarget, key: Vec<u8>, value: TargetUnion| Compare {
            result: CompareResult::Equal.into(),
            target: target.into(),
            key,
            target_union: Some(value),
        };
        let term = i64::try_from(self.fence.term()).unwrap_or(i64::MAX);
        let compare = vec![
            same(CompareTarget::Create, self.keys.leader(), TargetUnion::CreateRevision(term)),
            same(CompareTarget::Value, self.keys.position(), TargetUnion::Value(self.position(number - 1))),
        ];
        // etcd takes each key once: the last word counts.
        let changes: BTreeMap<Vec<u8>, &Write> =
            batch.iter().map(|write| (self.key(&write.table, &write.key), write)).collect();
        let mut success: Vec<RequestOp> = changes
            .into_iter()
            .map(|(key, write)| match &write.value {
                Some(value) => put(key, value.clone(), 0),
                None => RequestOp {
                    request: Some(Request::RequestDeleteRange(DeleteRangeRequest {
                        key,
                        range_end: Vec::new(),
                    })),
                },
            })
            .collect();
        success.push(put(self.keys.position(), self.position(number), 0));
        let read = |key| RequestOp {
            request: Some(Request::RequestRange(RangeRequest { key, ..RangeRequest::default() })),
        };
        TxnRequest { compare, success, failure: vec![read(self.keys.leader()), read(self.keys.position())] }
    }

    /// Whether a transaction whose conditions were not met had been carried out before.
    fn was_written(&self, answer: &TxnResponse, number: u64) -> bool {
        let found = |index: usize| match answer.responses.get(index)?.response.as_ref()? {
            Response::ResponseRange(range) => range.kvs.first(),
            _ => None,
        };
        let leads = found(0).is_some_and(|kv| kv.create_revision.unsigned_abs() == self.fence.term());
        leads && found(1).is_some_and(|kv| kv.value == self.position(number))
    }

    /// Reads once, however often it has to be asked for: as long as this controller leads, a quorum may come back.
    fn range(&self, request: &RangeRequest) -> Result<RangeResponse, StoreError> {
        while self.fence.holds() {
            match self.runtime.block_on(self.etcd.ask(|channel| range(channel, request.clone()))) {
                Ok(answer) => return Ok(answer),
                Err(error @ EtcdError::Refused(_)) => return Err(StoreError::Access(error.to_string())),
                Err(EtcdError::Away(_)) => std::thread::sleep(AGAIN),
            }
        }
        Err(StoreError::Deposed)
    }

    /// Reads rows in the order of their keys, the last `limit` of them or all, as they were at one moment.
    fn read(&self, prefix: &[u8], limit: usize) -> Result<Vec<KeyValue>, StoreError> {
        let backwards = limit != usize::MAX;
        let (mut from, mut end) = (prefix.to_vec(), range_end(prefix));
        let (mut rows, mut revision) = (Vec::new(), 0);
        loop {
            let page = (limit - rows.len()).min(PAGE);
            let order = if backwards { SortOrder::Descend } else { SortOrder::Ascend };
            let request = RangeRequest {
                key: from.clone(),
                range_end: end.clone(),
                limit: i64::try_from(page).unwrap_or(i64::MAX),
                revision,
                sort_order: order.into(),
            };
            let answer = self.range(&request)?;
            revision = answer.header.map_or(0, |header| header.revision);
            let more = answer.more;
            rows.extend(answer.kvs);
            let Some(last) = rows.last().filter(|_| more && rows.len() < limit) else { break };
            if backwards {
                end.clone_from(&last.key);
            } else {
                from.clone_from(&last.key);
                from.push(0);
            }
        }
        if backwards {
            rows.reverse();
        }
        Ok(rows)
    }
}

impl Store for EtcdStore {
    fn apply(&self, batch: &[Write]) -> Result<(), StoreError> {
        if batch.len() > MAX_CHANGES {
            return Err(StoreError::Access(format!(
                "{} changes at once, of which etcd takes {MAX_CHANGES}",
                batch.len()
            )));
        }
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let number = *written + 1;
        let request = self.request(batch, number);
        loop {
            if !self.fence.holds() {
                return Err(StoreError::Deposed);
            }
            match self.runtime.block_on(self.etcd.ask(|channel| txn(channel, request.clone()))) {
                Ok(answer) if answer.succeeded || self.was_written(&answer, number) => {
                    *written = number;
                    return Ok(());
                }
                Ok(_) => {
                    self.fence.lose();
                    return Err(StoreError::Deposed);
                }
                Err(error @ EtcdError::Refused(_)) => return Err(StoreError::Access(error.to_string())),
                // As long as this controller leads, a quorum may come back.
                Err(EtcdError::Away(_)) => std::thread::sleep(AGAIN),
            }
        }
    }

    fn last(&self, table: &str, limit: usize) -> Result<Vec<Row>, StoreError> {
        let prefix = self.table(table);
        let rows = self.read(&prefix, limit)?;
        Ok(rows.into_iter().map(|kv| (text(&kv.key[prefix.len()..]), kv.value)).collect())
    }

    fn get(&self, table: &str, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let request = RangeRequest { key: self.key(table, key), ..RangeRequest::default() };
        Ok(self.range(&request)?.kvs.into_iter().next().map(|kv| kv.value))
    }

    fn everything(&self) -> Result<Tables, StoreError> {
        let prefix = self.keys.rows();
        let mut tables = Tables::new();
        for kv in self.read(&prefix, usize::MAX)? {
            let rest = text(&kv.key[prefix.len()..]);
            let Some((table, key)) = rest.split_once('/') else { continue };
            tables.entry(table.to_owned()).or_default().insert(key.to_owned(), kv.value);
        }
        Ok(tables)
    }
}

fn text(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}
