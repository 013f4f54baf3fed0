/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the kernel side keeps of services, listeners, candidates, flows and their ends. User space never reads it. */
#ifndef RECORD_H
#define RECORD_H

#include "sockredir.h"

/* Keys are compared as bytes, so a hole in one is an error. */
#pragma clang diagnostic push
#pragma clang diagnostic error "-Wpadded"

/* The key of one end in the socket map: the next sequence numbers it sends and expects, at establishment. The
 * peer's key is the mirror image (law 4).
 */
struct end_key {
	__u32 seq;
	__u32 ack;
};

/* A service as seen from a client's cgroup, to remember how its recent flows ended. IPv4 is stored as
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
	/* 0 to 64: at 0 only a sample of connections is inserted; at a high score flows decide early. */
	__s32 score;
	__u32 skipped;
};

/* A listening port of a network namespace, at one address or (all zeros) any without its own listener. */
struct listener_key {
	__u64 netns;
	__u32 port;
	/* Family of the socket: an IPv6 one may carry an IPv4 client's address. */
	__u32 family;
	__u32 address[4];
};

struct listener {
	/* Address of the listening socket, which may have closed since. */
	__u64 sock;
	enum nature accepts;
	/* Why all connections to this program are refused (refused_*), or 0. */
	__u32 exclusion;
	/* The program that listens, or that owned the last accepted socket to send. */
	struct program_key program;
	/* Several programs listen here, so what one accepts says nothing about the next. */
	__u32 shared;
	__u32 pad;
};

/* Connections held by more processes than this are not adopted; few have several. */
#define CANDIDATE_HOLDERS 4

/* An established connection's end that may be adopted, keyed by its endpoints. */
struct candidate {
	/* Its numbers at establishment, as the socket tells them: a connecting end's seq is before its SYN.
	 */
	struct end_key numbers;
	/* Since when every scan has found it adoptable. CLOCK_MONOTONIC, nanoseconds. */
	__u64 since;
	/* Address of its socket, and its cgroup for the service memory. */
	__u64 sock;
	__u64 cgroup;
	/* The last scan that found it adoptable, and whether data was unread then. */
	__u32 scan;
	__u32 unread;
	/* The processes known to hold it; 0 ends the list. */
	__u32 holders[CANDIDATE_HOLDERS];
	/* Their program or, of several, one that is refused. */
	struct program_key program;
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
	/* Bits 0-1: registered ends; 2-3: drained ends; 4-5: enum flow_state; 32-63: tag, which tells this
	 * record from a later one in the same memory.
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
	/* By side: address of the socket, valid while that end is registered in the word. */
	__u64 sock[2];
	/* By side: the TCP sequence number at which that end's receive queue continues. */
	__u32 queue_next[2];
	/* The random mark of the connecting socket's packets (law 4). */
	__u32 txhash;
	/* Something between the ends may track the connection and forget it when it looks idle (law 9). */
	__u32 tracked;
};

/* How a direction's last message was sent, according to its verdict. */
enum via {
	VIA_TCP,
	VIA_REDIRECT,
};

/* One end of a flow, in the storage of its socket. Written only under that socket's lock. */
struct end {
	struct end_key own;
	struct end_key peer;
	struct flow_key flow;
	__u32 side;
	/* This end was accepted; the peer connected. */
	__u32 accepted;
	/* Why the connecting program is refused (refused_*), or 0. */
	__u32 exclusion;
	/* Why the flow is no longer followed, as a counter, or 0. */
	__u32 leave_reason;
	/* The program that connected or listens; once the end has sent, the sender's. */
	struct program_key program;
	/* It has sent, which shows its program and whether that blocks. */
	__u32 shown;
	/* While watched out of the map: how far its program has read, and how many bytes were seen. */
	__u32 read_seq;
	__u32 read_bytes;
	/* Only watched: its connecting end was refused, or is elsewhere. */
	__u32 unpaired;
	/* Being reset, as its program spliced while data was in its queue. */
	__u32 stranded;
	/* The key is in the socket map and the record counts this end. */
	__u32 mapped;
	/* The state last seen in the record. */
	__u32 state;
	enum via via;
	/* Why the last message went the way it did (messages_*). */
	enum counter reason;
	/* The last message through TCP was of bulk size; the TCP_NOTSENT_LOWAT set for such ones, or 0. */
	__u32 bulk;
	__u32 unsent;
	/* Messages below the bulk size sent in a row without an answer. */
	__u32 one_way;
	/* Messages in the current round of gain_messages, and how many of them were redirected. */
	__u32 round;
	__u32 round_redirected;
	/* The observed messages: number, how many answered the peer, total size. */
	__u32 observed;
	__u32 turns;
	__u64 observed_bytes;
	/* Redirected so far; older and newer are the checkpoints that bound the queue (law 6). */
	struct checkpoint sent;
	/* Sent through TCP so far, while mapped. */
	struct checkpoint passed;
	struct checkpoint older;
	struct checkpoint newer;
	/* Callback flags of the socket that this program has set. */
	__u32 callbacks;
	/* Operand of the full barrier: always 0. */
	__u32 fence;
	/* The socket's write_seq at its last redirect: whatever TCP sends later moves it. */
	__u32 redirect_seq;
	/* The most bytes in the peer's queue at any redirect. */
	__u32 queue_peak;
	/* Put into the map by a scan, not when it was established. */
	__u32 adopted;
	/* How often it has left the map, */
	__u32 departures;
	/* and when it last did. CLOCK_MONOTONIC, nanoseconds, as the next two. */
	__u64 left_at;
	/* When it was established or adopted, and when it last sent a refresh (law 9). */
	__u64 since;
	__u64 refreshed;
};

#pragma clang diagnostic pop

#endif
