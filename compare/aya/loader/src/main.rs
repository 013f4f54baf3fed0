//! The user side: loads the programs, attaches them to the cgroup that it is told, and takes them away at a signal.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc;

use anyhow::{Context as _, Result};
use aya::maps::SockHash;
use aya::programs::{CgroupAttachMode, Program, SkMsg, SockOps};
use aya::{Ebpf, include_bytes_aligned};

/// What `compare/build`, which sets the variable, has built of ../kernel.
static OBJECT: &[u8] = include_bytes_aligned!(env!("REDIRECT_OBJECT"));

fn main() -> ExitCode {
    let Some(cgroup) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: aya-redirect CGROUP_DIR");
        return ExitCode::from(2);
    };
    match run(&cgroup) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("aya-redirect: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(path: &PathBuf) -> Result<()> {
    let (sender, signals) = mpsc::channel();
    // A receiver that has gone is waiting for nothing any more.
    ctrlc::set_handler(move || {
        let _ = sender.send(());
    })
    .context("failed to catch SIGINT and SIGTERM")?;
    let cgroup = File::open(path).with_context(|| format!("failed to open cgroup {}", path.display()))?;

    let mut object = Ebpf::load(OBJECT).context("failed to load the programs")?;
    let sockets: SockHash<_, [u32; 4]> = object
        .map("SOCKETS")
        .context("failed to find the map SOCKETS in the object")?
        .try_into()
        .context("failed to use the map SOCKETS")?;
    let sockets = sockets
        .fd()
        .try_clone()
        .context("failed to duplicate a descriptor")?;

    let messages: &mut SkMsg = program(&mut object, "redirect")?.try_into()?;
    messages.load().context("failed to load the program redirect")?;
    messages
        .attach(&sockets)
        .context("failed to attach to the map SOCKETS")?;
    let established: &mut SockOps = program(&mut object, "on_established")?.try_into()?;
    established
        .load()
        .context("failed to load the program on_established")?;
    // A link lets others in whatever the mode, and the kernel refuses one that asks for it.
    established
        .attach(cgroup, CgroupAttachMode::Single)
        .with_context(|| format!("failed to attach to cgroup {}", path.display()))?;

    println!("ready: cgroup {}", path.display());
    std::io::stdout()
        .flush()
        .context("failed to write to standard output")?;
    // It cannot fail: the handler, which has the other end, is never dropped.
    let _ = signals.recv();
    Ok(())
}

fn program<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut Program> {
    object
        .program_mut(name)
        .with_context(|| format!("failed to find the program {name} in the object"))
}
