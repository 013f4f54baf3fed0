/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Putting the two ends of a new connection into the map. */
#ifndef ESTABLISH_H
#define ESTABLISH_H

#include "gate.h"

/* The header-length callback is where an end is looked at under its own lock (law 2): it runs in the program's own
 * sendmsg, in the acknowledgement that recvmsg sends, and for the FIN. The state callback ends the record's life.
 */
#define END_CALLBACKS (BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG | BPF_SOCK_OPS_STATE_CB_FLAG)

/* The flags of a socket are shared by all sockops programs of its cgroups: touch only those that are ours. */
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

/* Law 4: the two numbers that the ends of one connection hold mirrored, and nobody else does. */
static __always_inline void end_init(struct end *end, __u32 seq, __u32 ack)
{
	end->own.seq = seq;
	end->own.ack = ack;
	end->mate.seq = end->own.ack;
	end->mate.ack = end->own.seq;
	end->side = side_of(end->own);
	end->flow = flow_key_of(end->own);
	end->since = end->refreshed = bpf_ktime_get_ns();
}

/* How many messages to observe, or 0: do not insert, for the reason that is counted. Insertion costs a short connection
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
	if (service->shunned) {
		decide(sock, service->shunned);
		return 0;
	}
	if (service->score <= 0 && ++service->skipped % score_sample) {
		decide(sock, COUNTER_REFUSED_SERVICE);
		return 0;
	}
	return service->score >= score_quick ? observe_messages_quick : observe_messages;
}

/* Law 4, the other half: sequence numbers alone can be made to fit. Whoever relays a handshake in user space copies them,
 * and two connections with the same addresses in two namespaces have the same ones if both began in the same 64 ns. The
 * kernel marks every packet with a random number of its socket, which stays with it on its way through this host and is
 * not on the wire: the packet that establishes the accepted end must bear that of the connecting one.
 */
static __always_inline bool is_sent_by_mate(struct bpf_sock_ops *ctx, struct flow *flow)
{
	struct bpf_sock_ops_kern *kernel = bpf_cast_to_kern_ctx(ctx);
	struct sk_buff *packet = kernel->skb;

	return packet && BPF_CORE_READ_BITFIELD_PROBED(packet, l4_hash) && packet->hash == flow->txhash;
}

static __always_inline bool is_same_address(const __u32 *one, const __u32 *other)
{
	return one[0] == other[0] && one[1] == other[1] && one[2] == other[2] && one[3] == other[3];
}

/* Whether nothing between the ends translates the connection or sees it: it stays in its network namespace, and what one end
 * has connected to is what the other end is.
 */
static __noinline bool is_direct(struct sock *sock, struct sock *mate)
{
	struct endpoints own, other;

	if (!sock || !mate)
		return false;
	endpoints_of(sock, &own);
	endpoints_of(kernel_object(mate, struct sock), &other);
	return own.netns == other.netns && own.local_port == other.remote_port &&
	       own.remote_port == other.local_port && is_same_address(own.local, other.remote) &&
	       is_same_address(own.remote, other.local);
}

/* Into the map under the own key. BPF_NOEXIST: whoever holds the key or the socket already keeps it. */
static __always_inline bool end_insert(struct bpf_sock_ops *ctx, struct end *end, struct sock *sock)
{
	struct end_key key = end->own;

	if (bpf_sock_hash_update(ctx, &sockredir_map, &key, BPF_NOEXIST)) {
		decide(sock, COUNTER_REFUSED_TAKEN);
		return false;
	}
	return true;
}

/* The storage of a fresh end, or none. */
static __always_inline struct end *end_create(struct bpf_sock *sk, struct sock *sock)
{
	struct end *end = bpf_sk_storage_get(&sockredir_end, sk, NULL, 0);

	if (end) {
		decide(sock, COUNTER_REFUSED_TAKEN);
		return NULL;
	}
	end = bpf_sk_storage_get(&sockredir_end, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!end)
		decide(sock, COUNTER_REFUSED_FULL);
	return end;
}

/* Law 1, the gate. The connecting end decides alone, before anything is spent on the connection; its callback runs
 * before that of the accepting end.
 */
