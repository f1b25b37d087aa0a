//! `tessera apikey`.

use super::{ApikeyCommand, Failure, RoleArg, seed};
use crate::{
    boot::{self, Ground},
    chain::{
        StoreId,
        key::{KeyName, NewToken, Role, insert_key, list_keys, update_key_revoked},
    },
    clock::Clock,
    config::Settings,
};

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Pos => Role::Pos,
            RoleArg::Marketing => Role::Marketing,
            RoleArg::Ops => Role::Ops,
            RoleArg::Admin => Role::Admin,
        }
    }
}

pub(super) async fn run(
    command: &ApikeyCommand,
    ground: &Ground,
    settings: &Settings,
    clock: &Clock,
) -> Result<(), Failure> {
    let mut conn = boot::connect(ground, settings).await?;
    match command {
        ApikeyCommand::Create { name, role, store } => {
            let name = KeyName::parse(name.as_str()).map_err(|bad| Failure(format!("--name {bad}")))?;
            let store = store
                .as_deref()
                .map(|store| StoreId::parse(store).map_err(|bad| Failure(format!("--store {bad}"))))
                .transpose()?;
            let token = NewToken::mint(&mut seed());
            insert_key(&mut conn, &name, (*role).into(), store.as_ref(), &token, clock.now()).await?;
            println!("{}", token.reveal());
        }
        ApikeyCommand::List => {
            for key in list_keys(&mut conn).await? {
                let store = key.store_id.as_deref().unwrap_or("-");
                let state = key.revoked_at.map_or("in force".to_owned(), |at| format!("revoked {at:.0}"));
                println!("{}  {:24} {:10} {store:12} {state}", key.key_id, key.name, key.role.name());
            }
        }
        ApikeyCommand::Revoke { key } => {
            let key_id = update_key_revoked(&mut conn, key, clock.now()).await?;
            println!("{key_id} is revoked; every node refuses it within two seconds");
        }
    }
    boot::disconnect(conn).await;
    Ok(())
}
