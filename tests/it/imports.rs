//! Imports of members: real households, dirt of every kind, files that cannot be taken.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use reqwest::Method;
use serde_json::json;

use crate::support::{
    Server, TestApp, TestDb,
    job::{assert_verified, begin, done, failures, rows, send},
    scaled,
    server::{Keys, fresh_number},
};

/// The rows of the journey's file, header not counted.
fn journey() -> (String, Vec<BTreeMap<String, String>>) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data/journey/members.csv");
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("the data of the journey, {}: {error}", path.display()));
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap().split(',').collect();
    let row =
        |line: &str| names.iter().map(|name| (*name).to_owned()).zip(line.split(',').map(str::to_owned)).collect();
    let rows = lines.map(row).collect();
    (text, rows)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_households_of_the_journey_come_in_once() {
    let app = TestApp::spawn().await;
    let (api, db) = (&app.client, &app.db);
    let (file, households) = journey();
    let system = json!({"system": SYSTEM, "name": "Journey", "id_shape": "number"});
    api.post("/v1/external-systems", &api.keys.admin, system).await.expect(201);
    assert_eq!(households.len(), 1373, "the data is whole");
    let demographics: Vec<&str> = file.lines().next().unwrap().split(',').skip(1).collect();
    let names = demographics.iter().map(|name| format!(",attr.{name}")).collect::<String>();
    let query = format!("?columns=external:{SYSTEM}{names}&file_name=members.csv");
    let first = done(api, &begin(api, &query, file.clone()).await).await;
    assert_eq!((first["state"].as_str(), rows(&first)), (Some("done"), (1373, 0, 0)), "{first}");
    assert_eq!(first["preview"]["rows_estimate"].as_i64().unwrap() / 100, 13, "{first}");
    assert_households(db, &households).await;

    // Every demographic of every household stands as the file has it, and nothing where the file has nothing.
    for name in &demographics {
        let mut expected: BTreeMap<&str, i64> = BTreeMap::new();
        for value in households.iter().map(|row| row[*name].as_str()).filter(|value| !value.is_empty()) {
            *expected.entry(value).or_default() += 1;
        }
        for (value, count) in expected {
            let sql = format!("select count(*) from member where attributes->>'{name}' = '{value}'");
            assert_eq!(db.count(&sql).await, count, "{name} {value}");
        }
        let none = households.iter().filter(|row| row[*name].is_empty()).count() as i64;
        let sql = format!("select count(*) from member where not coalesce(attributes ? '{name}', false)");
        assert_eq!(db.count(&sql).await, none, "{name}");
    }
    // A sample by what the households are called.
    for household in households.iter().step_by(97) {
        let id = &household["household_id"];
        let body = json!({"external": format!("{SYSTEM}:{id}")});
        let found = api.post("/v1/members/lookup", &api.keys.pos, body).await.expect(200).json;
        assert_eq!(found["source"], "import", "household {id}: {found}");
        let age = found["attributes"]["age"].as_str().unwrap_or_default();
        assert_eq!(age, household["age"], "household {id}: {found}");
        let sql = format!(
            "select coalesce(attributes->>'kids_count', '') = '{}' from member where member_id = {}",
            household["kids_count"],
            found["member_id"].as_str().unwrap()
        );
        assert_eq!(db.count(&format!("select ({sql})::int::bigint")).await, 1, "household {id}");
    }

    let again = done(api, &begin(api, &query, file).await).await;
    assert_eq!((again["state"].as_str(), rows(&again)), (Some("done"), (0, 1373, 0)), "{again}");
    assert_households(db, &households).await;
    assert_verified(db).await;
    app.stop().await;
}

/// The external system that the households come from.
const SYSTEM: &str = "journey";

async fn assert_households(db: &TestDb, households: &[BTreeMap<String, String>]) {
    for table in ["member", "member_key", "member_auth"] {
        assert_eq!(db.count(&format!("select count(*) from {table}")).await, households.len() as i64, "{table}");
    }
}

/// A file of dirt among good rows, and what is to become of each bad one.
#[derive(Default)]
struct Dirt {
    file: Vec<u8>,
    lines: i64,
    good: i64,
    /// Line → column and code.
    bad: BTreeMap<i64, (Option<&'static str>, &'static str)>,
}

const DIRT_HEADER: &str = "phone,email,card,name,gender,birthday,store_id,level,attr.note";
/// A phone that somebody had before.
const TAKEN: &str = "13700000000";

