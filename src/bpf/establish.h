/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Inserts the two ends of a new connection into the map. */
#ifndef ESTABLISH_H
#define ESTABLISH_H

#include "gate.h"
#include "watch.h"

/* The header-length callback looks at an end under its own lock (law 2): it runs in the program's sendmsg, in
 * the acknowledgement that recvmsg sends, and for the FIN. The state callback ends the record.
 */
#define END_CALLBACKS (BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG | BPF_SOCK_OPS_STATE_CB_FLAG)

/* All sockops programs of a socket's cgroups share its flags: touch only our own. */
static __always_inline void callbacks_add(struct bpf_sock_ops *ctx, struct end *end, __u32 flags)
{
	flags &= ~ctx->bpf_sock_ops_cb_flags;
	if (!flags)
		return;
	end->callbacks |= flags;
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | flags);
}

static __always_inline void callbacks_drop(struct bpf_sock_ops *ctx, struct end *end)
{
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags & ~end->callbacks);
	end->callbacks = 0;
}

/* Law 4: the two numbers that only the ends of one connection hold mirrored. */
static __always_inline void end_init(struct end *end, __u32 seq, __u32 ack)
{
	end->own.seq = seq;
	end->own.ack = ack;
	end->peer.seq = end->own.ack;
	end->peer.ack = end->own.seq;
	end->side = side_of(end->own);
	end->flow = flow_key_of(end->own);
	end->since = end->refreshed = bpf_ktime_get_ns();
}

/* How many messages to observe, or 0 to refuse, which is counted here. Insertion costs a short connection
 * about 20 %, so services whose flows end before redirection has paid are only sampled.
 */
static __always_inline __u32 service_verdict(const struct service_key *key, struct sock *sock)
{
	struct service *service = bpf_map_lookup_elem(&sockredir_svc, key);

	if (!service) {
		struct service fresh = { .score = score_start };

		bpf_map_update_elem(&sockredir_svc, key, &fresh, BPF_NOEXIST);
		return observe_messages;
	}
	if (service->score <= 0 && ++service->skipped % score_sample) {
		decide(sock, COUNTER_REFUSED_SERVICE);
		return 0;
	}
	return service->score >= score_quick ? observe_messages_quick : observe_messages;
}

/* True if the peer sent the packet that establishes this end (law 4). Sequence numbers can be made to fit: a
 * user-space relay copies them, and connections with equal addresses in two namespaces share them if begun in
 * the same 64 ns. The kernel marks packets with a random number of their socket, which stays with them on
 * this host and is not on the wire.
 */
static __always_inline bool is_sent_by_peer(struct bpf_sock_ops *ctx, struct flow *flow)
{
	struct bpf_sock_ops_kern *kernel = bpf_cast_to_kern_ctx(ctx);
	struct sk_buff *packet = kernel->skb;

	return packet && BPF_CORE_READ_BITFIELD_PROBED(packet, l4_hash) && packet->hash == flow->txhash;
}

static __always_inline bool is_same_address(const __u32 *one, const __u32 *other)
{
	return one[0] == other[0] && one[1] == other[1] && one[2] == other[2] && one[3] == other[3];
}

/* True if nothing between the ends translates or sees the connection: both are in one network namespace, and
 * their addresses mirror each other.
 */
static __noinline bool is_direct(struct sock *sock, struct sock *peer)
{
	struct endpoints own, other;

	if (!sock || !peer)
		return false;
	endpoints_of(sock, &own);
	endpoints_of(kernel_object(peer, struct sock), &other);
	return own.netns == other.netns && own.local_port == other.remote_port &&
	       own.remote_port == other.local_port && is_same_address(own.local, other.remote) &&
	       is_same_address(own.remote, other.local);
}

/* True if the end was mapped. BPF_NOEXIST: an earlier holder of the key or the socket keeps it. */
static __always_inline bool end_insert(struct bpf_sock_ops *ctx, struct end *end, struct sock *sock)
{
	struct end_key key = end->own;

	if (bpf_sock_hash_update(ctx, &sockredir_map, &key, BPF_NOEXIST)) {
		decide(sock, COUNTER_REFUSED_TAKEN);
		return false;
	}
	return true;
}

