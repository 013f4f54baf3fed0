//! Owns what the kernel reports: which of our BPF objects it holds, and which warnings it has logged.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use libbpf_rs::query::{LinkInfoIter, MapInfoIter, ProgInfoIter};
use libbpf_rs::{MapCore, MapHandle};
use workloads::pace::patience;

const PREFIX: &str = "sockredir";

/// Objects that existed before this process had an arena belong to someone else.
static EARLIER: LazyLock<Vec<Object>> = LazyLock::new(all_objects);

#[derive(PartialEq, Eq)]
struct Object {
    kind: &'static str,
    id: u32,
    name: String,
}

/// Records the objects that belong to others.
pub fn remember_earlier_objects() {
    LazyLock::force(&EARLIER);
}

/// The programs and maps that carry our name, and the links of those programs.
fn all_objects() -> Vec<Object> {
    let object = |kind, id, name: &OsStr| Object {
        kind,
        id,
        name: name.to_string_lossy().into_owned(),
    };
    let programs = ProgInfoIter::default().map(|program| object("program", program.id, &program.name));
    let maps = MapInfoIter::default().map(|map| object("map", map.id, &map.name));
    let mut objects: Vec<_> = programs
        .chain(maps)
        .filter(|object| object.name.starts_with(PREFIX))
        .collect();
    let is_ours = |id| {
        objects
            .iter()
            .any(|object| object.kind == "program" && object.id == id)
    };
    let links: Vec<_> = LinkInfoIter::default()
        .filter(|link| is_ours(link.prog_id))
        .collect();
    objects.extend(links.iter().map(|link| Object {
        kind: "link",
        id: link.id,
        name: format!("of program {}", link.prog_id),
    }));
    objects
}

fn our_objects() -> impl Iterator<Item = Object> {
    all_objects()
        .into_iter()
        .filter(|object| !EARLIER.contains(object))
}

/// The programs, maps and links that this test process's tools have loaded.
pub fn kernel_objects() -> Vec<String> {
    our_objects()
        .map(|object| format!("{} {} {}", object.kind, object.id, object.name))
        .collect()
}

/// The number of entries in all maps of this name.
pub fn map_entries(name: &str) -> usize {
    let maps: Vec<_> = our_objects()
        .filter(|object| object.kind == "map" && object.name == name)
        .collect();
    assert!(!maps.is_empty(), "the kernel has no map {name}");
    let entries = maps.iter().map(|map| {
        let handle = MapHandle::from_map_id(map.id);
        let handle = handle.unwrap_or_else(|error| panic!("failed to open the map {name}: {error}"));
        handle.keys().count()
    });
    entries.sum()
}

/// Waits until none of our objects is left; the kernel frees them some time after their last user is gone.
pub fn wait_until_gone(within: Duration) {
    let deadline = Instant::now() + patience(within);
    loop {
        let left = kernel_objects();
        if left.is_empty() {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "still in the kernel after {within:?}: {left:#?}"
        );
        thread::sleep(Duration::from_millis(20));
    }
}

/// A position in the kernel log.
pub struct KernelLog(File);

impl KernelLog {
    /// The current end of the log.
    pub fn mark() -> Self {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg");
        let mut file = file.expect("failed to open /dev/kmsg");
        file.seek(SeekFrom::End(0))
            .expect("failed to go to the end of /dev/kmsg");
        Self(file)
    }

    /// Returns the warnings since the mark about a network or BPF fault, and moves the mark to the end.
    pub fn warnings(&mut self) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut record = vec![0; 8192];
        loop {
            match self.0.read(&mut record) {
                Ok(length) => warnings.extend(warning(&String::from_utf8_lossy(&record[..length]))),
                // Records were overwritten before they were read: continue with the oldest one left.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return warnings,
                Err(error) => panic!("failed to read /dev/kmsg: {error}"),
            }
        }
    }
}

/// The text of a record `priority,sequence,time,flags;text` at level warning or worse that names a fault.
pub fn warning(record: &str) -> Option<String> {
    const WARNING: u32 = 4;
    const SIGNS: [&str; 14] = [
        "WARNING:",
        "BUG:",
        "Oops",
        "refcount",
        "rcu:",
        "RCU",
        "stall",
        "soft lockup",
        "hung task",
        "blocked for more than",
        "TCP recvmsg seq",
        "cleanup rbuf bug",
        "sockmap",
        "sk_stream_kill_queues",
    ];
    let (header, text) = record.split_once(';')?;
    let priority: u32 = header.split(',').next()?.parse().ok()?;
    let text = text.lines().next().unwrap_or_default();
    // The upper bits hold the facility.
    (priority % 8 <= WARNING && SIGNS.iter().any(|sign| text.contains(sign))).then(|| text.to_string())
}
