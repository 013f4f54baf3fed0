/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The contract between the kernel side and the user side: every type that both read, and every counter.
 * Fixed widths, explicit padding, no pointers. The user side takes types and counter names from the object's
 * BTF, so a name is written here and nowhere else.
 */
#ifndef SOCKREDIR_H
#define SOCKREDIR_H

/* User space compares and stores these types by their bytes: one with a hole does not compile. */
#pragma clang diagnostic push
#pragma clang diagnostic error "-Wpadded"

/* The key of one end in the socket map: its own next sequence number and the one it expects, at establishment.
 * The peer's key is the mirror image (law 4).
 */
struct end_key {
	__u32 seq;
	__u32 ack;
};

/* The key of the record that both ends share: the same two numbers, sorted. */
struct flow_key {
	__u32 low;
	__u32 high;
};

/* Who is being connected to, and from which cgroup, for the memory of how the last flows ended. IPv4 is held as
 * IPv4-mapped IPv6.
 */
struct service_key {
	__u64 netns;
	__u64 cgroup;
	__u32 address[4];
	__u32 port;
	__u32 pad;
};

struct service {
	/* From 0 to 64: below, only a sample of the connections is inserted; above, flows are decided early. */
	__s32 score;
	__u32 skipped;
};

/* Who accepts: a port of a network namespace, at one address or (all zeros) at all that a listener has not for itself. */
struct listener_key {
	__u64 netns;
	__u32 port;
	/* Of the socket: one for IPv6 may have the address of an IPv4 client. */
	__u32 family;
	__u32 address[4];
};

/* A file that is executed: one that was replaced or written is another one. */
struct file_key {
	__u64 inode;
	/* When it was last changed, which cannot be set back as the time of writing can. Nanoseconds since 1970. */
	__u64 changed;
	__u32 device;
	__u32 pad;
};

/* A program: a file and, as an interpreter executes many programs, a hash of the arguments up to the first that is no option. */
struct program_key {
	struct file_key file;
	__u64 arguments;
};

/* What a program's sockets are, as far as is known. */
enum nature {
	NATURE_UNKNOWN,
	NATURE_NONBLOCKING,
	NATURE_BLOCKING,
};

/* A program that accepts at more ports has to show at each further one whether it blocks. */
#define PROGRAM_PORTS 8

/* What a program was seen to do. What keeps its sockets out of the map is never forgotten while the file is the same. */
struct program {
	/* As in /proc/PID/comm. */
	char name[16];
	/* It has read from a TCP socket by another way than recv, and it has read enough by recv. */
	__u32 splices;
	__u32 receives;
	/* It is in --trust-programs. */
	__u32 trusted;
	/* How often it was seen to have read something, without a splice. */
	__u32 reads;
	/* What the sockets that it accepts are, and those that it connects: blocking if one of them was, and then each service has to
	 * show it of itself.
	 */
	enum nature accepts;
	enum nature connects;
	/* How many that it has accepted did not block. */
	__u32 accepted;
	/* At which ports, in the order of the host; 0 where there are no more, from this one on. */
	__u32 ports_end;
	__u16 ports[PROGRAM_PORTS];
};

/* What the files of a program say, by struct file_key. Written by user space. */
enum image {
	IMAGE_UNKNOWN,
	/* Nothing that it has mapped calls splice. */
	IMAGE_WITHOUT_SPLICE,
	IMAGE_WITH_SPLICE,
};

struct listener {
	/* The address of the listening socket; it may have closed meanwhile. */
	__u64 sock;
	enum nature accepts;
	/* The refused_* counter of all connections to this program, or 0. */
	__u32 exclusion;
	/* Who listens, or who has had the last accepted socket that sent. */
	struct program_key program;
	/* Sockets of several programs listen here, so what one of them accepts says nothing of the next. */
	__u32 shared;
	__u32 pad;
};

/* Where a socket is and what it is connected to. IPv4 is held as IPv4-mapped IPv6, ports in the order of the host. */
struct endpoints {
	__u64 netns;
	__u32 local[4];
	__u32 remote[4];
	__u32 local_port;
	__u32 remote_port;
};

