//! Embeds `partitions/*.toml` and `sql/queries/**/*.sql`, so that a binary carries the plans and the statements that it
//! was tested with. What is written to `OUT_DIR` is a list of `(name, include_str!(path))`; nothing is parsed here, since
//! an error found by the library's own loader can name file and field, and be tested.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    // Whole folders, so that a new file counts as a change; sql/migrations is embedded by sqlx::migrate!.
    println!("cargo::rerun-if-changed=src/build.rs");
    println!("cargo::rerun-if-changed=partitions");
    println!("cargo::rerun-if-changed=sql");
    // What the query macros of sqlx read at compile time.
    println!("cargo::rerun-if-changed=.sqlx");
    fs::write(out.join("partitions.rs"), list(&root.join("partitions"), "toml")?)?;
    fs::write(out.join("queries.rs"), list(&root.join("sql/queries"), "sql")?)
}

/// A slice of the files below `folder` that end in `.extension`, named by their path without it (`coupon/find`).
fn list(folder: &Path, extension: &str) -> io::Result<String> {
    let mut files = Vec::new();
    collect(folder, "", extension, &mut files)?;
    files.sort();
    let mut text = String::from("&[\n");
    for (name, path) in files {
        writeln!(text, "    ({name:?}, include_str!({path:?})),").expect("writing to a String does not fail");
    }
    text.push_str("]\n");
    Ok(text)
}

fn collect(folder: &Path, prefix: &str, extension: &str, files: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        let Some(stem) = path.file_stem().and_then(|stem| stem.to_str()) else { continue };
        let name = if prefix.is_empty() { stem.to_owned() } else { format!("{prefix}/{stem}") };
        if path.is_dir() {
            collect(&path, &name, extension, files)?;
        } else if path.extension().is_some_and(|found| found == extension) {
            files.push((name, path));
        }
    }
    Ok(())
}
