//! The transaction of a batch, and where its statements go.

use std::ops::Range;

use sqlx::{FromRow, PgConnection, postgres::PgRow};

use super::{
    LaneSettings, WriteError,
    conn::LaneOpen,
    message::{Expected, Message, Names, Statement},
};
use crate::partition::{Leaf, Query};

/// Where a statement is sent: to a leaf by name, or to the parent for rows of many leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Leaf(Leaf),
    /// A leaf for one row of it.
    One(Leaf),
    /// With the number of leaves that the rows belong to.
    Parent(u32),
}

/// The open transaction of a batch. Counts its statements.
///
/// What needs no answer at once is put off and goes with the next that does, in one message (`lane::message`); so does
/// the beginning of the transaction. A job's rows are many: its statements are sent one by one.
pub struct Tx<'c> {
    conn: &'c mut PgConnection,
    together: Option<Together<'c>>,
    statements: u32,
    leaves: u32,
    leaves_max: usize,
    patient: bool,
    keeps_nothing: bool,
}

struct Together<'c> {
    waiting: Message,
    names: &'c mut Names,
    names_max: usize,
}

impl<'c> Tx<'c> {
    /// Over the open transaction of a job, whose rows are many: every leaf is addressed by itself.
    pub(crate) fn of_job(conn: &'c mut PgConnection) -> Self {
        Self {
            conn,
            together: None,
            statements: 0,
            leaves: 0,
            leaves_max: usize::MAX,
            patient: true,
            keeps_nothing: false,
        }
    }

    /// Over a connection of the lane, on which the transaction begins with the first statement.
    pub(super) fn of_lane(
        LaneOpen { conn, names }: &'c mut LaneOpen,
        begin: &'static str,
        settings: &LaneSettings,
        leaves_max: usize,
    ) -> Self {
        let waiting = Message::beginning_with(begin);
        let together = Some(Together { waiting, names, names_max: settings.statements_max });
        Self { conn, together, statements: 0, leaves: 0, leaves_max, patient: false, keeps_nothing: false }
    }

    /// From now on it waits for what somebody else holds.
    pub(super) fn be_patient(&mut self) {
        self.patient = true;
    }

    /// Whether it can be rolled back all the same.
    pub(super) fn keeps_nothing(&self) -> bool {
        self.keeps_nothing
    }

    /// Statements and leaves so far.
    pub(super) fn counts(&self) -> (u32, u32) {
        (self.statements, self.leaves)
    }

    /// Whether there is a transaction to end.
    pub(super) fn has_begun(&self) -> bool {
        self.together.as_ref().is_none_or(|together| together.waiting.has_begun())
    }
}