/* One decision, for --log-decisions: its counter, and an end of the flow. */
struct decision {
	struct endpoints endpoints;
	/* CLOCK_MONOTONIC, nanoseconds. */
	__u64 time;
	__u32 reason;
	__u32 pad;
};

/* Few connections are held by more than one process, and those of more than this are not adopted. */
#define CANDIDATE_HOLDERS 4

/* An established connection's end that may be adopted, known by its endpoints. */
struct candidate {
	/* The numbers of its establishment as far as the socket tells: the first one of a connecting end is before its SYN. */
	struct end_key numbers;
	/* CLOCK_MONOTONIC, nanoseconds: since when every scan has found that it may be. */
	__u64 since;
	/* The address of its socket, and its cgroup for the memory of services. */
	__u64 sock;
	__u64 cgroup;
	/* The last scan that has found it so, and whether it had something to read then. */
	__u32 scan;
	__u32 unread;
	/* The processes that hold it, as far as they are known; 0 where there are no more. */
	__u32 holders[CANDIDATE_HOLDERS];
	/* The program of these, or the one of several that nothing is known of. */
	struct program_key program;
};

/* A program by the name of its process, as in /proc/PID/comm, and what the user says of it. */
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

/* What the ends in the socket map hold, all of them together. */
struct tally {
	/* What waits to be read, in bytes, and in how many ends. */
	__u64 unread_bytes;
	__u32 unread_ends;
	__u32 ends;
	/* Flows by enum flow_state. */
	__u32 flows[FLOW_STATES];
};

/* Layout of struct flow's word. One word, so that every transition is one compare-and-swap. */
/* No side yet. */
#define FLOW_SIDES 2
#define FLOW_END(side) (1ull << (side))
#define FLOW_ENDS (FLOW_END(0) | FLOW_END(1))
#define FLOW_DONE(side) (4ull << (side))
#define FLOW_BOTH_DONE (FLOW_DONE(0) | FLOW_DONE(1))
#define FLOW_STATE_SHIFT 4
#define FLOW_STATE_MASK (3ull << FLOW_STATE_SHIFT)
#define FLOW_TAG_SHIFT 32

/* The record that both ends share. It lives as long as one of its ends is registered in the word. */
struct flow {
	/* Bits 0-1: ends that are registered; 2-3: ends that have drained; 4-5: enum flow_state; 32-63: tag, which
	 * tells this record from another one that later uses the same memory.
	 */
	__u64 word;
	struct service_key service;
	/* The program of the connecting end. */
	struct program_key client;
	/* The side that sent last, to count turns. */
	__u32 last_side;
	/* How many messages an end observes before it decides. */
	__u32 observe;
	/* Redirection has paid for the insertion: the service was credited. */
	__u32 worth;
	/* The counter of the last decision on this flow; 0 while it is observed. */
	__u32 reason;
	/* By side: the address of the socket, good while that end is registered in the word. */
	__u64 sock[2];
	/* By side: the TCP sequence number that the receive queue of that end goes on with. */
	__u32 queue_next[2];
	/* What the kernel marks the connecting socket's packets with, at random (law 4). */
	__u32 txhash;
	/* Something between the ends may keep an account of the connection, and forget it when it looks idle (law 9). */
	__u32 tracked;
};

/*
 * One counter per reason. In user space and in the documents a name is the lower case of what follows COUNTER_.
 * Ends and flows first, then messages: every message is counted exactly once under messages_*.
 */
