//! The directory of an embedded cluster: its user, its configuration, its memory, its socket.
//!
//! Layout of the data directory: `pg/` is PGDATA, `run/` holds the socket, `postgres.log` what the server says,
//! `tessera.lock` the lock. A cluster is made as `pg.new` and renamed, so that a half-made one is never taken for whole.

use std::{
    ffi::CString,
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
};

use super::{EmbeddedError, EmbeddedSettings, SUPERUSER, binaries, binaries::Binaries, supervisor};

/// Longest path of a Unix socket (`sun_path` less its terminator).
const SOCKET_PATH_MAX: usize = 107;
const SOCKET_NAME: &str = ".s.PGSQL.5432";
/// Below this, PostgreSQL would fail in less clear ways.
const FREE_MIB_MIN: u64 = 64;
/// A new cluster takes about 40 MiB and its first WAL segments.
const FREE_MIB_MIN_NEW: u64 = 256;
/// The log is put aside when it has grown to this.
pub const LOG_BYTES_MAX: u64 = 64 << 20;

/// The user as whom the server runs when Tessera is root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

/// A cluster that exists on disk and all that is needed to start it.
#[derive(Debug)]
pub struct Cluster {
    pub data_dir: PathBuf,
    pub pgdata: PathBuf,
    pub socket_dir: PathBuf,
    pub log: PathBuf,
    pub binaries: Binaries,
    /// None when Tessera is not root: the server runs as the same user.
    pub user: Option<User>,
    pub durable: bool,
    pub fills: bool,
}

/// Makes the data directory if needed and gives its absolute path.
pub fn prepare_dir(dir: &Path) -> Result<PathBuf, EmbeddedError> {
    let refused = |e: &io::Error| EmbeddedError::NotWritable { dir: dir.to_owned(), cause: short(e) };
    fs::DirBuilder::new().recursive(true).mode(0o711).create(dir).map_err(|e| refused(&e))?;
    fs::canonicalize(dir).map_err(|e| refused(&e))
}

impl Cluster {
    /// Whether one was made in `data_dir`.
    pub fn exists(data_dir: &Path) -> bool {
        data_dir.join("pg").join("PG_VERSION").exists()
    }

    /// Opens the cluster in `data_dir` or makes one; true when it was made.
    pub fn open_or_create(data_dir: &Path, settings: &EmbeddedSettings) -> Result<(Self, bool), EmbeddedError> {
        let pgdata = data_dir.join("pg");
        let exists = Self::exists(data_dir);
        check_space(data_dir, if exists { FREE_MIB_MIN } else { FREE_MIB_MIN_NEW })?;
        let data_major = if exists { Some(read_major(&pgdata)?) } else { None };
        let binaries = binaries::find(settings.pg_bin.as_deref(), data_dir, data_major)?;
        let user = server_user(exists.then_some(pgdata.as_path()))?;
        if let Some(user) = &user {
            check_reachable(user, data_dir)?;
        }
        let socket_dir = prepare_socket_dir(data_dir, user.as_ref())?;
        let cluster = Self {
            data_dir: data_dir.to_owned(),
            pgdata,
            socket_dir,
            log: data_dir.join("postgres.log"),
            binaries,
            user,
            durable: settings.durable,
            fills: settings.fills,
        };
        if !exists {
            cluster.create()?;
        }
        cluster.configure(settings)?;
        Ok((cluster, !exists))
    }

