//! The real command, as an operator types it.

use std::process::{Output, Stdio};

use tokio::process::Command;

use super::TestDb;

/// `tessera ARGS` on a test's database, to its end.
pub async fn tessera(db: &TestDb, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tessera"))
        .args(args)
        .env("DATABASE_URL", db.service_url())
        .env("TESSERA_OWNER_URL", db.owner_url())
        .env("TESSERA_SECRETS_FILE", db.secrets_path())
        .env("TESSERA_LOG", "warn")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap()
}

/// What a command said on both streams.
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}
