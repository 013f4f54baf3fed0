//! What the datapath needs of the kernel's types, told by name before the verifier gets to say it.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};

use libbpf_rs::btf::Btf;
use libbpf_rs::btf::types::{Func, Struct, Typedef};

use crate::checks::Finding;

/// A structure's member, or a function for BPF programs, and what its absence means.
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
    // Came with the FIONREAD that counts redirected bytes, without which readers that ask first would hang.
    Requirement {
        owner: "sk_psock",
        member: Some("msg_tot_len"),
        remedy: "Linux 6.12.75, 6.18.14 and later have it",
    },
];

/// Fails with the first thing that this kernel lacks.
pub fn check() -> Result<(), Finding> {
    let btf = vmlinux()?;
    for Requirement {
        owner,
        member,
        remedy,
    } in REQUIREMENTS
    {
        let (found, what) = match member {
            Some(member) => (
                has_member(&btf, owner, member),
                format!("struct {owner} with {member}"),
            ),
            None => (
                btf.type_by_name::<Func<'_>>(owner).is_some(),
                format!("the function {owner}"),
            ),
        };
        if !found {
            return Err(Finding::new(format!("this kernel lacks {what}"), remedy));
        }
    }
    Ok(())
}

/// Whether the kernel can trace system calls, which it needs not.
pub fn has_system_call_trace() -> Result<bool, Finding> {
    let btf = vmlinux()?;
    Ok(btf.type_by_name::<Typedef<'_>>("btf_trace_sys_enter").is_some())
}

/// Whether this process is told the address of the function that wakes threads in recv, by which the datapath knows them.
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

/// From a line of /proc/kallsyms, if it is that of the symbol: a hidden address is 0.
fn is_told(line: &str, symbol: &str) -> Option<bool> {
    let address = line.strip_suffix(symbol)?.strip_suffix(" T ")?;
    Some(address.bytes().any(|digit| digit != b'0'))
}

fn vmlinux() -> Result<Btf<'static>, Finding> {
    Btf::from_vmlinux().map_err(|error| {
        Finding::new(
            format!("failed to read the kernel's type information: {error}"),
            "use a kernel built with CONFIG_DEBUG_INFO_BTF",
        )
    })
}

/// What to do about a kernel that has all this and does not accept the programs.
pub fn load_remedy() -> &'static str {
    let lockdown = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    if lockdown.contains("[confidentiality]") {
        "boot with lockdown=integrity, as confidentiality keeps BPF programs from reading sockets"
    } else {
        "`sockredir run -v` shows the kernel's account"
    }
}

fn has_member(btf: &Btf<'_>, owner: &str, member: &str) -> bool {
    btf.type_by_name::<Struct<'_>>(owner).is_some_and(|owner| {
        owner
            .iter()
            .any(|each| each.name.is_some_and(|name| name == member))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hidden_address_is_zero() {
        let told = |line| is_told(line, "woken_wake_function");
        assert_eq!(told("ffffffff813cf0d0 T woken_wake_function"), Some(true));
        assert_eq!(told("0000000000000000 T woken_wake_function"), Some(false));
        assert_eq!(told("ffffffff813cf0c0 T __pfx_woken_wake_function"), None);
        assert_eq!(told("ffffffff81000000 T _text"), None);
    }
}
