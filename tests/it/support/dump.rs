//! The whole of a database as text.

use std::process::Stdio;

use tokio::process::Command;

use super::TestDb;

/// What `pg_dump` writes of a test's database: every row of every table.
pub async fn dump(db: &TestDb) -> String {
    let output = Command::new(db.pg_bin().join("pg_dump"))
        .arg("--dbname")
        .arg(db.superuser_url())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
