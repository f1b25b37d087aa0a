//! Binary `COPY` into leaves: the bulk path of jobs.
//!
//! Rows are encoded here as PostgreSQL's binary format has them (a count of fields, then each field with its length;
//! protocol chapter 'COPY') and sent leaf by leaf. A field of the wrong type or out of place is refused by PostgreSQL, and
//! so is a row sent to a leaf that is not its own. The transaction is the caller's.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::partition::Leaf;

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// Microseconds from 1970 to 2000, where PostgreSQL's instants begin.
const EPOCH_MICROS: i64 = 946_684_800_000_000;
const NULL: i32 = -1;
const TRAILER: i16 = -1;
/// What comes after the last row of a binary `COPY`, for who sends what [`CopyRows::drain`] gives.
pub const TRAILER_BYTES: [u8; 2] = TRAILER.to_be_bytes();
/// Bytes of one message at most: the server reads one at a time.
const MESSAGE_BYTES_MAX: usize = 256 << 10;
/// Rows that are sent as they are made go in messages of about this size: half of what a socket holds.
const PIECE_BYTES: usize = 64 << 10;

/// Rows for one leaf. Each row is begun by [`CopyRows::row`], which takes its fields in the order of the columns.
pub struct CopyRows {
    columns: &'static [&'static str],
    encoded: Vec<u8>,
    rows: u64,
}

impl CopyRows {
    pub fn new(columns: &'static [&'static str]) -> Self {
        let mut encoded = Vec::with_capacity(8 << 10);
        encoded.extend_from_slice(SIGNATURE);
        encoded.extend_from_slice(&[0; 8]); // no flags, no extension of the header
        Self { columns, encoded, rows: 0 }
    }

    /// Begins a row.
    pub fn row(&mut self) -> CopyRow<'_> {
        self.rows += 1;
        let columns = i16::try_from(self.columns.len()).expect("a table has fewer columns than that");
        self.encoded.extend_from_slice(&columns.to_be_bytes());
        CopyRow { left: self.columns.len(), encoded: &mut self.encoded }
    }

    pub fn len(&self) -> u64 {
        self.rows
    }

    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The columns that rows have, in their order.
    pub fn columns(&self) -> &'static [&'static str] {
        self.columns
    }

    /// Bytes that [`Self::drain`] would give.
    pub fn bytes(&self) -> usize {
        self.encoded.len()
    }

    /// Takes out what was encoded since the last time, for who copies more than memory holds: the first begins with the
    /// header, and after the last come [`TRAILER_BYTES`].
    pub fn drain(&mut self) -> Vec<u8> {
        let capacity = self.encoded.capacity();
        std::mem::replace(&mut self.encoded, Vec::with_capacity(capacity))
    }

    /// Sends the rows to their leaf and gives how many PostgreSQL took.
    ///
    /// # Errors
    /// Those of the database: 23505 for a key that is taken, 23514 for a row of another leaf.
    pub async fn send(&self, conn: &mut PgConnection, leaf: Leaf) -> Result<u64, sqlx::Error> {
        self.send_to(conn, &leaf.to_string()).await
    }

    /// As [`Self::send`], to a table that is not partitioned. The name is a constant of the program.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn send_to(&self, conn: &mut PgConnection, table: &str) -> Result<u64, sqlx::Error> {
        let mut copy = conn.copy_in_raw(&self.statement(table)).await?;
        for message in self.encoded.chunks(MESSAGE_BYTES_MAX) {
            copy.send(message).await?;
        }
        copy.send(&TRAILER_BYTES[..]).await?;
        copy.finish().await
    }

    /// Names of leaves and columns are ours; COPY takes no parameters.
    fn statement(&self, table: &str) -> String {
        format!("copy {table} ({}) from stdin with (format binary)", self.columns.join(", "))
    }
}

/// Encodes rows and sends them to their leaf as it goes, so that PostgreSQL takes in the first while the next are made. Gives
/// how many it took.
///
/// # Errors
/// As [`CopyRows::send`].
pub async fn send_as_made<T>(
    conn: &mut PgConnection,
    leaf: Leaf,
    columns: &'static [&'static str],
    from: &[T],
    put: impl Fn(&mut CopyRows, &T),
) -> Result<u64, sqlx::Error> {
    let mut rows = CopyRows::new(columns);
    let mut copy = conn.copy_in_raw(&rows.statement(&leaf.to_string())).await?;
    for one in from {
        put(&mut rows, one);
        if rows.encoded.len() >= PIECE_BYTES {
            copy.send(rows.encoded.as_slice()).await?;
            rows.encoded.clear();
        }
    }
    rows.encoded.extend_from_slice(&TRAILER_BYTES);
    copy.send(rows.encoded.as_slice()).await?;
    copy.finish().await
}

