//! The kernel side as it is commonly described: both ends of a connection go into a socket hash under their addresses
//! and ports when they are established, and every message goes to the receive queue of the other end.
#![no_std]
#![no_main]
#![allow(
    linker_messages,
    reason = "bpf-linker names each file beside Rust's LLVM that is none"
)]

use aya_ebpf::bindings::sk_action::SK_PASS;
use aya_ebpf::bindings::{
    BPF_ANY, BPF_F_INGRESS, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB,
};
use aya_ebpf::macros::{map, sk_msg, sock_ops};
use aya_ebpf::maps::SockHash;
use aya_ebpf::programs::{SkMsgContext, SockOpsContext};

const MOST_SOCKETS: u32 = 65_536;
const AF_INET: u32 = 2;

/// An end of a connection, as itself sees it: addresses in network byte order, ports in the host's.
#[repr(C)]
struct End {
    local_address: u32,
    remote_address: u32,
    local_port: u32,
    remote_port: u32,
}

#[map]
static SOCKETS: SockHash<End> = SockHash::with_max_entries(MOST_SOCKETS, 0);

#[sock_ops]
pub fn on_established(context: SockOpsContext) -> u32 {
    let is_established = matches!(
        context.op(),
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB | BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB
    );
    if !is_established || context.family() != AF_INET {
        return 0;
    }
    let mut end = End {
        local_address: context.local_ip4(),
        remote_address: context.remote_ip4(),
        local_port: context.local_port(),
        remote_port: u32::from_be(context.remote_port()),
    };
    // SAFETY: the kernel's context is valid while the program runs.
    let operations = unsafe { &mut *context.ops };
    // A socket that does not fit in stays on TCP.
    let _ = SOCKETS.update(&mut end, operations, u64::from(BPF_ANY));
    0
}

#[sk_msg]
pub fn redirect(context: SkMsgContext) -> u32 {
    // SAFETY: as above.
    let message = unsafe { &*context.msg };
    let mut peer = End {
        local_address: message.remote_ip4,
        remote_address: message.local_ip4,
        local_port: u32::from_be(message.remote_port),
        remote_port: message.local_port,
    };
    // A message without a peer in the hash goes on through TCP: to return the helper's verdict would drop it.
    SOCKETS.redirect_msg(&context, &mut peer, u64::from(BPF_F_INGRESS));
    SK_PASS
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

// Without a licence that is compatible with the GPL, the kernel refuses the helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
