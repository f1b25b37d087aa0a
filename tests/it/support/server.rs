//! Servers to test: in this process with a clock of the test's own, or as processes of their own.

use std::{
    net::TcpListener,
    process::Stdio,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use rand::{SeedableRng, rngs::StdRng};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tessera::{
    chain::{
        NewStore, StoreId, StoreName,
        key::{KeyName, NewToken, Role, insert_key},
        store::insert_store,
    },
    clock::Clock,
    config::Settings,
    node::{self, NodeArgs},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::oneshot,
    task::JoinHandle,
};

use super::TestDb;

/// The API keys of a test: one for each role, and the till's store.
#[derive(Clone, Debug)]
pub struct Keys {
    pub pos: String,
    pub marketing: String,
    pub ops: String,
    pub admin: String,
}

impl Keys {
    /// Makes store S0001 and the keys.
    pub async fn make(db: &TestDb) -> Self {
        let mut conn = PgConnection::connect_with(&db.service()).await.unwrap();
        make_store(&mut conn, "S0001").await;
        let mut tokens = Vec::new();
        for (seed, role) in Role::ALL.iter().enumerate() {
            tokens.push(make_key(&mut conn, *role, (*role == Role::Pos).then_some("S0001"), seed as u64).await);
        }
        let [pos, marketing, ops, admin] = tokens.try_into().unwrap();
        Self { pos, marketing, ops, admin }
    }
}

pub async fn make_store(conn: &mut PgConnection, store_id: &str) {
    let name = StoreName::parse(format!("Store {store_id}")).unwrap();
    let new = NewStore::new(StoreId::parse(store_id).unwrap(), name);
    insert_store(conn, &new, Clock::system().now()).await.unwrap();
}

/// Makes a key and gives its token.
pub async fn make_key(conn: &mut PgConnection, role: Role, store_id: Option<&str>, seed: u64) -> String {
    let token = NewToken::mint(&mut StdRng::seed_from_u64(1000 + seed));
    let name = KeyName::parse(format!("test-{}-{seed}", role.name())).unwrap();
    let store_id = store_id.map(|store_id| StoreId::parse(store_id).unwrap());
    insert_key(conn, &name, role, store_id.as_ref(), &token, Clock::system().now()).await.unwrap();
    token.reveal()
}

/// A caller of one server.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    pub base: String,
    pub keys: Keys,
}

/// An answer as a test looks at it.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
    pub json: Value,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The error code of a problem, or "" for a success.
    pub fn code(&self) -> &str {
        if self.status.is_success() { "" } else { self.json["code"].as_str().unwrap_or("?") }
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        self
    }
}

impl Client {
    pub fn new(base: String, keys: Keys) -> Self {
        let http = reqwest::Client::builder().read_timeout(Duration::from_secs(120)).no_proxy().build().unwrap();
        Self { http, base, keys }
    }

    pub fn raw(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base))
    }

    pub async fn try_send(&self, request: reqwest::RequestBuilder) -> Result<Response, reqwest::Error> {
        let response = request.send().await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await?;
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        Ok(Response { status, headers, text, json })
    }

    pub async fn send(&self, request: reqwest::RequestBuilder) -> Response {
        self.try_send(request).await.unwrap()
    }

    pub async fn get(&self, path: &str, key: &str) -> Response {
        self.send(self.raw(Method::GET, path).bearer_auth(key)).await
    }

    pub async fn post(&self, path: &str, key: &str, body: Value) -> Response {
        self.send(self.raw(Method::POST, path).bearer_auth(key).json(&body)).await
    }

    /// With an `Idempotency-Key`.
    pub async fn post_numbered(&self, path: &str, key: &str, number: &str, body: Value) -> Response {
        self.send(self.raw(Method::POST, path).bearer_auth(key).header("idempotency-key", number).json(&body)).await
    }

    /// Registers a member with this phone and gives the id.
    pub async fn member(&self, phone: &str) -> String {
        let answer = self.post("/v1/members", &self.keys.pos, json!({"phone": phone})).await.expect(201);
        answer.json["member_id"].as_str().unwrap().to_owned()
    }

    /// Makes an active rule: 10 off 50, and what `more` says.
    pub async fn rule(&self, more: Value) -> String {
        let mut body = json!({
            "name": "10 off 50", "discount": {"type": "amount_off", "amount": 1000}, "currency": "CNY",
            "threshold": 5000, "validity": {"days_after_issue": 30}, "state": "active",
        });
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        let answer = self.post("/v1/coupon-rules", &self.keys.marketing, body).await.expect(201);
        answer.json["rule_id"].as_str().unwrap().to_owned()
    }

    /// Issues coupons and gives their codes.
    pub async fn issue(&self, rule_id: &str, body: Value) -> Vec<String> {
        let path = format!("/v1/coupon-rules/{rule_id}/coupons");
        let answer = self.post_numbered(&path, &self.keys.marketing, &fresh_number(), body).await.expect(201);
        let coupons = answer.json["coupons"].as_array().unwrap();
        coupons.iter().map(|coupon| coupon["code"].as_str().unwrap().to_owned()).collect()
    }

    /// Redeems at S0001 under a number of its own.
    pub async fn redeem(&self, code: &str) -> Response {
        let body = json!({"store_id": "S0001", "order_ref": fresh_number(), "amount": 8000});
        self.post_numbered(&format!("/v1/coupons/{code}/redeem"), &self.keys.pos, &fresh_number(), body).await
    }
}

