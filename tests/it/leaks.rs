//! Nothing that identifies a person stands where it must not.
//!
//! A server logs all that it can say while a scenario goes through every operation that takes personal data, with good
//! input and bad. Then every text that the scenario used is looked for, in each way in which it may be written, in a
//! dump of the whole database, in the log, in the metrics and in the answers.
//!
//! To add an operation, add a line to [`scenario`]: [`Leaks::secret`] makes a text that nothing else has.

use std::{
    collections::{BTreeMap, HashMap},
    process::Stdio,
};

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt, task::JoinHandle};

use crate::support::{
    Server, TestDb, dump,
    server::{Client, Keys, fresh_number},
};

/// What is kept of an answer: where it came from, its headers and its body.
struct Seen {
    what: String,
    text: String,
}

/// The scenario's hands: what it says in confidence, and what came back.
struct Leaks {
    client: Client,
    /// The text and what it is, by what is looked for.
    secrets: BTreeMap<String, String>,
    answers: Vec<Seen>,
    number: usize,
}

impl Leaks {
    fn new(client: Client) -> Self {
        Self { client, secrets: BTreeMap::new(), answers: Vec::new(), number: 0 }
    }

    /// A phone number that nothing else has, as people write it.
    fn phone(&mut self) -> String {
        self.number += 1;
        let national = format!("1395{:07}", 6_180_339 + self.number * 7_919);
        let spaced = format!("{} {} {}", &national[..3], &national[3..7], &national[7..]);
        self.keep("phone", &national);
        self.keep("phone", &spaced);
        format!("+86 {spaced}")
    }

    /// Text that nothing else has, to be found in whatever case.
    fn secret(&mut self, what: &str) -> String {
        self.number += 1;
        let text = format!("Zq{}Xv{:05}", what, 31_415 + self.number * 2_718);
        self.keep(what, &text);
        text
    }

    fn email(&mut self) -> String {
        format!("{}@Mail.Example.cn", self.secret("email"))
    }

    /// A day of birth in a year that nothing else names.
    fn birthday(&mut self) -> String {
        self.number += 1;
        let day = format!("{}-0{}-1{}", 1903 + self.number % 9, 1 + self.number % 9, self.number % 9);
        self.keep("birthday", &day);
        day
    }

    /// A place on the earth to the centimetre.
    fn coordinates(&mut self) -> Value {
        self.number += 1;
        let n = self.number;
        let (latitude, longitude) = (format!("31.23{:06}1", 41_601 + n * 7), format!("121.47{:06}3", 37_012 + n * 9));
        self.keep("coordinates", &latitude);
        self.keep("coordinates", &longitude);
        let degrees = |text: String| text.parse::<f64>().unwrap();
        json!({"latitude": degrees(latitude), "longitude": degrees(longitude)})
    }

    fn keep(&mut self, what: &str, text: &str) {
        self.secrets.insert(text.to_owned(), what.to_owned());
    }

    /// Sends and keeps what came back. Gives status and body.
    async fn send(&mut self, what: &str, request: RequestBuilder) -> (StatusCode, Value) {
        let answer = self.client.send(request).await;
        let headers: Vec<String> = answer.headers.iter().map(|(name, value)| format!("{name}: {value:?}")).collect();
        self.answers.push(Seen { what: what.to_owned(), text: format!("{}\n{}", headers.join("\n"), answer.text) });
        (answer.status, answer.json)
    }

    /// A POST by a till.
    async fn post(&mut self, path: &str, body: Value) -> (StatusCode, Value) {
        let key = self.client.keys.pos.clone();
        let request = self.client.raw(Method::POST, path).bearer_auth(key).header("idempotency-key", fresh_number());
        self.send(&format!("POST {path} {body}"), request.json(&body)).await
    }

    /// Any operation by an administrator.
    async fn admin(&mut self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let key = self.client.keys.admin.clone();
        let request = self.client.raw(method.clone(), path).bearer_auth(key).header("if-match", "*");
        self.send(&format!("{method} {path}"), request.json(&body)).await
    }

