//! nginx: files from 1 byte to 50 MiB, served and proxied, buffered and not.

use crate::compare::compare;
use crate::servers::{self, BUFFERED, STATIC, STATIC_V6, UNBUFFERED};
use crate::stage::Stage;
use crate::web;

pub fn assert_quiet(stage: &Stage) {
    // Lines at level error and above begin with the time and the level.
    for level in ["[error]", "[crit]", "[alert]", "[emerg]"] {
        assert_eq!(stage.complaints(level), Vec::<String>::new());
    }
}

#[test]
fn nginx_serves_files() {
    let totals = compare("nginx", |stage| {
        servers::nginx(stage);
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
    // Small files are redirected, and from 4 KiB on sendfile goes through TCP.
    let left = totals.counter("tcp_only_sendfile") + totals.counter("drain_sendfile");
    assert!(left > 0, "none was left to TCP");
}

#[test]
fn nginx_is_a_proxy_with_and_without_buffers() {
    let totals = compare("nginx as proxy", |stage| {
        servers::nginx(stage);
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
