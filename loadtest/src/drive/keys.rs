//! The API keys that a run speaks with. They come from a file or a variable and are never printed.
//!
//! A line is `role key` or `pos key store`, as `tessera serve --demo` writes them. Tills need `pos` keys: a key has a limit of
//! requests a second on the server, and stands for a store. With an admin key alone everything works within that limit.

use std::{fmt, path::Path};

use anyhow::{Context, bail, ensure};
use hyper::header::HeaderValue;
use rand::{SeedableRng, rngs::StdRng};
use sqlx::{Connection, PgConnection};
use tessera::{
    chain::{
        NewStore, StoreId, StoreName,
        key::{KeyName, NewToken, Role, insert_key},
        store::{find_store, insert_store},
    },
    clock::Clock,
};

/// The store of the demo's `pos` key, which stands without one in its file.
const DEMO_STORE: &str = "S0001";

/// A key, ready to be sent.
#[derive(Clone)]
pub struct Key {
    pub bearer: HeaderValue,
    /// The part that is no secret and names it in the database.
    pub id: String,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id)
    }
}

impl Key {
    /// # Errors
    /// When it is not of the shape of a key.
    pub fn new(token: &str) -> anyhow::Result<Self> {
        let mut parts = token.split('_');
        let (Some("tsk"), Some(id), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            bail!("a key looks like tsk_<id>_<secret>");
        };
        let mut bearer = HeaderValue::from_str(&format!("Bearer {token}")).context("a key is of visible letters")?;
        bearer.set_sensitive(true);
        Ok(Self { bearer, id: id.to_owned() })
    }
}

/// What a run can say who it is.
#[derive(Debug, Clone)]
pub struct Keys {
    /// Makes stores, rules, members, jobs.
    pub admin: Key,
    /// Stores with a key of their own.
    pub pos: Vec<(String, Key)>,
}

impl Keys {
    /// Reads the file, or the variable `TESSERA_LOAD_KEYS` with the same lines.
    ///
    /// # Errors
    /// Says which line is wrong, never what stands in it.
    pub fn load(file: Option<&Path>) -> anyhow::Result<Self> {
        let text = match file {
            Some(file) => std::fs::read_to_string(file)
                .with_context(|| format!("the keys cannot be read from {}", file.display()))?,
            None => std::env::var("TESSERA_LOAD_KEYS").ok().context(
                "no keys: name a file of them with --keys, or put its lines into TESSERA_LOAD_KEYS. A line is `admin KEY` \
                 or `pos KEY STORE`. `loadtest keys --database-url URL` makes such a file, and so does `tessera serve --demo`",
            )?,
        };
        Self::parse(&text)
    }

    /// # Errors
    /// As [`Keys::load`].
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let (mut admin, mut pos) = (None, Vec::new());
        for (no, line) in text.lines().enumerate() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let key = |token| Key::new(token).with_context(|| format!("line {} of the keys", no + 1));
            match words[..] {
                [] => {}
                [first, ..] if first.starts_with('#') => {}
                ["admin", token] => admin = Some(key(token)?),
                ["pos", token] => pos.push((DEMO_STORE.to_owned(), key(token)?)),
                ["pos", token, store] => pos.push((store.to_owned(), key(token)?)),
                ["ops" | "marketing", _] => {}
                _ => bail!("line {} of the keys is not `role key` or `pos key store`", no + 1),
            }
        }
        let admin = admin.context("there is no admin key, which makes the rules, members and coupons of a run")?;
        Ok(Self { admin, pos })
    }
}

/// Makes stores and their keys in a database.
#[derive(clap::Args)]
pub struct KeysArgs {
    /// The database, as the service's role.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: String,
    /// Stores to make, each with a key for its tills.
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub stores: u16,
    /// Where the keys go; the file is for its owner only.
    #[arg(long, default_value = "load-keys", value_name = "FILE")]
    pub out: std::path::PathBuf,
}

/// # Errors
/// When the database or the file cannot be written.
pub async fn run(args: &KeysArgs) -> anyhow::Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let mut conn = super::check::connect(&args.database_url).await?;
    // Before the keys are: one that nobody can read would be an admin's, and stay.
    let mut options = std::fs::OpenOptions::new();
    let cannot = || format!("the keys cannot be written to {}: choose another with --out", args.out.display());
    let mut file = options.create_new(true).write(true).mode(0o600).open(&args.out).with_context(cannot)?;
    let made = async {
        sqlx::raw_sql("begin").execute(&mut conn).await?;
        let text = make(&mut conn, usize::from(args.stores), &mut StdRng::from_os_rng()).await?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).with_context(cannot)?;
        sqlx::raw_sql("commit").execute(&mut conn).await?;
        anyhow::Ok(())
    };
    if let Err(error) = made.await {
        let _ = std::fs::remove_file(&args.out);
        return Err(error);
    }
    conn.close().await?;
    println!("{}: an admin key and keys for {} stores", args.out.display(), args.stores);
    Ok(())
}

/// Makes the stores that are missing, and new keys; gives the lines of a key file.
///
/// # Errors
/// Those of the database.
pub async fn make(conn: &mut PgConnection, stores: usize, rng: &mut StdRng) -> anyhow::Result<String> {
    ensure!(stores > 0, "at least one store");
    let now = Clock::system().now();
    let mut lines = String::new();
    let mut key = async |conn: &mut PgConnection, role: Role, store: Option<&StoreId>| {
        let token = NewToken::mint(rng);
        let name = KeyName::parse(format!("load-{}", token.key_id()))?;
        insert_key(conn, &name, role, store, &token, now).await.map_err(|error| anyhow::anyhow!("{error}"))?;
        anyhow::Ok(token.reveal())
    };
    lines.push_str(&format!("admin {}\n", key(conn, Role::Admin, None).await?));
    for n in 1..=stores {
        let name = store_name(n);
        let store = StoreId::parse(name.clone())?;
        if find_store(conn, &store).await.map_err(|error| anyhow::anyhow!("{error}"))?.is_none() {
            let new = NewStore::new(store.clone(), StoreName::parse(format!("Load {n}"))?);
            insert_store(conn, &new, now).await.map_err(|error| anyhow::anyhow!("{error}"))?;
        }
        lines.push_str(&format!("pos {} {name}\n", key(conn, Role::Pos, Some(&store)).await?));
    }
    Ok(lines)
}

/// What the n-th store of a run is called, from 1.
pub fn store_name(n: usize) -> String {
    format!("L{n:04}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_and_never_shown() {
        let keys =
            Keys::parse("# mine\nadmin tsk_aa_bb\nmarketing tsk_x_y\npos tsk_cc_dd\npos tsk_ee_ff L0002\n").unwrap();
        assert_eq!(keys.admin.id, "aa");
        assert_eq!(keys.pos[1].0, "L0002");
        let shown = format!("{keys:?}");
        assert!(!shown.contains("bb") && !shown.contains("dd") && !shown.contains("ff"), "{shown}");
        let error = format!("{:#}", Keys::parse("admin secretsecret").unwrap_err());
        assert!(error.contains("line 1") && !error.contains("secret\u{73}ecret"), "{error}");
    }
}
