//! `GET` over HTTP, 64 connections that are kept: a member out of the cache, beside a bare handler that answers the same
//! bytes; and a coupon out of the database, beside a bare handler that asks one flat table through a pipelined driver.

use std::{collections::HashMap, sync::Arc};

use actix_web::{
    HttpResponse,
    http::header,
    web::{self, Bytes, Data, Path as At},
};
use chrono::{DateTime, Utc};
use tessera::{db::embedded::SUPERUSER, id::CodeId};

use crate::{
    lane_read::statement,
    support::{
        Bench, Measure, Path, Reference, best, compare,
        http::{OverHttp, body_of, client_runtime, drawn, get, serve_bare},
        report::is_quick,
        stage::{Stage, settings},
    },
};

const FILE: &str = "http_get";
const TASKS: usize = 64;
/// As many as a chain sees in some minutes; all of them fit into the cache.
const MEMBERS: i64 = 10_000;
const COUPONS: i64 = 50_000;

pub fn run(bench: &mut Bench, stage: &'static Stage) {
    let place = stage.serve(settings());
    let (token, runtime) = (stage.token(), client_runtime());
    cached(bench, stage, place, &token, runtime);
    uncached(bench, stage, place, &token, runtime);
}

type Runtime = &'static tokio::runtime::Runtime;

/// What a bare handler answers with.
type Answers = HashMap<String, Bytes>;

async fn bare(answers: Data<Answers>, key: At<String>) -> HttpResponse {
    match answers.get(&*key) {
        Some(body) => HttpResponse::Ok().insert_header((header::CONTENT_TYPE, "application/json")).body(body.clone()),
        None => HttpResponse::NotFound().finish(),
    }
}

fn cached(bench: &mut Bench, stage: &'static Stage, place: std::net::SocketAddr, token: &str, runtime: Runtime) {
    let members = if is_quick() { 500 } else { MEMBERS }.min(stage.members());
    let paths: Vec<String> = (1..=members).map(|m| format!("/v1/members/{}", stage.member(m))).collect();
    let requests: Arc<Vec<Vec<u8>>> = Arc::new(paths.iter().map(|path| get(path, token)).collect());
    // Each is asked for once, so that it is in memory, and for what the bare server is to say.
    let mut answers = Answers::new();
    let asked: Vec<_> = paths.iter().cloned().zip(requests.iter().cloned()).collect();
    for piece in asked.chunks(256) {
        let bodies = piece.iter().map(|(path, request)| async move { (path, body_of(place, request.clone()).await) });
        for (path, body) in runtime.block_on(futures_util::future::join_all(bodies)) {
            let key = path.rsplit('/').next().expect("it has parts");
            answers.insert(key.to_owned(), Bytes::from(body));
        }
    }
    let answers = Data::new(answers);
    let bare_place = serve_bare(move |config| {
        config.app_data(answers.clone()).route("/v1/members/{id}", web::get().to(bare));
    });
    let mut ours = OverHttp::new("service", runtime, place, drawn(&requests, TASKS));
    let mut theirs = OverHttp::new("bare actix-web, the same bytes", runtime, bare_place, drawn(&requests, TASKS));
    let calls = if is_quick() { 2_000 } else { 60_000 };
    let path = Path { file: FILE, path: "cached GET of a member over HTTP", tasks: TASKS, calls };
    let measures = &[(Measure::Rate, "get cached"), (Measure::PerCpu, "")];
    compare(bench, path, &mut ours, &mut [Reference { side: &mut theirs, measures }]);
}

/// A coupon as one table tells it, which is less than the service says.
#[derive(serde::Serialize)]
struct Told<'a> {
    code: &'a str,
    rule_id: String,
    rule_version: i32,
    state: &'static str,
    member_id: Option<String>,
    uses: i16,
    valid_from: DateTime<Utc>,
    valid_until: DateTime<Utc>,
    issued_at: DateTime<Utc>,
}

