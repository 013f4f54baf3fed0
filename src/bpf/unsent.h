/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The write queue of a bulk sender. A direction comes back from TCP when all its earlier bytes have arrived
 * (law 5), which never happens if its sender refills the queue whenever there is room. With a
 * TCP_NOTSENT_LOWAT of one byte it has room when nothing is unsent, and on loopback what is sent has arrived.
 * At the first probe of a shut window the sender gets its whole queue back, as a program may count on sending
 * that much unread.
 */
#ifndef UNSENT_H
#define UNSENT_H

#include "flow.h"
#include "socket.h"

/* From linux/tcp.h: BTF carries no macros. */
#define TCP_NOTSENT_LOWAT 25

/* `context` is that of a callback, or a locked socket. What the program has set itself stays. */
static __always_inline void unsent_set(void *context, struct end *end, struct tcp_sock *tcp, int most)
{
	if (end->unsent == most)
		return;
	if (tcp->notsent_lowat == end->unsent)
		bpf_setsockopt(context, SOL_TCP, TCP_NOTSENT_LOWAT, &most, sizeof(most));
	end->unsent = most;
}

/* True for a probe of the window: data is unsent, nothing is under way, and this packet has none. */
static __always_inline bool is_probe(struct bpf_sock_ops *ctx, struct tcp_sock *tcp)
{
	return ctx->op == BPF_SOCK_OPS_HDR_OPT_LEN_CB && !(ctx->args[0] & BPF_WRITE_HDR_TCP_CURRENT_MSS) &&
	       !ctx->skb_len && !tcp->packets_out && tcp->write_seq != tcp->snd_nxt;
}

/* Called at each look at the end, under its own lock. */
static __always_inline void unsent_update(struct bpf_sock_ops *ctx, struct end *end, struct tcp_sock *tcp,
					  enum flow_state state)
{
	int most = end->unsent;
	struct file *file;

	if (state != FLOW_ADMITTED || !end->bulk || is_probe(ctx, tcp)) {
		most = 0;
	} else if (ctx->skb_len) {
		file = file_of(sock_of(tcp));
		/* --admit any: room for a writer would wake a thread that blocks in recv to EAGAIN. */
		if (file && is_nonblocking(file))
			most = 1;
	}
	unsent_set(ctx, end, tcp, most);
}

#endif
