//! `c4ctl backup FILE`: everything that the controller must not forget.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use c4_proto::v1;
use serde_json::json;

use super::Asked;
use crate::{failure::Failure, words::bytes};

pub(super) async fn run(asked: &mut Asked<'_>, path: &Path) -> Result<(), Failure> {
    let wrong = |problem: String| Failure::File { path: path.to_owned(), problem };
    let unwritten = |error: io::Error| wrong(format!("cannot be written: {error}"));
    let mut calls = asked.client.backups.clone();
    let call = calls.get_backup(v1::GetBackupRequest {});
    let mut parts = asked.client.call(asked.timeout, "", call).await?;
    // There are names of people and jobs in it: it is for its owner.
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path).map_err(unwritten)?;
    let length = match receive(asked, &mut parts, &mut file).await {
        Ok(length) => length,
        Err(failure) => {
            // Half a backup is none.
            let _ = fs::remove_file(path);
            return Err(match failure {
                Failure::Output(error) => unwritten(error),
                other => other,
            });
        }
    };
    if asked.json {
        asked.out.json(&json!({"file": path, "bytes": length}))?;
    } else {
        asked.out.line(format!("{} ({})", path.display(), bytes(length)))?;
    }
    Ok(())
}

/// Writes all parts to the disk; how many bytes they have.
async fn receive(
    asked: &Asked<'_>,
    parts: &mut tonic::Streaming<v1::BackupPart>,
    file: &mut File,
) -> Result<u64, Failure> {
    let mut length = 0;
    while let Some(part) = parts.message().await.map_err(|status| asked.client.failed(&status, ""))? {
        length += part.bytes.len() as u64;
        file.write_all(&part.bytes)?;
    }
    file.sync_all()?;
    Ok(length)
}
