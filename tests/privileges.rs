//! Minimum privileges: the documented capabilities suffice, and a missing one is named.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use common::{Arena, Tool, Traffic, lock_cgroup2, wait_until_gone};

/// The documented capabilities, with their numbers (linux/capability.h).
const CAPABILITIES: [(&str, u32); 5] = [
    ("CAP_BPF", 39),
    ("CAP_NET_ADMIN", 12),
    ("CAP_NET_RAW", 13),
    ("CAP_PERFMON", 38),
    ("CAP_SYSLOG", 34),
];

/// The user that runs the tool, set up with setpriv.
#[derive(Clone, Copy, Debug, PartialEq)]
enum User {
    /// As in the unit: a user of its own with ambient capabilities.
    Service,
    /// As in the Kubernetes manifests: root, with all other capabilities dropped.
    Container,
}

impl User {
    const BOTH: [Self; 2] = [Self::Service, Self::Container];

    /// A command that becomes `program` with these capabilities and no others.
    fn words(self, capabilities: &[&str]) -> Vec<String> {
        let mut set = "-all".to_owned();
        for name in capabilities {
            set += &format!(",+{}", name["CAP_".len()..].to_lowercase());
        }
        let who: &[&str] = match self {
            Self::Service => &["--reuid=65534", "--regid=65534", "--clear-groups"],
            Self::Container => &[],
        };
        let mut words = vec!["setpriv".to_owned(), "--no-new-privs".to_owned()];
        words.extend(who.iter().map(|word| (*word).to_owned()));
        words.push(format!("--bounding-set={set}"));
        if self == Self::Service {
            words.extend([format!("--inh-caps={set}"), format!("--ambient-caps={set}")]);
        }
        words
    }
}

/// A copy of the program that any user may run; removed with the test.
struct Program(PathBuf);

impl Program {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = PathBuf::from(format!("/tmp/sockredir-test-privileges-{process}-{count}"));
        fs::create_dir_all(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_sockredir"), folder.join("sockredir")).unwrap();
        Self(folder)
    }

    /// The tool as that user runs it: alone in its cgroup, which it cannot write to, with its own /run/sockredir.
    fn command(&self, arena: &Arena, user: User, capabilities: &[&str]) -> Command {
        const PLACE: &str = r#"
            mkdir -p /run/sockredir
            mount -t tmpfs -o mode=755,uid="$1",gid="$1" none /run/sockredir
            shift
            exec "$@""#;
        let mut command = arena.host_command("sh");
        let owner = if user == User::Service { "65534" } else { "0" };
        command
            .args(["-euc", PLACE, "sh", owner])
            .args(user.words(capabilities));
        command.arg(self.0.join("sockredir")).stdin(Stdio::null());
        lock_cgroup2(&mut command);
        command
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // A leftover is small, and its name shows where it came from.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn on(arena: &Arena, mut command: Command, arguments: &[&str]) -> Command {
    command.args(arguments).arg("--cgroup").arg(arena.cgroup());
    command
}

/// The tool's answer to root, in the tool's mount namespace.
fn asked(arena: &Arena, tool: &Tool, arguments: &[&str]) -> String {
    let mut command = Command::new("nsenter");
    command.args(["--mount", "--target", &tool.pid().to_string()]);
    command.arg(env!("CARGO_BIN_EXE_sockredir"));
    let output = on(arena, command, arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && error.is_empty(),
        "{arguments:?}: {error}"
    );
    String::from_utf8(output.stdout).unwrap()
}

fn scrape(address: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The process's effective capabilities, from the kernel.
fn effective(tool: &Tool) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", tool.pid())).unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    u64::from_str_radix(mask.unwrap().trim(), 16).unwrap()
}

/// True if the kernel hides its addresses from such a user.
fn hides_addresses(user: User, capabilities: &[&str]) -> bool {
    let words = user.words(capabilities);
    let mut command = Command::new(&words[0]);
    command
        .args(&words[1..])
        .args(["grep", "-w", "woken_wake_function", "/proc/kallsyms"]);
    let output = command.output().expect("setpriv is missing");
    String::from_utf8(output.stdout).unwrap().starts_with("00000000")
}

fn without(missing: &str) -> Vec<&'static str> {
    let names = CAPABILITIES.iter().map(|(name, _)| *name);
    names.filter(|name| *name != missing).collect()
}

