//! Python: asyncio at both ends, and the blocking server from its library.

use crate::compare::compare;
use crate::stage::Stage;
use crate::web;

#[test]
fn asyncio_streams_echo() {
    let totals = compare("asyncio", |stage| {
        let mut command = stage.script("python3", "asyncio_echo.py");
        command.args(["serve", "7000"]);
        stage.serve(command, &["127.0.0.1:7000", "[::1]:7000"]);
        stage.accelerate();
        for host in ["127.0.0.1", "::1"] {
            let mut command = stage.script("python3", "asyncio_echo.py");
            command.args(["converse", "7000", host]);
            stage.run_script(host, command);
        }
    });
    totals.assert_admitted();
}

const SERVER: &str = "127.0.0.1:8000";

/// Starts the HTTP server from Python's library, whose threads block in recv.
fn start_http_server(stage: &mut Stage) {
    let site = web::lay_out(stage);
    let mut command = stage.command("python3");
    command.args([
        "-m",
        "http.server",
        "--protocol",
        "HTTP/1.1",
        "--bind",
        "127.0.0.1",
        "--directory",
    ]);
    command.arg(site).arg("8000");
    stage.serve(command, &[SERVER]);
}

/// With non-blocking clients, the server's own sockets are what shows it.
#[test]
fn a_blocking_http_server_stays_on_tcp() {
    let totals = compare("http.server", |stage| {
        start_http_server(stage);
        stage.accelerate();
        web::fetch(stage, SERVER);
        web::fetch_together(stage, SERVER, 1 << 20, 100);
        web::load(stage, SERVER, 1 << 10, 10);
    });
    totals.assert_untouched(&[
        "refused_blocking_server",
        "tcp_only_blocking",
        "tcp_only_unknown_program",
    ]);
}

#[test]
fn a_blocking_http_client_stays_on_tcp() {
    let totals = compare("http.client", |stage| {
        start_http_server(stage);
        stage.accelerate();
        let mut command = stage.script("python3", "http_client.py");
        command.arg(SERVER).args(web::SIZES.map(|size| size.to_string()));
        stage.run_script(SERVER, command);
    });
    totals.assert_untouched(&["refused_blocking"]);
    assert_eq!(totals.counter("ends_inserted"), 0);
}
