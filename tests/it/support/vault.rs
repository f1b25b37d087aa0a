//! Databases with keys of their own, which change under servers that follow them.

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::Arc,
    time::Duration,
};

use rand::{SeedableRng, rngs::StdRng};
use serde_json::json;
use tempfile::TempDir;
use tessera::{
    secret::{
        SecretFile, Secrets, Source,
        columns::{ENCRYPTED, PIECES},
    },
    verify::{self, VerifySettings},
};
use tokio::process::{Child, Command};

use super::{
    Server, TestDb,
    command::said,
    server::{Client, Keys},
};

/// A database with a secret file of its own, and servers that follow it.
pub struct Vault {
    pub db: TestDb,
    pub keys: Keys,
    pub dir: TempDir,
}

impl Vault {
    pub async fn new() -> Self {
        let db = TestDb::new().await;
        let keys = Keys::make(&db).await;
        let dir = tempfile::tempdir().unwrap();
        SecretFile::create_new(&dir.path().join("secrets.toml"), &mut StdRng::seed_from_u64(21)).unwrap();
        Self { db, keys, dir }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("secrets.toml")
    }

    pub fn file(&self) -> SecretFile {
        SecretFile::load(&self.path()).unwrap()
    }

    pub fn secrets(&self) -> Arc<Secrets> {
        Arc::new(Secrets::new(&self.file(), StdRng::seed_from_u64(22)).of(Source::File(self.path())))
    }

    pub async fn server(&self, secrets: &Path) -> Server {
        let more = [("TESSERA_SECRETS_FILE", secrets.to_str().unwrap()), ("TESSERA_SECRETS_EVERY", "50ms")];
        Server::spawn(&self.db, &self.keys, &more).await
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tessera"));
        command
            .args(args)
            .env("DATABASE_URL", self.db.service_url())
            .env("TESSERA_SECRETS_FILE", self.path())
            .env("TESSERA_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    pub async fn keys(&self, args: &[&str]) -> Output {
        self.command(&[&["keys"], args].concat()).output().await.unwrap()
    }

    #[track_caller]
    pub fn done(output: &Output) -> String {
        assert!(output.status.success(), "{}", said(output));
        said(output)
    }

    #[track_caller]
    pub fn refused(output: &Output, why: &str) {
        assert_eq!(output.status.code(), Some(1), "{}", said(output));
        assert!(said(output).contains(why), "{}", said(output));
    }

    pub async fn is_clean(&self, secrets: &Arc<Secrets>) {
        let settings = VerifySettings { tables: vec!["member_key".to_owned()], ..VerifySettings::default() };
        let report = verify::run(&settings, self.db.service(), Arc::clone(secrets), |_| {}).await.unwrap();
        assert!(report.is_clean(), "{}", report.render());
    }

    /// Rows that hold a value of this key.
    pub async fn under_pii(&self, key: u8) -> i64 {
        let counts = ENCRYPTED.iter().map(|one| {
            let is: Vec<String> =
                one.columns.iter().map(|column| format!("coalesce(get_byte({column}, 0) = {key}, false)")).collect();
            format!("(select count(*) from {} where {})", one.table, is.join(" or "))
        });
        let (table, column) = PIECES;
        let pieces = format!("(select count(*) from {table} where get_byte({column}, 0) = {key})");
        self.db.count(&format!("select {}", counts.chain([pieces]).collect::<Vec<_>>().join(" + "))).await
    }

    pub async fn under_blind(&self, version: i16) -> i64 {
        self.db
            .count(&format!(
                "select (select count(*) from member_key where key_version = {version})
                      + (select count(*) from member_auth where key_version = {version})"
            ))
            .await
    }
}

/// A member as it was registered.
#[derive(Clone, Debug)]
pub struct Known {
    pub member_id: String,
    pub number: usize,
}

impl Known {
    pub fn looks(&self) -> [serde_json::Value; 4] {
        let n = self.number;
        [
            json!({"phone": phone(n)}),
            json!({"email": format!("rotating{n}@example.cn")}),
            json!({"username": format!("rotating{n}")}),
            json!({"external": web(n)}),
        ]
    }
}

/// Ids of this system begin at 1.
pub fn web(n: usize) -> String {
    format!("web:{}", n + 1)
}

pub fn phone(n: usize) -> String {
    format!("+86137{n:08}")
}

pub async fn register(client: &Client, number: usize) -> Known {
    let body = json!({"phone": phone(number), "email": format!("rotating{number}@example.cn"),
        "username": format!("rotating{number}"), "external": [web(number)], "name": "Lin",
        "birthday": "1990-05-01"});
    let made = client.post("/v1/members", &client.keys.pos, body).await.expect(201);
    Known { member_id: made.json["member_id"].as_str().unwrap().to_owned(), number }
}

pub async fn is_found(client: &Client, known: &Known) {
    for look in known.looks() {
        let found = client.post("/v1/members/lookup", &client.keys.pos, look).await.expect(200);
        assert_eq!(found.json["member_id"], known.member_id.as_str());
        assert_eq!(found.json["birthday"], "1990-**-**", "{}", found.text);
    }
}

pub fn spawn_rotation(vault: &Vault, kind: &str) -> Child {
    let args = ["keys", "rotate", kind, "--all", "--rows-per-second", "60", "--chunk-rows", "5"];
    vault.command(&args).spawn().unwrap()
}

pub async fn until(what: &str, is: impl AsyncFn() -> bool) {
    for _ in 0..6000 {
        if is().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{what} did not come");
}
