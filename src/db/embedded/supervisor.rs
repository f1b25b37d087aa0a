//! Runs the server as a child: ready when it says so, restarted when it dies, stopped when told.
//!
//! `PR_SET_PDEATHSIG` fires when the *thread* that forked ends, so children are forked by the supervisor's own thread,
//! which ends only after the server. The signal is SIGINT, PostgreSQL's fast shutdown.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    EmbeddedError, cluster,
    cluster::{Cluster, User},
};

const POLL: Duration = Duration::from_millis(20);
/// A predecessor that got its signal is given this long: it may have much to write.
const PREDECESSOR_MAX: Duration = Duration::from_secs(120);
/// A server that does not end at SIGINT by then gets SIGQUIT; it replays its log at the next start.
const STOP_MAX: Duration = Duration::from_secs(120);
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// The thread that owns the server process.
pub struct Supervisor {
    stop: mpsc::Sender<()>,
    thread: thread::JoinHandle<()>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    pid: AtomicU32,
    restarts: AtomicU64,
}

impl Supervisor {
    /// Starts the server and waits until it takes connections.
    pub fn start(cluster: Arc<Cluster>, start_max: Duration) -> Result<Self, EmbeddedError> {
        let (stop, stopped) = mpsc::channel();
        let (ready, started) = mpsc::channel();
        let state = Arc::new(State::default());
        let thread = thread::Builder::new()
            .name("postgres".to_owned())
            .spawn({
                let state = Arc::clone(&state);
                move || supervise(&cluster, &state, start_max, &stopped, &ready)
            })
            .map_err(EmbeddedError::io("starting a thread"))?;
        let died = || EmbeddedError::Io { what: "supervising".into(), source: io::Error::other("the thread died") };
        match started.recv().map_err(|_| died()) {
            Ok(Ok(())) => Ok(Self { stop, thread, state }),
            Ok(Err(error)) | Err(error) => {
                let _ = thread.join();
                Err(error)
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.state.pid.load(Ordering::Acquire)
    }

    pub fn restarts(&self) -> u64 {
        self.state.restarts.load(Ordering::Acquire)
    }

    /// Stops the server and waits until it is gone.
    pub fn stop(self) {
        // The thread ends without being told only if it panicked; joining then returns at once.
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}

/// Makes a command run as `user` (root only) in a process group of its own and end with the calling thread.
pub fn tie(command: &mut Command, user: Option<&User>) {
    if let Some(user) = user {
        // As root, the standard library drops the supplementary groups with the uid.
        command.uid(user.uid).gid(user.gid);
    }
    // Ctrl-C in a terminal goes to the whole foreground group; the server must outlive the requests being answered.
    command.process_group(0);
    let parent = std::process::id();
    // SAFETY: prctl and getppid are async-signal-safe, and nothing is allocated. This runs after setuid, which would
    // have cleared the death signal.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGINT) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have died before the line above.
            if u32::try_from(libc::getppid()) != Ok(parent) {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            Ok(())
        });
    }
}

type Ready = mpsc::Sender<Result<(), EmbeddedError>>;

fn supervise(cluster: &Cluster, state: &State, start_max: Duration, stop: &mpsc::Receiver<()>, ready: &Ready) {
    let mut child = match launch(cluster, start_max, stop) {
        Ok(Some(child)) => child,
        Ok(None) => return,
        Err(error) => {
            let _ = ready.send(Err(error));
            return;
        }
    };
    state.pid.store(child.id(), Ordering::Release);
    if ready.send(Ok(())).is_err() {
        end(&mut child);
        return;
    }
    let mut pause = PAUSE_FIRST;
    loop {
        let up_since = Instant::now();
        let Some(status) = watch(cluster, &mut child, stop) else {
            end(&mut child);
            state.pid.store(0, Ordering::Release);
            return;
        };
        state.pid.store(0, Ordering::Release);
        if up_since.elapsed() > PAUSE_MAX {
            pause = PAUSE_FIRST;
        }
        loop {
            tracing::error!(
                ended = %describe(status),
                again_in_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
                "PostgreSQL ended by itself and is started again"
            );
            if stop.recv_timeout(pause) != Err(mpsc::RecvTimeoutError::Timeout) {
                return;
            }
            pause = (pause * 2).min(PAUSE_MAX);
            match launch(cluster, start_max, stop) {
                Ok(Some(next)) => {
                    child = next;
                    break;
                }
                Ok(None) => return,
                Err(error) => tracing::error!(error = %error, "PostgreSQL could not be started again"),
            }
        }
        state.pid.store(child.id(), Ordering::Release);
        state.restarts.fetch_add(1, Ordering::AcqRel);
        metrics::counter!("tessera_postgres_restarts_total").increment(1);
        tracing::info!(pid = child.id(), "PostgreSQL runs again");
    }
}

/// Waits until the server ends (its status) or is to be stopped (None).
fn watch(cluster: &Cluster, child: &mut Child, stop: &mpsc::Receiver<()>) -> Option<ExitStatus> {
    let mut log_looked_at = Instant::now();
    loop {
        match stop.recv_timeout(POLL) {
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            // Told to stop, or nobody is left who could tell.
            Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => return None,
        }
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if log_looked_at.elapsed() > Duration::from_secs(60) {
            log_looked_at = Instant::now();
            bound_log(&cluster.log);
        }
    }
}

/// Starts the server and waits until it is ready; None when told to stop meanwhile.
fn launch(cluster: &Cluster, start_max: Duration, stop: &mpsc::Receiver<()>) -> Result<Option<Child>, EmbeddedError> {
    let deadline = Instant::now() + start_max;
    await_predecessor(cluster, stop)?;
    loop {
        bound_log(&cluster.log);
        let log_from = fs::metadata(&cluster.log).map_or(0, |meta| meta.len());
        let mut child = spawn(cluster)?;
        match await_ready(cluster, &mut child, deadline, stop)? {
            Outcome::Ready => return Ok(Some(child)),
            Outcome::Stopped => {
                end(&mut child);
                return Ok(None);
            }
            Outcome::Ended(status) => {
                let said = complaint(&cluster.log, log_from);
                // Backends of a killed predecessor still hold its memory: they are ending, and it is tried again.
                let passing = said.contains("pre-existing shared memory block") || said.contains("still in use");
                if !passing || Instant::now() > deadline {
                    let said = if said.is_empty() { describe(status) } else { said };
                    return Err(EmbeddedError::Start { said, log: cluster.log.clone() });
                }
                end_orphans(cluster);
                thread::sleep(PAUSE_FIRST);
            }
        }
    }
}

fn spawn(cluster: &Cluster) -> Result<Child, EmbeddedError> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(&cluster.log)
        .map_err(|e| EmbeddedError::NotWritable { dir: cluster.data_dir.clone(), cause: cluster::short(&e) })?;
    let socket_dir = cluster.socket_dir.display().to_string();
    let mut command = cluster.command("postgres");
    command
        .arg("-D")
        .arg(&cluster.pgdata)
        // These hold whatever the configuration files say.
        .args(["-c", "listen_addresses=", "-c", "port=5432", "-c", "unix_socket_permissions=0700"])
        .args(["-c", "logging_collector=off", "-c", "log_destination=stderr"])
        .arg("-c")
        .arg(format!("unix_socket_directories={}", quote_list(&socket_dir)))
        // What is filled stands not in the log: little of it need be kept.
        .args(if cluster.fills {
            &["-c", "wal_level=minimal", "-c", "max_wal_senders=0", "-c", "max_wal_size=2GB"][..]
        } else {
            &[]
        })
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(EmbeddedError::io("opening the log"))?)
        .stderr(log);
    command.spawn().map_err(EmbeddedError::io("starting postgres"))
}

