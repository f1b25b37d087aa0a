//! The secret file: where keys are kept, made and rotated.
//!
//! It is TOML with keys in hexadecimal, mode 0600, outside the data directory (the caller sees to that), or it is the
//! output of a command, such as a client of a key store. A new file is never written over an old one.
//!
//! What may change: a personal-data key is added, made current, and dropped when no row uses it; a blind key is added
//! idle beside the current one, activated, made current when all rows have both, and the old one idled and dropped; a
//! check key is added from a day on that has issued nothing yet. What may not: the permutation key and the legacy key,
//! and the check keys of days that have issued coupons. All nodes must have a key before one of them uses it, which
//! `rotate` sees to.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rand::CryptoRng;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::id::Day;

/// Most bytes of a secret file.
pub const FILE_BYTES_MAX: u64 = 64 * 1024;
/// Most personal-data keys: their number is one byte and not 0.
pub const PII_KEYS_MAX: usize = 255;
/// Most blind keys: every write of an identifier writes a row for each.
pub const BLIND_KEYS_MAX: usize = 2;
const FORMAT: u32 = 1;

/// A 256-bit key. Wiped when dropped, hidden in `Debug`.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Key256([u8; 32]);

impl Key256 {
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut key = Self([0; 32]);
        rng.fill_bytes(&mut key.0);
        key
    }

    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Key256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key256(…)")
    }
}

impl Serialize for Key256 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut hex = Zeroizing::new(String::with_capacity(64));
        for byte in self.0 {
            write!(hex, "{byte:02x}").expect("a String takes all that is written");
        }
        serializer.serialize_str(&hex)
    }
}

impl<'de> Deserialize<'de> for Key256 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let hex = Zeroizing::new(String::deserialize(deserializer)?);
        // The message must not quote the text: it is a key, if a damaged one.
        let bad = || serde::de::Error::custom("a key must be 64 hexadecimal digits");
        if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(bad());
        }
        let mut key = Self([0; 32]);
        for (byte, pair) in key.0.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| bad())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| bad())?;
        }
        Ok(key)
    }
}

