//! The programs after the tool has run for a while: servers and clients are known to use recv, and only the splicer is new.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::case::{Case, First, Outcome, assert_right};
use crate::common::{Process, work};
use crate::fresh::{EDGE, HTTP, LEVEL, ORDERS, TCP, TCP_AUTO};
use crate::programs::{BACK, FRONT, Splicer, start_relay};
use crate::stage::Stage;

/// Where other clients connect to a relay that only receives.
const OTHER: &str = "127.0.0.1:7003";
const LONGEST: Duration = Duration::from_secs(60);
/// Each with a few small messages, so that every program but the splicer becomes known early on.
const RELAYED: u64 = 1500;
const DIRECT: u64 = 500;
const FEW_SMALL: [&str; 4] = ["--rounds", "8", "--large-one-in", "1000000"];
/// This many connections make a program known, by the number of their messages.
const KNOWN: u64 = 2000;
const TEACHING: u64 = 200;
/// This many connections with a message each do not.
const LITTLE: u64 = 10;
const ONE_SMALL: [&str; 4] = ["--rounds", "1", "--large-one-in", "1000000"];
const MANY_SMALL: [&str; 4] = ["--rounds", "64", "--large-one-in", "1000000"];
const STOP: Duration = Duration::from_secs(20);

struct Place {
    stage: Stage,
    talk: PathBuf,
    server: Process,
}

impl Place {
    fn new(case: &Case) -> Self {
        let stage = Stage::new(true);
        let talk = stage.copy_of("talk");
        let server = case.serve(&stage, &talk);
        Self { stage, talk, server }
    }

    /// Makes connections to an address, each of which must be answered.
    fn talk(&self, case: &Case, target: &str, connections: u64, like: &[&str]) -> u64 {
        let report = case.converse(&self.stage, &self.talk, target, connections, LONGEST, like);
        for name in ["missing", "wrong", "early"] {
            assert_eq!(report.value(name), 0, "{}", report.transcript);
        }
        report.value("answers")
    }

    fn teach_by_talk(&self, case: &Case) {
        let answers = self.talk(case, FRONT, TEACHING, &MANY_SMALL);
        assert!(answers >= work(KNOWN), "{answers} messages");
    }

    /// Runs a relay to its end that relays enough by recv to become known.
    fn teach(&self, case: &Case, program: &Path, arguments: &[&str]) {
        let mut relay = start_relay(&self.stage, program, arguments, FRONT);
        self.teach_by_talk(case);
        relay.close_stdin();
        assert!(relay.wait(STOP).success(), "{}", relay.transcript());
        let spliced = relay.stdout().iter().any(|line| line == "spliced=0");
        assert!(spliced, "it has spliced: {}", relay.transcript());
    }

    fn conclude(self, case: &Case, splicer: Process, connections: u64, missing: Duration) -> Outcome {
        let report = case.converse(&self.stage, &self.talk, FRONT, connections, missing, &[]);
        case.conclude(self.stage, self.server, splicer, &report)
    }
}

/// Other clients come and go through a receiving relay and directly; then the splicing program starts.
fn after_others(case: &Case) -> Vec<String> {
    case.compare_with(|connections, missing| {
        let place = Place::new(case);
        let mut other = start_relay(&place.stage, &place.stage.copy_of("relay"), &["recv"], OTHER);
        place.talk(case, OTHER, RELAYED, &FEW_SMALL);
        place.talk(case, BACK, DIRECT, &FEW_SMALL);
        let splicer = case.splicer.start(&place.stage);
        assert!(other.is_running(), "{}", other.transcript());
        place.conclude(case, splicer, connections, missing)
    })
}

#[track_caller]
fn both(case: impl Fn(First) -> Case) {
    assert_right(&ORDERS.map(case), after_others);
}

/// What is known about a server says nothing about its clients.
#[test]
fn io_copy_of_go_between_known_programs_answers() {
    both(|first| Case::new(Splicer::Go, first));
}

#[test]
fn a_level_triggered_splicer_between_known_programs_answers() {
    both(|first| Case::new(LEVEL, first));
}

#[test]
fn an_edge_triggered_splicer_between_known_programs_answers() {
    both(|first| Case::new(EDGE, first));
}