/* The storage of a new end, or NULL. A connecting one has had it since connect(). */
static __always_inline struct end *end_create(struct bpf_sock *sk, struct sock *sock)
{
	struct end *end = bpf_sk_storage_get(&sockredir_end, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);

	if (!end)
		decide(sock, COUNTER_REFUSED_FULL);
	return end;
}

/* Law 11: an end of an unknown program stays out of the map for good, and is watched by its callbacks. */
static __always_inline void end_watch(struct bpf_sock_ops *ctx, struct end *end, enum counter reason)
{
	end->leave_reason = reason;
	end->read_seq = end->own.ack;
	callbacks_add(ctx, end, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
}

/* Law 1, the gate. The connecting end decides alone, before anything is spent on the connection; its callback runs
 * before that of the accepting end.
 */
static __noinline void establish_active(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct tcp_sock *tcp = sk ? bpf_skc_to_tcp_sock(sk) : NULL;
	struct end *end = tcp ? bpf_sk_storage_get(&sockredir_end, sk, NULL, 0) : NULL;
	struct flow flow = {};
	enum counter refusal;
	struct flow_key key;
	struct sock *sock;
	long error;

	if (!tcp)
		return;
	sock = sock_of(tcp);
	refusal = gate_of(tcp, end ? end->exclusion : 0);
	/* With two equal numbers both ends would have the same key. */
	if (refusal == NO_REASON && ctx->snd_nxt == ctx->rcv_nxt)
		refusal = COUNTER_REFUSED_SPECIAL;
	if (refusal != NO_REASON)
		goto refused;
	if (!end)
		end = end_create(sk, sock);
	if (!end)
		return;
	end_init(end, ctx->snd_nxt, ctx->rcv_nxt);
	program_key_settle(&end->program);
	flow.client = end->program;
	service_of(sock, &flow.service);
	refusal = client_refusal(&flow.client, &flow.service);
	if (refusal == COUNTER_REFUSED_UNKNOWN_PROGRAM) {
		decide(sock, refusal);
		end_watch(ctx, end, refusal);
		return;
	}
	if (refusal != NO_REASON)
		goto refused;
	flow.observe = service_verdict(&flow.service, sock);
	if (!flow.observe)
		goto forgotten;
	key = end->flow;
	flow_init(&flow, end, sock, end->own.ack);
	flow.txhash = sock->sk_txhash;
	error = bpf_map_update_elem(&sockredir_flow, &key, &flow, BPF_NOEXIST);
	if (error) {
		refusal = error == -EEXIST ? COUNTER_REFUSED_TWIN : COUNTER_REFUSED_FULL;
		goto refused;
	}
	if (!end_insert(ctx, end, sock)) {
		flow_release(end);
		goto forgotten;
	}
	end->mapped = 1;
	count(COUNTER_ENDS_INSERTED);
	callbacks_add(ctx, end, END_CALLBACKS);
	return;
refused:
	decide(sock, refusal);
forgotten:
	if (end)
		bpf_sk_storage_delete(&sockredir_end, sk);
}

/* Why an accepted socket is refused because of the program that listens, or NO_REASON. */
static __always_inline enum counter server_refusal(struct listener *listener, __u32 port)
{
	struct program *program;
	enum counter refusal;

	if (!listener)
		return trust_all && admit_any ? NO_REASON : COUNTER_REFUSED_UNKNOWN_SERVER;
	if (listener->exclusion)
		return listener->exclusion;
	program_key_settle(&listener->program);
	refusal = listener->shared ? COUNTER_REFUSED_UNKNOWN_PROGRAM : reader_refusal(&listener->program);
	if (refusal != NO_REASON || admit_any)
		return refusal;
	program = bpf_map_lookup_elem(&sockredir_prog, &listener->program);
	switch (accepts_of(listener, program, port)) {
	case NATURE_NONBLOCKING:
		return NO_REASON;
	case NATURE_BLOCKING:
		return COUNTER_REFUSED_BLOCKING_SERVER;
	default:
		return COUNTER_REFUSED_UNKNOWN_SERVER;
	}
}

/* Sends a flow to TCP as its accepting end is refused. An unknown server says nothing about its service. */
static __always_inline void refuse_flow(struct flow *flow, enum counter refusal)
{
	enum counter reason = COUNTER_TCP_ONLY_PROGRAM;

	if (refusal == COUNTER_REFUSED_BLOCKING_SERVER || refusal == COUNTER_REFUSED_UNKNOWN_SERVER)
		reason = COUNTER_TCP_ONLY_BLOCKING;
	else if (refusal == COUNTER_REFUSED_UNKNOWN_PROGRAM)
		reason = COUNTER_TCP_ONLY_UNKNOWN_PROGRAM;
	if (refusal != COUNTER_REFUSED_UNKNOWN_SERVER && refusal != COUNTER_REFUSED_UNKNOWN_PROGRAM)
		service_score(flow, -score_most);
	refuse(flow, reason);
}

/* Why an accepting end is refused, its program apart, or NO_REASON. */
static __always_inline enum counter passive_refusal(struct bpf_sock_ops *ctx, struct tcp_sock *tcp,
						    struct flow *flow)
{
	struct sock *sock = sock_of(tcp);

	if (!flow)
		return COUNTER_REFUSED_UNPAIRED;
	if (!is_sent_by_peer(ctx, flow))
		return COUNTER_REFUSED_FOREIGN;
	if (stopping || handed_over)
		return COUNTER_REFUSED_STOPPING;
	if (!scope_host && bpf_get_netns_cookie(ctx) != flow->service.netns)
		return COUNTER_REFUSED_NOT_LOCAL;
	if (is_port_excluded(sock))
		return COUNTER_REFUSED_PORT;
	return is_special(tcp) ? COUNTER_REFUSED_SPECIAL : NO_REASON;
}

static __always_inline bool is_unknown(enum counter refusal)
{
	return refusal == COUNTER_REFUSED_UNKNOWN_PROGRAM || refusal == COUNTER_REFUSED_UNKNOWN_SERVER;
}

/* Puts an end into the map and the record, which may be another flow's until it counts the end. */
static __always_inline void end_join(struct bpf_sock_ops *ctx, struct end *end, struct sock *sock,
				     struct flow *flow)
{
	struct bpf_sock *sk = ctx->sk;
	struct end_key own = end->own;

	if (!end_insert(ctx, end, sock))
		goto forgotten;
	if (!flow_join(flow, end)) {
		decide(sock, COUNTER_REFUSED_UNPAIRED);
		bpf_map_delete_elem(&sockredir_map, &own);
		goto forgotten;
	}
	flow->sock[end->side & 1] = (unsigned long)sock;
	flow->tracked = !is_direct(sock, (void *)flow->sock[!end->side]);
	end->mapped = 1;
	count(COUNTER_ENDS_INSERTED);
	callbacks_add(ctx, end, END_CALLBACKS);
	return;
forgotten:
	if (sk)
		bpf_sk_storage_delete(&sockredir_end, sk);
}

/* The accepting end follows the connecting one. If its program is unknown it is watched, even without a
 * record.
 */
static __noinline void establish_passive(struct bpf_sock_ops *ctx)
{
	struct end_key own = { .seq = ctx->snd_nxt, .ack = ctx->rcv_nxt };
	struct flow_key key = flow_key_of(own);
	struct bpf_sock *sk = ctx->sk;
	struct tcp_sock *tcp = sk ? bpf_skc_to_tcp_sock(sk) : NULL;
	struct listener *listener = NULL;
	enum counter refusal, server;
	struct flow *flow;
	struct sock *sock;
	struct end *end;

	if (!tcp)
		return;
	sock = sock_of(tcp);
	flow = bpf_map_lookup_elem(&sockredir_flow, &key);
	refusal = passive_refusal(ctx, tcp, flow);
	server = NO_REASON;
	if (refusal == NO_REASON || (!flow && is_route_covered(sock) && is_port_covered(sock))) {
		listener = listener_of(sock);
		server = server_refusal(listener, ctx->local_port);
	}
	if (refusal == NO_REASON && server != NO_REASON) {
		refusal = server;
		refuse_flow(flow, server);
	}
	if (refusal != NO_REASON)
		decide(sock, refusal);
	if (refusal != NO_REASON && !is_unknown(server))
		return;
	end = end_create(sk, sock);
	if (!end)
		return;
	end_init(end, own.seq, own.ack);
	end->accepted = 1;
	if (listener)
		end->program = listener->program;
	end->unpaired = !flow;
	if (refusal != NO_REASON)
		end_watch(ctx, end, server);
	else if (flow)
		end_join(ctx, end, sock, flow);
}

#endif
