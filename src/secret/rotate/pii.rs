//! Personal data under a new key: every encrypted value written again, where it stands.
//!
//! Rows are looked at in the order of their ids; those that are to change are locked, after their members, read again
//! and written, a few hundred in a transaction. Nothing is told of it: the values are the same, so no version goes up,
//! no event is due, and what caches hold, masked answers, is as right as before.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::PgConnection;
use zeroize::Zeroizing;

use super::{RotateError, Run, WALK_ROWS, locked_members, name_of, progress};
use crate::{
    partition::{Leaf, Query},
    secret::{
        Secrets,
        columns::{ENCRYPTED, Encrypted},
        key_id,
    },
};

/// Rows by table and number of the key. A row with values of two keys counts for both.
pub type Uses = BTreeMap<&'static str, BTreeMap<u8, u64>>;

/// Id, the rest of the primary key, the encrypted columns.
type Locked = (i64, String, Vec<Option<Vec<u8>>>);

fn step_of(key: u8, table: &str) -> String {
    format!("pii {key} {table}")
}

/// Counts what uses which key, by walking everything.
pub(super) async fn count(run: &mut Run<'_>) -> Result<Uses, RotateError> {
    let mut uses = Uses::new();
    for one in ENCRYPTED.iter() {
        let counts = uses.entry(one.table).or_default();
        for piece in one.pieces() {
            let mut after = i64::MIN;
            loop {
                let rows = walk(&mut run.conn, one, piece, after).await?;
                for (_, keys) in &rows {
                    for key in keys.iter().collect::<BTreeSet<_>>() {
                        *counts.entry(u8::try_from(*key).unwrap_or_default()).or_default() += 1;
                    }
                }
                match rows.last() {
                    Some((last, _)) if rows.len() as i64 >= WALK_ROWS => after = *last,
                    _ => break,
                }
            }
        }
    }
    Ok(uses)
}

/// Writes every value again that has another key than the current one. Gives the rows written.
pub(super) async fn rewrite(run: &mut Run<'_>) -> Result<u64, RotateError> {
    let current = run.secrets.holding().pii_current;
    let mut total = 0;
    for one in ENCRYPTED.iter() {
        let step = step_of(current, one.table);
        let pieces = one.pieces();
        let names: Vec<String> = pieces.iter().map(|piece| name_of(one.table, *piece)).collect();
        let walks = progress::resume(&mut run.conn, &step, &names).await?;
        for (piece, mut at) in pieces.into_iter().zip(walks) {
            while !at.done {
                let rows = walk(&mut run.conn, one, piece, at.after_id.unwrap_or(i64::MIN)).await?;
                let is_stale = |keys: &[i32]| keys.iter().any(|key| *key != i32::from(current));
                let mut stale: Vec<i64> = rows.iter().filter(|(_, keys)| is_stale(keys)).map(|(id, _)| *id).collect();
                stale.dedup();
                for ids in stale.chunks(run.pace.chunk_rows as usize) {
                    let written = run.patiently("keys_rewrite", rewrite_ids(one, piece, ids)).await?;
                    at.written += written as i64;
                    total += written;
                    run.throttle(written).await;
                }
                at.after_id = rows.last().map(|(id, _)| *id).or(at.after_id);
                at.seen += rows.len() as i64;
                at.done = (rows.len() as i64) < WALK_ROWS;
                progress::save(&mut run.conn, run.clock.now(), &step, &at).await?;
                run.tell_progress(&format!("{}: {} rows seen, {} written again", at.leaf, at.seen, at.written));
            }
        }
    }
    Ok(total)
}

/// Forgets how far the walks for a key have come.
pub(super) async fn forget(conn: &mut PgConnection, key: u8) -> Result<(), RotateError> {
    for one in ENCRYPTED.iter() {
        progress::forget(conn, &step_of(key, one.table)).await?;
    }
    Ok(())
}

async fn walk(
    conn: &mut PgConnection,
    one: &Encrypted,
    piece: Option<Leaf>,
    after: i64,
) -> Result<Vec<(i64, Vec<i32>)>, sqlx::Error> {
    sqlx::query_as(on(one.walk(), piece)).bind(after).bind(WALK_ROWS).fetch_all(conn).await
}

fn on(query: &'static Query, piece: Option<Leaf>) -> &'static str {
    piece.map_or_else(|| query.parent(), |leaf| query.on(&[leaf]))
}

fn rewrite_ids<'a>(
    one: &'static Encrypted,
    piece: Option<Leaf>,
    ids: &'a [i64],
) -> impl AsyncFnOnce(&mut PgConnection, &Secrets) -> Result<u64, RotateError> + Clone + use<'a> {
    async move |conn: &mut PgConnection, secrets: &Secrets| {
        if one.of_members {
            locked_members(conn, ids).await?;
        }
        let rows: Vec<Locked> = sqlx::query_as(on(one.lock(), piece)).bind(ids).fetch_all(&mut *conn).await?;
        let (mut ids, mut rests) = (Vec::new(), Vec::new());
        let mut columns: Vec<Vec<Option<Vec<u8>>>> = vec![Vec::new(); one.columns.len()];
        for (id, rest, mut cells) in rows {
            if cells.len() != one.columns.len() {
                return Err(RotateError::Inconsistent(format!("{}_lock gives other columns", one.table)));
            }
            if !renew(secrets, one, id, &mut cells) {
                continue;
            }
            ids.push(id);
            rests.push(rest);
            for (column, cell) in columns.iter_mut().zip(cells) {
                column.push(cell);
            }
        }
        if ids.is_empty() {
            return Ok(0);
        }
        let mut update = sqlx::query(on(one.update(), piece)).bind(&ids).bind(&rests);
        for column in &columns {
            update = update.bind(column);
        }
        let written = update.execute(conn).await?.rows_affected();
        if written != ids.len() as u64 {
            let what = format!("{}: {written} rows written where {} were locked", one.table, ids.len());
            return Err(RotateError::Inconsistent(what));
        }
        Ok(written)
    }
}

/// Encrypts the stale values of a row again. One that can't be read stays: it keeps its key from being dropped.
fn renew(secrets: &Secrets, one: &'static Encrypted, id: i64, cells: &mut [Option<Vec<u8>>]) -> bool {
    let current = Some(secrets.holding().pii_current);
    let mut renewed = false;
    for (column, cell) in one.columns.iter().zip(cells) {
        let Some(sealed) = cell.as_deref().filter(|sealed| key_id(sealed) != current) else { continue };
        match secrets.decrypt_bytes(one.table, column, id, sealed).map(Zeroizing::new) {
            Ok(plain) => {
                *cell = Some(secrets.encrypt_bytes(one.table, column, id, &plain));
                renewed = true;
            }
            Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "a value stays under its key"),
        }
    }
    renewed
}