    /// Which texts stand in a place, with some of what stands around each.
    fn found_in(&self, place: &str, text: &str) -> Vec<String> {
        let (folded, exact) = self.needles();
        let lower = text.to_ascii_lowercase();
        let mut found = BTreeMap::new();
        for (needles, hay) in [(&folded, &lower), (&exact, &text.to_owned())] {
            for (at, head) in hay.as_bytes().windows(HEAD).enumerate() {
                for (form, secret) in needles.get(head).into_iter().flatten() {
                    if hay.as_bytes()[at..].starts_with(form) {
                        let around = text.get(at.saturating_sub(120)..(at + 60).min(text.len())).unwrap_or_default();
                        found.entry(*secret).or_insert_with(|| around.to_owned());
                    }
                }
            }
        }
        let what = |secret: &str| &self.secrets[secret];
        found.iter().map(|(secret, around)| format!("{} {secret} in {place}: …{around}…", what(secret))).collect()
    }

    /// Every way in which the texts may be written, by how it begins: in small letters, to be compared with small
    /// letters, and as it is.
    fn needles(&self) -> (Needles<'_>, Needles<'_>) {
        let (mut folded, mut exact) = (Needles::new(), Needles::new());
        for secret in self.secrets.keys() {
            let text = secret.to_ascii_lowercase();
            let hex = |between: &str| text.bytes().map(|byte| format!("{between}{byte:02x}")).collect::<String>();
            for form in [text.clone(), text.chars().rev().collect(), hex(""), hex("%")] {
                folded.entry(form.as_bytes()[..HEAD].to_owned()).or_default().push((form.into_bytes(), secret));
            }
            for text in [secret.clone(), text.clone(), secret.to_ascii_uppercase()] {
                // Base64 at each of the three places where it may begin, without the digits its neighbours share.
                for skipped in 0..3_usize {
                    let bytes = [vec![0; skipped], text.clone().into_bytes()].concat();
                    let whole = base64(&bytes[..bytes.len() / 3 * 3]);
                    let plain = whole[if skipped == 0 { 0 } else { 4 }..].to_owned();
                    for form in [plain.replace('+', "-").replace('/', "_"), plain] {
                        exact.entry(form.as_bytes()[..HEAD].to_owned()).or_default().push((form.into_bytes(), secret));
                    }
                }
            }
        }
        (folded, exact)
    }
}

/// By this many bytes a text is looked for before it is compared.
const HEAD: usize = 8;

/// Forms of texts, by their first bytes, each with the text.
type Needles<'a> = HashMap<Vec<u8>, Vec<(Vec<u8>, &'a str)>>;

/// Base64 of whole threes of bytes.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks_exact(3) {
        let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        text.extend((0..4).rev().map(|at| char::from(DIGITS[(bits >> (6 * at) & 63) as usize])));
    }
    text
}

/// Every operation that takes personal data. Each block stands alone.
async fn scenario(leaks: &mut Leaks) {
    registering(leaks).await;
    looking_up(leaks).await;
    patching(leaks).await;
    belongings(leaks).await;
    coupons(leaks).await;
    refused(leaks).await;
}

/// Everything about a person, none of it used before.
fn person(leaks: &mut Leaks) -> Value {
    json!({
        "phone": leaks.phone(), "email": leaks.email(), "username": leaks.secret("username"),
        "card": leaks.secret("card"), "external": [format!("sport:{}", leaks.secret("web"))],
        "name": leaks.secret("name"), "birthday": leaks.birthday(),
    })
}

async fn member(leaks: &mut Leaks) -> (String, Value) {
    let body = person(leaks);
    let (status, member) = leaks.post("/v1/members", body.clone()).await;
    assert_eq!(status, 201, "{member}");
    (member["member_id"].as_str().unwrap().to_owned(), body)
}

async fn registering(leaks: &mut Leaks) {
    let (_, known) = member(leaks).await;
    for field in ["phone", "email", "username", "card"] {
        let mut body = person(leaks);
        body[field] = known[field].clone();
        assert_eq!(leaks.post("/v1/members", body).await.0, 409);
    }
    // A repetition, and its number with another body.
    let number = fresh_number();
    let (first, second) = (person(leaks), person(leaks));
    for (body, expected) in [(&first, 201), (&first, 201), (&second, 409)] {
        let key = leaks.client.keys.pos.clone();
        let request = leaks.client.raw(Method::POST, "/v1/members").bearer_auth(key);
        let request = request.header("idempotency-key", &number).json(body);
        assert_eq!(leaks.send("POST /v1/members again", request).await.0, expected);
    }
}

