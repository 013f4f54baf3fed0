//! Owns how each relaying program is started.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use crate::common::Process;
use crate::stage::Stage;

/// Where clients connect to the relay, and the relay to the server.
pub const FRONT: &str = "127.0.0.1:7001";
pub const BACK: &str = "127.0.0.1:7002";

#[derive(Clone, Copy)]
pub enum Splicer {
    /// Our own relay, in one of its manners
    Relay(&'static str),
    Go,
    HaProxy {
        mode: &'static str,
        options: &'static [&'static str],
    },
    SocketProxy,
}

impl Splicer {
    pub fn name(self) -> String {
        match self {
            Self::Relay(manner) => format!("the relay {manner}"),
            Self::Go => "io.Copy of Go".to_owned(),
            Self::HaProxy { mode, options } => format!("HAProxy, {mode}, {}", options.join(" and ")),
            Self::SocketProxy => "systemd-socket-proxyd".to_owned(),
        }
    }

    pub fn start(self, stage: &Stage) -> Process {
        match self {
            Self::Relay(manner) => start_relay(stage, &stage.copy_of("relay"), &[manner], FRONT),
            Self::Go => {
                let program = stage.executable("iocopy", &GO);
                let mut command = stage.command(&program);
                command.args([FRONT, BACK]);
                stage.serve(command, FRONT)
            }
            Self::HaProxy { mode, options } => start_haproxy(stage, mode, options),
            Self::SocketProxy => {
                let mut command = stage.command(&find("systemd-socket-activate"));
                command.args(["-l", FRONT]);
                command.arg(find("systemd-socket-proxyd")).arg(BACK);
                stage.serve(command, FRONT)
            }
        }
    }
}

/// Starts our own relay from a given file, in front of the server.
pub fn start_relay(stage: &Stage, program: &Path, arguments: &[&str], front: &str) -> Process {
    let mut command = stage.command(program);
    command
        .args(arguments)
        .args(["--listen", front, "--target", BACK]);
    stage.serve(command, front)
}

fn start_haproxy(stage: &Stage, mode: &str, options: &[&str]) -> Process {
    let options: String = options
        .iter()
        .map(|option| format!(" option {option}\n"))
        .collect();
    let configuration = format!(
        "defaults\n timeout connect 60s\n timeout client 600s\n timeout server 600s\n\
         listen relay\n mode {mode}\n bind {FRONT}\n server back {BACK}\n{options}"
    );
    let configuration = stage.file("haproxy.cfg", &configuration);
    let mut command = stage.command(&find("haproxy"));
    command.args(["-db", "-f"]).arg(configuration);
    stage.serve(command, FRONT)
}

/// The relay in Go, built once.
static GO: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let folder = std::env::temp_dir().join(format!("sockredir-splicers-go-{}", std::process::id()));
    fs::create_dir(&folder).expect("failed to make a folder for Go");
    let program = folder.join("iocopy");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/splicers/iocopy/main.go");
    let mut command = Command::new(find("go"));
    command.arg("build").arg("-o").arg(&program).arg(source);
    command.current_dir(&folder).env("GOCACHE", folder.join("cache"));
    // Independent of the network, the user's settings and any enclosing module.
    command
        .env("GOPATH", folder.join("path"))
        .envs([("GOENV", "off"), ("GOPROXY", "off"), ("GO111MODULE", "off")])
        .envs([("GOTOOLCHAIN", "local"), ("CGO_ENABLED", "0")]);
    let output = command.output().expect("failed to run go");
    let content = fs::read(&program);
    // A leftover stays in the temporary directory, where it does no harm.
    let _ = fs::remove_dir_all(&folder);
    content.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
});

/// The distribution's path of a program, or the one found in PATH.
fn find(program: &str) -> PathBuf {
    let usual = ["/usr/bin", "/usr/sbin", "/usr/lib/systemd", "/lib/systemd"].map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = usual.into_iter().chain(std::env::split_paths(&path));
    let found = folders.find_map(|folder| Some(folder.join(program)).filter(|path| path.is_file()));
    found.unwrap_or_else(|| panic!("{program} is missing: run 'sudo make deps'"))
}
