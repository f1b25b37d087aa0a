//! Members imported from a file by a job, durable, beside binary `COPY` of the same rows into the same leaves.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::TryStreamExt;
use sqlx::{AssertSqlSafe, Executor, PgConnection};
use tessera::{
    app::App,
    job::{
        Act, Kind, State,
        store::{self, NewJob, Uploaded},
        upload::Upload,
    },
    partition::plan,
};
use tokio::runtime::Runtime;

use crate::support::{Bench, Contender, Measure, Path, Reference, Round, compare, report::is_quick, stage::Stage};

const TABLES: [&str; 3] = ["member", "member_auth", "member_key"];
const COLUMNS: &str = "phone,email,card,name,gender,birthday,attr.note";
const POLL: Duration = Duration::from_millis(2);

/// A job over a file that was taken in before.
struct ByJob {
    app: Arc<App>,
    admin: PgConnection,
    made: usize,
}

impl ByJob {
    fn file(&mut self, rows: usize) -> String {
        let mut file = format!("{COLUMNS}\n");
        for n in self.made..self.made + rows {
            let birthday = format!("19{:02}-05-{:02}", 50 + n % 50, n % 28 + 1);
            file += &format!("138{n:08},m{n}@example.cn,C{n},Lin {n},{},{birthday},seen {n} times\n", n % 3);
        }
        self.made += rows;
        file
    }

    async fn upload(&mut self, rows: usize) -> tessera::id::JobId {
        let file = self.file(rows);
        let (app, now) = (&self.app, self.app.clock.now());
        let options = serde_json::json!({
            "columns": COLUMNS.split(',').collect::<Vec<_>>(), "header": true, "delimiter": ",", "encoding": "utf-8",
            "date_format": "ymd", "on_taken": "fail", "source": "import",
        });
        let new = NewJob {
            job_id: app.minter.mint_job().expect("an id"),
            kind: Kind::MemberImport,
            created_by: "key:bench".to_owned(),
            file_name: None,
            options: options.clone(),
        };
        let mut upload = Upload::begin(&app.office, &app.secrets, new, i64::MAX, now).await.expect("a job");
        upload.push(file.as_bytes(), now).await.expect("a file");
        let (_, digest) = upload.finish(now).await.expect("a file");
        let preview = serde_json::json!({});
        let uploaded = Uploaded { digest, numbers: Vec::new(), options, preview, state: State::Ready };
        upload.end(&uploaded, now).await.expect("a job that waits").0.job_id
    }

    async fn run(&mut self, rows: usize) -> Duration {
        // Both sides begin with empty leaves in each round.
        self.admin.execute("truncate member, member_auth, member_key cascade").await.expect("empty tables");
        self.admin.execute("checkpoint").await.expect("nothing to write");
        let job_id = self.upload(rows).await;
        let app = &self.app;
        let mut conn = app.office.get().await.expect("a connection");
        let began = Instant::now();
        store::update_state(&mut conn, Kind::MemberImport, job_id, Act::Start, app.clock.now()).await.expect("started");
        app.jobs.wake();
        loop {
            let job = store::get_job(&mut conn, Kind::MemberImport, job_id).await.expect("the job");
            if job.state.has_ended() {
                assert_eq!((job.state, job.rows_ok, job.rows_failed), (State::Done, rows as i64, 0), "{:?}", job.error);
                return began.elapsed();
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Contender for ByJob {
    fn name(&self) -> &str {
        "import job"
    }

    fn round(&mut self, runtime: &Runtime, calls: usize) -> Round {
        let took = runtime.block_on(self.run(calls));
        Round::whole(took)
    }
}

/// The rows of the last job, copied as they stand, leaf after leaf, a transaction for all.
struct ByCopy {
    conn: PgConnection,
}

fn leaves() -> impl Iterator<Item = String> {
    TABLES.into_iter().flat_map(|table| plan(table).hash_leaves()).map(|leaf| leaf.to_string())
}

impl ByCopy {
    async fn make(mut conn: PgConnection) -> Self {
        conn.execute("create schema if not exists copied").await.expect("a schema");
        for leaf in leaves() {
            let storage: String =
                sqlx::query_scalar("select array_to_string(reloptions, ', ') from pg_class where oid = $1::regclass")
                    .bind(&leaf)
                    .fetch_one(&mut conn)
                    .await
                    .expect("each leaf has a fill factor");
            let table = format!("create table copied.{leaf} (like public.{leaf} including all) with ({storage})");
            conn.execute(AssertSqlSafe(table)).await.expect("a table");
            if let Some(no) = leaf.strip_prefix("member_auth_h") {
                let key = format!(
                    "alter table copied.{leaf} add foreign key (member_id) references copied.member_h{no} (member_id)"
                );
                conn.execute(AssertSqlSafe(key)).await.expect("a foreign key");
            }
        }
        Self { conn }
    }

    async fn run(&mut self, rows: usize) -> Duration {
        let conn = &mut self.conn;
        let tables = leaves().map(|leaf| format!("copied.{leaf}")).collect::<Vec<_>>().join(", ");
        conn.execute(AssertSqlSafe(format!("truncate {tables}"))).await.expect("empty tables");
        let mut taken = Vec::new();
        for leaf in leaves() {
            let out = format!("copy public.{leaf} to stdout (format binary)");
            let bytes: Vec<_> = conn.copy_out_raw(&out).await.expect("rows").try_collect().await.expect("rows");
            taken.push((leaf, bytes.concat()));
        }
        conn.execute("checkpoint").await.expect("nothing to write");
        let (began, mut copied) = (Instant::now(), 0);
        conn.execute("begin").await.expect("a transaction");
        for (leaf, bytes) in taken {
            let into = format!("copy copied.{leaf} from stdin (format binary)");
            let mut copy = conn.copy_in_raw(&into).await.expect("a copy");
            for message in bytes.chunks(256 << 10) {
                copy.send(message).await.expect("rows are taken");
            }
            copied += copy.finish().await.expect("rows are taken");
        }
        conn.execute("commit").await.expect("a transaction");
        let took = began.elapsed();
        // A member, a card; a phone, an e-mail and a card as keys.
        assert_eq!(copied, rows as u64 * 5);
        took
    }
}

impl Contender for ByCopy {
    fn name(&self) -> &str {
        "binary COPY of the same rows, one connection"
    }

    fn round(&mut self, runtime: &Runtime, calls: usize) -> Round {
        let took = runtime.block_on(self.run(calls));
        Round::whole(took)
    }
}

pub fn run(bench: &mut Bench, stage: &'static Stage, app: &Arc<App>) {
    let mut by_copy = stage.runtime.block_on(ByCopy::make(stage.admin()));
    let mut by_job = ByJob { app: Arc::clone(app), admin: stage.admin(), made: 0 };
    let rows = if is_quick() { 2_000 } else { 10_000 };
    let path = Path { file: "member_import", path: "members imported by a job", tasks: 1, calls: rows };
    compare(bench, path, &mut by_job, &mut [Reference { side: &mut by_copy, measures: &[(Measure::Rate, "")] }]);
}