/// One row under way.
pub struct CopyRow<'a> {
    left: usize,
    encoded: &'a mut Vec<u8>,
}

impl CopyRow<'_> {
    /// A field of a few bytes; with its length at once, since most fields are such.
    #[inline]
    fn number<const BYTES: usize>(&mut self, value: [u8; BYTES]) -> &mut Self {
        self.left = self.left.checked_sub(1).expect("a row has as many fields as columns");
        let mut field = [0; 4 + 16];
        field[..4].copy_from_slice(&(BYTES as i32).to_be_bytes());
        field[4..4 + BYTES].copy_from_slice(&value);
        self.encoded.extend_from_slice(&field[..4 + BYTES]);
        self
    }

    fn field(&mut self, bytes: &[u8]) -> &mut Self {
        let length = i32::try_from(bytes.len()).expect("a field is far smaller than 2 GiB");
        self.begin(length);
        self.encoded.extend_from_slice(bytes);
        self
    }

    fn begin(&mut self, length: i32) {
        self.left = self.left.checked_sub(1).expect("a row has as many fields as columns");
        self.encoded.extend_from_slice(&length.to_be_bytes());
    }

    pub fn null(&mut self) -> &mut Self {
        self.begin(NULL);
        self
    }

    pub fn i16(&mut self, value: i16) -> &mut Self {
        self.number(value.to_be_bytes())
    }

    pub fn i32(&mut self, value: i32) -> &mut Self {
        self.number(value.to_be_bytes())
    }

    pub fn i64(&mut self, value: i64) -> &mut Self {
        self.number(value.to_be_bytes())
    }

    pub fn bool(&mut self, value: bool) -> &mut Self {
        self.number([u8::from(value)])
    }

    pub fn uuid(&mut self, value: Uuid) -> &mut Self {
        self.number(*value.as_bytes())
    }

    /// Instants to the microsecond; what is finer is cut off, as sqlx does.
    pub fn instant(&mut self, value: DateTime<Utc>) -> &mut Self {
        self.i64(value.timestamp_micros() - EPOCH_MICROS)
    }

    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.field(value)
    }

    pub fn text(&mut self, value: &str) -> &mut Self {
        self.field(value.as_bytes())
    }

    /// A document for a `jsonb` column.
    pub fn jsonb(&mut self, json: &str) -> &mut Self {
        const VERSION: u8 = 1;
        let length = i32::try_from(json.len() + 1).expect("a field is far smaller than 2 GiB");
        self.begin(length);
        self.encoded.push(VERSION);
        self.encoded.extend_from_slice(json.as_bytes());
        self
    }

    /// A field that may be absent: `row.opt(name, |row, name| row.text(name))`.
    pub fn opt<T>(&mut self, value: Option<T>, put: impl FnOnce(&mut Self, T) -> &mut Self) -> &mut Self {
        match value {
            Some(value) => put(self, value),
            None => self.null(),
        }
    }
}

