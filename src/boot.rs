//! What every command stands on: a database that is fit, and the secrets that belong to it.
//!
//! Without a database URL that is a PostgreSQL of our own, started here and stopped by [`Ground::close`]; a command that
//! is run while `tessera serve` holds the data directory uses the server that runs. Such a database is migrated at each
//! start. One that is named by URL is migrated only by `tessera migrate`.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use rand::CryptoRng;
use sha2::{Digest, Sha256};
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};

use crate::{
    clock::{Clock, Zone},
    config::{BadDatabaseUrl, SecretSettings, Settings},
    db::{
        embedded::{Embedded, EmbeddedError, EmbeddedSettings, Reach, SUPERUSER},
        migrate::{self, DATABASE, Migrated, MigrationError, role},
        setting::{find_setting, insert_setting},
    },
    partition::{self, DdlError, Locked, upkeep},
    secret::{SecretFile, SecretFileError, Source},
};

/// How long upkeep waits for its lock at a start: another process may be at it.
const UPKEEP_PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// Why a command cannot begin. Each prints as a sentence with its remedy.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    #[error(transparent)]
    Embedded(#[from] EmbeddedError),
    #[error(transparent)]
    Migration(#[from] MigrationError),
    #[error("{0}; correct --database-url (DATABASE_URL) or --owner-url (TESSERA_OWNER_URL)")]
    Url(#[from] BadDatabaseUrl),
    #[error("the partitions could not be made: {0}")]
    Upkeep(#[from] DdlError),
    #[error("the secrets cannot be used: {0}")]
    Secrets(#[from] SecretFileError),
    #[error("the secrets file {} is not there, but this database was filled with it; put the copy you kept in its place, \
             since without it no phone number can be read and no coupon checked", .0.display())]
    SecretsLost(PathBuf),
    #[error(
        "the secrets are not those this database was filled with; use the right ones (--secrets-file, \
             --secrets-command)"
    )]
    SecretsForeign,
    #[error("the directory for the secrets file, {}, cannot be made ({cause}); choose another with --secrets-file",
            .dir.display())]
    SecretsDir { dir: PathBuf, cause: String },
}

impl From<sqlx::Error> for BootError {
    fn from(error: sqlx::Error) -> Self {
        Self::Migration(error.into())
    }
}

/// A database to work on.
pub struct Ground {
    embedded: Option<Embedded>,
    /// How the service's role connects.
    pub service: PgConnectOptions,
    /// How migrations and partitions' upkeep connect.
    pub owner: PgConnectOptions,
    /// What this start did to the schema of a database of our own.
    pub migrated: Option<Migrated>,
}

impl Ground {
    /// For `serve`: a database of our own is started, migrated and given its partitions; one named by URL is checked.
    ///
    /// # Errors
    /// [`BootError`]; nothing is left running.
    pub async fn open(settings: &Settings, clock: &Clock, zone: Zone) -> Result<Self, BootError> {
        let ground = match Self::named(settings)? {
            Some(named) => named,
            None => Self::start(settings, clock, zone, false).await?,
        };
        match ground.check(settings, zone).await {
            Ok(()) => Ok(ground),
            Err(error) => {
                ground.close().await;
                Err(error)
            }
        }
    }

    /// For the other commands: as [`Ground::open`], or the running server of another Tessera, and unchecked but for an
    /// answer. `restored` and `migrate` come here too, whose work a check would refuse.
    ///
    /// # Errors
    /// [`BootError`].
    pub async fn visit(settings: &Settings, clock: &Clock, zone: Zone) -> Result<Self, BootError> {
        if let Some(named) = Self::named(settings)? {
            return Ok(named);
        }
        match Self::start(settings, clock, zone, false).await {
            Err(BootError::Embedded(EmbeddedError::InUse { .. })) => {
                Ok(Self::reached(None, &Reach::of(&settings.database.data_dir)?, None))
            }
            other => other,
        }
    }