    /// A command that runs as the server's user and dies with the calling thread.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.binaries.program(program));
        // Nothing of our own environment may change what PostgreSQL does.
        for (name, _) in std::env::vars_os() {
            let name_text = name.to_string_lossy();
            if name_text.starts_with("PG") || name_text.starts_with("TESSERA_") || name_text == "DATABASE_URL" {
                command.env_remove(&name);
            }
        }
        command.env("LC_ALL", "C.UTF-8").env("TZ", "UTC").current_dir(&self.data_dir);
        supervisor::tie(&mut command, self.user.as_ref());
        command
    }

    fn create(&self) -> Result<(), EmbeddedError> {
        let fresh = self.data_dir.join("pg.new");
        if fresh.exists() {
            fs::remove_dir_all(&fresh).map_err(EmbeddedError::io(format!("removing {}", fresh.display())))?;
        }
        if self.pgdata.exists() {
            // A directory without PG_VERSION is not ours to fill: only an empty one is replaced by the rename below.
            fs::remove_dir(&self.pgdata).map_err(|e| EmbeddedError::NotWritable {
                dir: self.pgdata.clone(),
                cause: format!("it is no database directory and not empty: {}", short(&e)),
            })?;
        }
        make_private_dir(&fresh, self.user.as_ref())?;
        let mut said = self.initdb(&fresh, "C.UTF-8")?;
        if said.as_deref().is_some_and(|said| said.contains("invalid locale name")) {
            said = self.initdb(&fresh, "C")?;
        }
        if let Some(said) = said {
            // Without a remedy of its own, a full disk would hide in initdb's words.
            let full = said.contains("No space left on device");
            let _ = fs::remove_dir_all(&fresh);
            if full {
                check_space(&self.data_dir, FREE_MIB_MIN_NEW)?;
            }
            return Err(EmbeddedError::Initdb { said });
        }
        fs::rename(&fresh, &self.pgdata).map_err(EmbeddedError::io("putting the new database directory in place"))
    }

    /// Runs initdb; what it complained of, or None when it succeeded.
    fn initdb(&self, into: &Path, locale: &str) -> Result<Option<String>, EmbeddedError> {
        let mut command = self.command("initdb");
        command
            .arg("--pgdata")
            .arg(into)
            .args(["--username", SUPERUSER, "--auth=peer", "--data-checksums", "--encoding=UTF8"])
            .arg(format!("--locale={locale}"));
        if !self.durable {
            command.arg("--no-sync");
        }
        let output = command.output().map_err(EmbeddedError::io("starting initdb"))?;
        if output.status.success() {
            return Ok(None);
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        let said =
            stderr.lines().filter(|line| line.contains("error") || line.contains("fatal") || line.contains("FATAL"));
        let said: Vec<&str> = said.collect();
        Ok(Some(if said.is_empty() { stderr.trim().replace('\n', " ") } else { said.join("; ") }))
    }

    /// Writes who may come in and how much memory there is; done at each start, since both may have changed.
    fn configure(&self, settings: &EmbeddedSettings) -> Result<(), EmbeddedError> {
        let own = own_user_name()?;
        let hba = "# Written by Tessera at each start.\nlocal all all peer map=tessera\n\
                   local replication all peer map=tessera\n";
        self.write("pg_hba.conf", hba)?;
        let mut ident = String::from("# Written by Tessera at each start.\n");
        for role in [SUPERUSER, "tessera_owner", "tessera_upkeep", "tessera_service", "tessera_report"] {
            ident.push_str(&format!("tessera \"{own}\" {role}\n"));
        }
        self.write("pg_ident.conf", &ident)?;

        let memory_mib = memory_mib();
        let shared = settings.shared_buffers_mib.unwrap_or_else(|| (memory_mib / 4).clamp(128, 8192));
        let disk_mib = space(&self.data_dir).map_or(u64::MAX, |(_, total)| total);
        let tuning = tuning(memory_mib, disk_mib, shared, settings.connections_max, settings.durable);
        self.write("tessera.conf", &tuning)?;
        let main = self.pgdata.join("postgresql.conf");
        let text = fs::read_to_string(&main).map_err(EmbeddedError::io("reading postgresql.conf"))?;
        if !text.contains("include 'tessera.conf'") {
            let text = format!("{text}\n# Tessera's own; ALTER SYSTEM overrides it.\ninclude 'tessera.conf'\n");
            self.write("postgresql.conf", &text)?;
        }
        if !self.takes("wal_compression", "lz4") {
            self.write("tessera.conf", &tuning.replace("wal_compression = lz4", "wal_compression = on"))?;
        }
        Ok(())
    }

    /// Asks the server's program whether it knows a value (a build may lack lz4).
    fn takes(&self, name: &str, value: &str) -> bool {
        let mut command = self.command("postgres");
        command.arg("-D").arg(&self.pgdata).args(["-C", name, "-c"]).arg(format!("{name}={value}"));
        command.output().is_ok_and(|output| output.status.success())
    }

    fn write(&self, name: &str, text: &str) -> Result<(), EmbeddedError> {
        let path = self.pgdata.join(name);
        let refused = |e: io::Error| EmbeddedError::NotWritable { dir: self.pgdata.clone(), cause: short(&e) };
        if fs::read_to_string(&path).is_ok_and(|present| present == text) {
            return Ok(());
        }
        // Through a rename, so that a full disk leaves the old text rather than half of the new.
        let fresh = self.pgdata.join(format!("{name}.new"));
        fs::write(&fresh, text).map_err(refused)?;
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600)).map_err(refused)?;
        chown(&fresh, self.user.as_ref()).map_err(refused)?;
        fs::rename(&fresh, &path).map_err(refused)
    }

    /// The pid that a running or crashed server left, if any.
    pub fn postmaster_pid(&self) -> Option<u32> {
        fs::read_to_string(self.pgdata.join("postmaster.pid")).ok()?.lines().next()?.trim().parse().ok()
    }
}