impl Drop for CopyRow<'_> {
    fn drop(&mut self) {
        debug_assert!(self.left == 0 || std::thread::panicking(), "{} fields of a row are missing", self.left);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt;

    use super::*;
    use crate::partition::testdb::{TestDb, execute, value};

    const COLUMNS: &[&str] = &["a", "b", "c", "d", "e", "f", "g", "h", "i"];

    fn rows() -> CopyRows {
        let mut rows = CopyRows::new(COLUMNS);
        let at = "2026-11-22T02:00:00.123456Z".parse().unwrap();
        rows.row()
            .i16(-1)
            .i32(i32::MIN)
            .i64(i64::MAX)
            .bool(true)
            .uuid(Uuid::from_u128(7))
            .instant(at)
            .bytes(b"\0\xff")
            .text("林")
            .jsonb(r#"{"a": "b"}"#);
        rows.row().null().null().null().null().null().null().null().null().null();
        let before = "1999-12-31T23:59:59.999999Z".parse().unwrap();
        rows.row()
            .opt(Some(2), |row, value| row.i16(value))
            .opt(None::<i32>, |row, value| row.i32(value))
            .i64(0)
            .bool(false)
            .uuid(Uuid::max())
            .instant(before)
            .bytes(b"")
            .text("")
            .jsonb("[]");
        rows
    }

    #[tokio::test]
    async fn postgresql_reads_what_it_would_have_written() {
        let db = TestDb::new().await;
        let mut conn = db.connect().await;
        let table = "create table t (n bigint generated always as identity, a smallint, b integer, c bigint, d boolean, \
                     e uuid, f timestamptz, g bytea, h text, i jsonb)";
        execute(&mut conn, table).await;
        let mut expected = rows().encoded;
        expected.extend_from_slice(&TRAILER.to_be_bytes());
        assert_eq!(rows().send_to(&mut conn, "t").await.unwrap(), 3);
        let statement = "copy (select a, b, c, d, e, f, g, h, i from t order by n) to stdout with (format binary)";
        let written: Vec<_> = conn.copy_out_raw(statement).await.unwrap().try_collect().await.unwrap();
        assert_eq!(written.concat(), expected);
        let first: String = value(&mut conn, "select t::text from t where n = 1").await;
        assert!(first.contains("2026-11-22 02:00:00.123456+00") && first.contains("林"), "{first}");
        // Nulls are nulls, and an empty text is none.
        let counts: i64 = value(&mut conn, "select count(a) * 100 + count(b) * 10 + count(h) from t").await;
        assert_eq!(counts, 212);
    }

    #[tokio::test]
    async fn rows_sent_as_they_are_made_are_all_there_or_refused_and_the_connection_goes_on() {
        const KEYS: u64 = 40_000;
        let db = TestDb::new().await;
        let mut conn = db.connect().await;
        let plan = crate::partition::plan("member_key");
        let right = plan.leaf_uuid(Uuid::from_u128(7));
        let keys: Vec<Uuid> =
            (0..KEYS as u128).map(Uuid::from_u128).filter(|key| plan.leaf_uuid(*key) == right).collect();
        let wrong = (0..).map(Uuid::from_u128).find(|key| plan.leaf_uuid(*key) != right).unwrap();
        let put = |rows: &mut CopyRows, key: &Uuid| {
            rows.row().i64(1).instant(DateTime::UNIX_EPOCH).uuid(*key).i16(1).i16(1);
        };
        // What is wrong comes last, when several pieces have gone.
        let twice: Vec<Uuid> = keys.iter().chain(&keys[..1]).copied().collect();
        let astray: Vec<Uuid> = keys.iter().chain([&wrong]).copied().collect();
        assert!(keys.len() * 54 > 2 * PIECE_BYTES, "{} rows are no three pieces", keys.len());
        for (keys, code) in [(&astray, Some("23514")), (&twice, Some("23505")), (&keys, None)] {
            let columns = &["member_id", "bound_at", "key", "key_version", "kind"];
            let outcome = send_as_made(&mut conn, right, columns, keys, put).await;
            match code {
                Some(code) => assert_eq!(crate::db::sqlstate(&outcome.unwrap_err()).as_deref(), Some(code)),
                None => assert_eq!(outcome.unwrap(), keys.len() as u64),
            }
        }
        assert_eq!(value::<i64>(&mut conn, "select count(*) from member_key").await, keys.len() as i64);
    }

    #[tokio::test]
    async fn a_row_of_another_leaf_is_refused_and_the_connection_goes_on() {
        let db = TestDb::new().await;
        let mut conn = db.connect().await;
        let right = crate::partition::plan("member_key").leaf_uuid(Uuid::from_u128(7));
        let wrong = crate::partition::plan("member_key").hash_leaves().find(|leaf| *leaf != right).unwrap();
        for (leaf, code) in [(wrong, Some("23514")), (right, None), (right, Some("23505"))] {
            let mut rows = CopyRows::new(&["member_id", "bound_at", "key", "key_version", "kind"]);
            rows.row().i64(1).instant(DateTime::UNIX_EPOCH).uuid(Uuid::from_u128(7)).i16(1).i16(1);
            let outcome = rows.send(&mut conn, leaf).await;
            assert_eq!(outcome.err().and_then(|error| crate::db::sqlstate(&error)).as_deref(), code);
        }
        assert_eq!(value::<i64>(&mut conn, "select count(*) from member_key").await, 1);
    }
}
