/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Law 1, adoption: a scan of a network namespace's TCP sockets maps connections that are already established.
 * The iterator holds the lock of the socket that it is at, in a thread of its own.
 */
#ifndef ADOPT_H
#define ADOPT_H

#include "holder.h"
#include "leave.h"

#define MILLISECOND 1000000ull
/* Getting from the choice of a protocol's function to the lock takes far less, unless interrupted. */
#define ENTRY_NANOSECONDS 2000
#define ENTRY_LOOKS 256

/* True if close() has begun: it goes on as for an unmapped socket and would miss unread data in the one
 * queue. To be asked once the socket is mapped, as a later close sees that it is.
 */
static __always_inline bool is_closed(struct file *file)
{
	if (bpf_core_field_exists(file->f_ref))
		return file->f_ref.refcnt.counter < 0;
	return !bpf_core_field_exists(file->f_count) || file->f_count.counter <= 0;
}

/* True if a thread waits for the socket's lock. A call chooses TCP's own function or the map's and then waits
 * for the lock; a recv that chose TCP's must not find its queue empty where its program was told of data, nor
 * see the end of the stream before what is in the map's queue. So nobody may be on the way to the lock of a
 * socket that was just mapped; later calls choose the map's. Preempted threads are looked at first
 * (is_entered): one that gets a processor meanwhile comes to wait.
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

/* Why an end that passes the gate is not adopted now, or NO_REASON. The file must not block, whatever --admit
 * says: a thread that enters recv before the socket is mapped waits for TCP's own queue, where nothing will
 * come.
 */
static __always_inline enum counter adoption_of(struct tcp_sock *tcp)
{
	struct sock *sock = sock_of(tcp);
	struct file *file = file_of(sock);

	if (!file || !is_nonblocking(file))
		return COUNTER_REFUSED_BLOCKING;
	/* Whatever the scope: the peer is looked up by its addresses, in one network namespace. */
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

/* True if a socket is not followed, and would be if it were established now. */
static __always_inline bool is_eligible(struct end *end, struct tcp_sock *tcp)
{
	if (end && end->mapped)
		return false;
	return gate_of(tcp, end ? end->exclusion : 0) == NO_REASON && is_in_cgroup(sock_of(tcp));
}

/* True if a scan of the socket's network namespace may adopt it, now or once no thread waits for it. */
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

/* Back off, so that flapping flows do not thrash the map. */
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

/* The same connection, as its peer sees it. */
static __always_inline void mirror(const struct endpoints *endpoints, struct endpoints *mirrored)
{
	mirrored->netns = endpoints->netns;
	__builtin_memcpy(mirrored->local, endpoints->remote, sizeof(mirrored->local));
	__builtin_memcpy(mirrored->remote, endpoints->local, sizeof(mirrored->remote));
	mirrored->local_port = endpoints->remote_port;
	mirrored->remote_port = endpoints->local_port;
}

/* Notes that an end may be adopted. True if every scan has found so for long enough: a call begun while the
 * file still blocked has ended by then, or sleeps where it is seen.
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

/* True if the numbers say that `one` connected to `other` (law 4), its SYN taken off. TCP_REPAIR lets a
 * program choose them, so only ends with mirrored endpoints are compared.
 */
static __always_inline bool has_connected(const struct end_key *one, const struct end_key *other)
{
	return other->ack == one->seq + 1 && other->seq == one->ack;
}

/* Creates the flow's record, for the first of its ends. */
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

/* Adds the second end to the record. */
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

/* Initialises an end, but keeps the callbacks and departures of a socket that was followed before. */
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

/* Puts an end into the map and a record, its peer's or a new one. Why not, or NO_REASON. */
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

/* The first end waits in the map, so a scan follows soon, which may find its peer adoptable. */
static __always_inline enum counter postpone(struct flow *flow, enum counter refusal)
{
	if (flow)
		adopt_halves++;
	return refusal;
}

/* Adopts an end that has qualified for long enough. Why not, or NO_REASON. */
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

/* Looks at one socket, whose lock is held. */
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
	/* The other reasons are those of the socket, which every scan would count again. */
	if (refusal > COUNTER_ADOPTED && refusal <= COUNTER_ADOPT_UNPAIRED)
		count(refusal);
}

/* What scans have seen of a socket is about to change: two have to see it anew. */
static __always_inline void forget(struct sock *sock)
{
	struct endpoints endpoints;

	endpoints_of(sock, &endpoints);
	bpf_map_delete_elem(&sockredir_cand, &endpoints);
}

/* Notes a holder of a connection. If it is excluded or has an io_uring, neither end is adopted. */
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
