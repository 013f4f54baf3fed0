//! Owns queries to a running tool: through its commands, and through its socket.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::{Output, Stdio};

use serde_json::Value;

use super::arena::Arena;

/// Runs a command against the tool on the arena's cgroup to completion.
pub fn ask(arena: &Arena, arguments: &[&str]) -> Output {
    let mut command = arena.host_command(env!("CARGO_BIN_EXE_sockredir"));
    command.args(arguments).arg("--cgroup").arg(arena.cgroup());
    command
        .stdin(Stdio::null())
        .output()
        .expect("failed to run sockredir")
}

/// A command's output; it must succeed without printing an error.
pub fn text(arena: &Arena, arguments: &[&str]) -> String {
    let output = ask(arena, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && errors.is_empty(),
        "{arguments:?}: {errors}"
    );
    String::from_utf8(output.stdout).expect("text")
}

pub fn json(arena: &Arena, arguments: &[&str]) -> Value {
    let text = text(arena, &[arguments, &["--json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Asks `doctor` if the kernel can scan its TCP sockets safely. No tool may be running on the arena's cgroup.
pub fn is_fit_for_scans(arena: &Arena) -> bool {
    let doctor = json(arena, &["doctor"]);
    let mut checks = doctor["checks"].as_array().expect("checks").iter();
    let scans = checks
        .find(|check| check["name"] == "scans")
        .expect("a check of scans");
    scans["result"] == "ok"
}

/// The control socket of the tool on the arena's cgroup.
pub fn control_socket(arena: &Arena) -> PathBuf {
    let cgroup = fs::metadata(arena.cgroup()).expect("the cgroup is there");
    PathBuf::from(format!("/run/sockredir/{}.sock", cgroup.ino()))
}
