/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Tunables, maps and counters: what every part of the datapath shares. */
#ifndef MAPS_H
#define MAPS_H

#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>

#include "sockredir.h"

#define READ_ONCE(x) (*(volatile typeof(x) *)&(x))

/* --admit any, --scope host, --same-user and --same-cgroup. */
const volatile bool admit_any = false;
const volatile bool scope_host = false;
const volatile bool same_user = false;
const volatile bool same_cgroup = false;
/* --ports and --exclude-ports, one bit a port. Written before each attachment: the self-test covers all. */
volatile __u64 ports_included[1024];
volatile __u64 ports_excluded[1024];

/* Programs are taken to read from sockets by recv only, unless they are seen to do otherwise: all of them, for the self-test and
 * for --trust-programs all. On a kernel where a splice from a mapped socket works that is no question at all.
 */
volatile __u32 trust_all = 0;
volatile __u32 splice_works = 0;
/* Whether this kernel shows who splices; where it does not, nobody is known not to. */
const volatile bool splices_seen = true;
/* The numbers of the system calls that read from a socket without recv, also those of 32-bit programs: splice, getsockopt. */
const volatile __u32 calls_around_recv[4] = {};
const volatile __u32 call_sendfile;
/* A program is known to read by recv once it was seen to have read so often, or so many bytes from one connection, without a
 * splice: who splices does so after the beginning of a connection, or with large messages only.
 */
const volatile __u32 known_reads = 512;
const volatile __u32 known_bytes = 128 << 10;

/* So many accepted sockets that do not block say that those of another listener of that program will not either. */
const volatile __u32 known_accepted = 8;

/* Messages that an end observes before it decides; fewer where the service's score says that flows are worth it. */
const volatile __u32 observe_messages = 8;
const volatile __u32 observe_messages_quick = 2;
/* A mean message of this size makes a flow bulk; a message of this size ends a run of small ones. */
const volatile __u32 bulk_bytes = 32768;
/* A message of sendfile that TCP sends at least as fast as it is redirected. */
const volatile __u32 sendfile_bytes = 4096;
/* A run of this many small one-way messages goes through TCP, and one of that many drains the flow. */
const volatile __u32 one_way_tcp = 4;
const volatile __u32 one_way_drain = 64;
/* Every so many messages an admitted flow must have had half of them redirected, or it is drained: a socket in the map
 * that sends through TCP is slower than one that has left it.
 */
const volatile __u32 gain_messages = 128;
/* Law 6: the most that one receive queue may hold; half of it for a direction to come back from TCP. */
const volatile __u32 queue_bytes = 3 << 19;
const volatile __u32 queue_messages = 512;
/* Redirected messages of one end by which an insertion has paid for itself: it costs some 8 us, and each saves 2. */
const volatile __u32 worth_messages = 4;
/* Service memory: the score's range, start and steps, and the share of connections sampled at score 0. */
const volatile __s32 score_most = 64;
const volatile __s32 score_start = 32;
const volatile __s32 score_quick = 48;
const volatile __s32 score_gain = 8;
const volatile __u32 score_sample = 64;
/* And its step down for a connection whose other end is not there: so that a service that is here in half of the cases, as
 * behind a load balancer, goes on being tried, and one elsewhere is not after seven.
 */
const volatile __s32 score_absent = 4;
/* Law 9: the seconds between two messages that an end sends through TCP for what is between the ends. */
const volatile __u32 refresh_seconds = 10;

/* Adoption: for so many milliseconds every scan must have found that an end may be adopted; one that has left the map waits
 * so many until it comes back, doubled each time up to so many times; and one end waits so many for the other.
 */
const volatile __u32 adopt_seen_ms = 100;
const volatile __u32 adopt_again_ms = 8000;
const volatile __u32 adopt_again_times = 10;
const volatile __u32 adopt_peer_ms = 2000;

/* --log-decisions. */
const volatile bool log_decisions = false;

/* Written before each scan: its number, from 1. */
volatile __u32 adopt_scan;
/* Written by each scan: the ends that it has seen for the first time, the flows of which it has adopted one end so far and those
 * that it has adopted, and when the first of the ends that wait to come back may (CLOCK_MONOTONIC, nanoseconds; 0 if there are
 * none).
 */
volatile __u32 adopt_noted;
volatile __u32 adopt_halves;
volatile __u32 adopt_joined;
volatile __u64 adopt_due;

/* Set once, when the tool stops (law 8): from then on nothing is inserted, admitted or redirected. */
volatile __u32 stopping;

/* Another instance has taken over what is new: nothing is inserted any more, and what is followed goes on as before. */
volatile __u32 handed_over;

/* Every mapped socket by its own key. Values are socket cookies to user space. Sized at load. */
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

/* A memory of habits: an entry that is evicted is learnt again. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct service_key);
	__type(value, struct service);
} sockredir_svc SEC(".maps");

/* Services of which a connection was made blocking, or was given a ULP: the refused_* counter of all of them, or 0 where it was
 * seen that they stay as they are. Not an LRU, as the above: where there is no room a service stays unknown.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct service_key);
	__type(value, __u32);
} sockredir_turn SEC(".maps");

/* A memory of habits, as above. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct listener_key);
	__type(value, struct listener);
} sockredir_listen SEC(".maps");

/* What is known of programs. Not an LRU, as what keeps a program off must last: where there is no room a program stays unknown,
 * and so on TCP.
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

/* What the user says of programs. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, struct name);
	__type(value, enum said);
} sockredir_said SEC(".maps");

/* The covered cgroups, by their numbers. Written before each attachment, as the ports are. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, __u64);
	__type(value, __u8);
} sockredir_cgrp SEC(".maps");

/* The network namespaces that the last scan could not enter, by their numbers. Written by the scan. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u8);
} sockredir_netns SEC(".maps");

/* The network namespaces that have ends in the socket map, by their numbers. Emptied before each tally. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u8);
} sockredir_home SEC(".maps");

/* Ends that may be adopted, by struct endpoints. Emptied when scans begin again after a rest. Sized at load. */
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

/* struct decision: 186 of them, which is what may be logged between two looks. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 16384);
} sockredir_log SEC(".maps");

/* struct event: some 3,000 of them, for when a server with many connections is killed. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 262144);
} sockredir_event SEC(".maps");

/* Nothing else tells the user side of what only iterators and the ring buffers write. */
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
