//! Which leaves of the range tables stand, and which are on their way out.
//!
//! A month that is being retired is fenced (`check (false) not valid`), renamed, detached, in this order; from the fence
//! on its index rows go away behind it, so comparing them would report what is meant. Read it in the transaction that
//! compares: a fence that stands in the snapshot stood before the first index row went.

use std::{collections::BTreeMap, ops::Range};

use sqlx::PgConnection;

use crate::{
    id::Day,
    partition::{Leaf, plan},
};

const RANGED: [&str; 3] = ["coupon", "redemption", "redemption_conflict"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Standing,
    Retiring,
    /// Detached; its rows are kept under another name.
    Retired,
}

/// The months of `coupon`, `redemption` and `redemption_conflict`. Leaves of hash tables always stand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Leaves(BTreeMap<Leaf, State>);

impl Leaves {
    pub async fn load(conn: &mut PgConnection) -> Result<Self, sqlx::Error> {
        let mut leaves = BTreeMap::new();
        for table in RANGED {
            let rows: Vec<(String, bool, bool, bool)> = sqlx::query_as(
                "select c.relname::text, i.inhrelid is not null and not i.inhdetachpending, i.inhrelid is null, exists (
                     select from pg_constraint k
                     where k.conrelid = c.oid and k.contype = 'c' and not k.convalidated
                         and pg_get_constraintdef(k.oid) like 'CHECK (false)%'
                 )
                 from pg_class c
                 left join pg_inherits i on i.inhrelid = c.oid and i.inhparent = to_regclass($1)
                 where c.relkind = 'r' and pg_table_is_visible(c.oid) and c.relname like $1 || '\\_m%'",
            )
            .bind(table)
            .fetch_all(&mut *conn)
            .await?;
            for (name, attached, detached, fenced) in rows {
                let renamed = name.strip_suffix("_retired");
                let Some(leaf) = plan(table).leaf_of_name(renamed.unwrap_or(&name)) else { continue };
                let state = match renamed {
                    None if attached && !fenced => State::Standing,
                    Some(_) if detached => State::Retired,
                    _ => State::Retiring,
                };
                leaves.insert(leaf, state);
            }
        }
        Ok(Self(leaves))
    }

    /// Whether rows of the leaf are to be compared.
    pub fn stands(&self, leaf: Leaf) -> bool {
        leaf.plan.range().is_none() || self.0.get(&leaf) == Some(&State::Standing)
    }

    /// Whether the leaf is fenced, detached or kept as retired.
    pub fn retiring(&self, leaf: Leaf) -> bool {
        matches!(self.0.get(&leaf), Some(State::Retiring | State::Retired))
    }

    /// The leaves of a table that stand, in key order.
    pub fn standing(&self, table: &str) -> Vec<Leaf> {
        let plan = plan(table);
        if plan.range().is_none() {
            return plan.hash_leaves().collect();
        }
        self.of(table, &[State::Standing])
    }

    /// The leaves of a table that are on their way out, or kept as retired.
    pub fn skipped(&self, table: &str) -> Vec<Leaf> {
        self.of(table, &[State::Retiring, State::Retired])
    }

    /// Those of them that are on their way.
    pub fn on_their_way(&self, table: &str) -> Vec<Leaf> {
        self.of(table, &[State::Retiring])
    }

    fn of(&self, table: &str, states: &[State]) -> Vec<Leaf> {
        let ours = self.0.iter().filter(|(leaf, state)| leaf.plan.table == table && states.contains(state));
        ours.map(|(leaf, _)| *leaf).collect()
    }
}

/// The ids that lie in a month; none of a leaf that is no month.
pub(super) fn ids_of(month: Leaf) -> Option<Range<i64>> {
    let first_id = |day| Day::from_date(day).first_id();
    Some(first_id(month.first_day()?)..first_id(month.end_day()?))
}
