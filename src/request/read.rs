//! The stored answer of a request number, read through the lane.

use std::collections::HashMap;

use chrono::NaiveDate;
use sqlx::PgConnection;
use uuid::Uuid;

use super::store::{Answer, FoundRow};
use crate::{
    db::lane::Read,
    partition::{Leaf, plan, query},
};

/// `request/find`.
pub struct FindAnswer;

impl Read for FindAnswer {
    type Key = (NaiveDate, Uuid);
    type Row = Answer;

    fn leaf(&self, key: &Self::Key) -> Leaf {
        plan("request").leaf_date(key.0)
    }

    async fn fetch(
        &self,
        conn: &mut PgConnection,
        leaf: Leaf,
        keys: &[Self::Key],
    ) -> Result<HashMap<Self::Key, Answer>, sqlx::Error> {
        let sql = query("request/find").on(&[leaf]);
        let rows: Vec<FoundRow> = sqlx::query_as(sql)
            .bind(keys.iter().map(|key| key.0).collect::<Vec<_>>())
            .bind(keys.iter().map(|key| key.1).collect::<Vec<_>>())
            .fetch_all(conn)
            .await?;
        // A row without an answer is a claim of an older version; it is not to be seen outside its transaction.
        Ok(rows
            .into_iter()
            .filter_map(|(day, key, _, status, body)| {
                let answer = Answer { status: status? as u16, body: body?.into(), replayed: true };
                Some(((day, key), answer))
            })
            .collect())
    }
}
