//! What the datapath needs of the kernel's types, told by name before the verifier gets to say it.

use anyhow::{Context as _, Result, bail};
use libbpf_rs::btf::Btf;
use libbpf_rs::btf::types::{Func, Struct};

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
pub fn check() -> Result<()> {
    let btf = Btf::from_vmlinux()
        .context("failed to read the kernel's type information (it needs CONFIG_DEBUG_INFO_BTF)")?;
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
            bail!("this kernel lacks {what}: {remedy}");
        }
    }
    Ok(())
}

fn has_member(btf: &Btf<'_>, owner: &str, member: &str) -> bool {
    btf.type_by_name::<Struct<'_>>(owner).is_some_and(|owner| {
        owner
            .iter()
            .any(|each| each.name.is_some_and(|name| name == member))
    })
}
