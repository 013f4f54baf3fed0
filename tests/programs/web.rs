//! Owns the files of the web servers, and the clients that request them: curl for the content, wrk for load.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::stage::{Stage, digest, digest_of, noise};

/// File sizes; each file is named after its size.
pub const SIZES: [usize; 6] = [1, 1 << 10, 16 << 10, (64 << 10) + 1, 1 << 20, 50 << 20];

/// Writes the files into a directory `site`.
pub fn lay_out(stage: &Stage) -> PathBuf {
    let site = stage.path("site");
    fs::create_dir(&site).expect("failed to make the folder of the site");
    for size in SIZES {
        stage.file(&format!("site/{size}"), noise(size, size as u64));
    }
    site
}

fn curl(stage: &Stage) -> Command {
    let mut command = stage.command("curl");
    command.args([
        "--silent",
        "--show-error",
        "--fail",
        "--fail-early",
        "--noproxy",
        "*",
        "--max-time",
        "60",
    ]);
    command
}

/// Fetches small files until the connection has been observed, then each file, over one connection.
pub fn fetch(stage: &mut Stage, server: &str) {
    let sizes = SIZES.map(|size| size.to_string()).join(",");
    let mut command = curl(stage);
    command.args(["--output", "small-#1", &format!("http://{server}/1?[1-20]")]);
    command.args(["--output", "fetched-#1", &format!("http://{server}/{{{sizes}}}")]);
    command.args(["--write-out", "%{http_code} %{size_download}\\n"]);
    for answer in stage.run(command) {
        stage.answer(server, answer);
    }
    let small = (1..=20).map(|number| (1, format!("small-{number}")));
    let each = SIZES.into_iter().map(|size| (size, format!("fetched-{size}")));
    check(stage, server, small.chain(each));
}

/// Fetches files of one size over eight concurrent connections.
pub fn fetch_together(stage: &mut Stage, server: &str, size: usize, count: usize) {
    let mut command = curl(stage);
    command.args(["--parallel", "--parallel-max", "8", "--output", "together-#1"]);
    command.arg(format!("http://{server}/{size}?[1-{count}]"));
    stage.run(command);
    check(
        stage,
        server,
        (1..=count).map(|number| (size, format!("together-{number}"))),
    );
}

fn check(stage: &mut Stage, server: &str, fetched: impl Iterator<Item = (usize, String)>) {
    for (size, name) in fetched {
        let path = stage.path(&name);
        let expected = digest_of(&noise(size, size as u64));
        assert_eq!(
            digest(&path),
            expected,
            "{name} of {server} is not what was served"
        );
        fs::remove_file(&path).expect("failed to remove what was fetched");
        stage.answer(&format!("{name} of {server}"), expected);
    }
}

/// Uploads each file to a server that stores them in the directory `kept`.
pub fn upload(stage: &mut Stage, server: &str) {
    let sizes = SIZES.map(|size| size.to_string()).join(",");
    let mut command = curl(stage);
    command.args([
        "--upload-file",
        &format!("site/{{{sizes}}}"),
        &format!("http://{server}/kept/"),
    ]);
    stage.run(command);
    check(
        stage,
        server,
        SIZES.into_iter().map(|size| (size, format!("kept/{size}"))),
    );
}

/// Requests one file as often as the server answers.
pub fn load(stage: &mut Stage, server: &str, size: usize, connections: usize) {
    let mut command = stage.command("wrk");
    command.args(["--threads", "1", "--connections", &connections.to_string()]);
    command.args([
        "--duration",
        "1s",
        "--timeout",
        "10s",
        &format!("http://{server}/{size}"),
    ]);
    let lines = stage.run(command);
    // wrk prints these only when there are any.
    let failures: Vec<_> = lines
        .iter()
        .filter(|line| line.contains("Socket errors") || line.contains("Non-2xx"))
        .collect();
    assert!(failures.is_empty(), "{server}/{size}: {}", lines.join("\n"));
    let rate = lines.iter().find_map(|line| line.strip_prefix("Requests/sec:"));
    stage.rate(
        &format!("requests per second for {size} bytes of {server}"),
        rate.unwrap_or("none").trim(),
    );
}
