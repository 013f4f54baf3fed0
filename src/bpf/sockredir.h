/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The interface between kernel and user space: every shared type and every counter. Fixed widths, explicit
 * padding, no pointers. User space takes types and counter names from the object's BTF, so a name is written
 * here only.
 */
#ifndef SOCKREDIR_H
#define SOCKREDIR_H

/* User space compares and stores these types as bytes, so a hole in one is an error. */
#pragma clang diagnostic push
#pragma clang diagnostic error "-Wpadded"

/* The key of the record that both ends share: the two numbers of their keys, sorted. */
struct flow_key {
	__u32 low;
	__u32 high;
};

/* An executable file; one that was replaced or written is another file. */
struct file_key {
	__u64 inode;
	/* ctime, which cannot be set back as mtime can. Nanoseconds since 1970. */
	__u64 changed;
	__u32 device;
	__u32 pad;
};

/* A program: a file and, as interpreters run many, a hash of the arguments up to the first non-option. */
struct program_key {
	struct file_key file;
	__u64 arguments;
};

/* Whether a program's sockets block. */
enum nature {
	NATURE_UNKNOWN,
	NATURE_NONBLOCKING,
	NATURE_BLOCKING,
};

/* Ports that a program is remembered for; at each further one it has to show anew whether it blocks. */
#define PROGRAM_PORTS 8

/* What a program was seen to do. What keeps its sockets out of the map lasts while the file is the same. */
struct program {
	/* As in /proc/PID/comm. */
	char name[16];
	/* It has read a TCP socket around recv; it has read enough through recv. */
	__u32 splices;
	__u32 receives;
	/* Listed in --trust-programs. */
	__u32 trusted;
	/* How often it was seen to have read without a splice. */
	__u32 reads;
	/* Nature of the sockets it accepts, and of those it connects: blocking once any was. Each service is
	 * then judged on its own.
	 */
	enum nature accepts;
	enum nature connects;
	/* How many of its accepted sockets did not block. */
	__u32 accepted;
	/* The ports of these, in host order, and their number. */
	__u32 ports_end;
	__u16 ports[PROGRAM_PORTS];
};

/* Whether a program's files call splice, by struct file_key. Written by user space. */
enum image {
	IMAGE_UNKNOWN,
	/* None of its mapped files calls splice. */
	IMAGE_WITHOUT_SPLICE,
	IMAGE_WITH_SPLICE,
};

/* Addresses and namespace of a socket. IPv4 is stored as IPv4-mapped IPv6, ports in host byte order. */
struct endpoints {
	__u64 netns;
	__u32 local[4];
	__u32 remote[4];
	__u32 local_port;
	__u32 remote_port;
};

/* One decision, for --log-decisions: its counter and one end of the flow. */
struct decision {
	struct endpoints endpoints;
	/* CLOCK_MONOTONIC, nanoseconds. */
	__u64 time;
	__u32 reason;
	__u32 pad;
};

/* A program by its process name, as in /proc/PID/comm. */
struct name {
	char name[16];
};

enum said {
	SAID_EXCLUDED,
	SAID_TRUSTED,
};

/* States of a flow. OBSERVE → ADMITTED → DRAIN → TCP_ONLY, or OBSERVE → TCP_ONLY; never back. */
enum flow_state {
	FLOW_OBSERVE,
	FLOW_ADMITTED,
	FLOW_DRAIN,
	FLOW_TCP_ONLY,
	FLOW_STATES,
};

/* Totals over all ends in the socket map. */
struct tally {
	/* Unread bytes, and the number of ends that have any. */
	__u64 unread_bytes;
	__u32 unread_ends;
	__u32 ends;
	/* Flows by enum flow_state. */
	__u32 flows[FLOW_STATES];
};

/*
 * One counter per reason; its name outside this file is the lower case of what follows COUNTER_. Ends and
 * flows first, then messages, then later additions. Every message is counted exactly once under messages_*.
 */
