//! The pieces of jobs' files under a new key, of jobs that have ended too: their files stay for some days.
//!
//! A piece is large, so each has a transaction of its own. No walk is kept: what is done is not stale any more.

use std::collections::BTreeMap;

use sqlx::PgConnection;
use zeroize::Zeroizing;

use super::{RotateError, Run};
use crate::secret::{Secrets, columns::PIECES, key_id};

/// Pieces of one look.
const LIST_PIECES: i64 = 200;

/// Counts pieces by number of the key.
pub(super) async fn count(conn: &mut PgConnection) -> Result<BTreeMap<u8, u64>, sqlx::Error> {
    let rows = sqlx::query_file!("sql/queries/job_chunk/count_by_key.sql").fetch_all(conn).await?;
    let counted = rows.into_iter().map(|row| (u8::try_from(row.key).unwrap_or_default(), row.pieces.unsigned_abs()));
    Ok(counted.collect())
}

/// Writes every piece again that has another key than the current one. Gives how many.
pub(super) async fn rewrite(run: &mut Run<'_>) -> Result<u64, RotateError> {
    let current = i32::from(run.secrets.holding().pii_current);
    let (mut after, mut total) = ((i64::MIN, 0), 0);
    loop {
        let list = sqlx::query_file!("sql/queries/job_chunk/list_stale.sql", after.0, after.1, current, LIST_PIECES);
        let stale = list.fetch_all(&mut run.conn).await?;
        let Some(last) = stale.last() else { return Ok(total) };
        after = (last.job_id, last.no);
        for piece in &stale {
            let (job_id, no) = (piece.job_id, piece.no);
            let written = run
                .patiently("keys_pieces", async move |conn: &mut PgConnection, secrets: &Secrets| {
                    rewrite_one(conn, secrets, job_id, no).await
                })
                .await?;
            total += written;
            run.throttle(written).await;
        }
        run.tell_progress(&format!("{}: {total} pieces written again", PIECES.0));
    }
}

/// One that is gone meanwhile needs nothing; one that can't be read stays and keeps its key from being dropped.
async fn rewrite_one(conn: &mut PgConnection, secrets: &Secrets, job_id: i64, no: i32) -> Result<u64, RotateError> {
    let (table, column) = PIECES;
    let locked = sqlx::query_file_scalar!("sql/queries/job_chunk/lock.sql", job_id, no);
    let Some(sealed) = locked.fetch_optional(&mut *conn).await? else { return Ok(0) };
    if key_id(&sealed) == Some(secrets.holding().pii_current) {
        return Ok(0);
    }
    let plain = match secrets.decrypt_bytes(table, column, job_id, &sealed).map(Zeroizing::new) {
        Ok(plain) => plain,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, no, "a piece of a file stays under its key");
            return Ok(0);
        }
    };
    let sealed = secrets.encrypt_bytes(table, column, job_id, &plain);
    let update = sqlx::query_file!("sql/queries/job_chunk/update.sql", job_id, no, sealed);
    Ok(update.execute(conn).await?.rows_affected())
}
