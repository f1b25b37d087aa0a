//! A proxy between a server and PostgreSQL that can lose a connection at a chosen step of a commit, and be the database
//! that is away or does not answer. It reads the bounds of the frontend's messages and the texts of statements, no more.

use std::{
    collections::HashSet,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

use super::TestDb;

/// PostgreSQL's name for its socket.
const SOCKET: &str = ".s.PGSQL.5432";
/// How long the commit of [`Cut::LateCommit`] is under way after its sender was cut off.
const LATE: Duration = Duration::from_millis(300);

/// The step at which the next write of the lane loses its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    BeforeBegin,
    AfterClaim,
    BeforeCommit,
    /// COMMIT goes through, its answer does not.
    AfterCommit,
    /// As `AfterCommit`, but COMMIT arrives when the lane is already asking what became of it.
    LateCommit,
    /// The first bytes of the answer to COMMIT come through.
    DuringAnswer,
    /// COMMIT does not arrive, and nobody closes the connection, as when a machine stands still; until the server does, or
    /// the proxy refuses.
    Silence,
}

impl Cut {
    /// All that close the connection at once.
    pub const ALL: [Cut; 6] =
        [Cut::BeforeBegin, Cut::AfterClaim, Cut::BeforeCommit, Cut::AfterCommit, Cut::LateCommit, Cut::DuringAnswer];

    fn is_at_commit(self) -> bool {
        matches!(self, Self::BeforeCommit | Self::AfterCommit | Self::LateCommit | Self::DuringAnswer | Self::Silence)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Open,
    /// Connections are closed, new ones as well.
    Refused,
    /// Connections are taken and nothing is passed on.
    Stalled,
}

struct Shared {
    cut: Mutex<Option<Cut>>,
    cuts: AtomicUsize,
    way: watch::Sender<Way>,
    server: PathBuf,
}

/// The proxy; gone when it is dropped.
pub struct Proxy {
    dir: PathBuf,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// In front of the cluster of the tests.
    pub fn start(db: &TestDb) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = db.socket_dir().join(format!("proxy-{number}"));
        std::fs::create_dir_all(&dir).unwrap();
        let listener = UnixListener::bind(dir.join(SOCKET)).unwrap();
        let server = db.socket_dir().join(SOCKET);
        let (way, _) = watch::channel(Way::Open);
        let shared = Arc::new(Shared { cut: Mutex::default(), cuts: AtomicUsize::new(0), way, server });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { dir, shared, accepting }
    }

    /// Where a server finds the database behind this proxy.
    pub fn socket_dir(&self) -> &Path {
        &self.dir
    }

    /// The next write of the lane that comes to this step loses its connection, once.
    pub fn arm(&self, cut: Cut) {
        *self.shared.cut.lock().unwrap() = Some(cut);
    }

    pub fn disarm(&self) {
        *self.shared.cut.lock().unwrap() = None;
    }

    /// How many connections were cut at a step.
    pub fn cuts(&self) -> usize {
        self.shared.cuts.load(Ordering::SeqCst)
    }

    pub fn open(&self) {
        self.shared.way.send_replace(Way::Open);
    }

    pub fn refuse(&self) {
        self.shared.way.send_replace(Way::Refused);
    }

    pub fn stall(&self) {
        self.shared.way.send_replace(Way::Stalled);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

async fn accept(listener: UnixListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        // What either side does to its connection is what the other sees; there is nobody to tell of errors.
        tokio::spawn(async move { drop(pass(&shared, client).await) });
    }
}

async fn pass(shared: &Shared, client: UnixStream) -> io::Result<()> {
    let mut way = shared.way.subscribe();
    if *way.borrow_and_update() == Way::Refused {
        return Ok(());
    }
    moving(&mut way).await;
    let server = UnixStream::connect(&shared.server).await?;
    let (client_reads, mut client_writes) = client.into_split();
    let (mut server_reads, mut server_writes) = server.into_split();
    let ended = tokio::select! {
        ended = forward(shared, client_reads, &mut server_writes) => ended?,
        _ = answer(shared, &mut server_reads, &mut client_writes) => None,
        _ = way.wait_for(|way| *way == Way::Refused) => None,
    };
    let Some((cut, commit)) = ended else { return Ok(()) };
    shared.cuts.fetch_add(1, Ordering::SeqCst);
    let mut answer = [0; 64];
    match cut {
        Cut::BeforeBegin | Cut::AfterClaim | Cut::BeforeCommit => {}
        Cut::AfterCommit | Cut::LateCommit => {
            drop(client_writes);
            if cut == Cut::LateCommit {
                tokio::time::sleep(LATE).await;
            }
            server_writes.write_all(&commit).await?;
            let _ = server_reads.read(&mut answer).await?;
        }
        Cut::DuringAnswer => {
            server_writes.write_all(&commit).await?;
            let _ = server_reads.read(&mut answer).await?;
            client_writes.write_all(&answer[..4]).await?;
        }
        Cut::Silence => {
            tokio::select! {
                _ = server_reads.read(&mut answer) => {}
                _ = way.wait_for(|way| *way == Way::Refused) => {}
            }
        }
    }
    Ok(())
}

async fn moving(way: &mut watch::Receiver<Way>) {
    let _ = way.wait_for(|way| *way != Way::Stalled).await;
}

async fn answer(shared: &Shared, server: &mut OwnedReadHalf, client: &mut OwnedWriteHalf) -> io::Result<()> {
    let mut way = shared.way.subscribe();
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = server.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        moving(&mut way).await;
        client.write_all(&buffer[..read]).await?;
    }
}

