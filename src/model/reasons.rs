//! Every reason in words: what happened, and what the user can do about it.

/// What a counter, or the reason of a flow, means. Both sentences follow a colon: lower case, no full stop.
#[derive(Debug, Eq, PartialEq)]
pub struct Reason {
    pub name: &'static str,
    /// What happened.
    pub cause: &'static str,
    /// What would change it, or why nothing needs to be done.
    pub remedy: &'static str,
}

/// The reason of a flow that has no record, beside the counters.
pub const NOT_FOLLOWED: &str = "not_followed";

pub fn reason(name: &str) -> Option<&'static Reason> {
    REASONS.iter().find(|reason| reason.name == name)
}

/// The counters, in the order of `enum counter`, and [`NOT_FOLLOWED`].
pub const REASONS: &[Reason] = &[
    Reason {
        name: "ends_inserted",
        cause: "an end of a connection was put into the socket map; a connection that is followed has two",
        remedy: "nothing to do",
    },
    Reason {
        name: "admitted_request_response",
        cause: "the two ends answer each other, so what they send is redirected",
        remedy: "nothing to do: it is accelerated",
    },
    Reason {
        name: "admitted_bulk",
        cause: "the messages are 32 KiB and more on average, so they are redirected",
        remedy: "nothing to do: it is accelerated",
    },
    Reason {
        name: "refused_blocking",
        cause: "the connecting program uses a blocking socket, and in a socket map a blocking `recv` can return EAGAIN",
        remedy: "use non-blocking sockets (an event loop) in the connecting program, or accept the differences of \
                 `--admit any`",
    },
    Reason {
        name: "refused_blocking_server",
        cause: "the accepting program uses blocking sockets, as one that it accepted before has shown, and in a socket \
                map a blocking `recv` can return EAGAIN",
        remedy: "use non-blocking sockets (an event loop) in the accepting program, or accept the differences of \
                 `--admit any`",
    },
    Reason {
        name: "refused_unknown_server",
        cause: "no connection that the program accepted has sent anything yet, which would show whether they block",
        remedy: "nothing to do: the first accepted connection that sends shows it, and the next ones are treated accordingly",
    },
    Reason {
        name: "refused_turns_blocking",
        cause: "an earlier connection of this program was made blocking after it was established, and in a socket map a blocking \
                `recv` can return EAGAIN",
        remedy: "keep its sockets non-blocking for as long as they live, which it is believed when its file changes, or accept \
                 the differences of `--admit any`",
    },
    Reason {
        name: "refused_ulp",
        cause: "an earlier connection of this cgroup's programs to this service asked for a ULP such as kTLS, which \
                works on plain TCP only",
        remedy: "nothing to do if kTLS is wanted; otherwise turn it off in the program and restart sockredir, which \
                 forgets it then",
    },
    Reason {
        name: "refused_not_local",
        cause: "the connection is not routed over loopback: its other end is on another host, or in another network \
                namespace",
        remedy: "start sockredir with `--scope host`, which takes connections between network namespaces of this host too; \
                 nothing to do for other hosts",
    },
    Reason {
        name: "refused_port",
        cause: "neither port of the connection is in `--ports`, or one is in `--exclude-ports`",
        remedy: "change `--ports` or `--exclude-ports`",
    },
    Reason {
        name: "refused_program",
        cause: "a program at one of the ends is in `--exclude-programs`",
        remedy: "take it out of `--exclude-programs` if it neither splices nor hands its sockets to the kernel",
    },
    Reason {
        name: "refused_io_uring",
        cause: "a program at one of the ends has an io_uring, with which the kernel can lose the middle of a large send \
                on a socket in a socket map",
        remedy: "turn io_uring off in that program, then restart it and sockredir",
    },
    Reason {
        name: "refused_service",
        cause: "recent connections to this service ended before redirection paid, or its server was refused each time, \
                so that only one in 64 is tried",
        remedy: "let connections live for more messages (a connection pool), or do away with the `refused_` and \
                 `tcp_only_` reasons of the server's; the others follow when those that are tried are worth it",
    },
    Reason {
        name: "refused_special",
        cause: "the socket uses what redirected data cannot honour (a ULP, zero-copy, a low-water mark, a peek offset, \
                timestamps, TCP_INQ, inline urgent data, TCP_REPAIR, a receive buffer below 64 KiB), or belongs to the kernel, to MPTCP or to SMC",
        remedy: "do without that option in the program; if it is needed there is nothing to do, as it works on TCP",
    },
    Reason {
        name: "refused_full",
        cause: "as many connections as `--max-flows` allows are followed already, or the kernel had no memory for \
                another one",
        remedy: "raise `--max-flows`",
    },
    Reason {
        name: "refused_taken",
        cause: "the socket is in a socket map already: of an earlier sockredir, which was replaced or killed, or of another \
                program",
        remedy: "nothing to do for those of an earlier sockredir, which are accelerated by it until they end; do not run two \
                 accelerators (`sockredir doctor` names the programs that redirect messages)",
    },
    Reason {
        name: "refused_stopping",
        cause: "sockredir was told to stop, or is handing over to another instance, and takes in nothing new",
        remedy: "start sockredir again, and then connect again",
    },
    Reason {
        name: "refused_unpaired",
        cause: "the connecting end of an accepted connection was not inserted, or is on another host or outside of the \
                cgroup",
        remedy: "see the `refused_` reasons of connecting ends; let `--cgroup` cover both programs; nothing to do for \
                 connections from other hosts",
    },
    Reason {
        name: "tcp_only_blocking",
        cause: "before the connection was decided a program made its socket blocking, or its server was found to accept \
                with blocking sockets or not known not to",
        remedy: "use non-blocking sockets at both ends from the beginning, or accept the differences of `--admit any`",
    },
    Reason {
        name: "tcp_only_special",
        cause: "before the connection was decided a program asked for a socket option that redirected data cannot \
                honour, or had an io_uring",
        remedy: "do without that option or io_uring in the program; if it is needed there is nothing to do, as it works \
                 on TCP",
    },
    Reason {
        name: "tcp_only_program",
        cause: "the accepting program is in `--exclude-programs`, splices, or has an io_uring",
        remedy: "as for `refused_program`, `refused_splices` and `refused_io_uring`, one of which is counted with it",
    },
    Reason {
        name: "tcp_only_no_mate",
        cause: "the accepting end is outside of the cgroup, was refused for a reason of its own, or has gone",
        remedy: "let `--cgroup` cover the accepting program too, and see `refused_special` and `refused_taken`",
    },
    Reason {
        name: "tcp_only_pattern",
        cause: "the first messages were neither requests and responses nor bulk, and TCP is faster for a stream of small \
                messages because it joins them",
        remedy: "nothing to do: TCP is the faster way; a program that writes 32 KiB and more at a time is accelerated",
    },
    Reason {
        name: "tcp_only_closed",
        cause: "the connection was closed before it was decided, or half-closed by a blocking program; most of these are \
                short connections",
        remedy: "nothing to do, unless many messages go over short connections: a connection pool is accelerated",
    },
    Reason {
        name: "tcp_only_stopping",
        cause: "sockredir was told to stop before the connection was decided",
        remedy: "start sockredir again, and then connect again",
    },
    Reason {
        name: "drain_one_way",
        cause: "64 small messages in a row went one way without an answer, and TCP is faster for these because it joins \
                them",
        remedy: "nothing to do: TCP is the faster way; a program that writes 32 KiB and more at a time stays accelerated",
    },
    Reason {
        name: "drain_no_gain",
        cause: "less than half of 128 messages could be redirected, which the `messages_` counters explain; mostly the \
                reader is too slow",
        remedy: "let the reader keep up, or give it a larger SO_RCVBUF if it has set a small one; a new connection is \
                 decided afresh",
    },
    Reason {
        name: "drain_blocking",
        cause: "a program made its socket blocking while the connection was accelerated, and in a socket map a blocking \
                `recv` can return EAGAIN",
        remedy: "keep sockets non-blocking for as long as they live, or accept the differences of `--admit any`",
    },
    Reason {
        name: "drain_half_closed",
        cause: "with `--admit any`, a blocking program has shut down its sending side, and the acknowledgement of that \
                would end its next `recv` with EAGAIN",
        remedy: "nothing to do: what is left of the connection works on TCP",
    },
    Reason {
        name: "drain_special",
        cause: "while the connection was accelerated a program asked for a socket option that redirected data cannot \
                honour, or had an io_uring",
        remedy: "do without that option or io_uring in the program; if it is needed there is nothing to do, as it works \
                 on TCP",
    },
    Reason {
        name: "drain_stopping",
        cause: "sockredir was told to stop while the connection was accelerated",
        remedy: "start sockredir again, and then connect again",
    },
    Reason {
        name: "drain_done",
        cause: "both ends of a connection on its way back to TCP have proved that nothing is being redirected any more",
        remedy: "nothing to do: it is plain TCP again; those that are idle get there with their next messages",
    },
    Reason {
        name: "ends_left",
        cause: "an end left the socket map and is a plain TCP socket again",
        remedy: "nothing to do",
    },
    Reason {
        name: "leave_unread",
        cause: "an end could not leave the socket map yet, because what its program has not read would be lost",
        remedy: "nothing to do: it leaves when its program has read",
    },
    Reason {
        name: "leave_busy",
        cause: "an end could not leave the socket map yet, because a thread was sending or receiving on it",
        remedy: "nothing to do: it leaves at the next occasion",
    },
    Reason {
        name: "leave_waited",
        cause: "an end could not leave the socket map yet, because a thread that sleeps in a call on it would wake up to \
                EAGAIN",
        remedy: "nothing to do: it leaves when that thread has what it waits for",
    },
    Reason {
        name: "bytes_repeated",
        cause: "bytes that TCP delivered for the second time were cut off, so that the reader does not get them twice",
        remedy: "nothing to do: nothing was lost; it takes a receiver whose memory was full of tiny messages",
    },
    Reason {
        name: "repeated_uncut",
        cause: "bytes that TCP delivered for the second time could not be cut off, so that the reader got them twice",
        remedy: "keep the ports in question off with `--exclude-ports`, connect again, and report it: it must not happen",
    },
    Reason {
        name: "messages_redirected",
        cause: "the message went from one end's send straight to the other end's receive queue",
        remedy: "nothing to do: it is accelerated",
    },
    Reason {
        name: "bytes_redirected",
        cause: "bytes of redirected messages",
        remedy: "nothing to do: they are accelerated",
    },
    Reason {
        name: "bytes_tcp",
        cause: "bytes that an end in the socket map sent through TCP",
        remedy: "see the `messages_` counters, which say why",
    },
    Reason {
        name: "messages_observed",
        cause: "the connection is observed: its first 8 messages, or 2 where the service's connections have been worth \
                it, show what it is",
        remedy: "nothing to do: it is decided after that",
    },
    Reason {
        name: "messages_tcp_only",
        cause: "the connection is decided for TCP, and the sender has not left the socket map yet",
        remedy: "see the `tcp_only_` and `drain_` counters, which say why it was",
    },
    Reason {
        name: "messages_drain",
        cause: "the connection is on its way from redirection to TCP",
        remedy: "see the `drain_` counters, which say why",
    },
    Reason {
        name: "messages_closing",
        cause: "the sender has shut down or closed, and a send after that fails as on TCP",
        remedy: "nothing to do",
    },
    Reason {
        name: "messages_one_way",
        cause: "it is at least the fourth small message in a row without an answer, and TCP is faster for these because \
                it joins them",
        remedy: "nothing to do: TCP is the faster way; an answer or a message of 32 KiB ends it",
    },
    Reason {
        name: "messages_unmapped",
        cause: "the sender is not in the socket map any more",
        remedy: "nothing to do: it goes on as plain TCP",
    },
    Reason {
        name: "messages_no_mate",
        cause: "the receiver is not in the socket map, or not any more",
        remedy: "nothing to do: it goes on as plain TCP",
    },
    Reason {
        name: "messages_not_accepted",
        cause: "with `--same-user`, the server has not accepted the connection yet, so its user is not known",
        remedy: "nothing to do, unless there are many: the server is slow to accept",
    },
    Reason {
        name: "messages_mate_closing",
        cause: "the receiver has closed or shut down, or is about to",
        remedy: "nothing to do",
    },
    Reason {
        name: "messages_order",
        cause: "earlier bytes of this direction are still on their way through TCP, and must not be overtaken",
        remedy: "nothing to do: it is redirected again when they have arrived",
    },
    Reason {
        name: "messages_limit_bytes",
        cause: "the receiver has as many unread bytes as may wait there: 1.5 MiB, or half of what its buffer may be",
        remedy: "let the reader keep up, or raise its SO_RCVBUF if it has set a small one, or else `net.ipv4.tcp_rmem`",
    },
    Reason {
        name: "messages_limit_count",
        cause: "the receiver has as many unread messages as may wait there: 512",
        remedy: "let the reader keep up, or the sender write more at a time",
    },
    Reason {
        name: "messages_memory",
        cause: "the kernel is short of memory for TCP, and redirecting to a receiver with unread data might fail",
        remedy: "raise `net.ipv4.tcp_mem`, or find the connections that hold much unread data",
    },
    Reason {
        name: "messages_dropped",
        cause: "the sender had gone from the socket map while its message was being redirected, and the send failed with \
                EACCES",
        remedy: "keep the ports in question off with `--exclude-ports`, connect again, and report it: it must not happen",
    },
    Reason {
        name: "decisions_dropped",
        cause: "lines of `--log-decisions` were left out, because there were too many",
        remedy: "nothing to do: the counters are complete; `--ports` or `--cgroup` narrow down what is followed and \
                 logged",
    },
    Reason {
        name: "refused_twin",
        cause: "another connection has the very same sequence numbers at both ends, as can happen to equal addresses in two \
                network namespaces",
        remedy: "nothing to do: the next connection has other ones; many of them mean that a program sets its sequence \
                 numbers itself",
    },
    Reason {
        name: "refused_foreign",
        cause: "the sequence numbers of the accepted end fit those of a connecting one, but the packet that established it \
                came from elsewhere: something relays the connection, or has forged it",
        remedy: "nothing to do: what is between the ends stays between them",
    },
    Reason {
        name: "tcp_only_user",
        cause: "the two ends belong to two users, and `--same-user` is given",
        remedy: "run both programs as one user, or do without `--same-user` if they trust each other",
    },
    Reason {
        name: "tcp_only_cgroup",
        cause: "the two ends are in two cgroups, and `--same-cgroup` is given",
        remedy: "run both programs in one cgroup, or do without `--same-cgroup` if they trust each other",
    },
    Reason {
        name: "messages_refresh",
        cause: "every 10 seconds a message goes through TCP, so that what is between the ends, such as address translation, \
                does not take the connection for an idle one",
        remedy: "nothing to do: the next one is redirected again",
    },
    Reason {
        name: "adopted",
        cause: "a connection was followed only after it had been established: it is older than sockredir, or its program \
                has made it non-blocking later",
        remedy: "nothing to do",
    },
    Reason {
        name: "adopt_namespace",
        cause: "the connection was established before it could be followed, in another network namespace that \
                sockredir may not enter, or between two",
        remedy: "grant CAP_SYS_ADMIN and CAP_SYS_PTRACE; between two, connect again",
    },
    Reason {
        name: "adopt_closing",
        cause: "the connection was established before it could be followed, and is closing or half-closed",
        remedy: "nothing to do",
    },
    Reason {
        name: "adopt_waited",
        cause: "the connection was established before it could be followed, and a thread sleeps in a call on it, which \
                redirected data would not wake, or has begun one and waits for the socket or a processor, or its process \
                cannot be seen",
        remedy: "nothing to do: it is tried again when that thread has what it waits for; a program that waits in a \
                 blocking call most of the time stays on TCP, as do those of other PID namespaces, unless sockredir runs \
                 in that of the host",
    },
    Reason {
        name: "adopt_unread",
        cause: "the connection was established before it could be followed, and something was unread when it was looked \
                at, which its program may be about to read from TCP",
        remedy: "nothing to do: it is tried again; a connection whose reader is always behind stays on TCP",
    },
    Reason {
        name: "adopt_again",
        cause: "the connection was followed and has gone back to TCP, and may not come back yet: after 8 seconds, and \
                twice as long each time",
        remedy: "nothing to do: the `tcp_only_` and `drain_` counters say why it went",
    },
    Reason {
        name: "adopt_unpaired",
        cause: "the connection was established before it could be followed, and its other end may not be, or cannot be \
                found: addresses that are translated do not tell, and neither do sockets that were restored",
        remedy: "let `--cgroup` cover both programs, and see the reason of the other end; connect again",
    },
    Reason {
        name: "resets_unread",
        cause: "the receiver had shut down its sending side and has then closed without reading all that had arrived, so its \
                sender was told by a reset, as on TCP",
        remedy: "nothing to do: a server that refuses an upload does so",
    },
    Reason {
        name: "refused_unknown_program",
        cause: "the program is not known yet to read with `recv` only and, by default, not to block, so it is watched on plain \
                TCP first: `splice` does not see redirected data",
        remedy: "nothing to do: its next connections are accelerated when it was seen to read 512 times, or 128 KiB from one \
                 connection; for a program whose files call no `splice` when it has sent one. `--trust-programs` spares that",
    },
    Reason {
        name: "refused_splices",
        cause: "the program was seen to read from a TCP socket with `splice`, or without copies, which does not see redirected \
                data",
        remedy: "nothing to do: it works on TCP; it is looked at anew when its file changes",
    },
    Reason {
        name: "tcp_only_unknown_program",
        cause: "the accepting program is not known yet to read with `recv` only, so it is watched on plain TCP first",
        remedy: "as for `refused_unknown_program`, which is counted with it",
    },
    Reason {
        name: "tcp_only_splices",
        cause: "before the connection was decided a program that was known to use `recv` has spliced from it",
        remedy: "nothing to do: its later connections stay on TCP",
    },
    Reason {
        name: "drain_splices",
        cause: "a program that was known to use `recv` has spliced from the connection while it was accelerated",
        remedy: "nothing to do: its later connections stay on TCP",
    },
    Reason {
        name: "resets_stranded",
        cause: "a program that was known to use `recv` has spliced from an accelerated connection whose data was where no \
                `splice` sees it, so the connection was reset rather than left to hang",
        remedy: "nothing to do: its later connections stay on TCP; keep a program whose nature changes so late off with \
                 `--exclude-programs`",
    },
    Reason {
        name: "programs_known",
        cause: "a program became known to read with `recv` only",
        remedy: "nothing to do: its later connections are accelerated",
    },
    Reason {
        name: "events_dropped",
        cause: "there were too many at once of connections to reset and of new programs: such a connection may hang for a minute \
                or two, and such a program stays unknown for longer",
        remedy: "report it: there is room for 1,300 in 20 ms",
    },
    Reason {
        name: "tcp_only_sendfile",
        cause: "before the connection was decided a program sent a file with `sendfile`, whose pages TCP sends without a copy",
        remedy: "nothing to do: TCP is the faster way for it; files of 4 to 32 KiB gain if the program reads and writes them \
                 (nginx: `sendfile off`)",
    },
    Reason {
        name: "drain_sendfile",
        cause: "a program sent a file with `sendfile` on an accelerated connection, and TCP sends its pages without a copy",
        remedy: "nothing to do: TCP is the faster way for it; files of 4 to 32 KiB gain if the program reads and writes them \
                 (nginx: `sendfile off`)",
    },
    Reason {
        name: NOT_FOLLOWED,
        cause: "the connection was established before sockredir started, or by a socket that was blocking then and is \
                not now, or while as many as `--max-flows` allows were followed, and is not adopted yet",
        remedy: "nothing to do for a moment, unless `--adopt` is `off` or `start`, or `doctor` notes `scans`; `sockredir adopt` \
                 has it tried now; raise `--max-flows` if `refused_full` is above 0",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The enumerators of `enum counter`, in order.
    fn counters() -> Vec<String> {
        let header = include_str!("../bpf/sockredir.h");
        let (_, list) = header.split_once("enum counter {").unwrap();
        let (list, _) = list.split_once("\n};").unwrap();
        let words = list.lines().filter_map(|line| line.trim().strip_suffix(','));
        let names = words.filter_map(|word| word.strip_prefix("COUNTER_"));
        names.map(str::to_lowercase).collect()
    }

    #[test]
    fn every_counter_has_its_reason_and_no_other_name_has_but_that_of_flows_without_a_record() {
        let names: Vec<_> = REASONS.iter().map(|reason| reason.name).collect();
        let (last, counted) = names.split_last().unwrap();
        assert_eq!(counted, counters());
        assert_eq!(*last, NOT_FOLLOWED);
    }

    #[test]
    fn a_reason_is_found_by_its_name() {
        assert_eq!(
            reason("refused_port").unwrap().remedy,
            "change `--ports` or `--exclude-ports`"
        );
        assert_eq!(reason("refused"), None);
    }

    /// They follow a colon on a line, or fill a table cell.
    #[test]
    fn sentences_are_single_lines_without_a_full_stop() {
        for text in REASONS.iter().flat_map(|reason| [reason.cause, reason.remedy]) {
            assert!(!text.is_empty() && !text.ends_with('.'), "{text}");
            assert!(
                !text.contains(['\n', '|', '\t']) && !text.contains("  "),
                "{text}"
            );
        }
    }
}