enum counter {
	/* Ends put into the socket map; each flow has two. */
	COUNTER_ENDS_INSERTED,
	/* Flows admitted as request/response, and as bulk. */
	COUNTER_ADMITTED_REQUEST_RESPONSE,
	COUNTER_ADMITTED_BULK,
	/* Not inserted: the connecting program uses a blocking socket. */
	COUNTER_REFUSED_BLOCKING,
	/* Not inserted: the accepting program uses blocking sockets, or has not yet shown what its accepted
	 * sockets are.
	 */
	COUNTER_REFUSED_BLOCKING_SERVER,
	COUNTER_REFUSED_UNKNOWN_SERVER,
	/* Not inserted: this client's connections to this service turned blocking after they were
	 * established, or were given a ULP such as kTLS.
	 */
	COUNTER_REFUSED_TURNS_BLOCKING,
	COUNTER_REFUSED_ULP,
	/* Not inserted (--scope loopback): the route is not over loopback, or leads to another namespace. */
	COUNTER_REFUSED_NOT_LOCAL,
	/* Not inserted: neither port is in --ports, or one is in --exclude-ports. */
	COUNTER_REFUSED_PORT,
	/* Not inserted: a program at either end is in --exclude-programs. */
	COUNTER_REFUSED_PROGRAM,
	/* Not inserted: a program at either end has an io_uring. */
	COUNTER_REFUSED_IO_URING,
	/* Not inserted: recent flows to this service ended before redirection paid. */
	COUNTER_REFUSED_SERVICE,
	/* Not inserted: the socket uses what redirected data cannot honour (ULP, zero-copy, low-water mark,
	 * peek offset, timestamps, inline urgent data, repair), or belongs to the kernel, MPTCP or SMC.
	 */
	COUNTER_REFUSED_SPECIAL,
	/* Not inserted: --max-flows is reached, or there is no memory. */
	COUNTER_REFUSED_FULL,
	/* Not inserted: the socket is already in a socket map. */
	COUNTER_REFUSED_TAKEN,
	/* Not inserted: the tool is stopping, or has handed over to another instance. */
	COUNTER_REFUSED_STOPPING,
	/* Accepted connections whose connecting end was not inserted, or is not on this host. */
	COUNTER_REFUSED_UNPAIRED,
	/* Flows that went from observation to TCP: a program turned its socket to blocking, or accepts
	 * blocking sockets;
	 */
	COUNTER_TCP_ONLY_BLOCKING,
	/* a program set an option that redirected data cannot honour, or has an io_uring; */
	COUNTER_TCP_ONLY_SPECIAL,
	/* the accepting program is excluded by name, splices, or has an io_uring; */
	COUNTER_TCP_ONLY_PROGRAM,
	/* the accepting end is not covered by this tool or is gone; */
	COUNTER_TCP_ONLY_NO_MATE,
	/* neither request/response nor bulk: redirecting would be slower; */
	COUNTER_TCP_ONLY_PATTERN,
	/* closed, or half closed by a blocking program, before it was decided; */
	COUNTER_TCP_ONLY_CLOSED,
	/* the tool is stopping. */
	COUNTER_TCP_ONLY_STOPPING,
	/* Admitted flows that were sent back to TCP: a stream of small messages, */
	COUNTER_DRAIN_ONE_WAY,
	/* fewer than half of the messages could be redirected, */
	COUNTER_DRAIN_NO_GAIN,
	/* a program turned its socket to blocking, */
	COUNTER_DRAIN_BLOCKING,
	/* a blocking program has shut down its sending side (--admit any), */
	COUNTER_DRAIN_HALF_CLOSED,
	/* a program set an option that redirected data cannot honour, or has an io_uring; */
	COUNTER_DRAIN_SPECIAL,
	/* the tool is stopping. */
	COUNTER_DRAIN_STOPPING,
	/* Drained flows whose two ends proved that no redirect is under way. */
	COUNTER_DRAIN_DONE,
	/* Ends that left the socket map and are plain TCP again, */
	COUNTER_ENDS_LEFT,
	/* and attempts put off: data unread, a thread inside the socket, a thread waiting for data. */
	COUNTER_LEAVE_UNREAD,
	COUNTER_LEAVE_BUSY,
	COUNTER_LEAVE_WAITED,
	/* Bytes that TCP delivered twice and that were cut off, and segments that could not be cut. */
	COUNTER_BYTES_REPEATED,
	COUNTER_REPEATED_UNCUT,
	/* Messages and bytes that were redirected. */
	COUNTER_MESSAGES_REDIRECTED,
	COUNTER_BYTES_REDIRECTED,
	/* Bytes that mapped sockets sent through TCP, and their messages by reason: the flow is observed, */
	COUNTER_BYTES_TCP,
	COUNTER_MESSAGES_OBSERVED,
	/* decided for TCP, */
	COUNTER_MESSAGES_TCP_ONLY,
	/* or on its way from redirection to TCP; */
	COUNTER_MESSAGES_DRAIN,
	/* the sender has shut down or closed; */
	COUNTER_MESSAGES_CLOSING,
	/* a run of small one-way messages; */
	COUNTER_MESSAGES_ONE_WAY,
	/* the own end is not in the map, or the peer is not; */
	COUNTER_MESSAGES_UNMAPPED,
	COUNTER_MESSAGES_NO_MATE,
	/* the peer has not been accepted yet, or is closing; */
	COUNTER_MESSAGES_NOT_ACCEPTED,
	COUNTER_MESSAGES_MATE_CLOSING,
	/* earlier bytes are still on their way through TCP (law 5); */
	COUNTER_MESSAGES_ORDER,
	/* the receive queue is at its limit of bytes, or of messages (law 6), */
	COUNTER_MESSAGES_LIMIT_BYTES,
	COUNTER_MESSAGES_LIMIT_COUNT,
	/* or is not small while the kernel is short of TCP memory. */
	COUNTER_MESSAGES_MEMORY,
	/* Refused as the one safe answer: the own end was gone while a redirect was in place. */
	COUNTER_MESSAGES_DROPPED,
	/* Decisions that --log-decisions dropped as there were too many. */
	COUNTER_DECISIONS_DROPPED,
	/* Not inserted: another connection has the same sequence numbers at both ends, */
	COUNTER_REFUSED_TWIN,
	/* or they match, but the accepted end was established by a packet of another socket (law 4). */
	COUNTER_REFUSED_FOREIGN,
	/* Flows under observation that stay on TCP: their ends belong to two users (--same-user), or are in
	 * two cgroups (--same-cgroup).
	 */
	COUNTER_TCP_ONLY_USER,
	COUNTER_TCP_ONLY_CGROUP,
	/* Messages sent through TCP now and then so that the connection does not look idle (law 9). */
	COUNTER_MESSAGES_REFRESH,
	/* Established connections that were adopted, with both ends put into the socket map, */
	COUNTER_ADOPTED,
	/* and looks that found an end not adoptable: in another network namespace, closing, */
	COUNTER_ADOPT_NAMESPACE,
	COUNTER_ADOPT_CLOSING,
	/* with a thread in recv or send or waiting for the lock, with unread data, or back too early; */
	COUNTER_ADOPT_WAITED,
	COUNTER_ADOPT_UNREAD,
	COUNTER_ADOPT_AGAIN,
	/* or with a peer that is not adoptable, or not found by its addresses. */
	COUNTER_ADOPT_UNPAIRED,
	/* Connections reset to tell the sender that its data will never be read (law 10). */
	COUNTER_RESETS_UNREAD,
	/* Not inserted: its program is watched until it is known to read by recv only and, by default, not to
	 * block.
	 */
	COUNTER_REFUSED_UNKNOWN_PROGRAM,
	/* Not inserted: its program reads sockets by splice, or otherwise around recv. */
	COUNTER_REFUSED_SPLICES,
	/* Flows that went from observation to TCP: the accepting program is not known yet; */
	COUNTER_TCP_ONLY_UNKNOWN_PROGRAM,
	/* a program that was known to use recv spliced; */
	COUNTER_TCP_ONLY_SPLICES,
	/* and admitted flows of such a program. */
	COUNTER_DRAIN_SPLICES,
	/* Connections of such a program that were reset: their unread data was out of reach of splice. */
	COUNTER_RESETS_STRANDED,
	/* Programs that became known, so that established connections of theirs may be adopted. */
	COUNTER_PROGRAMS_KNOWN,
	/* Events that were dropped as there were too many. */
	COUNTER_EVENTS_DROPPED,
	/* Flows whose sender uses sendfile, which TCP does without a copy: under observation, and admitted ones. */
	COUNTER_TCP_ONLY_SENDFILE,
	COUNTER_DRAIN_SENDFILE,
	COUNTERS,
};

