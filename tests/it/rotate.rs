//! Keys change under two server processes that serve, until the old ones are gone; nothing is lost and nothing is left.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::future::join_all;
use rand::{SeedableRng, rngs::StdRng};
use reqwest::Method;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tessera::{
    clock::Clock,
    partition::{proof, queries},
    secret::{SecretFile, Secrets},
};

use crate::support::{
    scaled,
    server::Client,
    vault::{Known, Vault, is_found, phone, register, until},
};

/// Registers, looks up on the other server, patches and is refused, until told to stop.
async fn work(clients: [&Client; 2], worker: usize, stop: &AtomicBool, numbers: &AtomicUsize) -> Vec<Known> {
    let mut known = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let (here, there) = (clients[worker % 2], clients[(worker + 1) % 2]);
        let one = register(here, numbers.fetch_add(1, Ordering::Relaxed)).await;
        is_found(there, &one).await;
        let patch = there.raw(Method::PATCH, &format!("/v1/members/{}", one.member_id)).bearer_auth(&there.keys.ops);
        let patch = patch.header("if-match", "*").json(&json!({"name": "Wang", "birthday": "1990-06-02"}));
        there.send(patch).await.expect(200);
        let again = json!({"phone": phone(one.number)});
        let taken = there.post("/v1/members", &there.keys.pos, again).await.expect(409);
        assert_eq!(taken.json["member_id"], one.member_id.as_str());
        known.push(one);
    }
    known
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_rotate_under_two_servers_that_serve_until_the_old_ones_are_gone() {
    let vault = Vault::new().await;
    let path = vault.path();
    let (a, b) = tokio::join!(vault.server(&path), vault.server(&path));
    let mut known = Vec::new();
    for number in 0..scaled(60, 2_000) {
        known.push(register(&a.client, number).await);
    }
    let secrets = vault.secrets();
    for one in &known {
        has_belongings(&vault, &secrets, one.member_id.parse().unwrap()).await;
    }
    let before = Traces::of(&vault).await;
    let moved = "insert into event (event_id, created_at, subject, kind)
        select ((current_date - date '2000-01-01')::bigint << 41) + (1::bigint << 40), now(), 424242, 3";
    vault.db.sql().await.execute(moved).await.unwrap();

    let (stop, numbers) = (AtomicBool::new(false), AtomicUsize::new(known.len()));
    let clients = [&a.client, &b.client];
    let workers = join_all((0..8).map(|worker| work(clients, worker, &stop, &numbers)));
    let comparing = async {
        let mut times = 0;
        while !stop.load(Ordering::Relaxed) {
            vault.is_clean(&secrets).await;
            times += 1;
        }
        times
    };
    let rotating = async {
        let output = vault.keys(&["rotate", "--all", "--rows-per-second", "0", "--chunk-rows", "25"]).await;
        stop.store(true, Ordering::Relaxed);
        output
    };
    let (new, compared, rotated) = tokio::join!(workers, comparing, rotating);
    Vault::done(&rotated);
    assert!(compared > 1, "{compared} comparisons while the keys changed");
    let new = new.concat();
    assert!(new.len() > 20, "{} members came while the keys changed", new.len());
    known.extend(new);

    assert_eq!(vault.file().pii().map(|(id, _)| id).collect::<Vec<_>>(), [2]);
    assert_eq!(vault.file().blind().map(|(version, _)| version).collect::<Vec<_>>(), [2]);
    assert_eq!((vault.under_pii(1).await, vault.under_blind(1).await), (0, 0));
    let identifiers = 4 * known.len() as i64;
    assert_eq!(vault.db.count("select count(*) from member_key where key_version = 2").await, identifiers);
    assert_eq!(vault.db.count("select count(*) from key_walk").await, 0);
    assert_eq!(vault.db.count("select count(*) from event where kind = 3 and subject <> 0").await, 0);
    vault.is_clean(&vault.secrets()).await;
    before.are_gone(&vault).await;

    belongings_are_read(&vault, &known[..scaled(60, 2_000)]).await;
    // The nodes that followed, and one that has never seen the old keys.
    let fresh = vault.server(&path).await;
    for one in &known {
        is_found(&fresh.client, one).await;
    }
    for one in known.iter().step_by(7) {
        is_found(&a.client, one).await;
        is_found(&b.client, one).await;
    }
    let mut service = PgConnection::connect_with(&vault.db.service()).await.unwrap();
    let of_members = queries().filter(|query| query.name.starts_with("rotate/") || query.name.starts_with("member"));
    let of_members = of_members.filter(|query| !query.name.starts_with("member_rule/"));
    let report = proof::run(&mut service, of_members, |_| {}).await.unwrap();
    assert!(report.ok(), "{}", report.render());
}

