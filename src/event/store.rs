//! The SQL of the outbox.

use chrono::{DateTime, Utc};

use super::{Kind, NewEvent};
use crate::{
    db::lane::{Target, Tx, WriteError, column},
    id::EventId,
    partition::{plan, query},
};

/// Writes events in the transaction of what they tell of.
pub async fn insert(tx: &mut Tx<'_>, now: DateTime<Utc>, events: &[NewEvent]) -> Result<(), WriteError> {
    let leaf = |event: &&NewEvent| (plan("event").leaf_i64(event.event_id.get()), event.event_id);
    for (target, rows) in tx.targets(events.iter().collect(), leaf) {
        let statement = tx
            .statement(query("event/insert"), target)
            .bind(column(&rows, |event| event.event_id.get()))
            .bind(vec![now; rows.len()])
            .bind(column(&rows, |event| event.subject))
            .bind(column(&rows, |event| event.kind.number()))
            .bind(column(&rows, |event| event.body.to_string()));
        tx.write("event", rows.len(), statement).await?;
    }
    Ok(())
}

/// Whether an event stands, and so what it tells of. Does not wait for one under way.
pub async fn exists(tx: &mut Tx<'_>, event_id: EventId) -> Result<bool, WriteError> {
    let sql = tx.sql(query("event/find"), Target::Leaf(plan("event").leaf_i64(event_id.get())));
    let row: Option<(EventId,)> = sqlx::query_as(sql).bind([event_id]).fetch_optional(tx.conn().await?).await?;
    Ok(row.is_some())
}

/// Writes one event in a transaction of the office, such as a change of a rule.
pub async fn insert_office(
    conn: &mut sqlx::PgConnection,
    now: DateTime<Utc>,
    event_id: EventId,
    kind: Kind,
    subject: i64,
    what: &str,
) -> Result<(), sqlx::Error> {
    insert_done(conn, now, event_id, kind, subject, &serde_json::json!({ "to": what })).await
}

/// Writes one event in a transaction that is not the lane's, such as a job's.
pub async fn insert_done(
    conn: &mut sqlx::PgConnection,
    now: DateTime<Utc>,
    event_id: EventId,
    kind: Kind,
    subject: i64,
    body: &serde_json::Value,
) -> Result<(), sqlx::Error> {
    sqlx::query(query("event/insert").parent())
        .bind([event_id.get()])
        .bind([now])
        .bind([subject])
        .bind([kind.number()])
        .bind([body.to_string()])
        .execute(conn)
        .await?;
    Ok(())
}