    /// As [`Self::visit`], for who looks at a database: one of our own that is not there is not made. Of an empty one,
    /// made where somebody mistyped a directory, it would be said that nothing is wrong.
    ///
    /// # Errors
    /// As [`Self::visit`], and when there is none.
    pub async fn look(settings: &Settings, clock: &Clock, zone: Zone) -> Result<Self, BootError> {
        let data_dir = &settings.database.data_dir;
        if settings.database.is_embedded() && !Embedded::exists(data_dir) {
            let dir = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.clone());
            return Err(EmbeddedError::NotThere { dir }.into());
        }
        Self::visit(settings, clock, zone).await
    }

    /// As [`Self::visit`], for who fills tables with very many rows: a server of its own runs for that
    /// ([`EmbeddedSettings::fills`]).
    ///
    /// # Errors
    /// As [`Self::visit`], and when another Tessera runs on the data directory.
    pub async fn visit_to_fill(settings: &Settings, clock: &Clock, zone: Zone) -> Result<Self, BootError> {
        match Self::named(settings)? {
            Some(named) => Ok(named),
            None => Self::start(settings, clock, zone, true).await,
        }
    }

    fn named(settings: &Settings) -> Result<Option<Self>, BootError> {
        let Some(url) = &settings.database.database_url else { return Ok(None) };
        let service = url.options()?;
        let owner = settings.database.owner_url.as_ref().map_or_else(|| Ok(service.clone()), |url| url.options())?;
        Ok(Some(Self { embedded: None, service, owner, migrated: None }))
    }

    fn reached(embedded: Option<Embedded>, reach: &Reach, migrated: Option<Migrated>) -> Self {
        let (service, owner) = (reach.options(role::SERVICE, DATABASE), reach.options(role::OWNER, DATABASE));
        Self { embedded, service, owner, migrated }
    }

    async fn start(settings: &Settings, clock: &Clock, zone: Zone, fills: bool) -> Result<Self, BootError> {
        let embedded_settings = EmbeddedSettings {
            pg_bin: settings.database.pg_bin.clone(),
            fills,
            ..EmbeddedSettings::new(&settings.database.data_dir)
        };
        let embedded = Embedded::start(&embedded_settings).await?;
        let reach = embedded.reach().clone();
        let within = settings.database.connect_timeout;
        let made = async {
            let mut superuser = migrate::connect(&reach.options(SUPERUSER, "postgres"), within).await?;
            migrate::bootstrap(&mut superuser, DATABASE).await?;
            migrate::close(superuser).await;
            migrate_and_upkeep(&reach.options(role::OWNER, DATABASE), within, clock.now(), zone).await
        }
        .await;
        match made {
            Ok(migrated) => Ok(Self::reached(Some(embedded), &reach, Some(migrated))),
            Err(error) => {
                embedded.stop().await;
                Err(error)
            }
        }
    }

    async fn check(&self, settings: &Settings, zone: Zone) -> Result<(), BootError> {
        let mut conn = migrate::connect(&self.service, settings.database.connect_timeout).await?;
        migrate::check(&mut conn, zone.name()).await?;
        migrate::close(conn).await;
        Ok(())
    }

    /// The server of our own, if this process runs one.
    pub fn embedded(&self) -> Option<&Embedded> {
        self.embedded.as_ref()
    }

    /// Stops the server of our own, if there is one, and waits until it is gone.
    pub async fn close(self) {
        if let Some(embedded) = self.embedded {
            embedded.stop().await;
        }
    }
}

/// Migrations, then the leaves that must be there before the first request. What upkeep does besides takes longer and is
/// done by its job.
///
/// # Errors
/// [`BootError`].
pub async fn migrate_and_upkeep(
    owner: &PgConnectOptions,
    within: std::time::Duration,
    now: DateTime<Utc>,
    zone: Zone,
) -> Result<Migrated, BootError> {
    let mut conn = migrate::connect(owner, within).await?;
    let migrated = migrate::run(&mut conn, zone.name(), now).await?;
    migrate::close(conn).await;
    let ask = upkeep::Ask {
        today: zone.day_of(now).to_date(),
        now,
        past: None,
        leaves_only: true,
        // Of no account: this retires nothing.
        pace: partition::expire::Pace::of_window(0),
    };
    let mut locked = Locked::open(owner, partition::plans(), UPKEEP_PATIENCE).await?;
    upkeep::run(&mut locked, partition::plans(), &ask).await?;
    locked.close().await?;
    Ok(migrated)
}

/// Where the secrets are, by flag or by default.
pub fn secrets_path(settings: &Settings) -> PathBuf {
    let home = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    default_secrets_path(
        &settings.secrets,
        settings.database.is_embedded().then_some(settings.database.data_dir.as_path()),
        crate::db::embedded::effective_uid() == 0,
        home("XDG_CONFIG_HOME").or_else(|| home("HOME").map(|home| home.join(".config"))),
    )
}

/// Where the secrets come from.
pub fn secrets_source(settings: &Settings) -> Source {
    match &settings.secrets.secrets_command {
        Some(command) => Source::Command(command.clone()),
        None => Source::File(secrets_path(settings)),
    }
}

