//! The command line of `loadtest`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use loadtest::{
    build,
    drive::{self, Verdict},
    prove, sizes,
};

/// Datasets, load and proof for Tessera at any size.
#[derive(Parser)]
#[command(version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one, for as long as the program runs")]
enum Command {
    /// Fills the tables of a database with members and coupons.
    Build(build::Args),
    /// Takes away what `build` made.
    Drop(build::DropArgs),
    /// Says where the bytes are: by table, index and column.
    Sizes(sizes::Args),
    /// Puts proofs of several sizes side by side, as a table in Markdown.
    ProveSizes(prove::Args),
    #[command(flatten)]
    Drive(drive::Command),
}

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Build(args) => build::run(args).await.map(|()| Verdict::Passed),
        Command::Drop(args) => build::clear(args).await.map(|()| Verdict::Passed),
        Command::Sizes(args) => sizes::run(args).await.map(|()| Verdict::Passed),
        Command::ProveSizes(args) => prove::run(&args).map(|()| Verdict::Passed),
        Command::Drive(command) => drive::run(command).await,
    };
    match outcome {
        Ok(Verdict::Passed) => ExitCode::SUCCESS,
        Ok(Verdict::Failed) => ExitCode::FAILURE,
        Ok(Verdict::Interrupted) => ExitCode::from(3),
        Err(error) => {
            eprintln!("loadtest: {error:#}");
            ExitCode::from(2)
        }
    }
}
