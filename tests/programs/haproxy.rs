//! HAProxy in front of nginx: as an HTTP and as a TCP proxy, copying and splicing.

use crate::compare::{Totals, compare};
use crate::nginx;
use crate::servers::{self, STATIC};
use crate::stage::Stage;
use crate::web;

const HTTP: &str = "127.0.0.1:9001";
const TCP: &str = "127.0.0.1:9002";

fn start(stage: &mut Stage, options: &str) {
    let listen = |mode, address| {
        format!("listen {mode}\n mode {mode}\n bind {address}\n server nginx {STATIC}\n{options}\n")
    };
    let configuration = [
        "defaults\n timeout connect 20s\n timeout client 60s\n timeout server 60s\n".to_owned(),
        listen("http", HTTP),
        listen("tcp", TCP),
    ];
    let configuration = stage.file("haproxy.cfg", configuration.concat());
    let mut command = stage.command("haproxy");
    command.args(["-db", "-f"]).arg(configuration);
    stage.serve(command, &[HTTP, TCP]);
}

fn carry(what: &str, options: &str, tool_arguments: &[&str]) -> Totals {
    compare(what, |stage| {
        servers::nginx(stage);
        start(stage, options);
        stage.accelerate_with(tool_arguments);
        for server in [HTTP, TCP] {
            web::fetch(stage, server);
            web::fetch_together(stage, server, 64 << 10 | 1, 200);
            for (size, connections) in [(1 << 10, 20), (1 << 20, 10)] {
                web::load(stage, server, size, connections);
            }
            web::upload(stage, server);
        }
        nginx::assert_quiet(stage);
    })
}

#[test]
fn haproxy_copies() {
    carry("HAProxy", "", &[]).assert_admitted();
}

/// It copies until a stream is fast and something wakes it up in the middle, so it only splices now and then.
#[test]
fn haproxy_splices_when_it_chooses_to() {
    carry("HAProxy, splice-auto", " option splice-auto", &[]).assert_admitted();
}

/// splice does not see redirected bytes, so the tool must be told.
#[test]
fn haproxy_splices_each_body_when_it_is_left_alone() {
    let options = " option splice-request\n option splice-response";
    let totals = carry("HAProxy, splicing", options, &["--exclude-programs", "haproxy"]);
    totals.assert_untouched(&["refused_program"]);
}