async fn looking_up(leaks: &mut Leaks) {
    let (member_id, known) = member(leaks).await;
    for field in ["phone", "email", "username", "card"] {
        assert_eq!(leaks.post("/v1/members/lookup", json!({field: known[field]})).await.0, 200);
    }
    assert_eq!(leaks.post("/v1/members/lookup", json!({"external": known["external"][0]})).await.0, 200);
    let strangers = [
        json!({"phone": leaks.phone()}),
        json!({"email": leaks.email()}),
        json!({"username": leaks.secret("username")}),
        json!({"card": leaks.secret("card")}),
        json!({"external": format!("crm:{}", leaks.secret("crm"))}),
    ];
    for stranger in strangers {
        assert_eq!(leaks.post("/v1/members/lookup", stranger).await.0, 404);
    }
    let path = format!("/v1/members/{member_id}");
    assert_eq!(leaks.admin(Method::GET, &path, json!({})).await.0, 200);
}

async fn patching(leaks: &mut Leaks) {
    let (member_id, _) = member(leaks).await;
    let path = format!("/v1/members/{member_id}");
    let change = json!({"name": leaks.secret("name"), "birthday": leaks.birthday()});
    assert_eq!(leaks.admin(Method::PATCH, &path, change).await.0, 200);
    let stranger = json!({"name": leaks.secret("name")});
    assert_eq!(leaks.admin(Method::PATCH, "/v1/members/1", stranger).await.0, 404);
    let future = json!({"name": leaks.secret("name"), "birthday": "2999-01-01"});
    assert!(leaks.admin(Method::PATCH, &path, future).await.0.is_client_error());
}

/// What belongs to a member: where things are sent, where it is, its devices, who it is.
async fn belongings(leaks: &mut Leaks) {
    let (member_id, _) = member(leaks).await;
    let path = format!("/v1/members/{member_id}");
    let address = json!({"receiver": leaks.secret("receiver"), "phone": leaks.phone(), "city": "Shanghai",
        "detail": format!("Nan{}", leaks.secret("detail")), "coordinates": leaks.coordinates()});
    let (status, made) = leaks.admin(Method::POST, &format!("{path}/addresses"), address).await;
    assert_eq!(status, 201, "{made}");
    let one = format!("{path}/addresses/{}", made["address_id"].as_str().unwrap());
    let change = json!({"detail": format!("Xin{}", leaks.secret("detail")), "coordinates": leaks.coordinates()});
    assert_eq!(leaks.admin(Method::PATCH, &one, change).await.0, 200);
    let location = json!({"nation": "China", "coordinates": leaks.coordinates()});
    assert_eq!(leaks.admin(Method::PUT, &format!("{path}/location"), location).await.0, 200);
    let device = json!({"device_id": leaks.secret("device"), "push_token": leaks.secret("token")});
    assert_eq!(leaks.admin(Method::PUT, &format!("{path}/devices"), device).await.0, 201);
    for part in ["addresses", "location", "devices"] {
        assert_eq!(leaks.admin(Method::GET, &format!("{path}/{part}"), json!({})).await.0, 200);
    }
    // Nowhere on the earth, and too long for a receiver.
    let nowhere = json!({"coordinates": {"latitude": 99, "longitude": leaks.coordinates()["longitude"]}});
    assert!(leaks.admin(Method::PUT, &format!("{path}/location"), nowhere).await.0.is_client_error());
    let long = json!({"receiver": leaks.secret("receiver").repeat(9), "detail": leaks.secret("detail")});
    assert!(leaks.admin(Method::POST, &format!("{path}/addresses"), long).await.0.is_client_error());
}

async fn coupons(leaks: &mut Leaks) {
    let (member_id, _) = member(leaks).await;
    let rule = leaks.client.rule(json!({})).await;
    let code = leaks.client.issue(&rule, json!({"member_id": member_id})).await.remove(0);
    let sale = json!({"store_id": "S0001", "order_ref": fresh_number(), "amount": 8000});
    assert_eq!(leaks.post(&format!("/v1/coupons/{code}/redeem"), sale).await.0, 200);
    assert_eq!(leaks.admin(Method::GET, &format!("/v1/coupons/{code}"), json!({})).await.0, 200);
}

