//! The contents of packages besides the program: manual pages that render, completions that load, a confined service.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::built;

const UNIT: &str = "dist/systemd/sockredir.service";
/// Above this score `systemd-analyze security` rates the exposure as medium.
const MOST_EXPOSED: f64 = 3.0;

/// A directory that is removed with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("sockredir-test-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A leftover is small, and its name shows where it came from.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn sockredir(arguments: &[&str]) -> Vec<u8> {
    output_of(&tool(), arguments)
}

fn tool() -> PathBuf {
    env!("CARGO_BIN_EXE_sockredir").into()
}

fn output_of(program: &Path, arguments: &[&str]) -> Vec<u8> {
    let mut command = Command::new(program);
    command.args(arguments).env("SOURCE_DATE_EPOCH", "1769817600");
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    output.stdout
}

/// A command's combined output; the command must succeed.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("failed to run {program}: {error}: run `make deps`"));
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
    text.into_owned()
}

fn pages(folder: &Folder) -> Vec<PathBuf> {
    let arguments = ["generate", "man", folder.0.to_str().unwrap()];
    sockredir(&arguments);
    output_of(&built("sockredir-bench"), &arguments);
    let pages: Vec<_> = fs::read_dir(&folder.0)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(pages.len() > 3, "{pages:?}");
    pages
}

#[test]
fn manual_pages_render_without_a_warning() {
    let folder = Folder::new("man");
    for page in pages(&folder) {
        let page = page.to_str().unwrap();
        assert_eq!(
            said("groff", &["-man", "-Tutf8", "-ww", "-z", page]),
            "",
            "{page}"
        );
        assert_eq!(
            said("mandoc", &["-T", "lint", "-W", "warning", page]),
            "",
            "{page}"
        );
        let text = said("mandoc", &["-T", "html", page]);
        for heading in ["NAME", "SYNOPSIS", "EXIT_STATUS", "SEE_ALSO"] {
            assert!(
                text.contains(&format!("id=\"{heading}\"")),
                "{heading} is not in {page}"
            );
        }
    }
}

#[test]
fn manual_pages_are_the_same_each_time() {
    let (first, second) = (Folder::new("man-first"), Folder::new("man-second"));
    for page in pages(&first) {
        let other = second.0.join(page.file_name().unwrap());
        pages(&second);
        assert_eq!(fs::read(&page).unwrap(), fs::read(other).unwrap());
    }
}

