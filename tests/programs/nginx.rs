//! nginx: files from 1 byte to 50 MiB, served and proxied, buffered and not.

use crate::compare::compare;
use crate::stage::Stage;
use crate::web;

pub const STATIC: &str = "127.0.0.1:8080";
const STATIC_V6: &str = "[::1]:8080";
const BUFFERED: &str = "127.0.0.1:8081";
const UNBUFFERED: &str = "127.0.0.1:8082";

/// Starts an nginx that serves the site, and proxies to itself.
pub fn start(stage: &mut Stage) {
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
    server {{
        listen {STATIC};
        listen {STATIC_V6};
        root {site};
        location /kept/ {{ root {folder}; dav_methods PUT; create_full_put_path on; }}
    }}
    server {{ listen {BUFFERED}; location / {{ proxy_pass http://v4; {proxy} }} }}
    server {{
        listen {UNBUFFERED};
        location / {{ proxy_pass http://v6; proxy_buffering off; proxy_request_buffering off; {proxy} }}
    }}
}}"
    );
    let configuration = stage.file("nginx.conf", configuration);
    let mut command = stage.command("nginx");
    command.args(["-e", "stderr", "-c"]).arg(configuration);
    stage.serve(command, &[STATIC, STATIC_V6, BUFFERED, UNBUFFERED]);
}

pub fn assert_quiet(stage: &Stage) {
    // Lines of level error and worse begin with the time and the level.
    for level in ["[error]", "[crit]", "[alert]", "[emerg]"] {
        assert_eq!(stage.complaints(level), Vec::<String>::new());
    }
}

#[test]
fn nginx_serves_files() {
    let totals = compare("nginx", |stage| {
        start(stage);
        stage.accelerate();
        for server in [STATIC, STATIC_V6] {
            web::fetch(stage, server);
        }
        web::fetch_together(stage, STATIC, 64 << 10 | 1, 200);
        for (size, connections) in [(1, 50), (1 << 10, 50), (64 << 10 | 1, 20), (1 << 20, 20)] {
            web::load(stage, STATIC, size, connections);
        }
        web::load(stage, STATIC_V6, 1 << 10, 50);
        web::upload(stage, STATIC);
        assert_quiet(stage);
    });
    totals.assert_admitted();
}

#[test]
fn nginx_is_a_proxy_with_and_without_buffers() {
    let totals = compare("nginx as proxy", |stage| {
        start(stage);
        stage.accelerate();
        for server in [BUFFERED, UNBUFFERED] {
            web::fetch(stage, server);
            web::fetch_together(stage, server, 64 << 10 | 1, 200);
            for (size, connections) in [(1 << 10, 20), (1 << 20, 10)] {
                web::load(stage, server, size, connections);
            }
            web::upload(stage, server);
        }
        assert_quiet(stage);
    });
    totals.assert_admitted();
}