fn default_secrets_path(
    settings: &SecretSettings,
    data_dir: Option<&Path>,
    is_root: bool,
    config_home: Option<PathBuf>,
) -> PathBuf {
    if let Some(path) = &settings.secrets_file {
        return path.clone();
    }
    match (data_dir, config_home) {
        (Some(data_dir), _) => beside(data_dir, ".tessera-secrets.toml"),
        (None, Some(home)) if !is_root => home.join("tessera/secrets.toml"),
        (None, _) => PathBuf::from("/etc/tessera/secrets.toml"),
    }
}

/// A file beside the data directory, never in it: a copy of the data must not carry the keys along.
pub fn beside(data_dir: &Path, name: &str) -> PathBuf {
    let data_dir = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    data_dir.parent().map_or_else(|| PathBuf::from(name), |parent| parent.join(name))
}

/// Loads the secrets of a database, and makes them when neither they nor anything sealed with them exist.
///
/// The database keeps a fingerprint, so that a wrong or a lost file is found out before it does harm.
///
/// # Errors
/// [`BootError`].
pub async fn secrets(
    settings: &Settings,
    conn: &mut PgConnection,
    rng: &mut impl CryptoRng,
    now: DateTime<Utc>,
) -> Result<SecretFile, BootError> {
    const SETTING: &str = "secrets_fingerprint";
    let recorded = find_setting(conn, SETTING).await?;
    let secrets = match &settings.secrets.secrets_command {
        Some(command) => SecretFile::load_command(command)?,
        None => {
            let path = secrets_path(settings);
            match (path.exists(), &recorded) {
                (true, _) => SecretFile::load(&path)?,
                (false, Some(_)) => return Err(BootError::SecretsLost(path)),
                (false, None) => create_secrets(&path, rng)?,
            }
        }
    };
    let fingerprint = fingerprint(&secrets);
    insert_setting(conn, SETTING, &fingerprint, now).await?;
    // Read back: another process may have been first.
    let stands = find_setting(conn, SETTING).await?;
    if stands.as_ref() == Some(&fingerprint) { Ok(secrets) } else { Err(BootError::SecretsForeign) }
}

fn create_secrets(path: &Path, rng: &mut impl CryptoRng) -> Result<SecretFile, BootError> {
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        std::fs::create_dir_all(dir)
            .map_err(|e| BootError::SecretsDir { dir: dir.to_owned(), cause: crate::db::embedded::short_io(&e) })?;
    }
    tracing::info!(path = %path.display(), "new secrets are made; keep a copy of the file apart from the data");
    match SecretFile::create_new(path, rng) {
        // Another process made it just now.
        Err(SecretFileError::Io { source, .. }) if source.kind() == std::io::ErrorKind::AlreadyExists => {
            Ok(SecretFile::load(path)?)
        }
        made => Ok(made?),
    }
}

/// Names the secrets without giving them away, by the one key that never changes.
fn fingerprint(secrets: &SecretFile) -> String {
    let mut hash = Sha256::new();
    hash.update(b"tessera secrets fingerprint");
    hash.update(secrets.feistel().bytes());
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Connects as the service for a command.
///
/// # Errors
/// [`BootError`].
pub async fn connect(ground: &Ground, settings: &Settings) -> Result<PgConnection, BootError> {
    Ok(migrate::connect(&ground.service, settings.database.connect_timeout).await?)
}

/// Ends a command's connection.
pub async fn disconnect(conn: PgConnection) {
    let _ = conn.close().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_never_in_the_data_directory() {
        let unset = SecretSettings { secrets_file: None, secrets_command: None, secrets_every: None };
        let path = |data_dir, is_root, home: Option<&str>| {
            default_secrets_path(&unset, data_dir, is_root, home.map(PathBuf::from))
        };
        assert_eq!(path(Some(Path::new("/srv/data")), true, None), Path::new("/srv/.tessera-secrets.toml"));
        assert_eq!(path(None, false, Some("/home/a/.config")), Path::new("/home/a/.config/tessera/secrets.toml"));
        assert_eq!(path(None, true, Some("/root/.config")), Path::new("/etc/tessera/secrets.toml"));
        let named = SecretSettings { secrets_file: Some("/run/s.toml".into()), ..unset.clone() };
        assert_eq!(default_secrets_path(&named, Some(Path::new("data")), false, None), Path::new("/run/s.toml"));
    }
}
