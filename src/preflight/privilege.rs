//! The capabilities that the datapath needs, and which of them this process lacks.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use super::requirements::tells_waiters;
use crate::datapath::can_reset;
use crate::model::finding::Finding;

/// Name and number (linux/capability.h) of a capability, and its purpose.
const NEEDED: [(&str, u32, &str); 3] = [
    ("CAP_BPF", 39, "loading BPF programs"),
    ("CAP_NET_ADMIN", 12, "attaching them to sockets and cgroups"),
    ("CAP_PERFMON", 38, "reading the kernel's sockets in them"),
];
/// Implies all three on every kernel.
const CAP_SYS_ADMIN: u32 = 21;
const CAP_SYSLOG: u32 = 34;
/// The inode of the initial user namespace, on every kernel (PROC_USER_INIT_INO).
const HOST_USERS: u64 = 0xeffffffd;

/// Fails with the names of the missing capabilities.
pub fn check() -> Result<(), Finding> {
    const REMEDY: &str = "run as root, or grant these capabilities";
    let missing = missing(&status(REMEDY)?);
    if !missing.is_empty() {
        return Err(Finding::new(format!("missing {}", missing.join(", ")), REMEDY));
    }
    if fs::metadata("/proc/self/ns/user").is_ok_and(|namespace| namespace.ino() != HOST_USERS) {
        return Err(Finding::new(
            "the kernel heeds no capabilities of a user namespace when it loads BPF programs",
            "run it outside of one: in a container that is not rootless, in a pod without hostUsers: false",
        ));
    }
    Ok(())
}

/// Fails if it cannot be seen which kernel function wakes a thread. Not an obstacle.
pub fn check_waiters() -> Result<(), Finding> {
    const REMEDY: &str = "grant CAP_SYSLOG";
    const COST: &str = "a connection does not go back to TCP while a thread waits for it with poll or select";
    if tells_waiters() {
        return Ok(());
    }
    if has(&status(REMEDY)?, CAP_SYSLOG) {
        return Err(Finding::new(
            format!("the kernel hides its addresses: {COST}"),
            "set kernel.kptr_restrict to 0 or 1",
        ));
    }
    Err(Finding::new(
        format!("missing CAP_SYSLOG (seeing what wakes a thread): {COST}"),
        REMEDY,
    ))
}

/// Fails if no connection can be reset. Not an obstacle.
pub fn check_resets() -> Result<(), Finding> {
    if can_reset() {
        return Ok(());
    }
    Err(Finding::new(
        "missing CAP_NET_RAW (resetting connections): who sends to an end that half-closes and then closes without reading \
         all of it may be told after a minute or two only",
        "grant CAP_NET_RAW",
    ))
}

/// Fails if the files of other users' processes cannot be read. Not an obstacle.
pub fn check_files() -> Result<(), Finding> {
    if fs::read_link("/proc/1/exe").is_ok() {
        return Ok(());
    }
    Err(Finding::new(
        "missing CAP_SYS_PTRACE (looking at the files of programs): a program that cannot splice is known as late as others, after \
         512 reads",
        "grant CAP_SYS_PTRACE, if that is worth it: it gives power over every process",
    ))
}

/// The text of /proc/PID/status of this process.
fn status(remedy: &str) -> Result<String, Finding> {
    fs::read_to_string("/proc/self/status")
        .map_err(|error| Finding::new(format!("failed to read /proc/self/status: {error}"), remedy))
}

/// The missing capabilities with their purpose, from the text of /proc/PID/status.
fn missing(status: &str) -> Vec<String> {
    NEEDED
        .iter()
        .filter(|(_, number, _)| !has(status, *number) && (*number == 12 || !has(status, CAP_SYS_ADMIN)))
        .map(|(name, _, purpose)| format!("{name} ({purpose})"))
        .collect()
}

/// True if a capability is effective, by the text of /proc/PID/status.
fn has(status: &str, number: u32) -> bool {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    effective >> number & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_lacks_nothing() {
        assert!(missing("Name:\tx\nCapEff:\t000001ffffffffff\n").is_empty());
    }

    #[test]
    fn each_missing_capability_is_named() {
        let status = |mask: u64| format!("CapPrm:\t0\nCapEff:\t{mask:016x}\n");
        assert_eq!(missing(&status(0)).len(), 3);
        assert_eq!(missing("no such line").len(), 3);
        let all = 1 << 39 | 1 << 38 | 1 << 12;
        assert!(missing(&status(all)).is_empty());
        for (name, number, _) in NEEDED {
            let lacking = missing(&status(all & !(1 << number)));
            assert!(lacking.len() == 1 && lacking[0].starts_with(name), "{lacking:?}");
        }
        assert!(missing(&status(1 << CAP_SYS_ADMIN | 1 << 12)).is_empty());
    }
}
