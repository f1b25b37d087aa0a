//! `tessera keys`.

use std::{io::Write as _, sync::Arc};

use clap::{Subcommand, ValueEnum};

use super::{Failure, seed};
use crate::{
    boot::{self, Ground},
    clock::{Clock, Zone},
    config::Settings,
    id::Day,
    secret::{
        Holding, Secrets,
        rotate::{KeyKind, Pace, RotateError, Run},
        watch::list_live_nodes,
    },
};

#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// Which keys there are, how many rows use each, and which nodes have them; not what they are.
    List {
        /// Do not count rows, which walks through all of them.
        #[arg(long)]
        no_rows: bool,
    },
    /// Add a key, unused as yet. All nodes get it within a second or so.
    Add {
        what: Added,
        /// First day of issue whose coupon codes a `check` key is for: the day after tomorrow at the earliest.
        #[arg(long, required_if_eq("what", "check"), value_name = "YYYY-MM-DD")]
        from: Option<Day>,
    },
    /// Use a key from now on, if all nodes have it.
    Use { kind: KeyKind, number: i16 },
    /// Do to the rows what the keys ask for: write personal data again with the current key; make the index rows of a
    /// new identifier key, or delete those of an old one. Tills go on meanwhile; killed, it goes on where it was.
    Rotate {
        /// Both, if none is named.
        kind: Option<KeyKind>,
        /// The whole way: add a key, use it, rewrite every row, delete the old key. Takes up what was begun.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        pace: Pace,
    },
    /// Delete a key that nothing uses any more, which is looked for in every row. Backups from before need the secrets
    /// file from before.
    Drop { kind: KeyKind, number: i16 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Added {
    /// Encrypts personal data.
    Pii,
    /// Makes the index of identifiers.
    Blind,
    /// Checks coupon codes.
    Check,
}

pub(super) async fn run(
    command: &KeysCommand,
    ground: &Ground,
    settings: &Settings,
    clock: &Clock,
    zone: Zone,
) -> Result<(), Failure> {
    let mut conn = boot::connect(ground, settings).await?;
    let secrets = boot::secrets(settings, &mut conn, &mut seed(), clock.now()).await?;
    let nodes = list_live_nodes(&mut conn).await?;
    boot::disconnect(conn).await;
    let secrets = Arc::new(Secrets::new(&secrets, seed()).of(boot::secrets_source(settings)));
    let pace = match command {
        KeysCommand::Rotate { pace, .. } => pace.clone(),
        _ => Pace::default(),
    };
    let mut say = |text: &str| {
        // A closed pipe is no reason to stop half-way.
        let _ = writeln!(std::io::stdout(), "{text}");
    };
    let service = ground.service.clone();
    let mut run = Run::open(service, Arc::clone(&secrets), clock.clone(), pace, &mut say).await?;
    let done = obey(command, &mut run, zone).await;
    if let (Ok(()), KeysCommand::List { no_rows }) = (&done, command) {
        let counted = if *no_rows { None } else { Some(run.count().await?) };
        list(&secrets, counted.as_ref());
        for node in nodes {
            println!("node {}: {}", node.node, node.holding.as_ref().map_or("has not said".to_owned(), shown));
        }
    }
    run.close().await;
    Ok(done?)
}

async fn obey(command: &KeysCommand, run: &mut Run<'_>, zone: Zone) -> Result<(), RotateError> {
    match command {
        KeysCommand::List { .. } => {}
        KeysCommand::Add { what: Added::Pii, .. } => drop(run.add(KeyKind::Pii, &mut seed()).await?),
        KeysCommand::Add { what: Added::Blind, .. } => drop(run.add(KeyKind::Blind, &mut seed()).await?),
        KeysCommand::Add { what: Added::Check, from } => {
            run.add_check(from.expect("clap demands it for a check key"), zone, &mut seed()).await?;
        }
        KeysCommand::Use { kind, number } => run.make_current(*kind, *number).await?,
        KeysCommand::Rotate { kind: None, all: true, .. } => run.turn_both(&mut seed()).await?,
        KeysCommand::Rotate { kind: Some(kind), all: true, .. } => run.turn(*kind, &mut seed()).await?,
        KeysCommand::Rotate { kind, .. } => {
            for kind in kind.map_or_else(|| vec![KeyKind::Pii, KeyKind::Blind], |kind| vec![kind]) {
                run.rewrite(kind).await?;
            }
        }
        KeysCommand::Drop { kind, number } => run.drop_key(*kind, *number).await?,
    }
    Ok(())
}

fn list(secrets: &Secrets, counted: Option<&(crate::secret::rotate::Uses, crate::secret::rotate::Versions)>) {
    let holding = secrets.holding();
    let rows = |count: u64| if counted.is_some() { format!(" {count} rows") } else { String::new() };
    for id in &holding.pii {
        let used = counted.map_or(0, |(uses, _)| uses.values().filter_map(|keys| keys.get(id)).sum());
        let state = if *id == holding.pii_current { "current" } else { "known" };
        println!("personal-data key {id} {state}{}", rows(used));
    }
    for version in &holding.blind {
        let used = counted.map_or(0, |(_, (keys, _))| keys.get(version).copied().unwrap_or_default());
        let state = match version {
            version if *version == holding.blind_current => "current",
            version if holding.blind_written.contains(version) => "written",
            _ => "idle",
        };
        println!("identifier key {version} {state}{}", rows(used));
    }
    println!("check key of the newest days from {}", holding.check_from);
}

fn shown(holding: &Holding) -> String {
    format!(
        "personal-data keys {:?}, writes {}; identifier keys {:?}, writes {:?}, looks up by {}; check key from {}",
        holding.pii,
        holding.pii_current,
        holding.blind,
        holding.blind_written,
        holding.blind_current,
        holding.check_from
    )
}
