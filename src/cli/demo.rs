//! `tessera serve --demo`: a store and a key for each role, and how to try the API.
//!
//! Only hashes of keys are in the database, so the demo's are kept in a 0600 file beside the data for the next start.

use std::{io::Write, net::SocketAddr, os::unix::fs::OpenOptionsExt, path::Path};

use sqlx::PgConnection;

use super::{Failure, seed};
use crate::{
    boot,
    chain::{
        NewStore, StoreId, StoreName,
        key::{KeyName, NewToken, Role, Token, find_key, insert_key, update_key_revoked},
        store::{find_store, insert_store},
    },
    clock::Clock,
};

const STORE: &str = "S0001";

/// Makes what is missing and prints how to begin.
pub(super) async fn prepare(
    conn: &mut PgConnection,
    data_dir: &Path,
    address: SocketAddr,
    clock: &Clock,
) -> Result<(), Failure> {
    let store_id = StoreId::parse(STORE).map_err(|bad| Failure(bad.to_string()))?;
    if find_store(conn, &store_id).await?.is_none() {
        let name = StoreName::parse("Demo store").map_err(|bad| Failure(bad.to_string()))?;
        insert_store(conn, &NewStore::new(store_id.clone(), name), clock.now()).await?;
    }
    let path = boot::beside(data_dir, "demo-keys");
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    let mut lines = String::new();
    println!("Demo keys ({}):", path.display());
    for role in Role::ALL {
        let key = key_of(conn, *role, &known, &store_id, clock).await?;
        println!("  {:10} {key}", role.name());
        lines.push_str(&format!("{} {key}\n", role.name()));
    }
    if lines != known {
        let file = std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&path);
        file.and_then(|mut file| file.write_all(lines.as_bytes()))
            .map_err(|error| Failure(format!("the demo keys cannot be kept in {}: {error}", path.display())))?;
    }
    let key = |role: Role| lines.lines().find_map(|line| line.strip_prefix(role.name())).unwrap_or_default().trim();
    let (pos, marketing) = (key(Role::Pos), key(Role::Marketing));
    println!("Try it:");
    println!(
        "  curl -s http://{address}/v1/members -H 'Authorization: Bearer {pos}' -H 'Content-Type: application/json' \
         -d '{{\"phone\":\"+8613800000001\",\"name\":\"Lin\",\"source\":\"store\",\"store_id\":\"{STORE}\"}}'"
    );
    println!(
        "  curl -s http://{address}/v1/members/lookup -H 'Authorization: Bearer {pos}' \
         -H 'Content-Type: application/json' -d '{{\"phone\":\"13800000001\"}}'"
    );
    println!(
        "  curl -s http://{address}/v1/coupon-rules -H 'Authorization: Bearer {marketing}' \
         -H 'Content-Type: application/json' -d '{{\"name\":\"10 off 50\",\"discount\":{{\"type\":\"amount_off\",\
         \"amount\":1000}},\"currency\":\"CNY\",\"threshold\":5000,\"validity\":{{\"days_after_issue\":30}},\
         \"stock\":10000,\"per_member\":3,\"state\":\"active\"}}'"
    );
    Ok(())
}

/// The role's demo key: the one of the file while it is in force, else a new one.
async fn key_of(
    conn: &mut PgConnection,
    role: Role,
    known: &str,
    store_id: &StoreId,
    clock: &Clock,
) -> Result<String, Failure> {
    let kept = known.lines().find_map(|line| line.strip_prefix(role.name())).map(str::trim);
    if let Some(kept) = kept
        && let Some(token) = Token::parse(kept)
        && find_key(conn, token.key_id).await?.is_some_and(|key| key.opens_with(&token))
    {
        return Ok(kept.to_owned());
    }
    // The file is gone: the key that nobody knows any more makes room, under a name of its own.
    let token = NewToken::mint(&mut seed());
    let base = format!("demo-{}", role.name());
    let _ = update_key_revoked(conn, &base, clock.now()).await;
    let store = (role == Role::Pos).then_some(store_id);
    for name in [base.clone(), format!("{base}-{}", token.key_id())] {
        let name = KeyName::parse(name).map_err(|bad| Failure(bad.to_string()))?;
        if insert_key(conn, &name, role, store, &token, clock.now()).await.is_ok() {
            return Ok(token.reveal());
        }
    }
    Err(Failure(format!("a demo key for {} could not be made", role.name())))
}
