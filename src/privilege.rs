//! The capabilities that the datapath needs, and which of them this process lacks.

use std::fs;

use crate::checks::Finding;

/// Name and number (linux/capability.h) of a capability, and what needs it.
const NEEDED: [(&str, u32, &str); 3] = [
    ("CAP_BPF", 39, "loading BPF programs"),
    ("CAP_NET_ADMIN", 12, "attaching them to sockets and cgroups"),
    ("CAP_PERFMON", 38, "reading the kernel's sockets in them"),
];
/// Stands for all three on every kernel.
const CAP_SYS_ADMIN: u32 = 21;

/// Fails with the names of the missing capabilities.
pub fn check() -> Result<(), Finding> {
    const REMEDY: &str = "run as root, or grant these capabilities";
    let status = fs::read_to_string("/proc/self/status")
        .map_err(|error| Finding::new(format!("failed to read /proc/self/status: {error}"), REMEDY))?;
    let missing = missing(&status);
    if missing.is_empty() {
        return Ok(());
    }
    Err(Finding::new(format!("missing {}", missing.join(", ")), REMEDY))
}

/// The missing capabilities with their purpose, read from the text of /proc/PID/status.
fn missing(status: &str) -> Vec<String> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    let has = |number: u32| effective >> number & 1 == 1;
    NEEDED
        .iter()
        .filter(|(_, number, _)| !has(*number) && (*number == 12 || !has(CAP_SYS_ADMIN)))
        .map(|(name, _, purpose)| format!("{name} ({purpose})"))
        .collect()
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
