//! Several cgroups, cgroups created later, and another owner of sockets besides the tool.

use std::path::Path;
use std::process::Command;

use crate::common::{Arena, Tool, Traffic};

/// Echoes between a client and a server in two cgroups.
fn echo(arena: &Arena, from: &Path, to: &Path) {
    let mut server = Traffic::start(arena.command_in(to, Traffic::program()), &["serve"]);
    let address = server.wait_for_line("address=", 1).replace("address=", "");
    let client = arena.command_in(from, Traffic::program());
    Traffic::start(client, &["dial", &address, "--count", "50"]).finish();
}

/// Starts the tool for several cgroups below the arena's.
fn tool_for(arena: &Arena, cgroups: &[&Path]) -> Tool {
    let further: Vec<_> = cgroups[1..]
        .iter()
        .flat_map(|path| ["--cgroup", path.to_str().expect("a path of letters")])
        .collect();
    Tool::start_for(arena, cgroups[0], &further)
}

/// The answer of the instance on a cgroup.
fn ask(arena: &Arena, command: &str, cgroup: &Path) -> serde_json::Value {
    let mut asker = arena.host_command(env!("CARGO_BIN_EXE_sockredir"));
    asker.args([command, "--json", "--cgroup"]).arg(cgroup);
    let output = asker.output().expect("failed to run sockredir");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn connections_within_and_between_several_cgroups_are_taken_and_no_others() {
    let arena = Arena::new();
    let [one, two, other] = ["one", "two", "other"].map(|name| arena.subcgroup(name));
    let tool = tool_for(&arena, &[&one, &two]);
    echo(&arena, &one, &two);
    echo(&arena, &two, &two);
    echo(&arena, &other, &other);
    for cgroup in [&one, &two] {
        let status = ask(&arena, "status", cgroup);
        assert_eq!(status["instance"]["cgroups"][0], one.to_str().expect("letters"));
        assert_eq!(status["instance"]["cgroups"][1], two.to_str().expect("letters"));
        assert_eq!(status["counters"]["admitted_request_response"], 2);
    }
    let report = tool.end();
    assert_eq!(report.counter("ends_inserted"), 4, "{}", report.transcript);
}

/// The tool's reports on sockets cover all of its cgroups.
#[test]
fn flows_of_several_cgroups_are_listed_by_either() {
    let arena = Arena::new();
    let [one, two, other] = ["one", "two", "other"].map(|name| arena.subcgroup(name));
    let tool = tool_for(&arena, &[&one, &two]);
    let listeners = [&one, &two, &other].map(|cgroup| {
        let mut server = Traffic::start(arena.command_in(cgroup, Traffic::program()), &["serve"]);
        server.wait_for_line("address=", 1);
        server
    });
    for cgroup in [&one, &two] {
        let listed = ask(&arena, "flows", cgroup)["listeners"].clone();
        let mut pids: Vec<_> = listed.as_array().expect("a list").iter().collect();
        pids.sort_by_key(|listener| listener["processes"][0]["pid"].as_u64());
        let pids = pids.iter().map(|listener| &listener["processes"][0]["pid"]);
        assert!(
            pids.eq([listeners[0].pid(), listeners[1].pid()].iter()),
            "{listed}"
        );
    }
    tool.end();
}

#[test]
fn a_cgroup_that_another_one_covers_is_refused() {
    let arena = Arena::new();
    let one = arena.subcgroup("one");
    for (first, second) in [
        (arena.cgroup(), one.as_path()),
        (&one, arena.cgroup()),
        (&one, &one),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_sockredir"))
            .arg("--cgroup")
            .arg(first)
            .arg("--cgroup")
            .arg(second)
            .output()
            .expect("failed to run sockredir");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(
            error.lines().count() == 1 && error.contains("is covered by") && error.contains("outer one only"),
            "{error}"
        );
    }
}

#[test]
fn each_cgroup_has_one_instance() {
    let arena = Arena::new();
    let [one, two] = ["one", "two"].map(|name| arena.subcgroup(name));
    let tool = tool_for(&arena, &[&one, &two]);
    let output = Command::new(env!("CARGO_BIN_EXE_sockredir"))
        .arg("--cgroup")
        .arg(&two)
        .output()
        .expect("failed to run sockredir");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("another sockredir runs on cgroup"), "{error}");
    tool.end();
}

#[test]
fn cgroups_that_appear_later_are_covered() {
    let arena = Arena::new();
    let tool = Tool::start(&arena, &[]);
    let later = arena.subcgroup("later");
    let deeper = arena.subcgroup("later/deeper");
    echo(&arena, &later, &deeper);
    let report = tool.end();
    assert_eq!(
        report.counter("admitted_request_response"),
        1,
        "{}",
        report.transcript
    );
}

/// Another program that puts sockets into a map, attached to a parent cgroup: here it is a second instance. The first comer
/// gets the socket, the other one counts why it did not, and nothing is lost.
#[test]
fn a_socket_that_another_program_has_is_left_to_it() {
    let arena = Arena::new();
    let inner = arena.subcgroup("inner");
    let above = Tool::start(&arena, &[]);
    let own = Tool::start_for(&arena, &inner, &[]);
    echo(&arena, &inner, &inner);
    let (own, above) = (own.end(), above.end());
    let redirected = own.counter("messages_redirected") + above.counter("messages_redirected");
    assert!(redirected > 50, "{}{}", own.transcript, above.transcript);
    let taken = own.counter("refused_taken") + above.counter("refused_taken");
    assert!(taken > 0, "{}{}", own.transcript, above.transcript);
    assert_eq!(
        own.counter("messages_dropped") + above.counter("messages_dropped"),
        0
    );
}
