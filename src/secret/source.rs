//! Where the secrets come from, and whether they have changed there.

use std::{os::unix::fs::MetadataExt, path::PathBuf};

use super::{SecretFile, file::SecretFileError};

/// A file, or a command that prints what the file would hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    File(PathBuf),
    Command(String),
}

/// What tells one state of a file from the next. A change puts another file in its place, so the inode tells. Who may
/// read it counts too: a file that was opened to others is not to go unnoticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    mode: u32,
    modified: (i64, i64),
    bytes: u64,
}

impl Source {
    /// Reads the secrets.
    ///
    /// # Errors
    /// [`SecretFileError`].
    pub fn load(&self) -> Result<SecretFile, SecretFileError> {
        match self {
            Self::File(path) => SecretFile::load(path),
            Self::Command(command) => SecretFile::load_command(command),
        }
    }

    /// None for what can only be read to know. An absent file has none either: reading it says what is wrong.
    pub(super) fn stamp(&self) -> Option<Stamp> {
        let Self::File(path) = self else { return None };
        let about = std::fs::metadata(path).ok()?;
        Some(Stamp {
            device: about.dev(),
            inode: about.ino(),
            mode: about.mode(),
            modified: (about.mtime(), about.mtime_nsec()),
            bytes: about.len(),
        })
    }
}