/// From the first connection to the last, with every query in between.
#[test]
fn everything_works_with_the_documented_capabilities() {
    let program = Program::new();
    let documented = CAPABILITIES
        .iter()
        .fold(0, |mask, (_, number)| mask | 1 << number);
    for user in User::BOTH {
        let arena = Arena::new();
        let command = program.command(&arena, user, &without(""));
        let arguments = ["run", "--metrics", "0", "--log-decisions", "--adopt", "auto"];
        let mut tool = Tool::start_by(on(&arena, command, &arguments));
        assert_eq!(effective(&tool), documented, "{user:?}");
        let address = tool.wait_for_line("metrics: http://", 1);
        let address = address.trim_start_matches("metrics: http://");
        let address = address.trim_end_matches("/metrics");

        let mut hold = arena.traffic(&["hold", "--connections", "10"]);
        hold.wait_for_line("holding", 1);
        assert!(asked(&arena, &tool, &["status"]).contains("10 admitted"));
        let flows = asked(&arena, &tool, &["flows"]);
        assert_eq!(flows.matches("admitted_request_response").count(), 10, "{flows}");
        // The processes belong to another user.
        assert!(flows.contains(&format!("traffic[{}]", hold.pid())), "{flows}");
        let told = asked(&arena, &tool, &["explain", &format!("pid:{}", hold.pid())]);
        assert!(told.contains("10 connections"), "{told}");
        let figures = arena.in_namespace(|| scrape(address));
        assert!(
            figures.contains("sockredir_flows{state=\"admitted\"} 10"),
            "{figures}"
        );

        // A trusted program that splices is reported, and its connection reset.
        let mut server = Traffic::start(arena.command(Traffic::program()), &["serve", "--splice"]);
        let at = server.wait_for_line("address=", 1);
        let broken = arena.traffic(&["dial", at.trim_start_matches("address="), "--count", "50"]);
        assert!(!broken.wait().is_ok());
        tool.wait_for_line("traffic splices", 1);
        drop(server);

        tool.signal(libc::SIGTERM);
        let report = tool.wait();
        report.assert_success();
        report.assert_above("drain_done", 9);
        hold.send_line("");
        hold.wait_for_line("echoed", 1);
        hold.finish();
        wait_until_gone(Duration::from_secs(10));
    }
}

#[test]
fn each_capability_without_which_nothing_works_is_named() {
    let program = Program::new();
    for user in User::BOTH {
        for missing in ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"] {
            let arena = Arena::new();
            let command = program.command(&arena, user, &without(missing));
            let Output {
                status,
                stdout,
                stderr,
            } = on(&arena, command, &["run"]).output().unwrap();
            let error = String::from_utf8(stderr).unwrap();
            assert_eq!(status.code(), Some(1), "{error}");
            assert!(error.lines().count() == 1 && stdout.is_empty(), "{error}");
            let named: BTreeSet<_> = without("")
                .into_iter()
                .filter(|name| error.contains(name))
                .collect();
            assert_eq!(named, BTreeSet::from([missing]), "{error}");
        }
    }
    wait_until_gone(Duration::from_secs(10));
}

/// It keeps running, and reports what is lost.
#[test]
fn the_capability_that_it_can_do_without_is_named() {
    let program = Program::new();
    for user in User::BOTH {
        let is_lost = hides_addresses(user, &without("CAP_SYSLOG"));
        println!("without CAP_SYSLOG addresses are hidden: {is_lost}");
        let arena = Arena::new();
        let command = || program.command(&arena, user, &without("CAP_SYSLOG"));
        let output = on(&arena, command(), &["doctor"]).output().unwrap();
        let table = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{table}");
        let row = table.lines().find(|line| line.starts_with("waiters "));
        assert_eq!(
            row.unwrap().contains("note     missing CAP_SYSLOG"),
            is_lost,
            "{table}"
        );

        let tool = Tool::start_by(on(&arena, command(), &["run", "--adopt", "auto"]));
        let mut hold = arena.traffic(&["hold", "--connections", "2"]);
        hold.wait_for_line("holding", 1);
        let report = tool.stop();
        assert!(report.status.success(), "{}", report.transcript);
        assert_eq!(report.stderr.len(), usize::from(is_lost), "{}", report.transcript);
        for line in &report.stderr {
            assert!(line.contains("note: missing CAP_SYSLOG"), "{line}");
        }
        report.assert_above("messages_redirected", 100);
        hold.finish();
    }
    wait_until_gone(Duration::from_secs(10));
}