/// One entry of a list setting, in which commas and blanks would divide.
fn quote_list(entry: &str) -> String {
    format!("\"{}\"", entry.replace('"', "\"\""))
}

enum Outcome {
    Ready,
    Ended(ExitStatus),
    Stopped,
}

fn await_ready(
    cluster: &Cluster,
    child: &mut Child,
    deadline: Instant,
    stop: &mpsc::Receiver<()>,
) -> Result<Outcome, EmbeddedError> {
    let started = Instant::now();
    let mut told = false;
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Ok(Outcome::Ended(status));
        }
        if says_ready(&cluster.pgdata, child.id()) {
            return Ok(Outcome::Ready);
        }
        if !told && started.elapsed() > Duration::from_secs(3) {
            told = true;
            tracing::info!("PostgreSQL is not ready yet: after a crash it replays its log first");
        }
        if Instant::now() > deadline {
            end(child);
            return Err(EmbeddedError::Slow { waited_s: started.elapsed().as_secs(), log: cluster.log.clone() });
        }
        if stop.recv_timeout(POLL / 4) != Err(mpsc::RecvTimeoutError::Timeout) {
            return Ok(Outcome::Stopped);
        }
    }
}

/// The eighth line of postmaster.pid is the server's state; the first its pid, since a crashed one's file may be left.
fn says_ready(pgdata: &Path, pid: u32) -> bool {
    let Ok(text) = fs::read_to_string(pgdata.join("postmaster.pid")) else { return false };
    let mut lines = text.lines();
    lines.next().and_then(|line| line.trim().parse().ok()) == Some(pid)
        && lines.nth(6).is_some_and(|line| line.trim() == "ready")
}

