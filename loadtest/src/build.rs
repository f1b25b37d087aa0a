//! The dataset builder.

#[derive(clap::Args)]
pub struct Args {}

/// # Errors
/// Always: nothing is built yet.
pub async fn run(_: Args) -> anyhow::Result<()> {
    anyhow::bail!("nothing is built yet")
}
