//! Finds the programs of a PostgreSQL server: the newest from 15 on, or the one that fits existing data.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::EmbeddedError;

/// Oldest major version that Tessera runs on.
pub const MAJOR_MIN: u32 = 15;

/// A directory with `initdb` and `postgres`, and their major version.
#[derive(Debug, Clone)]
pub struct Binaries {
    pub dir: PathBuf,
    pub major: u32,
}

impl Binaries {
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// The binaries to use: `named` if given, else from PATH and the usual places; of `data_major` where data exist.
pub fn find(named: Option<&Path>, data_dir: &Path, data_major: Option<u32>) -> Result<Binaries, EmbeddedError> {
    let (dirs, looked) = match named {
        Some(dir) => (vec![dir.to_owned()], format!("looked in {}", dir.display())),
        None => (usual_dirs(), "looked in PATH and /usr/lib/postgresql/*/bin".to_owned()),
    };
    let mut found: Vec<Binaries> = dirs.into_iter().filter_map(probe).filter(|b| b.major >= MAJOR_MIN).collect();
    if found.is_empty() {
        return Err(EmbeddedError::NoBinaries { looked });
    }
    match data_major {
        Some(data) => match found.iter().position(|b| b.major == data) {
            Some(at) => Ok(found.swap_remove(at)),
            None => {
                let mut majors: Vec<String> = found.iter().map(|b| b.major.to_string()).collect();
                majors.dedup();
                Err(EmbeddedError::WrongMajor { dir: data_dir.to_owned(), data, found: majors.join(", ") })
            }
        },
        // PATH comes first, but a newer server elsewhere wins: the newest is the documented rule.
        None => {
            let newest = found.iter().map(|b| b.major).max().unwrap_or(MAJOR_MIN);
            let at = found.iter().position(|b| b.major == newest).unwrap_or(0);
            Ok(found.swap_remove(at))
        }
    }
}

fn usual_dirs() -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> =
        std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    // Debian, then Red Hat.
    if let Ok(entries) = std::fs::read_dir("/usr/lib/postgresql") {
        dirs.extend(entries.flatten().map(|entry| entry.path().join("bin")));
    }
    if let Ok(entries) = std::fs::read_dir("/usr") {
        let pgsql = entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with("pgsql-"));
        dirs.extend(pgsql.map(|entry| entry.path().join("bin")));
    }
    dirs
}

fn probe(dir: PathBuf) -> Option<Binaries> {
    if !dir.join("initdb").is_file() || !dir.join("postgres").is_file() {
        return None;
    }
    let output = Command::new(dir.join("postgres")).arg("--version").output().ok()?;
    let major = parse_major(&String::from_utf8_lossy(&output.stdout))?;
    // A directory of links leads to the one that holds all the programs.
    let real = std::fs::canonicalize(dir.join("postgres")).ok().and_then(|program| Some(program.parent()?.to_owned()));
    let dir = real.filter(|real| real.join("initdb").is_file()).unwrap_or(dir);
    Some(Binaries { dir, major })
}

/// `postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)` → 15.
fn parse_major(text: &str) -> Option<u32> {
    let version = text.split_whitespace().nth(2)?;
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_what_postgres_says() {
        assert_eq!(parse_major("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n"), Some(15));
        assert_eq!(parse_major("postgres (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(parse_major("bash: postgres: not found"), None);
    }

    #[test]
    fn a_directory_without_a_server_is_a_sentence() {
        let error = find(Some(Path::new("/nonexistent")), Path::new("data"), None).expect_err("nothing there");
        assert!(error.to_string().contains("looked in /nonexistent"), "{error}");
    }
}
