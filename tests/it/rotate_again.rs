//! Rotations that were killed or met by something else: asked again, they end what was begun.

use reqwest::Method;
use sqlx::Executor;
use tessera::clock::Clock;

use crate::support::{
    Server,
    job::{begin, clean, done, rows, until as job_until},
    vault::{Vault, is_found, register, spawn_rotation, until},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_rotation_goes_on_where_it_was() {
    let vault = Vault::new().await;
    let server = vault.server(&vault.path()).await;
    let mut known = Vec::new();
    for number in 0..120 {
        known.push(register(&server.client, number).await);
    }
    let secrets = vault.secrets();

    let mut rotation = spawn_rotation(&vault, "pii");
    until("a row under the new key", async || vault.under_pii(2).await > 20).await;
    rotation.kill().await.unwrap();
    assert!(vault.under_pii(1).await > 0, "it was killed in the middle");
    vault.is_clean(&secrets).await;
    Vault::done(&vault.keys(&["rotate", "pii", "--all"]).await);
    assert_eq!(vault.under_pii(1).await, 0);
    assert_eq!(vault.file().pii().map(|(id, _)| id).collect::<Vec<_>>(), [2]);

    // While it fills, and while it empties.
    let versions = |version: i16| format!("select count(*) from member_key where key_version = {version}");
    let all = vault.db.count(&versions(1)).await;
    let mut rotation = spawn_rotation(&vault, "blind");
    until("a row of the new version", async || vault.db.count(&versions(2)).await > 20).await;
    rotation.kill().await.unwrap();
    assert!(vault.db.count(&versions(2)).await < all, "it was killed in the middle");
    vault.is_clean(&secrets).await;
    let rotation =
        vault.command(&["keys", "rotate", "blind", "--all", "--rows-per-second", "200", "--chunk-rows", "5"]);
    let mut rotation = { rotation }.spawn().unwrap();
    until("a row that is gone", async || vault.db.count(&versions(1)).await < all).await;
    rotation.kill().await.unwrap();
    assert!(vault.db.count(&versions(1)).await > 0, "it was killed in the middle");
    assert_eq!(vault.db.count(&versions(2)).await, all);
    vault.is_clean(&secrets).await;
    Vault::done(&vault.keys(&["rotate", "blind", "--all"]).await);
    assert_eq!(vault.under_blind(1).await, 0);
    assert_eq!(vault.file().blind().map(|(version, _)| version).collect::<Vec<_>>(), [2]);
    vault.is_clean(&secrets).await;
    for one in &known {
        is_found(&server.client, one).await;
    }
}

/// Numbers of the keys of personal data and of identifiers.
fn numbers(vault: &Vault) -> (Vec<u8>, Vec<i16>) {
    let file = vault.file();
    (file.pii().map(|(id, _)| id).collect(), file.blind().map(|(version, _)| version).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_of_everything_that_was_killed_in_its_second_half_does_not_begin_again() {
    let vault = Vault::new().await;
    let server = vault.server(&vault.path()).await;
    for number in 0..60 {
        register(&server.client, number).await;
    }
    let args = ["keys", "rotate", "--all", "--rows-per-second", "200", "--chunk-rows", "5"];
    let mut rotation = vault.command(&args).spawn().unwrap();
    let filled = "select count(*) from member_key where key_version = 2";
    until("a row of the new version", async || vault.db.count(filled).await > 5).await;
    rotation.kill().await.unwrap();
    rotation.wait().await.unwrap();
    assert_eq!(numbers(&vault), (vec![2], vec![1, 2]), "it was killed in the second half");
    let sealed = "select count(*) from member where get_byte(phone, 0) = 2";
    assert_eq!(vault.db.count(sealed).await, 60);
    until("the lock", async || vault.keys(&["rotate", "--all"]).await.status.success()).await;
    assert_eq!(numbers(&vault), (vec![2], vec![2]));
    assert_eq!(vault.db.count("select count(*) from key_walk").await, 0);

    // One that has only its last wait to do, for nodes to give up the old key.
    for (kind, step) in [("pii", "turn pii"), ("blind", "turn blind")] {
        let note = format!("insert into key_walk (updated_at, step, leaf) values (now(), '{step}', '2')");
        vault.db.sql().await.execute(sqlx::AssertSqlSafe(note)).await.unwrap();
        Vault::done(&vault.keys(&["rotate", kind, "--all"]).await);
        assert_eq!(numbers(&vault), (vec![2], vec![2]), "{kind}");
    }
    // Asked for when nothing is under way, it is another one.
    Vault::done(&vault.keys(&["rotate", "--all", "--rows-per-second", "0"]).await);
    assert_eq!(numbers(&vault), (vec![3], vec![3]));
    assert_eq!(vault.db.count("select count(*) from key_walk").await, 0);
    vault.is_clean(&vault.secrets()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_import_survives_a_rotation_and_comes_in_whole() {
    let vault = Vault::new().await;
    let path = vault.path();
    let more = [
        ("TESSERA_SECRETS_FILE", path.to_str().unwrap()),
        ("TESSERA_SECRETS_EVERY", "50ms"),
        ("TESSERA_JOB_SLICE_ROWS", "20"),
    ];
    let server = Server::spawn(&vault.db, &vault.keys, &more).await;
    let api = &server.client;
    let act = async |job_id: &str, act: &str| {
        let path = format!("/v1/member-imports/{job_id}/{act}");
        api.send(api.raw(Method::POST, &path).bearer_auth(&api.keys.ops)).await.expect(200)
    };
    // A line that nobody reads makes a second piece.
    let file = format!("{}{}\n137{:08},D1,Lin\n", clean(1_000), "x".repeat(1_100_000), 1);
    let paused = begin(api, "", file).await;
    job_until(api, &paused, |job| job["rows_done"].as_i64().unwrap() > 0).await;
    assert_eq!(act(&paused, "pause").await.json["state"], "paused");
    let cancelled = begin(api, "?start=false", clean(3)).await;
    act(&cancelled, "cancel").await;

    Vault::done(&vault.keys(&["add", "pii"]).await);
    until("the new key", async || vault.keys(&["use", "pii", "2"]).await.status.success()).await;
    let refused = vault.keys(&["drop", "pii", "1"]).await;
    Vault::refused(&refused, "3 rows of job_chunk");
    Vault::done(&vault.keys(&["rotate", "pii", "--all"]).await);
    assert_eq!(vault.file().pii().map(|(id, _)| id).collect::<Vec<_>>(), [2]);
    assert_eq!(vault.under_pii(1).await, 0);
    assert_eq!(vault.db.count("select count(*) from job_chunk where get_byte(sealed, 0) = 2").await, 3);

    act(&paused, "resume").await;
    let whole = done(api, &paused).await;
    assert_eq!((whole["state"].as_str(), rows(&whole)), (Some("done"), (1_001, 0, 1)), "{whole}");
    assert_eq!(vault.db.count("select count(*) from member").await, 1_001);
    vault.is_clean(&vault.secrets()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_on_keys_keep_out_of_each_others_way_and_a_killed_drop_is_ended() {
    let vault = Vault::new().await;
    let server = vault.server(&vault.path()).await;
    for number in 0..60 {
        register(&server.client, number).await;
    }
    let mut rotation = spawn_rotation(&vault, "pii");
    until("a row under the new key", async || vault.under_pii(2).await > 5).await;
    let day = (Clock::system().now() + chrono::TimeDelta::days(5)).date_naive().to_string();
    for args in [
        &["add", "pii"][..],
        &["add", "blind"],
        &["add", "check", "--from", &day],
        &["use", "pii", "1"],
        &["drop", "pii", "1"],
        &["rotate"],
    ] {
        Vault::refused(&vault.keys(args).await, "another `tessera keys` is at work");
    }
    rotation.kill().await.unwrap();
    rotation.wait().await.unwrap();
    until("the lock", async || vault.keys(&["add", "blind"]).await.status.success()).await;

    // Nobody can write events, by a lock that is no transaction to wait for: the drop is killed when the key has gone from the file.
    let mut sql = vault.db.sql().await;
    let moved = "insert into event (event_id, created_at, subject, kind)
        select ((current_date - date '2000-01-01')::bigint << 41) + (1::bigint << 40), now(), 424242, 3";
    sql.execute(moved).await.unwrap();
    sql.execute("begin; lock table event in share mode").await.unwrap();
    let mut rotation = spawn_rotation(&vault, "blind");
    until("the end of the old key", async || vault.file().blind().count() == 1).await;
    rotation.kill().await.unwrap();
    rotation.wait().await.unwrap();
    sql.execute("rollback").await.unwrap();
    let named = "select count(*) from event where kind = 3 and subject <> 0";
    assert_eq!(vault.db.count(named).await, 1, "it was killed before");
    until("the lock", async || vault.keys(&["drop", "blind", "1"]).await.status.success()).await;
    assert_eq!((vault.db.count(named).await, vault.file().blind().next().unwrap().0), (0, 2));
    Vault::refused(&vault.keys(&["drop", "blind", "1"]).await, "there is no identifier key 1");
}
