//! Against PostgreSQL: a literal must arrive as the parameter would have.

use chrono::{TimeDelta, TimeZone};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::*;
use crate::{
    db::lane::tx::rows_of,
    partition::testdb::{TestDb, execute, value},
};

type Row = (
    Option<i16>,
    Option<i32>,
    Option<i64>,
    Option<bool>,
    Option<String>,
    Option<Uuid>,
    Option<NaiveDate>,
    Option<DateTime<Utc>>,
);

const ECHO: &str = "select unnest($1::smallint[]) as a, unnest($2::integer[]) as b, unnest($3::bigint[]) as c, \
                    unnest($4::boolean[]) as d, unnest($5::text[]) as e, unnest($6::uuid[]) as f, \
                    unnest($7::date[]) as g, unnest($8::timestamptz[]) as h";

/// Letters that mean something to arrays, to literals, to messages or to nobody.
const LETTERS: [&str; 24] = [
    "'",
    "\"",
    "\\",
    "{",
    "}",
    ",",
    ";",
    "$1",
    "--",
    "/*",
    "NULL",
    "null",
    " ",
    "\n",
    "\t",
    "\r",
    "E'",
    "''",
    "\\'",
    "a",
    "药",
    "\u{1F48A}",
    "\u{202E}",
    "\u{7F}",
];

fn echo(rows: &[Row]) -> Statement {
    Statement::new(ECHO)
        .bind(rows.iter().map(|row| row.0).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.1).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.2).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.3).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.4.clone()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.5).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.6).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.7).collect::<Vec<_>>())
}

fn any_row(rng: &mut StdRng) -> Row {
    fn some<T>(rng: &mut StdRng, value: T) -> Option<T> {
        rng.random_bool(0.8).then_some(value)
    }
    let text: String = (0..rng.random_range(0..12)).map(|_| *LETTERS.choose(rng).expect("there are some")).collect();
    let at = Utc.timestamp_micros(rng.random_range(-4_000_000_000_000_000..9_000_000_000_000_000)).single();
    let day = NaiveDate::from_ymd_opt(1970, 1, 1).expect("a day") + TimeDelta::days(rng.random_range(-9000..40_000));
    let (a, b, c, d, f) = (rng.random(), rng.random(), rng.random(), rng.random(), Uuid::from_u128(rng.random()));
    (some(rng, a), some(rng, b), some(rng, c), some(rng, d), some(rng, text), some(rng, f), some(rng, day), at)
}

async fn together(
    conn: &mut PgConnection,
    names: &mut Names,
    statements: Vec<(Statement, Expected)>,
) -> Result<Vec<Vec<PgRow>>, WriteError> {
    Message { begin: None, statements }.send(conn, names, 8).await
}

#[tokio::test]
async fn a_literal_arrives_as_the_parameter_would() {
    let db = TestDb::new().await;
    let mut conn = db.connect().await;
    let mut rng = StdRng::seed_from_u64(20_261_122);
    let mut batches: Vec<Vec<Row>> = vec![
        Vec::new(),
        vec![(None, None, None, None, None, None, None, None)],
        vec![(
            Some(i16::MIN),
            Some(i32::MIN),
            Some(i64::MIN),
            Some(true),
            Some(String::new()),
            Some(Uuid::max()),
            None,
            None,
        )],
    ];
    batches.extend((0..200).map(|_| (0..rng.random_range(1..9)).map(|_| any_row(&mut rng)).collect()));
    let mut names = Names::default();
    for strings in ["on", "off"] {
        execute(&mut conn, &format!("set standard_conforming_strings = {strings}; set escape_string_warning = off"))
            .await;
        for rows in &batches {
            let literal = together(&mut conn, &mut names, vec![(echo(rows), Expected::Rows)]).await.unwrap().remove(0);
            let parameter = echo(rows).send(&mut conn, Expected::Rows).await.unwrap();
            assert_eq!(&rows_of::<Row>(&literal).unwrap(), rows);
            assert_eq!(&rows_of::<Row>(&parameter).unwrap(), rows);
        }
    }
}

#[tokio::test]
async fn a_text_that_would_end_the_message_is_not_sent() {
    let db = TestDb::new().await;
    let (mut conn, mut names) = (db.connect().await, Names::default());
    let statement = Statement::new("select unnest($1::text[])").bind(vec!["a\0b".to_owned()]);
    let error = together(&mut conn, &mut names, vec![(statement, Expected::Rows)]).await.unwrap_err();
    assert!(matches!(&error, WriteError::Inconsistent(what) if what.contains("U+0000")), "{error}");
    let statement = Statement::new("select unnest($1::text[])").bind(vec!["ab".to_owned()]);
    let rows = together(&mut conn, &mut names, vec![(statement, Expected::Rows)]).await.unwrap().remove(0);
    assert_eq!(rows_of::<(String,)>(&rows).unwrap(), [("ab".to_owned(),)]);
}