/// It keeps running, and nothing is reset.
#[test]
fn without_the_capability_for_resets_it_says_so() {
    let program = Program::new();
    for user in User::BOTH {
        let arena = Arena::new();
        let command = || program.command(&arena, user, &without("CAP_NET_RAW"));
        let output = on(&arena, command(), &["doctor"]).output().unwrap();
        let table = String::from_utf8(output.stdout).unwrap();
        let row = table.lines().find(|line| line.starts_with("resets "));
        assert!(output.status.success(), "{table}");
        assert!(row.unwrap().contains("note     missing CAP_NET_RAW"), "{table}");

        let tool = Tool::start_by(on(&arena, command(), &["run", "--adopt", "off"]));
        let mut hold = arena.traffic(&["hold", "--connections", "2"]);
        hold.wait_for_line("holding", 1);
        let report = tool.stop();
        assert!(report.status.success(), "{}", report.transcript);
        assert_eq!(report.stderr.len(), 1, "{}", report.transcript);
        assert!(report.stderr[0].contains("note: missing CAP_NET_RAW"));
        report.assert_above("messages_redirected", 100);
        hold.finish();
    }
    wait_until_gone(Duration::from_secs(10));
}

/// As in a rootless container: all capabilities, none of them effective on the host.
#[test]
fn root_of_a_user_namespace_is_told_so() {
    let arena = Arena::new();
    let mut command = arena.host_command("unshare");
    command.args(["--user", "--map-root-user"]);
    command.arg(env!("CARGO_BIN_EXE_sockredir"));
    let output = on(&arena, command, &["run"]).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.starts_with("sockredir: privileges: "), "{error}");
    assert!(
        error.lines().count() == 1 && error.contains("user namespace"),
        "{error}"
    );
}

/// The capabilities documented for containers and pods whose connections are older than the tool.
#[test]
fn two_more_capabilities_suffice_to_enter_other_network_namespaces() {
    let program = Program::new();
    for user in User::BOTH {
        let (arena, elsewhere) = (Arena::new(), Arena::new());
        let command = elsewhere.command_in(arena.cgroup(), Traffic::program());
        let mut older = Traffic::start(command, &["older"]);
        older.wait_for_line("waiting", 1);
        let capabilities = [without(""), vec!["CAP_SYS_ADMIN", "CAP_SYS_PTRACE"]].concat();
        let command = program.command(&arena, user, &capabilities);
        let tool = Tool::start_by(on(&arena, command, &["run", "--adopt", "off"]));
        let told = asked(&arena, &tool, &["adopt"]);
        assert!(told.starts_with("1 connections adopted"), "{user:?}: {told}");
        let report = tool.end();
        assert_eq!(report.counter("ends_left"), 2, "{}", report.transcript);
        older.send_line("");
        older.wait_for_line("waiting", 2);
        older.finish();
    }
    let drop_in = fs::read_to_string("docs/packaging.md").unwrap();
    let overlay = fs::read_to_string("dist/kubernetes/namespaces/kustomization.yaml").unwrap();
    for setting in ["AmbientCapabilities", "CapabilityBoundingSet"] {
        assert!(drop_in.contains(&format!("{setting}=CAP_SYS_ADMIN CAP_SYS_PTRACE\n")));
    }
    for name in ["SYS_ADMIN", "SYS_PTRACE"] {
        assert!(overlay.contains(&format!("value: {name}\n")));
    }
}

/// The unit, the manifests and the documents list the same capabilities.
#[test]
fn the_documented_capabilities_are_those_that_are_given() {
    let all: BTreeSet<String> = without("").into_iter().map(str::to_owned).collect();
    let text = |path: &str| fs::read_to_string(path).unwrap();
    let unit = text("dist/systemd/sockredir.service");
    for setting in ["AmbientCapabilities=", "CapabilityBoundingSet="] {
        let names = unit.lines().find_map(|line| line.strip_prefix(setting)).unwrap();
        assert_eq!(
            names.split(' ').map(str::to_owned).collect::<BTreeSet<_>>(),
            all,
            "{setting}"
        );
    }
    let manifest = text("dist/kubernetes/base/daemonset.yaml");
    let added = manifest.split_once("              add:\n").unwrap().1;
    let added = added
        .lines()
        .map_while(|line| line.strip_prefix("                - "));
    assert_eq!(
        added.map(|name| format!("CAP_{name}")).collect::<BTreeSet<_>>(),
        all
    );
    let document = text("docs/packaging.md");
    let rows = document.lines().filter_map(|line| line.strip_prefix("| CAP_"));
    let named = rows.map(|row| format!("CAP_{}", row.split(' ').next().unwrap()));
    assert_eq!(named.collect::<BTreeSet<_>>(), all);
}
