//! Which leaves take rows, asked by those who met one that did not.
//!
//! A leaf that is put away is fenced, renamed, detached, in this order, and may be dropped in the end. Nobody asks before
//! each write whether a leaf stands: the fence refuses the write, and then there is time to ask.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::PgConnection;

use super::{ddl::fence_name, router::Leaf};

/// Why a leaf takes no rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// It is put away or being put away.
    Retired,
    /// There is none, and nothing that is left of one.
    Absent,
}

/// Of these leaves, those that take no rows. Any role may ask, also in a transaction.
///
/// # Errors
/// Those of the catalogue query.
pub async fn closed(conn: &mut PgConnection, leaves: &BTreeSet<Leaf>) -> Result<BTreeMap<Leaf, Closed>, sqlx::Error> {
    let rows: Vec<(bool, bool)> = sqlx::query_as(
        "select
             i.inhrelid is not null and not i.inhdetachpending and k.oid is null,
             i.inhrelid is not null or to_regclass(t.retired) is not null
         from unnest($1::text[], $2::text[], $3::text[], $4::text[])
             with ordinality as t (parent, name, fence, retired, position)
         left join pg_inherits i on i.inhrelid = to_regclass(t.name) and i.inhparent = to_regclass(t.parent)
         left join pg_constraint k on k.conrelid = i.inhrelid and k.contypid = 0 and k.conname = t.fence::name
         order by t.position",
    )
    .bind(leaves.iter().map(|leaf| leaf.plan.table.clone()).collect::<Vec<_>>())
    .bind(leaves.iter().map(ToString::to_string).collect::<Vec<_>>())
    .bind(leaves.iter().map(|leaf| fence_name(*leaf)).collect::<Vec<_>>())
    .bind(leaves.iter().map(|leaf| leaf.retired_name()).collect::<Vec<_>>())
    .fetch_all(conn)
    .await?;
    let states = rows.into_iter().map(|(stands, traces)| match (stands, traces) {
        (true, _) => None,
        (false, true) => Some(Closed::Retired),
        (false, false) => Some(Closed::Absent),
    });
    Ok(leaves.iter().copied().zip(states).filter_map(|(leaf, state)| Some((leaf, state?))).collect())
}