#[tokio::test]
async fn a_message_that_fails_leaves_the_connection_as_good_as_before() {
    let db = TestDb::new().await;
    let (mut conn, mut names) = (db.connect().await, Names::default());
    let double = || Statement::new("select 2 * unnest($1::bigint[])").bind(vec![21_i64]);
    let divide = |by: i64| Statement::new("select 42 / unnest($1::bigint[])").bind(vec![by]);
    execute(&mut conn, "begin").await;
    let error = together(&mut conn, &mut names, vec![(divide(0), Expected::Rows), (double(), Expected::Rows)]).await;
    assert!(error.unwrap_err().to_string().contains("a statement failed"));
    execute(&mut conn, "rollback").await;
    // Neither is prepared once more.
    for _ in 0..2 {
        let asked = vec![(divide(1), Expected::Rows), (double(), Expected::Rows)];
        for rows in together(&mut conn, &mut names, asked).await.unwrap() {
            assert_eq!(rows_of::<(i64,)>(&rows).unwrap(), [(42,)]);
        }
    }
    let named = "select count(*) from pg_prepared_statements where name like 'tessera%'";
    assert_eq!(value::<i64>(&mut conn, named).await, 2);
}

#[tokio::test]
async fn too_few_rows_are_told_after_the_whole_message_and_what_writes_return_is_no_answer() {
    let db = TestDb::new().await;
    let (mut conn, mut names) = (db.connect().await, Names::default());
    execute(&mut conn, "create temp table thing (no bigint)").await;
    let insert = || Statement::new("insert into thing select unnest($1::bigint[]) returning no").bind(vec![1_i64, 2]);
    let mut message = Message::beginning_with("begin");
    message.add(insert(), Expected::Written("thing", 3));
    message.add(insert(), Expected::Written("thing", 2));
    message.add(Statement::new("select unnest($1::bigint[])").bind(vec![7_i64]), Expected::Rows);
    let error = message.send(&mut conn, &mut names, 8).await.unwrap_err();
    assert_eq!(error.to_string(), "inconsistent: thing: 2 rows written where 3 were meant");
    assert_eq!(value::<i64>(&mut conn, "select count(*) from thing").await, 4);
    execute(&mut conn, "rollback").await;
    assert_eq!(value::<i64>(&mut conn, "select count(*) from thing").await, 0);
    // What a write returns is nobody's answer.
    message.add(insert(), Expected::Nothing);
    message.add(Statement::new("select unnest($1::bigint[])").bind(vec![7_i64]), Expected::Rows);
    let answers = message.send(&mut conn, &mut names, 8).await.unwrap();
    assert_eq!(answers.iter().map(|rows| rows_of::<(i64,)>(rows).unwrap()).collect::<Vec<_>>(), [[(7,)]]);
}

#[tokio::test]
async fn no_more_statements_stay_prepared_than_may() {
    let db = TestDb::new().await;
    let (mut conn, mut names) = (db.connect().await, Names::default());
    let texts: Vec<&'static str> =
        (0..20).map(|no| &*Box::leak(format!("select {no} + unnest($1::bigint[])").into_boxed_str())).collect();
    let ask = |text: &'static str| (Statement::new(text).bind(vec![1_i64]), Expected::Rows);
    // One message may need more than may stay.
    let (last, others) = texts.split_last().unwrap();
    let answers = together(&mut conn, &mut names, others.iter().map(|text| ask(text)).collect()).await.unwrap();
    assert_eq!(answers.len(), 19);
    for (no, text) in others.iter().enumerate() {
        let rows = together(&mut conn, &mut names, vec![ask(texts[0]), ask(text)]).await.unwrap().remove(1);
        assert_eq!(rows_of::<(i64,)>(&rows).unwrap(), [(no as i64 + 1,)]);
    }
    together(&mut conn, &mut names, vec![ask(last)]).await.unwrap();
    let named = "select count(*) from pg_prepared_statements where name like 'tessera%'";
    assert_eq!(value::<i64>(&mut conn, named).await, 8);
    let first = "select count(*) from pg_prepared_statements where statement like 'prepare%select 0 +%'";
    assert_eq!(value::<i64>(&mut conn, first).await, 1);
}
