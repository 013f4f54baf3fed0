//! Owns the asking of a running tool: by its commands, and by its socket.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::{Output, Stdio};

use serde_json::Value;

use super::arena::Arena;

/// A command about the tool on the arena's cgroup, to its end.
pub fn ask(arena: &Arena, arguments: &[&str]) -> Output {
    let mut command = arena.host_command(env!("CARGO_BIN_EXE_sockredir"));
    command.args(arguments).arg("--cgroup").arg(arena.cgroup());
    command
        .stdin(Stdio::null())
        .output()
        .expect("failed to run sockredir")
}

/// What a command says, which must be a success without a word of complaint.
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

/// Whether `doctor` finds the kernel fit for scans of its TCP sockets. No tool may run on the arena's cgroup.
pub fn is_fit_for_scans(arena: &Arena) -> bool {
    let doctor = json(arena, &["doctor"]);
    let mut checks = doctor["checks"].as_array().expect("checks").iter();
    let scans = checks
        .find(|check| check["name"] == "scans")
        .expect("a check of scans");
    scans["result"] == "ok"
}

/// Where the tool on the arena's cgroup is asked.
pub fn control_socket(arena: &Arena) -> PathBuf {
    let cgroup = fs::metadata(arena.cgroup()).expect("the cgroup is there");
    PathBuf::from(format!("/run/sockredir/{}.sock", cgroup.ino()))
}
