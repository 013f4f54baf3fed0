/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Law 1, adoption: connections that are established already enter the map by a scan of the TCP sockets of a network namespace.
 * The iterator holds the lock of the socket that it is at, as a thread of its own.
 */
#ifndef ADOPT_H
#define ADOPT_H

#include "holder.h"
#include "leave.h"

#define MILLISECOND 1000000ull
/* From the choice of a protocol's function to the wait for the socket's lock it takes far less, unless it is interrupted. */
#define ENTRY_NANOSECONDS 2000
#define ENTRY_LOOKS 256

/* close() has begun, and goes on as for a socket in no map: what is unread in the one queue it would not see. To be asked
 * when the socket is in the map, as a close that begins then sees that it is.
 */
static __always_inline bool is_closed(struct file *file)
{
	if (bpf_core_field_exists(file->f_ref))
		return file->f_ref.refcnt.counter < 0;
	return !bpf_core_field_exists(file->f_count) || file->f_count.counter <= 0;
}

/* A call on a socket begins with the choice between TCP's own function and the socket map's, and then waits for the lock. A
 * recv that has chosen TCP's own must not find its queue empty where its program was told of data, nor see the end of the
 * stream before what is in the map's queue. So nothing may be unread, and nobody be on the way to the lock of a socket that
 * has just come into the map, or wait for it: whoever comes later has chosen the map's. Threads without a processor are
 * looked at first: while those that run are watched, one that gets a processor comes to wait.
 */
static __always_inline bool is_awaited(struct sock *sock)
{
	struct list_head *head = &sock->sk_lock.wq.head;
	__u64 begin = bpf_ktime_get_ns();

	for (int i = 0; i < ENTRY_LOOKS; i++) {
		if (head->next != head)
			return true;
		if (bpf_ktime_get_ns() - begin > ENTRY_NANOSECONDS)
			break;
	}
	return false;
}

/* Why an end that the gate lets pass is not adopted now, as far as its socket tells; NO_REASON if it may be. Only a file that
 * does not block is taken, whatever is admitted: a thread that enters recv before the map has the socket waits for TCP's own
 * queue, where nothing will come.
 */
static __always_inline enum counter adoption_of(struct tcp_sock *tcp)
{
	struct sock *sock = sock_of(tcp);
	struct file *file = file_of(sock);

	if (!file || !is_nonblocking(file))
		return COUNTER_REFUSED_BLOCKING;
	/* Whatever the scope: the other end is looked for by its addresses, in one network namespace. */
	if (!is_routed_over_loopback(sock))
		return COUNTER_ADOPT_NAMESPACE;
	if (sock->__sk_common.skc_state != TCP_ESTABLISHED || sock->sk_shutdown)
		return COUNTER_ADOPT_CLOSING;
	if (sock->sk_user_data)
		return COUNTER_REFUSED_TAKEN;
	if (tcp->urg_data)
		return COUNTER_REFUSED_SPECIAL;
	return sleepers(sock) ? COUNTER_ADOPT_WAITED : NO_REASON;
}

/* Whether a socket that may have been followed before is not, and would be if it were established now. */
static __always_inline bool is_eligible(struct end *end, struct tcp_sock *tcp)
{
	if (end && end->mapped)
		return false;
	return gate_of(tcp, end ? end->exclusion : 0) == NO_REASON && is_in_cgroup(sock_of(tcp));
}

/* Whether a scan of the socket's network namespace may adopt it, now or when nobody waits for it any more. */
static __always_inline bool is_candidate(struct sock *sock)
{
	struct tcp_sock *tcp = kernel_object(sock, struct tcp_sock);
	struct end *end = bpf_sk_storage_get(&sockredir_end, sock, NULL, 0);
	enum counter refusal;

	if (!is_eligible(end, tcp))
		return false;
	refusal = adoption_of(tcp);
	return refusal == NO_REASON || refusal == COUNTER_ADOPT_WAITED;
}

/* What changes its nature all the time must not go in and out all the time. */
static __always_inline bool is_too_early(struct end *end, __u64 now)
{
	__u32 doubled = end->departures - 1;
	__u64 due;

	if (!end->departures)
		return false;
	if (doubled >= adopt_again_times)
		return true;
	due = end->left_at + (adopt_again_ms * MILLISECOND << (doubled & 31));
	if (due <= now)
		return false;
	if (!adopt_due || due < adopt_due)
		adopt_due = due;
	return true;
}

/* The same connection, seen from the other end. */
static __always_inline void mirror(const struct endpoints *endpoints, struct endpoints *mirrored)
{
	mirrored->netns = endpoints->netns;
	__builtin_memcpy(mirrored->local, endpoints->remote, sizeof(mirrored->local));
	__builtin_memcpy(mirrored->remote, endpoints->local, sizeof(mirrored->remote));
	mirrored->local_port = endpoints->remote_port;
	mirrored->remote_port = endpoints->local_port;
}

/* Note that an end may be adopted: whether every scan has found that for long enough. What a thread that blocked had begun
 * before the file was made non-blocking has ended by then, or sleeps where it is seen.
 */