enum counter {
	/* Ends put into the socket map; each flow has two. */
	COUNTER_ENDS_INSERTED,
	/* Flows admitted as request/response, and as bulk. */
	COUNTER_ADMITTED_REQUEST_RESPONSE,
	COUNTER_ADMITTED_BULK,
	/* Not inserted: the connecting program uses a blocking socket. */
	COUNTER_REFUSED_BLOCKING,
	/* Not inserted: the accepting program uses blocking sockets, or its listener does and it has not yet shown what
	 * its accepted sockets are.
	 */
	COUNTER_REFUSED_BLOCKING_SERVER,
	COUNTER_REFUSED_UNKNOWN_SERVER,
	/* Not inserted: connections of this client to this service were turned to blocking after they were established, or
	 * were given a ULP such as kTLS.
	 */
	COUNTER_REFUSED_TURNS_BLOCKING,
	COUNTER_REFUSED_ULP,
	/* Not inserted, with --scope loopback: the route does not go over loopback, or leads to another network namespace. */
	COUNTER_REFUSED_NOT_LOCAL,
	/* Not inserted: neither port is in --ports, or one is in --exclude-ports. */
	COUNTER_REFUSED_PORT,
	/* Not inserted: a program at one of its ends is in --exclude-programs. */
	COUNTER_REFUSED_PROGRAM,
	/* Not inserted: a program at one of its ends has an io_uring. */
	COUNTER_REFUSED_IO_URING,
	/* Not inserted: recent flows to this service ended before redirection paid. */
	COUNTER_REFUSED_SERVICE,
	/* Not inserted: the socket uses what redirected data cannot honour (ULP, zero-copy, low-water mark, peek
	 * offset, timestamps, inline urgent data, repair), belongs to the kernel, to MPTCP or to SMC.
	 */
	COUNTER_REFUSED_SPECIAL,
	/* Not inserted: --max-flows is reached, or there is no memory. */
	COUNTER_REFUSED_FULL,
	/* Not inserted: the socket is in somebody's socket map already. */
	COUNTER_REFUSED_TAKEN,
	/* Not inserted: the tool is stopping, or has handed over to another instance. */
	COUNTER_REFUSED_STOPPING,
	/* Accepted connections whose connecting end was not inserted, or is not on this host. */
	COUNTER_REFUSED_UNPAIRED,
	/* Flows that went from observation to TCP, by reason: a program turned its socket to blocking, or accepts with
	 * blocking sockets;
	 */
	COUNTER_TCP_ONLY_BLOCKING,
	/* a program set an option that redirected data cannot honour, or has an io_uring; */
	COUNTER_TCP_ONLY_SPECIAL,
	/* the accepting program is kept off by its name, splices, or has an io_uring; */
	COUNTER_TCP_ONLY_PROGRAM,
	/* the accepting end is not covered by this tool or has gone; */
	COUNTER_TCP_ONLY_NO_MATE,
	/* neither request/response nor bulk: redirecting would be slower; */
	COUNTER_TCP_ONLY_PATTERN,
	/* closed, or half closed by a blocking program, before it was decided; */
	COUNTER_TCP_ONLY_CLOSED,
	/* the tool is stopping. */
	COUNTER_TCP_ONLY_STOPPING,
	/* Admitted flows that were sent back to TCP, by reason: a stream of small messages, */
	COUNTER_DRAIN_ONE_WAY,
	/* less than half of the messages could be redirected, */
	COUNTER_DRAIN_NO_GAIN,
	/* a program turned its socket to blocking, */
	COUNTER_DRAIN_BLOCKING,
	/* a blocking program has shut down its sending side (--admit any), */
	COUNTER_DRAIN_HALF_CLOSED,
	/* or set an option that redirected data cannot honour, or has an io_uring; */
	COUNTER_DRAIN_SPECIAL,
	/* the tool is stopping. */
	COUNTER_DRAIN_STOPPING,
	/* Drained flows whose two ends proved that no redirect is under way. */
	COUNTER_DRAIN_DONE,
	/* Ends that left the socket map and are plain TCP again, */
	COUNTER_ENDS_LEFT,
	/* and attempts put off: unread data, a thread inside the socket, a thread waiting for data. */
	COUNTER_LEAVE_UNREAD,
	COUNTER_LEAVE_BUSY,
	COUNTER_LEAVE_WAITED,
	/* Bytes that TCP delivered a second time and that were cut off, and segments that could not be cut. */
	COUNTER_BYTES_REPEATED,
	COUNTER_REPEATED_UNCUT,
	/* Messages and bytes that went from send queue to receive queue. */
	COUNTER_MESSAGES_REDIRECTED,
	COUNTER_BYTES_REDIRECTED,
	/* Bytes of mapped sockets that went through TCP, and their messages by reason: the flow is observed, */
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
	/* the own end is not in the map, the peer is not, */
	COUNTER_MESSAGES_UNMAPPED,
	COUNTER_MESSAGES_NO_MATE,
	/* has not been accepted yet, or is closing; */
	COUNTER_MESSAGES_NOT_ACCEPTED,
	COUNTER_MESSAGES_MATE_CLOSING,
	/* earlier bytes are still on their way through TCP (law 5); */
	COUNTER_MESSAGES_ORDER,
	/* the receive queue holds its share of bytes, or of messages (law 6), */
	COUNTER_MESSAGES_LIMIT_BYTES,
	COUNTER_MESSAGES_LIMIT_COUNT,
	/* or something, while the kernel is short of memory for TCP. */
	COUNTER_MESSAGES_MEMORY,
	/* A verdict that found its own end gone while a redirect was in place: refused, as the one safe answer. */
	COUNTER_MESSAGES_DROPPED,
	/* Decisions that --log-decisions left out: there were too many. */
	COUNTER_DECISIONS_DROPPED,
	/* Not inserted: another connection has the same sequence numbers at both ends, */
	COUNTER_REFUSED_TWIN,
	/* or they fit, but the packet that established the accepted end was not sent by the connecting one (law 4). */
	COUNTER_REFUSED_FOREIGN,
	/* Flows under observation that stay on TCP: their ends belong to two users (--same-user), or are in two cgroups
	 * (--same-cgroup).
	 */
	COUNTER_TCP_ONLY_USER,
	COUNTER_TCP_ONLY_CGROUP,
	/* A message that goes through TCP now and then, so that the connection does not look idle on its way (law 9). */
	COUNTER_MESSAGES_REFRESH,
	/* Established connections that were adopted: both ends were put into the socket map, */
	COUNTER_ADOPTED,
	/* and looks at an end that may not be now: it is in another network namespace than the tool, closes, */
	COUNTER_ADOPT_NAMESPACE,
	COUNTER_ADOPT_CLOSING,
	/* a thread sleeps in recv or send or waits for the lock, something is unread, or it has left the map not long ago; */
	COUNTER_ADOPT_WAITED,
	COUNTER_ADOPT_UNREAD,
	COUNTER_ADOPT_AGAIN,
	/* or the other end may not be, or cannot be found by its addresses. */
	COUNTER_ADOPT_UNPAIRED,
	/* Connections whose sender was told by a reset that what it has sent will never be read (law 10). */
	COUNTER_RESETS_UNREAD,
	/* Not inserted: its program is not known yet to read with recv only and, by default, not to block; it is watched until it
	 * is.
	 */
	COUNTER_REFUSED_UNKNOWN_PROGRAM,
	/* Not inserted: its program reads from sockets with splice, or with another way around recv. */
	COUNTER_REFUSED_SPLICES,
	/* Flows that go back to TCP, under observation: the accepting program is not known yet; */
	COUNTER_TCP_ONLY_UNKNOWN_PROGRAM,
	/* a program that was known to use recv has spliced; */
	COUNTER_TCP_ONLY_SPLICES,
	/* and admitted ones of such a program. */
	COUNTER_DRAIN_SPLICES,
	/* Connections of it that were reset: what it was to read had been moved to where no splice gets it. */
	COUNTER_RESETS_STRANDED,
	/* Programs that became known, so that established connections of theirs may be adopted. */
	COUNTER_PROGRAMS_KNOWN,
	/* Events that the daemon was not told of: there were too many. */
	COUNTER_EVENTS_DROPPED,
	/* Flows whose sender uses sendfile, which TCP does without a copy: under observation, and admitted ones. */
	COUNTER_TCP_ONLY_SENDFILE,
	COUNTER_DRAIN_SENDFILE,
	COUNTERS,
};

