//! The footprint: what each accelerator is on disk and in memory, how fast it starts, and what it takes to build.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use libbpf_rs::query::{ProgInfoIter, ProgInfoQueryOptions};

use crate::accelerator::Accelerator;
use crate::common::Arena;
use crate::report::{Section, bytes, table, write};
use crate::statistics::median;

const STARTS: usize = 7;
/// Where the objects of sockredir and, beside its loader, of the aya implementation are.
const OBJECT: &str = concat!(env!("OUT_DIR"), "/sockredir.o");
const AYA_OBJECT: &str = "../bpfel-unknown-none/release/redirect";
/// What `compare/measure-builds` writes: milliseconds and bytes.
const BUILDS: &str = "builds.tsv";

/// A running accelerator, as its own descriptors and the kernel tell.
#[derive(Default)]
struct Usage {
    programs: usize,
    verified_instructions: u64,
    machine_code: u64,
    maps: usize,
    kernel_memory: u64,
    resident: u64,
    peak: u64,
}

pub fn run(accelerators: &[Accelerator], into: &Path) -> Result<Section> {
    let builds = fs::read_to_string(into.join(BUILDS)).unwrap_or_default();
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut header = vec![""];
    for accelerator in accelerators.iter().filter(|accelerator| !accelerator.is_plain()) {
        eprintln!("footprint of {}", accelerator.name);
        header.push(accelerator.name);
        let cells = cells(accelerator, &builds)?;
        rows.resize(cells.len(), Vec::new());
        for (row, (name, value)) in rows.iter_mut().zip(cells) {
            if row.is_empty() {
                row.push(name.to_owned());
            }
            row.push(value);
        }
    }
    let raw: Vec<_> = rows.iter().map(|row| row.join("\t")).collect();
    write(&into.join("footprint.tsv"), &raw.join("\n"))?;
    let text = format!(
        "## Footprint\n\nMedians of {STARTS} starts. The build times are of one build each, release profile, with everything \
         downloaded.\n\n{}\n{NEEDS}",
        table(&header, &rows, true)
    );
    Ok(Section {
        name: "footprint",
        text,
    })
}

const NEEDS: &str = "A build of sockredir needs Rust 1.85, clang, and the headers of libelf and zlib, all from the distribution, and \
    compiles libbpf, which is C. Its binary needs libelf and zlib where it runs, unless they are linked in, for which their \
    static archives or a C toolchain are needed.\n\nA build of the aya implementation needs no C compiler, no clang and no \
    library, which is where it is ahead; of the C toolchain only the linker. Its binary can be linked without any \
    library, musl's included, for any Linux. It needs Rust 1.98 by rustup, the source of Rust's library, `bpf-linker`, which is \
    built first, and two unstable features of cargo and rustc (`RUSTC_BOOTSTRAP=1`, `-Z build-std`).\n";

fn cells(accelerator: &Accelerator, builds: &str) -> Result<Vec<(&'static str, String)>> {
    let program = accelerator
        .program
        .as_deref()
        .context("plain TCP has no program")?;
    let is_ours = accelerator.name == "sockredir";
    let object = if is_ours {
        OBJECT.into()
    } else {
        program.parent().unwrap_or(program).join(AYA_OBJECT)
    };
    let size = |path: &Path| -> Result<String> {
        let file = fs::metadata(path).with_context(|| format!("failed to find {}", path.display()))?;
        Ok(bytes(file.len()))
    };
    let [mut ready, mut stopped] = [Vec::new(), Vec::new()];
    let mut usage = Usage::default();
    for _ in 0..STARTS {
        let arena = Arena::new();
        let running = accelerator.start(&arena);
        ready.push(running.ready_after.as_secs_f64() * 1e3);
        usage = usage_of(running.pid().context("it has no process")?)?;
        stopped.push(running.stop().as_secs_f64() * 1e3);
    }
    let column = if is_ours { 1 } else { 2 };
    let build = |what: &str| {
        let line = builds
            .lines()
            .find_map(|line| line.strip_prefix(what)?.strip_prefix('\t'));
        line?.split('\t').nth(column - 1)?.parse::<u64>().ok()
    };
    let seconds = |what| {
        build(what).map_or("not measured".to_owned(), |time| {
            format!("{:.1} s", time as f64 / 1e3)
        })
    };
    Ok(vec![
        ("BPF object", size(&object)?),
        ("binary", size(program)?),
        ("libraries that the binary needs", libraries(program)),
        (
            "binary without any library",
            build("static").map_or("not built".to_owned(), bytes),
        ),
        (
            "BPF programs, maps",
            format!("{}, {}", usage.programs, usage.maps),
        ),
        (
            "instructions that the verifier saw",
            usage.verified_instructions.to_string(),
        ),
        ("machine code of the programs", bytes(usage.machine_code)),
        ("kernel memory of programs and maps", bytes(usage.kernel_memory)),
        ("memory of the process", bytes(usage.resident)),
        ("its peak", bytes(usage.peak)),
        ("start until ready", format!("{:.0} ms", median(&ready))),
        ("stop without connections", format!("{:.0} ms", median(&stopped))),
        ("first build", seconds("first")),
        ("build after an edit of the BPF program", seconds("edit")),
    ])
}

/// The shared libraries that a program is linked with.
fn libraries(program: &Path) -> String {
    let output = Command::new("ldd").arg(program).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let text = text.unwrap_or_default();
    let names = text.lines().filter_map(|line| line.split_once(" => "));
    let names: Vec<_> = names
        .filter_map(|(name, _)| name.trim().split(".so").next())
        .collect();
    names.join(", ")
}

fn usage_of(pid: u32) -> Result<Usage> {
    let process = Path::new("/proc").join(pid.to_string());
    let mut usage = Usage::default();
    let status =
        fs::read_to_string(process.join("status")).context("failed to read the status of a loader")?;
    usage.resident = field(&status, "VmRSS:").unwrap_or(0) * 1024;
    usage.peak = field(&status, "VmHWM:").unwrap_or(0) * 1024;
    let [mut programs, mut maps] = [BTreeSet::new(), BTreeSet::new()];
    for entry in fs::read_dir(process.join("fdinfo")).context("failed to read the descriptors of a loader")? {
        // One that is closed in this moment is nobody's.
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        let Some(memory) = field(&text, "memlock:") else {
            continue;
        };
        let is_new = match (field(&text, "map_id:"), field(&text, "prog_id:")) {
            (Some(map), _) => maps.insert(map),
            (None, Some(program)) => programs.insert(program),
            (None, None) => false,
        };
        if is_new {
            usage.kernel_memory += memory;
            usage.verified_instructions += field(&text, "verified_insns:").unwrap_or(0);
        }
    }
    let options = ProgInfoQueryOptions::default().include_jited_prog_insns(true);
    usage.machine_code = ProgInfoIter::with_query_opts(options)
        .filter(|program| programs.contains(&u64::from(program.id)))
        .map(|program| program.jited_prog_insns.len() as u64)
        .sum();
    usage.programs = programs.len();
    usage.maps = maps.len();
    Ok(usage)
}

/// The number behind a name at the begin of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}
