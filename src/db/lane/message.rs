//! Statements that go to the server together, in one message.
//!
//! sqlx sends a statement with its parameters and waits for the answer before it sends the next, and it does not
//! pipeline. What a redemption writes is ten statements that need not wait for each other. So the lane prepares them
//! under names of its own (`prepare`), once for a connection, and sends the `execute` of several in one message of the
//! simple protocol, with the parameters as literals. The server runs them in order and stops at the first that fails.

use std::collections::HashMap;
use std::fmt::Write;

use chrono::{DateTime, NaiveDate, SecondsFormat, Utc};
use futures_util::TryStreamExt;
use postgres_protocol::escape::escape_literal;
use sqlx::{
    AssertSqlSafe, Either, Executor, PgConnection, Postgres,
    postgres::{PgArguments, PgRow},
    query::Query,
};
use uuid::Uuid;

use super::{WriteError, expect_rows};

macro_rules! columns {
    ($($variant:ident($type:ty),)+) => {
        /// A parameter: one column of an array statement.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Column {
            $($variant(Vec<Option<$type>>),)+
        }

        $(
            impl From<Vec<$type>> for Column {
                fn from(values: Vec<$type>) -> Self {
                    Self::$variant(values.into_iter().map(Some).collect())
                }
            }

            impl From<Vec<Option<$type>>> for Column {
                fn from(values: Vec<Option<$type>>) -> Self {
                    Self::$variant(values)
                }
            }
        )+

        fn bind(query: Query<'static, Postgres, PgArguments>, column: Column) -> Query<'static, Postgres, PgArguments> {
            match column {
                $(Column::$variant(values) => query.bind(values),)+
            }
        }
    };
}

columns! {
    I16(i16),
    I32(i32),
    I64(i64),
    Bool(bool),
    Text(String),
    Uuid(Uuid),
    Date(NaiveDate),
    Instant(DateTime<Utc>),
}

impl Column {
    /// Appends the array as a literal.
    fn push_to(&self, text: &mut String) {
        match self {
            Self::I16(values) => push_plain(text, values, |text, value| write!(text, "{value}")),
            Self::I32(values) => push_plain(text, values, |text, value| write!(text, "{value}")),
            Self::I64(values) => push_plain(text, values, |text, value| write!(text, "{value}")),
            Self::Bool(values) => push_plain(text, values, |text, value| write!(text, "{value}")),
            Self::Uuid(values) => push_plain(text, values, |text, value| write!(text, "{value}")),
            Self::Date(values) => push_plain(text, values, |text, value| write!(text, "{value}")),
            Self::Instant(values) => push_plain(text, values, |text, value| {
                write!(text, "{}", value.to_rfc3339_opts(SecondsFormat::Micros, true))
            }),
            Self::Text(values) => {
                let mut array =
                    String::with_capacity(8 + values.iter().flatten().map(|text| text.len() + 3).sum::<usize>());
                push_elements(&mut array, values, |array, value| push_quoted(array, value));
                text.push_str(&escape_literal(&array));
            }
        }
    }
}

/// Of values whose text has nothing that an array or a literal would take for its own.
fn push_plain<T>(text: &mut String, values: &[Option<T>], one: impl Fn(&mut String, &T) -> std::fmt::Result) {
    text.push('\'');
    push_elements(text, values, |text, value| one(text, value).expect("a string takes every text"));
    text.push('\'');
}

fn push_elements<T>(text: &mut String, values: &[Option<T>], one: impl Fn(&mut String, &T)) {
    text.push('{');
    for (position, value) in values.iter().enumerate() {
        if position > 0 {
            text.push(',');
        }
        match value {
            Some(value) => one(text, value),
            None => text.push_str("NULL"),
        }
    }
    text.push('}');
}

fn push_quoted(array: &mut String, value: &str) {
    array.push('"');
    for character in value.chars() {
        if matches!(character, '"' | '\\') {
            array.push('\\');
        }
        array.push(character);
    }
    array.push('"');
}

/// A statement of the registry with its parameters, in order.
#[must_use = "a statement does nothing until it is sent"]
#[derive(Debug, Clone)]
pub struct Statement {
    sql: &'static str,
    columns: Vec<Column>,
}

impl Statement {
    pub(super) fn new(sql: &'static str) -> Self {
        Self { sql, columns: Vec::new() }
    }

    pub fn bind(mut self, column: impl Into<Column>) -> Self {
        self.columns.push(column.into());
        self
    }

    /// A text with U+0000 would end the message, and the server keeps no such text.
    fn check(&self) -> Result<(), WriteError> {
        let ends = |column: &Column| match column {
            Column::Text(values) => values.iter().flatten().any(|text| text.contains('\0')),
            _ => false,
        };
        if self.columns.iter().any(ends) {
            return Err(WriteError::Inconsistent("a text holds the character U+0000".to_owned()));
        }
        Ok(())
    }

    /// Appends the `execute` of what is prepared under a number.
    fn push_to(&self, text: &mut String, number: u64) {
        write!(text, "execute tessera_{number}(").expect("a string takes every text");
        for (position, column) in self.columns.iter().enumerate() {
            if position > 0 {
                text.push(',');
            }
            column.push_to(text);
        }
        text.push_str(");");
    }

    /// By itself, with its parameters as sqlx sends them.
    pub(super) async fn send(self, conn: &mut PgConnection, expected: Expected) -> Result<Vec<PgRow>, WriteError> {
        let query = self.columns.into_iter().fold(sqlx::query(self.sql), bind);
        if matches!(expected, Expected::Rows) {
            return Ok(query.fetch_all(conn).await?);
        }
        let done = query.execute(conn).await?;
        expected.check(done.rows_affected())?;
        Ok(Vec::new())
    }
}