static __always_inline bool note(const struct endpoints *endpoints, struct tcp_sock *tcp, __u64 now)
{
	struct candidate *known = bpf_map_lookup_elem(&sockredir_cand, endpoints);
	struct candidate fresh = {
		.numbers.seq = tcp->snd_una - (__u32)tcp->bytes_acked,
		.numbers.ack = tcp->rcv_nxt - (__u32)tcp->bytes_received,
		.since = now,
		.sock = (unsigned long)tcp,
		.cgroup = cgroup_of(sock_of(tcp)),
		.scan = adopt_scan,
		.unread = !!sock_of(tcp)->sk_receive_queue.qlen,
	};

	if (known && known->numbers.seq == fresh.numbers.seq && known->numbers.ack == fresh.numbers.ack &&
	    known->scan + 1 >= adopt_scan) {
		known->scan = adopt_scan;
		known->unread = fresh.unread;
		return now - known->since >= adopt_seen_ms * MILLISECOND;
	}
	if (bpf_map_update_elem(&sockredir_cand, endpoints, &fresh, BPF_ANY))
		count(COUNTER_REFUSED_FULL);
	else
		adopt_noted++;
	return false;
}

/* Whether the numbers of two ends are mirrored (law 4), once the SYN of the connecting one is taken off. TCP_REPAIR lets a
 * program choose the numbers of its socket, so they are compared with those of the mirrored endpoints only.
 */
static __always_inline bool has_connected(const struct end_key *one, const struct end_key *other)
{
	return other->ack == one->seq + 1 && other->seq == one->ack;
}

/* The record of the flow, made by the first of its ends. */
static __always_inline struct flow *adopt_flow(struct end *end, struct tcp_sock *tcp,
					       const struct service_key *service,
					       const struct program_key *client)
{
	struct flow fresh = { .service = *service, .client = *client, .observe = observe_messages };
	struct flow_key key = end->flow;

	flow_init(&fresh, end, sock_of(tcp), tcp->copied_seq);
	if (bpf_map_update_elem(&sockredir_flow, &key, &fresh, BPF_NOEXIST)) {
		count(COUNTER_REFUSED_FULL);
		return NULL;
	}
	return bpf_map_lookup_elem(&sockredir_flow, &key);
}

/* The end that comes second. */
static __always_inline bool adopt_join(struct flow *flow, struct end *end, struct tcp_sock *tcp)
{
	if (!flow_join(flow, end))
		return false;
	flow->sock[end->side & 1] = (unsigned long)tcp;
	flow->queue_next[end->side & 1] = tcp->copied_seq;
	return true;
}

static __always_inline void adopt_callbacks(struct end *end, struct tcp_sock *tcp)
{
	int flags = tcp->bpf_sock_ops_cb_flags | END_CALLBACKS;

	end->callbacks |= END_CALLBACKS & ~tcp->bpf_sock_ops_cb_flags;
	bpf_setsockopt(tcp, SOL_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, &flags, sizeof(flags));
}

/* What was learnt of a socket that was followed before stays: its callbacks, and how often it has left. */
static __always_inline void end_renew(struct end *end, struct end_key own, bool accepted)
{
	__u32 callbacks = end->callbacks, departures = end->departures;
	__u64 left_at = end->left_at;

	__builtin_memset(end, 0, sizeof(*end));
	end_init(end, own.seq, own.ack);
	end->accepted = accepted;
	end->adopted = 1;
	end->callbacks = callbacks;
	end->departures = departures;
	end->left_at = left_at;
}

/* Into the map, and into the record: a fresh one, or that of the other end. */
static __always_inline enum counter adopt_into(struct flow *flow, struct end *end, struct tcp_sock *tcp,
					       struct candidate *own, const struct service_key *service,
					       const struct program_key *client)
{
	struct file *file = file_of(sock_of(tcp));
	enum counter refusal = NO_REASON;
	struct end_key key = end->own;
	bool is_first = !flow;

	if (is_first && !adopt_flow(end, tcp, service, client))
		return COUNTER_REFUSED_FULL;
	if (bpf_map_update_elem(&sockredir_map, &key, tcp, BPF_NOEXIST))
		refusal = COUNTER_REFUSED_TAKEN;
	else if (!file || is_closed(file))
		refusal = COUNTER_ADOPT_CLOSING;
	else if (is_entered(own, sock_of(tcp)) || is_awaited(sock_of(tcp)))
		refusal = COUNTER_ADOPT_WAITED;
	else if (!is_first && !adopt_join(flow, end, tcp))
		refusal = COUNTER_ADOPT_UNPAIRED;
	if (refusal != NO_REASON) {
		if (refusal != COUNTER_REFUSED_TAKEN)
			bpf_map_delete_elem(&sockredir_map, &key);
		if (is_first)
			flow_release(end);
		return refusal;
	}
	end->mapped = 1;
	count(COUNTER_ENDS_INSERTED);
	adopt_callbacks(end, tcp);
	if (is_first) {
		adopt_halves++;
	} else {
		adopt_joined++;
		decide(sock_of(tcp), COUNTER_ADOPTED);
	}
	return NO_REASON;
}

