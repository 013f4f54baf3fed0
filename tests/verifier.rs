//! What the kernel's verifier makes of each program: whether it accepts it, and how much of the verifier's limits it takes.

/// What libbpf-cargo makes of `src/bpf/sockredir.bpf.c`.
#[allow(clippy::all, dead_code, reason = "generated")]
mod skeleton {
    include!(concat!(env!("OUT_DIR"), "/sockredir.skel.rs"));
}

use std::collections::BTreeMap;
use std::fmt;
use std::mem::MaybeUninit;
use std::sync::{Mutex, PoisonError};

use libbpf_rs::skel::{OpenSkel as _, SkelBuilder as _};
use libbpf_rs::{OpenObject, PrintLevel};

use skeleton::SockredirSkelBuilder;

/// BPF_LOG_STATS of the kernel: the verifier says only what it cost.
const LOG_STATS: u32 = 4;

/// What each program may take, on any kernel: some half more than it took on Linux 6.12, 6.18 and 7.2 when this was written. One
/// that grows past it is to be looked at, for what it costs at run time too. The kernel allows a million instructions and
/// 512 bytes of stack on each way through its functions, of which the figure is the sum.
const BUDGET: [(&str, Figures); 11] = [
    ("sockredir_ops", budget(90_000, 5_000, 1_200)),
    ("sockredir_msg", budget(10_000, 1_000, 240)),
    ("sockredir_skb", budget(12_000, 400, 80)),
    ("sockredir_option", budget(1_500, 120, 160)),
    ("sockredir_listeners", budget(12_000, 700, 360)),
    ("sockredir_elsewhere", budget(14_000, 430, 100)),
    ("sockredir_read", budget(15_000, 700, 320)),
    ("sockredir_tally", budget(1_500, 100, 140)),
    ("sockredir_sockets", budget(15_000, 500, 500)),
    ("sockredir_stop", budget(8_000, 400, 128)),
    ("sockredir_adopt", budget(50_000, 1_900, 480)),
];

const fn budget(instructions: u32, states: u32, stack: u32) -> Figures {
    Figures {
        instructions,
        states,
        stack,
    }
}

/// What a program takes.
#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    /// That the verifier went through, on all paths.
    instructions: u32,
    /// Of registers and stack, that it kept.
    states: u32,
    /// In bytes.
    stack: u32,
}

impl Figures {
    /// From the account of one program.
    fn read(account: &str) -> Self {
        let after = |word: &str| {
            let at = account.find(word)? + word.len();
            account[at..].split_whitespace().next()
        };
        let number = |word| after(word).and_then(|text| text.parse().ok()).unwrap_or(0);
        // Of a program with subprograms, one for each, joined by plus signs.
        let stack = after("stack depth ").unwrap_or_default();
        Self {
            instructions: number("processed "),
            states: number("total_states "),
            stack: stack.split('+').filter_map(|part| part.parse::<u32>().ok()).sum(),
        }
    }

    fn fits(&self, budget: &Self) -> bool {
        self.instructions <= budget.instructions && self.states <= budget.states && self.stack <= budget.stack
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            instructions,
            states,
            stack,
        } = self;
        write!(
            formatter,
            "instructions {instructions} states {states} stack {stack}"
        )
    }
}

static SAID: Mutex<String> = Mutex::new(String::new());

fn note(_: PrintLevel, text: String) {
    SAID.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push_str(&text);
}

/// The options that change the programs.
#[derive(Clone, Copy, Debug)]
struct Mode {
    name: &'static str,
    admit_any: bool,
    log_decisions: bool,
    /// --scope host, --same-user and --same-cgroup.
    namespaces: bool,
}

const PLAIN: Mode = Mode {
    name: "nonblocking",
    admit_any: false,
    log_decisions: false,
    namespaces: false,
};

const MODES: [Mode; 4] = [
    PLAIN,
    Mode {
        name: "namespaces",
        namespaces: true,
        ..PLAIN
    },
    Mode {
        name: "any",
        admit_any: true,
        ..PLAIN
    },
    Mode {
        name: "logging",
        admit_any: true,
        log_decisions: true,
        namespaces: true,
    },
];

/// Loads every program that this kernel is to have, and takes them away again.
fn load(mode: Mode) -> BTreeMap<String, Figures> {
    SAID.lock().unwrap_or_else(PoisonError::into_inner).clear();
    let mut storage = MaybeUninit::<OpenObject>::uninit();
    let mut open = SockredirSkelBuilder::default()
        .open(&mut storage)
        .expect("the object can be opened");
    let rodata = open.maps.rodata_data.as_deref_mut();
    let rodata = rodata.expect("the object has options");
    rodata.admit_any = mode.admit_any;
    rodata.log_decisions = mode.log_decisions;
    rodata.scope_host = mode.namespaces;
    rodata.same_user = mode.namespaces;
    rodata.same_cgroup = mode.namespaces;
    // What both do is the same, and not every kernel traces functions.
    open.progs.sockredir_splice.set_autoload(false);
    open.progs.sockredir_mmap.set_autoload(false);
    let object = open.open_object_mut();
    for mut program in object.progs_mut() {
        program.set_log_level(LOG_STATS);
    }
    let loaded = open.load();
    let said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if let Err(error) = loaded {
        panic!("{said}\n{error:#}");
    }
    let accounts = said.split("-- BEGIN PROG LOAD LOG --");
    let names = accounts
        .clone()
        .map(|text| text.rsplit('\'').nth(1).unwrap_or_default().to_owned());
    let figures = accounts.skip(1).map(Figures::read);
    names.zip(figures).collect()
}

#[test]
fn every_program_loads_within_its_budget() {
    libbpf_rs::set_print(Some((PrintLevel::Debug, note)));
    let mut beyond = Vec::new();
    // The test's own line has not ended yet.
    println!();
    for mode in MODES {
        let all = load(mode);
        for (name, budget) in &BUDGET {
            let Some(figures) = all.get(*name) else {
                panic!("the verifier gave no account of {name}: {all:?}");
            };
            println!("figure: {name} {} {figures}", mode.name);
            if !figures.fits(budget) {
                beyond.push(format!(
                    "{name} {}: {figures}, and its budget is: {budget}",
                    mode.name
                ));
            }
        }
    }
    assert!(beyond.is_empty(), "{}", beyond.join("\n"));
}