/// All keys of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretFile {
    format: u32,
    /// Key of the permutation of coupon serials. Never changes.
    feistel: Key256,
    /// Key of the hashes of older systems' coupon codes. Never changes.
    legacy: Key256,
    pii_current: u8,
    blind_current: i16,
    pii: Vec<PiiKey>,
    blind: Vec<BlindKey>,
    check: Vec<CheckKey>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PiiKey {
    id: u8,
    key: Key256,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BlindKey {
    version: i16,
    /// Known, so that whoever deletes an identifier deletes its rows of this version too, but not written.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    idle: bool,
    key: Key256,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckKey {
    from_day: Day,
    key: Key256,
}

/// Why there are no secrets, or why they may not be changed so. Never holds a key.
#[derive(Debug, Error)]
pub enum SecretFileError {
    #[error("the secret file {path} cannot be {verb}")]
    Io { path: PathBuf, verb: &'static str, source: io::Error },
    #[error("the secret file {path} must be readable by its owner only (chmod 600); its mode is {mode:03o}")]
    Mode { path: PathBuf, mode: u32 },
    #[error("the secret file {path} is not a regular file")]
    NotAFile { path: PathBuf },
    #[error("the command for the secrets cannot be run")]
    Command { source: io::Error },
    #[error("the command for the secrets failed: {status}")]
    CommandFailed { status: std::process::ExitStatus },
    #[error("the secrets are longer than {FILE_BYTES_MAX} bytes")]
    TooLong,
    #[error("the secrets are not a secret file of format {FORMAT}: {why}")]
    Malformed { why: String },
    #[error("{0}")]
    Refused(&'static str),
}

impl SecretFile {
    /// New keys throughout; every day from 2000-01-01 on has the same check key.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        Self {
            format: FORMAT,
            feistel: Key256::generate(rng),
            legacy: Key256::generate(rng),
            pii_current: 1,
            blind_current: 1,
            pii: vec![PiiKey { id: 1, key: Key256::generate(rng) }],
            blind: vec![BlindKey { version: 1, idle: false, key: Key256::generate(rng) }],
            check: vec![CheckKey { from_day: Day::EPOCH, key: Key256::generate(rng) }],
        }
    }

    /// Makes new keys and writes them to a file that must not exist.
    ///
    /// # Errors
    /// [`SecretFileError::Io`], also when there is something at `path`.
    pub fn create_new(path: &Path, rng: &mut impl CryptoRng) -> Result<Self, SecretFileError> {
        let secrets = Self::generate(rng);
        write_new(path, &secrets.to_toml()).map_err(|source| io_error(path, "created", source))?;
        Ok(secrets)
    }

    /// Reads a file of mode 0600 (or 0400).
    ///
    /// # Errors
    /// [`SecretFileError`] says what is wrong with the file, without its content.
    pub fn load(path: &Path) -> Result<Self, SecretFileError> {
        let file = File::open(path).map_err(|source| io_error(path, "opened", source))?;
        let about = file.metadata().map_err(|source| io_error(path, "read", source))?;
        if !about.is_file() {
            return Err(SecretFileError::NotAFile { path: path.to_owned() });
        }
        if about.mode() & 0o077 != 0 {
            return Err(SecretFileError::Mode { path: path.to_owned(), mode: about.mode() & 0o777 });
        }
        Self::parse(&read_bounded(file).map_err(|source| io_error(path, "read", source))?)
    }

    /// Runs a shell command and reads what it prints. Its standard error goes to ours.
    ///
    /// # Errors
    /// [`SecretFileError`]: it did not run, did not succeed or did not print a secret file.
    pub fn load_command(command: &str) -> Result<Self, SecretFileError> {
        let failed = |source| SecretFileError::Command { source };
        let mut child = Command::new("/bin/sh")
            .args(["-c", command])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let stdout = child.stdout.take().expect("asked for just above");
        let text = read_bounded(stdout);
        // With its pipe closed, a command that prints too much ends by itself.
        let status = child.wait().map_err(failed)?;
        let text = text.map_err(failed)?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(SecretFileError::TooLong);
        }
        if !status.success() {
            return Err(SecretFileError::CommandFailed { status });
        }
        Self::parse(&text)
    }

    /// Changes a file: whoever reads it gets the old or the new, whole, and of two that change it the second waits for
    /// the first. Gives what stands in it now, and what `change` gave.
    ///
    /// # Errors
    /// [`SecretFileError`], also that of `change`; the old file then stands.
    pub fn edit<T>(
        path: &Path,
        change: impl FnOnce(&mut Self) -> Result<T, SecretFileError>,
    ) -> Result<(Self, T), SecretFileError> {
        let _locked = lock(path).map_err(|source| io_error(path, "locked", source))?;
        let mut secrets = Self::load(path)?;
        let before = secrets.clone();
        let made = change(&mut secrets)?;
        if secrets != before {
            secrets.replace(path)?;
        }
        Ok((secrets, made))
    }

    /// The caller holds the lock.
    fn replace(&self, path: &Path) -> Result<(), SecretFileError> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        // What a process left that was killed over it. With the lock held nobody else is at it.
        match std::fs::remove_file(&beside) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(io_error(&beside, "removed", source));
            }
            _ => {}
        }
        write_new(&beside, &self.to_toml()).map_err(|source| io_error(&beside, "created", source))?;
        let moved = std::fs::rename(&beside, path).and_then(|()| sync_folder_of(path));
        moved.map_err(|source| io_error(path, "replaced", source))
    }

    /// Adds a personal-data key, to be made current once all nodes have it.
    ///
    /// # Errors
    /// [`SecretFileError::Refused`] when all 255 numbers are taken.
    pub fn add_pii(&mut self, rng: &mut impl CryptoRng) -> Result<u8, SecretFileError> {
        // Above all others, so that the number of a dropped key is not used for another one.
        let last = self.pii.iter().map(|key| key.id).max().unwrap_or(0);
        let id = last.checked_add(1).ok_or(SecretFileError::Refused("all 255 numbers of keys were used"))?;
        self.pii.push(PiiKey { id, key: Key256::generate(rng) });
        Ok(id)
    }

    /// Encrypts with this key from now on.
    ///
    /// # Errors
    /// [`SecretFileError::Refused`] when there is no such key.
    pub fn set_pii_current(&mut self, id: u8) -> Result<(), SecretFileError> {
        self.pii.iter().find(|key| key.id == id).ok_or(SecretFileError::Refused("there is no such key"))?;
        self.pii_current = id;
        Ok(())
    }

    /// Forgets a key that no stored value uses any more.
    ///
    /// # Errors
    /// [`SecretFileError::Refused`] for the current key and for the newest, whose number must not come again.
    pub fn drop_pii(&mut self, id: u8) -> Result<(), SecretFileError> {
        if id == self.pii_current || self.pii.iter().all(|key| key.id <= id) {
            return Err(SecretFileError::Refused("the current key and the newest key must stay"));
        }
        self.pii.retain(|key| key.id != id);
        Ok(())
    }

    /// Adds a second blind key, idle: it is to be activated once all nodes have it.
    ///
    /// # Errors
    /// [`SecretFileError::Refused`] when two live already or the versions are used up.
    pub fn add_blind(&mut self, rng: &mut impl CryptoRng) -> Result<i16, SecretFileError> {
        if self.blind.len() >= BLIND_KEYS_MAX {
            return Err(SecretFileError::Refused("two versions of the blind key live already: drop one first"));
        }
        let last = self.blind.iter().map(|key| key.version).max().unwrap_or(0);
        let version = last.checked_add(1).ok_or(SecretFileError::Refused("all versions of the blind key were used"))?;
        self.blind.push(BlindKey { version, idle: true, key: Key256::generate(rng) });
        Ok(version)
    }

    /// Whether rows of this version are written beside those of the current one.
    ///
    /// # Errors
    /// [`SecretFileError::Refused`] when there is no such version, and for the current one.
    pub fn set_blind_idle(&mut self, version: i16, idle: bool) -> Result<(), SecretFileError> {
        if idle && version == self.blind_current {
            return Err(SecretFileError::Refused("the current version is always written"));
        }
        self.blind_key(version)?.idle = idle;
        Ok(())
    }

    /// Looks up by this version from now on; every row must have it by then.
    ///
    /// # Errors
    /// [`SecretFileError::Refused`] when there is no such version, or it is idle.
    pub fn set_blind_current(&mut self, version: i16) -> Result<(), SecretFileError> {
        if self.blind_key(version)?.idle {
            return Err(SecretFileError::Refused("no row has this version yet: run `tessera keys rotate blind` first"));
        }
        self.blind_current = version;
        Ok(())
    }

    fn blind_key(&mut self, version: i16) -> Result<&mut BlindKey, SecretFileError> {
        let found = self.blind.iter_mut().find(|key| key.version == version);
        found.ok_or(SecretFileError::Refused("there is no such version"))
    }

    /// Forgets a version that is not current.
    ///
    /// # Errors
    /// [`SecretFileError::Refused`] for the current version.
    pub fn drop_blind(&mut self, version: i16) -> Result<(), SecretFileError> {
        if version == self.blind_current {
            return Err(SecretFileError::Refused("the current version must stay"));
        }
        self.blind.retain(|key| key.version != version);
        Ok(())
    }

    /// Adds a check key for coupons issued from `from_day` on. Older days keep theirs.
    ///
    /// # Errors
    /// [`SecretFileError::Refused`] unless `from_day` is after today, wherever it is today (two days ahead is safe in
    /// every zone), and after the last check key's first day.
    pub fn add_check(&mut self, from_day: Day, today: Day, rng: &mut impl CryptoRng) -> Result<(), SecretFileError> {
        if from_day <= today {
            return Err(SecretFileError::Refused("a check key can only begin on a day to come"));
        }
        if self.check.last().is_some_and(|last| from_day <= last.from_day) {
            return Err(SecretFileError::Refused("a check key must begin after the last one"));
        }
        self.check.push(CheckKey { from_day, key: Key256::generate(rng) });
        Ok(())
    }

    /// Personal-data keys, the current one first.
    pub fn pii(&self) -> impl Iterator<Item = (u8, &Key256)> {
        let current = self.pii.iter().filter(|key| key.id == self.pii_current);
        let others = self.pii.iter().filter(|key| key.id != self.pii_current);
        current.chain(others).map(|key| (key.id, &key.key))
    }

    /// Blind keys, the current version first.
    pub fn blind(&self) -> impl Iterator<Item = (i16, &Key256)> {
        let current = self.blind.iter().filter(|key| key.version == self.blind_current);
        let other = self.blind.iter().filter(|key| key.version != self.blind_current);
        current.chain(other).map(|key| (key.version, &key.key))
    }

    /// Whether this version of the blind key is known but not written.
    pub fn is_idle(&self, version: i16) -> bool {
        self.blind.iter().any(|key| key.version == version && key.idle)
    }

    /// Check keys with their first days, ascending.
    pub fn checks(&self) -> impl Iterator<Item = (Day, &Key256)> {
        self.check.iter().map(|key| (key.from_day, &key.key))
    }

    pub fn feistel(&self) -> &Key256 {
        &self.feistel
    }

    pub fn legacy(&self) -> &Key256 {
        &self.legacy
    }

    /// Reads the text of a secret file.
    ///
    /// # Errors
    /// [`SecretFileError`] says what is wrong with it, without quoting it.
    pub fn parse(text: &[u8]) -> Result<Self, SecretFileError> {
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(SecretFileError::TooLong);
        }
        let malformed = |why: String| SecretFileError::Malformed { why };
        let text = std::str::from_utf8(text).map_err(|_| malformed("it is not UTF-8".into()))?;
        // `message` leaves out the excerpt that `Display` of a TOML error shows: the line may hold a key.
        let secrets: Self = toml::from_str(text).map_err(|error| malformed(error.message().to_owned()))?;
        secrets.check().map_err(|why| malformed(why.to_owned()))?;
        Ok(secrets)
    }

    fn check(&self) -> Result<(), &'static str> {
        let distinct = |mut numbers: Vec<i32>| {
            let all = numbers.len();
            numbers.sort_unstable();
            numbers.dedup();
            numbers.len() == all
        };
        let pii: Vec<i32> = self.pii.iter().map(|key| key.id.into()).collect();
        let blind: Vec<i32> = self.blind.iter().map(|key| key.version.into()).collect();
        if self.format != FORMAT {
            return Err("its format is another");
        }
        if pii.contains(&0) || !pii.contains(&self.pii_current.into()) || !distinct(pii) {
            return Err("the ids of pii keys must be distinct, not 0, and include pii_current");
        }
        if blind.len() > BLIND_KEYS_MAX || !blind.contains(&self.blind_current.into()) || !distinct(blind) {
            return Err("there must be one or two blind keys of distinct versions, including blind_current");
        }
        if self.is_idle(self.blind_current) {
            return Err("the blind key of blind_current cannot be idle");
        }
        let ascending = self.check.is_sorted_by(|a, b| a.from_day < b.from_day);
        if !ascending || self.check.first().map(|key| key.from_day) != Some(Day::EPOCH) {
            return Err("the first check key must begin on 2000-01-01 and each other one after the one before it");
        }
        Ok(())
    }

    fn to_toml(&self) -> Zeroizing<String> {
        let keys = Zeroizing::new(toml::to_string(self).expect("plain numbers, strings and tables are TOML"));
        Zeroizing::new(format!(
            "# The keys of a Tessera installation. Whoever has this file can read personal data and make coupons;\n\
             # without it the database's personal data is lost. Keep a copy apart from the database's backups.\n{}",
            *keys
        ))
    }
}

