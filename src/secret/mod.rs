//! Encryption of personal data, blind indexes and the keys of coupon codes.
//!
//! - A value is encrypted with AES-256-GCM-SIV and bound to its table, column and row id: moved elsewhere, it does not
//!   decrypt. The bytes are key id (1), nonce (12), ciphertext and tag (16).
//! - A blind index is the first 128 bits of HMAC-SHA-256 of kind and normalised identifier. One or two key versions
//!   live; whoever writes, writes both.
//! - Keys come from a [`SecretFile`]. No key and no plaintext appears in `Debug`, in an error or in a log.
//! - Keys rotate while nodes serve ([`rotate`]). [`Secrets`] is shared by `Arc` and changes inside: each call sees one
//!   state of the keys, two calls may see two. So what must be of one state is asked in one call.
//!
//! Which columns are encrypted stands in [`columns`]; that is what rotation walks. Out of scope: masking
//! (`member::key`), hashes of tokens.

pub mod columns;
mod file;
pub mod rotate;
mod source;
pub mod watch;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use aes_gcm_siv::aead::{Aead, Payload};
use aes_gcm_siv::{Aes256GcmSiv, KeyInit as _, Nonce};
use hmac::{Hmac, Mac};
use rand::RngCore;
use rand::rngs::StdRng;
use sha2::Sha256;
use thiserror::Error;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{coupon::code::CodeKeys, id::Day};

pub use file::{BLIND_KEYS_MAX, FILE_BYTES_MAX, Key256, PII_KEYS_MAX, SecretFile, SecretFileError};
pub use source::Source;

pub const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
/// What encryption adds to the length of a value.
pub const SEALED_OVERHEAD_BYTES: usize = 1 + NONCE_BYTES + TAG_BYTES;

/// The keys at work. Share it by `Arc`.
pub struct Secrets {
    ring: RwLock<Arc<Ring>>,
    /// A repeated nonce would reveal only that a value is the same as before in its place (SIV), but none repeats.
    nonces: Mutex<StdRng>,
    /// Where [`Secrets::refresh`] looks, and what it saw there last.
    source: Option<(Source, Mutex<Option<source::Stamp>>)>,
}

/// One state of the keys.
struct Ring {
    /// Current key first.
    pii: Vec<(u8, Aes256GcmSiv)>,
    /// Current version first.
    blind: Vec<Blind>,
    legacy: Hmac<Sha256>,
    codes: Arc<CodeKeys>,
    file: SecretFile,
}

struct Blind {
    version: i16,
    idle: bool,
    keyed: Hmac<Sha256>,
}

/// Which keys there are, by number. Says nothing about what they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    pub pii_current: u8,
    /// All of them, ascending.
    pub pii: Vec<u8>,
    pub blind_current: i16,
    /// Those whose rows are written, ascending.
    pub blind_written: Vec<i16>,
    /// Those and the idle ones, ascending.
    pub blind: Vec<i16>,
    /// First day of the newest check key.
    pub check_from: Day,
}

/// A stored value that does not decrypt. Names the place, never the content.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{table}.{column} of id {id} cannot be decrypted: {why}")]
pub struct Undecryptable {
    pub table: &'static str,
    pub column: &'static str,
    pub id: i64,
    pub why: WhyUndecryptable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WhyUndecryptable {
    #[error("it is shorter than any encrypted value")]
    TooShort,
    #[error("its key {0} is not in the secret file")]
    UnknownKey(u8),
    #[error("it was changed, moved from another place or encrypted with another key of the same number")]
    Refused,
    #[error("it is not text")]
    NotText,
}

impl Secrets {
    /// Readies the keys; `nonces` must come from the operating system outside tests.
    pub fn new(file: &SecretFile, nonces: StdRng) -> Self {
        Self { ring: RwLock::new(Arc::new(Ring::new(file))), nonces: Mutex::new(nonces), source: None }
    }

    /// Where these keys came from, so that [`Secrets::refresh`] sees what becomes of them.
    #[must_use]
    pub fn of(self, source: Source) -> Self {
        Self { source: Some((source, Mutex::new(None))), ..self }
    }

    /// Takes over what has changed at the source since the last look; the first look always reads. Blocks for as long
    /// as a file or a command takes. Gives whether anything changed.
    ///
    /// # Errors
    /// [`SecretFileError`]: the keys stay as they were, and the next look reads again.
    pub fn refresh(&self) -> Result<bool, SecretFileError> {
        let Some((source, seen)) = &self.source else { return Ok(false) };
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        // Before the content: what changes in between is seen the next time.
        let stamp = source.stamp();
        if stamp.is_some() && *seen == stamp {
            return Ok(false);
        }
        let changed = self.replace(&source.load()?)?;
        *seen = stamp;
        Ok(changed)
    }

