//! The database: two manners of talking to it, and what is common to both.
//!
//! Partitioned tables that a till or a member waits for go through [`lane`]; unpartitioned ones, jobs and reports
//! through the office pool in [`pool`]. Only [`tx`] and the lane begin transactions.

pub mod embedded;
pub mod lane;
pub mod migrate;
pub mod pool;
pub mod tx;

/// The SQLSTATE of an error that the server reported.
pub fn sqlstate(error: &sqlx::Error) -> Option<String> {
    error.as_database_error().and_then(|error| error.code()).map(|code| code.into_owned())
}

/// Whether the connection is lost with this error, or was never there.
pub fn is_connection_error(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => true,
        // 57P01 to 57P03: the server is going down or coming up; it closes the connection.
        sqlx::Error::Database(error) => {
            error.code().is_some_and(|code| code.starts_with("08") || matches!(&*code, "57P01" | "57P02" | "57P03"))
        }
        _ => false,
    }
}

/// Whether the same transaction may succeed when it is run again, provided that COMMIT was not sent.
pub fn is_retryable(error: &sqlx::Error) -> bool {
    is_connection_error(error) || matches!(sqlstate(error).as_deref(), Some("40001" | "40P01"))
}