/* The first end waits in the map for the second one, which a scan that follows soon may find otherwise. */
static __always_inline enum counter postpone(struct flow *flow, enum counter refusal)
{
	if (flow)
		adopt_halves++;
	return refusal;
}

/* An end that has qualified for long enough, with its peer. */
static __always_inline enum counter adopt_end(struct tcp_sock *tcp, const struct endpoints *endpoints)
{
	struct candidate *own, *peer;
	struct endpoints mirrored;
	struct service_key key = {};
	enum counter refusal;
	struct flow_key both;
	struct end_key numbers;
	__u32 departures, left;
	struct flow *flow;
	__u64 left_at;
	bool connected;
	struct end *end;

	mirror(endpoints, &mirrored);
	own = bpf_map_lookup_elem(&sockredir_cand, endpoints);
	peer = bpf_map_lookup_elem(&sockredir_cand, &mirrored);
	if (!own || !peer)
		return COUNTER_ADOPT_UNPAIRED;
	connected = has_connected(&own->numbers, &peer->numbers);
	if (!connected && !has_connected(&peer->numbers, &own->numbers))
		return COUNTER_ADOPT_UNPAIRED;
	numbers = own->numbers;
	numbers.seq += connected;
	if (numbers.seq == numbers.ack)
		return COUNTER_REFUSED_SPECIAL;
	both = flow_key_of(numbers);
	flow = bpf_map_lookup_elem(&sockredir_flow, &both);
	if (flow ? state_of(flow_word(flow)) != FLOW_OBSERVE || flow->sock[!side_of(numbers)] != peer->sock :
		   peer->scan + 1 < adopt_scan)
		return COUNTER_ADOPT_UNPAIRED;
	service_at(connected ? endpoints : &mirrored, connected ? own->cgroup : peer->cgroup, &key);
	if (turn_of(&key) > 0)
		return turn_of(&key);
	program_key_settle(&own->program);
	program_key_settle(&peer->program);
	refusal = reader_refusal(&own->program);
	if (refusal == NO_REASON)
		refusal = reader_refusal(&peer->program);
	if (refusal != NO_REASON)
		return postpone(flow, refusal);
	if (own->unread || (!flow && peer->unread))
		return postpone(flow, COUNTER_ADOPT_UNREAD);
	end = bpf_sk_storage_get(&sockredir_end, tcp, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!end)
		return COUNTER_REFUSED_FULL;
	departures = end->departures;
	left_at = end->left_at;
	left = end->leave_reason;
	end_renew(end, numbers, !connected);
	end->program = own->program;
	refusal = adopt_into(flow, end, tcp, own, &key, connected ? &own->program : &peer->program);
	if (refusal == NO_REASON)
		return NO_REASON;
	end->departures = departures;
	end->left_at = left_at;
	end->leave_reason = left;
	if (!departures)
		bpf_sk_storage_delete(&sockredir_end, tcp);
	return postpone(flow, refusal);
}

/* One look at a socket, whose lock is held. */
static __always_inline void adopt(struct tcp_sock *tcp)
{
	struct end *end = bpf_sk_storage_get(&sockredir_end, tcp, NULL, 0);
	struct sock *sock = sock_of(tcp);
	struct endpoints endpoints;
	enum counter refusal;
	__u64 now;

	if (!is_eligible(end, tcp))
		return;
	now = bpf_ktime_get_ns();
	refusal = adoption_of(tcp);
	if (refusal == NO_REASON && end && is_too_early(end, now))
		refusal = COUNTER_ADOPT_AGAIN;
	if (refusal == NO_REASON) {
		endpoints_of(sock, &endpoints);
		if (note(&endpoints, tcp, now))
			refusal = adopt_end(tcp, &endpoints);
	}
	/* The others are those of the socket, which every scan would count again. */
	if (refusal > COUNTER_ADOPTED && refusal < COUNTERS)
		count(refusal);
}

/* Something is about to change that a scan has seen of a socket: two scans have to see it anew. */
static __always_inline void forget(struct sock *sock)
{
	struct endpoints endpoints;

	endpoints_of(sock, &endpoints);
	bpf_map_delete_elem(&sockredir_cand, &endpoints);
}

/* A process holds a connection. If it is kept off, or has an io_uring, neither this end nor its peer is adopted. */
static __always_inline void held(struct sock *sock, struct task_struct *task)
{
	struct candidate *candidate;
	struct program_key program;
	struct endpoints endpoints;
	enum counter exclusion;
	struct end *end;

	endpoints_of(sock, &endpoints);
	candidate = bpf_map_lookup_elem(&sockredir_cand, &endpoints);
	if (!candidate)
		return;
	exclusion = exclusion_of(task);
	if (!exclusion) {
		holder_add(candidate, task->tgid);
		if (program_key_of(task, &program, false) && program_at(&program, task) &&
		    (!candidate->program.file.inode || reader_refusal(&program) != NO_REASON))
			candidate->program = program;
		return;
	}
	bpf_map_delete_elem(&sockredir_cand, &endpoints);
	end = bpf_sk_storage_get(&sockredir_end, sock, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (end && !end->mapped)
		end->exclusion = end->leave_reason = exclusion;
}

#endif