fn completions(folder: &Folder, program: &Path, shell: &str, name: &str) -> String {
    let path = folder.0.join(name);
    fs::write(&path, output_of(program, &["generate", "completions", shell])).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Asks the shells what they would offer after `sockredir d` and `sockredir run --ex`.
#[test]
fn bash_completes_commands_and_options() {
    let folder = Folder::new("bash");
    let file = completions(&folder, &tool(), "bash", "sockredir");
    let script = r#"
        source "$1"
        offer() {
            COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
            _sockredir sockredir "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
            echo "${COMPREPLY[@]}"
        }
        complete -p sockredir
        offer sockredir d
        offer sockredir run --ex
    "#;
    let offered = said("bash", &["--norc", "-eu", "-c", script, "bash", &file]);
    for part in ["-F _sockredir", "doctor", "--exclude-ports --exclude-programs"] {
        assert!(offered.contains(part), "{part} is not in: {offered}");
    }
}

#[test]
fn zsh_loads_its_completions() {
    let folder = Folder::new("zsh");
    completions(&folder, &tool(), "zsh", "_sockredir");
    let script = r#"
        fpath=("$1" $fpath)
        autoload -Uz compinit
        compinit -u -D
        print -r -- "$_comps[sockredir]"
        autoload +X -Uz _sockredir && functions _sockredir
    "#;
    let loaded = said("zsh", &["-f", "-c", script, "zsh", folder.0.to_str().unwrap()]);
    for part in ["_sockredir", "doctor", "--exclude-ports"] {
        assert!(loaded.contains(part), "{part} is not in: {loaded}");
    }
}

#[test]
fn fish_completes_commands_and_options() {
    let folder = Folder::new("fish");
    let file = completions(&folder, &tool(), "fish", "sockredir.fish");
    let script = "source $argv[1]; complete -C 'sockredir d'; complete -C 'sockredir run --ex'";
    let offered = said("fish", &["--no-config", "-c", script, &file]);
    for part in ["doctor", "--exclude-ports", "--exclude-programs"] {
        assert!(offered.contains(part), "{part} is not in: {offered}");
    }
}

#[test]
fn the_benchmark_completes_its_options() {
    let folder = Folder::new("bench");
    let file = completions(&folder, &built("sockredir-bench"), "fish", "sockredir-bench.fish");
    let script = "source $argv[1]; complete -C 'sockredir-bench --'";
    let offered = said("fish", &["--no-config", "-c", script, &file]);
    assert!(offered.contains("--external"), "{offered}");
    assert!(!offered.contains("worker"), "{offered}");
}

/// The unit, with the path of the program as built.
fn unit(folder: &Folder) -> String {
    let text = fs::read_to_string(UNIT).unwrap();
    let program = format!("={} ", env!("CARGO_BIN_EXE_sockredir"));
    assert!(text.contains("=/usr/bin/sockredir "), "{text}");
    let path = folder.0.join("sockredir.service");
    fs::write(&path, text.replace("=/usr/bin/sockredir ", &program)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn the_service_is_in_order() {
    let folder = Folder::new("unit");
    let unit = unit(&folder);
    assert_eq!(said("systemd-analyze", &["verify", "--man=no", &unit]), "");
}

#[test]
fn the_service_can_do_little_else() {
    let folder = Folder::new("security");
    let unit = unit(&folder);
    let text = said(
        "systemd-analyze",
        &["security", "--offline=true", "--no-pager", &unit],
    );
    let exposure = text
        .lines()
        .find_map(|line| line.split_once("Overall exposure level for sockredir.service: "))
        .and_then(|(_, rest)| rest.split(' ').next()?.parse::<f64>().ok());
    let exposure = exposure.unwrap_or_else(|| panic!("no exposure level: {text}"));
    println!("exposure level {exposure}");
    assert!(exposure < MOST_EXPOSED, "{text}");
}

/// The permissions of the service according to the unit.
#[test]
fn the_service_has_the_time_that_its_options_need() {
    let text = fs::read_to_string(UNIT).unwrap();
    let seconds = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name));
        value
            .unwrap_or_else(|| panic!("no {name}"))
            .parse::<u64>()
            .unwrap()
    };
    let help = String::from_utf8(sockredir(&["run", "--help"])).unwrap();
    let drain = help.split("--drain-timeout <SECONDS>").nth(1).unwrap();
    let drain = drain.split("[default: ").nth(1).unwrap();
    let drain: u64 = drain.split(']').next().unwrap().parse().unwrap();
    // What happens in the kernel before and after the drain takes time too.
    assert!(seconds("TimeoutStopSec=") >= drain + 10);
}

#[test]
fn an_installation_has_what_a_package_has() {
    let folder = Folder::new("install");
    let destination = format!("DESTDIR={}", folder.0.display());
    let binary = format!("BINARY={}", env!("CARGO_BIN_EXE_sockredir"));
    said(
        "make",
        &["--silent", "install", &destination, "PREFIX=/opt/x", &binary],
    );
    let has = |path: &str| Path::new(&folder.0).join(path).is_file();
    for path in [
        "opt/x/bin/sockredir",
        "opt/x/bin/sockredir-bench",
        "opt/x/share/man/man8/sockredir.8",
        "opt/x/share/man/man8/sockredir-doctor.8",
        "opt/x/share/man/man8/sockredir-bench.8",
        "opt/x/share/bash-completion/completions/sockredir",
        "opt/x/share/bash-completion/completions/sockredir-bench",
        "opt/x/share/zsh/site-functions/_sockredir",
        "opt/x/share/zsh/site-functions/_sockredir-bench",
        "opt/x/share/fish/vendor_completions.d/sockredir.fish",
        "opt/x/share/fish/vendor_completions.d/sockredir-bench.fish",
        "opt/x/share/doc/sockredir/CHANGELOG.md",
        "opt/x/share/doc/sockredir/LICENSE-GPL-2.0",
        "etc/default/sockredir",
    ] {
        assert!(has(path), "{path} is missing");
    }
    let unit = fs::read_to_string(folder.0.join("opt/x/lib/systemd/system/sockredir.service")).unwrap();
    assert!(unit.contains("\nExecStart=/opt/x/bin/sockredir run "), "{unit}");

    // The administrator's changes stay.
    let options = folder.0.join("etc/default/sockredir");
    fs::write(&options, "SOCKREDIR_OPTIONS=--ports 80\n").unwrap();
    said(
        "make",
        &["--silent", "install", &destination, "PREFIX=/opt/x", &binary],
    );
    assert_eq!(
        fs::read_to_string(&options).unwrap(),
        "SOCKREDIR_OPTIONS=--ports 80\n"
    );

    // Nothing else does.
    said("make", &["--silent", "uninstall", &destination, "PREFIX=/opt/x"]);
    let left = said(
        "find",
        &[folder.0.to_str().unwrap(), "-type", "f", "-printf", "%P\n"],
    );
    assert_eq!(left, "etc/default/sockredir\n");
}