/// A server whose Tessera was killed is still ending. We hold the directory's lock, so nobody starts another.
fn await_predecessor(cluster: &Cluster, stop: &mpsc::Receiver<()>) -> Result<(), EmbeddedError> {
    let started = Instant::now();
    let mut told = false;
    while let Some(pid) = cluster.postmaster_pid().filter(|pid| *pid != std::process::id()) {
        match is_server_of(cluster, pid) {
            Some(true) => {}
            // The pid is free, or another program has it by now: what is left is only the file.
            Some(false) => {
                let _ = fs::remove_file(cluster.pgdata.join("postmaster.pid"));
                end_orphans(cluster);
                return Ok(());
            }
            // Not ours to look at: PostgreSQL itself decides.
            None => return Ok(()),
        }
        if !told && started.elapsed() > Duration::from_secs(1) {
            told = true;
            tracing::info!(pid, "waiting for the PostgreSQL of the last run to end");
        }
        if started.elapsed() > PREDECESSOR_MAX {
            let waited_s = started.elapsed().as_secs();
            return Err(EmbeddedError::StillRunning { dir: cluster.data_dir.clone(), pid, waited_s });
        }
        if stop.recv_timeout(POLL) != Err(mpsc::RecvTimeoutError::Timeout) {
            return Ok(());
        }
    }
    Ok(())
}

/// Whether the process is a server on this directory: servers have their data directory as working directory. None when
/// that cannot be seen.
fn is_server_of(cluster: &Cluster, pid: u32) -> Option<bool> {
    match fs::read_link(format!("/proc/{pid}/cwd")) {
        Ok(cwd) => Some(cwd == cluster.pgdata),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(false),
        Err(_) => None,
    }
}

/// Ends backends whose postmaster was killed: they notice only at their next wait, and hold the shared memory until
/// then. SIGQUIT is what their postmaster would have sent.
fn end_orphans(cluster: &Cluster) {
    let Ok(entries) = fs::read_dir("/proc") else { return };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids.filter(|pid| is_server_of(cluster, *pid) == Some(true)) {
        let is_postgres = fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "postgres");
        if is_postgres {
            tracing::debug!(pid, "ending a process of a PostgreSQL that was killed");
            signal(pid, libc::SIGQUIT);
        }
    }
}

/// SIGINT, and SIGQUIT when that takes too long; returns when the process is gone.
fn end(child: &mut Child) {
    let started = Instant::now();
    let mut harder = false;
    signal(child.id(), libc::SIGINT);
    loop {
        match child.try_wait() {
            Ok(None) => {}
            Ok(Some(_)) | Err(_) => return,
        }
        if !harder && started.elapsed() > STOP_MAX {
            harder = true;
            tracing::warn!(pid = child.id(), "PostgreSQL takes too long to stop and is stopped at once");
            signal(child.id(), libc::SIGQUIT);
        }
        thread::sleep(POLL / 4);
    }
}

fn signal(pid: u32, signal: libc::c_int) {
    if let Ok(pid) = libc::pid_t::try_from(pid) {
        // SAFETY: kill takes plain numbers; a process that is gone gives an error, which is what we want.
        unsafe { libc::kill(pid, signal) };
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (_, Some(signal)) => format!("signal {signal}"),
        (Some(code), None) => format!("exit code {code}"),
        (None, None) => "unknown".to_owned(),
    }
}

/// What the log says from `from` on, errors only, shortened.
fn complaint(log: &Path, from: u64) -> String {
    let mut text = Vec::new();
    if let Ok(mut file) = File::open(log)
        && file.seek(SeekFrom::Start(from)).is_ok()
    {
        let _ = file.take(64 << 10).read_to_end(&mut text);
    }
    let text = String::from_utf8_lossy(&text);
    let grave = ["FATAL:", "PANIC:", "ERROR:", "HINT:", "could not"];
    let lines = text.lines().filter(|line| grave.iter().any(|word| line.contains(word)));
    let lines: Vec<&str> = lines.map(|line| line.split_once("] ").map_or(line, |(_, rest)| rest)).collect();
    lines[lines.len().saturating_sub(3)..].join("; ")
}

/// Puts the log aside when it is large. The server appends, so emptying the file under it is safe.
fn bound_log(log: &Path) {
    if fs::metadata(log).is_ok_and(|meta| meta.len() > cluster::LOG_BYTES_MAX)
        && fs::copy(log, log.with_extension("log.1")).is_ok()
    {
        let _ = File::options().write(true).open(log).and_then(|file| file.set_len(0));
    }
}
