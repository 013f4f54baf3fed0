/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The shared record: its word, state transitions and lifetime, and the service memory. */
#ifndef FLOW_H
#define FLOW_H

#include "decide.h"

/* Transitions are retried when another bit of the word changes meanwhile; there are four such bits. */
#define FLOW_RETRIES 5

static __always_inline enum flow_state state_of(__u64 word)
{
	return (word & FLOW_STATE_MASK) >> FLOW_STATE_SHIFT;
}

static __always_inline __u64 tag_of(struct flow_key key)
{
	return (__u64)(key.high ^ (key.low << 1)) << FLOW_TAG_SHIFT;
}

/* The record's key from either end's numbers: sorted, as the ends hold them mirrored. */
static __always_inline struct flow_key flow_key_of(struct end_key end)
{
	struct flow_key key = {
		.low = end.seq < end.ack ? end.seq : end.ack,
		.high = end.seq < end.ack ? end.ack : end.seq,
	};

	return key;
}

/* Which side of the record an end is. */
static __always_inline __u32 side_of(struct end_key end)
{
	return end.seq > end.ack;
}

static __always_inline struct flow *flow_of(struct end *end)
{
	struct flow_key key = end->flow;

	return bpf_map_lookup_elem(&sockredir_flow, &key);
}

/* The record of a mapped socket whose storage cannot be had: its numbers at establishment are the present
 * ones less what was acknowledged and received since. The connecting end's SYN counts as acknowledged.
 */
static __always_inline struct flow *flow_of_socket(struct tcp_sock *tcp, __u32 *side)
{
	struct end_key own = {
		.seq = tcp->snd_una - (__u32)tcp->bytes_acked,
		.ack = tcp->rcv_nxt - (__u32)tcp->bytes_received,
	};

	for (int syn = 0; syn < 2; syn++, own.seq++) {
		struct flow_key key = flow_key_of(own);
		struct flow *flow = bpf_map_lookup_elem(&sockredir_flow, &key);

		if (flow) {
			*side = side_of(own);
			return flow;
		}
	}
	return NULL;
}

static __always_inline __u64 flow_word(struct flow *flow)
{
	return READ_ONCE(flow->word);
}

/* Law 1: each transition is one compare-and-swap, so both ends and all threads agree. True if it was made. */
static __always_inline bool flow_swap(struct flow *flow, enum flow_state from, enum flow_state to)
{
	__u64 word = flow_word(flow);

	for (int i = 0; i < FLOW_RETRIES; i++) {
		__u64 next = (word & ~FLOW_STATE_MASK) | ((__u64)to << FLOW_STATE_SHIFT);
		__u64 seen;

		if (state_of(word) != from)
			return false;
		seen = __sync_val_compare_and_swap(&flow->word, word, next);
		if (seen == word)
			return true;
		word = seen;
	}
	return false;
}

/* True if the state changed, for this reason. A registered end stands for the flow. */
static __always_inline bool flow_decide(struct flow *flow, enum flow_state from, enum flow_state to,
					enum counter reason)
{
	__u32 side = !(flow_word(flow) & FLOW_END(0));

	if (!flow_swap(flow, from, to))
		return false;
	flow->reason = reason;
	decide(kernel_object((void *)flow->sock[side], struct sock), reason);
	return true;
}

/* Decides an observed flow for TCP, unless it is decided already. */
static __always_inline enum counter refuse(struct flow *flow, enum counter reason)
{
	flow_decide(flow, FLOW_OBSERVE, FLOW_TCP_ONLY, reason);
	return COUNTER_MESSAGES_TCP_ONLY;
}

/* Sends back an admitted flow. Its later messages go through TCP, in order, and its ends drain and leave. */
static __always_inline enum counter send_back(struct flow *flow, enum counter reason)
{
	flow_decide(flow, FLOW_ADMITTED, FLOW_DRAIN, reason);
	return COUNTER_MESSAGES_DRAIN;
}

/* No redirect is under way any more. The flow keeps the reason it was sent back for. */
static __always_inline void flow_drained(struct flow *flow, struct sock *sock)
{
	if (flow_swap(flow, FLOW_DRAIN, FLOW_TCP_ONLY))
		decide(sock, COUNTER_DRAIN_DONE);
}

