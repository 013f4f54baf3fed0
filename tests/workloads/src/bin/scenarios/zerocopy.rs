//! Transfers without a copy: MSG_ZEROCOPY with its completions, and TCP_ZEROCOPY_RECEIVE.

use std::cmp::Ordering;

use libc::{MSG_DONTWAIT, MSG_ZEROCOPY, POLLERR, POLLIN, POLLOUT};
use workloads::sys;

use crate::halfclose::both_ways;
use crate::socket::Socket;
use crate::stage::{Scenario, Stage, eventually, log, pause, scenario};

pub const SCENARIOS: &[Scenario] = &[
    scenario("zerocopy-early", early).cold(),
    scenario("zerocopy-late", late),
    scenario("zerocopy-not-asked-for", not_asked_for),
    scenario("zerocopy-receive", receive),
];

/// A completed range of zero-copy sends, from the error queue.
#[derive(Debug)]
struct Completion {
    first: u32,
    last: u32,
}

fn completion(socket: Socket) -> Option<Completion> {
    /// The kernel's SO_EE_ORIGIN_ZEROCOPY, which the libc crate lacks.
    const ORIGIN: u8 = 5;
    let flags = libc::MSG_ERRQUEUE | MSG_DONTWAIT;
    let (_, _, controls) = sys::recv_control(socket.fd(), &mut [], flags);
    let (_, _, bytes) = controls.first()?;
    // struct sock_extended_err: errno, origin, type, code, padding, info, data.
    let number = |at: usize| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
    (bytes.get(4) == Some(&ORIGIN)).then_some(Completion {
        first: number(8)?,
        last: number(12)?,
    })
}

/// Zero-copy sends and their completions, in however many ranges they arrive.
fn without_copies(one: Socket, other: Socket) {
    const SENDS: u32 = 5;
    for _ in 0..SENDS {
        // The kernel may read these bytes until it reports completion.
        let bytes = Box::leak(one.next(20_000).into_boxed_slice());
        one.wait_if_nonblocking(POLLOUT);
        let outcome = one.sent(sys::send(one.fd(), bytes, MSG_ZEROCOPY));
        let _ = one.logged("send 20000 ZEROCOPY", outcome);
        other.recv_all(20_000);
        let _ = other.send(100);
        let _ = one.recv(200);
    }
    let mut next = 0;
    let mut look = || {
        while let Some(range) = completion(one) {
            if range.first != next {
                log(format!("{range:?} instead of one from {next}"));
            }
            next = range.last + 1;
        }
        next
    };
    eventually(|| look() >= SENDS);
    // A spurious completion would arrive with the others.
    pause(5);
    let completed = look();
    log(match completed.cmp(&SENDS) {
        Ordering::Less => "fewer completions than sends",
        Ordering::Equal => "as many completions as sends",
        Ordering::Greater => "more completions than sends",
    });
    one.poll(POLLIN | POLLERR);
}

fn ask_for_zerocopy(socket: Socket) {
    let outcome = sys::set_option(socket.fd(), libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1_i32);
    let _ = socket.logged("SO_ZEROCOPY 1", outcome);
}

/// SO_ZEROCOPY set before the connection is made.
fn early(stage: &Stage) {
    let listener = stage.listener();
    let client = stage.socket();
    ask_for_zerocopy(client);
    let pair = stage.join(client, listener);
    without_copies(pair.client, pair.server);
    let client = stage.socket();
    let pair = stage.join(client, listener);
    ask_for_zerocopy(pair.server);
    without_copies(pair.server, pair.client);
}

fn late(stage: &Stage) {
    both_ways(stage, |one, other| {
        ask_for_zerocopy(one);
        without_copies(one, other);
    });
}

/// Without SO_ZEROCOPY the flag does nothing.
fn not_asked_for(stage: &Stage) {
    both_ways(stage, |one, other| {
        let _ = one.send_with(20_000, MSG_ZEROCOPY, "ZEROCOPY");
        other.recv_all(20_000);
        log(format!("a completion: {:?}", completion(one)));
    });
}

/// TCP_ZEROCOPY_RECEIVE of less than a page: it maps nothing and reports how much is left to copy.
fn receive(stage: &Stage) {
    both_ways(stage, |one, other| {
        let _ = one.send(1000);
        other.wait_unread(1000);
        let outcome = sys::zerocopy_receive(other.fd());
        other.log(match outcome {
            Ok((mapped, to_copy)) => format!("TCP_ZEROCOPY_RECEIVE = mapped {mapped}, to copy {to_copy}"),
            Err(error) => format!("TCP_ZEROCOPY_RECEIVE = {error}"),
        });
        let _ = other.recv(2000);
    });
}
