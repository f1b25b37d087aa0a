//! A caller over HTTP that costs little itself, with a connection of its own that it keeps, and bare servers to compare
//! with.

use std::{
    net::{SocketAddr, TcpListener},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use actix_web::{App, HttpServer, web::ServiceConfig};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Runtime,
};

use super::{Caller, Contender, Round, Side, machine};

/// Of the threads on which callers run, to tell their time from the server's.
pub const CLIENT_THREADS: &str = "bench-client";

/// Callers run on threads of their own, so that both sides have the same ones and their time can be told.
pub fn client_runtime() -> &'static Runtime {
    let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(threads).thread_name(CLIENT_THREADS).enable_all().build();
    Box::leak(Box::new(runtime.expect("a runtime")))
}

/// Writes the next request into the buffer.
pub trait Requests: Send + 'static {
    fn write_next(&mut self, buffer: &mut Vec<u8>);
}

impl<F: FnMut(&mut Vec<u8>) + Send + 'static> Requests for F {
    fn write_next(&mut self, buffer: &mut Vec<u8>) {
        self(buffer);
    }
}

/// Of connections to a bare server.
const KEEP_ALIVE: Duration = Duration::from_secs(600);

/// A connection that is kept, as a till keeps its own. Opened by its first request: a server does not wait long for one.
pub struct Connection<R> {
    place: SocketAddr,
    stream: Option<TcpStream>,
    requests: R,
    buffer: Vec<u8>,
    answer: Vec<u8>,
}

impl<R: Requests> Connection<R> {
    pub fn new(place: SocketAddr, requests: R) -> Self {
        Self { place, stream: None, requests, buffer: Vec::with_capacity(1024), answer: Vec::with_capacity(4096) }
    }

    /// The whole answer to the next request, which must be a success.
    pub async fn ask(&mut self) -> &[u8] {
        self.buffer.clear();
        self.requests.write_next(&mut self.buffer);
        let stream = match &mut self.stream {
            Some(stream) => stream,
            closed => closed.insert(connect(self.place).await),
        };
        stream.write_all(&self.buffer).await.expect("it is taken");
        self.answer.clear();
        loop {
            let read = stream.read_buf(&mut self.answer).await.expect("it is answered");
            assert!(read > 0, "the connection was closed");
            if let Some(length) = length_of(&self.answer)
                && self.answer.len() >= length
            {
                break;
            }
        }
        assert!(self.answer.starts_with(b"HTTP/1.1 20"), "{}", String::from_utf8_lossy(&self.answer));
        &self.answer
    }
}

async fn connect(place: SocketAddr) -> TcpStream {
    let mut tries = 0;
    let stream = loop {
        match TcpStream::connect(place).await {
            Ok(stream) => break stream,
            // A server that begins.
            Err(_) if tries < 200 => tokio::time::sleep(std::time::Duration::from_millis(25)).await,
            Err(error) => panic!("{place}: {error}"),
        }
        tries += 1;
    };
    stream.set_nodelay(true).expect("a socket");
    stream
}

/// Bytes of an answer, once its head is there.
fn length_of(answer: &[u8]) -> Option<usize> {
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let name = b"\r\ncontent-length: ";
    let at = answer[..head].windows(name.len()).position(|part| part.eq_ignore_ascii_case(name))? + name.len();
    let digits = answer[at..head].iter().take_while(|byte| byte.is_ascii_digit());
    Some(head + digits.fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0')))
}

impl<R: Requests> Caller for Connection<R> {
    async fn call(&mut self) {
        self.ask().await;
    }
}

/// Connections to one server, with what its own threads spent.
pub struct OverHttp<R> {
    side: Side<Connection<R>>,
    runtime: &'static Runtime,
}

impl<R: Requests> OverHttp<R> {
    pub fn new(name: &str, runtime: &'static Runtime, place: SocketAddr, requests: Vec<R>) -> Self {
        let callers = requests.into_iter().map(|requests| Connection::new(place, requests)).collect();
        Self { side: Side::new(name, callers), runtime }
    }
}

impl<R: Requests> Contender for OverHttp<R> {
    fn name(&self) -> &str {
        self.side.name()
    }

    fn round(&mut self, _: &Runtime, calls: usize) -> Round {
        let before = machine::cpu_seconds(false, CLIENT_THREADS);
        let round = self.side.round(self.runtime, calls);
        Round { cpu: machine::cpu_seconds(false, CLIENT_THREADS) - before, ..round }
    }
}

/// A server that does only what `configure` says, with as many workers as ours has, until the process ends.
pub fn serve_bare(configure: impl Fn(&mut ServiceConfig) + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let place = listener.local_addr().expect("it is bound");
    let workers = tessera::http::app::HttpSettings::default().workers;
    let (ready, is_ready) = mpsc::channel();
    thread::spawn(move || {
        actix_web::rt::System::new().block_on(async move {
            let server = HttpServer::new(move || App::new().configure(configure.clone()))
                .workers(workers)
                // Callers rest while the other side has its turn, and longer than the default of 5 s when it reads from disk.
                .keep_alive(KEEP_ALIVE)
                .disable_signals()
                .listen(listener)
                .expect("it listens")
                .run();
            ready.send(()).expect("somebody waits");
            server.await.expect("it serves");
        });
    });
    is_ready.recv().expect("it begins");
    place
}

/// `GET path` with an API key.
pub fn get(path: &str, token: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {token}\r\n\r\n").into_bytes()
}

/// The body of the answer to one request.
pub async fn body_of(place: SocketAddr, request: Vec<u8>) -> Vec<u8> {
    let mut connection = Connection::new(place, move |buffer: &mut Vec<u8>| buffer.extend_from_slice(&request));
    let answer = connection.ask().await;
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    answer[head..].to_vec()
}

/// Requests that are made beforehand, drawn at random.
pub fn drawn(requests: &Arc<Vec<Vec<u8>>>, callers: usize) -> Vec<impl Requests + use<>> {
    use rand::{Rng, SeedableRng, rngs::StdRng};
    let caller = |caller: usize| {
        let (requests, mut rng) = (Arc::clone(requests), StdRng::seed_from_u64(caller as u64));
        move |buffer: &mut Vec<u8>| buffer.extend_from_slice(&requests[rng.random_range(0..requests.len())])
    };
    (0..callers).map(caller).collect()
}
