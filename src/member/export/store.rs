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
    let target = all_leaves(tx, "register_log").await?;
    let sql = tx.sql(query("register_log/export"), target);
    let rows: Vec<(DateTime<Utc>, i16, String)> =
        sqlx::query_as(sql).bind(member_id).fetch_all(tx.conn().await?).await?;
    lines.extend(rows.into_iter().map(|(at, source, actor)| LogLine {
        at,
        what: "registered",
        actor,
        body: serde_json::json!({ "source": Source::from_number(source) }),
    }));
    let target = all_leaves(tx, "change_log").await?;
    let sql = tx.sql(query("change_log/export"), target);
    let limit = CHANGES_MAX as i64 + 1;
    let mut rows: Vec<(DateTime<Utc>, i16, String, String)> =
        sqlx::query_as(sql).bind(member_id).bind(limit).fetch_all(tx.conn().await?).await?;
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

/// A parent with as many leaves as it has at this moment, those of years past included; only PostgreSQL knows how many.
async fn all_leaves(tx: &mut Tx<'_>, table: &'static str) -> Result<Target, WriteError> {
    tx.plain();
    let count = sqlx::query_scalar::<_, i64>("select count(*) from pg_inherits where inhparent = $1::text::regclass");
    let leaves = count.bind(table).fetch_one(tx.conn().await?).await?;
    Ok(Target::Parent(u32::try_from(leaves).unwrap_or(u32::MAX)))
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
