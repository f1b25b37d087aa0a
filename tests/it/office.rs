//! The statements on office tables, which are compiled against `.sqlx`: it says what the schema says. And the office's
//! transactions, which may be dropped.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    task::Poll,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Executor, PgConnection, Row, SqlSafeStr};
use tessera::{
    db::{
        pool::{self, Office, OfficeSettings},
        tx,
    },
    partition::queries,
};

use crate::{
    lane::idle_in_transaction,
    support::{TestDb, scaled},
};

const REMEDY: &str = "run ./dev sqlx and commit .sqlx";

/// Text of a statement → what was learnt of it when the crate was compiled.
fn offline() -> BTreeMap<String, Value> {
    let files = fs::read_dir(".sqlx").unwrap().map(|file| fs::read_to_string(file.unwrap().path()).unwrap());
    files
        .map(|text| {
            let mut file: Value = serde_json::from_str(&text).unwrap();
            (file["query"].as_str().unwrap().to_owned(), file["describe"].take())
        })
        .collect()
}

#[test]
fn what_the_office_is_compiled_against_is_neither_missing_nor_left_over() {
    let office = queries().filter(|query| query.touches.is_empty());
    let files: BTreeMap<String, String> = office
        .map(|query| (fs::read_to_string(format!("sql/queries/{}.sql", query.name)).unwrap(), query.name.clone()))
        .collect();
    let offline: BTreeSet<String> = offline().into_keys().collect();
    let unused: Vec<&String> =
        files.iter().filter(|(text, _)| !offline.contains(*text)).map(|(_, name)| name).collect();
    assert!(unused.is_empty(), "no macro of the crate names {unused:?}: {REMEDY}, or delete the files");
    let stale: Vec<&String> = offline.iter().filter(|text| !files.contains_key(*text)).collect();
    assert!(stale.is_empty(), "of no file in sql/queries: {stale:#?}; {REMEDY}");
}

#[tokio::test]
async fn what_the_office_is_compiled_against_is_what_the_schema_says() {
    let mut conn = TestDb::new().await.sql().await;
    for (text, expected) in offline() {
        let described = conn.describe(AssertSqlSafe(text.clone()).into_sql_str()).await;
        let described = described.unwrap_or_else(|error| panic!("{error}\n{text}\n{REMEDY}"));
        assert_eq!(settled(serde_json::to_value(described).unwrap()), settled(expected), "{text}\n{REMEDY}");
    }
}

/// Without what the plan of the moment decides: whether a column behind an outer join may be null is guessed from it, so
/// the statement says it itself (`as "store_id?"`).
fn settled(mut described: Value) -> Value {
    let said: Vec<bool> = described["columns"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| column["name"].as_str().unwrap().contains(['?', '!']))
        .collect();
    for (nullable, said) in described["nullable"].as_array_mut().unwrap().iter_mut().zip(said) {
        if said {
            *nullable = Value::Null;
        }
    }
    described
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_the_office_dropped_halfway_is_not_handed_on() {
    let db = TestDb::new().await;
    // One connection: whoever comes next gets the one that was dropped.
    let office = Office::new(db.service(), &OfficeSettings { connections_max: 1, ..OfficeSettings::default() });
    let mut rng = StdRng::seed_from_u64(3);
    let mut dropped = 0;
    for _ in 0..scaled(100, 1000) {
        let body = tx::run(&office, "halfway", async |conn: &mut PgConnection| {
            for _ in 0..3 {
                sqlx::query("update id_block set next = next where name = 'event'").execute(&mut *conn).await?;
            }
            Ok::<_, HalfwayError>(())
        });
        // Dropped when it waits for the server for the so-manieth time: BEGIN, three statements and COMMIT, each of which
        // it waits for at least once.
        let mut waits = rng.random_range(0..7);
        dropped += {
            let mut body = std::pin::pin!(body);
            let ended = std::future::poll_fn(|cx| match body.as_mut().poll(cx) {
                Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
                Poll::Pending if waits == 0 => Poll::Ready(None),
                Poll::Pending => {
                    waits -= 1;
                    Poll::Pending
                }
            });
            usize::from(ended.await.is_none())
        };
        let mut conn = office.get().await.unwrap();
        // Sent as one simple query: alone, the time of a statement is the time of its transaction.
        let row = sqlx::raw_sql(
            "select now() = statement_timestamp() and pg_current_xact_id_if_assigned() is null, \
             (select count(*) from pg_locks where pid = pg_backend_pid() and mode = 'RowExclusiveLock')",
        )
        .fetch_one(&mut *conn)
        .await
        .unwrap();
        let (clean, held): (bool, i64) = (row.get(0), row.get(1));
        assert_eq!((clean, held), (true, 0));
    }
    assert!(dropped > 20, "only {dropped} transactions were dropped");
    assert_eq!(idle_in_transaction(&db).await, 0);
}

#[derive(Debug, thiserror::Error)]
enum HalfwayError {
    #[error("the office failed")]
    Office(#[from] pool::Error),
    #[error("a statement failed")]
    Sql(#[from] sqlx::Error),
}
