/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Tunables, maps and counters: what every part of the datapath shares. */
#ifndef MAPS_H
#define MAPS_H

#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>

#include "record.h"

#define READ_ONCE(x) (*(volatile typeof(x) *)&(x))

/* --admit any, --scope host, --same-user and --same-cgroup. */
const volatile bool admit_any = false;
const volatile bool scope_host = false;
const volatile bool same_user = false;
const volatile bool same_cgroup = false;
/* --ports and --exclude-ports, one bit per port. Written before each attachment: the self-test covers all. */
volatile __u64 ports_included[1024];
volatile __u64 ports_excluded[1024];

/* trust_all: programs are taken to read by recv only until seen to do otherwise (self-test, --trust-programs
 * all). splice_works: splicing from a mapped socket works on this kernel, so the question does not arise.
 */
volatile __u32 trust_all = 0;
volatile __u32 splice_works = 0;
/* True if this kernel shows who splices; otherwise reading shows nothing about a program. */
const volatile bool splices_seen = true;
/* System calls that read a socket without recv (splice, getsockopt), 64-bit and 32-bit numbers. */
const volatile __u32 calls_around_recv[4] = {};
/* The number of sendfile. */
const volatile __u32 call_sendfile = 0;
/* A program is known to read by recv after this many reads, or bytes from one connection, without a splice:
 * those that splice do so after a connection's beginning, or with large messages only.
 */
const volatile __u32 known_reads = 512;
const volatile __u32 known_bytes = 128 << 10;

/* After this many non-blocking accepted sockets, a program's later listeners at the same ports count as such. */
const volatile __u32 known_accepted = 8;

/* Messages that an end observes before it decides; fewer where the service has a high score. */
const volatile __u32 observe_messages = 8;
const volatile __u32 observe_messages_quick = 2;
/* A mean message of this size makes a flow bulk; a message of this size ends a run of small ones. */
const volatile __u32 bulk_bytes = 32768;
/* From this size on, TCP sends a message of sendfile at least as fast as it is redirected. */
const volatile __u32 sendfile_bytes = 4096;
/* A run of one_way_tcp small one-way messages goes through TCP; one of one_way_drain drains the flow. */
const volatile __u32 one_way_tcp = 4;
const volatile __u32 one_way_drain = 64;
/* Once per this many messages an admitted flow must have had half of them redirected, or it is drained: a
 * mapped socket that sends through TCP is slower than one that has left.
 */
const volatile __u32 gain_messages = 128;
/* Law 6: the limits of a receive queue; a direction comes back from TCP below half of them. */
const volatile __u32 queue_bytes = 3 << 19;
const volatile __u32 queue_messages = 512;
/* Redirected messages after which an insertion has paid: it costs some 8 us, and each message saves 2. */
const volatile __u32 worth_messages = 4;
/* Service memory: the score's range, start and steps; at score 0 one in score_sample is inserted. */
const volatile __s32 score_most = 64;
const volatile __s32 score_start = 32;
const volatile __s32 score_quick = 48;
const volatile __s32 score_gain = 8;
const volatile __u32 score_sample = 64;
/* The step down for a connection whose peer is not here: a service that is here half of the time, as behind a
 * load balancer, goes on being tried; one elsewhere is not after seven.
 */
const volatile __s32 score_absent = 4;
/* Law 9: seconds between two messages that an end sends through TCP as a refresh. */
const volatile __u32 refresh_seconds = 10;

/* Adoption: how long every scan must find an end adoptable; how long one that left waits to come back,
 * doubled each time up to adopt_again_times; how long one end waits for its peer.
 */
const volatile __u32 adopt_seen_ms = 100;
const volatile __u32 adopt_again_ms = 8000;
const volatile __u32 adopt_again_times = 10;
const volatile __u32 adopt_peer_ms = 2000;

/* --log-decisions. */
const volatile bool log_decisions = false;

/* The scan's number, from 1. Written before it. */
volatile __u32 adopt_scan;
/* Written by each scan: ends seen for the first time, flows with one end adopted so far, flows fully adopted,
 * and when the first end that waits to come back may (CLOCK_MONOTONIC, nanoseconds; 0 if none waits).
 */
volatile __u32 adopt_noted;
volatile __u32 adopt_halves;
volatile __u32 adopt_joined;
volatile __u64 adopt_due;

/* Set once, when the tool stops (law 8): from then on nothing is inserted, admitted or redirected. */
volatile __u32 stopping;

/* Another instance takes new connections: nothing is inserted any more, followed flows go on as before. */
volatile __u32 handed_over;

/* Every mapped socket by its own key. User space sees the values as socket cookies. Sized at load. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 131072);
	__type(key, struct end_key);
	__type(value, __u64);
} sockredir_map SEC(".maps");

/* The shared records. Not an LRU: a record that vanished under a living flow would let one end leave while the other
 * still redirects to it. Entries are removed by the last end that leaves or closes. Sized at load.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct flow_key);
	__type(value, struct flow);
} sockredir_flow SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct end);
} sockredir_end SEC(".maps");

/* How a service's recent flows ended. LRU: what is evicted is learnt again. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct service_key);
	__type(value, struct service);
} sockredir_svc SEC(".maps");

/* Why all connections to a service are refused (refused_*), learnt from one of them; 0 if they were seen not
 * to block. Not an LRU: where there is no room a service stays unknown.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct service_key);
	__type(value, __u32);
} sockredir_turn SEC(".maps");

/* What is known of listeners. LRU, as above. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct listener_key);
	__type(value, struct listener);
} sockredir_listen SEC(".maps");

/* What is known of programs. Not an LRU: what keeps a program off must last. Where there is no room a program
 * stays unknown, and so on TCP.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct program_key);
	__type(value, struct program);
} sockredir_prog SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct file_key);
	__type(value, enum image);
} sockredir_image SEC(".maps");

/* --exclude-programs and --trust-programs. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, struct name);
	__type(value, enum said);
} sockredir_said SEC(".maps");

/* The covered cgroups, by ID. Written before each attachment, as the ports are. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, __u64);
	__type(value, __u8);
} sockredir_cgrp SEC(".maps");

/* Network namespaces that the last scan could not enter, by inode number. Written by the scan. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u8);
} sockredir_netns SEC(".maps");

/* Network namespaces that have ends in the socket map, by inode number. Emptied before each tally. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u8);
} sockredir_home SEC(".maps");

/* Ends that may be adopted, by struct endpoints. Emptied when scans resume after a rest. Sized at load. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 131072);
	__type(key, struct endpoints);
	__type(value, struct candidate);
} sockredir_cand SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} sockredir_count SEC(".maps");

/* struct decision: room for 227 of them between two reads. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 16384);
} sockredir_log SEC(".maps");

/* struct event: room for some 1,300, for when a server with many connections is killed. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 262144);
} sockredir_event SEC(".maps");

/* Puts types into BTF that only iterators and the ring buffers write. */
const struct socket_info *socket_info_type __attribute__((unused));
const struct decision *decision_type __attribute__((unused));
const struct event *event_type __attribute__((unused));

static __always_inline void count_many(enum counter which, __u64 n)
{
	__u32 key = which;
	__u64 *value = bpf_map_lookup_elem(&sockredir_count, &key);

	if (value)
		*value += n;
}

static __always_inline void count(enum counter which)
{
	count_many(which, 1);
}

#endif
