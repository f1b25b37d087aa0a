//! The SQL of members.

use std::collections::HashMap;

use super::{Kind, Standing, State};
use crate::{
    db::lane::{Tx, WriteError},
    id::MemberId,
    partition::{plan, query},
};

/// What decides over the coupons of these members. Those that do not exist are left out.
pub async fn standings(tx: &mut Tx<'_>, member_ids: Vec<MemberId>) -> Result<HashMap<MemberId, Standing>, WriteError> {
    let mut found = HashMap::with_capacity(member_ids.len());
    for (target, ids) in tx.targets(member_ids, |id| (plan("member").leaf_i64(id.get()), *id)) {
        let sql = tx.sql(query("member/standing"), target);
        let rows: Vec<(MemberId, i16, i16)> = sqlx::query_as(sql).bind(&ids).fetch_all(tx.conn()).await?;
        for (member_id, state, kind) in rows {
            let impossible = |column: &str| WriteError::Inconsistent(format!("member.{column} of {member_id}"));
            let state = State::from_number(state).ok_or_else(|| impossible("state"))?;
            let kind = Kind::from_number(kind).ok_or_else(|| impossible("kind"))?;
            found.insert(member_id, Standing { state, kind });
        }
    }
    Ok(found)
}