impl Dirt {
    fn new(rows: usize) -> Self {
        let mut dirt = Self::default();
        dirt.file.extend_from_slice(b"\xef\xbb\xbf");
        dirt.line(DIRT_HEADER.as_bytes());
        for n in 0..rows {
            let phone = format!("138{n:08}");
            if n % 50 == 7 {
                dirt.mess(n / 50, &phone);
            }
            if n % 1000 == 3 {
                dirt.line(b"");
            }
            // What older systems write for nothing stands in good rows.
            let nothing = ["", "NULL", "0", "-"][n % 4];
            let birthday = ["1990-05-01", "0000-00-00", "1990/5/1", "1900-01-01"][n % 4];
            let row = format!("{phone},{nothing},{nothing},Lin {n},{},{birthday},S0001,{},0", n % 3, n % 5);
            dirt.line(row.as_bytes());
            dirt.good += 1;
        }
        dirt
    }

    fn line(&mut self, text: &[u8]) {
        self.file.extend_from_slice(text);
        let crlf = self.lines % 3 == 0;
        self.file.extend_from_slice(if crlf { b"\r\n" } else { b"\n" });
        self.lines += 1;
    }

    fn bad(&mut self, text: &[u8], column: Option<&'static str>, code: &'static str) {
        self.line(text);
        self.bad.insert(self.lines, (column, code));
    }

    /// One bad row, of each kind in turn. `phone` is the good row's that follows.
    fn mess(&mut self, which: usize, phone: &str) {
        let own = format!("139{which:08}");
        let earlier = "13800000000";
        let row = |phone: &str, rest: &str| format!("{phone}{rest}").into_bytes();
        match which % 16 {
            0 => self.bad(&row(TAKEN, ",,,Mei,,,,,"), Some("phone"), "member_key_taken"),
            1 => self.bad(&row(earlier, ",,,Somebody Else,,,,,"), Some("phone"), "member_key_taken"),
            2 => self.bad(&row(&own, ",,,Lin,,1990-02-30,,,"), Some("birthday"), "date_invalid"),
            3 => self.bad(&row(&own, ",,,Lin,,2190-01-01,,,"), Some("birthday"), "date_invalid"),
            4 => self.bad(&[own.as_bytes(), b",,,\xc1\xd6,,,,,"].concat(), Some("name"), "encoding_invalid"),
            5 => self.bad(&row(&own, ",,,Lin"), None, "row_malformed"),
            6 => self.bad(&row(&own, ",,,Lin,,,,,,"), None, "row_malformed"),
            // What somebody wrote into a text of the older system is no row of the file.
            7 => {
                let first = self.lines + 1;
                self.line(&row(&own, &format!(",,,\"Lin\n{own},,,Smuggled,,,,,\r\n\",,,,,")));
                self.lines += 2;
                self.bad.insert(first, (Some("name"), "value_invalid"));
            }
            8 => self.bad(&row("12", ",,,Lin,,,,,"), Some("phone"), "identifier_invalid"),
            9 => self.bad(&row(&own, ",lin at example,,Lin,,,,,"), Some("email"), "identifier_invalid"),
            10 => self.bad(&row("0", ",NULL,00000,Lin,,,,,"), None, "identifier_missing"),
            11 => self.bad(&row(&own, ",,,Lin,,,S9999,,"), Some("store_id"), "store_not_found"),
            12 => self.bad(&row(&own, ",,,Lin,x,,,,"), Some("gender"), "value_invalid"),
            13 => self.bad(&row(&own, ",,,Li\u{0}n,,,,,"), Some("name"), "value_invalid"),
            14 => self.bad(&row(&own, ",,,Lin,,,,99999,"), Some("level"), "value_invalid"),
            _ if which < 16 => {
                let long = vec![b'x'; 20_000_000];
                self.bad(&long, None, "row_too_long");
            }
            // The phone is that of a row that follows: it comes first, and the good one is the one that is refused.
            _ => {
                self.bad(
                    &row(&own, &format!(",,{phone},Lin,,,,,{}", "y".repeat(257))),
                    Some("attr.note"),
                    "value_invalid",
                );
            }
        }
    }
}

