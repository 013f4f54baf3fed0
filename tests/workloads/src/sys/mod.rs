//! Owns every system call that std lacks, with every `unsafe` of this package.
//!
//! Most calls take a descriptor and return what the kernel returned, as the scenarios log it. On top of them, `stream` has
//! sockets of std's types with std's errors, and `Epoll` and `Waker` are what an event loop holds.

mod address;
mod errno;
mod events;
pub mod fault;
mod file;
mod memory;
mod message;
mod process;
pub mod ring;
mod socket;
pub mod stream;

pub use address::Family;
pub use errno::{AGAIN, Errno, Outcome, text};
pub use events::{
    EDGE, ERR, Epoll, HUP, IN, OUT, RDHUP, Waker, epoll_control, epoll_create, epoll_wait, poll, select,
};
pub use file::{close, duplicate, duplicate_as, fcntl, file, ioctl, pipe, sendfile, set_flag, splice, tee};
pub use memory::{PAGE, Page, zerocopy_receive};
pub use message::{
    Control, Message, read, readv, recv, recv_control, recv_descriptor, recv_messages, recv_nowhere, recvmsg,
    send, send_descriptor, send_messages, send_nothing, send_to, write, writev,
};
pub use process::{
    become_urgent, become_user, catch_termination, count_signal, default_action, execute, fork, has_ended,
    kill, kill_group, raise_file_limit, signal_thread, signals_caught, terminated, thread_id, wait_for_child,
};
pub use socket::{
    accept, bind, connect, disconnect, listen, names, option, option_bytes, port, reset_on_close, set_linger,
    set_option, set_timeout, shutdown, sign, socket, stream_socket, tcp_bytes_sent, tcp_sending, unix_pair,
};
