//! Serves the metrics over HTTP in threads of their own, so that no client delays another one or the shutdown.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{io, str};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sys::socket::{Shutdown, shutdown};

use crate::model::document::Status;

/// Clients served at a time; further ones are turned away. Each costs a thread and a file descriptor.
const MOST_CLIENTS: usize = 16;
/// How long a client may take to send its request, and then to receive each part of the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Limits on the bytes and headers of a request.
const HEAD_BYTES: usize = 8192;
const HEADERS: usize = 64;
/// Delay after a failed accept, such as when file descriptors run out.
const RETRY: Duration = Duration::from_secs(1);

const INDEX: &str = "<!doctype html>\n<title>sockredir</title>\n<a href=\"/metrics\">metrics</a>\n";

/// A listening socket for the metrics.
pub struct Listener(TcpListener);

impl Listener {
    pub fn bind(address: SocketAddr) -> Result<Self> {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => bail!(
                "failed to listen on {address} for metrics: it is taken: give --metrics another port, or stop the program \
                 that has it"
            ),
            bound => {
                Ok(Self(bound.with_context(|| {
                    format!("failed to listen on {address} for metrics")
                })?))
            }
        }
    }

    /// The address it listens on, with the actual port.
    pub fn address(&self) -> Result<SocketAddr> {
        self.0
            .local_addr()
            .context("failed to ask for the address of the metrics")
    }

    /// Answers from now on. `status` is called for each scrape, never concurrently.
    pub fn serve(self, status: impl Fn() -> Result<Status> + Send + 'static) -> Result<Server> {
        let status = Arc::new(Mutex::new(status));
        let listener = self
            .0
            .try_clone()
            .context("failed to copy the socket of the metrics")?;
        let accept_all = move || {
            loop {
                match listener.accept() {
                    Ok((client, _)) if Arc::strong_count(&status) <= MOST_CLIENTS => {
                        let status = Arc::clone(&status);
                        // Without a thread for it, the client is sent away.
                        drop(thread::Builder::new().spawn(move || serve(client, &status)));
                    }
                    Ok(_) => {}
                    // It was shut down.
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => break,
                    Err(_) => thread::sleep(RETRY),
                }
            }
        };
        let thread = thread::Builder::new()
            .name("metrics".to_owned())
            .spawn(accept_all)
            .context("failed to start a thread for the metrics")?;
        Ok(Server {
            listener: self.0,
            thread: Some(thread),
        })
    }
}

/// Answers until dropped, which frees its address.
pub struct Server {
    listener: TcpListener,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let stopped = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
        // A thread that could not be stopped is not joined.
        if let Some(thread) = self.thread.take().filter(|_| stopped.is_ok()) {
            let _ = thread.join();
        }
    }
}

/// One request and its answer. A client that stalls or has gone is dropped.
fn serve(mut client: TcpStream, status: &Mutex<impl Fn() -> Result<Status>>) {
    let metrics = || {
        let status = status
            .lock()
            .map_err(|_| anyhow!("an earlier scrape has failed"))?;
        super::text(&(*status)()?)
    };
    let answer = match ask(&mut client) {
        Ok(Some(Request { method, path })) => answer(&method, &path, metrics),
        Ok(None) => Answer::new("400 Bad Request", "this is no HTTP request\n"),
        Err(_) => return,
    };
    // A client that has gone needs no answer.
    let _ = client
        .set_write_timeout(Some(PATIENCE))
        .and_then(|()| client.write_all(&answer.bytes()));
}

struct Request {
    method: String,
    path: String,
}