fn io_error(path: &Path, verb: &'static str, source: io::Error) -> SecretFileError {
    SecretFileError::Io { path: path.to_owned(), verb, source }
}

/// At most one byte more than is allowed. The buffer is allocated once: growing would leave copies behind.
fn read_bounded(from: impl Read) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut text = Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX as usize + 64));
    from.take(FILE_BYTES_MAX + 1).read_to_end(&mut text)?;
    Ok(text)
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).and_then(|()| sync_folder_of(path));
    if written.is_err() {
        // Half a secret file is worse than none; if it can't be removed, the first error still says why.
        let _ = std::fs::remove_file(path);
    }
    written
}

/// Waits for the lock on the file that is at `path` when it is got, and no longer the one before a change.
fn lock(path: &Path) -> io::Result<File> {
    loop {
        let file = File::open(path)?;
        fs2::FileExt::lock_exclusive(&file)?;
        let (held, there) = (file.metadata()?, std::fs::metadata(path)?);
        if (held.dev(), held.ino()) == (there.dev(), there.ino()) {
            return Ok(file);
        }
    }
}

/// Makes a new name last through a power cut.
fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn day(text: &str) -> Day {
        text.parse().unwrap()
    }

    #[test]
    fn a_new_file_is_private_reads_back_and_is_never_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secrets.toml");
        let made = SecretFile::create_new(&path, &mut StdRng::seed_from_u64(1)).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(SecretFile::load(&path).unwrap(), made);
        let error = SecretFile::create_new(&path, &mut StdRng::seed_from_u64(2)).unwrap_err();
        assert!(matches!(&error, SecretFileError::Io { source, .. } if source.kind() == io::ErrorKind::AlreadyExists));
        assert_eq!(SecretFile::load(&path).unwrap(), made);
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secrets.toml");
        let made = SecretFile::create_new(&path, &mut StdRng::seed_from_u64(1)).unwrap();
        for mode in [0o640, 0o604, 0o644, 0o620] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(SecretFile::load(&path), Err(SecretFileError::Mode { mode: m, .. }) if m == mode));
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
        assert_eq!(SecretFile::load(&path).unwrap(), made);
        assert!(matches!(SecretFile::load(folder.path()), Err(SecretFileError::NotAFile { .. })));
    }

    #[test]
    fn secrets_come_from_a_command_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secrets.toml");
        let made = SecretFile::create_new(&path, &mut StdRng::seed_from_u64(1)).unwrap();
        assert_eq!(SecretFile::load_command(&format!("cat {}", path.display())).unwrap(), made);
        assert!(matches!(SecretFile::load_command("exit 3"), Err(SecretFileError::CommandFailed { .. })));
        assert!(matches!(SecretFile::load_command("echo no"), Err(SecretFileError::Malformed { .. })));
        assert!(matches!(SecretFile::load_command("yes"), Err(SecretFileError::TooLong)));
    }

    #[test]
    fn a_changed_file_replaces_the_old_one_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secrets.toml");
        let mut rng = StdRng::seed_from_u64(1);
        let made = SecretFile::create_new(&path, &mut rng).unwrap();
        // What a process left that was killed.
        std::fs::write(folder.path().join("secrets.toml.new"), "half").unwrap();
        let (secrets, id) = SecretFile::edit(&path, |file| {
            file.add_check(day("2026-11-24"), day("2026-11-22"), &mut rng)?;
            file.add_blind(&mut rng)?;
            file.add_pii(&mut rng)
        })
        .unwrap();
        assert_eq!((id, SecretFile::load(&path).unwrap()), (2, secrets.clone()));
        assert_ne!(secrets, made);
        assert!(SecretFile::edit(&path, |file| file.drop_pii(1)).is_err());
        assert_eq!(SecretFile::load(&path).unwrap(), secrets);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn of_many_that_change_a_file_at_once_none_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secrets.toml");
        SecretFile::create_new(&path, &mut StdRng::seed_from_u64(1)).unwrap();
        std::thread::scope(|scope| {
            for seed in 0..8 {
                let path = &path;
                scope.spawn(move || SecretFile::edit(path, |file| file.add_pii(&mut StdRng::seed_from_u64(seed))));
            }
        });
        assert_eq!(SecretFile::load(&path).unwrap().pii().count(), 9);
    }

    #[test]
    fn check_keys_begin_in_the_future_and_one_after_the_other() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut secrets = SecretFile::generate(&mut rng);
        let today = day("2026-11-22");
        assert!(secrets.add_check(today, today, &mut rng).is_err());
        secrets.add_check(day("2026-11-24"), today, &mut rng).unwrap();
        assert!(secrets.add_check(day("2026-11-23"), today, &mut rng).is_err());
        let from: Vec<String> = secrets.checks().map(|(day, _)| day.to_string()).collect();
        assert_eq!(from, ["2000-01-01", "2026-11-24"]);
    }

    #[test]
    fn what_is_malformed_is_refused_without_showing_it() {
        let good = SecretFile::generate(&mut StdRng::seed_from_u64(1)).to_toml();
        let key = good.split("feistel = \"").nth(1).unwrap()[..64].to_owned();
        for (from, to) in [
            ("format = 1", "format = 2"),
            ("pii_current = 1", "pii_current = 2"),
            ("blind_current = 1", "blind_current = 2"),
            ("2000-01-01", "2000-01-02"),
            ("id = 1", "id = 0"),
            ("feistel = \"", "feistel = \"00"),
            ("feistel = \"", "feistel = "),
            (key.as_str(), "zz"),
            ("legacy", "legazy"),
        ] {
            let bad = good.replacen(from, to, 1);
            let error = SecretFile::parse(bad.as_bytes()).unwrap_err();
            assert!(matches!(error, SecretFileError::Malformed { .. }), "{from} → {to}: {error}");
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains(&key[..16]), "{shown}");
        }
        assert!(SecretFile::parse(good.as_bytes()).is_ok());
    }
}