/// A request number that nothing else in this run has.
pub fn fresh_number() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    format!("n-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// Settings for tests: no rate limits in the way.
pub fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.limits.rate_per_second = 1_000_000;
    settings.limits.rate_burst = 1_000_000;
    settings
}

/// A server in this process.
pub struct TestApp {
    pub client: Client,
    pub db: TestDb,
    pub clock: Clock,
    stop: Option<oneshot::Sender<()>>,
    serving: Option<JoinHandle<()>>,
}

impl TestApp {
    /// With a database of its own and the system's clock.
    pub async fn spawn() -> Self {
        let db = TestDb::new().await;
        let keys = Keys::make(&db).await;
        Self::on(&db, keys, settings(), Clock::system()).await
    }

    pub async fn on(db: &TestDb, keys: Keys, settings: Settings, clock: Clock) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let args = NodeArgs {
            settings,
            service: db.service(),
            owner: None,
            secrets: db.secrets(),
            clock: clock.clone(),
            holder: uuid::Uuid::new_v4(),
        };
        let serving = tokio::spawn(async move {
            node::serve(args, listener, async {
                let _ = stopped.await;
            })
            .await
            .unwrap();
        });
        let app =
            Self { client: Client::new(base, keys), db: db.clone(), clock, stop: Some(stop), serving: Some(serving) };
        wait_until_ready(&app.client).await;
        app
    }

    pub async fn stop(mut self) {
        drop(self.stop.take());
        self.serving.take().unwrap().await.unwrap();
    }
}

/// Waits for `/healthz`, on a machine that is busy with others for long.
pub async fn wait_until_ready(client: &Client) {
    for _ in 0..4800 {
        if let Ok(response) = client.try_send(client.raw(Method::GET, "/healthz")).await
            && response.status.is_success()
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("the server at {} did not become ready", client.base);
}

/// A server process; killed when it is dropped.
pub struct Server {
    pub client: Client,
    pub child: Child,
}

impl Server {
    /// `tessera serve` on a test's database, with more variables of the environment.
    pub async fn spawn(db: &TestDb, keys: &Keys, more: &[(&str, &str)]) -> Self {
        Self::spawn_with(db, keys, more, Stdio::inherit).await
    }

    /// As [`Server::spawn`], with another place for its log.
    pub async fn spawn_with(db: &TestDb, keys: &Keys, more: &[(&str, &str)], log: fn() -> Stdio) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tessera"));
        command
            .args(["serve", "--listen", "127.0.0.1:0"])
            .env("DATABASE_URL", db.service_url())
            .env("TESSERA_SECRETS_FILE", db.secrets_path())
            .env("TESSERA_RATE_PER_SECOND", "1000000")
            .env("TESSERA_RATE_BURST", "1000000")
            .env("TESSERA_LOG", "warn")
            .envs(more.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log())
            .kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let base = loop {
            let line = lines.next_line().await.unwrap().expect("the server ended before it said where it is");
            if let Some(base) = line.strip_prefix("API: ").and_then(|rest| rest.split_whitespace().next()) {
                break base.to_owned();
            }
        };
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let client = Client::new(base, keys.clone());
        wait_until_ready(&client).await;
        Self { client, child }
    }

    /// Asks it to stop in good order.
    pub fn terminate(&self) {
        let pid = i32::try_from(self.pid()).unwrap();
        // SAFETY: a signal to a child that was not waited for, so the number is its own.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
    }

    pub fn pid(&self) -> u32 {
        self.child.id().expect("it was not waited for")
    }
}
