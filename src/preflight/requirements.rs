//! What the datapath needs from the kernel's types, named before the verifier rejects it.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};

use crate::datapath::{KernelTypes, release};
use crate::model::finding::Finding;

/// A structure member, or a function for BPF programs, and what its absence means.
struct Requirement {
    owner: &'static str,
    member: Option<&'static str>,
    remedy: &'static str,
}

const REQUIREMENTS: [Requirement; 4] = [
    Requirement {
        owner: "sk_psock",
        member: Some("ingress_msg"),
        remedy: "it needs CONFIG_NET_SOCK_MSG and CONFIG_BPF_STREAM_PARSER",
    },
    Requirement {
        owner: "bpf_cast_to_kern_ctx",
        member: None,
        remedy: "Linux 6.12.75, 6.18.14 and later have it",
    },
    Requirement {
        owner: "bpf_rdonly_cast",
        member: None,
        remedy: "Linux 6.12.75, 6.18.14 and later have it",
    },
    // Came with the FIONREAD that counts redirected bytes; without it, readers that ask first would hang.
    Requirement {
        owner: "sk_psock",
        member: Some("msg_tot_len"),
        remedy: "Linux 6.12.75, 6.18.14 and later have it",
    },
];

/// Fails with the first thing this kernel lacks.
pub fn check() -> Result<(), Finding> {
    let types = KernelTypes::read()?;
    for Requirement {
        owner,
        member,
        remedy,
    } in REQUIREMENTS
    {
        let (found, what) = match member {
            Some(member) => (
                types.has_member(owner, member),
                format!("struct {owner} with {member}"),
            ),
            None => (types.has_function(owner), format!("the function {owner}")),
        };
        if !found {
            return Err(Finding::new(format!("this kernel lacks {what}"), remedy));
        }
    }
    Ok(())
}

/// The first releases of their series with e5fd3f514e27 ("bpf: tcp: Fix use-after-free in bpf_iter_tcp_established_batch()",
/// CVE-2026-74714). Later series have it.
const SCANS_MENDED: [(u32, u32, u32); 3] = [(6, 12, 104), (6, 18, 45), (7, 1, 9)];

/// Fails if a scan of the TCP sockets may free a connection request still in use. Only the release number shows that.
pub fn check_scans() -> Result<(), Finding> {
    let release = release();
    if are_scans_mended(&release) {
        return Ok(());
    }
    Err(Finding::new(
        format!(
            "scans of TCP sockets can corrupt the memory of Linux {release} (CVE-2026-74714), so none are made: established \
             connections are not adopted, and idle ones stay in the socket map when it stops"
        ),
        format!(
            "use Linux {} or a later one of these series; or `run --adopt auto`, if the distribution has mended it",
            SCANS_MENDED
                .map(|(major, minor, patch)| format!("{major}.{minor}.{patch}"))
                .join(", ")
        ),
    ))
}

fn are_scans_mended(release: &str) -> bool {
    let mut numbers = release.split(['.', '-', '+']).map_while(|part| part.parse().ok());
    let mut next = || numbers.next().unwrap_or(0);
    let (major, minor, patch): (u32, u32, u32) = (next(), next(), next());
    let series = SCANS_MENDED
        .iter()
        .find(|mended| (mended.0, mended.1) == (major, minor));
    series.map_or((major, minor) > (7, 1), |mended| patch >= mended.2)
}

/// True if this process can see the address of the function that wakes threads in recv, by which the datapath knows them.
pub fn tells_waiters() -> bool {
    let Ok(symbols) = File::open("/proc/kallsyms") else {
        return false;
    };
    BufReader::new(symbols)
        .lines()
        .map_while(Result::ok)
        .find_map(|line| is_told(&line, "woken_wake_function"))
        .unwrap_or(false)
}

/// Parses a line of /proc/kallsyms if it is for this symbol; a hidden address is 0.
fn is_told(line: &str, symbol: &str) -> Option<bool> {
    let address = line.strip_suffix(symbol)?.strip_suffix(" T ")?;
    Some(address.bytes().any(|digit| digit != b'0'))
}

/// The remedy for a kernel that has all this but rejects the programs.
pub fn load_remedy() -> &'static str {
    let lockdown = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    if lockdown.contains("[confidentiality]") {
        "boot with lockdown=integrity, as confidentiality keeps BPF programs from reading sockets"
    } else {
        "`sockredir run -v` shows the kernel's account"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scans_are_mended_in_late_releases_of_each_series() {
        for release in [
            "6.12.104",
            "6.12.118+deb13-cloud-amd64",
            "6.18.45-0-lts",
            "7.1.9",
            "7.2.0-rc6",
            "8.0",
        ] {
            assert!(are_scans_mended(release), "{release}");
        }
        for release in [
            "6.12.0-55.el10",
            "6.12.103",
            "6.18.44-v1",
            "6.19.12",
            "7.0.30",
            "7.1.8",
            "",
        ] {
            assert!(!are_scans_mended(release), "{release}");
        }
    }

    #[test]
    fn a_hidden_address_is_zero() {
        let told = |line| is_told(line, "woken_wake_function");
        assert_eq!(told("ffffffff813cf0d0 T woken_wake_function"), Some(true));
        assert_eq!(told("0000000000000000 T woken_wake_function"), Some(false));
        assert_eq!(told("ffffffff813cf0c0 T __pfx_woken_wake_function"), None);
        assert_eq!(told("ffffffff81000000 T _text"), None);
    }
}