impl Tx<'_> {
    /// The text of a statement for its target; counts it.
    pub fn sql(&mut self, query: &'static Query, target: Target) -> &'static str {
        self.statements += 1;
        match target {
            Target::Leaf(leaf) => {
                self.leaves += 1;
                query.on(&[leaf])
            }
            Target::One(leaf) => {
                self.leaves += 1;
                query.for_one(&[leaf])
            }
            Target::Parent(leaves) => {
                self.leaves += leaves;
                query.parent()
            }
        }
    }

    /// The text of a statement on one leaf of each of several tables; counts it.
    pub fn sql_on(&mut self, query: &'static Query, leaves: &[Leaf]) -> &'static str {
        self.statements += 1;
        self.leaves += leaves.len() as u32;
        query.on(leaves)
    }

    /// Counts a statement on an unpartitioned table.
    pub fn plain(&mut self) {
        self.statements += 1;
    }

    /// A statement of the registry for its target, its parameters still to be bound; counts it.
    pub fn statement(&mut self, query: &'static Query, target: Target) -> Statement {
        Statement::new(self.sql(query, target))
    }

    /// Whether what somebody else holds is to be waited for, and not left out.
    pub fn is_patient(&self) -> bool {
        self.patient
    }

    /// Says that nothing was written, whatever was locked. The lane ends it without a commit, which would wait for the disk.
    pub fn keep_nothing(&mut self) {
        self.keeps_nothing = true;
    }

    /// A statement on no partitioned table, its parameters still to be bound; counts it.
    pub fn statement_on_none(&mut self, sql: &'static str) -> Statement {
        self.statements += 1;
        Statement::new(sql)
    }

    /// Writes rows, so many that it is known before. A job writes them at once, the lane with what is sent next.
    ///
    /// # Errors
    /// [`WriteError`], of a job's statement. What the lane puts off fails with what is sent next: who must tell such a
    /// failure apart calls [`Tx::flush`].
    pub async fn write(&mut self, table: &'static str, rows: usize, statement: Statement) -> Result<(), WriteError> {
        self.put(statement, Expected::Written(table, rows)).await
    }

    /// The same where nobody knows how many rows it will write.
    ///
    /// # Errors
    /// As [`Tx::write`].
    pub async fn write_some(&mut self, statement: Statement) -> Result<(), WriteError> {
        self.put(statement, Expected::Nothing).await
    }

    /// Inserts rows, so many, that nobody else is known to have; those that somebody has are left out.
    ///
    /// # Errors
    /// As [`Tx::write`]; [`WriteError::Again`] when some were left out.
    pub async fn write_new(&mut self, rows: usize, statement: Statement) -> Result<(), WriteError> {
        self.put(statement, Expected::New(rows)).await
    }

    async fn put(&mut self, statement: Statement, expected: Expected) -> Result<(), WriteError> {
        match &mut self.together {
            Some(together) => together.waiting.add(statement, expected),
            None => drop(statement.send(self.conn, expected).await?),
        }
        Ok(())
    }

    /// The rows that statements bring, all of one shape.
    ///
    /// # Errors
    /// [`WriteError`], of these or of what was put off before.
    pub async fn fetch<R>(&mut self, statements: Vec<Statement>) -> Result<Vec<R>, WriteError>
    where
        R: for<'r> FromRow<'r, PgRow>,
    {
        rows_of(self.ask(statements).await?.iter().flatten())
    }

    /// The rows of statements of three shapes, which are run one after the other, each seeing what was committed before
    /// it.
    ///
    /// # Errors
    /// As [`Tx::fetch`].
    pub async fn fetch_in_turn<A, B, C>(
        &mut self,
        first: Vec<Statement>,
        second: Vec<Statement>,
        third: Vec<Statement>,
    ) -> Result<(Vec<A>, Vec<B>, Vec<C>), WriteError>
    where
        A: for<'r> FromRow<'r, PgRow>,
        B: for<'r> FromRow<'r, PgRow>,
        C: for<'r> FromRow<'r, PgRow>,
    {
        let (firsts, seconds) = (first.len(), first.len() + second.len());
        let answers = self.ask(first.into_iter().chain(second).chain(third).collect()).await?;
        let rows = |range: Range<usize>| answers[range].iter().flatten();
        Ok((rows_of(rows(0..firsts))?, rows_of(rows(firsts..seconds))?, rows_of(rows(seconds..answers.len()))?))
    }

    /// The rows of each of several statements.
    async fn ask(&mut self, statements: Vec<Statement>) -> Result<Vec<Vec<PgRow>>, WriteError> {
        let Some(together) = &mut self.together else {
            let mut answers = Vec::with_capacity(statements.len());
            for statement in statements {
                answers.push(statement.send(self.conn, Expected::Rows).await?);
            }
            return Ok(answers);
        };
        if statements.is_empty() {
            return Ok(Vec::new());
        }
        for statement in statements {
            together.waiting.add(statement, Expected::Rows);
        }
        together.waiting.send(self.conn, together.names, together.names_max).await
    }

    /// Sends what was put off.
    ///
    /// # Errors
    /// [`WriteError`], of what was put off.
    pub async fn flush(&mut self) -> Result<(), WriteError> {
        if let Some(together) = self.together.as_mut().filter(|together| !together.waiting.is_empty()) {
            together.waiting.send(self.conn, together.names, together.names_max).await?;
        }
        Ok(())
    }

    /// The connection, for a statement by itself; what was put off is sent before.
    ///
    /// # Errors
    /// [`WriteError`], of what was put off.
    pub async fn conn(&mut self) -> Result<&mut PgConnection, WriteError> {
        self.flush().await?;
        Ok(self.conn)
    }

    /// Splits rows by leaf, in the order that keeps batches from deadlocking: leaf, then key. A few leaves are
    /// addressed one by one, many through the parent in the same order.
    pub fn targets<T, K: Ord>(&self, rows: Vec<T>, leaf_and_key: impl Fn(&T) -> (Leaf, K)) -> Vec<(Target, Vec<T>)> {
        split_by_leaf(rows, self.leaves_max, leaf_and_key)
    }
}

fn split_by_leaf<T, K: Ord>(
    mut rows: Vec<T>,
    leaves_max: usize,
    leaf_and_key: impl Fn(&T) -> (Leaf, K),
) -> Vec<(Target, Vec<T>)> {
    rows.sort_by_cached_key(&leaf_and_key);
    let mut groups: Vec<(Leaf, Vec<T>)> = Vec::new();
    for row in rows {
        let leaf = leaf_and_key(&row).0;
        match groups.last_mut() {
            Some((last, group)) if *last == leaf => group.push(row),
            _ => groups.push((leaf, vec![row])),
        }
    }
    if groups.len() > leaves_max {
        let leaves = groups.len() as u32;
        vec![(Target::Parent(leaves), groups.into_iter().flat_map(|(_, rows)| rows).collect())]
    } else {
        let target = |leaf, rows: &[T]| if rows.len() == 1 { Target::One(leaf) } else { Target::Leaf(leaf) };
        groups.into_iter().map(|(leaf, rows)| (target(leaf, &rows), rows)).collect()
    }
}

/// What rows say.
pub(super) fn rows_of<'a, R>(rows: impl IntoIterator<Item = &'a PgRow>) -> Result<Vec<R>, WriteError>
where
    R: for<'r> FromRow<'r, PgRow>,
{
    Ok(rows.into_iter().map(R::from_row).collect::<Result<_, _>>()?)
}

/// One column of an array statement.
pub fn column<T, V>(rows: &[T], value: impl Fn(&T) -> V) -> Vec<V> {
    rows.iter().map(value).collect()
}

/// Every write says how many rows it must reach.
pub fn expect_rows(table: &str, wanted: usize, reached: u64) -> Result<(), WriteError> {
    if wanted as u64 == reached {
        return Ok(());
    }
    Err(WriteError::Inconsistent(format!("{table}: {reached} rows written where {wanted} were meant")))
}
