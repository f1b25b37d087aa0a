//! The SQL of an export.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{
    super::{Source, log::What},
    CHANGES_MAX, LogLine,
};
use crate::{
    db::lane::{Target, Tx, WriteError},
    id::{CodeId, MemberId},
    partition::{plan, query},
};

/// What the logs say of a member, the oldest first, and whether there is more.
pub(super) async fn list_log(tx: &mut Tx<'_>, member_id: MemberId) -> Result<(Vec<LogLine>, bool), WriteError> {
    let mut lines = Vec::new();
    // How many leaves there are only PostgreSQL knows; this is one statement that reads them all.
    const LEAVES: u32 = 1;
    let sql = tx.sql(query("register_log/export"), Target::Parent(LEAVES));
    let rows: Vec<(DateTime<Utc>, i16, String)> = sqlx::query_as(sql).bind(member_id).fetch_all(tx.conn()).await?;
    lines.extend(rows.into_iter().map(|(at, source, actor)| LogLine {
        at,
        what: "registered",
        actor,
        body: serde_json::json!({ "source": Source::from_number(source) }),
    }));
    let sql = tx.sql(query("change_log/export"), Target::Parent(LEAVES));
    let limit = CHANGES_MAX as i64 + 1;
    let mut rows: Vec<(DateTime<Utc>, i16, String, String)> =
        sqlx::query_as(sql).bind(member_id).bind(limit).fetch_all(tx.conn()).await?;
    let more = rows.len() > CHANGES_MAX;
    rows.truncate(CHANGES_MAX);
    lines.extend(rows.into_iter().map(|(at, what, actor, body)| LogLine {
        at,
        what: What::from_number(what).map_or("unknown", What::name),
        actor,
        body: serde_json::from_str(&body).unwrap_or_default(),
    }));
    Ok((lines, more))
}

/// Coupons that a member holds or held, after one, in the order of their ids.
pub(super) async fn list_coupons(
    conn: &mut PgConnection,
    member_id: MemberId,
    after: Option<CodeId>,
    rows_max: i64,
) -> Result<Vec<CodeId>, sqlx::Error> {
    let leaf = plan("coupon_receive").leaf_i64(member_id.get());
    sqlx::query_scalar(query("coupon_receive/export").on(&[leaf]))
        .bind(member_id)
        .bind(after.map_or(-1, CodeId::get))
        .bind(rows_max)
        .fetch_all(conn)
        .await
}