/* A new record with its first end, whose queue continues at sequence number `next`. */
static __always_inline void flow_init(struct flow *flow, const struct end *end, struct sock *sock, __u32 next)
{
	__u32 side = end->side & 1;

	flow->word = tag_of(end->flow) | FLOW_END(side);
	flow->last_side = FLOW_SIDES;
	flow->sock[0] = side ? 0 : (unsigned long)sock;
	flow->sock[1] = side ? (unsigned long)sock : 0;
	flow->queue_next[0] = side ? end->own.seq : next;
	flow->queue_next[1] = side ? next : end->own.seq;
}

/* True if the second end joined the record of the first, which may have gone. The tag guards against a record
 * whose memory was given to another flow between the lookup and the swap.
 */
static __always_inline bool flow_join(struct flow *flow, struct end *end)
{
	__u64 word = flow_word(flow);

	for (int i = 0; i < FLOW_RETRIES; i++) {
		__u64 seen;

		if (!(word & FLOW_ENDS) || word & FLOW_END(end->side) ||
		    word >> FLOW_TAG_SHIFT << FLOW_TAG_SHIFT != tag_of(end->flow))
			return false;
		seen = __sync_val_compare_and_swap(&flow->word, word, word | FLOW_END(end->side));
		if (seen == word)
			return true;
		word = seen;
	}
	return false;
}

static __always_inline __u64 cgroup_of(struct sock *sock)
{
	return sock->sk_cgrp_data.cgroup->kn->id;
}

/* From the endpoints and the cgroup of the connecting end. */
static __always_inline void service_at(const struct endpoints *endpoints, __u64 cgroup,
				       struct service_key *key)
{
	key->netns = endpoints->netns;
	key->cgroup = cgroup;
	__builtin_memcpy(key->address, endpoints->remote, sizeof(key->address));
	key->port = endpoints->remote_port;
}

static __always_inline void service_of(struct sock *sock, struct service_key *key)
{
	struct endpoints endpoints;

	endpoints_of(sock, &endpoints);
	service_at(&endpoints, cgroup_of(sock), key);
}

static __always_inline void service_score(struct flow *flow, __s32 change)
{
	struct service_key key = flow->service;
	struct service *service = bpf_map_lookup_elem(&sockredir_svc, &key);
	__s32 score;

	if (!service)
		return;
	score = service->score + change;
	service->score = score > score_most ? score_most : score < 0 ? 0 : score;
}

/* Credits a service once per flow: redirection has paid for the insertion, or would have. */
static __always_inline void service_credit(struct flow *flow)
{
	if (flow->worth)
		return;
	flow->worth = 1;
	service_score(flow, score_gain);
}

/* Why connections from a cgroup to a service are refused, or 0; -1 if nothing is known. */
static __always_inline int turn_of(const struct service_key *service)
{
	__u32 *turn = bpf_map_lookup_elem(&sockredir_turn, service);

	return turn ? (int)*turn : -1;
}

/* Refuses later connections to this service. A program that blocks is marked too, so that each of its
 * services is judged on its own even where there is no room for this one.
 */
static __always_inline void service_turns(const struct service_key *service, const struct program_key *client,
					  __u32 reason)
{
	struct program *program = bpf_map_lookup_elem(&sockredir_prog, client);

	if (reason == COUNTER_REFUSED_TURNS_BLOCKING && program)
		program->connects = NATURE_BLOCKING;
	bpf_map_update_elem(&sockredir_turn, service, &reason, BPF_ANY);
}

static __always_inline void flow_turns(struct flow *flow, enum counter reason)
{
	struct service_key service = flow->service;
	struct program_key client = flow->client;

	service_turns(&service, &client, reason);
}

/* Takes an unlinked end off the record, and removes the record with the last end. Each end calls this once,
 * under its own lock, and never looks at the record again: its bit is what keeps the memory alive.
 */
static __always_inline void flow_release(struct end *end)
{
	struct flow_key key = end->flow;
	struct flow *flow = bpf_map_lookup_elem(&sockredir_flow, &key);
	__u64 word;

	end->mapped = 0;
	end->state = FLOW_TCP_ONLY;
	end->departures++;
	end->left_at = bpf_ktime_get_ns();
	if (!flow)
		return;
	word = __sync_fetch_and_and(&flow->word, ~FLOW_END(end->side));
	end->leave_reason = state_of(word) == FLOW_TCP_ONLY ? flow->reason : COUNTER_TCP_ONLY_CLOSED;
	if (word & FLOW_ENDS & ~FLOW_END(end->side))
		return;
	if (!flow->worth)
		service_score(flow, -1);
	bpf_map_delete_elem(&sockredir_flow, &key);
}

#endif
