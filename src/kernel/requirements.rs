//! What the datapath needs of the kernel's types, told by name before the verifier gets to say it.

use std::fs;

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