/// `VmRSS` or `VmHWM` of a process, in MiB.
fn memory(pid: u32, name: &str) -> i64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    line.split_whitespace().next().unwrap().parse::<i64>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_row_is_named_and_every_good_one_comes_in_with_memory_flat() {
    let db = TestDb::new().await;
    let keys = Keys::make(&db).await;
    let server = Server::spawn(&db, &keys, &[]).await;
    let api = &server.client;
    api.member(TAKEN).await;
    let dirt = Dirt::new(scaled(100_000, 1_000_000));
    let file_mib = (dirt.file.len() >> 20) as i64;
    let before = memory(server.pid(), "VmHWM");
    let job_id = begin(api, "", dirt.file).await;
    let job = done(api, &job_id).await;
    let grown = memory(server.pid(), "VmHWM") - before;
    assert_eq!((job["state"].as_str(), rows(&job)), (Some("done"), (dirt.good, 0, dirt.bad.len() as i64)), "{job}");
    assert_eq!(job["bytes_done"], job["bytes"], "{job}");
    assert!(grown < MEMORY_MIB_MAX, "{grown} MiB more for a file of {file_mib} MiB");

    let named: BTreeMap<i64, (Option<String>, String)> = failures(api, &job_id)
        .await
        .iter()
        .map(|one| {
            let column = one["column"].as_str().map(str::to_owned);
            (one["line"].as_i64().unwrap(), (column, one["code"].as_str().unwrap().to_owned()))
        })
        .collect();
    let expected =
        dirt.bad.iter().map(|(line, (column, code))| (*line, (column.map(str::to_owned), (*code).to_owned())));
    let expected: BTreeMap<_, _> = expected.collect();
    for (line, failure) in &expected {
        assert_eq!(named.get(line), Some(failure), "line {line}");
    }
    assert_eq!(named.len(), expected.len());
    // The same as a file.
    let request = api.raw(Method::GET, &format!("/v1/member-imports/{job_id}/failures")).bearer_auth(&keys.ops);
    let file = api.send(request.header("accept", "text/csv")).await.expect(200);
    assert_eq!(file.text.lines().count(), 1 + expected.len());
    assert!(file.text.starts_with("row,line,column,code,detail\r\n"), "{:.200}", file.text);

    let good = dirt.good;
    assert_eq!(db.count("select count(*) from member").await, good + 1);
    assert_eq!(db.count("select count(*) from member_key").await, good + 1);
    assert_eq!(db.count("select count(*) from member_auth").await, 0, "no card and no e-mail was one");
    assert_eq!(db.count("select count(*) from member where email is not null").await, 0);
    assert_eq!(db.count("select count(*) from member where birthday is not null").await, good / 2);
    assert_eq!(db.count("select count(*) from member where gender = 0").await, (good + 2) / 3 + 1);
    assert_eq!(
        db.count("select count(*) from member where attributes->>'note' = '0'").await,
        good,
        "a count of nought"
    );
    assert_verified(&db).await;
}

