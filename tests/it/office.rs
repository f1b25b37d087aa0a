//! The statements on office tables, which are compiled against `.sqlx`: it says what the schema says.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use serde_json::Value;
use sqlx::{AssertSqlSafe, Executor, SqlSafeStr};
use tessera::partition::queries;

use crate::support::TestDb;

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