/// Reads the request; `None` if it is malformed.
fn ask(client: &mut TcpStream) -> io::Result<Option<Request>> {
    let deadline = Instant::now() + PATIENCE;
    let mut head = [0; HEAD_BYTES];
    let mut length = 0;
    while length < head.len() {
        // An error once no time is left.
        client.set_read_timeout(Some(deadline.saturating_duration_since(Instant::now())))?;
        match client.read(&mut head[length..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => length += more,
        }
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(&head[..length]) {
            Ok(httparse::Status::Partial) => {}
            Ok(httparse::Status::Complete(_)) => {
                let (method, path) = (request.method, request.path);
                return Ok(method.zip(path).map(|(method, path)| Request {
                    method: method.to_owned(),
                    path: path.to_owned(),
                }));
            }
            Err(_) => return Ok(None),
        }
    }
    Ok(None)
}

struct Answer {
    status: &'static str,
    kind: &'static str,
    body: String,
    /// Send only the head.
    is_head: bool,
}

impl Answer {
    fn new(status: &'static str, body: impl Into<String>) -> Self {
        Self {
            status,
            kind: "text/plain; charset=utf-8",
            body: body.into(),
            is_head: false,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let Self {
            status, kind, body, ..
        } = self;
        let length = body.len();
        let body = if self.is_head { "" } else { body };
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nAllow: GET, HEAD\r\n\
             Connection: close\r\n\r\n{body}"
        )
        .into_bytes()
    }
}

fn answer(method: &str, path: &str, metrics: impl FnOnce() -> Result<String>) -> Answer {
    if !matches!(method, "GET" | "HEAD") {
        return Answer::new("405 Method Not Allowed", "only GET and HEAD are answered\n");
    }
    let path = path.split('?').next().unwrap_or_default();
    let mut answer = match path {
        "/" => Answer {
            kind: "text/html; charset=utf-8",
            ..Answer::new("200 OK", INDEX)
        },
        "/metrics" => match metrics() {
            Ok(text) => Answer {
                kind: prometheus::TEXT_FORMAT,
                ..Answer::new("200 OK", text)
            },
            Err(error) => Answer::new("503 Service Unavailable", format!("{error:#}\n")),
        },
        _ => Answer::new("404 Not Found", "metrics are at /metrics\n"),
    };
    answer.is_head = method == "HEAD";
    answer
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::daemon::metrics::text::sample;

    /// Timeout of every read and write.
    const TIME: Duration = Duration::from_secs(60);

    fn connect(address: SocketAddr) -> TcpStream {
        let client = TcpStream::connect_timeout(&address, TIME).unwrap();
        client.set_read_timeout(Some(TIME)).unwrap();
        client.set_write_timeout(Some(TIME)).unwrap();
        client
    }

    /// The answer to a request, up to the end of the connection.
    fn exchange(address: SocketAddr, request: &str) -> io::Result<String> {
        let mut client = connect(address);
        client.write_all(request.as_bytes())?;
        let mut answer = String::new();
        client.read_to_string(&mut answer)?;
        Ok(answer)
    }

    fn get(address: SocketAddr, path: &str) -> String {
        exchange(address, &format!("GET {path} HTTP/1.1\r\nHost: here\r\n\r\n")).unwrap()
    }

    /// Any port that is free.
    const FREE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    fn start(status: impl Fn() -> Result<Status> + Send + 'static) -> (Server, SocketAddr) {
        let listener = Listener::bind(FREE).unwrap();
        let bound = listener.address().unwrap();
        (listener.serve(status).unwrap(), bound)
    }

    #[test]
    fn the_address_of_a_server_that_has_ended_is_free() {
        let (server, address) = start(|| Ok(sample()));
        get(address, "/metrics");
        drop(server);
        assert!(TcpStream::connect_timeout(&address, TIME).is_err());
        drop(Listener::bind(address).unwrap());
    }

    #[test]
    fn an_address_that_is_taken_is_refused_in_one_line() {
        let first = Listener::bind(FREE).unwrap();
        let taken = first.address().unwrap();
        let error = format!("{:#}", Listener::bind(taken).err().unwrap());
        let begin = format!("failed to listen on {taken} for metrics: it is taken: ");
        assert!(error.starts_with(&begin) && !error.contains('\n'), "{error}");
    }

    #[test]
    fn a_scrape_is_the_text_of_the_status() {
        let (_server, bound) = start(|| Ok(sample()));
        let answer = get(bound, "/metrics?debug");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n"));
        assert!(
            head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())),
            "{head}"
        );
        assert_eq!(body, super::super::text(&sample()).unwrap());
    }

    #[test]
    fn a_head_has_no_body() {
        let (_server, bound) = start(|| Ok(sample()));
        let whole = get(bound, "/metrics");
        let head = exchange(bound, "HEAD /metrics HTTP/1.0\r\n\r\n").unwrap();
        assert_eq!(Some(&head[..]), whole.split_inclusive("\r\n\r\n").next());
    }

    #[test]
    fn the_index_leads_to_the_metrics_and_nothing_else_is_there() {
        let (_server, bound) = start(|| Ok(sample()));
        assert!(get(bound, "/").contains("href=\"/metrics\""));
        assert!(get(bound, "/metrics/").starts_with("HTTP/1.1 404 "));
        let posted = exchange(bound, "POST /metrics HTTP/1.1\r\n\r\n").unwrap();
        assert!(posted.starts_with("HTTP/1.1 405 ") && posted.contains("\r\nAllow: GET, HEAD\r\n"));
    }

    #[test]
    fn what_is_no_request_is_told_so() {
        let (_server, bound) = start(|| Ok(sample()));
        let too_long = "x".repeat(HEAD_BYTES);
        for wrong in [
            "\x16\x03\x01\r\n",
            "GET\r\n\r\n",
            &format!("GET /{too_long}")[..HEAD_BYTES],
        ] {
            let answer = exchange(bound, wrong).unwrap();
            assert!(answer.starts_with("HTTP/1.1 400 "), "{wrong:?}: {answer}");
        }
    }

    #[test]
    fn a_status_that_cannot_be_had_is_told_in_a_line() {
        let (_server, bound) = start(|| bail!("failed to read the counters"));
        let answer = get(bound, "/metrics");
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(
            answer.ends_with("\r\n\r\nfailed to read the counters\n"),
            "{answer}"
        );
    }

    #[test]
    fn silent_clients_hold_up_nobody() {
        let (_server, bound) = start(|| Ok(sample()));
        let mut silent: Vec<_> = (1..MOST_CLIENTS).map(|_| connect(bound)).collect();
        silent[0].write_all(b"GET /metrics HTTP/1.1\r\n").unwrap();
        assert!(get(bound, "/metrics").starts_with("HTTP/1.1 200 "));
    }

    /// However many clients there are, threads and file descriptors stay bounded, and none is held for long.
    #[test]
    fn too_many_clients_are_sent_away_and_silent_ones_too() {
        let (_server, bound) = start(|| Ok(sample()));
        let mut silent: Vec<_> = (0..MOST_CLIENTS).map(|_| connect(bound)).collect();
        assert_eq!(connect(bound).read(&mut [0]).unwrap(), 0);
        for client in &mut silent {
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
        }
        assert!(get(bound, "/metrics").starts_with("HTTP/1.1 200 "));
    }
}
