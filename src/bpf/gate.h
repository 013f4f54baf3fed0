/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Law 1, the gate: which connections may enter the map, judged by the connecting socket. */
#ifndef GATE_H
#define GATE_H

#include "listen.h"

/* True if the routing table keeps the connection on this host: 127/8, ::1 and the host's own addresses. */
static __always_inline bool is_routed_over_loopback(struct sock *sock)
{
	struct dst_entry *route = sock->sk_dst_cache;

	return route && route->dev->flags & IFF_LOOPBACK;
}

/* With --scope host any route may end on this host: over a bridge, or by a translated address. */
static __always_inline bool is_route_covered(struct sock *sock)
{
	return scope_host || is_routed_over_loopback(sock);
}

static __always_inline bool port_in(const volatile __u64 *ports, __u32 port)
{
	/* The compiler would drop the mask, as a port is bounded; the verifier of Linux 6.12 needs it. */
	barrier_var(port);
	return ports[(port >> 6) & 1023] >> (port & 63) & 1;
}

/* True if a port is excluded, as this end sees them: with translation its peer sees others. */
static __always_inline bool is_port_excluded(struct sock *sock)
{
	return port_in(ports_excluded, sock->__sk_common.skc_num) ||
	       port_in(ports_excluded, bpf_ntohs(sock->__sk_common.skc_dport));
}

static __always_inline bool is_port_covered(struct sock *sock)
{
	return (port_in(ports_included, sock->__sk_common.skc_num) ||
		port_in(ports_included, bpf_ntohs(sock->__sk_common.skc_dport))) &&
	       !is_port_excluded(sock);
}

/* Why a connecting socket is kept out of the map, or NO_REASON. `exclusion` is that of its program, or 0. */
static __always_inline enum counter gate_of(struct tcp_sock *tcp, enum counter exclusion)
{
	struct file *file = file_of(sock_of(tcp));

	if (!is_route_covered(sock_of(tcp)))
		return COUNTER_REFUSED_NOT_LOCAL;
	if (stopping || handed_over)
		return COUNTER_REFUSED_STOPPING;
	if (!is_port_covered(sock_of(tcp)))
		return COUNTER_REFUSED_PORT;
	if (exclusion)
		return exclusion;
	if (!file || is_special(tcp))
		return COUNTER_REFUSED_SPECIAL;
	return admit_any || is_nonblocking(file) ? NO_REASON : COUNTER_REFUSED_BLOCKING;
}

/* The connecting process is the running one at connect(), not at establishment. A socket that was
 * disconnected and connects again begins with an empty queue.
 */
static __noinline void connect_begins(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct end *end = sk ? bpf_sk_storage_get(&sockredir_end, sk, NULL, 0) : NULL;
	struct tcp_sock *tcp = sk ? bpf_skc_to_tcp_sock(sk) : NULL;
	struct task_struct *task;
	struct file *file;

	if (end) {
		struct end_key earlier = end->own;

		/* Data left unread by the first connection has kept it in the map. */
		if (tcp && psock_of(sock_of(tcp)))
			bpf_map_delete_elem(&sockredir_map, &earlier);
		bpf_sk_storage_delete(&sockredir_end, sk);
	}
	/* Where the gate refuses the connection its process does not matter. */
	if (!tcp || !is_route_covered(sock_of(tcp)) || !is_port_covered(sock_of(tcp)))
		return;
	file = file_of(sock_of(tcp));
	if (!file || (!admit_any && !is_nonblocking(file)))
		return;
	end = bpf_sk_storage_get(&sockredir_end, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!end)
		return;
	task = bpf_get_current_task_btf();
	end->exclusion = exclusion_of(task);
	if (!end->exclusion)
		program_enter(task, &end->program);
}

#endif