/* What the daemon has to do at once. */
enum event_kind {
	/* A program that nothing is known of: look at its files. */
	EVENT_PROGRAM,
	/* A program was seen to splice for the first time. */
	EVENT_SPLICES,
	/* Reset a connection, at both ends. */
	EVENT_RESET,
};

/* What the daemon is told: of a program, or of a socket whose connection it is about. */
struct event {
	enum event_kind kind;
	enum counter reason;
	struct program_key program;
	char name[16];
	struct endpoints endpoints;
	/* The same connection as the other end has it, which addresses may be translated for. */
	struct endpoints peer;
	__u32 pid;
	/* The numbers of the network namespaces; 0 for a peer that is not known. */
	__u32 netns;
	__u32 peer_netns;
	/* The next sequence number of this end, and the one that the other end expects, or may: what is under way is between
	 * them.
	 */
	__u32 seq;
	__u32 heard;
	/* What this end expects. */
	__u32 ack;
	/* SO_MARK, and the number of the interface that the socket is bound to, or 0. */
	__u32 mark;
	__u32 interface;
};

/* Why a socket is not followed that the tool would take now: it was connected before the tool started, by a blocking socket, or
 * while --max-flows was reached, and no scan has adopted it yet. Nothing counts it.
 */
#define NOT_FOLLOWED COUNTERS