/// Passes the client's messages on until one is to be lost: then gives the step and the message.
async fn forward(
    shared: &Shared,
    client: OwnedReadHalf,
    server: &mut OwnedWriteHalf,
) -> io::Result<Option<(Cut, Vec<u8>)>> {
    let mut way = shared.way.subscribe();
    let mut client = BufReader::new(client);
    let startup = message(&mut client, 0).await?;
    let is_lane = startup.windows(13).any(|part| part == b"\0tessera lane");
    server.write_all(&startup).await?;
    let mut steps = Steps::default();
    loop {
        let message = message(&mut client, 1).await?;
        moving(&mut way).await;
        if is_lane {
            let armed = *shared.cut.lock().unwrap();
            let met = steps.see(&message);
            if let Some(cut) = armed.filter(|cut| met.is_some_and(|step| step.is(*cut)))
                && shared.cut.lock().unwrap().take_if(|armed| *armed == cut).is_some()
            {
                return Ok(Some((cut, message)));
            }
        }
        server.write_all(&message).await?;
    }
}

/// One message with its head: `tag` bytes of type, then its length.
async fn message(client: &mut (impl AsyncRead + Unpin), tag: usize) -> io::Result<Vec<u8>> {
    let mut message = vec![0; tag + 4];
    client.read_exact(&mut message).await?;
    let length = u32::from_be_bytes(message[tag..].try_into().expect("four bytes"));
    message.resize(tag + length as usize, 0);
    client.read_exact(&mut message[tag + 4..]).await?;
    Ok(message)
}

/// What a message of the lane begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Begin,
    /// The first statement after the claim.
    Claimed,
    Commit,
}

impl Step {
    fn is(self, cut: Cut) -> bool {
        match self {
            Self::Begin => cut == Cut::BeforeBegin,
            Self::Claimed => cut == Cut::AfterClaim,
            Self::Commit => cut.is_at_commit(),
        }
    }
}

/// Where a connection of the lane stands.
#[derive(Default)]
struct Steps {
    /// Names of the prepared statements that claim request numbers.
    claims: HashSet<String>,
    claimed: bool,
}

impl Steps {
    fn see(&mut self, message: &[u8]) -> Option<Step> {
        if message[0] != b'Q' {
            return matches!(message[0], b'P' | b'B').then_some(Step::Claimed).filter(|_| self.claimed);
        }
        let text = String::from_utf8_lossy(&message[5..message.len() - 1]);
        if text == "rollback" {
            return None;
        }
        if text == "commit" {
            return Some(Step::Commit);
        }
        let begins = text.starts_with("begin");
        let claims = self.claims_in(&text);
        let claimed = self.claimed;
        self.claimed = claims || (claimed && !begins);
        if begins { Some(Step::Begin) } else { claimed.then_some(Step::Claimed) }
    }

    /// Whether a message claims request numbers. It prepares the statement or names it.
    fn claims_in(&mut self, text: &str) -> bool {
        for prepared in text.split("prepare ").skip(1) {
            if let Some((name, statement)) = prepared.split_once(" as ")
                && statement.contains("pg_try_advisory_xact_lock")
            {
                self.claims.insert(format!("execute {name}("));
            }
        }
        self.claims.iter().any(|execute| text.contains(execute))
    }
}