/// Durable, few full-page writes, plans for tables that are in memory.
fn tuning(memory_mib: u64, disk_mib: u64, shared_mib: u64, connections_max: u16, durable: bool) -> String {
    let wal_mib = (disk_mib / 10).clamp(256, 16_384);
    let mut text = format!(
        "# Written by Tessera at each start.\n\
         max_connections = {connections_max}\n\
         shared_buffers = {shared_mib}MB\n\
         effective_cache_size = {cache}MB\n\
         maintenance_work_mem = {maintenance}MB\n\
         work_mem = 16MB\n\
         wal_compression = lz4\n\
         max_wal_size = {wal_mib}MB\n\
         min_wal_size = {min_wal}MB\n\
         checkpoint_timeout = 30min\n\
         checkpoint_completion_target = 0.9\n\
         recovery_init_sync_method = syncfs\n\
         random_page_cost = 1.1\n\
         jit = off\n\
         client_connection_check_interval = 2s\n\
         log_min_messages = warning\n\
         log_min_error_statement = panic\n\
         log_error_verbosity = terse\n\
         log_checkpoints = off\n\
         log_line_prefix = '%m [%p] '\n\
         log_timezone = 'UTC'\n\
         timezone = 'UTC'\n",
        cache = (memory_mib * 3 / 4).max(shared_mib),
        maintenance = (memory_mib / 16).clamp(64, 1024),
        min_wal = (wal_mib / 8).clamp(80, 1024),
    );
    if !durable {
        text.push_str("fsync = off\n");
    }
    text
}

fn read_major(pgdata: &Path) -> Result<u32, EmbeddedError> {
    let path = pgdata.join("PG_VERSION");
    match fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map_err(|_| EmbeddedError::Io {
            what: format!("reading {}", path.display()),
            source: io::Error::other("it holds no version"),
        }),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(foreign(pgdata)),
        Err(error) => Err(EmbeddedError::io(format!("reading {}", path.display()))(error)),
    }
}

fn foreign(pgdata: &Path) -> EmbeddedError {
    let uid = fs::metadata(pgdata).map_or(0, |meta| meta.uid());
    EmbeddedError::Foreign { dir: pgdata.to_owned(), uid }
}

/// As root: the owner of an existing cluster, else `postgres`, else `nobody`. Not root: None, and the cluster is ours.
fn server_user(existing: Option<&Path>) -> Result<Option<User>, EmbeddedError> {
    let own = effective_uid();
    let owner = existing.and_then(|pgdata| fs::metadata(pgdata).ok()).map(|meta| (meta.uid(), meta.gid()));
    if own != 0 {
        return match (owner, existing) {
            (Some((uid, _)), Some(pgdata)) if uid != own => Err(foreign(pgdata)),
            _ => Ok(None),
        };
    }
    if let Some((uid, gid)) = owner
        && uid != 0
    {
        let name = user_by_uid(uid).map_or_else(|| format!("uid {uid}"), |user| user.name);
        return Ok(Some(User { name, uid, gid }));
    }
    ["postgres", "nobody"].into_iter().find_map(user_by_name).map(Some).ok_or(EmbeddedError::NoUser)
}

pub fn effective_uid() -> u32 {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() }
}

fn own_user_name() -> Result<String, EmbeddedError> {
    let uid = effective_uid();
    user_by_uid(uid).map(|user| user.name).ok_or_else(|| EmbeddedError::Io {
        what: format!("looking up the name of user {uid}"),
        source: io::Error::other("it is not in /etc/passwd, which PostgreSQL wants; start Tessera as a user who is"),
    })
}

/// Users of /etc/passwd: where containers and hosts have the service users. Directory services are asked through
/// `getent`, which may be absent.
fn users() -> Vec<User> {
    let file = fs::read_to_string("/etc/passwd").unwrap_or_default();
    file.lines().filter_map(parse_passwd).collect()
}

fn user_by_name(name: &str) -> Option<User> {
    users().into_iter().find(|user| user.name == name && user.uid != 0).or_else(|| getent(name))
}

fn user_by_uid(uid: u32) -> Option<User> {
    users().into_iter().find(|user| user.uid == uid).or_else(|| getent(&uid.to_string()))
}

fn getent(key: &str) -> Option<User> {
    let output = Command::new("getent").args(["passwd", key]).output().ok()?;
    String::from_utf8_lossy(&output.stdout).lines().find_map(parse_passwd)
}

fn parse_passwd(line: &str) -> Option<User> {
    let mut fields = line.split(':');
    let name = fields.next()?.to_owned();
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some(User { name, uid, gid })
}

