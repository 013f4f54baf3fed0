//! Owns how servers are started: in the directory of their run, over IPv4 and IPv6, and on a Unix socket if they support it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::stage::Stage;
use crate::web;

const ANSWERS: Duration = Duration::from_secs(60);

/// The addresses on which all of them listen.
pub const HOSTS: [&str; 2] = ["127.0.0.1", "::1"];

/// A Redis without persistence. Its Unix socket is `redis_socket`.
pub fn redis(stage: &mut Stage, port: &str) {
    let folder = stage.path(port);
    fs::create_dir(&folder).expect("failed to make a folder for Redis");
    let mut command = stage.command("redis-server");
    command.args(["--port", port, "--bind"]).args(HOSTS);
    command.args(["--save", "", "--dir"]).arg(folder);
    command.arg("--unixsocket").arg(redis_socket(stage, port));
    command.args([
        "--repl-diskless-sync-delay",
        "0",
        "--enable-debug-command",
        "local",
    ]);
    stage.serve(command, &[&format!("127.0.0.1:{port}"), &format!("[::1]:{port}")]);
}

pub fn redis_socket(stage: &Stage, port: &str) -> PathBuf {
    stage.path(port).join("socket")
}

pub const POSTGRES_USER: &str = "postgres";
pub const POSTGRES_PORT: &str = "5432";

/// A PostgreSQL with its data in the directory of the run, as the user created by its package. Its Unix socket is in
/// `postgres_sockets`.
pub fn postgres(stage: &mut Stage) {
    let data = stage.path("data");
    let mut own = Command::new("install");
    own.args(["-d", "-o", POSTGRES_USER])
        .arg(postgres_sockets(stage))
        .arg(&data);
    assert!(
        own.status().is_ok_and(|status| status.success()),
        "failed to make folders for {POSTGRES_USER}"
    );
    let mut command = stage.command_as(POSTGRES_USER, "initdb");
    command.args([
        "--no-sync",
        "--auth",
        "trust",
        "--locale",
        "C",
        "--encoding",
        "UTF8",
    ]);
    command.args(["--username", POSTGRES_USER, "--pgdata"]).arg(&data);
    stage.run(command);
    let mut command = stage.command_as(POSTGRES_USER, "postgres");
    command.args(["-p", POSTGRES_PORT, "-D"]).arg(&data);
    for setting in [
        "listen_addresses=127.0.0.1,::1",
        &format!("unix_socket_directories={}", postgres_sockets(stage).display()),
        "fsync=off",
        "shared_buffers=64MB",
    ] {
        command.args(["-c", setting]);
    }
    stage.serve(command, &["127.0.0.1:5432", "[::1]:5432"]);
    // It accepts connections some time before it answers them.
    let mut ready = stage.command("pg_isready");
    // As a user that exists in it: it would log an error otherwise.
    ready.args([
        "--quiet",
        "-h",
        HOSTS[0],
        "-p",
        POSTGRES_PORT,
        "-U",
        POSTGRES_USER,
    ]);
    let deadline = Instant::now() + ANSWERS;
    while !ready.status().is_ok_and(|status| status.success()) {
        assert!(Instant::now() < deadline, "PostgreSQL does not answer");
        thread::sleep(Duration::from_millis(20));
    }
}

pub fn postgres_sockets(stage: &Stage) -> PathBuf {
    stage.path("sockets")
}

pub const STATIC: &str = "127.0.0.1:8080";
pub const STATIC_V6: &str = "[::1]:8080";
pub const BUFFERED: &str = "127.0.0.1:8081";
pub const UNBUFFERED: &str = "127.0.0.1:8082";
/// As `BUFFERED`, but its upstream is reached through a Unix socket.
pub const PROXY_TO_UNIX: &str = "127.0.0.1:8083";

/// An nginx that serves the site, and is its own proxy.
pub fn nginx(stage: &mut Stage) {
    let site = web::lay_out(stage);
    let folder = stage.folder().display();
    let site = site.display();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {folder}/{name};"))
        .join("\n");
    let proxy = "proxy_http_version 1.1; proxy_set_header Connection '';";
    let configuration = format!(
        "
daemon off;
user root;
worker_processes 2;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    default_type application/octet-stream;
    keepalive_requests 1000000;
    client_max_body_size 0;
    sendfile on;
    {temporary}
    upstream v4 {{ server {STATIC}; keepalive 64; }}
    upstream v6 {{ server {STATIC_V6}; keepalive 64; }}
    upstream unix {{ server unix:{folder}/site.socket; keepalive 64; }}
    server {{
        listen {STATIC};
        listen {STATIC_V6};
        listen unix:{folder}/site.socket;
        root {site};
        location /kept/ {{ root {folder}; dav_methods PUT; create_full_put_path on; }}
    }}
    server {{ listen {BUFFERED}; location / {{ proxy_pass http://v4; {proxy} }} }}
    server {{
        listen {UNBUFFERED};
        location / {{ proxy_pass http://v6; proxy_buffering off; proxy_request_buffering off; {proxy} }}
    }}
    server {{ listen {PROXY_TO_UNIX}; location / {{ proxy_pass http://unix; {proxy} }} }}
}}"
    );
    let configuration = stage.file("nginx.conf", configuration);
    let mut command = stage.command("nginx");
    command.args(["-e", "stderr", "-c"]).arg(configuration);
    stage.serve(command, &[STATIC, STATIC_V6, BUFFERED, UNBUFFERED, PROXY_TO_UNIX]);
}

pub const MEMCACHED: &str = "127.0.0.1:11211";

/// A memcached that listens on both addresses. It supports either these or a Unix socket, not both.
pub fn memcached(stage: &mut Stage) {
    let mut command = memcached_command(stage);
    command.args(["-p", "11211", "-l", "127.0.0.1,::1", "-U", "0"]);
    stage.serve(command, &[MEMCACHED, "[::1]:11211"]);
}

/// A memcached on a Unix socket, `memcached_socket`.
pub fn memcached_on_socket(stage: &mut Stage) {
    // It listens as an unprivileged user.
    let folder = stage.path("memcached");
    fs::create_dir(&folder).expect("failed to make a folder for memcached");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).expect("failed to open it to memcached");
    let path = memcached_socket(stage);
    let mut command = memcached_command(stage);
    command.arg("-s").arg(&path);
    stage.serve(command, &[path.to_str().expect("a path of letters")]);
}

pub fn memcached_socket(stage: &Stage) -> PathBuf {
    stage.path("memcached").join("socket")
}

fn memcached_command(stage: &Stage) -> Command {
    let mut command = stage.command("memcached");
    command.args(["-u", "nobody", "-m", "256"]);
    command
}
