//! `loadtest`: fills a Tessera with rows, sends it load as tills do, and proves afterwards that nothing was lost.

#![forbid(unsafe_code)]

mod drive;

use clap::{Parser, Subcommand};
use loadtest::{build, prove, sizes};

/// Datasets, load and proof for Tessera at any size.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Fills the tables of a database with members and coupons.
    Build(build::Args),
    /// Takes away what `build` made.
    Drop(build::DropArgs),
    /// Says where the bytes are: by table, index and column.
    Sizes(sizes::Args),
    /// Puts proofs of several sizes side by side, as a table in Markdown.
    ProveSizes(prove::Args),
    /// Sends load to a Tessera that runs, and proves afterwards that its books agree with the answers.
    Run(drive::Args),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Build(args) => build::run(args).await,
        Command::Drop(args) => build::clear(args).await,
        Command::Sizes(args) => sizes::run(args).await,
        Command::ProveSizes(args) => prove::run(&args),
        Command::Run(args) => drive::run(args).await,
    }
}
