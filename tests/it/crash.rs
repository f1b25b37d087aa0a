//! Crashes: the service or the database under it is killed in the middle of a stream of redemptions, or asked to stop.
//! Each server here runs a durable PostgreSQL of its own.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection, postgres::PgConnectOptions};
use tessera::{
    db::{
        embedded::{Reach, SUPERUSER},
        migrate::{DATABASE, role},
    },
    secret::{SecretFile, Secrets},
    verify::{self, VerifySettings},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::support::{
    scaled,
    server::{Client, Keys, Response, fresh_number, wait_until_ready},
};

const SOON: Duration = Duration::from_secs(60);
const TILLS: usize = 8;
/// Of one stream: more than are acknowledged when the blow falls, and few enough to look at each.
const CODES: usize = 120;

/// A directory with a database in it that outlives the servers on it.
struct Ground {
    dir: PathBuf,
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Ground {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // Not a private directory: as root, PostgreSQL runs as another user.
        let dir = std::env::temp_dir().join(format!("tessera-crash-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self { dir }
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn command(&self, more: &[(&str, &str)]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tessera"));
        command
            .args(["serve", "--demo", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(self.data())
            .env("TESSERA_SECRETS_FILE", self.dir.join("secrets.toml"))
            .env("TESSERA_RATE_PER_SECOND", "1000000")
            .env("TESSERA_RATE_BURST", "1000000")
            .env("TESSERA_LOG", "error")
            .env_remove("DATABASE_URL")
            .env_remove("TESSERA_OWNER_URL")
            .envs(more.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Starts a server and waits until it answers.
    async fn serve(&self, more: &[(&str, &str)]) -> Running {
        let mut child = self.command(more).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut base = String::new();
        let mut keys = Vec::new();
        while keys.len() < 4 {
            let line = lines.next_line().await.unwrap().expect("the server ended before it said where it is");
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["API:", at, ..] => base = at.to_owned(),
                [role, key] if key.starts_with("tsk_") => keys.push((role.to_owned(), key.to_owned())),
                _ => {}
            }
        }
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let key = |wanted: &str| keys.iter().find(|(role, _)| role == wanted).unwrap().1.clone();
        let keys = Keys { pos: key("pos"), marketing: key("marketing"), ops: key("ops"), admin: key("admin") };
        let client = Client::new(base, keys);
        wait_until_ready(&client).await;
        Running { client, child }
    }

    fn options(&self, role: &str) -> PgConnectOptions {
        Reach::of(&self.data()).unwrap().options(role, DATABASE)
    }

    async fn sql(&self) -> PgConnection {
        PgConnection::connect_with(&self.options(SUPERUSER)).await.unwrap()
    }

    async fn count(&self, sql: &str) -> i64 {
        let mut conn = self.sql().await;
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
            .fetch_one(&mut conn)
            .await
            .unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    fn postmaster(&self) -> u32 {
        let text = std::fs::read_to_string(self.data().join("pg/postmaster.pid")).unwrap();
        text.lines().next().unwrap().trim().parse().unwrap()
    }

    async fn assert_verified(&self) {
        use rand::{SeedableRng, rngs::StdRng};
        let file = SecretFile::load(&self.dir.join("secrets.toml")).unwrap();
        let secrets = Secrets::new(&file, StdRng::seed_from_u64(11));
        let report =
            verify::run(&VerifySettings::default(), self.options(role::SERVICE), secrets, |_| {}).await.unwrap();
        assert!(report.is_clean(), "{}", report.render());
    }
}

struct Running {
    client: Client,
    child: Child,
}

impl Running {
    fn signal(&self, signal: libc::c_int) {
        kill(self.child.id().expect("it was not waited for"), signal);
    }

    async fn ended(&mut self) -> ExitStatus {
        tokio::time::timeout(SOON, self.child.wait()).await.expect("the server did not end").unwrap()
    }
}

fn kill(pid: u32, signal: libc::c_int) {
    // SAFETY: kill takes plain numbers; a process that is gone gives an error.
    unsafe { libc::kill(pid as libc::pid_t, signal) };
}

fn children_of(parent: u32) -> Vec<u32> {
    let parent_line = format!("PPid:\t{parent}");
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/status"))
                .is_ok_and(|text| text.lines().any(|line| line == parent_line))
        })
        .collect()
}

/// One redemption that a till asked for: what it heard, if anything, in the end.
struct Asked {
    code: String,
    number: String,
    heard: Option<Response>,
}

/// Tills that redeem one coupon after the other until they have none or are told to stop.
struct Stream {
    asked: Arc<Mutex<Vec<Asked>>>,
    stop: Arc<AtomicBool>,
    tills: Vec<tokio::task::JoinHandle<()>>,
}

impl Stream {
    fn start(api: &Client, codes: &[String]) -> Self {
        let (asked, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let tills = codes
            .chunks(codes.len().div_ceil(TILLS))
            .map(|codes| {
                let (api, codes) = (api.clone(), codes.to_vec());
                let (asked, stop) = (Arc::clone(&asked), Arc::clone(&stop));
                tokio::spawn(async move {
                    for code in codes {
                        if stop.load(Ordering::SeqCst) {
                            return;
                        }
                        let number = fresh_number();
                        let heard = ask(&api, &code, &number).await.ok();
                        asked.lock().unwrap().push(Asked { code, number, heard });
                    }
                })
            })
            .collect();
        Self { asked, stop, tills }
    }

    fn acknowledged(&self) -> usize {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|one| one.heard.as_ref().is_some_and(|heard| heard.status == 200)).count()
    }

    /// Waits until so many were acknowledged.
    async fn reaches(&self, acknowledged: usize) {
        let started = Instant::now();
        while self.acknowledged() < acknowledged {
            assert!(started.elapsed() < SOON, "the stream stood at {}", self.acknowledged());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn end(self) -> Vec<Asked> {
        self.stop.store(true, Ordering::SeqCst);
        for till in self.tills {
            till.await.unwrap();
        }
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

async fn ask(api: &Client, code: &str, number: &str) -> Result<Response, reqwest::Error> {
    let body = json!({"store_id": "S0001", "order_ref": number, "amount": 8000});
    let request = api.raw(reqwest::Method::POST, &format!("/v1/coupons/{code}/redeem"));
    api.try_send(request.bearer_auth(&api.keys.pos).header("idempotency-key", number).json(&body)).await
}

/// Every acknowledged redemption is in the ledger, every other can be asked for and is whole or absent; a repetition
/// gives the same answer and no second effect. Gives how many were unknown.
async fn assert_whole(ground: &Ground, api: &Client, asked: &[Asked]) -> usize {
    let before = ledger(ground, asked).await;
    let mut unknown = Vec::new();
    for one in asked {
        let path = format!("/v1/requests/redeem/{}", one.number);
        let told = api.get(&path, &api.keys.pos).await;
        let id = before.get(&one.number);
        match &one.heard {
            Some(heard) if heard.status == 200 => {
                assert_eq!((told.status.as_u16(), &told.json["answer"]), (200, &heard.json), "an answer was lost");
                assert_eq!(Some(&heard.json["redemption_id"]), id, "the ledger lost it");
                continue;
            }
            Some(heard) => assert_eq!(heard.status, 503, "{}", heard.text),
            None => {}
        }
        match (told.status.as_u16(), id) {
            (200, Some(id)) => assert_eq!(told.json["answer"]["redemption_id"], *id),
            (404, None) => {
                let coupon = api.get(&format!("/v1/coupons/{}", one.code), &api.keys.pos).await.expect(200);
                assert_eq!(coupon.json["state"], json!("issued"), "half done");
            }
            other => panic!("{}: {other:?}", one.number),
        }
        unknown.push((one, ask(api, &one.code, &one.number).await.unwrap().expect(200)));
    }
    let after = ledger(ground, asked).await;
    for (one, again) in &unknown {
        assert_eq!(Some(&again.json["redemption_id"]), after.get(&one.number));
    }
    unknown.len()
}

/// The redemptions of orders, each with a coupon that says the same; of each order there is at most one.
async fn ledger(ground: &Ground, asked: &[Asked]) -> HashMap<String, Value> {
    let orders: Vec<&str> = asked.iter().map(|one| one.number.as_str()).collect();
    let mut conn = ground.sql().await;
    let rows: Vec<(String, i64, bool)> = sqlx::query_as(
        "select r.order_ref, r.redemption_id, c.state = 2 and c.uses = 1 and c.redemption_id = r.redemption_id \
         from redemption r join coupon c using (code_id) where r.order_ref = any($1)",
    )
    .bind(orders)
    .fetch_all(&mut conn)
    .await
    .unwrap();
    conn.close().await.unwrap();
    let mut found = HashMap::new();
    for (order_ref, id, whole) in rows {
        assert!(whole, "{order_ref}: the coupon does not say what the ledger says of {id}");
        let before = found.insert(order_ref, json!(id.to_string()));
        assert_eq!(before, None, "redeemed twice");
    }
    found
}

/// How far a stream has come when the blow falls.
fn blow_at(round: usize) -> usize {
    15 + round * 7 % 40
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_killed_in_a_stream_of_redemptions_loses_nothing_it_acknowledged() {
    let ground = Ground::new();
    let mut server = ground.serve(&[]).await;
    let rule = server.client.rule(json!({})).await;
    let (mut all, mut unknown) = (0, 0);
    for round in 0..scaled(5, 20) {
        let codes = server.client.issue(&rule, json!({"count": CODES})).await;
        let stream = Stream::start(&server.client, &codes);
        stream.reaches(blow_at(round)).await;
        server.child.kill().await.unwrap();
        let asked = stream.end().await;
        server = ground.serve(&[]).await;
        all += asked.len();
        unknown += assert_whole(&ground, &server.client, &asked).await;
    }
    assert!(unknown > 0, "of {all} none was under way when the service was killed: nothing was tested");
    assert_eq!(ground.count("select count(*) from redemption").await, all as i64);
    ground.assert_verified().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_killed_in_a_stream_of_redemptions_loses_nothing_that_was_acknowledged() {
    let ground = Ground::new();
    let server = ground.serve(&[]).await;
    let api = &server.client;
    let rule = api.rule(json!({})).await;
    let (mut all, mut unknown) = (0, 0);
    for round in 0..scaled(5, 20) {
        let mut codes = api.issue(&rule, json!({"count": CODES + 1})).await;
        let (probe, number) = (codes.pop().unwrap(), fresh_number());
        let stream = Stream::start(api, &codes);
        stream.reaches(blow_at(round)).await;
        let postmaster = ground.postmaster();
        let children = children_of(postmaster);
        kill(postmaster, libc::SIGKILL);
        children.into_iter().for_each(|pid| kill(pid, libc::SIGKILL));
        // The service itself starts it again; tills hear 503 meanwhile.
        let started = Instant::now();
        while !ask(api, &probe, &number).await.is_ok_and(|answer| answer.status == 200) {
            assert!(started.elapsed() < SOON, "the database did not come back");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let asked = stream.end().await;
        assert_ne!(ground.postmaster(), postmaster);
        all += asked.len() + 1;
        unknown += assert_whole(&ground, api, &asked).await;
    }
    assert!(unknown > 0, "of {all} none met the dead database: nothing was tested");
    assert_eq!(ground.count("select count(*) from redemption").await, all as i64);
    ground.assert_verified().await;
}

#[tokio::test]
async fn what_looks_at_a_database_of_our_own_makes_none() {
    let ground = Ground::new();
    let looks: [&[&str]; 6] =
        [&["verify"], &["prove"], &["partitions", "list"], &["keys", "list"], &["apikey", "list"], &["restored"]];
    for looking in looks {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tessera"));
        command.args(looking).arg("--data-dir").arg(ground.data());
        command.env_remove("DATABASE_URL").env_remove("TESSERA_OWNER_URL").env_remove("TESSERA_SECRETS_FILE");
        let output = command.output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("there is no database in"), "{looking:?}: {said}");
    }
    assert_eq!(std::fs::read_dir(&ground.dir).unwrap().count(), 0, "it made something");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_finishes_accepted_requests_and_stops_the_database_cleanly() {
    const ACCEPTED: usize = 12;
    let ground = Ground::new();
    // One writer a request, and patience with locks, so that accepted requests can be held and counted.
    let held = [
        ("TESSERA_LANE_WRITERS", "12"),
        ("TESSERA_WRITE_BATCH_MAX", "1"),
        ("TESSERA_LANE_LOCK_TIMEOUT", "20s"),
        ("TESSERA_LANE_STATEMENT_TIMEOUT", "20s"),
        ("TESSERA_BATCH_TIMEOUT", "20s"),
    ];
    let mut server = ground.serve(&held).await;
    let api = server.client.clone();
    let rule = api.rule(json!({})).await;
    let codes = api.issue(&rule, json!({"count": 200 + ACCEPTED})).await;
    let (accepted, streamed) = codes.split_at(ACCEPTED);

    // A second server has no business on this data.
    let mut second = ground.command(&[]).stderr(Stdio::piped()).spawn().unwrap();
    let said = tokio::time::timeout(SOON, async {
        let mut text = String::new();
        let mut lines = BufReader::new(second.stderr.take().unwrap()).lines();
        while let Some(line) = lines.next_line().await.unwrap() {
            text.push_str(&line);
        }
        text
    })
    .await
    .unwrap();
    assert!(!second.wait().await.unwrap().success() && said.contains("another Tessera"), "{said}");

    let stream = Stream::start(&api, streamed);
    stream.reaches(30).await;
    let mut asked = stream.end().await;
    assert!(asked.iter().all(|one| one.heard.as_ref().is_some_and(|heard| heard.status == 200)));
    let mut holder = ground.sql().await;
    sqlx::raw_sql("begin; lock table coupon in access exclusive mode").execute(&mut holder).await.unwrap();
    let tills: Vec<_> = accepted
        .iter()
        .map(|code| {
            let (api, code, number) = (api.clone(), code.clone(), fresh_number());
            tokio::spawn(async move {
                let heard = ask(&api, &code, &number).await.ok();
                Asked { code, number, heard }
            })
        })
        .collect();
    let started = Instant::now();
    while ground.count("select count(*) from pg_stat_activity where wait_event_type = 'Lock'").await < ACCEPTED as i64 {
        assert!(started.elapsed() < SOON, "the redemptions did not reach the database");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let programs = std::fs::read_link(format!("/proc/{}/exe", ground.postmaster())).unwrap();
    server.signal(libc::SIGTERM);
    // New callers are turned away while the accepted ones wait.
    while is_ready(&api).await {
        assert!(started.elapsed() < SOON, "the server goes on taking requests");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    holder.close().await.unwrap();
    for till in tills {
        let one = till.await.unwrap();
        let heard = one.heard.as_ref().expect("the connection of an accepted request was closed");
        assert_eq!(heard.status, 200, "{}", heard.text);
        asked.push(one);
    }
    let status = server.ended().await;
    assert!(status.success(), "{status}");
    assert_eq!(cluster_state(programs.parent().unwrap(), &ground.data().join("pg")), "shut down");

    let mut server = ground.serve(&[]).await;
    assert_eq!(assert_whole(&ground, &server.client, &asked).await, 0);
    assert_eq!(ground.count("select count(*) from redemption").await, asked.len() as i64);
    ground.assert_verified().await;
    server.signal(libc::SIGTERM);
    assert!(server.ended().await.success());
}

async fn is_ready(api: &Client) -> bool {
    let asked = api.try_send(api.raw(reqwest::Method::GET, "/readyz"));
    matches!(tokio::time::timeout(Duration::from_secs(1), asked).await, Ok(Ok(answer)) if answer.status == 200)
}

/// What pg_control says of a cluster that is down.
fn cluster_state(programs: &Path, pgdata: &Path) -> String {
    let out = std::process::Command::new(programs.join("pg_controldata"))
        .env("LC_ALL", "C")
        .arg("-D")
        .arg(pgdata)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("Database cluster state:"));
    line.unwrap_or_else(|| panic!("{text}")).trim().to_owned()
}