    /// Works with these keys from now on. Gives whether they are others than before.
    ///
    /// # Errors
    /// [`SecretFileError::Refused`] for secrets of another chain.
    pub fn replace(&self, file: &SecretFile) -> Result<bool, SecretFileError> {
        let before = self.ring();
        if file == &before.file {
            return Ok(false);
        }
        if (file.feistel(), file.legacy()) != (before.file.feistel(), before.file.legacy()) {
            return Err(SecretFileError::Refused(
                "the keys that never change are others: these are not the secrets of \
                                                 this chain",
            ));
        }
        *self.ring.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Ring::new(file));
        Ok(true)
    }

    /// Where these keys come from, if that was said.
    pub fn source(&self) -> Option<&Source> {
        self.source.as_ref().map(|(source, _)| source)
    }

    pub fn holding(&self) -> Holding {
        Holding::of(&self.ring().file)
    }

    fn ring(&self) -> Arc<Ring> {
        Arc::clone(&self.ring.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The keys of coupon codes.
    pub fn codes(&self) -> Arc<CodeKeys> {
        Arc::clone(&self.ring().codes)
    }

    /// Encrypts a value for its place. `table` is the parent's name, whatever leaf the row is in.
    pub fn encrypt(&self, table: &'static str, column: &'static str, id: i64, plain: &str) -> Vec<u8> {
        self.encrypt_bytes(table, column, id, plain.as_bytes())
    }

    /// Encrypts bytes that need not be text, such as a piece of a file.
    pub fn encrypt_bytes(&self, table: &'static str, column: &'static str, id: i64, plain: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE_BYTES];
        self.nonces.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(&mut nonce);
        self.encrypt_with(nonce, (table, column, id), plain)
    }

    /// As [`Self::encrypt_bytes`] with a nonce of the caller's, for rows that must come out the same each time they are
    /// made. What repeats a nonce in one place for other content shows that it differs, and no more.
    pub fn encrypt_with(
        &self,
        nonce: [u8; NONCE_BYTES],
        (table, column, id): (&'static str, &'static str, i64),
        plain: &[u8],
    ) -> Vec<u8> {
        let ring = self.ring();
        let (key_id, cipher) = &ring.pii[0];
        let payload = Payload { msg: plain, aad: &place(table, column, id) };
        let sealed =
            cipher.encrypt(&Nonce::from(nonce), payload).expect("AES-GCM-SIV refuses only what is longer than 64 GiB");
        let mut out = Vec::with_capacity(1 + NONCE_BYTES + sealed.len());
        out.push(*key_id);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&sealed);
        out
    }

    /// Decrypts a value from its place.
    ///
    /// # Errors
    /// [`Undecryptable`]: the row is damaged, or its key is missing here.
    pub fn decrypt(
        &self,
        table: &'static str,
        column: &'static str,
        id: i64,
        sealed: &[u8],
    ) -> Result<String, Undecryptable> {
        String::from_utf8(self.decrypt_bytes(table, column, id, sealed)?).map_err(|bad| {
            drop(Zeroizing::new(bad.into_bytes()));
            Undecryptable { table, column, id, why: WhyUndecryptable::NotText }
        })
    }

    /// Decrypts what [`Self::encrypt_bytes`] made.
    ///
    /// # Errors
    /// As [`Self::decrypt`].
    pub fn decrypt_bytes(
        &self,
        table: &'static str,
        column: &'static str,
        id: i64,
        sealed: &[u8],
    ) -> Result<Vec<u8>, Undecryptable> {
        let refuse = |why| Undecryptable { table, column, id, why };
        if sealed.len() < SEALED_OVERHEAD_BYTES {
            return Err(refuse(WhyUndecryptable::TooShort));
        }
        let (key_id, rest) = (sealed[0], &sealed[1..]);
        let (nonce, body) = rest.split_at(NONCE_BYTES);
        let nonce: [u8; NONCE_BYTES] = nonce.try_into().expect("split at exactly this length");
        let ring = self.ring();
        let (_, cipher) =
            ring.pii.iter().find(|(known, _)| *known == key_id).ok_or(refuse(WhyUndecryptable::UnknownKey(key_id)))?;
        let payload = Payload { msg: body, aad: &place(table, column, id) };
        cipher.decrypt(&Nonce::from(nonce), payload).map_err(|_| refuse(WhyUndecryptable::Refused))
    }

