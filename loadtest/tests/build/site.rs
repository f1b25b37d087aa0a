//! The command as an operator types it, and a server in this process on what it made.

use std::{
    net::TcpListener,
    process::{Output, Stdio},
    time::Duration,
};

use serde_json::Value;
use tessera::{
    clock::Clock,
    config::Settings,
    node::{self, NodeArgs},
    secret::Secrets,
};
use tokio::{process::Command, sync::oneshot, task::JoinHandle};

use crate::db::TestDb;

/// `loadtest ARGS` on a test's database.
pub fn command(db: &TestDb, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
    command
        .args(args)
        .env("DATABASE_URL", db.service_url())
        .env("TESSERA_OWNER_URL", db.owner_url())
        .env("TESSERA_SECRETS_FILE", db.secrets_path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    command
}

/// The same to its end.
pub async fn loadtest(db: &TestDb, args: &[&str]) -> Output {
    command(db, args).stdout(Stdio::piped()).stderr(Stdio::piped()).output().await.unwrap()
}

/// What a command said on both streams.
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

pub struct Site {
    http: reqwest::Client,
    base: String,
    pub secrets: Secrets,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

/// An answer as a test looks at it.
pub struct Response {
    status: u16,
    pub text: String,
    pub json: Value,
}

impl Response {
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }
}

impl Site {
    pub async fn open(db: &TestDb) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let args = NodeArgs {
            settings: Settings::default(),
            service: db.service(),
            owner: None,
            secrets: db.secrets(),
            clock: Clock::system(),
            holder: uuid::Uuid::from_u128(1),
        };
        let serving = tokio::spawn(async move {
            node::serve(args, listener, async {
                let _ = stopped.await;
            })
            .await
            .unwrap();
        });
        let http = reqwest::Client::builder().timeout(Duration::from_secs(30)).no_proxy().build().unwrap();
        let site = Self { http, base, secrets: db.secrets(), stop, serving };
        for _ in 0..4800 {
            let healthy = site.http.get(format!("{}/healthz", site.base)).send().await;
            if healthy.is_ok_and(|answer| answer.status().is_success()) {
                return site;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("the server did not become ready");
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Response {
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        Response { status, json: serde_json::from_str(&text).unwrap_or_default(), text }
    }

    pub fn url(&self) -> &str {
        &self.base
    }

    pub async fn get(&self, path: &str, key: &str) -> Response {
        self.send(self.http.get(format!("{}{path}", self.base)).bearer_auth(key)).await
    }

    pub async fn post(&self, path: &str, key: &str, body: Value) -> Response {
        self.send(self.http.post(format!("{}{path}", self.base)).bearer_auth(key).json(&body)).await
    }

    pub async fn post_numbered(&self, path: &str, key: &str, number: &str, body: Value) -> Response {
        let request = self.http.post(format!("{}{path}", self.base)).bearer_auth(key);
        self.send(request.header("idempotency-key", number).json(&body)).await
    }

    pub async fn close(self) {
        let _ = self.stop.send(());
        self.serving.await.unwrap();
    }
}
