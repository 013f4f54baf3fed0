//! Owns what the kernel says: which BPF objects of ours it holds, and what it warned of.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::thread;
use std::time::{Duration, Instant};

use libbpf_rs::query::{LinkInfoIter, MapInfoIter, ProgInfoIter};

const PREFIX: &str = "sockredir";

/// The programs and maps in the kernel that carry our name, and the links of such programs.
pub fn kernel_objects() -> Vec<String> {
    let mut objects = Vec::new();
    let mut ours = Vec::new();
    for program in ProgInfoIter::default() {
        let name = program.name.to_string_lossy();
        if name.starts_with(PREFIX) {
            ours.push(program.id);
            objects.push(format!("program {} {name}", program.id));
        }
    }
    for map in MapInfoIter::default() {
        let name = map.name.to_string_lossy();
        if name.starts_with(PREFIX) {
            objects.push(format!("map {} {name}", map.id));
        }
    }
    for link in LinkInfoIter::default().filter(|link| ours.contains(&link.prog_id)) {
        objects.push(format!("link {} of program {}", link.id, link.prog_id));
    }
    objects
}

/// Waits until none of our objects is left; the kernel frees them some time after their last user.
pub fn wait_until_gone(within: Duration) {
    let deadline = Instant::now() + within;
    loop {
        let left = kernel_objects();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "still in the kernel after {within:?}: {left:#?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A place in the kernel log.
pub struct KernelLog(File);

impl KernelLog {
    /// The end of the log as it is now.
    pub fn mark() -> Self {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg");
        let mut file = file.expect("failed to open /dev/kmsg");
        file.seek(SeekFrom::End(0)).expect("failed to go to the end of /dev/kmsg");
        Self(file)
    }

    /// The warnings since the mark that concern a network or BPF fault; the mark moves to the end.
    pub fn warnings(&mut self) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut record = vec![0; 8192];
        loop {
            match self.0.read(&mut record) {
                Ok(length) => warnings.extend(warning(&String::from_utf8_lossy(&record[..length]))),
                // Records were overwritten before they were read: go on with the oldest there is.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return warnings,
                Err(error) => panic!("failed to read /dev/kmsg: {error}"),
            }
        }
    }
}

/// The text of a record `priority,sequence,time,flags;text` of level warning or worse that names a fault.
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
    // The upper bits are the facility.
    (priority % 8 <= WARNING && SIGNS.iter().any(|sign| text.contains(sign))).then(|| text.to_string())
}