/// A column of each table of the family, and the row around it.
const BELONGINGS: [(&str, &str, &str); 4] = [
    (
        "member_address",
        "receiver",
        "(member_id, address_id, created_at, updated_at, receiver, detail)
        values ($1, 1, now(), now(), $2, $3)",
    ),
    (
        "member_device",
        "device_id",
        "(member_id, device_no, created_at, seen_at, device_id)
        values ($1, 1, now(), now(), $2)",
    ),
    ("member_location", "coordinates", "(member_id, updated_at, coordinates) values ($1, now(), $2)"),
    ("member_profile_mall", "id_card", "(member_id, created_at, updated_at, id_card) values ($1, now(), now(), $2)"),
];

/// Gives a member a row in each table of the family.
async fn has_belongings(vault: &Vault, secrets: &Secrets, member_id: i64) {
    let mut conn = vault.db.sql().await;
    for (table, column, row) in BELONGINGS {
        let sealed = secrets.encrypt(table, column, member_id, &format!("{column} {member_id}"));
        let detail = secrets.encrypt("member_address", "detail", member_id, "Long Street 1");
        let insert = format!("insert into {table} {row}");
        let insert = sqlx::query(AssertSqlSafe(insert)).bind(member_id).bind(sealed);
        let insert = if row.contains("$3") { insert.bind(detail) } else { insert };
        insert.execute(&mut conn).await.unwrap();
    }
}

/// Each reads back under the new key as it was.
async fn belongings_are_read(vault: &Vault, known: &[Known]) {
    let secrets = vault.secrets();
    let mut sql_conn = vault.db.sql().await;
    for one in known {
        let member_id: i64 = one.member_id.parse().unwrap();
        for (table, column, _) in BELONGINGS {
            let sql = format!("select {column} from {table} where member_id = {member_id}");
            let sealed: Vec<u8> = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut sql_conn).await.unwrap();
            assert_eq!(secrets.decrypt(table, column, member_id, &sealed).unwrap(), format!("{column} {member_id}"));
        }
    }
}

/// What the old keys made: values and index keys, as a dump shows them.
struct Traces(Vec<String>);

impl Traces {
    async fn of(vault: &Vault) -> Self {
        let mut conn = vault.db.sql().await;
        let traces = sqlx::query_scalar(
            "select substr(encode(x, 'hex'), 1, 26) from member m,
                 unnest(array[m.phone, m.email, m.name, m.birthday]) x
             union all select substr(encode(identifier, 'hex'), 1, 26) from member_auth
             union all select key::text from member_key union all select key::text from member_auth",
        )
        .fetch_all(&mut conn)
        .await
        .unwrap();
        Self(traces)
    }