struct Driver {
    client: tokio_postgres::Client,
    find: tokio_postgres::Statement,
}

struct Codes(tessera::secret::Secrets);

/// The driver sends what comes while it waits down the same connection.
async fn ask_flat(drivers: Data<Vec<Driver>>, codes: Data<Codes>, code: At<String>) -> HttpResponse {
    let code_id: CodeId = codes.0.codes().parse(&code).expect("a code of ours");
    let driver = &drivers[code_id.get() as usize % drivers.len()];
    let row = driver.client.query_one(&driver.find, &[&code_id.get()]).await.expect("a row");
    let told = Told {
        code: &code,
        rule_id: row.get::<_, i64>(1).to_string(),
        issued_at: row.get(2),
        valid_from: row.get(3),
        valid_until: row.get(4),
        member_id: row.get::<_, Option<i64>>(5).map(|id| id.to_string()),
        rule_version: row.get("rule_version"),
        state: if row.get::<_, i16>("state") == 1 { "issued" } else { "redeemed" },
        uses: row.get("uses"),
    };
    HttpResponse::Ok().json(told)
}

async fn drivers(stage: &'static Stage, count: usize) -> Vec<Driver> {
    let sql = statement("from flat.coupon ");
    let mut drivers = Vec::new();
    for _ in 0..count {
        let mut config: tokio_postgres::Config = stage.url(SUPERUSER).parse().expect("it is a database's URL");
        let settings = Stage::settings().map(|(name, value)| format!("-c {name}={value}")).join(" ");
        let (client, connection) =
            config.options(&settings).connect(tokio_postgres::NoTls).await.expect("a connection");
        tokio::spawn(connection);
        let find = client.prepare(sql).await.expect("a statement");
        drivers.push(Driver { client, find });
    }
    drivers
}

fn uncached(bench: &mut Bench, stage: &'static Stage, place: std::net::SocketAddr, token: &str, runtime: Runtime) {
    let codes = stage.secrets().codes();
    // Where the flat tables hold other rows than the partitions, each is asked for its own.
    let requests = |rows: i64, code_id: &dyn Fn(i64) -> CodeId| {
        let step = (rows / COUPONS).max(1) as usize;
        let each = (1..=rows).step_by(step);
        Arc::new(each.map(|i| get(&format!("/v1/coupons/{}", codes.format(code_id(i))), token)).collect::<Vec<_>>())
    };
    let flat_requests = requests(stage.flat_rows, &|i| stage.flat_coupon(i).0);
    let requests = requests(stage.rows, &|i| stage.coupon(i).0);
    let mut ours = OverHttp::new("service", runtime, place, drawn(&requests, TASKS));
    let codes = Data::new(Codes(stage.secrets()));
    let calls = if is_quick() { 1_000 } else { 20_000 };
    // Connections in all, of which each is shared by all workers.
    let counts: &[usize] = if is_quick() { &[4] } else { &[2, 4, 8] };
    let sides = counts.iter().map(|&count| {
        let drivers = Data::new(stage.runtime.block_on(drivers(stage, count)));
        let codes = codes.clone();
        let place = serve_bare(move |config| {
            config.app_data(drivers.clone()).app_data(codes.clone());
            config.route("/v1/coupons/{code}", web::get().to(ask_flat));
        });
        let name = format!("bare actix-web, tokio-postgres, flat, {count} connections");
        OverHttp::new(&name, runtime, place, drawn(&flat_requests, TASKS))
    });
    let mut theirs = best(stage.runtime, calls, sides.collect());
    let path = Path { file: FILE, path: "uncached GET of a coupon over HTTP", tasks: TASKS, calls };
    let measures = &[(Measure::Rate, "get uncached"), (Measure::PerCpu, "")];
    compare(bench, path, &mut ours, &mut [Reference { side: &mut theirs, measures }]);
}