/* In the place of a counter: nothing speaks against it, or nothing has happened yet. */
#define NO_REASON COUNTERS

/* How the last message of one direction was sent, as far as its verdict says. */
enum via {
	VIA_TCP,
	VIA_REDIRECT,
};

/* A point in a direction's history: what had been redirected then. */
struct checkpoint {
	__u64 bytes;
	__u64 messages;
};

/* One end of a flow, in the storage of its socket. Written only under that socket's lock. */
struct end {
	struct end_key own;
	struct end_key peer;
	struct flow_key flow;
	__u32 side;
	/* This end was accepted, the peer has connected. */
	__u32 accepted;
	/* The refused_* counter of this connecting program, or 0. */
	__u32 exclusion;
	/* Why the flow is not followed any more, as its counter, or 0. */
	__u32 leave_reason;
	/* Who has connected it or, once it has sent, who has. */
	struct program_key program;
	/* It has sent, and so has shown which program it belongs to, and whether it blocks. */
	__u32 shown;
	/* Up to where its program had read at the last look, and how much by then: while it is watched out of the map. */
	__u32 read_seq;
	__u32 read_bytes;
	/* It is only watched: its connecting end was refused, or is elsewhere. */
	__u32 unpaired;
	/* Its program has spliced while something waited in its queue, and so it is being reset. */
	__u32 stranded;
	/* The key is in the socket map and the record counts this end. */
	__u32 mapped;
	/* The state last seen in the record. */
	__u32 state;
	enum via via;
	/* Why the last message went the way it went, as its messages_* counter. */
	enum counter reason;
	/* The last message that went through TCP was of the bulk size. And TCP_NOTSENT_LOWAT, as set for such ones, or 0. */
	__u32 bulk;
	__u32 unsent;
	/* Messages below the bulk size sent in a row without an answer. */
	__u32 one_way;
	/* Messages of the admitted flow in the present round of gain_messages, and how many of them were redirected. */
	__u32 round;
	__u32 round_redirected;
	/* The first messages: their number, how many answered the peer, their size. */
	__u32 observed;
	__u32 turns;
	__u64 observed_bytes;
	/* Redirected so far, and the two checkpoints that bound what is queued (law 6). */
	struct checkpoint sent;
	/* Through TCP so far, while mapped. */
	struct checkpoint passed;
	struct checkpoint older;
	struct checkpoint newer;
	/* Callback flags of the socket that were not set before this program set them. */
	__u32 callbacks;
	/* Operand of the full barrier: always 0. */
	__u32 fence;
	/* The socket's write_seq when it last redirected: what TCP has sent since moves it. */
	__u32 redirect_seq;
	/* The most that waited in the peer's queue at a redirect. */
	__u32 queue_peak;
	/* It was put into the map by a scan, not when it was established. */
	__u32 adopted;
	/* How often it has left the map, */
	__u32 departures;
	/* and when it last did. CLOCK_MONOTONIC, nanoseconds, as the next two. */
	__u64 left_at;
	/* When it was established, or adopted, and when it last refreshed what is between the ends. */
	__u64 since;
	__u64 refreshed;
};

/* Written by the iterator over open files for each TCP socket of the cgroup, once per process that holds it. */
struct socket_info {
	struct endpoints endpoints;
	__u64 inode;
	/* Nanoseconds since it was established; 0 if it was never followed. */
	__u64 age;
	/* Payload that it has sent through TCP, from the beginning. */
	__u64 tcp_bytes;
	struct checkpoint redirected;
	struct checkpoint passed;
	/* The record's key, the same at both ends; 0 if it was never followed. */
	struct flow_key flow;
	__u32 pid;
	__u32 uid;
	char name[16];
	/* Of TCP: TCP_ESTABLISHED and so on. */
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