/// Its first splice comes before a known peer can have sent a byte.
#[test]
fn who_splices_before_the_first_bytes_between_known_programs_is_answered() {
    both(|first| Case::new(Splicer::Relay("before"), first).paused());
}

/// Its ends may be known by the first bytes, while it is not.
#[test]
fn who_splices_after_the_first_bytes_between_known_programs_is_answered() {
    both(|first| Case::new(Splicer::Relay("after"), first));
}

#[test]
fn who_splices_late_between_known_programs_is_answered_or_reset() {
    both(|first| Case::new(Splicer::Relay("late"), first).late());
}

#[test]
fn haproxy_that_splices_between_known_programs_answers() {
    let cases = [TCP, TCP_AUTO].map(|splicer| ORDERS.map(|first| Case::new(splicer, first)));
    let http = Case::new(HTTP, First::Client).http();
    assert_right(&[cases.as_flattened(), &[http]].concat(), after_others);
}

#[test]
fn systemd_socket_proxyd_between_known_programs_answers() {
    both(|first| Case::new(Splicer::SocketProxy, first).whole());
}

/// The control.
#[test]
fn who_only_receives_between_known_programs_is_answered() {
    both(|first| Case::new(Splicer::Relay("recv"), first));
}

/// One file holds several programs, distinguished by their first argument: each becomes known separately.
#[test]
fn one_file_that_receives_and_with_another_argument_splices_answers() {
    let cases = [LEVEL, EDGE].map(|splicer| ORDERS.map(|first| Case::new(splicer, first)));
    assert_right(cases.as_flattened(), |case| {
        let Splicer::Relay(manner) = case.splicer else {
            unreachable!("a relay of our own");
        };
        after_itself(case, &["recv"], &[manner])
    });
}

/// Nothing distinguishes the second run from the first before it splices: connections may be reset, but none may hang.
#[test]
fn one_file_that_receives_and_with_the_same_argument_splices_is_answered_or_reset() {
    let teaches = ["late", "--receives", "1000000000"];
    let splices = ["late", "--receives", "0"];
    assert_right(&ORDERS.map(may_break), |case| {
        after_itself(case, &teaches, &splices)
    });
}

/// As above, in one process: open connections, and the next ones, belong to a program that has turned into another.
#[test]
fn one_process_that_receives_and_then_splices_is_answered_or_reset() {
    let arguments = [
        "late",
        "--received-first",
        &work(TEACHING).to_string(),
        "--receives",
        "0",
    ];
    assert_right(&ORDERS.map(may_break), |case| {
        case.compare_with(|connections, missing| {
            let place = Place::new(case);
            let relay = start_relay(&place.stage, &place.stage.copy_of("relay"), &arguments, FRONT);
            place.teach_by_talk(case);
            place.conclude(case, relay, connections, missing)
        })
    });
}

/// A few messages by recv do not make a program known, so nothing breaks if the same process then splices. A greeting may be as
/// large as what would.
#[test]
fn one_process_that_receives_a_little_and_then_splices_answers() {
    let few = work(LITTLE).to_string();
    let arguments = ["late", "--received-first", &few, "--receives", "0"];
    assert_right(&[Case::new(LEVEL, First::Client)], |case| {
        case.compare_with(|connections, missing| {
            let place = Place::new(case);
            let relay = start_relay(&place.stage, &place.stage.copy_of("relay"), &arguments, FRONT);
            place.talk(case, FRONT, LITTLE, &ONE_SMALL);
            place.conclude(case, relay, connections, missing)
        })
    });
}

fn may_break(first: First) -> Case {
    Case {
        may_break: true,
        ..Case::new(LEVEL, first)
    }
}

/// A relay receives and exits, then one of the same file splices.
fn after_itself(case: &Case, teaches: &[&str], splices: &[&str]) -> Vec<String> {
    case.compare_with(|connections, missing| {
        let place = Place::new(case);
        let program = place.stage.copy_of("relay");
        place.teach(case, &program, teaches);
        let splicer = start_relay(&place.stage, &program, splices, FRONT);
        place.conclude(case, splicer, connections, missing)
    })
}