/// Bodies that are wrong in one place, with personal data in the others or in the place itself.
async fn refused(leaks: &mut Leaks) {
    for (field, wrong) in [
        ("phone", json!(null)),
        ("phone", json!(["x"])),
        ("email", json!(7)),
        ("birthday", json!("someday")),
        ("gender", json!("no such")),
        ("source", json!({"a": 1})),
        ("external", json!("not a list")),
        ("surprise", json!(true)),
    ] {
        let mut body = person(leaks);
        body[field] = wrong;
        leaks.post("/v1/members", body).await;
    }
    let misplaced = [
        json!({"phone": leaks.secret("phone")}),
        json!({"phone": format!("{}0", leaks.phone())}),
        json!({"email": leaks.secret("email")}),
        json!({"email": format!("{}@@example.cn", leaks.secret("email"))}),
        json!({"gender": leaks.secret("gender")}),
        json!({"source": leaks.secret("source")}),
        json!({"birthday": leaks.secret("birthday")}),
        json!({"external": [leaks.secret("external")]}),
        json!({"external": leaks.secret("external")}),
        json!({leaks.secret("field"): 1}),
        json!([leaks.secret("list")]),
        json!(leaks.secret("text")),
        json!({"name": leaks.secret("name").repeat(100)}),
    ];
    for body in misplaced {
        for path in ["/v1/members", "/v1/members/lookup"] {
            assert!(leaks.post(path, body.clone()).await.0.is_client_error(), "{path} {body}");
        }
    }
    // Half a body, a body of another kind, a body without a key.
    let half = format!("{{\"phone\":\"{}\",\"name\":\"{}", leaks.phone(), leaks.secret("name"));
    let form = format!("phone={}&name={}", leaks.phone(), leaks.secret("name"));
    for (body, kind) in [(half.clone(), "application/json"), (form, "application/x-www-form-urlencoded")] {
        for path in ["/v1/members", "/v1/members/lookup"] {
            let key = leaks.client.keys.pos.clone();
            let request = leaks.client.raw(Method::POST, path).bearer_auth(key).header("content-type", kind);
            assert!(leaks.send(path, request.body(body.clone())).await.0.is_client_error());
        }
    }
    let request = leaks.client.raw(Method::POST, "/v1/members").header("content-type", "application/json");
    assert_eq!(leaks.send("without a key", request.body(half)).await.0, 401);
}

/// A server that says everything, and what it says.
async fn talkative(db: &TestDb, keys: &Keys) -> (Server, JoinHandle<String>) {
    let all = [("TESSERA_LOG", "trace,sqlx=trace,sqlx::query=trace,actix_http::h1=trace,sqlx::postgres::notice=trace")];
    let mut server = Server::spawn_with(db, keys, &all, Stdio::piped).await;
    let mut log = server.child.stderr.take().unwrap();
    let reading = tokio::spawn(async move {
        let mut text = Vec::new();
        log.read_to_end(&mut text).await.unwrap();
        String::from_utf8_lossy(&text).into_owned()
    });
    (server, reading)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_personal_data_stands_in_a_dump_a_log_a_metric_or_an_answer() {
    let db = TestDb::new().await;
    let keys = Keys::make(&db).await;
    let (mut server, log) = talkative(&db, &keys).await;
    let mut leaks = Leaks::new(server.client.clone());
    scenario(&mut leaks).await;
    let metrics = server.client.send(server.client.raw(Method::GET, "/metrics")).await.expect(200);
    server.terminate();
    server.child.wait().await.unwrap();
    let (dump, log) = (dump(&db).await, log.await.unwrap());

    // There is something to be found, and it would be.
    let (secrets, answers) = (leaks.secrets.len(), leaks.answers.len());
    assert!(secrets > 150 && answers > 60, "{secrets} texts in {answers} answers");
    assert!(dump.contains("COPY public.member_p00") || dump.contains("COPY public.member_"), "the dump has no members");
    assert!(log.contains("TRACE") && log.contains("tessera::http::gate"), "the log says little");
    let (planted, _) = leaks.secrets.first_key_value().unwrap();
    let hidden = base64(format!("{{ {planted} }}  ").as_bytes());
    assert_eq!(leaks.found_in("a plant", &hidden).len(), 1);

    let mut found = leaks.found_in("the dump", &dump);
    found.extend(leaks.found_in("the log", &log));
    found.extend(leaks.found_in("the metrics", &metrics.text));
    for answer in &leaks.answers {
        found.extend(leaks.found_in(&format!("the answer to {}", answer.what), &answer.text));
    }
    assert!(found.is_empty(), "{} leaks:\n{}", found.len(), found.join("\n"));
}