/// Fails with the first directory on the way that the user may not pass.
fn check_reachable(user: &User, dir: &Path) -> Result<(), EmbeddedError> {
    for ancestor in dir.ancestors() {
        let Ok(meta) = fs::metadata(ancestor) else { continue };
        let bit = match (meta.uid() == user.uid, meta.gid() == user.gid) {
            (true, _) => 0o100,
            (false, true) => 0o010,
            (false, false) => 0o001,
        };
        if meta.mode() & bit == 0 {
            return Err(EmbeddedError::Unreachable {
                user: user.name.clone(),
                dir: dir.to_owned(),
                closed: ancestor.to_owned(),
            });
        }
    }
    Ok(())
}

/// `run` in the data directory, or a short one under /tmp where the path of the socket would be too long.
pub fn socket_dir(data_dir: &Path) -> PathBuf {
    let near = data_dir.join("run");
    if near.as_os_str().len() + 1 + SOCKET_NAME.len() <= SOCKET_PATH_MAX {
        return near;
    }
    let hash = xxhash_rust::xxh3::xxh3_64(data_dir.as_os_str().as_encoded_bytes());
    PathBuf::from(format!("/tmp/tessera-{hash:016x}"))
}

fn prepare_socket_dir(data_dir: &Path, user: Option<&User>) -> Result<PathBuf, EmbeddedError> {
    let dir = socket_dir(data_dir);
    make_private_dir(&dir, user)?;
    Ok(dir)
}

/// A directory of mode 0700 that belongs to the server's user. One that exists must be a directory of that user's
/// (or, for root, become so): under /tmp anybody may have put something there.
fn make_private_dir(dir: &Path, user: Option<&User>) -> Result<(), EmbeddedError> {
    let refused = |e: io::Error| EmbeddedError::NotWritable { dir: dir.to_owned(), cause: short(&e) };
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => chown(dir, user).map_err(refused),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let meta = fs::symlink_metadata(dir).map_err(refused)?;
            let wanted = user.map_or_else(effective_uid, |user| user.uid);
            if !meta.is_dir() || (meta.uid() != wanted && meta.uid() != effective_uid()) {
                return Err(refused(io::Error::other(format!(
                    "it is there already and belongs to uid {}, not to uid {wanted}",
                    meta.uid()
                ))));
            }
            fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(refused)?;
            chown(dir, user).map_err(refused)
        }
        Err(error) => Err(refused(error)),
    }
}

fn chown(path: &Path, user: Option<&User>) -> io::Result<()> {
    match user {
        Some(user) => std::os::unix::fs::lchown(path, Some(user.uid), Some(user.gid)),
        None => Ok(()),
    }
}

fn check_space(dir: &Path, wanted_mib: u64) -> Result<(), EmbeddedError> {
    match space(dir) {
        Some((free_mib, _)) if free_mib < wanted_mib => {
            Err(EmbeddedError::DiskFull { dir: dir.to_owned(), free_mib, wanted_mib })
        }
        _ => Ok(()),
    }
}

/// Free and total MiB of the file system.
fn space(dir: &Path) -> Option<(u64, u64)> {
    let path = CString::new(dir.as_os_str().as_encoded_bytes()).ok()?;
    // SAFETY: the path is a terminated string and `stat` a plain struct that statvfs fills; it is read only on success.
    let stat = unsafe {
        let mut stat: libc::statvfs = std::mem::zeroed();
        if libc::statvfs(path.as_ptr(), &mut stat) != 0 {
            return None;
        }
        stat
    };
    let block = stat.f_frsize;
    Some(((stat.f_bavail * block) >> 20, (stat.f_blocks * block) >> 20))
}

/// The machine's memory, or what the control group allows, whichever is less.
fn memory_mib() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        })
        .map_or(1024, |kib| kib / 1024);
    let group = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .into_iter()
        .find_map(|path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok())
        .map_or(u64::MAX, |bytes| bytes >> 20);
    machine.min(group)
}

/// An I/O error in few words.
pub fn short(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(at) => text[..at].to_lowercase(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_passwd_is_a_user() {
        let user = parse_passwd("postgres:x:105:113:PostgreSQL,,,:/var/lib/postgresql:/bin/bash");
        assert_eq!(user, Some(User { name: "postgres".into(), uid: 105, gid: 113 }));
        assert_eq!(parse_passwd("broken"), None);
    }

    #[test]
    fn memory_and_wal_follow_the_machine_within_bounds() {
        let small = tuning(512, 2_000, 128, 20, true);
        assert!(small.contains("max_wal_size = 256MB") && small.contains("maintenance_work_mem = 64MB"), "{small}");
        let large = tuning(262_144, 4_000_000, 8192, 200, true);
        assert!(large.contains("max_wal_size = 16384MB") && large.contains("shared_buffers = 8192MB"), "{large}");
        assert!(!large.contains("fsync"), "durability is PostgreSQL's default and stays");
    }
}