    async fn are_gone(&self, vault: &Vault) {
        let dump = crate::support::dump(&vault.db).await;
        assert!(self.0.len() > 100 && dump.len() > 100_000);
        let left: Vec<&String> = self.0.iter().filter(|trace| dump.contains(*trace)).collect();
        assert!(left.is_empty(), "{} of {} stand in the dump: {:?}", left.len(), self.0.len(), left.first());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn identifiers_of_rules_that_were_wider_rotate_and_what_cannot_be_read_stops_it() {
    let vault = Vault::new().await;
    let server = vault.server(&vault.path()).await;
    for number in 0..3 {
        register(&server.client, number).await;
    }
    let secrets = vault.secrets();
    // Stored when capitals were no matter yet.
    let (mut sql, old) = (vault.db.sql().await, "Ünder The Old Rules!");
    let kind = tessera::member::key::Kind::Username;
    let member_id: i64 = sqlx::query_scalar("select min(member_id) from member").fetch_one(&mut sql).await.unwrap();
    let insert = async |sql: &mut PgConnection, sealed: &[u8]| {
        let (version, key) = secrets.blind_current(kind.number(), old);
        sqlx::query(
            "insert into member_auth (member_id, bound_at, key, key_version, kind, identifier)
             values ($1, timestamptz '2026-01-01 00:00Z', $2, $3, $4, $5)
             on conflict (member_id, key) do update set identifier = excluded.identifier",
        )
        .bind(member_id)
        .bind(key)
        .bind(version)
        .bind(i16::from(kind.number()))
        .bind(sealed)
        .execute(&mut *sql)
        .await
        .unwrap();
        key
    };
    let sealed = secrets.encrypt("member_auth", "identifier", member_id, old);
    let mut damaged = sealed.clone();
    *damaged.last_mut().unwrap() ^= 1;
    let key = insert(&mut sql, &damaged).await;
    sqlx::query(
        "insert into member_key (member_id, bound_at, key, key_version, kind)
         values ($1, timestamptz '2026-01-01 00:00Z', $2, 1, $3)",
    )
    .bind(member_id)
    .bind(key)
    .bind(i16::from(kind.number()))
    .execute(&mut sql)
    .await
    .unwrap();
    for _ in 0..2 {
        Vault::refused(&vault.keys(&["rotate", "blind", "--all"]).await, "1 identifiers cannot be read");
    }
    Vault::refused(&vault.keys(&["use", "blind", "2"]).await, "not every identifier has a row of version 2");
    assert_eq!(vault.db.count("select count(*) from member_key where key_version = 1").await, 3 * 4 + 1);

    insert(&mut sql, &sealed).await;
    Vault::done(&vault.keys(&["rotate", "blind"]).await);
    vault.is_clean(&vault.secrets()).await;
    Vault::done(&vault.keys(&["use", "blind", "2"]).await);
    // As late as can be.
    insert(&mut sql, &damaged).await;
    Vault::refused(&vault.keys(&["rotate", "blind"]).await, "1 identifiers cannot be read");
    assert_eq!(vault.db.count("select count(*) from member_key where key_version = 1").await, 3 * 4 + 1);
    insert(&mut sql, &sealed).await;
    Vault::done(&vault.keys(&["rotate", "blind", "--all"]).await);
    assert_eq!((vault.under_blind(1).await, vault.db.count("select count(*) from member_key").await), (0, 3 * 4 + 1));
    let (_, key) = vault.secrets().blind_current(kind.number(), old);
    let found = vault.db.count(&format!("select member_id from member_key where key = '{key}'")).await;
    assert_eq!(found, member_id);
    vault.is_clean(&vault.secrets()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_step_is_refused_before_its_time_and_says_why() {
    let vault = Vault::new().await;
    let path = vault.path();
    let follows = vault.server(&path).await;
    let known = register(&follows.client, 1).await;
    // This one reads another copy, which nobody changes.
    let copy = vault.dir.path().join("copy.toml");
    std::fs::copy(&path, &copy).unwrap();
    let mut stays = vault.server(&copy).await;

    // Nothing begins with a file that others may read.
    let open = |mode| std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    open(0o644);
    let mut serve = vault.command(&["serve", "--listen", "127.0.0.1:0"]);
    Vault::refused(&serve.output().await.unwrap(), "chmod 600");
    open(0o600);
    Vault::refused(&vault.keys(&["drop", "pii", "1"]).await, "is the current one");
    Vault::refused(&vault.keys(&["drop", "blind", "7"]).await, "there is no identifier key 7");
    assert!(Vault::done(&vault.keys(&["rotate", "blind"]).await).contains("every row has it"));
    Vault::done(&vault.keys(&["add", "pii"]).await);
    Vault::done(&vault.keys(&["add", "blind"]).await);
    Vault::refused(&vault.keys(&["use", "pii", "2"]).await, "not every node has personal-data key 2");
    Vault::refused(&vault.keys(&["rotate", "blind", "--patience", "1"]).await, "not every node has identifier key 2");
    Vault::refused(&vault.keys(&["use", "blind", "2"]).await, "not every node writes version 2");
    assert_eq!(vault.file().pii().next().unwrap().0, 1);

    // It stops in good order, so that nobody waits for it.
    stays.terminate();
    stays.child.wait().await.unwrap();
    let list = async || Vault::done(&vault.keys(&["list"]).await);
    until("the node that follows", async || list().await.contains("personal-data keys [1, 2]")).await;
    let shown = list().await;
    for line in
        ["personal-data key 1 current 3 rows", "personal-data key 2 known 0 rows", "identifier key 2 idle 0 rows"]
    {
        assert!(shown.contains(line), "{shown}");
    }
    let file = std::fs::read_to_string(&path).unwrap();
    let secret_texts = file.split('"').filter(|text| text.len() == 64);
    assert!(secret_texts.clone().count() >= 6 && !secret_texts.into_iter().any(|text| shown.contains(text)));

    Vault::done(&vault.keys(&["use", "pii", "2"]).await);
    Vault::refused(&vault.keys(&["drop", "pii", "1"]).await, "1 rows of member and 2 rows of member_auth still use it");
    Vault::done(&vault.keys(&["rotate", "pii"]).await);
    Vault::done(&vault.keys(&["drop", "pii", "1"]).await);

    Vault::refused(&vault.keys(&["use", "blind", "2"]).await, "not every node writes version 2");
    Vault::done(&vault.keys(&["rotate", "blind"]).await);
    Vault::refused(&vault.keys(&["drop", "blind", "2"]).await, "not every node has stopped writing version 2");
    Vault::done(&vault.keys(&["use", "blind", "2"]).await);
    Vault::refused(&vault.keys(&["drop", "blind", "1"]).await, "not every node has stopped writing version 1");
    Vault::done(&vault.keys(&["rotate", "blind"]).await);
    // A row that a node wrote that nobody knew of.
    let mut sql = vault.db.sql().await;
    let stray = "insert into member_key (member_id, bound_at, key, key_version, kind) values (1, now(), $1, 1, 1)";
    sqlx::query(stray).bind(uuid::Uuid::nil()).execute(&mut sql).await.unwrap();
    Vault::refused(&vault.keys(&["drop", "blind", "1"]).await, "1 rows still have version 1");
    Vault::done(&vault.keys(&["rotate", "blind"]).await);
    Vault::done(&vault.keys(&["drop", "blind", "1"]).await);
    is_found(&follows.client, &known).await;

    // Check keys begin on a day that has issued nothing, wherever it is today.
    let day = |days| (Clock::system().now() + chrono::TimeDelta::days(days)).date_naive().to_string();
    Vault::refused(&vault.keys(&["add", "check", "--from", &day(0)]).await, "can only begin on a day to come");
    Vault::done(&vault.keys(&["add", "check", "--from", &day(5)]).await);
    assert_eq!(vault.file().checks().count(), 2);
    is_found(&follows.client, &known).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_of_a_command_are_changed_where_it_takes_them_from() {
    let vault = Vault::new().await;
    let from_command = async |args: &[&str]| {
        let mut command = vault.command(&[&["keys"], args].concat());
        command.env_remove("TESSERA_SECRETS_FILE");
        command.env("TESSERA_SECRETS_COMMAND", format!("cat {}", vault.path().display()));
        command.output().await.unwrap()
    };
    for (args, what) in
        [(["add", "pii"], "add a [[pii]] key"), (["add", "blind"], "add a [[blind]] key with idle = true")]
    {
        let output = from_command(&args).await;
        Vault::refused(&output, "the secrets come from a command");
        Vault::refused(&output, what);
    }
    SecretFile::edit(&vault.path(), |file| file.add_pii(&mut StdRng::seed_from_u64(1))).unwrap();
    Vault::refused(&from_command(&["use", "pii", "2"]).await, "set pii_current = 2");
    SecretFile::edit(&vault.path(), |file| file.set_pii_current(2)).unwrap();
    Vault::done(&from_command(&["use", "pii", "2"]).await);
    Vault::done(&from_command(&["rotate", "pii"]).await);
    Vault::refused(&from_command(&["drop", "pii", "1"]).await, "delete pii key 1");
}
