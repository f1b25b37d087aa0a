//! Two server processes on one database.

use super::{
    Server, TestDb,
    server::{Client, Keys},
};

/// The processes are killed when it is dropped.
pub struct Pair {
    pub db: TestDb,
    pub keys: Keys,
    pub a: Server,
    pub b: Server,
}

impl Pair {
    /// Both with the same variables of the environment besides the usual ones.
    pub async fn spawn(more: &[(&str, &str)]) -> Self {
        let db = TestDb::new().await;
        let keys = Keys::make(&db).await;
        let (a, b) = tokio::join!(Server::spawn(&db, &keys, more), Server::spawn(&db, &keys, more));
        Self { db, keys, a, b }
    }

    pub fn clients(&self) -> [&Client; 2] {
        [&self.a.client, &self.b.client]
    }
}
