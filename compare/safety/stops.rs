//! The cases of an accelerator that is started and ended while connections run.

use std::thread;
use std::time::Duration;

use super::workloads::judge;
use super::{Case, Trial, Verdict};
use crate::common::Arena;
use crate::report::bytes;

pub const CASES: &[Case] = &[
    Case {
        name: "stop under load",
        how: "8 starts and stops under 200 connections, 200 of them replaced in a second",
        judge: under_load,
    },
    Case {
        name: "after a stop",
        how: "200 connections go on after the stop: whether TCP carries what they send",
        judge: after,
    },
];

const STARTS: usize = 8;
const BETWEEN: Duration = Duration::from_millis(700);

fn under_load(trial: &mut Trial) -> Verdict {
    let arena = Arena::new();
    let arguments = [
        "readers",
        "--connections",
        "200",
        "--churn",
        "200",
        "--seconds",
        "120",
    ];
    let mut traffic = arena.traffic(&arguments);
    traffic.wait_for_line("running", 1);
    for _ in 0..STARTS {
        let running = trial.accelerator.start(&arena);
        thread::sleep(BETWEEN);
        running.stop();
    }
    traffic.signal(libc::SIGTERM);
    judge(&traffic.wait())
}

fn after(trial: &mut Trial) -> Verdict {
    let arena = Arena::new();
    let running = trial.accelerator.start(&arena);
    let mut traffic = arena.traffic(&["hold", "--connections", "200"]);
    traffic.wait_for_line("holding", 1);
    running.stop();
    let before = arena.loopback_bytes();
    traffic.send_line("");
    traffic.wait_for_line("echoed", 1);
    let carried = arena.loopback_bytes() - before;
    let report = traffic.wait();
    if !report.is_ok() {
        return judge(&report);
    }
    let plain = trial.against_plain("bytes carried after a stop", carried);
    if carried >= plain / 10 * 9 {
        return Verdict::Fine(String::new());
    }
    Verdict::Wrong(format!(
        "goes on redirecting: TCP carries {}, on plain TCP {}",
        bytes(carried),
        bytes(plain)
    ))
}