    /// Whether a value was encrypted with another key than the current one, so that rotation must write it again.
    pub fn is_stale(&self, sealed: &[u8]) -> bool {
        key_id(sealed) != Some(self.ring().pii[0].0)
    }

    /// The keys of an identifier in `member_key`, one for each version that is written, the current version first.
    pub fn blind(&self, kind: u8, normalised: &str) -> Vec<(i16, Uuid)> {
        let ring = self.ring();
        let written = ring.blind.iter().filter(|blind| !blind.idle);
        written.map(|blind| blind.of(kind, normalised)).collect()
    }

    /// Those and the keys of an idle version, which may have a row still or already: what must go when an identifier
    /// goes.
    pub fn blind_known(&self, kind: u8, normalised: &str) -> Vec<(i16, Uuid)> {
        self.ring().blind.iter().map(|blind| blind.of(kind, normalised)).collect()
    }

    /// The key of an identifier in the current version, for a lookup.
    pub fn blind_current(&self, kind: u8, normalised: &str) -> (i16, Uuid) {
        self.ring().blind[0].of(kind, normalised)
    }

    /// The key of an older system's coupon code in `coupon_history_index`. Its key never rotates.
    pub fn legacy(&self, normalised: &str) -> Uuid {
        let mut keyed = self.ring().legacy.clone();
        keyed.update(normalised.as_bytes());
        first_128(keyed)
    }
}

impl Ring {
    fn new(file: &SecretFile) -> Self {
        let blind =
            |(version, key): (i16, &Key256)| Blind { version, idle: file.is_idle(version), keyed: mac(key.bytes()) };
        Self {
            pii: file.pii().map(|(id, key)| (id, Aes256GcmSiv::new(&(*key.bytes()).into()))).collect(),
            blind: file.blind().map(blind).collect(),
            legacy: mac(file.legacy().bytes()),
            codes: Arc::new(CodeKeys::new(file.feistel().bytes(), file.checks().map(|(day, key)| (day, *key.bytes())))),
            file: file.clone(),
        }
    }
}

impl Blind {
    fn of(&self, kind: u8, normalised: &str) -> (i16, Uuid) {
        let mut keyed = self.keyed.clone();
        keyed.update(&[kind]);
        keyed.update(normalised.as_bytes());
        (self.version, first_128(keyed))
    }
}

impl Holding {
    /// What stands in a file.
    pub fn of(file: &SecretFile) -> Self {
        let sorted = |mut versions: Vec<i16>| {
            versions.sort_unstable();
            versions
        };
        let mut pii: Vec<u8> = file.pii().map(|(id, _)| id).collect();
        let (pii_current, blind_current) = (pii[0], file.blind().next().expect("a file has a current version").0);
        pii.sort_unstable();
        let blind: Vec<i16> = file.blind().map(|(version, _)| version).collect();
        Self {
            pii_current,
            pii,
            blind_current,
            blind_written: sorted(blind.iter().copied().filter(|version| !file.is_idle(*version)).collect()),
            blind: sorted(blind),
            check_from: file.checks().last().expect("a file has a check key").0,
        }
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Secrets").field(&self.holding()).finish()
    }
}

/// The number of the key that a stored value was encrypted with.
pub fn key_id(sealed: &[u8]) -> Option<u8> {
    sealed.first().copied()
}