/* What the daemon has to do at once. */
enum event_kind {
	/* An unknown program: look at its files. */
	EVENT_PROGRAM,
	/* A program was seen to splice for the first time. */
	EVENT_SPLICES,
	/* Reset a connection, at both ends. */
	EVENT_RESET,
};

/* A message to the daemon about a program or about a connection. */
struct event {
	enum event_kind kind;
	enum counter reason;
	struct program_key program;
	char name[16];
	struct endpoints endpoints;
	/* The connection as its peer sees it; addresses may be translated. */
	struct endpoints peer;
	__u32 pid;
	/* Inode numbers of the network namespaces; 0 for an unknown peer. */
	__u32 netns;
	__u32 peer_netns;
	/* The next sequence number of this end, and the one its peer expects or may expect: data under way
	 * lies between them.
	 */
	__u32 seq;
	__u32 heard;
	/* The next one it expects. */
	__u32 ack;
	/* SO_MARK, and the index of the interface the socket is bound to, or 0. */
	__u32 mark;
	__u32 interface;
};

/* Reported for a socket that would be taken now, but connected before the tool started, while it blocked, or
 * at --max-flows, and was not adopted by a scan yet. Never counted.
 */
#define NOT_FOLLOWED COUNTERS

/* In place of a counter: no objection, or nothing has happened yet. */
#define NO_REASON COUNTERS

/* A point in a direction's history: what had been sent by then. */
struct checkpoint {
	__u64 bytes;
	__u64 messages;
};

/* One TCP socket of the covered cgroups, written once for each process that holds it. */
struct socket_info {
	struct endpoints endpoints;
	__u64 inode;
	/* Nanoseconds since establishment or adoption; 0 if never followed. */
	__u64 age;
	/* Payload bytes sent through TCP since the beginning. */
	__u64 tcp_bytes;
	struct checkpoint redirected;
	struct checkpoint passed;
	/* The record's key, the same at both ends; 0 if never followed. */
	struct flow_key flow;
	__u32 pid;
	__u32 uid;
	char name[16];
	/* The TCP state: TCP_ESTABLISHED etc. */
	__u32 tcp_state;
	enum flow_state state;
	/* The counter that says why it is in that state, or NOT_FOLLOWED. */
	__u32 reason;
	/* The counter of its last message; NO_REASON if there was none. */
	__u32 last_message;
	__u32 accepted;
	__u32 blocking;
	__u32 queue;
	__u32 queue_peak;
};

#pragma clang diagnostic pop

#endif