/// What a server may need more for a file, however large: far less than one line of these files, twice.
const MEMORY_MIB_MAX: i64 = 64;

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_taken_is_refused_at_once_and_leaves_nothing() {
    let db = TestDb::new().await;
    let keys = Keys::make(&db).await;
    let mut settings = crate::support::server::settings();
    settings.jobs.upload_bytes_max = 3 << 20;
    let app = TestApp::on(&db, keys, settings, tessera::clock::Clock::system()).await;
    let api = &app.client;
    let utf_16: Vec<u8> = "\u{feff}phone\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let cases: [(&str, Vec<u8>, u16, &str); 9] = [
        ("", b"".to_vec(), 422, "file_invalid"),
        ("", b"\n\n".to_vec(), 422, "file_invalid"),
        ("", b"phone,shoe size\n".to_vec(), 422, "file_invalid"),
        ("", b"phone,Phone\n".to_vec(), 422, "file_invalid"),
        ("", b"name,birthday\n".to_vec(), 422, "file_invalid"),
        ("", utf_16, 422, "file_invalid"),
        ("?header=false", b"13800000001\n".to_vec(), 400, "malformed_query"),
        ("?on_taken=replace", b"phone\n".to_vec(), 400, "malformed_query"),
        ("", vec![b'x'; (3 << 20) + 1], 413, "body_too_large"),
    ];
    for (query, file, status, code) in cases {
        let answer = send(api, query, file.clone()).await;
        let what = String::from_utf8_lossy(&file[..file.len().min(20)]).into_owned();
        assert_eq!((answer.status.as_u16(), answer.code()), (status, code), "{query} {what}: {}", answer.text);
    }
    let unknown = send(api, "", "phone,shoe size,13900000009\n").await.json;
    assert_eq!(unknown["columns"], json!(["shoe size", "(not a name)"]), "{unknown}");
    let request = api.raw(Method::POST, "/v1/member-imports").bearer_auth(&api.keys.ops);
    let answer = api.send(request.json(&json!({"phone": "13800000001"}))).await.expect(415);
    assert_eq!(answer.code(), "unsupported_media_type");
    assert_eq!(db.count("select count(*) from job").await + db.count("select count(*) from job_chunk").await, 0);

    // The same number and file are the same job; another file under it is refused.
    let numbered = async |number: &str, file: &'static str| {
        let request = api.raw(Method::POST, "/v1/member-imports").bearer_auth(&api.keys.ops);
        api.send(request.header("content-type", "text/csv").header("idempotency-key", number).body(file)).await
    };
    let number = fresh_number();
    let first = numbered(&number, "phone\n13800000001\n").await.expect(201);
    let again = numbered(&number, "phone\n13800000001\n").await.expect(201);
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(again.json["job_id"], first.json["job_id"]);
    assert_eq!(numbered(&number, "phone\n13800000002\n").await.expect(409).code(), "request_number_reused");
    let old = numbered("0178f7c5-6a30-7cc3-98c4-dc0c0c07398f", "phone\n13800000001\n").await.expect(422);
    assert_eq!(old.code(), "request_number_expired");
    assert_eq!(db.count("select count(*) from job").await, 1);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_may_be_packed_of_another_encoding_and_without_a_header() {
    let app = TestApp::spawn().await;
    let api = &app.client;
    // 林,女,01/05/1990 in GB18030.
    let mut file = b"13800000001;\xc1\xd6;\xc5\xae;01/05/1990;a;;b\n".to_vec();
    file.extend_from_slice(b"13800000001;\xc1\xd6;;;;;\n13800000001;\xc1\xd6\xc1\xd6;;;;;\n");
    let query = "?header=false&delimiter=semicolon&encoding=gb18030&date_format=dmy\
                 &columns=phone,name,gender,birthday,row_key,-,-";
    let request = api.raw(Method::POST, &format!("/v1/member-imports{query}")).bearer_auth(&api.keys.ops);
    let request = request.header("content-type", "text/csv").header("content-encoding", "gzip").body(packed(&file));
    let made = api.send(request).await.expect(201);
    let job_id = made.json["job_id"].as_str().unwrap();
    let job = done(api, job_id).await;
    assert_eq!(rows(&job), (1, 1, 1), "{job}");
    let named = failures(api, job_id).await;
    assert_eq!((&named[0]["line"], &named[0]["code"]), (&json!(3), &json!("member_key_taken")), "{named:?}");
    let found = api.post("/v1/members/lookup", &api.keys.pos, json!({"external": "row-key:a"})).await.expect(200).json;
    assert_eq!((&found["name"], &found["gender"]), (&json!("*"), &json!("female")), "{found}");
    assert_eq!(found["birthday"], "1990-**-**");
    // One that may be skipped is.
    let skipped = begin(api, "?on_taken=skip", "phone,name\n13800000001,Other\n13800000001,Third\n").await;
    assert_eq!(rows(&done(api, &skipped).await), (0, 2, 0));
    assert_verified(&app.db).await;
    app.stop().await;
}

/// gzip, stored: RFC 1952 around one block of RFC 1951 that is not compressed.
fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 };
        }
    }
    let length = u16::try_from(bytes.len()).unwrap();
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff, 1];
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&(!length).to_le_bytes());
    out.extend_from_slice(bytes);
    out.extend_from_slice(&(!crc).to_le_bytes());
    out.extend_from_slice(&u32::from(length).to_le_bytes());
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_person_stands_outside_the_member_tables() {
    let app = TestApp::spawn().await;
    let (api, db) = (&app.client, &app.db);
    let personal = ["13512345678", "zhang.wei.secret@example.cn", "Zhang Secretive", "1987-06-05", "SECRETCARD77"];
    let row = format!("{},{},{},{},{}", personal[0], personal[1], personal[2], personal[3], personal[4]);
    // A bad row with all of it, and a good one.
    let file = format!("phone,email,name,birthday,card\n{row},extra\n{row}\n{row}x\n{}x,,,,\n", personal[0]);
    let job_id = begin(api, "", file).await;
    let job = done(api, &job_id).await;
    assert_eq!(rows(&job), (1, 0, 3), "{job}");
    let told = format!("{job}{:?}", failures(api, &job_id).await);
    let mut conn = db.sql().await;
    let tables: Vec<(String,)> = sqlx::query_as(
        "select table_name::text from information_schema.tables where table_schema = 'public' and table_type = 'BASE TABLE'",
    )
    .fetch_all(&mut conn)
    .await
    .unwrap();
    let seen: BTreeSet<&str> = tables.iter().map(|(name,)| name.as_str()).collect();
    assert!(seen.contains("job_chunk") && seen.contains("member_key"));
    for secret in personal {
        assert!(!told.contains(secret), "{told}");
        let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
        for table in &seen {
            let sql = format!("select count(*) from {table} t where t::text ~ '{secret}|{hex}'");
            assert_eq!(db.count(&sql).await, 0, "{table} has {secret} in clear");
        }
    }
    app.stop().await;
}
