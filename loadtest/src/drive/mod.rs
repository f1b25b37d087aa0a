//! The open-loop load: runs it, reports and compares what came of it, and checks the books against the answers.
//!
//! [`engine`] sends what [`workload`] says when [`arrivals`] says so, over the connections of [`till`]s; [`record`] measures,
//! [`journal`] keeps what was acknowledged, [`check`] holds the database against it. [`run`](mod@run) puts them together,
//! [`report`] and [`compare`] show, [`find`] looks for the highest rate.

pub mod alarm;
pub mod arrivals;
pub mod baseline;
mod beside;
pub mod built;
pub mod check;
pub mod coherence;
pub mod compare;
pub mod engine;
pub mod find;
pub mod http;
pub mod journal;
pub mod keys;
pub mod office;
pub mod op;
pub mod prepare;
pub mod record;
pub mod report;
pub mod result;
pub mod run;
pub mod stop;
pub mod till;
pub mod workload;
pub mod world;

use std::path::PathBuf;

use clap::Subcommand;

/// What can be asked of the driver.
#[derive(Subcommand)]
pub enum Command {
    /// Sends a workload to a Tessera that runs, reports, and checks the books when it is told the database.
    Run(run::RunArgs),
    /// Looks for the highest rate that keeps a stated p99.
    Find(find::FindArgs),
    /// Holds the database against what a run was told.
    Check(check::CheckArgs),
    /// Shows a result: as text, and as a page with plots.
    Report(report::ReportArgs),
    /// Puts two results side by side, and fails when the second is worse than it may be.
    Compare(compare::CompareArgs),
    /// Makes of a result what later runs must be like on any machine, for `--gate`.
    Baseline(baseline::BaselineArgs),
    /// Adds up the results of generators that sent one load together.
    Merge(MergeArgs),
    /// Makes stores and their keys in a database, and writes the file of keys that runs read.
    Keys(keys::KeysArgs),
    /// Lists the workloads that are built in.
    Workloads,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    /// The load showed something wrong, and the text says what.
    Failed,
    /// It was stopped before its end, and showed nothing wrong until then.
    Interrupted,
}

#[derive(clap::Args)]
pub struct MergeArgs {
    /// Results of the generators.
    #[arg(required = true, num_args = 2..)]
    pub results: Vec<PathBuf>,
    /// Where the merged result goes; a page beside it.
    #[arg(long, short, value_name = "FILE")]
    pub out: PathBuf,
}

/// # Errors
/// When the command cannot be done; a load that shows something wrong is no error but [`Verdict::Failed`].
pub async fn run(command: Command) -> anyhow::Result<Verdict> {
    match command {
        Command::Run(args) => run::run(&args).await,
        Command::Find(args) => find::run(&args).await,
        Command::Check(args) => check::run(&args).await,
        Command::Report(args) => report::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Baseline(args) => baseline::run(&args),
        Command::Merge(args) => merge(&args),
        Command::Keys(args) => keys::run(&args).await.map(|()| Verdict::Passed),
        Command::Workloads => {
            for (name, _) in workload::BUILT_IN {
                let workload = workload::Workload::load(name)?;
                println!(
                    "{name:<15} {:>6} requests/s for {:>6} s  {}",
                    workload.rate, workload.seconds, workload.about
                );
            }
            Ok(Verdict::Passed)
        }
    }
}

/// # Errors
/// When the results do not belong together.
pub fn merge(args: &MergeArgs) -> anyhow::Result<Verdict> {
    let mut results = args.results.iter();
    let mut merged = match results.next() {
        Some(first) => result::Run::load(first)?,
        None => anyhow::bail!("name the results to merge"),
    };
    for other in results {
        merged.merge(&result::Run::load(other)?)?;
    }
    report::save(&merged, &args.out)?;
    Ok(report::verdict(&merged))
}
