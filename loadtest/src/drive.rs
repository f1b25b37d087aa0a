//! The open-loop load.

#[derive(clap::Args)]
pub struct Args {}

/// # Errors
/// Always: nothing is sent yet.
pub async fn run(_: Args) -> anyhow::Result<()> {
    anyhow::bail!("nothing is sent yet")
}
