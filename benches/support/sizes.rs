//! What a row takes on disk, table and indexes apart.

use super::stage::Stage;

const TABLES: [&str; 10] = [
    "coupon",
    "coupon_receive",
    "coupon_index",
    "coupon_stock",
    "member",
    "member_key",
    "member_rule",
    "redemption",
    "request",
    "event",
];

/// Bytes a row of each table that has rows enough to tell, as a sentence.
pub fn told(stage: &Stage) -> String {
    let told = TABLES.into_iter().filter_map(|table| {
        let of_leaves = |what: &str| {
            let sql = format!(
                "select coalesce(sum({what}), 0)::bigint from pg_inherits i where i.inhparent = '{table}'::regclass"
            );
            stage.count(&sql)
        };
        let rows = stage.count(&format!("select count(*) from {table}"));
        // A page for each leaf says nothing.
        if rows < 10_000 {
            return None;
        }
        let (heap, indexes) = (of_leaves("pg_relation_size(i.inhrelid)"), of_leaves("pg_indexes_size(i.inhrelid)"));
        let a_row = |bytes: i64| bytes as f64 / rows as f64;
        Some(format!("{table} {:.0} + {:.0} of indexes ({rows} rows)", a_row(heap), a_row(indexes)))
    });
    format!("Bytes a row: {}.", told.collect::<Vec<_>>().join("; "))
}