/// What a statement must bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// Rows, which are given to who asked.
    Rows,
    /// That it writes so many rows of a table.
    Written(&'static str, usize),
    /// That it writes so many rows which nobody else has written meanwhile.
    New(usize),
    Nothing,
}

impl Expected {
    fn check(self, written: u64) -> Result<(), WriteError> {
        match self {
            Self::Written(table, wanted) => expect_rows(table, wanted, written),
            Self::New(wanted) if wanted as u64 != written => Err(WriteError::Again("rows were written meanwhile")),
            Self::New(_) | Self::Rows | Self::Nothing => Ok(()),
        }
    }
}

/// The statements that a connection has prepared, and the numbers in their names. A number is used once.
#[derive(Debug, Default)]
pub(super) struct Names {
    by_text: HashMap<Place, Name>,
    last: u64,
    messages: u64,
}

/// Where a text of the registry lies, which stays where it is: shorter to compare than the text.
type Place = (usize, usize);

#[derive(Debug)]
struct Name {
    number: u64,
    /// The message that used it last.
    used: u64,
}

impl Names {
    /// The number of a statement, which is prepared if it was not. Of those that this message does not use the one goes
    /// that was not used for the longest time, when there are as many as there may be.
    async fn number(&mut self, conn: &mut PgConnection, sql: &'static str, max: usize) -> Result<u64, sqlx::Error> {
        let place = (sql.as_ptr().addr(), sql.len());
        if let Some(name) = self.by_text.get_mut(&place) {
            name.used = self.messages;
            return Ok(name.number);
        }
        while self.by_text.len() >= max
            && let Some(oldest) = self.oldest()
            && let Some(Name { number, .. }) = self.by_text.remove(&oldest)
        {
            conn.execute(sqlx::raw_sql(AssertSqlSafe(format!("deallocate tessera_{number}")))).await?;
        }
        // By itself: the server keeps the whole message with each statement that it prepares.
        self.last += 1;
        conn.execute(sqlx::raw_sql(AssertSqlSafe(format!("prepare tessera_{} as {sql}", self.last)))).await?;
        self.by_text.insert(place, Name { number: self.last, used: self.messages });
        Ok(self.last)
    }

    fn oldest(&self) -> Option<Place> {
        let others = self.by_text.iter().filter(|(_, name)| name.used < self.messages);
        others.min_by_key(|(_, name)| name.used).map(|(place, _)| *place)
    }
}

/// What waits to be sent.
#[derive(Debug)]
pub(super) struct Message {
    /// How the transaction begins, until it has begun: statements with a semicolon between two.
    begin: Option<&'static str>,
    statements: Vec<(Statement, Expected)>,
}

impl Message {
    pub(super) fn beginning_with(begin: &'static str) -> Self {
        Self { begin: Some(begin), statements: Vec::new() }
    }

    /// Whether the transaction has begun, as far as this side knows. A statement that cannot be prepared for the first
    /// message leaves none behind.
    pub(super) fn has_begun(&self) -> bool {
        self.begin.is_none()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.begin.is_none() && self.statements.is_empty()
    }

    pub(super) fn add(&mut self, statement: Statement, expected: Expected) {
        self.statements.push((statement, expected));
    }

    /// Sends what waits, and gives the rows of those that bring some. After an error the transaction can only be rolled
    /// back.
    pub(super) async fn send(
        &mut self,
        conn: &mut PgConnection,
        names: &mut Names,
        names_max: usize,
    ) -> Result<Vec<Vec<PgRow>>, WriteError> {
        if let (Some(begin), true) = (self.begin, self.statements.is_empty()) {
            self.begin = None;
            sqlx::raw_sql(begin).execute(conn).await?;
            return Ok(Vec::new());
        }
        let mut numbers = Vec::with_capacity(self.statements.len());
        names.messages += 1;
        for (statement, _) in &self.statements {
            statement.check()?;
            numbers.push(names.number(conn, statement.sql, names_max).await?);
        }
        let mut text = String::with_capacity(256 * numbers.len());
        let mut expected = Vec::with_capacity(numbers.len() + 1);
        if let Some(begin) = self.begin.take() {
            text.extend([begin, ";"]);
            expected.extend(begin.split(';').map(|_| Expected::Nothing));
        }
        for ((statement, wanted), number) in self.statements.drain(..).zip(numbers) {
            statement.push_to(&mut text, number);
            expected.push(wanted);
        }
        run(conn, text, expected).await
    }
}

async fn run(conn: &mut PgConnection, text: String, expected: Vec<Expected>) -> Result<Vec<Vec<PgRow>>, WriteError> {
    let (mut answers, mut rows, mut checked) = (Vec::new(), Vec::new(), Ok(()));
    let mut expected = expected.into_iter();
    let mut parts = conn.fetch_many(sqlx::raw_sql(AssertSqlSafe(text)));
    while let Some(part) = parts.try_next().await? {
        match part {
            Either::Right(row) => rows.push(row),
            Either::Left(done) => match expected.next() {
                Some(Expected::Rows) => answers.push(std::mem::take(&mut rows)),
                // To the end of the message even so: the connection is used again.
                Some(expected) => {
                    rows.clear();
                    checked = checked.and(expected.check(done.rows_affected()));
                }
                None => checked = Err(WriteError::Inconsistent("a message has too many results".to_owned())),
            },
        }
    }
    match (checked, expected.next()) {
        (Ok(()), None) => Ok(answers),
        (Ok(()), Some(_)) => Err(WriteError::Inconsistent("a message has too few results".to_owned())),
        (Err(error), _) => Err(error),
    }
}

#[cfg(test)]
mod tests;
