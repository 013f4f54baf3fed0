//! What `flows` reports about programs from the distribution while they run.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::common::Process;
use crate::servers;
use crate::stage::Stage;

fn client(stage: &Stage, kind: &str) -> Process {
    let mut command = stage.script("python3", "keep.py");
    command.arg(kind);
    let mut client = Process::start(command);
    client.wait_for_line("holding", 1, Duration::from_secs(60));
    client
}

fn flows_of(stage: &Stage, client: &Process, port: u16) -> Vec<Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sockredir"));
    command
        .args(["flows", "--json", "--cgroup"])
        .arg(stage.arena().cgroup());
    command.args([
        "--filter",
        &format!("process={}", client.pid()),
        "--filter",
        &format!("port={port}"),
    ]);
    let output = command.output().expect("failed to run sockredir");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    told["flows"].as_array().expect("flows").clone()
}

/// Event loops are accelerated, a blocking client of the same servers is not, and each is named.
#[test]
fn flows_name_programs_states_and_reasons() {
    let mut stage = Stage::new(true);
    servers::nginx(&mut stage);
    servers::redis(&mut stage, "6379");
    // Python may splice, so it would be watched for longer than this takes.
    stage.accelerate_with(&["--trust-programs", "all"]);
    let asyncio = client(&stage, "asyncio");
    let blocking = client(&stage, "blocking");
    for (port, server) in [(6379, "redis-server"), (8080, "nginx")] {
        for (client, state, reason) in [
            (&asyncio, "admitted", "admitted_request_response"),
            (&blocking, "tcp-only", "refused_blocking"),
        ] {
            let flows = flows_of(&stage, client, port);
            assert_eq!(flows.len(), 1, "{flows:?}");
            let flow = &flows[0];
            assert_eq!(flow["state"], state, "{flow}");
            assert_eq!(flow["reason"], reason, "{flow}");
            assert_eq!(flow["client"]["processes"][0]["pid"], client.pid(), "{flow}");
            assert_eq!(flow["server"]["processes"][0]["name"], server, "{flow}");
            assert_eq!(flow["server"]["port"], port, "{flow}");
            assert_eq!(flow["client"]["blocking"], reason == "refused_blocking", "{flow}");
        }
    }
    for mut client in [asyncio, blocking] {
        client.close_stdin();
        assert!(
            client.wait(Duration::from_secs(20)).success(),
            "{}",
            client.transcript()
        );
    }
    stage.end();
}