static __always_inline void establish_active(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct tcp_sock *tcp = sk ? bpf_skc_to_tcp_sock(sk) : NULL;
	struct flow flow = {};
	enum counter refusal;
	struct flow_key key;
	struct sock *sock;
	struct end *end;
	long error;

	if (!tcp)
		return;
	sock = sock_of(tcp);
	refusal = gate_of(tcp, connect_exclusion(sk));
	/* Two equal numbers would make the two ends one. */
	if (refusal == COUNTERS && ctx->snd_nxt == ctx->rcv_nxt)
		refusal = COUNTER_REFUSED_SPECIAL;
	if (refusal != COUNTERS) {
		decide(sock, refusal);
		return;
	}
	service_of(sock, &flow.service);
	flow.observe = service_verdict(&flow.service, sock);
	if (!flow.observe)
		return;
	end = end_create(sk, sock);
	if (!end)
		return;
	end_init(end, ctx->snd_nxt, ctx->rcv_nxt);
	key = end->flow;
	flow_init(&flow, end, sock, end->own.ack);
	flow.txhash = sock->sk_txhash;
	error = bpf_map_update_elem(&sockredir_flow, &key, &flow, BPF_NOEXIST);
	if (error) {
		decide(sock, error == -EEXIST ? COUNTER_REFUSED_TWIN : COUNTER_REFUSED_FULL);
		bpf_sk_storage_delete(&sockredir_end, sk);
		return;
	}
	if (!end_insert(ctx, end, sock)) {
		flow_release(end);
		bpf_sk_storage_delete(&sockredir_end, sk);
		return;
	}
	end->mapped = 1;
	count(COUNTER_ENDS_INSERTED);
	callbacks_add(ctx, end, END_CALLBACKS);
}

/* Whether the accepting program is not excluded, and known to use non-blocking sockets. If nothing is known of it, this
 * connection is watched until it shows.
 */
static __always_inline bool may_accept(struct bpf_sock_ops *ctx, struct sock *sock, struct end *fresh,
				       struct flow *flow)
{
	struct listener *listener = listener_of(sock);
	struct bpf_sock *sk = ctx->sk;
	struct end *end;

	if (listener && listener->exclusion) {
		decide(sock, listener->exclusion);
		service_score(flow, -score_most);
		refuse(flow, COUNTER_TCP_ONLY_PROGRAM);
		return false;
	}
	if (admit_any)
		return true;
	switch (accepts_of(listener, ctx->local_port)) {
	case ACCEPTS_NONBLOCKING:
		return true;
	case ACCEPTS_BLOCKING:
		decide(sock, COUNTER_REFUSED_BLOCKING_SERVER);
		service_score(flow, -score_most);
		break;
	default:
		decide(sock, COUNTER_REFUSED_UNKNOWN_SERVER);
		end = sk ? end_create(sk, sock) : NULL;
		if (!end)
			break;
		fresh->left = COUNTER_REFUSED_UNKNOWN_SERVER;
		*end = *fresh;
		callbacks_add(ctx, end, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
	}
	refuse(flow, COUNTER_TCP_ONLY_BLOCKING);
	return false;
}

/* The accepting end follows the connecting one. It joins the record last, so that an end that the record counts is in the
 * map.
 */
static __always_inline void establish_passive(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct tcp_sock *tcp = sk ? bpf_skc_to_tcp_sock(sk) : NULL;
	struct end fresh = {};
	struct end_key own;
	struct flow *flow;
	struct sock *sock;
	struct end *end;

	if (!tcp)
		return;
	sock = sock_of(tcp);
	end_init(&fresh, ctx->snd_nxt, ctx->rcv_nxt);
	fresh.accepted = 1;
	flow = flow_of(&fresh);
	if (!flow) {
		decide(sock, COUNTER_REFUSED_UNPAIRED);
		return;
	}
	if (!is_sent_by_mate(ctx, flow)) {
		decide(sock, COUNTER_REFUSED_FOREIGN);
		return;
	}
	if (stopping || handed_over) {
		decide(sock, COUNTER_REFUSED_STOPPING);
		return;
	}
	if (!scope_host && bpf_get_netns_cookie(ctx) != flow->service.netns) {
		decide(sock, COUNTER_REFUSED_NOT_LOCAL);
		return;
	}
	if (is_port_excluded(sock)) {
		decide(sock, COUNTER_REFUSED_PORT);
		return;
	}
	if (is_special(tcp)) {
		decide(sock, COUNTER_REFUSED_SPECIAL);
		return;
	}
	if (!may_accept(ctx, sock, &fresh, flow))
		return;
	end = end_create(sk, sock);
	if (!end)
		return;
	*end = fresh;
	if (!end_insert(ctx, end, sock)) {
		bpf_sk_storage_delete(&sockredir_end, sk);
		return;
	}
	flow->sock[end->side & 1] = (unsigned long)tcp;
	flow->tracked = !is_direct(sock, (void *)flow->sock[!end->side]);
	if (!flow_join(flow, end)) {
		decide(sock, COUNTER_REFUSED_UNPAIRED);
		own = end->own;
		bpf_map_delete_elem(&sockredir_map, &own);
		bpf_sk_storage_delete(&sockredir_end, sk);
		return;
	}
	end->mapped = 1;
	count(COUNTER_ENDS_INSERTED);
	callbacks_add(ctx, end, END_CALLBACKS);
}

#endif