fn mac(key: &[u8; 32]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

/// All 128 bits are the hash's: no UUID version or variant is set in them.
fn first_128(keyed: Hmac<Sha256>) -> Uuid {
    let full = keyed.finalize().into_bytes();
    let mut first = [0; 16];
    first.copy_from_slice(&full[..16]);
    Uuid::from_bytes(first)
}

/// Associated data. Names are identifiers without NUL, so the parts can't run into each other.
fn place(table: &str, column: &str, id: i64) -> Vec<u8> {
    let mut place = Vec::with_capacity(table.len() + column.len() + 10);
    place.extend_from_slice(table.as_bytes());
    place.push(0);
    place.extend_from_slice(column.as_bytes());
    place.push(0);
    place.extend_from_slice(&id.to_be_bytes());
    place
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn secrets(seed: u64) -> (SecretFile, Secrets) {
        let file = SecretFile::generate(&mut StdRng::seed_from_u64(seed));
        let secrets = Secrets::new(&file, StdRng::seed_from_u64(99));
        (file, secrets)
    }

    #[test]
    fn a_value_decrypts_in_its_place_only() {
        let (_, secrets) = secrets(1);
        for plain in ["", "林", "+8613800000001", &"long ".repeat(1_000)] {
            let sealed = secrets.encrypt("member", "phone", 42, plain);
            assert_eq!(sealed.len(), plain.len() + SEALED_OVERHEAD_BYTES);
            assert_eq!(secrets.decrypt("member", "phone", 42, &sealed).unwrap(), plain);
            for (table, column, id) in [
                ("member_auth", "phone", 42),
                ("member", "email", 42),
                ("member", "phone", 43),
                ("member", "phone", -42),
                ("memberp", "hone", 42),
            ] {
                let error = secrets.decrypt(table, column, id, &sealed).unwrap_err();
                assert_eq!(error, Undecryptable { table, column, id, why: WhyUndecryptable::Refused });
            }
        }
    }

    #[test]
    fn a_changed_value_does_not_decrypt_and_the_error_names_only_its_place() {
        let (_, secrets) = secrets(1);
        let sealed = secrets.encrypt("member", "name", 7, "Lin Secret");
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 0x10;
            let error = secrets.decrypt("member", "name", 7, &changed).unwrap_err();
            assert_eq!(error.why, if at == 0 { WhyUndecryptable::UnknownKey(0x11) } else { WhyUndecryptable::Refused });
        }
        for cut in 0..sealed.len() {
            assert!(secrets.decrypt("member", "name", 7, &sealed[..cut]).is_err());
        }
        assert_eq!(
            secrets.decrypt("member", "name", 7, &sealed[..5]).unwrap_err().to_string(),
            "member.name of id 7 cannot be decrypted: it is shorter than any encrypted value"
        );
    }

    #[test]
    fn the_same_value_looks_different_each_time() {
        let (_, secrets) = secrets(1);
        let sealed: std::collections::HashSet<_> =
            (0..1_000).map(|_| secrets.encrypt("member", "phone", 42, "+8613800000001")).collect();
        assert_eq!(sealed.len(), 1_000);
    }

    #[test]
    fn what_is_stored_under_known_keys_never_changes() {
        let file = SecretFile::parse(include_bytes!("golden.toml")).unwrap();
        let secrets = Secrets::new(&file, StdRng::seed_from_u64(99));
        // Computed apart from this code, by RFC 8452 in Python.
        let sealed = "01000102030405060708090a0bdd60ab4bd86becb45478d3747e172ba5ca215486a5b1d5258723868d3565";
        let bytes: Vec<u8> =
            (0..sealed.len()).step_by(2).map(|at| u8::from_str_radix(&sealed[at..at + 2], 16).unwrap()).collect();
        assert_eq!(secrets.decrypt("member", "phone", 42, &bytes).unwrap(), "+8613800000001");
        // Computed with Python's hmac.
        assert_eq!(secrets.legacy("LEGACY-0001").to_string(), "812aa206-354d-f627-48a9-82ed67bfbb5a");
        assert_eq!(secrets.codes().format(crate::id::CodeId::new(21600012689116599).unwrap()), "9JYH-HPVT-HPVS-567Y");
    }

    #[test]
    fn keys_of_personal_data_rotate_one_after_the_other() {
        let mut rng = StdRng::seed_from_u64(2);
        let (mut file, before) = secrets(1);
        let old = before.encrypt("member", "phone", 42, "+8613800000001");
        assert_eq!(file.add_pii(&mut rng).unwrap(), 2);
        let added = Secrets::new(&file, StdRng::seed_from_u64(3));
        assert!(!added.is_stale(&old), "the new key is known, not used");
        file.set_pii_current(2).unwrap();
        let during = Secrets::new(&file, StdRng::seed_from_u64(3));
        let new = during.encrypt("member", "phone", 42, "+8613800000001");
        assert!(during.is_stale(&old) && !during.is_stale(&new));
        assert_eq!(during.decrypt("member", "phone", 42, &old).unwrap(), "+8613800000001");
        assert_eq!(added.decrypt("member", "phone", 42, &new).unwrap(), "+8613800000001");
        file.drop_pii(1).unwrap();
        let after = Secrets::new(&file, StdRng::seed_from_u64(3));
        assert_eq!(after.decrypt("member", "phone", 42, &new).unwrap(), "+8613800000001");
        assert_eq!(after.decrypt("member", "phone", 42, &old).unwrap_err().why, WhyUndecryptable::UnknownKey(1));
        assert!(file.drop_pii(2).is_err(), "the current key stays");
        assert!(file.set_pii_current(1).is_err());
        assert_eq!(file.add_pii(&mut rng).unwrap(), 3, "a dropped key's number does not come again");
    }

    #[test]
    fn while_two_blind_versions_live_both_are_given_and_the_current_comes_first() {
        let mut rng = StdRng::seed_from_u64(2);
        let (mut file, one) = secrets(1);
        let first = one.blind(1, "+8613800000001");
        assert_eq!(first.iter().map(|(version, _)| *version).collect::<Vec<_>>(), [1]);
        assert_eq!(file.add_blind(&mut rng).unwrap(), 2);
        assert!(file.add_blind(&mut rng).is_err(), "two at most");
        let idle = Secrets::new(&file, StdRng::seed_from_u64(3));
        assert_eq!(idle.blind(1, "+8613800000001"), first, "the new one is known, not written");
        let known = idle.blind_known(1, "+8613800000001");
        assert!(file.set_blind_current(2).is_err() && file.set_blind_idle(1, true).is_err());
        file.set_blind_idle(2, false).unwrap();
        let both = Secrets::new(&file, StdRng::seed_from_u64(3)).blind(1, "+8613800000001");
        assert_eq!(both, known);
        assert_eq!(both.len(), 2);
        assert_eq!(both[0], first[0]);
        file.set_blind_current(2).unwrap();
        let turned = Secrets::new(&file, StdRng::seed_from_u64(3));
        assert_eq!(turned.blind(1, "+8613800000001"), [both[1], both[0]]);
        assert_eq!(turned.blind_current(1, "+8613800000001"), both[1]);
        assert!(file.drop_blind(2).is_err());
        file.drop_blind(1).unwrap();
        assert_eq!(Secrets::new(&file, StdRng::seed_from_u64(3)).blind(1, "+8613800000001"), [both[1]]);
    }

    #[test]
    fn a_blind_key_depends_on_kind_and_text() {
        let (_, secrets) = secrets(1);
        let keys: std::collections::HashSet<Uuid> = [(1, "a"), (2, "a"), (1, "b"), (1, ""), (1, "a ")]
            .into_iter()
            .map(|(kind, text)| secrets.blind_current(kind, text).1)
            .chain([secrets.legacy("a"), secrets.legacy("\u{1}a")])
            .collect();
        assert_eq!(keys.len(), 7);
    }

    #[test]
    fn keys_change_under_those_who_share_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secrets.toml");
        let mut rng = StdRng::seed_from_u64(2);
        let made = SecretFile::create_new(&path, &mut rng).unwrap();
        let shared = Secrets::new(&made, StdRng::seed_from_u64(3)).of(Source::File(path.clone()));
        assert!(!shared.refresh().unwrap() && !shared.refresh().unwrap());
        let old = shared.encrypt("member", "name", 7, "Lin");
        SecretFile::edit(&path, |file| file.add_pii(&mut rng).and_then(|id| file.set_pii_current(id))).unwrap();
        assert!(!shared.is_stale(&old));
        assert!(shared.refresh().unwrap() && !shared.refresh().unwrap());
        assert_eq!(shared.holding().pii_current, 2);
        assert!(shared.is_stale(&old));
        assert_eq!(shared.decrypt("member", "name", 7, &old).unwrap(), "Lin");
        assert_eq!(key_id(&shared.encrypt("member", "name", 7, "Lin")), Some(2));
        // One that is opened to others is not gone on with, though nothing of it is another.
        let open = |mode| std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        open(0o644);
        assert!(matches!(shared.refresh(), Err(SecretFileError::Mode { mode: 0o644, .. })));
        open(0o600);
        assert!(!shared.refresh().unwrap());
        // Another chain's file, half a file and no file change nothing.
        std::fs::remove_file(&path).unwrap();
        assert!(shared.refresh().is_err());
        SecretFile::create_new(&path, &mut rng).unwrap();
        assert!(matches!(shared.refresh(), Err(SecretFileError::Refused(_))));
        std::fs::write(&path, "format = 1").unwrap();
        assert!(matches!(shared.refresh(), Err(SecretFileError::Malformed { .. })));
        assert_eq!(shared.holding().pii, [1, 2]);
    }

    #[test]
    fn debug_shows_no_key() {
        let (file, secrets) = secrets(1);
        assert!(format!("{secrets:?}").starts_with("Secrets(Holding { pii_current: 1, pii: [1], blind_current: 1,"));
        let shown = format!("{file:?}");
        assert!(shown.contains("Key256(…)"));
        for key in [file.feistel(), file.legacy()] {
            let bytes = format!("{:?}", key.bytes());
            assert!(!shown.contains(bytes.trim_matches(['[', ']'])));
        }
    }
}
