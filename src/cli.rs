//! The command line: what can be asked of the program, and how it answers.
//!
//! Results go to standard output, logs to standard error. A failure is one sentence with cause and remedy and exit code
//! 1, a misuse exit code 2. Each command is a thin caller of the library; its work can be called from a test as well.

mod apikey;
mod demo;
mod keys;
mod leaves;

use std::{
    error::Error as StdError,
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::{
    boot::{self, Ground},
    clock::{Clock, Zone},
    config::Settings,
    db::migrate,
    node::{self, NodeArgs},
    partition::{self, proof},
    secret::Secrets,
    telemetry,
    verify::{self, VerifySettings},
};

/// Member and coupon backend of a retail chain.
#[derive(Debug, Parser)]
#[command(name = "tessera", version, propagate_version = true, max_term_width = 110)]
struct Cli {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the API until SIGTERM or Ctrl-C.
    Serve(ServeArgs),
    /// Bring the database to this version: roles, schema, rights, partitions.
    Migrate,
    /// API keys of callers.
    #[command(subcommand)]
    Apikey(ApikeyCommand),
    /// Prove that each query touches as many partitions as it claims.
    Prove {
        /// Print an array of objects, one a query, in place of the table.
        #[arg(long)]
        json: bool,
    },
    /// Compare every table with its index tables, in both directions.
    Verify {
        #[command(flatten)]
        settings: VerifySettings,
        /// Print an object in place of the table.
        #[arg(long)]
        json: bool,
    },
    /// Partitions of the tables.
    #[command(subcommand)]
    Partitions(leaves::PartitionsCommand),
    /// Put a month of coupons away, with its index rows, if none of its coupons is alive.
    Retire(leaves::RetireArgs),
    /// The keys in the secrets file: list them, add, use, rotate, drop.
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Say that the database was restored from a backup or failed over: skips all numbers that may be in use.
    Restored,
    /// Print the OpenAPI document.
    Openapi,
}

#[derive(Debug, Clone, Args)]
struct ServeArgs {
    /// Make a demo store and demo API keys, and print how to try the API.
    #[arg(long, env = "TESSERA_DEMO")]
    demo: bool,
}

#[derive(Debug, Subcommand)]
enum ApikeyCommand {
    /// Make a key and print it, once, alone on standard output.
    Create {
        /// What people call it.
        #[arg(long)]
        name: String,
        #[arg(long)]
        role: RoleArg,
        /// The store of a `pos` key.
        #[arg(long, required_if_eq("role", "pos"), value_name = "STORE")]
        store: Option<String>,
    },
    /// List the keys, without their secrets.
    List,
    /// Take a key out of force.
    Revoke {
        /// Its name, or the id in its second part.
        key: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RoleArg {
    Pos,
    Marketing,
    Ops,
    Admin,
}

/// Why the program ends: a sentence for people.
#[derive(Debug)]
struct Failure(String);

impl<E: StdError> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(sentence(&error))
    }
}

/// An error and its causes, without repeating what a cause's text already says.
fn sentence(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = cause.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The whole program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = telemetry::init(&cli.settings.log) {
        eprintln!("tessera: the log filter {:?} cannot be read: {error}", cli.settings.log.log_filter);
        return ExitCode::from(2);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("tessera: threads cannot be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(run(cli));
    // Whatever blocks a worker (a command for secrets that hangs) must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(text)) => {
            eprintln!("tessera: {text}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let settings = cli.settings;
    let clock = Clock::system();
    let zone = Zone::parse(settings.chain.zone.name())?;
    if let Command::Serve(args) = &cli.command {
        return serve(&settings, args, &clock, zone).await;
    }
    if let Command::Openapi = &cli.command {
        println!("{}", crate::http::openapi::document(&crate::http::app::routes()));
        return Ok(());
    }
    let ground = match &cli.command {
        Command::Migrate | Command::Apikey(ApikeyCommand::Create { .. }) => {
            Ground::visit(&settings, &clock, zone).await?
        }
        _ => Ground::look(&settings, &clock, zone).await?,
    };
    // Ctrl-C must not leave the database of our own to the kernel's signal when it can be stopped in order.
    let outcome = tokio::select! {
        outcome = command(&cli.command, &ground, &settings, &clock, zone) => outcome,
        () = stop_asked() => Err(Failure("stopped before it was done".to_owned())),
    };
    ground.close().await;
    outcome
}

async fn command(
    command: &Command,
    ground: &Ground,
    settings: &Settings,
    clock: &Clock,
    zone: Zone,
) -> Result<(), Failure> {
    match command {
        Command::Serve(_) | Command::Openapi => unreachable!("handled before a database is opened"),
        Command::Migrate => {
            // A database of our own was migrated when it was started.
            let migrated = match ground.migrated {
                Some(migrated) => migrated,
                None => {
                    let within = settings.database.connect_timeout;
                    boot::migrate_and_upkeep(&ground.owner, within, clock.now(), zone).await?
                }
            };
            match migrated.before {
                Some(before) if before == migrated.after => println!("The schema is at version {before} already."),
                Some(before) => println!("The schema went from version {before} to {}.", migrated.after),
                None => println!("The schema was made, version {}.", migrated.after),
            }
            Ok(())
        }
        Command::Apikey(command) => apikey::run(command, ground, settings, clock).await,
        Command::Prove { json } => prove(ground, settings, *json).await,
        Command::Verify { settings: verify, json } => compare(verify, *json, ground, settings, clock).await,
        Command::Partitions(command) => leaves::partitions(command, ground, settings, clock, zone).await,
        Command::Retire(args) => leaves::retire(args, ground, settings, clock, zone).await,
        Command::Keys(command) => keys::run(command, ground, settings, clock, zone).await,
        Command::Restored => {
            let mut conn = migrate::connect(&ground.owner, settings.database.connect_timeout).await?;
            let counters = migrate::restored(&mut conn, clock.now()).await?;
            for (name, next) in counters {
                println!("{name} goes on at {next}");
            }
            boot::disconnect(conn).await;
            Ok(())
        }
    }
}

async fn serve(settings: &Settings, args: &ServeArgs, clock: &Clock, zone: Zone) -> Result<(), Failure> {
    // First what is quick to fail: no database is started for an address that is taken.
    let listener = bind(settings.server.listen)?;
    let stop = stop_asked();
    tokio::pin!(stop);
    let ground = tokio::select! {
        ground = Ground::open(settings, clock, zone) => ground?,
        () = &mut stop => return Ok(()),
    };
    let served = serve_on(&ground, listener, settings, args, clock, stop).await;
    ground.close().await;
    served
}

async fn serve_on(
    ground: &Ground,
    listener: TcpListener,
    settings: &Settings,
    args: &ServeArgs,
    clock: &Clock,
    stop: impl Future<Output = ()>,
) -> Result<(), Failure> {
    let mut conn = boot::connect(ground, settings).await?;
    let secrets = boot::secrets(settings, &mut conn, &mut seed(), clock.now()).await?;
    boot::disconnect(conn).await;
    let address = listener.local_addr()?;
    let scheme = if settings.server.tls_cert.is_some() { "https" } else { "http" };
    println!("API: {scheme}://{address}  docs: {scheme}://{address}/docs  metrics: {scheme}://{address}/metrics");
    match ground.embedded() {
        Some(embedded) => {
            println!("Database: {} ({})", embedded.pgdata().display(), embedded.url("postgres", "tessera"))
        }
        None => println!("Database: {}", crate::config::place(&ground.service)),
    }
    match &settings.secrets.secrets_command {
        Some(_) => println!("Secrets: from a command"),
        None => println!("Secrets: {} (keep a copy apart from the data)", boot::secrets_path(settings).display()),
    }
    let mut rng = seed();
    if args.demo {
        let mut conn = boot::connect(ground, settings).await?;
        demo::prepare(&mut conn, &settings.database.data_dir, address, clock).await?;
        boot::disconnect(conn).await;
    }
    // Without the owner's role there is nobody to make leaves; then another node or a timer must.
    let keeps_partitions = ground.embedded().is_some() || settings.database.owner_url.is_some();
    let args = NodeArgs {
        settings: settings.clone(),
        service: ground.service.clone(),
        owner: keeps_partitions.then(|| ground.owner.clone()),
        secrets: Secrets::new(&secrets, StdRng::from_rng(&mut rng)).of(boot::secrets_source(settings)),
        clock: clock.clone(),
        holder: uuid::Builder::from_random_bytes(rng.random()).into_uuid(),
    };
    Ok(node::serve(args, listener, stop).await?)
}

/// Takes the address, or says who else may have it.
fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    let refused = |error: std::io::Error| {
        Failure(match error.kind() {
            ErrorKind::AddrInUse => format!(
                "the address {address} is in use by another program; stop that one or choose another with --listen"
            ),
            ErrorKind::PermissionDenied => {
                format!(
                    "the address {address} is not for this user (ports below 1024 are for root); choose another with --listen"
                )
            }
            ErrorKind::AddrNotAvailable => {
                format!("the address {address} is not one of this machine; choose another with --listen")
            }
            _ => format!("the address {address} cannot be listened on: {error}; choose another with --listen"),
        })
    };
    let listener = TcpListener::bind(address).map_err(refused)?;
    listener.set_nonblocking(true).map_err(refused)?;
    Ok(listener)
}

/// Ready at SIGTERM, SIGINT or SIGHUP of a closed terminal.
async fn stop_asked() {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| signal(kind).expect("the runtime has its signal driver");
    let mut terminate = listen(SignalKind::terminate());
    let mut interrupt = listen(SignalKind::interrupt());
    let mut hangup = listen(SignalKind::hangup());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = hangup.recv() => {}
    }
    tracing::info!("stopping: accepted requests are finished, others refused");
}

async fn prove(ground: &Ground, settings: &Settings, is_json: bool) -> Result<(), Failure> {
    let mut conn = boot::connect(ground, settings).await?;
    if let Err(errors) = partition::load() {
        return Err(Failure(errors.iter().map(|error| sentence(error)).collect::<Vec<_>>().join("; ")));
    }
    let report = proof::run(&mut conn, partition::queries(), |_| {}).await?;
    boot::disconnect(conn).await;
    if is_json {
        println!("{:#}", report.json())
    } else {
        print!("{}", report.render())
    }
    if report.ok() {
        Ok(())
    } else {
        Err(Failure("not every query keeps its claim; see the lines above that say FAILED".to_owned()))
    }
}

async fn compare(
    verify: &VerifySettings,
    is_json: bool,
    ground: &Ground,
    settings: &Settings,
    clock: &Clock,
) -> Result<(), Failure> {
    let mut conn = boot::connect(ground, settings).await?;
    let secrets = boot::secrets(settings, &mut conn, &mut seed(), clock.now()).await?;
    boot::disconnect(conn).await;
    let secrets = Secrets::new(&secrets, seed()).of(boot::secrets_source(settings));
    // Not the same pages each night; the report says which seed it was.
    let seed = verify.seed.unwrap_or_else(|| seed().random::<u32>().into());
    let verify = VerifySettings { seed: Some(seed), ..verify.clone() };
    let report = verify::run(&verify, ground.service.clone(), secrets, |_| {}).await?;
    if is_json {
        println!("{:#}", report.json())
    } else {
        print!("{}", report.render())
    }
    if report.is_clean() {
        Ok(())
    } else {
        Err(Failure("base and index tables differ; see above, and mend them with --repair in a whole run".to_owned()))
    }
}

/// A generator seeded by the operating system; the one place of the program where randomness begins.
fn seed() -> StdRng {
    StdRng::from_os_rng()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use crate::boot::BootError;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_has_its_variable() {
        let command = Cli::command();
        let lacking: Vec<_> = command
            .get_arguments()
            .filter(|arg| arg.get_long().is_some_and(|long| long != "help" && long != "version"))
            .filter(|arg| arg.get_env().is_none())
            .map(|arg| arg.get_id().to_string())
            .collect();
        assert!(lacking.is_empty(), "{lacking:?}");
    }

    #[test]
    fn a_flag_stands_before_or_after_its_command() {
        for line in [["tessera", "--listen", "[::1]:9", "serve"], ["tessera", "serve", "--listen", "[::1]:9"]] {
            let cli = Cli::try_parse_from(line).expect("a good line");
            assert_eq!(cli.settings.server.listen, "[::1]:9".parse().expect("an address"));
        }
    }

    #[test]
    fn a_till_key_wants_a_store() {
        let line = ["tessera", "apikey", "create", "--name", "n", "--role"];
        assert!(Cli::try_parse_from(line.into_iter().chain(["pos"])).is_err());
        assert!(Cli::try_parse_from(line.into_iter().chain(["pos", "--store", "S1"])).is_ok());
        assert!(Cli::try_parse_from(line.into_iter().chain(["ops"])).is_ok());
    }

    #[test]
    fn a_failure_is_one_line() {
        let inner = std::io::Error::other("disk on fire");
        let error = BootError::Secrets(crate::secret::SecretFileError::Command { source: inner });
        let text = sentence(&error);
        assert!(text.ends_with("disk on fire") && !text.contains('\n'), "{text}");
    }

    #[test]
    fn a_used_address_is_a_sentence() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let Failure(text) = bind(taken.local_addr().expect("its address")).expect_err("taken");
        assert!(text.contains("is in use by another program"), "{text}");
    }
}
